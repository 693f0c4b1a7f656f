"""The front end's accuracy in dB, its speed with the instruction set capped, and the memory of a day streamed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from bench.harness import ROOT, Measure
from xecg.signal import ECGFrontend, FilterSpec, SignalSpec
from xecg.signal.arrays import run_offline

__all__ = ["entries"]

_LEADS = ("I", "II", "V1")
_SLOW = SignalSpec(rate=None, resample="none", filters=(FilterSpec("bandpass", 2, 0.05, 150.0),))


def _record(rate: float, seconds: float, offset: float) -> np.ndarray:
    rng, t = np.random.default_rng(3), np.arange(int(rate * seconds)) / rate
    beat = np.exp(-(((t * 1.2) % 1 - 0.5) ** 2) / 2e-4) + 0.2 * np.sin(2 * np.pi * 0.3 * t)
    level = rng.normal(0, 0.3, (1, len(_LEADS), 1)) + offset
    return (beat + level + rng.normal(0, 0.02, (1, len(_LEADS), len(t)))).astype(np.float32)


def _both(spec: SignalSpec | str, rate: float, seconds: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """The compiled form's output and the float64 definition's."""
    frontend = ECGFrontend(spec, in_rate=rate, leads=_LEADS)
    x = _record(rate, seconds, offset)
    expected, _ = run_offline(frontend._plan, x.astype(np.float64), np.ones(x.shape, bool))
    found = frontend.apply(x).x[:, [frontend.spec.leads.index(lead) for lead in _LEADS]]
    return found.astype(np.float64), expected


def _decibel(spec: SignalSpec | str, rate: float, seconds: float = 10.0, offset: float = 0.0) -> float:
    found, expected = _both(spec, rate, seconds, offset)
    centred = expected - expected.mean(-1, keepdims=True)
    return float(10 * np.log10((centred**2).sum() / ((found - expected) ** 2).sum()))


def _largest(spec: str, rate: float) -> float:
    found, expected = _both(spec, rate, 10.0, 0.0)
    return float(np.abs(found - expected).max())


def _offset_loss(rate: float) -> float:
    """dB lost by 1 V."""
    return _decibel("poly", rate) - _decibel("poly", rate, offset=1000.0)


_CAPPED = """
from bench.frontend.offline import entries
from bench.harness import minima
from xecg import _cpu
_cpu.set_num_threads(1)
best = {}
for entry in entries():
    if entry.id == "frontend.%s":
        entry.check()
        best = minima({"ours": entry.run, "scipy": entry.peers["scipy float64"]}, 0.5)
print(best["scipy"][1] / best["ours"][1])
"""


def _ratio(shape: str, isa: str) -> float:
    """Times faster than scipy with XECG_CPU_ISA set, in a process of its own."""
    environment = {**os.environ, "XECG_CPU_ISA": isa, "XECG_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _CAPPED % shape],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


_DAY = """
import numpy as np
from xecg.signal import STANDARD_LEADS, ECGFrontend
stream = ECGFrontend("causal", in_rate=500.0, leads=STANDARD_LEADS).stream()
chunk = np.random.default_rng(0).normal(0, 0.5, (12, 5000)).astype(np.float32)
outputs = sum(stream.push(0, chunk).x.shape[1] for _ in range(24 * 360))
assert outputs == 24 * 3600 * 100, outputs
lines = open("/proc/self/status").read().splitlines()  # ru_maxrss would count the parent, which forked this process
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""


def _day_streamed() -> float:
    done = subprocess.run([sys.executable, "-c", _DAY], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def entries() -> list[Measure]:
    """Accuracy against the float64 definition, AVX2 (60 % of the bars of the full instruction set), memory."""
    rows: list[tuple[str, str, str, Callable[[], float], float, bool]] = [
        ("resampling", "500>100", "dB", partial(_decibel, SignalSpec(), 500.0), 110.0, False),
        ("band-pass", "500>100", "dB", partial(_decibel, "poly", 500.0), 95.0, False),
        ("band-pass.tiles", "500>100", "dB", partial(_decibel, "poly", 500.0, 120.0), 95.0, False),
        ("band-pass.largest", "500>100", "z", partial(_largest, "poly", 500.0), 2e-4, True),
        ("0.05Hz", "1000", "dB", partial(_decibel, _SLOW, 1000.0), 90.0, False),
        ("0.05Hz.tiles", "1000", "dB", partial(_decibel, _SLOW, 1000.0, 120.0), 90.0, False),
        ("offset of 1 V costs", "500>100", "dB", partial(_offset_loss, 500.0), 3.0, True),
        ("avx2", "64x12x5000@500", "x scipy", partial(_ratio, "64x12x5000@500", "avx2"), 10.8, False),
        ("avx2", "64x12x1000@100", "x scipy", partial(_ratio, "64x12x1000@100", "avx2"), 8.4, False),
        ("avx2", "64x12x2570@257", "x scipy", partial(_ratio, "64x12x2570@257", "avx2"), 8.4, False),
        ("day streamed", "12x43200000@500", "MiB", _day_streamed, 190.0, True),  # 200 MB
    ]  # fmt: skip
    return [
        Measure(id=f"frontend.{name}.{shape}", op="frontend", shape=shape, unit=unit, run=run, bar=bar, at_most=most)
        for name, shape, unit, run, bar, most in rows
    ]
