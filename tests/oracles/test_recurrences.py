"""Our references against the published implementations, run side by side in float64 (`make test-oracles`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("xlstm", reason="peer packages are installed by `make test-oracles`")
pytest.importorskip("mlstm_kernels", reason="peer packages are installed by `make test-oracles`")

from tests.golden import cases
from tests.ops.mlstm_cases import NAMES as MLSTM
from tests.ops.mlstm_cases import call as call_mlstm
from tests.ops.mlstm_cases import call_backward, without_state
from tests.ops.slstm_cases import NAMES as SLSTM
from tests.ops.slstm_cases import call as call_slstm
from tests.ops.slstm_cases import call_backward as call_slstm_backward
from tests.ops.slstm_cases import inputs as slstm_inputs
from tests.ops.slstm_cases import without_state as slstm_without_state
from tests.oracles import peers
from tests.tolerances import FLOAT64, FORWARD, error
from xecg.ops.reference import mlstm, slstm

pytestmark = pytest.mark.oracle


def mlstm_inputs(*, seed: int = 0, T: int = 256, size: int = 16) -> dict[str, torch.Tensor]:
    """i ~ N(0, 2), f ~ N(3, 2) (variances)."""
    g = torch.Generator().manual_seed(seed)
    B, H = 2, 2
    q, k, v = torch.randn(3, B, T, H, size, generator=g, dtype=torch.float64)
    i, f = 2**0.5 * torch.randn(2, B, T, H, generator=g, dtype=torch.float64)
    C0 = torch.randn(B, H, size, size, generator=g, dtype=torch.float64)
    n0, m0 = torch.randn(B, H, size, generator=g).double(), torch.randn(B, H, generator=g).double()
    return dict(zip(MLSTM, (q, k, v, i, f + 3, C0, n0, m0)))


def output_weights(x: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(7)
    return tuple(torch.randn(t.shape, generator=g, dtype=torch.float64) for t in call_mlstm(mlstm.forward, x))


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_mlstm_equals_mlstm_kernels_with_all_gradients(state, seed):
    x = mlstm_inputs(seed=seed)
    x = x if state else without_state(x)
    for name, a, b in zip("hCnm", call_mlstm(mlstm.forward, x, eps=0.0), peers.mlstm_kernels_chunkwise(x)):
        assert error(a, b) < FLOAT64, name
    weights = output_weights(x)
    wanted = peers.gradients(peers.mlstm_kernels_chunkwise, x, weights)
    for name, a in zip(MLSTM, call_backward(weights, x, eps=0.0)):
        assert (a is None) == (wanted[name] is None)
        assert a is None or error(a, wanted[name]) < FLOAT64, name


@pytest.mark.parametrize("seed", range(3))
def test_mlstm_equals_the_other_published_forms(seed):
    x = without_state(mlstm_inputs(seed=seed))
    ours = call_mlstm(mlstm.forward, x, eps=0.0)
    for name, a, b in zip("hCnm", ours, peers.mlstm_kernels_recurrent(x)):
        assert error(a, b) < FLOAT64, name
    assert error(ours[0], peers.xlstm_mlstm_parallel(x)) < FLOAT64
    assert error(call_mlstm(mlstm.forward, x, gate="sig", eps=0.0)[0], peers.mlstm_kernels_siging(x)) < FLOAT64


@pytest.mark.parametrize("state", [False, True])
def test_the_published_hand_written_gradient_ignores_the_normaliser(state, capsys):
    """`native_custbw` (the formulas of the Triton kernels): dv is right, dq, dk, di, df are wrong by their own size."""
    x = mlstm_inputs()
    x = x if state else without_state(x)
    weights = (output_weights(x)[0].float(),)
    single = {name: None if t is None else t.float() for name, t in x.items()}
    theirs = peers.gradients(
        lambda leaves: peers.mlstm_kernels_chunkwise(leaves, exact_backward=False), single, weights
    )
    exact = dict(zip(MLSTM, call_backward((weights[0].double(), None, None, None), x, eps=0.0)))
    errors = {name: error(g, exact[name]) for name, g in theirs.items() if g is not None}
    with capsys.disabled():
        print("\nnative_custbw, relative error:", ", ".join(f"d{name} {e:.2g}" for name, e in errors.items()))
    assert errors["v"] < FORWARD
    assert all(0.5 < errors[name] < 2.0 for name in "qkif")
    if state:
        assert not theirs["n0"].any() and not theirs["m0"].any()
        assert exact["n0"].any() and exact["m0"].any()


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("gates", [1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_slstm_equals_xlstm_vanilla_with_all_gradients(state, gates, seed):
    x = slstm_inputs(60, gates=gates, seed=seed, size=8)
    x = x if state else slstm_without_state(x)
    ours, theirs = call_slstm(slstm.forward, x), peers.xlstm_slstm(x)
    for name, a, b in zip(("h", "hT", "cT", "nT", "mT"), ours, theirs):
        assert error(a, b) < FLOAT64, name
    g = torch.Generator().manual_seed(seed)
    weights = tuple(torch.randn(t.shape, generator=g, dtype=torch.float64) for t in ours)
    wanted = peers.gradients(peers.xlstm_slstm, x, weights)
    for name, a in zip(SLSTM, call_slstm_backward(weights, x)):
        assert a is None or error(a, wanted[name]) < FLOAT64, name


def test_stored_golden_arrays_are_what_the_peers_compute_now():
    for state, name in ((False, "zero_state"), (True, "with_state")):
        with np.load(cases.FOLDER / f"mlstm_{name}.npz") as stored:
            for key, value in zip("hCnm", peers.mlstm_kernels_chunkwise(cases.mlstm_inputs(state=state))):
                assert error(value, torch.from_numpy(stored[key])) < FLOAT64
        with np.load(cases.FOLDER / f"slstm_{name}.npz") as stored:
            for key, value in zip(("h", "hT", "cT", "nT", "mT"), peers.xlstm_slstm(cases.slstm_inputs(state=state))):
                assert error(value, torch.from_numpy(stored[key])) < FLOAT64
