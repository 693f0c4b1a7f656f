"""What every op's parity test does, once: run a backend and the float64 reference on the same call, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

from tests.tolerances import HALF_RMS_FACTOR, error, rms_error
from xecg import ops

Call = Callable[..., tuple[Tensor, ...]]
ROOT = Path(__file__).resolve().parents[2]


def fast_backends(op: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[str]:
    """Backends other than the reference that serve this op here."""
    return [name for name, reason in ops.backends(op, device, dtype).items() if not reason and name != "reference"]


def run(
    call: Call, inputs: dict[str, Tensor], backend: str, weights: list[Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and gradients of Σ output ∘ weight for every floating input."""
    leaves = {name: t.detach().clone().requires_grad_(t.is_floating_point()) for name, t in inputs.items()}
    with ops.use_backend(backend):
        outputs = call(**leaves)
        loss = sum((o.double() * w.double()).sum() for o, w in zip(outputs, weights))
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
    return list(outputs), {n: t.grad for n, t in leaves.items() if t.grad is not None}


def random_like(call: Call, inputs: dict[str, Tensor]) -> list[Tensor]:
    """One random weight for each output of the call."""
    with torch.no_grad(), ops.use_backend("reference"):
        return [torch.randn(o.shape, dtype=torch.float64) for o in call(**inputs)]


def assert_parity(call: Call, inputs: dict[str, Tensor], backend: str, *, forward: float, gradient: float) -> None:
    """float32 results and gradients of `backend` against the reference in float64."""
    weights = random_like(call, inputs)
    wide = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
    expected, expected_grads = run(call, wide, "reference", weights)
    found, grads = run(call, inputs, backend, weights)
    for k, (f, e) in enumerate(zip(found, expected)):
        assert error(f, e) <= forward, f"output {k}: {error(f, e):.2e} > {forward:.0e}"
    assert grads.keys() == expected_grads.keys()
    for name in grads:
        e = error(grads[name], expected_grads[name])
        assert e <= gradient, f"gradient of {name}: {e:.2e} > {gradient:.0e}"


def assert_half_parity(call: Call, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype) -> None:
    """Half-precision outputs are nearly as good as exact arithmetic on the rounded inputs, rounded once at the end."""
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}
    wide = {n: t.double() if t.is_floating_point() else t for n, t in half.items()}
    with torch.no_grad():
        with ops.use_backend("reference"):
            exact = call(**wide)[0]
        with ops.use_backend(backend):
            found = call(**half)[0]
    assert found.dtype == dtype
    floor = rms_error(exact.to(dtype), exact)
    assert rms_error(found, exact) <= HALF_RMS_FACTOR * floor + 1e-12


def why_no_interpreter() -> str:
    """Why Triton's interpreter cannot run a loop with these packages, or "": 3.6 wants int() of an array, which NumPy 2.4 refuses."""
    import triton

    try:
        int(numpy.zeros(1))
    except TypeError:
        text = (Path(triton.__file__).parent / "runtime" / "interpreter.py").read_text(encoding="utf-8")
        if "int(self.handle.data))" in text:
            return f"the interpreter of triton {triton.__version__} needs numpy < 2.4, not {numpy.__version__}"
    return ""


def rerun_under_isa(test_file: str, isa: str) -> None:
    """Run one parity module in a process of its own with the instruction set capped."""
    from xecg.ops import _native

    module, reason = _native.load("_cpu")
    if module is None:
        pytest.skip(reason)
    if isa not in module.isa_levels():
        pytest.skip(f"this machine has no {isa}")
    if isa == module.isa_levels()[-1]:
        pytest.skip(f"{isa} is this machine's best: every other test ran on it")
    if os.environ.get("XECG_CPU_ISA"):
        pytest.skip("already running under a cap")
    environment = {**os.environ, "XECG_CPU_ISA": isa}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-k",
        "parity and not isa",
        "-p",
        "no:cacheprovider",
        test_file,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
