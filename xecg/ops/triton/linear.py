"""linear in Triton, block-diagonal maps of 4 × 4 blocks: _blocks4.py, imported by the first call. Not yet run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xecg.ops.triton import why_not

__all__ = ["backward", "forward", "refusal"]

_SIDE = 4


def refusal(device: torch.device, dtype: torch.dtype, *, k: int = _SIDE, n: int = _SIDE) -> str:
    """Why these kernels cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and (k, n) != (_SIDE, _SIDE):
        reason = f"the kernel is one of {_SIDE} × {_SIDE} blocks, not {n} × {k}; dense maps are matrix products"
    return reason


def forward(*args: Any, **options: Any) -> Tensor:
    """As xecg.ops.reference.linear.forward. Not yet run on a GPU."""
    from xecg.ops.triton import _blocks4

    return _blocks4.linear_forward(*args, **options)


def backward(*args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.linear.backward. Not yet run on a GPU."""
    from xecg.ops.triton import _blocks4

    return _blocks4.linear_backward(*args, **options)
