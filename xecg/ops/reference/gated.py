"""The gated product in plain PyTorch, and its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["backward", "forward"]


def forward(a: Tensor, b: Tensor, *, gelu: bool) -> Tensor:
    """a, b (rows, N) → (rows, N) in a's type; arithmetic in float32 at least."""
    x = _wide(a)
    return (x * _weight(x, gelu) * _wide(b)).to(a.dtype)


def backward(dy: Tensor, a: Tensor, b: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    x, g = _wide(a), _wide(dy)
    w = _weight(x, gelu)
    slope = w + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) if gelu else w * (1 + x * (1 - w))
    return (g * _wide(b) * slope).to(a.dtype), (g * x * w).to(a.dtype)


def _weight(x: Tensor, gelu: bool) -> Tensor:
    """act(x) / x: Φ(x) for GELU, σ(x) for SiLU."""
    return 0.5 * torch.erfc(-x / math.sqrt(2)) if gelu else torch.sigmoid(x)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
