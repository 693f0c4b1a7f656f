"""What is known about the beats of a training window without a human label, and how it falls on the tokens of a view.

Simulated records know their beats and classes. In real ones `xecg.signal.qrs` finds them, and the class stays unknown. Shapes are
taken from lead II of the model's input: samples of the beat and of its difference from the window's median beat, their
correlation, energy and width. Intervals are taken from the beats that lie inside a view, so nothing is asked that it cannot show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xecg.pretrain.synthetic import kind_of
from xecg.signal import Recording, qrs

__all__ = ["NO_BEATS", "VALUES", "Beats", "Targets", "find_beats", "token_targets"]

_BEFORE, _AFTER = 0.27, 0.32  # s of signal round an R peak
_QRS = np.arange(-0.12, 0.125, 0.02)  # s after the R peak, of the samples taken
_P_AND_T = np.array([-0.24, -0.21, -0.18, -0.15, 0.16, 0.20, 0.25, 0.30])
_SHAPE = len(_QRS) + len(_P_AND_T)
_WAVES = 2 * _SHAPE + 3  # beat, difference from the median beat, correlation, energy, width
_INTERVALS = 9
VALUES = _WAVES + _INTERVALS  # numbers a token is asked for
_LOCAL = 5  # intervals either side that make the local mean
_FEWEST = 3  # of them, for a mean to be asked for


class Beats(NamedTuple):
    """time float32 (n,): samples of the window · kind int8 (n,): index into `KINDS`, −1 unknown · waves float32 (n, 45)."""

    time: np.ndarray
    kind: np.ndarray
    waves: np.ndarray


NO_BEATS = Beats(np.zeros(0, np.float32), np.zeros(0, np.int8), np.zeros((0, _WAVES), np.float32))


class Targets(NamedTuple):
    """Of T tokens: beat float32 (T,), 1 where one falls · kind int64 (T,), −1 unknown · values float32 (T, VALUES), NaN unknown."""

    beat: np.ndarray
    kind: np.ndarray
    values: np.ndarray


def find_beats(recording: Recording, x: np.ndarray, rate_hz: float, *, second: int) -> Beats:
    """The beats of a whole recording in x (leads, n), the front end's output at rate_hz; second: the row of lead II."""
    marks = recording.annotations
    if recording.meta.get("synthetic") and marks is not None:
        kept = [(s, kind_of(c)) for s, c in zip(marks.sample.tolist(), marks.symbol) if kind_of(c) >= 0]
        at, kind = np.array([s for s, _ in kept], float), np.array([k for _, k in kept], np.int8)
    else:
        at = np.asarray(qrs.detect(recording.signal, recording.rate), float)
        kind = np.full(len(at), -1, np.int8)
    time = at * rate_hz / recording.rate
    return Beats(time.astype(np.float32), kind, _waves(x[second], time, rate_hz))


def _waves(lead: np.ndarray, time: np.ndarray, rate_hz: float) -> np.ndarray:
    """float32 (n, 45), NaN where the beat is cut off."""
    out = np.full((len(time), _WAVES), np.nan, np.float32)
    whole = np.flatnonzero((time >= _BEFORE * rate_hz) & (time < len(lead) - _AFTER * rate_hz - 1))
    if len(whole) < _FEWEST:
        return out
    axis = np.arange(len(lead))
    offsets = np.r_[_QRS, _P_AND_T] * rate_hz
    beat = np.interp(time[whole, None] + offsets, axis, lead)
    median = np.median(beat, 0)
    q = slice(0, len(_QRS))
    a, m = beat[:, q] - beat[:, q].mean(1, keepdims=True), median[q] - median[q].mean()
    power = (a * a).sum(1)
    alike = (a @ m) / np.sqrt(np.maximum(power * (m @ m), 1e-12))
    energy = np.log((power + 1e-3) / (m @ m + 1e-3))
    share = a * a / np.maximum(power, 1e-12)[:, None]
    centre = share @ _QRS
    width = np.sqrt((share * (_QRS - centre[:, None]) ** 2).sum(1))
    columns = (beat, beat - median, alike[:, None], energy[:, None], width[:, None])
    out[whole] = np.concatenate(columns, 1)
    return out


def token_targets(
    beats: Beats, *, start: float, stretch: float, tokens: int, patch: int, rate_hz: float, lag: int
) -> Targets:
    """What the tokens of a view are asked for. start, stretch: of the view, in samples of the window.

    lag: a beat is asked for so many tokens after its own; then (a causal model) nothing is asked that comes after it,
    but for the mean heart rate of the view.
    """
    at = (beats.time - start) / stretch
    inside = np.flatnonzero((at >= 0) & (at < tokens * patch))
    at = at[inside]
    beat, kind = np.zeros(tokens, np.float32), np.full(tokens, -1, np.int64)
    values = np.full((tokens, VALUES), np.nan, np.float32)
    place = (at // patch).astype(int) + lag
    use = place < tokens
    intervals = _intervals(at / rate_hz, causal=lag > 0)
    rows, where = inside[use], place[use]
    beat[where], kind[where] = 1, beats.kind[rows]
    values[where, :_WAVES] = beats.waves[rows]
    values[where, _WAVES : _WAVES + 7] = intervals[use]
    values[where, -2] = at[use] / patch % 1  # where in its token
    if len(at) > _FEWEST:
        values[:, -1] = np.log(np.diff(at).mean() / rate_hz)
        if lag:
            values[: place[_FEWEST], -1] = np.nan
    return Targets(beat, kind, values)


def _intervals(at_s: np.ndarray, *, causal: bool) -> np.ndarray:
    """float32 (n, 7): logs of the interval before, after and of the local mean, both against it, against each other, 1 before."""
    out = np.full((len(at_s), 7), np.nan)
    if len(at_s) < 2:
        return out.astype(np.float32)
    rr = np.log(np.maximum(np.diff(at_s), 0.1))
    out[1:, 0], out[2:, 6] = rr, rr[1:] - rr[:-1]
    if not causal:
        out[:-1, 1] = rr
    for i in range(len(at_s)):
        near = rr[max(0, i - 1 - _LOCAL) : max(0, i - 1) if causal else i + _LOCAL]
        if len(near) >= _FEWEST:
            out[i, 2] = near.mean()
    out[:, 3:5] = out[:, :2] - out[:, 2:3]
    out[:, 5] = np.abs(out[:, 0] - out[:, 1])
    return out.astype(np.float32)
