"""norm in Triton: _rows.py, imported by the first call. Not yet run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xecg.ops.triton import why_not

__all__ = ["backward", "forward", "refusal"]

_WIDEST = 8192  # a head's features stand in the registers of one program


def refusal(device: torch.device, dtype: torch.dtype, *, d: int = 1) -> str:
    """Why these kernels cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and d > _WIDEST:
        reason = f"the kernel holds heads of at most {_WIDEST} features, not {d}"
    return reason


def forward(*args: Any, **options: Any) -> Tensor:
    """As xecg.ops.reference.norm.forward. Not yet run on a GPU."""
    from xecg.ops.triton import _rows

    return _rows.norm_forward(*args, **options)


def backward(*args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.norm.backward. Not yet run on a GPU."""
    from xecg.ops.triton import _rows

    return _rows.norm_backward(*args, **options)
