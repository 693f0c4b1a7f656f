"""The Triton kernels of mlstm, forward and step, without a GPU: parity in Triton's interpreter, in a process of its own because
TRITON_INTERPRET is read at import, and compilation of every configuration for real targets. Not yet run on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.ops.gpu_cases import poisoned
from tests.ops.harness import ROOT, why_no_interpreter
from tests.ops.mlstm_cases import EMPTY_M, NAMES, call, cast, golden_inputs, inputs, without_state
from tests.tolerances import FORWARD, FORWARD_EXTREME, HALF_RMS_FACTOR, error, rms_error
from xecg import ops
from xecg.errors import BackendError
from xecg.ops.reference import mlstm as reference

pytest.importorskip("triton", reason="the package triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="needs TRITON_INTERPRET=1: run by the test of this module's start"
)
WAYS = ("chunk", "walk", "split", "tiles")


def forward(
    x: dict[str, Tensor | None], way: str | None, lengths: Tensor | None = None, **options
) -> tuple[Tensor, ...]:
    from xecg.ops.triton._mlstm_forward import forward

    options = {"chunk_size": None if way == "chunk" else 16} | options
    return call(lambda *a, **o: forward(*a, way=way, **o), x, lengths, **options)


def expected(x: dict[str, Tensor | None], lengths: Tensor | None = None, **options) -> tuple[Tensor, ...]:
    return call(reference.recurrent, cast(x, torch.float64), lengths, **options)


def leaning(T: int, **options) -> dict[str, Tensor | None]:
    """Random float32 call whose normaliser stays away from 0, where h is ill-conditioned."""
    made = inputs(T, **options)
    for name in ("q", "k", "n0"):
        made[name] = made[name] + 1
    return cast(made, torch.float32)


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What is read without being written is NaN."""
    with poisoned():
        yield


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several segments in a short sequence, of two chunks of 16 each."""
    from xecg.ops.triton import _mlstm_configs as configs

    monkeypatch.setattr(configs, "segment_of", lambda DK, DV: 32)
    configs.plan.cache_clear()
    yield
    configs.plan.cache_clear()


def assert_same(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    for name, a, b in zip(("h", "C", "n", "m"), found, exact, strict=True):
        assert error(a, b) <= tolerance, f"{name}: {error(a, b):.1e}"


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_parity_in_the_interpreter() -> None:
    if why_no_interpreter():
        pytest.skip(why_no_interpreter())
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter serves CPU tensors")
def test_the_backend_says_why_it_does_not_serve_a_cpu_tensor() -> None:
    reason = ops.backends("mlstm", "cpu")["triton"]
    assert "CUDA tensors" in reason and "TRITON_INTERPRET" in reason
    with ops.use_backend("triton"), pytest.raises(BackendError, match="CUDA tensors"):
        ops.mlstm(*(leaning(3)[x] for x in "qkvif"))


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize(("reverse", "ragged"), [(False, False), (False, True), (True, True)])
def test_every_way_equals_the_definition(way: str, gate: str, reverse: bool, ragged: bool) -> None:
    x = leaning(45, batch=3 if ragged else 1, gates=3.0, dk=20, dv=18)
    lengths = torch.tensor([45, 0, 21]) if ragged else None
    options = {"gate": gate, "reverse": reverse}
    assert_same(forward(x, way, lengths, **options), expected(x, lengths, **options), FORWARD)


@interpreter
@pytest.mark.parametrize("way", WAYS)
def test_without_a_state_and_with_none_asked_for(way: str) -> None:
    x = without_state(leaning(45, batch=1, gates=3.0))
    exact = expected(x)
    assert_same(forward(x, way), exact, FORWARD)
    h, *state = forward(x, way, want_state=False)
    assert error(h, exact[0]) <= FORWARD and not any(s.numel() for s in state)


@interpreter
@pytest.mark.parametrize(
    ("T", "way"), [(0, "chunk"), (1, "chunk"), (17, "chunk"), (32, "chunk"), (33, "tiles"), (100, "tiles")]
)
def test_any_length_goes_its_way(T: int, way: str) -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    x = without_state(leaning(T, batch=1))
    assert configs.plan(2, T, 4, 3, torch.float32, 132).way == way
    assert_same(forward(x, None, chunk_size=None), expected(x), FORWARD)


@interpreter
def test_the_table_fills_the_device_and_keeps_states_on_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    monkeypatch.undo()

    def way(streams: int, T: int, D: int, dtype: torch.dtype = torch.bfloat16) -> str:
        return configs.plan(streams, T, D, D, dtype, 132).way

    assert way(2048, 40, 512) == "chunk" and way(128, 2500, 128) == "walk" and way(4, 65536, 128) == "split"
    assert way(128, 2500, 256) == way(128, 2500, 128, torch.float32) == "tiles"
    for T in (65, 1000, 65536):
        plan = configs.plan(4, T, 128, 128, torch.bfloat16, 132)
        assert (plan.slots - 1) * plan.steps < T <= plan.slots * plan.steps and plan.steps % plan.out.sizes["L"] == 0


@interpreter
def test_other_sequences_choose_no_way_but_between_walk_and_split() -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for D in (16, 100, 128, 256, 300, 512):
            for T in (1, 33, 64, 65, 1000, 65536):
                plans = [configs.plan(streams, T, D, D, dtype, 132) for streams in (1, 7, 64, 4096)]
                ways = {plan.way for plan in plans}
                assert len(ways) == 1 or ways == {"walk", "split"}
                for plan in plans:  # what is summed in which order
                    for tile, first in ((plan.out, plans[0].out), (plan.states, plans[0].states)):
                        assert {**tile.sizes, "SPAN": 0} == {**first.sizes, "SPAN": 0} and tile.warps == first.warps


@interpreter
@pytest.mark.parametrize(
    ("gate", "state", "dtype"),
    [("exp", False, torch.float32), ("exp", True, torch.bfloat16), ("sig", True, torch.float32)],
)
def test_a_split_gives_the_bits_of_a_walk(gate: str, state: bool, dtype: torch.dtype) -> None:
    x = cast(leaning(70, gates=3.0, dk=40, dv=20) | ({} if state else dict.fromkeys(("C0", "n0", "m0"))), dtype)
    x["f"][0, 50, 0], x["i"][0, 32:, 1] = -torch.inf, -torch.inf
    lengths = torch.tensor([70, 31])
    walked, split = (forward(x, way, lengths, gate=gate, reverse=state) for way in ("walk", "split"))
    for a, b in zip(walked, split):
        assert torch.equal(a, b) and a.isfinite().all()


@interpreter
def test_a_row_alone_has_the_bits_that_it_has_among_companions(monkeypatch: pytest.MonkeyPatch) -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    monkeypatch.setattr(configs, "processors", lambda device: 5)
    for dtype, ways in ((torch.float32, {"tiles"}), (torch.bfloat16, {"walk", "split"})):
        x = cast(leaning(100, batch=3, dk=20, dv=18), dtype)
        alone = {name: t[1:2] for name, t in x.items()}
        assert {configs.plan(2 * n, 100, 20, 18, dtype, 5).way for n in (1, 3)} == ways
        together, found = (call(_default, each) for each in (x, alone))
        for a, b in zip(together, found):
            assert torch.equal(a[1:2], b)


def _default(*args, **options) -> tuple[Tensor, ...]:
    from xecg.ops.triton._mlstm_forward import forward

    return forward(*args, **options)


@interpreter
@pytest.mark.parametrize("way", ["split", "tiles"])
@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_a_sequence_goes_in_parts_when_its_states_are_many(
    gate: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    x, lengths = leaning(100, batch=1), torch.tensor([90])
    whole = forward(x, way, lengths, gate=gate)
    monkeypatch.setattr(configs, "_STATE_BYTES", 2 * (2 * 4 * 12))
    configs.plan.cache_clear()
    assert configs.plan(2, 100, 4, 3, torch.float32, 132, 16, way).slots == 2
    for made in (x, without_state(x)):
        assert_same(forward(made, way, lengths, gate=gate), expected(made, lengths, gate=gate), FORWARD)
    h = forward(x, way, lengths, gate=gate, want_state=False)[0]
    assert torch.equal(h, whole[0])


@interpreter
@pytest.mark.parametrize(("dk", "dv"), [(1, 1), (16, 100), (130, 24)])
@pytest.mark.parametrize("way", WAYS)
def test_any_head_size(way: str, dk: int, dv: int) -> None:
    x = leaning(20, batch=1, dk=dk, dv=dv)
    assert_same(forward(x, way), expected(x), FORWARD)


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gates", [15.0, 300.0])
def test_extreme_gates(way: str, gates: float) -> None:
    x = leaning(60, batch=1, gates=gates)
    assert_same(forward(x, way), expected(x), FORWARD_EXTREME)


@interpreter
@pytest.mark.parametrize("way", ["chunk", "walk"])
def test_a_gate_that_forgets_nearly_all_costs_the_later_ones_no_precision(way: str) -> None:
    x = leaning(40, batch=1)
    x["f"][:, 2], x["f"][:, 20] = -5e4, -5e4
    assert_same(forward(x, way), expected(x), FORWARD)


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_infinite_gates_and_empty_states(way: str, gate: str) -> None:
    x = leaning(60, batch=1)
    x["i"][0, :4, 0], x["i"][0, 20:22, 0] = -torch.inf, -torch.inf
    x["f"][0, 30, 0], x["f"][0, 5:9, 0] = -torch.inf, torch.inf
    x["f"][0, 50:, 1], x["i"][0, 55:, 1] = -torch.inf, -torch.inf
    if gate == "exp":  # m plays no part in "sig": a state is never empty
        x["m0"][:, 1], x["C0"][:, 1], x["n0"][:, 1] = EMPTY_M, torch.nan, torch.inf
    assert_same(forward(x, way, gate=gate), expected(x, gate=gate), FORWARD)
    x["i"][:] = -torch.inf
    h, C, n, m = forward(without_state(x), way, gate=gate)
    assert not h.any() and not C.any() and not n.any() and (m == (EMPTY_M if gate == "exp" else 0)).all()


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["q", "k", "v", "i", "f"])
def test_a_nan_stays_in_its_stream_and_its_future(way: str, name: str) -> None:
    x = without_state(leaning(45, batch=1))
    clean = forward(x, way)
    x[name][0, 21, 0] = torch.nan
    x["f"][0, 26] = -torch.inf  # a NaN outlives what forgets all else
    h, C, n, m = forward(x, way)
    exact = expected(x)
    for a, b in zip((h, C, n, m), exact):
        assert torch.equal(a.isnan(), b.isnan())
    assert h[0, 21, 0].isnan().any() and (name == "q" or h[0, 21:, 0].isnan().any(-1).all())
    assert torch.equal(h[0, :21], clean[0][0, :21])
    assert error(h[0, :, 1], exact[0][0, :, 1]) <= FORWARD and not C[:, 1].isnan().any()


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["k", "v", "i"])
def test_an_infinity_does_not_reach_back(way: str, name: str) -> None:
    x = without_state(leaning(45, batch=1))
    clean = forward(x, way)[0]
    x[name][0, 21, 0] = torch.inf
    h = forward(x, way)[0]
    assert torch.equal(h[0, :, 1], clean[0, :, 1]) and torch.equal(h[0, :21, 0], clean[0, :21, 0])


@interpreter
@pytest.mark.parametrize("way", WAYS)
def test_views_of_a_fused_projection_need_no_copy(way: str) -> None:
    x = leaning(40, dk=8, dv=8)
    fused = torch.cat([x["q"], x["k"], x["v"]], -1)
    gates = torch.stack([x["i"], x["f"]], 1)
    strided = {
        **x,
        "q": fused[..., :8],
        "k": fused[..., 8:16],
        "v": fused[..., 16:],
        "i": gates[:, 0],
        "f": gates[:, 1],
    }
    strided |= {name: strided[name].transpose(0, 1).contiguous().transpose(0, 1) for name in "qf"}
    for a, b in zip(forward(strided, way, reverse=True), forward(x, way, reverse=True)):
        assert torch.equal(a, b)


@interpreter
@pytest.mark.parametrize("size", [1, 33, 1000])
def test_any_chunk_size_by_the_public_op(size: int) -> None:
    x = leaning(40, batch=1)
    state = (x["C0"], x["n0"], x["m0"])
    with ops.use_backend("triton"):
        h, found = ops.mlstm(*(x[name] for name in "qkvif"), initial_state=state, return_state=True, chunk_size=size)
    assert_same((h, *found), expected(x), FORWARD)


@interpreter
def test_the_golden_call_by_the_public_op() -> None:
    x = cast(golden_inputs(), torch.float32)
    with ops.use_backend("triton"):
        h, state = ops.mlstm(*(x[name] for name in "qkvif"), return_state=True)
    assert abs(float(h.sum()) - 59.932818405195) < 59 * FORWARD
    assert abs(float(state.C.norm()) - 2.314737305794) < 2.3 * FORWARD


@interpreter
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_rounding(way: str, dtype: torch.dtype) -> None:
    x = leaning(60, batch=1, dk=24, dv=30)
    x["f"] = x["f"] + 5  # a long memory: most of h comes from the state
    x = cast(x, dtype)
    exact = expected(x)
    found = forward(x, way)
    assert found[0].dtype == dtype and all(s.dtype == torch.float32 for s in found[1:])
    rounded = exact[0].to(dtype)
    floor = rms_error(rounded, exact[0])
    if (
        dtype == torch.bfloat16
    ):  # the interpreter cuts where a GPU rounds; what a kernel may add to rounding is judged beside that
        rounded = (exact[0].float().view(torch.int32) & -65536).view(torch.float32)
        assert rms_error(found[0], rounded) <= (HALF_RMS_FACTOR**2 - 1) ** 0.5 * floor
    else:
        assert rms_error(found[0], exact[0]) <= HALF_RMS_FACTOR * floor
    for a, b in zip(found[1:], exact[1:]):
        assert error(a, b) <= FORWARD


@interpreter
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize(("dk", "dv"), [(4, 3), (70, 40)])
def test_steps_in_place_equal_the_sequence(gate: str, dk: int, dv: int) -> None:
    x = leaning(6, gates=3.0, dk=dk, dv=dv)
    x["m0"][0, 0], x["C0"][0, 0], x["n0"][0, 0] = (EMPTY_M if gate == "exp" else 0.0), 0.5, 0.25
    x["f"][1, 2], x["i"][0, :2, 0] = -torch.inf, -torch.inf
    exact = expected(x, gate=gate)
    state = [x[name].clone() for name in NAMES[5:]]
    out = torch.full((2, 2, dv), torch.nan)
    with ops.use_backend("triton"):
        for t in range(6):
            now = [x[name][:, t] for name in "qkvif"]
            assert ops.mlstm_step_(*now, state, gate=gate, out=out) is out
            assert error(out, exact[0][:, t]) <= FORWARD
    assert_same((exact[0].float(), *state), exact, FORWARD)
