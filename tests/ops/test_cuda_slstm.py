"""The CUDA sLSTM without a GPU: the kernels' own bodies, launch sizes and bindings, compiled for the host, where every GPU thread is a
fiber (csrc/tests/emulator.h), under the real Python backend, against the float64 definition. No word about speed or hardware."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.ops import golden
from tests.ops.harness import assert_parity, run
from tests.ops.slstm_cases import golden_inputs
from tests.ops.test_slstm import STATE, inputs, slstm
from tests.tolerances import FORWARD, FORWARD_EXTREME, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops
from xecg.ops.cuda import slstm as backend

ROOT = Path(__file__).resolve().parents[2]
H100, SMALL = 227 << 10, 48 << 10  # bytes of shared memory that a block may ask for


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None or importlib.util.find_spec("pybind11") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, a C++ compiler and pybind11")
    includes = subprocess.run(
        [sys.executable, "-m", "pybind11", "--includes"], capture_output=True, text=True, check=True
    )
    target = tmp_path_factory.mktemp("emulated") / "cuda_emulated.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    source = [str(ROOT / "csrc/tests/cuda_emulated.cpp"), "-o", str(target)]
    done = subprocess.run([*command, *includes.stdout.split(), *source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    spec = importlib.util.spec_from_file_location("cuda_emulated", target)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(autouse=True)
def gpu(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The backend `cuda` serves CPU tensors through the emulation, by default that of an H100; torch fills new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(backend, "native", lambda: module)
    monkeypatch.setattr(backend, "why_not", lambda device, dtype: "")
    monkeypatch.setattr(backend, "stream_of", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    module.pretend(90, H100, 132, False)
    yield module
    torch.use_deterministic_algorithms(False)


def half(made: dict[str, Tensor], *, weights: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """x in bfloat16, R and b in `weights`, the state as it is."""
    kinds = {"x": torch.bfloat16, "R": weights, "b": weights}
    return {n: t.to(kinds.get(n, t.dtype)) for n, t in made.items()}


def assert_half(made: dict[str, Tensor], *, reverse: bool = False, device: str = "cpu") -> None:
    """bfloat16 results and gradients are nearly as good as exact arithmetic on the rounded inputs, rounded once; float32 ones are as
    good as float32 where R is float32, and never worse than bfloat16."""
    wide = {n: t.double() if t.is_floating_point() else t for n, t in made.items()}
    call = slstm(reverse=reverse)
    with torch.no_grad(), ops.use_backend("reference"):
        y, h, c, n, _ = call(**wide)
    # Rounded as the gradient of a bfloat16 output is.
    weights = [torch.randn(o.shape).bfloat16().double() for o in (y, h, c, n)]
    # So that a loss does not depend on m: else its gradient jumps where i and lf + m tie, and rounding breaks ties.
    weights.append(weights[2] * c + weights[3] * n)
    exact, exact_gradients = run(call, wide, "reference", weights)
    there = {k: t.to(device) for k, t in made.items()}
    found, gradients = run(call, there, "cuda", [w.to(device) for w in weights])
    assert gradients.keys() == exact_gradients.keys()
    pairs = dict(zip(("output", *STATE), zip(found, exact)))
    pairs |= {f"gradient of {k}": (g, exact_gradients[k]) for k, g in gradients.items()}
    wide_bar = GRADIENT if made["R"].dtype == torch.float32 else torch.finfo(torch.bfloat16).eps / 2
    for name, (there_f, e) in pairs.items():
        f = there_f.cpu()
        if f.dtype == torch.bfloat16:
            assert rms_error(f, e) <= HALF_RMS_FACTOR * rms_error(e.bfloat16(), e) + 1e-12, name
        else:
            assert error(f, e) <= wide_bar, name


def test_golden_values() -> None:
    x, R, b, *state = (t.float() for t in golden_inputs().values())
    with ops.use_backend("cuda"):
        h, final = ops.slstm(x, R, b, return_state=True)
        with_state = ops.slstm(x, R, b, initial_state=tuple(state))
    for name, value in (("h", h), ("c", final.c), ("n", final.n), ("m", final.m)):
        total, norm, *_ = golden.SLSTM[name]
        assert (
            abs(float(value.double().sum()) - total) <= 2e-5 * abs(norm)
            and abs(float(value.norm()) - norm) <= FORWARD * norm
        )
    assert abs(float(with_state.norm()) - golden.SLSTM_WITH_STATE["h"][1]) <= FORWARD * 3.2


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 7, 2, 3), (17, 5, 3, 20), (33, 3, 1, 33), (5, 6, 2, 64), (3, 2, 1, 100), (2, 3, 1, 300), (4, 40, 1, 8),
     (2, 0, 2, 5), (0, 6, 2, 5)],
)  # fmt: skip
def test_float32_output_state_and_all_gradients(reverse: bool, lengths: bool, shape: tuple[int, ...]) -> None:
    made = inputs(*shape, lengths=lengths)
    assert_parity(slstm(reverse=reverse), made, "cuda", forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize(("gates", "bar"), [(5.0, FORWARD), (15.0, FORWARD_EXTREME)])
@pytest.mark.parametrize("state", [False, True])
def test_float32_under_large_gates(gates: float, bar: float, state: bool) -> None:
    made = inputs(3, 251, 2, 16, gates=gates, state=state)
    assert_parity(slstm(), made, "cuda", forward=bar, gradient=GRADIENT)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
def test_infinite_gates(state: bool, narrow: bool) -> None:
    made = inputs(2, 12, 2, 19, state=state)
    x = made["x"]
    x[:, 3, 0, 0], x[:, 4:6, 0], x[:, 5:7, 1] = -torch.inf, -torch.inf, torch.inf
    x[0, 8, 1], x[1, 9, :2, :, :7] = -torch.inf, -torch.inf
    x[0, :2, :2, 1, 5:] = -torch.inf
    if narrow:
        assert_half(half(made))
    else:
        assert_parity(slstm(), made, "cuda", forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate", range(4))
def test_nan_stays_in_its_row_and_head_and_later_steps(dtype: torch.dtype, gate: int) -> None:
    made = {n: t.to(dtype) for n, t in inputs(3, 9, 2, 35, state=False).items()}
    with ops.use_backend("cuda"):
        clean = slstm()(**made)
        made["x"] = made["x"].clone()
        made["x"][1, 4, gate, 1, 20] = torch.nan
        found = slstm()(**made)
    with ops.use_backend("reference"):
        expected = slstm()(**{n: t.float() for n, t in made.items()})
    for f, e, before in zip(found, expected, clean):
        assert torch.equal(f.isnan(), e.isnan())
        assert torch.equal(f[0], before[0]) and torch.equal(f[2], before[2])
        assert torch.equal(f[1, ..., 0, :], before[1, ..., 0, :])
    assert torch.equal(found[0][:, :4], clean[0][:, :4]) and found[0][1, 5:, 1].isnan().all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 9, 2, 3), (9, 6, 1, 20), (3, 5, 2, 40), (11, 4, 1, 64), (2, 5, 1, 100), (3, 4, 1, 128), (2, 3, 1, 150), (9, 4, 1, 256)],
)  # fmt: skip
def test_bfloat16_on_tensor_cores(reverse: bool, shape: tuple[int, ...]) -> None:
    assert_half(half(inputs(*shape, lengths=True)), reverse=reverse)


@pytest.mark.parametrize("D", [20, 64])
def test_bfloat16_over_many_steps(D: int) -> None:
    assert_half(half(inputs(2, 60, 1, D, state=False)))


@pytest.mark.parametrize("D", [5, 40, 300])
def test_bfloat16_with_float32_weights_keeps_them(D: int) -> None:
    assert_half(half(inputs(3, 5, 1, D), weights=torch.float32))


@pytest.mark.parametrize(("capability", "D"), [(90, 300), (80, 150)])
def test_bfloat16_beyond_the_tensor_kernels(gpu: ModuleType, capability: int, D: int) -> None:
    gpu.pretend(capability, H100, 132, False)
    assert_half(half(inputs(2, 3, 1, D)))


@pytest.mark.parametrize("weights", [torch.float16, torch.float32])
def test_float16(weights: torch.dtype) -> None:
    made = inputs(3, 9, 2, 20, state=False)
    made |= {"x": made["x"].half(), "R": made["R"].to(weights), "b": made["b"].to(weights)}
    with ops.use_backend("cuda"):
        found = slstm()(**made)
    with ops.use_backend("reference"):
        exact = slstm()(**{n: t.double() for n, t in made.items()})
    assert found[0].dtype == torch.float16 and (found[0].double() - exact[0]).abs().max() <= 2**-11
    for f, e in zip(found[1:], exact[1:]):
        assert error(f, e) <= FORWARD


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [20, 96])
def test_bits_ignore_thread_order_batch_companions_lengths_and_cuts(
    gpu: ModuleType, dtype: torch.dtype, D: int
) -> None:
    made = inputs(11, 6, 2, D)
    made = half(made) if dtype == torch.bfloat16 else made
    x, R, b, state = made["x"], made["R"], made["b"], tuple(made[s] for s in STATE)
    weights = [torch.randn(11, 6, 2, D), *(torch.randn(11, 2, D) for _ in STATE)]
    with ops.use_backend("cuda"):
        h = ops.slstm(x, R, b, initial_state=state)
        for rows in (slice(2, 3), slice(3, 11)):
            assert torch.equal(h[rows], ops.slstm(x[rows], R, b, initial_state=tuple(s[rows] for s in state)))
        ragged = torch.randint(0, 7, (11,))
        cut = ops.slstm(x, R, b, initial_state=state, lengths=ragged)
        assert all(torch.equal(cut[k, :n], h[k, :n]) for k, n in enumerate(ragged))
        head, middle = ops.slstm(x[:, :4], R, b, initial_state=state, return_state=True)
        assert torch.equal(torch.cat([head, ops.slstm(x[:, 4:], R, b, initial_state=middle)], 1), h)
    ascending = run(slstm(), made, "cuda", weights)
    gpu.pretend(90, H100, 132, True)
    descending = run(slstm(), made, "cuda", weights)
    assert all(torch.equal(p, q) for p, q in zip(ascending[0], descending[0]))
    assert all(torch.equal(g, descending[1][name]) for name, g in ascending[1].items())


@pytest.mark.parametrize("processors", [8, 4])
def test_bits_do_not_depend_on_the_rows_of_a_cluster(gpu: ModuleType, processors: int) -> None:
    made = half(inputs(19, 2, 1, 160, lengths=True))
    weights = [torch.randn(19, 2, 1, 160), *(torch.randn(19, 1, 160) for _ in STATE)]
    many = run(slstm(), made, "cuda", weights)
    gpu.pretend(90, H100, processors, False)
    few = run(slstm(), made, "cuda", weights)
    gpu.pretend(90, H100, processors, True)
    descending = run(slstm(), made, "cuda", weights)
    for other in (few, descending):
        assert all(torch.equal(p, q) for p, q in zip(many[0], other[0]))
        assert all(torch.equal(g, other[1][name]) for name, g in many[1].items())


def test_bits_do_not_depend_on_where_R_lies(gpu: ModuleType) -> None:
    made, weights = inputs(6, 5, 1, 64), [torch.randn(6, 5, 1, 64), *(torch.randn(6, 1, 64) for _ in STATE)]
    resident = run(slstm(), made, "cuda", weights)
    gpu.pretend(80, SMALL, 108, False)
    from_memory = run(slstm(), made, "cuda", weights)
    assert all(torch.equal(p, q) for p, q in zip(resident[0], from_memory[0]))
    assert all(torch.equal(g, from_memory[1][name]) for name, g in resident[1].items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_never_enters_output_state_or_gradient(dtype: torch.dtype, reverse: bool) -> None:
    made = inputs(2, 6, 2, 19)
    R, b, state = made["R"].to(dtype), made["b"].to(dtype), tuple(made[s] for s in STATE)
    garbage = made["x"].to(dtype)
    garbage[0, 4:], garbage[1] = torch.nan, torch.nan
    garbage.requires_grad_(), R.requires_grad_()
    with ops.use_backend("cuda"):
        h, final = ops.slstm(
            garbage, R, b, initial_state=state, lengths=torch.tensor([4, 0]), reverse=reverse, return_state=True
        )
        one = tuple(s[:1] for s in state)
        alone = ops.slstm(garbage[:1, :4], R, b, initial_state=one, reverse=reverse)
        (h.float().sum() + sum(s.sum() for s in final)).backward()
    assert torch.equal(h[:1, :4], alone) and not h[0, 4:].any() and not h[1].any()
    assert all(torch.equal(f[1], s[1]) for f, s in zip(final, state))
    assert not garbage.grad[0, 4:].any() and not garbage.grad[1].any()
    assert garbage.grad.isfinite().all() and R.grad.isfinite().all()


def test_strided_views() -> None:
    wide, R, b = torch.randn(3, 6, 2, 90), torch.randn(4, 2, 19, 19) / 8, torch.randn(4, 2, 19)
    view = wide[..., 7:83].unflatten(-1, (4, 19)).transpose(2, 3)
    with ops.use_backend("cuda"):
        for x, w in ((view, R), (view.bfloat16(), R.bfloat16()), (torch.randn(6, 3, 4, 2, 19).transpose(0, 1), R)):
            assert torch.equal(ops.slstm(x, w, b), ops.slstm(x.contiguous(), w, b))


@pytest.mark.parametrize("D", [19, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_the_sequence(D: int, dtype: torch.dtype) -> None:
    made = inputs(9, 4, 2, D)
    x, R, b, first = made["x"].to(dtype), made["R"].to(dtype), made["b"], ops.SLSTMState(*(made[s] for s in STATE))
    out = torch.empty(9, 2, D, dtype=dtype)
    with ops.use_backend("cuda"):
        whole, final = ops.slstm(x, R, b, initial_state=first, return_state=True)
        in_place, few = (ops.SLSTMState(*(s[rows].clone() for s in first)) for rows in (slice(None), slice(5, 7)))
        for t in range(4):
            assert ops.slstm_step_(x[:, t], R, b, in_place, out=out) is out
            assert torch.equal(ops.slstm_step_(x[5:7, t], R, b, few), out[5:7])
            assert (out.double() - whole[:, t].double()).abs().max() <= (FORWARD if dtype == torch.float32 else 2**-8)
    for p, f in zip(in_place, final):
        assert error(p, f) <= 5 * FORWARD


def test_too_many_units_are_refused() -> None:
    assert "512 units a head, not 600" in backend.refusal(torch.device("cuda"), torch.float32, d=600)
