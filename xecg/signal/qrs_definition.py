"""The definition of the causal QRS detector: finds beats in a stream as in a record, with the same result however the samples are cut.

Method, after Pan and Tompkins, IEEE Trans. Biomed. Eng. 32:230 (1985), and the decision rules of Hamilton and
Tompkins, ibid. 33:1157 (1986): band-pass, derivative, square, moving integration; a peak of the result is a beat when
it stands above a threshold between the medians of the last eight beats and the last eight rejected peaks. Deviations:
causal Butterworth 5–20 Hz instead of the integer filters; a 10-ms difference as derivative; the root of the integral,
so that large ectopic beats move the threshold less; candidates are maxima over ±150 ms; a rejected peak is taken back
when no beat came for 1.66 median RR; the peak is placed on the 0.5–40 Hz signal, on the R wave unless an S or Q wave is
clearly larger, as annotators do. Numbers were chosen on the DS1 half of the MIT-BIH Arrhythmia Database alone.

csrc/cpu/qrs.h is the same in C++, and serves `xecg.signal.qrs` where it is built.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CLEAR", "Definition", "numbers", "peakedness"]

_BAND_HZ, _PEAK_BAND_HZ = (5.0, 20.0), (0.5, 40.0)
_DIFFERENCE_S, _WINDOW_S = 0.010, 0.100
# The R peak is the extremum near the point that stands out most from the mean 50 ms either side.
_ARM_S, _NEAR_S = 0.050, 0.025
_R_SHARE = 0.8  # of the deepest point's size is enough for the highest one to be the R peak
CLEAR = 3.0  # excess kurtosis of a lead with beats that stand out: of noise it is 0, of clean leads mostly 5..20
_ALONE_S = 0.150  # a candidate is the highest point this far to both sides
_REFRACTORY_S = 0.200
_T_WAVE_S, _T_SLOPE = 0.360, 0.5  # a peak this soon after a beat with less than this share of its slope is a T wave
_THRESHOLD = 0.45  # of the way from noise to beats
_NOISE_SHARE = (
    0.7  # of the beats' level is the most that counts as noise: a clean regular signal has no peak but its beats
)
_SEARCH_RR, _SEARCH_SHARE = 1.66, 0.6  # search back after this many RR, with this share of the threshold
_LEARN_S = 2.0  # nothing is decided before this much signal was seen
_MOST_REJECTED = 256  # peaks kept for searching back: 38 s of them at least
_MEMORY = 8  # beats, rejected peaks and RR intervals that the medians run over
_RELEARN_S, _RELEARN_SHARE = (
    4.0,
    0.1,
)  # without a beat for so long, and peaks of this share of the former beats: thresholds anew
_LONGEST_RR_S = 3.0  # longer intervals are pauses or lead-off: not learned
_FLOOR_MV = 1e-6  # a smaller slope is silence
_MOST_SAMPLES = 2**53  # whole numbers up to here are float64


class _Candidate(NamedTuple):
    """at: sample of the strength's peak. slope: steepest 10-ms difference under it. peak: sample of the R peak."""

    at: int
    strength: float
    slope: float
    peak: int


class Definition:
    """Beats of one lead as they come: what `xecg.signal.qrs.Detector` promises, in numpy. rate_hz: 50..20,000 Hz."""

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = float(rate_hz)
        self._filters = [_band_pass(band, self.rate_hz) for band in (_BAND_HZ, _PEAK_BAND_HZ)]
        self._group = [round(f.delay_s * self.rate_hz) for f in self._filters]
        self._lag = max(1, round(_DIFFERENCE_S * self.rate_hz))
        self._window = max(1, round(_WINDOW_S * self.rate_hz))
        self._alone = round(_ALONE_S * self.rate_hz)
        self._near, self._arm = round(_NEAR_S * self.rate_hz), round(_ARM_S * self.rate_hz)
        self._keep = self._alone + 2 * (self._window + self._lag) + self._group[0]
        self._states: list[np.ndarray] | None = None
        self._last_value = 0.0
        self._seen = 0  # samples pushed
        self._looked = 0  # samples searched for candidates
        # rows: band-passed, squared difference, strength, peak signal; columns: samples from _looked − _keep to _seen
        self._history = np.zeros((4, self._keep))
        self._waiting: list[_Candidate] = []
        self._judge: _Judge | None = None

    @property
    def delay_s(self) -> float:
        """Longest time from an R peak to its decision, but for search-back and the first 2 s."""
        return (self._group[0] + self._lag + self._window + self._alone) / self.rate_hz

    def push(self, x: np.ndarray) -> list[int]:
        """Samples float64 (n,) in mV, any n → the beats now decided."""
        if not len(x):
            return []
        self._extend(self._without_holes(x))
        return self._decide(self._seen - self._alone)

    def flush(self) -> list[int]:
        """The beats of the last samples, judged with what is there. Push no more."""
        self._history = np.pad(self._history, ((0, 0), (0, self._arm)), mode="edge")
        return self._decide(self._seen, final=True)

    def save(self) -> np.ndarray:
        """Everything that it remembers, float64: samples seen, samples searched, last value, whether it has begun; four numbers of
        state of either filter; the four rows of signals, from `_keep` before the samples searched to the last one seen; candidates
        that wait; whether it judges, and then beats, rejected strengths, RR intervals, where the silence began, whether there is a
        last beat, that beat, rejected candidates. Before a list goes its length; a candidate is its four fields.
        """
        states = np.zeros(8) if self._states is None else np.concatenate([z.ravel() for z in self._states])
        head = [self._seen, self._looked, self._last_value, self._states is not None, *states.tolist()]
        tail = [*_listed(self._waiting), self._judge is not None]
        if self._judge is not None:
            tail += self._judge.save()
        return np.concatenate([head, self._history.ravel(), tail])

    def restore(self, state: np.ndarray) -> bool:
        """Continue what `save` wrote at this rate; False, and nothing is changed, where it is not that."""
        saved = _Saved(state.tolist())
        try:
            seen = saved.count(_MOST_SAMPLES)
            looked, last_value, begun = saved.count(seen), saved.number(), saved.count(1)
            states = [np.reshape(saved.numbers(4), (2, 2)) for _ in range(2)]
            columns = self._keep + seen - looked
            history = np.reshape(saved.numbers(4 * columns), (4, columns))
            waiting = saved.candidates(seen)
            judge = _Judge.restored(self.rate_hz, saved, seen) if saved.count(1) else None
            saved.end()
        except ValueError:
            return False
        self._seen, self._looked, self._last_value = seen, looked, last_value
        self._states, self._history = states if begun else None, history
        self._waiting, self._judge = waiting, judge
        return True

    def _without_holes(self, x: np.ndarray) -> np.ndarray:
        finite = np.isfinite(x)
        if not finite.all():
            newest = np.maximum.accumulate(np.where(finite, np.arange(len(x)), -1))
            x = np.where(newest >= 0, x[np.maximum(newest, 0)], self._last_value)
        self._last_value = float(x[-1])
        return x

    def _extend(self, x: np.ndarray) -> None:
        """Filter new samples into the history; every step is a recurrence in time or a sum in fixed order."""
        from scipy import signal

        if self._states is None:
            self._states = [f.step * x[0] for f in self._filters]
        old, n = self._history.shape[1], len(x)
        h = np.concatenate([self._history, np.zeros((4, n))], axis=1)
        for row, which in ((0, 0), (3, 1)):
            h[row, old:], self._states[which] = signal.sosfilt(self._filters[which].sos, x, zi=self._states[which])
        h[1, old:] = (h[0, old:] - h[0, old - self._lag : old - self._lag + n]) ** 2
        h[2, old:] = np.sqrt(_moving_sum(h[1, old - self._window + 1 :], self._window) / self._window)
        self._history = h
        self._seen += n

    def _decide(self, until: int, *, final: bool = False) -> list[int]:
        self._waiting += self._candidates(until)
        learned = round(_LEARN_S * self.rate_hz)
        if self._judge is None:
            if self._looked < learned and not final:
                return []
            self._judge = _Judge(self.rate_hz, [c for c in self._waiting if c.at < learned])
        found = [beat for c in self._waiting for beat in self._judge.see(c)]
        self._waiting = []
        return found

    def _candidates(self, until: int) -> list[_Candidate]:
        """Peaks of the strength from sample `_looked` up to `until`; then forgets what is no longer needed."""
        from scipy import ndimage

        if until <= self._looked:
            return []
        origin = self._looked - self._keep
        first, last = self._keep, until - origin
        strength = self._history[2]
        here = strength[first:last]
        near = strength[first - self._alone : last + self._alone]
        highest = ndimage.maximum_filter1d(near, 2 * self._alone + 1, mode="constant", cval=-1.0)
        highest = highest[self._alone : self._alone + len(here)]
        peaks = np.flatnonzero((here == highest) & (here > strength[first - 1 : last - 1]) & (here > _FLOOR_MV)) + first
        found = [self._candidate(i, origin) for i in peaks.tolist()]
        self._looked = until
        self._history = self._history[:, until - origin - self._keep :]
        return found

    def _candidate(self, i: int, origin: int) -> _Candidate:
        start = i - self._window - self._lag + 1
        slope = float(np.sqrt(self._history[1, start : i + 1].max()))
        x, k, shift = self._history[3], self._arm, self._group[1] - self._group[0]
        left, right = start + shift, i + 1 + shift
        bend = x[left:right] - (x[left - k : right - k] + x[left + k : right + k]) / 2
        high, low = int(bend.argmax()), int(bend.argmin())
        upright = bend[high] >= -_R_SHARE * bend[low]
        coarse, sign = left + (high if upright else low), 1.0 if upright else -1.0
        near = self._near
        peak = coarse - near + int((sign * x[coarse - near : coarse + near + 1]).argmax())
        return _Candidate(i + origin, float(self._history[2, i]), slope, max(0, peak + origin - self._group[1]))


class _Judge:
    """Decides candidates one after the other."""

    def __init__(self, rate_hz: float, early: list[_Candidate]) -> None:
        self.rate = rate_hz
        self._learn(early, self._level(early, 0, _LEARN_S))
        self.quiet_from = 0
        self.rr: deque[float] = deque(maxlen=_MEMORY)
        self.last: _Candidate | None = None
        self.rejected: list[_Candidate] = []

    def save(self) -> list[float]:
        lists: list[float] = []
        for values in (self.beats, self.noise, self.rr):
            lists += [len(values), *values]
        last = self.last or _Candidate(0, 0.0, 0.0, 0)
        return [*lists, self.quiet_from, self.last is not None, *last, *_listed(self.rejected)]

    @classmethod
    def restored(cls, rate_hz: float, saved: _Saved, seen: int) -> _Judge:
        """Raises ValueError."""
        self = cls(rate_hz, [])
        lists = [saved.numbers(saved.count(_MEMORY)) for _ in range(3)]
        if not lists[0] or not lists[1]:
            raise ValueError("no level")
        self.beats, self.noise, self.rr = (deque(values, _MEMORY) for values in lists)
        self.quiet_from, has_last = saved.count(seen), saved.count(1)
        last = saved.candidate(seen)
        self.last, self.rejected = last if has_last else None, saved.candidates(seen)
        return self

    def _level(self, candidates: list[_Candidate], start: int, seconds: float) -> float:
        """Median over whole seconds of the strongest candidate in each."""
        best = [0.0] * max(1, int(seconds))
        for c in candidates:
            second = int((c.at - start) / self.rate)
            if 0 <= second < len(best):
                best[second] = max(best[second], c.strength)
        return median(best)

    def _learn(self, candidates: list[_Candidate], level: float) -> None:
        self.beats = deque([level], _MEMORY)
        self.noise = deque([min((c.strength for c in candidates), default=0.0)], _MEMORY)

    def see(self, c: _Candidate) -> list[int]:
        """The beats that are decided by seeing one more candidate."""
        found = self._search_back(c)
        found += self._relearn(c)
        since = (c.at - self.last.at) / self.rate if self.last else np.inf
        if since < _REFRACTORY_S:
            return found
        t_wave = self.last is not None and since < _T_WAVE_S and c.slope < _T_SLOPE * self.last.slope
        if c.strength > self._threshold() and not t_wave:
            return [*found, self._accept(c)]
        self.noise.append(c.strength)
        self.rejected.append(c)
        if len(self.rejected) > _MOST_REJECTED:  # hours without a beat must not fill the memory
            self.rejected = self.rejected[_MOST_REJECTED // 2 :]
            self.quiet_from = max(self.quiet_from, self.rejected[0].at)
        return found

    def _relearn(self, now: _Candidate) -> list[int]:
        """After a long silence over smaller peaks (an electrode came off, a burst of noise went): judge them by their
        own level."""
        quiet_s = (now.at - self.quiet_from) / self.rate
        if quiet_s <= _RELEARN_S or not self.rejected:
            return []
        level = self._level(self.rejected, self.quiet_from, quiet_s)
        if level < _RELEARN_SHARE * median(self.beats):
            return []
        again, self.rejected = self.rejected, []
        self._learn(again, level)
        self.quiet_from, self.last = now.at, None
        return [beat for c in again for beat in self.see(c)]

    def _threshold(self) -> float:
        high = median(self.beats)
        low = min(median(self.noise), _NOISE_SHARE * high)
        return low + _THRESHOLD * (high - low)

    def _search_back(self, now: _Candidate) -> list[int]:
        found: list[int] = []
        while self.last is not None:
            rr = median(self.rr) if self.rr else self.rate
            if now.at - self.last.at <= _SEARCH_RR * rr:
                break
            enough = _SEARCH_SHARE * self._threshold()
            early, late = self.last.at + _T_WAVE_S * self.rate, now.at - _REFRACTORY_S * self.rate
            fit = [c for c in self.rejected if early < c.at < late and c.strength > enough]
            if not fit:
                break
            best = max(fit, key=lambda c: (c.strength, c.at))
            later = [c for c in self.rejected if c.at > best.at]
            found.append(self._accept(best))
            self.rejected = later
        return found

    def _accept(self, c: _Candidate) -> int:
        if self.last is not None and c.at - self.last.at < _LONGEST_RR_S * self.rate:
            self.rr.append(c.at - self.last.at)
        self.beats.append(c.strength)
        self.last = c
        self.quiet_from = max(self.quiet_from, c.at)
        self.rejected = []
        return c.peak


class _Saved:
    """Reads what `save` wrote; every method raises ValueError at the first value that cannot be."""

    def __init__(self, values: list[float]) -> None:
        self._values, self._at = values, 0

    def numbers(self, n: int) -> list[float]:
        part = self._values[self._at : self._at + n]
        if len(part) < n:
            raise ValueError("cut")
        self._at += n
        return part

    def number(self) -> float:
        return self.numbers(1)[0]

    def count(self, most: float) -> int:
        value = self.number()
        if not (0 <= value <= most and value == int(value)):
            raise ValueError(f"{value} is no number of 0..{most}")
        return int(value)

    def candidate(self, seen: int) -> _Candidate:
        return _Candidate(self.count(seen), self.number(), self.number(), self.count(seen))

    def candidates(self, seen: int) -> list[_Candidate]:
        return [self.candidate(seen) for _ in range(self.count(len(self._values)))]

    def end(self) -> None:
        if self._at != len(self._values):
            raise ValueError("more than a state")


def _listed(candidates: Iterable[_Candidate]) -> list[float]:
    rows = [float(v) for c in candidates for v in c]
    return [len(rows) // 4, *rows]


def _moving_sum(x: np.ndarray, size: int) -> np.ndarray:
    """Sums of `size` neighbours, (n,) → (n − size + 1,), from sums of 1, 2, 4, …: each the same tree of additions."""
    n = len(x) - size + 1
    total, done, length = np.zeros(n), 0, 1
    while True:
        if size & length:
            total += x[done : done + n]
            done += length
        length *= 2
        if length > size:
            return total
        x = x[: len(x) - length // 2] + x[length // 2 :]


class _Filter(NamedTuple):
    sos: np.ndarray
    step: np.ndarray  # steady state for a constant 1
    delay_s: float  # group delay at 12 Hz, about the middle of the QRS complex's spectrum


@lru_cache(maxsize=32)
def _band_pass(band_hz: tuple[float, float], rate_hz: float, at_hz: float = 12.0) -> _Filter:
    from scipy import signal

    edges = [band_hz[0], min(band_hz[1], 0.45 * rate_hz)]
    sos = signal.butter(2, edges, "bandpass", fs=rate_hz, output="sos")
    w = 2 * np.pi * np.array([at_hz - 0.01, at_hz + 0.01]) / rate_hz
    _, h = signal.sosfreqz(sos, worN=w)
    delay = -np.diff(np.unwrap(np.angle(h)))[0] / np.diff(w)[0] / rate_hz
    return _Filter(sos, signal.sosfilt_zi(sos), float(delay))


@lru_cache(maxsize=32)
def numbers(rate_hz: float) -> tuple[Any, ...]:
    """The numbers of this page for csrc/cpu/qrs.h."""
    d = Definition(rate_hz)
    filters = [(*f.sos.ravel().tolist(), *f.step.ravel().tolist()) for f in d._filters]
    samples = (
        *d._group,
        d._lag,
        d._window,
        d._alone,
        d._near,
        d._arm,
        round(_LEARN_S * rate_hz),
        _MOST_REJECTED,
        _MEMORY,
    )
    rules = (
        _R_SHARE, _THRESHOLD, _NOISE_SHARE, _REFRACTORY_S, _T_WAVE_S, _T_SLOPE, _SEARCH_RR, _SEARCH_SHARE, _RELEARN_S,
        _RELEARN_SHARE, _LEARN_S, _LONGEST_RR_S, _FLOOR_MV,
    )  # fmt: skip
    return *filters, rate_hz, samples, rules


def peakedness(row: np.ndarray, rate_hz: float) -> float:
    """Excess kurtosis of a lead's 5–20 Hz signal: of noise it is 0, of silence −3. row: float64 (n,)."""
    from scipy import signal

    square = signal.sosfilt(_band_pass(_BAND_HZ, rate_hz).sos, np.where(np.isfinite(row), row, 0.0)) ** 2
    power = square.mean()
    return float(np.dot(square, square) / len(square) / power**2) - 3 if power > _FLOOR_MV**2 else -3.0
