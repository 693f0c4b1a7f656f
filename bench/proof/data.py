"""The features that the proof compares, and the recordings it takes them from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchecg.models.baselines import RRIntervals
from benchecg.models.xecg import XECGAdapter
from benchecg.tasks.base import TaskData
from xecg import XECG, read
from xecg.errors import ReadError
from xecg.io import find_records
from xecg.pretrain.beats import find_beats
from xecg.signal import PRESETS, Recording, preprocess, qrs, simulate

__all__ = ["beat_features", "classical", "encoder", "heart_rates", "pooled", "real_windows", "simulated"]

Source = Callable[[Recording], tuple[np.ndarray, np.ndarray]]  # → start (s) of each row, rows


def encoder(model: XECG) -> Source:
    """Tokens of a model. A causal one is asked a token later, when it has seen the whole beat."""
    adapter = XECGAdapter(model, id="proof")
    step = model.spec.patch / (model.spec.rate or 1.0)

    def of(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
        tokens = adapter.features([recording])[0]
        return tokens.start_s - step * model.config.causal, tokens.values

    return of


def classical(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """RR intervals of the detected beats, and the shape of each on lead II (zeros where it is cut off)."""
    tokens = RRIntervals().features([recording])[0]
    x, _ = preprocess(recording, PRESETS["poly"])
    waves = find_beats(recording, x, 100.0, second=1).waves
    if len(waves) != len(tokens.values):
        waves = np.zeros((len(tokens.values), waves.shape[1]), np.float32)
    return tokens.start_s, np.concatenate([tokens.values, np.nan_to_num(waves)], 1)


def beat_features(data: TaskData, source: Source) -> np.ndarray:
    """float32 (beats, D): the row that holds each beat's R peak."""
    out = []
    for i, record in enumerate(data.records):
        start, rows = source(read(record.path).with_(annotations=None))
        at = np.searchsorted(start, data.time_s[data.record == i], side="right") - 1
        out.append(rows[np.clip(at, 0, len(rows) - 1)])
    return np.concatenate(out).astype(np.float32)


def pooled(model: XECG, recordings: Sequence[Recording]) -> np.ndarray:
    """float32 (recordings, D): the mean of each one's tokens."""
    adapter = XECGAdapter(model, id="proof")
    return np.stack([adapter.features([r])[0].values.mean(0) for r in recordings])


def simulated(count: int) -> list[Recording]:
    """Records that no training saw: another simulator's, 40–160 beats a minute."""
    rng = np.random.default_rng(77)
    rates, seeds = rng.uniform(40, 160, count), 10**9 + np.arange(count)
    return [
        simulate.ecg(seed=int(s), rate_hz=250.0, heart_rate_bpm=float(r), noise=float(rng.uniform(0.2, 3)))
        for s, r in zip(seeds, rates)
    ]


def heart_rates(recordings: Sequence[Recording]) -> np.ndarray:
    """Beats a minute of each, by its annotations where it has any beats, else by the detector; NaN below three beats."""
    out = []
    for r in recordings:
        at = r.annotations.sample if r.annotations is not None and len(r.annotations) else qrs.detect(r.signal, r.rate)
        out.append(60 * r.rate / np.diff(at).mean() if len(at) > 2 else np.nan)
    return np.array(out)


def real_windows(root: Path, data: TaskData) -> dict[str, list[Recording]]:
    """10-s windows of MIT-BIH, one a minute, with the true beats; whole records of the Challenge 2021 sets."""
    mit = []
    for i, record in enumerate(data.records):
        whole, times = read(record.path), data.time_s[data.record == i]
        for start in range(30, 1780, 60):
            first, n = int(start * whole.rate), int(10 * whole.rate)
            at = np.round((times[(times >= start) & (times < start + 10)] - start) * whole.rate).astype(np.int64)
            if len(at) > 2:
                cut = {"signal": whole.signal[:, first : first + n], "mask": whole.mask[:, first : first + n]}
                marks = type(whole.annotations)(at, ("N",) * len(at)) if whole.annotations is not None else None
                mit.append(whole.with_(**cut, annotations=marks))
    out = {"mit-bih": mit}
    for name in ("HR", "A"):
        found = []
        for path in find_records(root / "challenge-2021" / name):
            try:
                found.append(read(path))
            except ReadError:
                continue
        out[f"challenge-2021/{name}"] = found
    return out
