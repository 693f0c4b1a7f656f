"""The front end on a GPU, rows in shared memory and rows in device memory. The kernels' own code runs on the host here
(csrc/tests/cuda_frontend_emulated.cpp), threads in both orders, under the real Python path, beside the CPU kernel and the float64
definition; on a machine with a GPU the kernels themselves run."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.gpu_cases import poisoned
from tests.tolerances import FRONTEND_DB, FRONTEND_TILED, FRONTEND_Z
from xecg.errors import ShapeError, SpecError
from xecg.ops.cuda import frontend as gpu
from xecg.signal import STANDARD_LEADS, ECGFrontend, FilterSpec, ModelInput, SignalSpec, device, kernel, live
from xecg.signal.arrays import run_offline
from xecg.signal.plan import FLAT_STD_MV

ROOT = Path(__file__).resolve().parents[2]
_SLOW = SignalSpec(rate=None, resample="none", filters=(FilterSpec("bandpass", 2, 0.05, 150.0),))
_TWO_STAGES = SignalSpec(
    rate=None, resample="none", filters=(FilterSpec("lowpass", 5, high_hz=50.0), FilterSpec("notch", low_hz=50.0))
)
PLANS: dict[str, tuple[SignalSpec | str, float, int]] = {
    "500>100": ("poly", 500.0, 2000),
    "360>100": ("poly", 360.0, 1111),
    "257>100": ("poly", 257.0, 700),
    "100": ("poly", 100.0, 333),
    "250>500": (SignalSpec(rate=500.0, filters=(FilterSpec("lowpass", 4, high_hz=40.0),)), 250.0, 400),
    "resampling only": (SignalSpec(), 500.0, 999),
    "0.05 Hz": (_SLOW, 1000.0, 1500),
    "two stages": (_TWO_STAGES, 500.0, 900),
    "shortest": ("poly", 500.0, 22),
    "10 s": ("poly", 500.0, 5000),
    "30 s": ("poly", 500.0, 15000),
    "two stages of three": ("ecgfounder", 360.0, 700),
    "six sections": (SignalSpec(filters=(FilterSpec("bandpass", 6, 0.5, 40.0),)), 500.0, 1200),
    "down to a few": (SignalSpec(rate=25.0, filters=(FilterSpec("highpass", 1, low_hz=0.5),)), 1000.0, 801),
}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None or importlib.util.find_spec("pybind11") is None:
        pytest.skip("a C++ compiler or pybind11 is missing")
    includes = subprocess.run([sys.executable, "-m", "pybind11", "--includes"], capture_output=True, text=True)
    target = tmp_path_factory.mktemp("emulated") / "cuda_frontend_emulated.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    source = [str(ROOT / "csrc/tests/cuda_frontend_emulated.cpp"), "-o", str(target)]
    done = subprocess.run([*command, *includes.stdout.split(), *source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("cuda_frontend_emulated", target)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Run = Callable[..., tuple[Tensor, Tensor]]


_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")]


@pytest.fixture(
    params=[
        "rows",
        "rows backwards",
        "tiled",
        pytest.param("cuda rows", marks=_GPU),
        pytest.param("cuda tiled", marks=_GPU),
    ]
)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """(front end, signal, gain, baseline) → x, mask on the host, from the kernel: the host's way is closed unless `host` is given."""
    where = "cuda" if request.param.startswith("cuda") else "cpu"
    if where == "cpu":
        module = request.getfixturevalue("emulated")
        module.pretend(0 if request.param == "tiled" else 227 << 10, request.param == "rows backwards")
        monkeypatch.setattr(gpu, "native", lambda: module)
        monkeypatch.setattr(gpu, "refusal", lambda: "")
        monkeypatch.setattr(gpu, "stream_of", lambda _: 0)
        monkeypatch.setattr(gpu.torch.cuda, "device_of", lambda _: contextlib.nullcontext())
    elif request.param == "cuda tiled":
        real = gpu.native()
        tiled = SimpleNamespace(
            **{name: getattr(real, name) for name in dir(real) if name.startswith(("front", "Front"))}
        )
        tiled.frontend_shared_bytes = lambda: 0
        monkeypatch.setattr(gpu, "native", lambda: tiled)

    def call(
        frontend: ECGFrontend, signal: np.ndarray, gain: object = None, baseline: object = None, host: bool = False
    ) -> tuple[Tensor, Tensor]:
        given = torch.from_numpy(signal).to(where)
        assert device._fits(frontend, given, gain, baseline)
        with monkeypatch.context() as patch, poisoned():
            if not host:
                patch.setattr(device, "_on_host", None)
            x, mask = device._on_gpu(frontend, given, gain, baseline)
        return x.cpu(), mask.cpu()

    return call


def records(n: int, rate: float, *, batch: int = 2, leads: int = 12, seed: int = 0) -> np.ndarray:
    rng, t = np.random.default_rng(seed), np.arange(n) / rate
    beat = np.exp(-(((t * 1.2) % 1 - 0.5) ** 2) / 2e-4) + 0.2 * np.sin(2 * np.pi * 0.3 * t)
    level = rng.normal(0, 0.3, (batch, leads, 1))
    return (beat + level + rng.normal(0, 0.02, (batch, leads, n))).astype(np.float32)


@pytest.mark.parametrize("name", PLANS)
def test_it_is_the_cpu_kernel_to_rounding_and_the_definition_to_95_db(run: Run, name: str) -> None:
    spec, rate, n = PLANS[name]
    frontend = ECGFrontend(spec, in_rate=rate, leads=STANDARD_LEADS)
    signal = records(n, rate, batch=3 if name == "100" else 2)
    x, mask = run(frontend, signal)
    there = frontend.apply(signal)
    exact, _ = run_offline(frontend._plan, signal.astype(np.float64), np.ones(signal.shape, bool))
    # z-scores of five samples amplify what the CPU kernel rounds, too.
    bound = max(FRONTEND_TILED * np.abs(there.x).max(), 2 * np.abs(there.x - exact).max())
    assert np.abs(x.numpy() - there.x).max() <= bound
    assert np.array_equal(mask.numpy(), there.mask) and mask.all()
    noise = np.square(x.numpy() - exact).mean()
    assert 10 * np.log10(np.square(exact).mean() / noise) >= FRONTEND_DB
    if frontend.spec.normalise == "zscore":
        assert np.abs(x.numpy() - exact).max() <= FRONTEND_Z


def test_counts_are_scaled_lead_by_lead(run: Run) -> None:
    gain, baseline = np.linspace(200.0, 1000.0, 12), np.arange(12) * 7.0 - 30
    counts = np.round(records(700, 500.0) * gain[:, None] + baseline[:, None]).astype(np.int16)
    for spec in ("poly", SignalSpec(), _TWO_STAGES):
        frontend = ECGFrontend(spec, in_rate=500.0, leads=STANDARD_LEADS)
        x, _ = run(frontend, counts, gain, baseline)
        expected = frontend.apply(counts, gain=gain, baseline=baseline)
        assert np.abs(x.numpy() - expected.x).max() <= FRONTEND_TILED * np.abs(expected.x).max()


def test_leads_are_mapped_by_name_and_missing_ones_are_masked(run: Run) -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=("V1", "nonsense", "II"))
    signal = records(1000, 500.0, leads=3)
    x, mask = run(frontend, signal)
    expected = frontend.apply(signal)
    assert np.array_equal(mask.numpy(), expected.mask) and 0 < mask.float().mean() < 1
    assert np.abs(x.numpy() - expected.x).max() <= FRONTEND_TILED * np.abs(expected.x).max()
    one, _ = run(frontend, signal[1])
    assert torch.equal(one, x[1])


def test_a_flat_lead_is_zero_and_masked_and_a_broken_record_goes_through_the_host(run: Run) -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    signal = records(600, 500.0, batch=3)
    signal[0, 3] = 0.7
    x, mask = run(frontend, signal)
    assert not mask[0, 3].any() and not x[0, 3].any() and mask[0, 2].all()
    signal[1, 5, 300:320] = np.nan
    found, found_mask = run(frontend, signal, host=True)
    expected = frontend.apply(signal)
    assert np.array_equal(found_mask.numpy(), expected.mask)
    assert np.array_equal(found[1].numpy(), expected.x[1]), "the broken record is the host's"
    assert torch.equal(found[0], x[0]) and torch.equal(found[2], x[2])


def test_a_row_does_not_see_its_companions_nor_how_many_run_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    signal = records(200, 500.0, batch=9)
    x, _ = run(frontend, signal)
    for part in (slice(0, 1), slice(4, 7)):
        assert torch.equal(run(frontend, signal[part].copy())[0], x[part])
    monkeypatch.setattr(gpu, "_SCRATCH_BYTES", 1)  # 32 tiled rows at a time
    assert torch.equal(run(frontend, signal)[0], x)


def test_rows_that_do_not_lie_on_whole_words_are_read_alike(run: Run) -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    for n in (601, 602, 603):  # rows begin anywhere
        counts = np.round(records(n, 500.0, batch=2) * 500).astype(np.int16)
        x, _ = run(frontend, counts, 500.0)
        expected = frontend.apply(counts, gain=500.0)
        assert np.abs(x.numpy() - expected.x).max() <= FRONTEND_TILED * np.abs(expected.x).max()


def test_a_row_that_fills_shared_memory_is_taken_and_a_longer_one_is_tiled(emulated: ModuleType) -> None:
    row = [1, 5, 50, 101]
    fits = [n for n in range(50, 70_000, 50) if emulated.frontend_row(n, n // 5, row, 21, 3)[0] <= 227 << 10]
    assert 45_000 < fits[-1] < 58_000 and fits == list(range(50, fits[-1] + 1, 50))
    assert emulated.frontend_row(5000, 1000, row, 21, 3)[0] <= 25 << 10, "eight rows a multiprocessor of 227 KiB"


def test_tensors_of_the_host_and_plans_without_a_kernel_go_through_the_host() -> None:
    signal = records(1000, 500.0)
    for spec in ("poly", "xecg", "causal"):
        frontend = ECGFrontend(spec, in_rate=500.0, leads=STANDARD_LEADS)
        x, mask = frontend.apply_tensor(torch.from_numpy(signal))
        expected = frontend.apply(signal)
        assert np.array_equal(x.numpy(), expected.x) and np.array_equal(mask.numpy(), expected.mask)
    for spec in ("xecg", "causal"):
        frontend = ECGFrontend(spec, in_rate=500.0, leads=STANDARD_LEADS)
        assert not device._fits(frontend, torch.from_numpy(signal), None, None)
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    assert not device._fits(frontend, torch.from_numpy(signal[..., :21].copy()), None, None)
    assert not device._fits(frontend, torch.from_numpy(signal).double(), None, None)


def test_wrong_calls_are_refused_as_arrays_are(run: Run) -> None:
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    signal = records(1000, 500.0)
    with pytest.raises(ShapeError, match="needed a tensor"):
        frontend.apply_tensor(signal)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="12"):
        frontend.apply_tensor(torch.zeros(3, 100))
    with pytest.raises(SpecError, match="positive counts per mV"):
        run(frontend, signal.astype(np.int16), -1.0)
    with pytest.raises(ShapeError, match="baseline"):
        run(frontend, signal.astype(np.int16), 1.0, [1.0, 2.0])


def test_a_kernel_that_no_gpu_has_run_is_not_picked_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu._native, "load", lambda _: (SimpleNamespace(), ""))
    monkeypatch.delenv("XECG_UNPROVEN", raising=False)
    assert "XECG_UNPROVEN=1" in gpu.refusal()
    monkeypatch.setenv("XECG_UNPROVEN", "1")
    assert gpu.refusal() == ""


def test_without_the_module_a_gpu_tensor_is_served_by_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "refusal", lambda: "not built")
    seen = []
    monkeypatch.setattr(device, "_on_host", lambda *a: seen.append(a) or (1, 2))
    signal = torch.zeros(12, 1000)
    there = SimpleNamespace(device=SimpleNamespace(type="cuda"), dim=signal.dim, shape=signal.shape, dtype=signal.dtype)
    monkeypatch.setattr(device, "Tensor", SimpleNamespace)
    frontend = ECGFrontend("poly", in_rate=500.0, leads=STANDARD_LEADS)
    assert device.apply(frontend, there, None, None) == (1, 2) and len(seen) == 1  # type: ignore[arg-type]


_LIVE: dict[str, tuple[SignalSpec | str, float]] = {
    "causal": ("causal", 500.0),
    "causal, 360>100": ("causal", 360.0),
    "causal, 257>100": ("causal", 257.0),
    "0.05 Hz": (replace(_SLOW, phase="causal"), 1000.0),
    "low-pass": (SignalSpec(phase="causal", filters=(FilterSpec("lowpass", 4, high_hz=40.0),)), 500.0),
    "up": (SignalSpec(rate=1200.0, phase="causal", filters=_TWO_STAGES.filters, normalise="causal-zscore"), 500.0),
    "resampling only": (SignalSpec(phase="causal"), 500.0),
}


@pytest.fixture(params=["emulated", "emulated backwards", pytest.param("cuda", marks=_GPU)])
def live_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Front-end streams run their chunks through the device's kernel, their state there and back each time."""
    where = "cuda" if request.param == "cuda" else "cpu"
    module = gpu.native() if where == "cuda" else request.getfixturevalue("emulated")
    if where == "cpu":
        module.pretend(227 << 10, request.param == "emulated backwards")

    def run(
        self: live.CompiledSlots,
        slots: np.ndarray,
        chunk: live.Chunk,
        *,
        gap: np.ndarray | None = None,
        begin: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        there: list[Tensor] = []

        def put(a: np.ndarray | None) -> int:
            if a is None:
                return 0
            there.append(torch.from_numpy(np.ascontiguousarray(a)).to(where))
            return there[-1].data_ptr()

        plan, given, n = self._plan, self._numbers, chunk.x.shape[-1]
        first, taps = int(self._state["samples"][slots[0]]), self._numbers.fir.shape[1]
        m = plan.output_length(first + n) - plan.output_length(first)
        y = torch.zeros(len(slots), chunk.leads_out, m, device=where)
        ok, refused = torch.zeros(y.shape, dtype=torch.uint8, device=where), torch.full((len(slots),), 9, device=where)
        refused = refused.to(torch.uint8)
        room = torch.full((8 * len(slots) + len(slots) * self._rows * (max(taps - 1, 0) + n),), 255, device=where)
        room = room.to(torch.uint8)
        poly = [plan.up, plan.down, plan.half, taps, -first * plan.up % plan.down]
        state = [put(a) for a in self._state.values()]
        held = list(there)
        module.frontend_stream(
            [len(slots), self._rows, n, m], put(slots), put(chunk.x), chunk.x.dtype == np.int16, chunk.x[0].size,
            put(chunk.x_rows * n), put(chunk.scale), put(chunk.baseline), put(gap), put(begin), len(plan.sos),
            put(given.coefficients), given.subtract, given.dc, poly if plan.resample == "poly" else [0, 1, 0, 0, 0], put(given.fir),
            plan.settle, plan.spec.normalise == "causal-zscore", plan.decay[1], FLAT_STD_MV, state, y.data_ptr(), ok.data_ptr(),
            chunk.leads_out * m, put(chunk.y_rows * m), refused.data_ptr(), room.data_ptr(), 0,
        )  # fmt: skip
        for a, t in zip(self._state.values(), held):
            a[...] = t.cpu().numpy()
        return y.cpu().numpy(), ok.cpu().numpy() > 0, refused.cpu().numpy() > 0

    monkeypatch.setattr(kernel, "native", lambda: SimpleNamespace())
    monkeypatch.setattr(live.CompiledSlots, "run", run)


def _defined(frontend: ECGFrontend, signal: np.ndarray, **counts: float) -> ModelInput:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "native", lambda: None)
        return frontend.apply(signal, **counts)


def _agree(found: ModelInput, expected: ModelInput) -> None:
    assert np.array_equal(found.mask, expected.mask) and found.mask.mean() > 0
    good = expected.mask
    assert not found.x[~good].any()
    signal, error = (np.square(a[good].astype(np.float64)).mean() for a in (expected.x, found.x - expected.x))
    assert 10 * np.log10(signal / error) >= FRONTEND_DB


@pytest.mark.parametrize("name", _LIVE)
@pytest.mark.usefixtures("live_kernel")
def test_live_parity_with_the_definition_with_gaps(name: str) -> None:
    spec, rate = _LIVE[name]
    frontend = ECGFrontend(spec, in_rate=rate, leads=STANDARD_LEADS)
    signal = records(int(8 * rate), rate, batch=3)
    _agree(frontend.apply(signal), _defined(frontend, signal))
    signal[0, 3, :200] = signal[1, 5, 600:610] = signal[2, 7, 900:1200] = np.nan
    _agree(frontend.apply(signal), _defined(frontend, signal))


@pytest.mark.usefixtures("live_kernel")
def test_live_chunks_slots_and_companions_change_no_bit_and_counts_are_scaled() -> None:
    frontend = ECGFrontend("causal", in_rate=360.0, leads=("II", "V5", "V1"))
    counts = np.round(records(1500, 360.0, batch=14, leads=3) * 217.0).astype(np.int16)
    whole = frontend.apply(counts, gain=217.0, baseline=3.0)
    _agree(whole, _defined(frontend, counts, gain=217.0, baseline=3.0))
    rng, stream = np.random.default_rng(1), frontend.stream(20)
    slots, at, got = rng.permutation(20)[:14], 0, [[] for _ in counts]  # type: ignore[var-annotated]
    while at < counts.shape[-1]:
        n = int(rng.choice([1, 17, 36, 200]))
        for k in (rows := rng.permutation(14)).reshape(2, 7) if n > 20 else rows[None]:
            for p, out in zip(k, stream.push_many(slots[k], counts[k, :, at : at + n], gain=217.0, baseline=3.0)):
                got[p].append(out)
        at += n
    for p, parts in enumerate(got):
        for found, expected in zip((np.concatenate(a, axis=-1) for a in zip(*parts)), whole):
            assert np.array_equal(found, expected[p])


@pytest.mark.usefixtures("live_kernel")
def test_a_live_patient_with_a_sample_that_is_none_is_refused_and_keeps_its_state() -> None:
    frontend = ECGFrontend("causal", in_rate=500.0, leads=STANDARD_LEADS)
    stream = frontend.stream(3)
    signal = records(300, 500.0, batch=3)
    slots = stream._slots
    assert isinstance(slots, live.CompiledSlots)
    rows = np.arange(12)
    slots.run(np.arange(3), live.Chunk(signal[..., :100].copy(), rows, rows, 12))
    before = {name: a.copy() for name, a in slots._state.items()}
    chunk = signal[..., 100:200].copy()
    chunk[1, 4, 99], chunk[2, 11, 0] = np.nan, -2e12
    y, ok, refused = slots.run(np.arange(3), live.Chunk(chunk, rows, rows, 12))
    assert refused.tolist() == [False, True, True] and not y[1:].any() and y[0].any() and ok[0].any()
    for name, a in slots._state.items():
        assert np.array_equal(a[1:], before[name][1:]) and (
            name in ("shift", "started", "seen", "run", "valid") or (a[0] != before[name][0]).any()
        )
