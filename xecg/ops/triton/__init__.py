"""Triton backends, one file per op. No checks here: the public ops made them. Not yet run on a GPU."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

__all__ = ["interpreted", "why_not"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors: TRITON_INTERPRET=1, set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """What every Triton kernel needs: CUDA tensors or the interpreter, the package, a type it knows."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"Triton kernels take CUDA tensors, not {device}; TRITON_INTERPRET=1 runs them on CPU tensors, slowly"
    if device.type == "cuda" and interpreted():
        return "TRITON_INTERPRET is set: Triton kernels take CPU tensors only"
    if not _installed():
        return "the package triton is not installed; run `pip install triton`, or keep another backend"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU; it must be a build with CUDA, on a machine with a GPU and its driver"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "Triton kernels need an NVIDIA GPU of compute capability 8.0 or newer"
    if dtype not in _DTYPES:
        return f"Triton kernels take {', '.join(str(t)[6:] for t in _DTYPES)}, not {str(dtype)[6:]}"
    return ""
