"""What a table of measurements knows: rhythm and the sizes of the waves of each detected beat, with age and sex. No learning.

Measured on the recording itself, in fixed windows around each beat that `xecg.signal.qrs` finds, from the level just before
the QRS complex. A cardiograph's measurements, made simply: a model that does not beat them has learned no more than sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchecg.models.base import Tokens
from benchecg.models.baselines import peaks_s, person, rr_tokens
from xecg.signal import STANDARD_LEADS, Recording
from xecg.signal.leads import canonical_leads

__all__ = ["Waves"]

# Windows in s from the R peak: usual extents at rest, wide enough for a tachycardia's and a bundle branch block's.
_LEVEL = (-0.08, -0.05)
_P, _Q, _R, _S, _ST, _T = (-0.22, -0.08), (-0.06, 0.0), (-0.06, 0.06), (0.0, 0.08), (0.09, 0.11), (0.12, 0.42)
_QRS, _SLOPE = (-0.06, 0.08), (-0.12, 0.12)
_STEEP = 0.15  # share of the steepest slope that is still QRS
_BEFORE_S, _AFTER_S = 0.25, 0.45
_BEATS = 500  # cut out at once
_SIZES = 7  # per lead
_TIMES = 2


class Waves:
    """One token a detected beat: person (4), RR (8), waves of the twelve leads in mV (84), QRS width and T peak in s (2), leads that
    are there (12)."""

    id = "waves"
    fingerprint = "waves-1"
    spec_hash = ""
    trained: bool | None = None
    about = "age and sex (where the task does not ask for them), RR intervals, sizes of P, Q, R, S, ST, T and QRS in each lead"
    pretrained_on: tuple[str, ...] | None = ()

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """One token a detected beat, of 110 numbers; a recording with fewer than three beats gives one token."""
        return [self._one(r) for r in recordings]

    def _one(self, recording: Recording) -> Tokens:
        peak_s = peaks_s(recording)
        rhythm = rr_tokens(recording, peak_s)
        waves = _waves(recording, np.round(peak_s * recording.rate).astype(int))
        if len(waves) != len(rhythm.values):  # too few beats for a token each
            waves = waves.mean(0, keepdims=True) if len(waves) else np.zeros((1, waves.shape[1]))
        same = np.tile(person(recording), (len(waves), 1))
        values = np.concatenate([same, rhythm.values, waves], 1).astype(np.float32)
        return Tokens(values, rhythm.start_s, rhythm.length_s)


def _waves(recording: Recording, at: np.ndarray) -> np.ndarray:
    """(beats, 12 leads · sizes + times + 12 flags)."""
    names = canonical_leads(recording.leads)
    rows = {lead: names.index(lead) for lead in STANDARD_LEADS if lead in names}
    used = [i for i in rows.values() if recording.mask[i].any()]
    out = np.zeros((len(at), len(STANDARD_LEADS) * (_SIZES + 1) + _TIMES))
    if not used or not len(at):
        return out
    before, after = (max(1, round(s * recording.rate)) for s in (_BEFORE_S, _AFTER_S))
    padded = np.pad(recording.signal[used], ((0, 0), (before, after)), mode="edge")
    offsets = np.arange(before + after + 1)
    slots = [k for k, lead in enumerate(STANDARD_LEADS) if lead in rows and rows[lead] in used]
    leads = [used.index(rows[STANDARD_LEADS[k]]) for k in slots]
    for first in range(0, len(at), _BEATS):
        beats = padded[:, at[first : first + _BEATS, None] + offsets]  # (leads, beats, samples)
        sizes, times = _measure(beats, before, recording.rate)
        part = out[first : first + _BEATS]
        for k, lead in zip(slots, leads):
            part[:, k * _SIZES : (k + 1) * _SIZES] = sizes[lead]
        part[:, len(STANDARD_LEADS) * _SIZES :][:, :_TIMES] = times
    out[:, -len(STANDARD_LEADS) :][:, slots] = 1
    return out


def _measure(beats: np.ndarray, zero: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (leads, beats, 7) in mV and times (beats, 2) in s of beats (leads, beats, samples) with R at sample `zero`."""

    def within(span_s: tuple[float, float], x: np.ndarray) -> np.ndarray:
        start = max(0, zero + round(span_s[0] * rate))
        return x[..., start : max(zero + round(span_s[1] * rate), start + 1)]

    y = beats - np.median(within(_LEVEL, beats), axis=-1, keepdims=True)
    sizes = (
        _extreme(within(_P, y)), within(_Q, y).min(-1), within(_R, y).max(-1), within(_S, y).min(-1),
        within(_ST, y).mean(-1), _extreme(within(_T, y)), np.abs(within(_QRS, y)).mean(-1),
    )  # fmt: skip
    slope = np.sqrt((np.diff(within(_SLOPE, y), axis=-1) ** 2).sum(0))  # (beats, samples), over all leads
    if not slope.shape[-1]:
        return np.stack(sizes, -1), np.zeros((beats.shape[1], _TIMES))
    steep = slope > _STEEP * slope.max(-1, keepdims=True)
    width = np.where(steep.any(-1), slope.shape[-1] - steep.argmax(-1) - steep[:, ::-1].argmax(-1), 0) / rate
    repolarisation = np.abs(within(_T, y)).sum(0).argmax(-1) / rate + _T[0]
    return np.stack(sizes, -1), np.stack([width, repolarisation], -1)


def _extreme(x: np.ndarray) -> np.ndarray:
    """The value farthest from 0 along the last axis, with its sign."""
    return np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
