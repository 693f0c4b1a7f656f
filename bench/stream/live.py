"""Live streams: 12 leads at 500 Hz through front end, `tiny-causal` and the classical detector, chunks of 250 ms (one token).

Patients are synthetic records of 20 s played round and round from different places. Latency is that of a queue with a real server:
groups of patients fall due one after the other at 80 % of what one thread does in the median, each push is timed, and waiting for the
one before counts. More cores: more processes, each with patients of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.harness import Bench, Measure
from xecg import Stream, load, ops
from xecg.signal import STANDARD_LEADS, ECGFrontend, qrs, simulate
from xecg.signal.qrs_definition import Definition
from xecg.stream import Token

__all__ = ["entries"]

_RATE, _CHUNK = 500, 125
_GROUP = 32  # patients a push
_LOAD = 0.8
_WINDOW_S = 10  # of the peer that computes a window anew for each token


@lru_cache(maxsize=1)
def _records() -> np.ndarray:
    """float32 (records, leads, samples) mV."""
    return np.stack([simulate.ecg(seed=seed, rate_hz=_RATE, duration_s=20.0).signal for seed in range(16)])


class _Ward:
    """n patients of one stream, and where each is in its record."""

    def __init__(self, n: int, *, beats: bool = True) -> None:
        self.stream = Stream(load("tiny-causal"), _RATE, STANDARD_LEADS, n, beats=beats)
        self.names = [f"p{k}" for k in range(n)]
        for name in self.names:
            self.stream.open(name)
        self._steps = _records().shape[-1] // _CHUNK
        self._at = np.arange(n) * 7 % self._steps

    def push(self, first: int, count: int, samples: int = _CHUNK) -> int:
        """The next chunk of some neighbours; returns the number of tokens."""
        records, chunks = _records(), {}
        for k in range(first, first + count):
            at = int(self._at[k]) * _CHUNK
            chunks[self.names[k]] = records[k % len(records), :, at : at + samples]
            self._at[k] = (self._at[k] + samples // _CHUNK) % self._steps
        return sum(isinstance(item, Token) for item in self.stream.push(chunks))


@lru_cache(maxsize=1)
def _rounds() -> np.ndarray:
    """Seconds of one patient's 250 ms, in rounds of 256 patients in pushes of `_GROUP`; four rounds each, as the detector looks once a
    second."""
    ward, seconds = _Ward(256), []
    for _ in range(4):
        ward.push(0, 256)
    for _ in range(12):
        start = time.perf_counter()
        for _ in range(4):
            for first in range(0, 256, _GROUP):
                ward.push(first, _GROUP)
        seconds.append((time.perf_counter() - start) / 1024)
    return np.array(seconds)


def _capacity() -> float:
    """Patients that one thread serves in real time: from the fastest rounds."""
    return _CHUNK / _RATE / float(_rounds().min())


@lru_cache(maxsize=1)
def _latencies() -> np.ndarray:
    """Milliseconds from a group's falling due to its tokens, at `_LOAD` of the capacity on one thread, 12 s of signal."""
    groups = max(1, int(_LOAD * _CHUNK / _RATE / float(np.median(_rounds())) / _GROUP))
    ward, period = _Ward(groups * _GROUP), _CHUNK / _RATE
    for g in range(groups):
        ward.push(g * _GROUP, _GROUP)
    clock, waited = 0.0, []
    gc.collect()
    for k in range(48):
        for g in range(groups):
            due = (k + g / groups) * period
            start = time.perf_counter()
            ward.push(g * _GROUP, _GROUP)
            clock = max(clock, due) + time.perf_counter() - start
            waited.append(clock - due)
    return np.array(waited) * 1e3


def _percentile(q: float) -> Callable[[], float]:
    return lambda: float(np.percentile(_latencies(), q))


def _one_patient() -> float:
    """Mean milliseconds of a 250-ms push of one patient over 2 s (the detector looks every fourth push); the best of many."""
    ward, best = _Ward(1), float("inf")
    for _ in range(60):
        start = time.perf_counter()
        for _ in range(8):
            ward.push(0, 1)
        best = min(best, (time.perf_counter() - start) / 8)
    return best * 1e3


def _state_bytes() -> float:
    """The largest saved stream of 32 patients over 5 s: all that is kept of a patient."""
    ward, most = _Ward(32), 0
    for _ in range(20):
        ward.push(0, 32)
        most = max(most, *(len(ward.stream.save(name)) for name in ward.names))
    return float(most)


def _restore_ms() -> float:
    ward, best = _Ward(8), float("inf")
    for _ in range(8):
        ward.push(0, 8)
    for name in ward.names * 4:
        blob = ward.stream.save(name)
        ward.stream.close(name)
        start = time.perf_counter()
        ward.stream.restore(blob)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def _growth() -> float:
    """Percent that the process grows between the first and the last of 24 simulated hours of two patients."""
    ward, hours = _Ward(2), []
    for _ in range(24):
        for _ in range(3600 // 10):
            ward.push(0, 2, 10 * _RATE // _CHUNK * _CHUNK)
        gc.collect()
        hours.append(_resident())
    return 100 * (hours[-1] / hours[0] - 1)


def _encoder() -> Iterator[Bench]:
    """Front end and encoder for 64 patients: ours, on the reference backend, and windows computed anew for each token."""
    ward, model = _Ward(64, beats=False), load("tiny-causal")
    records = _records()
    frontend = ECGFrontend(model.spec, in_rate=_RATE, leads=STANDARD_LEADS)
    windows = np.stack([records[k % len(records), :, : _WINDOW_S * _RATE] for k in range(64)])
    with ops.use_backend("reference"):
        reference = _Ward(64, beats=False)

    def by_reference() -> None:
        with ops.use_backend("reference"):
            reference.push(0, 64)

    @torch.no_grad()
    def by_windows() -> torch.Tensor:
        return model.encode(torch.from_numpy(frontend.apply(windows).x))[:, -1]

    def right() -> None:
        fresh = _Ward(1, beats=False)
        found = fresh.stream.push(fresh.names[0], records[0]) + fresh.stream.flush(fresh.names[0])
        with torch.no_grad():
            expected = model.encode(torch.from_numpy(frontend.apply(records[0]).x)[None])[0].numpy()
        tokens = np.stack([item.embedding for item in found if isinstance(item, Token)])
        np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))

    yield Bench(
        id="stream.live.64",
        op="stream",
        shape="64x12x125",
        dtype="float32",
        run=lambda: ward.push(0, 64),
        check=right,
        peers={"sliding windows of 10 s": by_windows, "xecg reference backend": by_reference},
    )


def _beats() -> Iterator[Bench]:
    """The classical part: one lead, a minute in pieces of a second; peers get the minute at once, which is in their favour."""
    x = np.tile(_records()[0, 1], 3).astype(np.float64)

    def ours() -> list[int]:
        detector, found = qrs.Detector(_RATE), []
        for at in range(0, len(x), _RATE):
            found += detector.push(x[at : at + _RATE])
        return found + detector.flush()

    def right() -> None:
        if ours() != qrs.detect(x, _RATE).tolist():
            raise AssertionError("the detector depends on how its samples are cut")

    peers: dict[str, Callable[[], object]] = {"xecg at once": lambda: qrs.detect(x, _RATE)}
    if find_spec("neurokit2"):
        import neurokit2

        peers["neurokit2"] = lambda: neurokit2.ecg_peaks(neurokit2.ecg_clean(x, _RATE), _RATE)
    if find_spec("wfdb"):
        from wfdb import processing

        peers["wfdb xqrs"] = lambda: processing.xqrs_detect(x, _RATE, verbose=False)
    yield Bench(
        id="stream.beats.60s", op="stream", shape="1x30000", dtype="float64", run=ours, check=right, peers=peers
    )


def _short_pushes(patients: int) -> Bench:
    """A minute of one lead a patient in pieces of 100 ms, the patients in turn: the compiled detector and its definition in numpy."""
    x, step = np.tile(_records()[0, 1], 3).astype(np.float64), _RATE // 10

    def pushed(make: Callable[[float], Any], seconds: int) -> list[list[int]]:
        detectors = [make(_RATE) for _ in range(patients)]
        found: list[list[int]] = [[] for _ in detectors]
        for at in range(0, seconds * _RATE, step):
            for k, detector in enumerate(detectors):
                found[k] += detector.push(x[at : at + step])
        return found

    def right() -> None:
        if pushed(qrs.Detector, 20) != pushed(Definition, 20):
            raise AssertionError("the compiled detector finds other beats than its definition")

    seconds = max(5, 60 // patients)
    return Bench(
        id=f"stream.beats.push.{patients}", op="stream", shape=f"{patients}x{10 * seconds} pushes of {step}", dtype="float64",
        run=lambda: pushed(qrs.Detector, seconds), check=right, peers={"definition in numpy": lambda: pushed(Definition, seconds)},
    )  # fmt: skip


def entries() -> Iterator[Bench | Measure]:
    """Cost, capacity, latency, size and steadiness of live streams."""
    yield from _encoder()
    yield from _beats()
    yield from (_short_pushes(patients) for patients in (1, 64))
    common: dict[str, Any] = {"op": "stream", "shape": "12 leads, 500 Hz"}
    yield Measure(id="stream.live.patients.core", unit="patients", run=_capacity, bar=1500, aim=3000, **common)
    for q, bar in ((50, None), (99, None), (99.9, 100.0)):
        yield Measure(
            id=f"stream.live.push.p{q}", unit="ms", run=_percentile(q), bar=bar, at_most=bar is not None, **common
        )
    at_most: dict[str, Any] = {"at_most": True, **common}
    yield Measure(id="stream.live.one", unit="ms a token", run=_one_patient, bar=0.5, **at_most)
    yield Measure(id="stream.live.state", unit="bytes", run=_state_bytes, bar=100_000, **at_most)
    yield Measure(id="stream.live.restore", unit="ms", run=_restore_ms, **at_most)
    yield Measure(id="stream.live.growth.24h", unit="%", run=_growth, bar=2.0, **at_most)
