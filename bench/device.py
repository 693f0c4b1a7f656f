"""The GPU of a run: whether there is one, its clock, and its ceilings. Not yet run on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bench.harness import Ceilings, minima

__all__ = ["ceilings", "event_time", "why_none"]

_COPY_BYTES = 1 << 30
_PRODUCT = 8192


def why_none() -> str:
    """Why nothing can be measured on a GPU here, or ""."""
    if torch.cuda.is_available():
        return ""
    built = "finds no NVIDIA GPU" if torch.version.cuda else "is built without CUDA"
    return f"no GPU: torch {torch.__version__} {built}"


def event_time(f: Callable[[], object]) -> tuple[float, float]:
    """(wall, device) seconds of one call: the device's between two events of the current stream, without the launch before it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    wall = time.perf_counter()
    start.record()
    f()
    end.record()
    end.synchronize()
    return time.perf_counter() - wall, start.elapsed_time(end) / 1e3


def ceilings() -> Ceilings:
    """bfloat16 matrix product of 8192³ on random data, and a copy of 1 GiB counted as bytes read and written."""
    a, b = (torch.randn(_PRODUCT, _PRODUCT, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(_COPY_BYTES // 4, device="cuda").normal_()
    target = torch.empty_like(source)
    product = torch.empty_like(a)
    work: dict[str, Callable[[], object]] = {
        "gemm": lambda: torch.mm(a, b, out=product),
        "copy": lambda: target.copy_(source),
    }
    for f in work.values():
        f()
    best = minima(work, 1.0, event_time)
    return Ceilings(2 * _PRODUCT**3 / best["gemm"][1], 2 * _COPY_BYTES / best["copy"][1], "bfloat16")
