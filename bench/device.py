"""The GPU of a run: whether there is one, its clock, and its ceilings. Not yet run on a GPU."""

from __future__ import annotations

import gc
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata

import torch

from bench.harness import Ceilings, minima

__all__ = ["broken", "ceilings", "event_time", "facts", "free", "why_none"]

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


@cache
def facts() -> dict[str, object]:
    """What a result is to be read with: the device, its driver, and the versions of what compiled and launched the kernels."""
    versions = {
        name: _version(name) for name in ("torch", "triton", "numpy", "flashrnn", "mlstm_kernels", "xlstm", "fla-core")
    }
    there = torch.cuda.get_device_properties(torch.cuda.current_device()) if torch.cuda.is_available() else None
    return {
        "name": there.name if there else "",
        "capability": f"{there.major}.{there.minor}" if there else "",
        "processors": there.multi_processor_count if there else 0,
        "memory_bytes": there.total_memory if there else 0,
        "driver": _said(
            "nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit", "--format=csv,noheader"
        ),
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() if there else None,
        "nvcc": _said("nvcc", "--version").rpartition("release ")[2].partition(",")[0],
        "python": platform.python_version(),
        "packages": {name: version for name, version in versions.items() if version},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    """What a program prints, "" where it is missing or fails."""
    if not shutil.which(command[0]):
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def free() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def broken() -> str:
    """Why the GPU answers no more (an illegal access ends its context for the whole process), or ""."""
    if not torch.cuda.is_available():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""
