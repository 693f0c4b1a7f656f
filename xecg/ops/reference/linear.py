"""The linear map in plain PyTorch. Batch-invariant to rounding only."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["backward", "forward"]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, G, K), weight (G, N, K), bias (G, N) → (rows, G, N)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = torch.bmm(x.transpose(0, 1).to(wide), weight.mT.to(wide)).transpose(0, 1)
    return (y if bias is None else y + bias).to(x.dtype).contiguous()


def backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (rows, G, K), weight (G, N, K) and bias (G, N), the last two in weight's type."""
    wide = torch.promote_types(x.dtype, torch.float32)
    by_group, w = dy.transpose(0, 1).to(wide), weight.to(wide)  # (G, rows, N)
    dx = torch.bmm(by_group, w).transpose(0, 1).to(x.dtype).contiguous()
    return dx, torch.bmm(by_group.mT, x.transpose(0, 1).to(wide)).to(weight.dtype), dy.to(wide).sum(0).to(weight.dtype)
