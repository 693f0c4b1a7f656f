"""A record writer and a tiny adapter for the benchmark's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchecg.models import Tokens


class MeanAdapter:
    """A model of two features a second that needs nothing: mean and deviation of lead 0."""

    id = "mean"
    fingerprint = "mean-1"
    spec_hash = ""
    trained = None
    about = "mean and deviation of one lead in each second"
    pretrained_on = ()

    def __init__(self):
        self.calls = 0
        self.seen = []

    def features(self, recordings):
        self.calls += 1
        self.seen += recordings
        return [self._one(r) for r in recordings]

    def _one(self, r):
        n = max(1, int(r.duration_s))
        pieces = np.array_split(r.signal[0], n)
        values = np.array([[p.mean(), p.std()] for p in pieces], np.float32)
        return Tokens(values, start_s=np.arange(n) * r.duration_s / n, length_s=np.full(n, r.duration_s / n))


def write_record(
    folder: Path, name: str, signal: np.ndarray, *, rate: float, leads: list[str], comments=(), marks=None
):
    """A WFDB record as the releases have it: format 16, 1000 counts a mV; marks = (samples, symbols) become NAME.atr."""
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=leads,
        p_signal=signal.T.astype(np.float64),
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),
        baseline=[0] * len(leads),
        comments=list(comments),
        write_dir=str(folder),
    )
    if marks is not None:
        wfdb.wrann(name, "atr", np.array(marks[0]), list(marks[1]), write_dir=str(folder))


class Forgetful(MeanAdapter):
    """Other features at every call: what the self-test must find."""

    def features(self, recordings):
        shift = np.float32(1e-5 * self.calls)
        return [Tokens(t.values + shift, t.start_s, t.length_s) for t in super().features(recordings)]


class BrokenConstructor(MeanAdapter):
    """A user's class with a bug of its own."""

    def __init__(self):
        self.own_bug.value = 1


class Arrays(MeanAdapter):
    """Bare arrays where Tokens are needed."""

    def features(self, recordings):
        return [t.values for t in super().features(recordings)]
