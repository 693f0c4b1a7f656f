"""Baselines that any encoder should beat: a constant, the rhythm alone, the rhythm with age and sex.

They see what the encoders see. Beats are found by `xecg.signal.qrs`, never taken from the annotations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchecg.models.base import Tokens
from xecg.signal import Recording

__all__ = ["Constant", "Demographics", "RRIntervals", "peaks_s", "person", "rr_tokens"]

_LOCAL = 5  # RR intervals each side that a beat is compared with: about 10 beats, as de Chazal et al. 2004 for the local mean
_AGE_CENTRE = 50.0  # years; stands for an unknown age, with a flag beside it


class Constant:
    """One feature, always 1: the head can only learn the training set's majority, prevalence or mean. The floor of a metric."""

    id = "majority"
    fingerprint = "constant-1"
    spec_hash = ""
    trained: bool | None = None
    about = "constant predictor: the training set's majority or mean"
    pretrained_on: tuple[str, ...] | None = ()

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """One token a recording, value 1."""
        return [_whole(np.ones(1, np.float32), r) for r in recordings]


class RRIntervals:
    """Four RR features of each detected beat (previous, next, local mean, record mean), as logarithms, with their contrasts.

    The feature family is that of de Chazal et al. 2004 (section on RR intervals), on our own detections: a detected beat's token
    reaches half way to its neighbours, so a missed beat takes the features of the nearest one.
    """

    id = "rr"
    fingerprint = "rr-1"
    spec_hash = ""
    trained: bool | None = None
    about = "RR intervals around each detected beat, no waveform"
    pretrained_on: tuple[str, ...] | None = ()

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """One token a detected beat; a recording with fewer than three beats gives one token that says so."""
        return [self._one(r) for r in recordings]

    def _one(self, recording: Recording) -> Tokens:
        return rr_tokens(recording, peaks_s(recording))


class Demographics:
    """Age, sex and the heart rate with its variability: what a table knows before anyone looks at the waveform."""

    id = "age-sex"
    fingerprint = "age-sex-1"
    spec_hash = ""
    trained: bool | None = None
    about = "age and sex (where the task does not ask for them), heart rate and its variability"
    pretrained_on: tuple[str, ...] | None = ()

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """One token a recording."""
        return [_whole(np.array([*person(r), *_rhythm(r)], np.float32), r) for r in recordings]


def _whole(values: np.ndarray, recording: Recording) -> Tokens:
    return Tokens(values[None], start_s=np.zeros(1), length_s=np.array([recording.duration_s]))


def peaks_s(recording: Recording) -> np.ndarray:
    """Detected beats of a recording, s, ascending."""
    from xecg.signal import qrs

    return np.asarray(qrs.detect(recording.signal, recording.rate)) / recording.rate


def person(recording: Recording) -> tuple[float, ...]:
    """Age in years (50 where unknown), age unknown, male, female."""
    age, sex = recording.meta.get("age"), recording.meta.get("sex")
    years = _AGE_CENTRE if age is None else float(age)
    return years, float(age is None), float(sex == "M"), float(sex == "F")


def _rhythm(recording: Recording) -> tuple[float, ...]:
    rr = np.diff(peaks_s(recording))
    if len(rr) < 2:
        return 0.0, 0.0, 0.0, 1.0
    return (
        float(np.log(rr.mean())),
        float(rr.std() / rr.mean()),
        float(np.sqrt(np.mean(np.diff(rr) ** 2)) / rr.mean()),
        0.0,
    )


def rr_tokens(recording: Recording, peak_s: np.ndarray) -> Tokens:
    """Eight RR features of each beat, its token half way to its neighbours; one token with a flag under three beats."""
    if len(peak_s) < 3:
        return _whole(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.float32), recording)
    rr = np.log(np.diff(peak_s))
    before, after = np.r_[rr[0], rr], np.r_[rr, rr[-1]]
    local = np.array([before[max(0, i - _LOCAL) : i + _LOCAL + 1].mean() for i in range(len(before))])
    mean = np.full_like(local, rr.mean())
    columns = (
        before,
        after,
        local,
        mean,
        before - local,
        after - local,
        np.abs(before - after),
        np.zeros_like(mean),
    )
    middle = (peak_s[1:] + peak_s[:-1]) / 2
    edges = np.r_[0.0, middle, recording.duration_s]
    return Tokens(np.stack(columns, 1).astype(np.float32), start_s=edges[:-1], length_s=np.diff(edges))
