"""gated in Triton: _rows.py, imported by the first call. Not yet run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xecg.ops.triton import why_not

__all__ = ["backward", "forward", "refusal"]


def refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Why these kernels cannot serve such a call, or ""."""
    return why_not(device, dtype)


def forward(*args: Any, **options: Any) -> Tensor:
    """As xecg.ops.reference.gated.forward. Not yet run on a GPU."""
    from xecg.ops.triton import _rows

    return _rows.gated_forward(*args, **options)


def backward(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """As xecg.ops.reference.gated.backward. Not yet run on a GPU."""
    from xecg.ops.triton import _rows

    return _rows.gated_backward(*args, **options)
