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
from xecg.signal import STANDARD_LEADS, ECGFrontend, FilterSpec, SignalSpec, device
from xecg.signal.arrays import run_offline

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
