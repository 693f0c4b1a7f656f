"""Thin calls into xecg._cuda. No checks here: the public ops made them. Not yet run on a GPU."""

from __future__ import annotations

from types import ModuleType

import torch

from xecg.ops import _native

__all__ = ["DTYPES", "native", "stream_of", "why_not"]

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # csrc/common/types.h


def native() -> ModuleType:
    """The built module; `why_not` has been asked before."""
    module, _ = _native.load("_cuda")
    assert module is not None
    return module


def stream_of(device: torch.device) -> int:
    """Handle of the stream that torch is using on this device."""
    return torch.cuda.current_stream(device).cuda_stream


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """What every CUDA kernel needs: CUDA tensors, the built module, a type it knows."""
    if device.type != "cuda":
        return f"CUDA kernels take CUDA tensors, not {device}"
    module, reason = _native.load("_cuda")
    if module is None:
        return reason
    if dtype not in DTYPES:
        return f"CUDA kernels take {', '.join(str(t)[6:] for t in DTYPES)}, not {str(dtype)[6:]}"
    return ""
