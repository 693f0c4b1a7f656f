"""gated on the CPU: csrc/cpu/gated.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops._native import address
from xecg.ops.cpu import DTYPES, native, why_not

__all__ = ["backward", "forward", "refusal"]


def refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Why this kernel cannot serve such a call, or ""."""
    return why_not(device, dtype)


def forward(a: Tensor, b: Tensor, *, gelu: bool) -> Tensor:
    """As xecg.ops.reference.gated.forward."""
    rows, n = a.shape
    y = torch.empty((rows, n), dtype=a.dtype)
    native().gated_forward(rows, n, gelu, DTYPES[a.dtype], address(a), a.stride(0), address(b), b.stride(0), address(y))
    return y


def backward(dy: Tensor, a: Tensor, b: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """As xecg.ops.reference.gated.backward."""
    rows, n = a.shape
    dy = dy if dy.stride(-1) == 1 or n == 1 else dy.contiguous()
    da, db = torch.empty((rows, n), dtype=a.dtype), torch.empty((rows, n), dtype=a.dtype)
    native().gated_backward(
        rows, n, gelu, DTYPES[a.dtype], address(a), a.stride(0), address(b), b.stride(0), address(dy), dy.stride(0),
        address(da), address(db),
    )  # fmt: skip
    return da, db
