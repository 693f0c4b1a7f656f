"""The one matcher of true and found peaks: strict, one to one, with an inclusive tolerance. And the one way from a curve to peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xecg.errors import ShapeError

__all__ = ["Matches", "match", "pick"]

_REFRACTORY_S = 0.200  # no two beats of a heart are nearer (AAMI EC57 practice; the QRS detector uses the same)
_SLACK_S = 1e-9  # s, so that times made by floating-point arithmetic still meet the inclusive bound


@dataclass(frozen=True, eq=False)
class Matches:
    """pairs int64 (n, 2): indices into the truth and the found times as given. errors_s (n,): found − truth of each
    pair."""

    pairs: np.ndarray
    true_positive: int
    false_positive: int
    false_negative: int
    errors_s: np.ndarray

    @property
    def sensitivity(self) -> float:
        """True positives over all true peaks; NaN without any."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def ppv(self) -> float:
        """True positives over all found peaks; NaN without any."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def f1(self) -> float:
        """2·TP / (2·TP + FP + FN); NaN without any peak."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)


def match(truth_s: Sequence[float] | np.ndarray, found_s: Sequence[float] | np.ndarray, tolerance_s: float) -> Matches:
    """Pair peaks no further apart than `tolerance_s` (inclusive, 1e-9 s slack), each used once. Times in seconds, any
    order.

    Both are sorted; the two earliest are a pair when close enough, else the earlier one is dropped as missed or
    false. For points on a line and one tolerance this greedy rule gives a maximum matching. Raises ShapeError for
    times that are not finite and 1-D.
    """
    truth, found = _times("truth_s", truth_s), _times("found_s", found_s)
    if not tolerance_s >= 0:
        raise ShapeError(f"tolerance_s is {tolerance_s!r}; needed seconds, 0 or more")
    truth_order, found_order = np.argsort(truth, kind="stable"), np.argsort(found, kind="stable")
    g, p = truth[truth_order].tolist(), found[found_order].tolist()
    bound = tolerance_s + _SLACK_S
    pairs, i, j = [], 0, 0
    while i < len(g) and j < len(p):
        d = p[j] - g[i]
        if abs(d) <= bound:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif d < 0:
            j += 1
        else:
            i += 1
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    original = np.stack([truth_order[chosen[:, 0]], found_order[chosen[:, 1]]], axis=1).astype(np.int64)
    errors = found[original[:, 1]] - truth[original[:, 0]]
    return Matches(original, len(pairs), len(p) - len(pairs), len(g) - len(pairs), errors)


def pick(time_s: np.ndarray, height: np.ndarray, *, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of a curve sampled at ascending `time_s`: their times (s) and heights, ascending in time.

    Local maxima (the middle of a plateau) of at least `theta`; of two nearer than 200 ms the higher; placed between samples by a
    parabola through the three of the top.
    """
    height = np.asarray(height, float)
    run = np.flatnonzero(np.r_[True, height[1:] != height[:-1]])  # first sample of each run of equal values
    level = height[run]
    padded = np.r_[-np.inf, level, -np.inf]
    top = np.flatnonzero((level > padded[:-2]) & (level > padded[2:]) & (level >= theta))
    last = np.r_[run[1:], len(height)] - 1
    at = (run[top] + last[top]) // 2
    kept = _strongest_apart(time_s[at], height[at])
    return _between(time_s, height, at[kept]), height[at[kept]]


def _strongest_apart(time_s: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Indices kept, ascending: from the highest down, none nearer than the refractory time to one already kept."""
    free = np.ones(len(time_s), bool)
    kept = []
    for i in np.argsort(-height, kind="stable").tolist():
        if free[i]:
            kept.append(i)
            first, last = np.searchsorted(time_s, [time_s[i] - _REFRACTORY_S, time_s[i] + _REFRACTORY_S])
            free[first:last] = False
    return np.array(sorted(kept), dtype=np.int64)


def _between(time_s: np.ndarray, height: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The top of the parabola through each sample and its neighbours, at most half a step away; the sample itself at an edge."""
    inner = np.clip(at, 1, max(1, len(height) - 2))
    if len(height) < 3:
        return time_s[at]
    left, mid, right = height[inner - 1], height[inner], height[inner + 1]
    bend = left - 2 * mid + right
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = np.where(bend < 0, 0.5 * (left - right) / bend, 0.0)
    shift = np.where(inner == at, np.clip(shift, -0.5, 0.5), 0.0)
    step = np.where(shift < 0, time_s[inner] - time_s[inner - 1], time_s[inner + 1] - time_s[inner])
    return time_s[at] + shift * step


def _times(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    a = np.asarray(values, dtype=np.float64)
    if a.ndim != 1 or not np.isfinite(a).all():
        raise ShapeError(
            f"{name} has shape {a.shape} with {int((~np.isfinite(a)).sum())} not finite; needed finite times (n,)"
        )
    return a


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
