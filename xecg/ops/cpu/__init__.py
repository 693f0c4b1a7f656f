"""Thin calls into xecg._cpu. No checks here: the public ops made them."""

from __future__ import annotations

from types import ModuleType

import torch

from xecg.ops import _native

__all__ = ["DTYPES", "native", "why_not"]

DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # csrc/common/types.h


def native() -> ModuleType:
    """The built module; `why_not` has been asked before."""
    module, _ = _native.load("_cpu")
    assert module is not None
    return module


def why_not(device: torch.device, dtype: torch.dtype, dtypes: tuple[torch.dtype, ...] = tuple(DTYPES)) -> str:
    """What every CPU kernel needs: the built module, CPU tensors, a type it knows."""
    module, reason = _native.load("_cpu")
    if module is None:
        return reason
    if device.type != "cpu":
        return f"CPU kernels take CPU tensors, not {device}"
    if dtype not in dtypes:
        return f"CPU kernels take {' and '.join(str(t)[6:] for t in dtypes)}, not {str(dtype)[6:]}"
    return ""
