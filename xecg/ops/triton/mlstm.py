"""mlstm in Triton: _mlstm_forward.py, _mlstm_step.py, _mlstm_backward.py, imported by the first call.

The bits of a row depend on nothing but the row, the sizes T, DK, DV and the type: not on its companions. Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xecg.ops.triton import why_not

__all__ = ["backward", "forward", "refusal", "step_"]

_WIDEST = 512  # of the table in _mlstm_configs.py


def refusal(device: torch.device, dtype: torch.dtype, *, dk: int = 1, dv: int = 1) -> str:
    """Why these kernels cannot serve such a call, or ""."""
    reason = why_not(device, dtype)
    if not reason and not 1 <= min(dk, dv) <= max(dk, dv) <= _WIDEST:
        reason = f"the kernels hold heads of 1 to {_WIDEST} features, not {dk} and {dv}"
    return reason


def forward(*args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As xecg.ops.reference.mlstm.forward. Not yet run on a GPU."""
    from xecg.ops.triton import _mlstm_forward

    return _mlstm_forward.forward(*args, **options)


def backward(*args: Any, **options: Any) -> tuple[Tensor | None, ...]:
    """As xecg.ops.reference.mlstm.backward. Not yet run on a GPU."""
    from xecg.ops.triton import _mlstm_backward

    return _mlstm_backward.backward(*args, **options)


def step_(*args: Any, **options: Any) -> None:
    """As xecg.ops.reference.mlstm.step_. Not yet run on a GPU."""
    from xecg.ops.triton import _mlstm_step

    _mlstm_step.step_(*args, **options)
