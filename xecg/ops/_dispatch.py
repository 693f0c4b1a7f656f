"""Which backend serves a call: the fastest that can, or the one that was asked for, never another one in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from xecg.errors import BackendError
from xecg.ops import _native

__all__ = ["backends", "pick", "quick_step", "unproven", "use_backend"]

_NAMES = ("reference", "cpu", "triton", "cuda")
_FASTEST_FIRST = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
# Kernels that no GPU has run yet serve when forced, or with XECG_UNPROVEN=1 ("1,-triton/norm": all but that one); take a name out once
# `make gpu-check` has passed.
_UNPROVEN = ("cuda", "triton")
# Public op → the file that holds it, on every floor.
OPS = {
    "mlstm": "mlstm",
    "slstm": "slstm",
    "causal_conv1d": "conv1d",
    "linear": "linear",
    "gated": "gated",
    "norm": "norm",
}

# Process-wide, because autograd runs backward in threads of its own.
_forced: str | None = os.environ.get("XECG_BACKEND") or None
_modules: dict[tuple[str, str], ModuleType | None] = {}


def _check_name(name: str, where: str) -> None:
    if name not in _NAMES:
        raise BackendError(f"{where} is {name!r}; needed one of {', '.join(_NAMES)}")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Force every op inside the block, in the whole process, onto one backend.

    name: "reference", "cpu", "triton" or "cuda". Raises BackendError for another name; a call that the backend cannot serve
    raises BackendError with the reason. The environment variable XECG_BACKEND does the same for a whole process.
    """
    global _forced
    _check_name(name, "backend")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def _module(backend: str, op: str) -> ModuleType | None:
    key = (backend, op)
    if key not in _modules:
        path = f"xecg.ops.{backend}.{OPS[op]}"
        _modules[key] = import_module(path) if find_spec(path) else None
    return _modules[key]


def _refusal(backend: str, op: str, device: torch.device, dtype: torch.dtype, sizes: dict[str, int]) -> str:
    module = _module(backend, op)
    if module is None:
        return f"{op} has no {backend} kernel"
    return "" if backend == "reference" else module.refusal(device, dtype, **sizes)


@cache
def _kept_out(value: str) -> frozenset[str]:
    first, *names = value.split(",")
    return frozenset(name.removeprefix("-") for name in names) if first == "1" else frozenset(_UNPROVEN)


def pick(op: str, device: torch.device, dtype: torch.dtype, **sizes: int) -> ModuleType:
    """The backend module that serves this call. Raises BackendError when a forced backend cannot."""
    if _forced is not None:
        _check_name(_forced, "XECG_BACKEND")
        reason = _refusal(_forced, op, device, dtype, sizes)
        if reason:
            raise BackendError(f"backend {_forced!r} cannot serve {op} on {device}, {dtype}: {reason}")
        return _module(_forced, op)  # type: ignore[return-value]
    kept_out = unproven()
    for backend in _FASTEST_FIRST.get(device.type, ("reference",)):
        if backend in kept_out or f"{backend}/{op}" in kept_out:
            continue
        if not _refusal(backend, op, device, dtype, sizes):
            return _module(backend, op)  # type: ignore[return-value]
    raise BackendError(f"no backend serves {op} on {device}, {dtype}: {backends(op, device, dtype)}")


def unproven() -> frozenset[str]:
    """Backends, and "backend/op", that are not picked because no GPU has run their kernels yet, or because XECG_UNPROVEN says so."""
    return _kept_out(os.environ.get("XECG_UNPROVEN", ""))


def backends(
    op: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, **sizes: int
) -> dict[str, str]:
    """Backends of an op on a device, fastest first, each with "" when it can serve it, else the reason why not.

    op: "mlstm", "slstm", "causal_conv1d", "linear", "gated" or "norm". sizes: what a kernel may be limited by, such as taps=4.
    Those of a GPU, which no GPU has run yet, are not picked unless forced or XECG_UNPROVEN is 1. Raises BackendError for an unknown op.
    """
    if op not in OPS:
        raise BackendError(f"op is {op!r}; needed one of {', '.join(OPS)}")
    device = torch.device(device)
    order = _FASTEST_FIRST.get(device.type, ("reference",))
    return {name: _refusal(name, op, device, dtype, sizes) for name in (*order, *(n for n in _NAMES if n not in order))}


_QUICK_OPS = ("mlstm", "slstm", "causal_conv1d")
_quick: dict[str, Callable[..., bool]] | None = None


def _find_quick() -> dict[str, Callable[..., bool]]:
    module, _ = _native.load("_cpu")
    wrote = getattr(torch._C, "_increment_version", None)
    if module is None or wrote is None or not module.learn_tensors(torch.Tensor, torch.nn.Parameter, wrote):
        return {}
    return {op: getattr(module, f"{OPS[op]}_step_of_tensors") for op in _QUICK_OPS}


def quick_step(op: str, *arguments: Any) -> bool:
    """Whether the compiled step of `op` that checks and runs in one call served this one (csrc/bindings/cpu_steps.cpp).

    False, with nothing touched, where it does not: the call is wrong, of another kind than float32 on the CPU, meant for another
    backend, or torch has to see it.
    """
    global _quick
    if torch.compiler.is_compiling() or _forced not in (None, "cpu") or torch._C._len_torch_dispatch_stack():
        return False
    if _quick is None:
        _quick = _find_quick()
    step = _quick.get(op)
    return step is not None and step(*arguments)
