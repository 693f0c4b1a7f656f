"""The linear map in plain PyTorch. Batch-invariant to rounding only."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["forward"]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, G, K), weight (G, N, K), bias (G, N) → (rows, G, N)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = torch.bmm(x.transpose(0, 1).to(wide), weight.mT.to(wide)).transpose(0, 1)
    return (y if bias is None else y + bias).to(x.dtype).contiguous()
