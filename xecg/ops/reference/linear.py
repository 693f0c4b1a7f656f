"""The linear map in plain PyTorch. Batch-invariant to rounding only."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

__all__ = ["forward"]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, K) → (rows, N)."""
    return linear(x, weight, bias)
