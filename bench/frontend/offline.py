"""The front end, offline and live, beside scipy's float64 chain (and neurokit2, soxr where installed): filters, resampling, z-score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from scipy import signal

from bench.harness import Bench
from xecg.signal import PRESETS, STANDARD_LEADS, ECGFrontend, SignalSpec

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
    """`poly` preset from float32 mV and from int16 counts; a day of one lead; a neurokit2 job; chunks of 5,000 live patients."""
    made = [_live(), _day(), _cleaned(), _counts()]
    for rate, n, bar, aim in _SHAPES:
        x = _records(rate, n)
        frontend = ECGFrontend("poly", in_rate=rate, leads=STANDARD_LEADS)
        made.append(_entry(f"{_BATCH}x12x{n}@{rate:g}", x, rate, partial(frontend.apply, x), bar, aim))
        counts = np.round(x * 1000).astype(np.int16)
        made.append(
            _entry(
                f"{_BATCH}x12x{n}@{rate:g}.counts",
                counts / np.float32(1000),
                rate,
                partial(frontend.apply, counts, gain=1000.0),
                bar,
                aim,
            )
        )
    return made


def _live() -> Bench:
    """100 ms × 12 leads at 500 Hz of each of 5,000 patients in one call, with running z-score; scipy goes patient by patient (`sosfilt`
    and `upfirdn` with carried state, no z-score). Bar and aim are 2.5 and 1.2 µs a patient against the 77 µs that scipy takes."""
    rate, patients, n = 500.0, 5000, 50
    x = np.random.default_rng(0).normal(0, 0.5, (patients, 12, n)).astype(np.float32)
    frontend = ECGFrontend("causal", in_rate=rate, leads=STANDARD_LEADS)
    stream, slots = frontend.stream(patients), np.arange(patients)
    sos = signal.butter(3, (0.5, 40.0), "bandpass", fs=rate, output="sos")
    h = signal.firwin(101, 1 / 5, window=("kaiser", 5.0))
    states, history = np.zeros((patients, 3, 12, 2)), np.zeros((patients, 12, 100))

    def scipy_chunks() -> None:
        for p in range(patients):
            y, states[p] = signal.sosfilt(sos, x[p], axis=1, zi=states[p])
            joined = np.concatenate([history[p], y], axis=1)
            signal.upfirdn(h, joined, 1, 5, axis=1)[:, 20:30]
            history[p] = joined[:, n:]

    def right() -> None:
        whole = frontend.apply(np.concatenate([x[:5]] * 3, axis=2))
        live = frontend.stream(5)
        parts = [live.push_many(range(5), x[:5]) for _ in range(3)]
        for p in range(5):
            np.testing.assert_array_equal(np.concatenate([chunk[p].x for chunk in parts], axis=1), whole.x[p])
        plain = ECGFrontend(
            SignalSpec(phase="causal", filters=frontend.spec.filters),
            in_rate=rate,
            leads=STANDARD_LEADS,
            initial="zero",
        )
        expected = signal.upfirdn(h, signal.sosfilt(sos, x[0].astype(np.float64), axis=1), 1, 5, axis=1)[:, :10]
        found = plain.stream().push(0, x[0])
        np.testing.assert_allclose(found.x, np.where(found.mask, expected, 0), atol=1e-5)

    return Bench(
        id="frontend.live.5000x12x50@500",
        op="frontend",
        shape="live.5000x12x50@500",
        dtype="float32",
        run=lambda: stream.push_many(slots, x),
        check=right,
        peers={"scipy float64": scipy_chunks},
        bytes=float(patients * 12 * (n + n / 5) * 4),
        bar=77.0 / 2.5,
        aim=77.0 / 1.2,
    )


def _entry(name: str, x: np.ndarray, rate: float, run: Callable[[], object], bar: float, aim: float) -> Bench:
    def right() -> None:
        np.testing.assert_allclose(run().x, _scipy_chain(x, rate), atol=2e-4)  # type: ignore[attr-defined]

    peers: dict[str, Callable[[], object]] = {"scipy float64": lambda: _scipy_chain(x, rate)}
    if rate != 100.0:
        flat = torch.from_numpy(x.reshape(-1, x.shape[-1]))
        peers["torch (FFT resampling alone)"] = lambda: _torch_fft(flat, round(flat.shape[-1] * 100 / rate))
    if find_spec("soxr") and rate != 100.0:
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
        against="scipy float64",
    )


def _torch_fft(x: torch.Tensor, m: int) -> torch.Tensor:
    """`scipy.signal.resample` to fewer samples."""
    return torch.fft.irfft(torch.fft.rfft(x)[..., : m // 2 + 1], n=m) * (m / x.shape[-1])


def _day() -> Bench:
    """24 h of one lead, 360 → 100 Hz, in one call."""
    rate, n = 360.0, 24 * 3600 * 360
    x = np.random.default_rng(0).normal(0, 0.5, (1, n)).astype(np.float32)
    spec = SignalSpec(leads=("II",), filters=PRESETS["poly"].filters, normalise="zscore")
    frontend = ECGFrontend(spec, in_rate=rate, leads=("II",))
    shape = "day.1x31104000@360"

    def right() -> None:
        np.testing.assert_allclose(frontend.apply(x[:, :2_000_000]).x, _scipy_chain(x[:, :2_000_000], rate), atol=2e-5)

    return Bench(
        id=f"frontend.{shape}",
        op="frontend",
        shape=shape,
        dtype="float32",
        run=lambda: frontend.apply(x),
        check=right,
        peers={"scipy float64": lambda: _scipy_chain(x, rate)},
        bytes=float(n * 4 + n / rate * 100 * 4),
        bar=10.0,
        aim=20.0,
    )


def _cleaned() -> Bench:
    """neurokit2's `ecg_clean` and scipy's FFT resampling, lead by lead: the chain of its users."""
    rate = 500.0
    x = _records(rate, 5000)
    frontend = ECGFrontend("poly", in_rate=rate, leads=STANDARD_LEADS)
    entry = _entry("64x12x5000@500.clean", x, rate, partial(frontend.apply, x), 150.0, 220.0)
    if not find_spec("neurokit2"):
        return replace(entry, bar=None, aim=None)
    import neurokit2

    def cleaned() -> None:
        for lead in x.reshape(-1, x.shape[-1]):
            signal.resample(neurokit2.ecg_clean(lead, sampling_rate=int(rate)), 1000)

    return replace(entry, peers={"neurokit2": cleaned}, against="neurokit2")


def _counts() -> Bench:
    """int16 counts must not be slower than float32 mV."""
    rate = 500.0
    x = _records(rate, 5000)
    counts = np.round(x * 1000).astype(np.int16)
    frontend = ECGFrontend("poly", in_rate=rate, leads=STANDARD_LEADS)
    run = partial(frontend.apply, counts, gain=1000.0)
    entry = _entry("64x12x5000@500.counts against float32", counts / np.float32(1000), rate, run, 1.0, 1.0)
    return replace(entry, peers={"own float32": partial(frontend.apply, x)}, against="own float32")
