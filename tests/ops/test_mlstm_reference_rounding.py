"""The mLSTM reference in float32, bfloat16 and float16 against itself in float64."""

from __future__ import annotations

import pytest
import torch

from tests.ops.mlstm_cases import NAMES, B, H, call, call_backward, cast, inputs
from tests.tolerances import FORWARD, FORWARD_EXTREME, GRADIENT, HALF_RMS_FACTOR, error
from xecg.ops.reference import mlstm


@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("gates", [1, 5, 15])
@pytest.mark.parametrize("seed", range(3))
def test_float32_stays_near_float64(gate, gates, seed):
    """q, k ≥ 0, so that den_t does not pass near 0: there the problem itself is ill-conditioned, see the next test."""
    T = 251
    x = cast(inputs(T, gates=gates, seed=seed, dk=16, dv=8), torch.float32)
    x |= {name: x[name].abs() for name in ("q", "k", "n0")}
    exact = cast(x, torch.float64)
    for function in (mlstm.forward, mlstm.recurrent):
        for name, a, b in zip("hCnm", call(function, x, gate=gate), call(function, exact, gate=gate)):
            assert a.dtype == torch.float32
            bar = FORWARD if gates <= 5 else FORWARD_EXTREME
            assert error(a, b) < bar, (name, function.__name__)
    dh = torch.randn(B, T, H, 8, generator=torch.Generator().manual_seed(seed))
    grads = (dh, torch.ones(B, H, 16, 8), torch.ones(B, H, 16), torch.ones(B, H))
    wanted = call_backward([t.to(torch.float64) for t in grads], exact, gate=gate)
    for name, a, b in zip(NAMES, call_backward(grads, x, gate=gate), wanted):
        assert error(a, b) < GRADIENT, name


@pytest.mark.parametrize("gates", [1, 5, 15])
@pytest.mark.parametrize("seed", range(3))
def test_float32_error_is_that_of_rounding_the_inputs(gates, seed):
    """Where den_t ≈ 0 amplifies any rounding, float32 may lose only what half an ulp of input noise loses."""
    x = cast(inputs(251, gates=gates, seed=seed, dk=16, dv=8), torch.float32)
    exact = cast(x, torch.float64)
    wanted = call(mlstm.recurrent, exact)[0]
    g = torch.Generator().manual_seed(seed)
    noise = torch.finfo(torch.float32).eps / 2
    sensitivity = 0.0
    for _ in range(3):
        moved = {n: t * (1 + noise * torch.randn(t.shape, generator=g, dtype=t.dtype)) for n, t in exact.items()}
        sensitivity = max(sensitivity, error(call(mlstm.recurrent, moved)[0], wanted))
    for function in (mlstm.forward, mlstm.recurrent):
        assert error(call(function, x)[0], wanted) < 10 * sensitivity


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_half_precision_rounds_only_inputs_and_outputs(gate, dtype):
    original = inputs(100, gates=2.0, dk=16, dv=8)
    rounded = cast(original, dtype)
    exact = call(mlstm.forward, original, gate=gate)
    ideal = call(mlstm.forward, {n: t.double() for n, t in rounded.items()}, gate=gate)
    got = call(mlstm.forward, rounded, gate=gate)
    assert [t.dtype for t in got] == [dtype, *[torch.float32] * 3]
    ideal_rms = (ideal[0].to(dtype).double() - exact[0]).square().mean().sqrt()
    rms = (got[0].double() - exact[0]).square().mean().sqrt()
    assert rms <= HALF_RMS_FACTOR * ideal_rms
    grads = call_backward(tuple(torch.ones_like(t) for t in got), rounded, gate=gate)
    assert [g.dtype for g in grads] == [dtype] * 5 + [torch.float32] * 3
