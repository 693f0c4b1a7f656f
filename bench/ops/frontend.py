"""The offline front end beside scipy's float64 chain (and neurokit2, soxr where installed): filters, resampling, z-score."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy import signal

from bench.harness import Bench
from xecg.signal import STANDARD_LEADS, ECGFrontend

__all__ = ["entries"]

_SHAPES = ((500.0, 5000, 18.0, 30.0), (100.0, 1000, 14.0, 22.0), (257.0, 2570, 14.0, 22.0))  # Hz, samples, bar, aim
_BATCH = 64


def _records(rate: float, n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(n) / rate
    beats = np.exp(-(((t * 1.2) % 1 - 0.5) ** 2) / 2e-4)
    return (beats + rng.normal(0, 0.05, (_BATCH, 12, n)) + rng.normal(0, 0.5, (_BATCH, 12, 1))).astype(np.float32)


def _scipy_chain(x: np.ndarray, rate: float) -> np.ndarray:
    sos = signal.butter(3, (0.5, 40.0), "bandpass", fs=rate, output="sos")
    y = signal.sosfiltfilt(sos, x.astype(np.float64), axis=-1)
    if rate != 100.0:
        y = signal.resample_poly(y, 100, int(rate), axis=-1)
    return (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True)


def entries() -> list[Bench]:
    """`poly` preset from float32 mV and from int16 counts; one long lead."""
    made = []
    for rate, n, bar, aim in _SHAPES:
        x = _records(rate, n)
        frontend = ECGFrontend("poly", in_rate=rate, leads=STANDARD_LEADS)
        made.append(_entry(f"{_BATCH}x12x{n}@{rate:g}", x, rate, lambda f=frontend, x=x: f.apply(x), bar, aim))
        counts = np.round(x * 1000).astype(np.int16)
        made.append(
            _entry(
                f"{_BATCH}x12x{n}@{rate:g}.counts",
                counts / np.float32(1000),
                rate,
                lambda f=frontend, c=counts: f.apply(c, gain=1000.0),
                bar,
                aim,
            )
        )
    return made


def _entry(name: str, x: np.ndarray, rate: float, run: Callable[[], object], bar: float, aim: float) -> Bench:
    def right() -> None:
        np.testing.assert_allclose(run().x, _scipy_chain(x, rate), atol=2e-4)  # type: ignore[attr-defined]

    peers: dict[str, Callable[[], object]] = {"scipy float64": lambda: _scipy_chain(x, rate)}
    if find_spec("soxr"):
        import soxr

        wide = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)
        peers["soxr (resampling alone)"] = lambda: soxr.resample(wide, rate, 100.0)
    return Bench(
        id=f"frontend.{name}",
        op="frontend",
        shape=name,
        dtype="int16" if "counts" in name else "float32",
        run=run,
        check=right,
        peers=peers,
        bytes=float(x.size * (2 if "counts" in name else 4) + x.size / rate * 100 * 4),
        bar=bar,
        aim=aim,
    )
