"""The one bootstrap: patients are drawn with replacement, as weights, the same draws for every model compared.

A patient's units stay together, because beats or exams of one heart are not independent. Percentile intervals; paired
differences with p = 2·min(P(d ≤ 0), P(d ≥ 0)), each share as (k + 1)/(B + 1); Holm's step-down over tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchecg.metrics.statistic import Statistic
from xecg.errors import ShapeError

__all__ = ["RESAMPLES", "Difference", "Estimate", "draw_weights", "estimate", "holm", "paired_difference"]

RESAMPLES = 2_000
_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval; None where undefined. undefined: share of the replicates without a value."""

    value: float | None
    low: float | None
    high: float | None
    undefined: float = 0.0


@dataclass(frozen=True)
class Difference:
    """Paired difference a - b of one metric, with its interval and two-sided bootstrap p-value."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    undefined: float = 0.0


def draw_weights(n_clusters: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """float64 (resamples, n_clusters): how often each cluster was drawn; every row sums to n_clusters. Philox, key = seed."""
    if not n_clusters:
        return np.zeros((resamples, 0))
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(0, n_clusters, (resamples, n_clusters))
    flat = drawn + n_clusters * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * n_clusters).reshape(resamples, n_clusters).astype(float)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(replicates: np.ndarray) -> tuple[float | None, float | None, float]:
    known = replicates[np.isfinite(replicates)]
    undefined = 1 - len(known) / len(replicates) if len(replicates) else 1.0
    if not len(known):
        return None, None, undefined
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high), undefined


def estimate(stat: Statistic, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """Every metric of `stat` with its interval."""
    point = stat.point()
    replicates = stat.values(draw_weights(stat.n_clusters, resamples=resamples, seed=seed))
    result = {}
    for i, name in enumerate(stat.names):
        low, high, undefined = _interval(replicates[:, i])
        result[name] = Estimate(_number(point[name]), low, high, undefined)
    return result


def paired_difference(
    a: Statistic, b: Statistic, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """a - b of `metric` on the same draws. Raises ShapeError when the two were not scored on the same clusters."""
    if a.n_clusters != b.n_clusters:
        raise ShapeError(
            f"models were scored on {a.n_clusters} and {b.n_clusters} clusters; a paired test needs the same"
        )
    weights = draw_weights(a.n_clusters, resamples=resamples, seed=seed)
    column_a, column_b = a.names.index(metric), b.names.index(metric)
    replicates = a.values(weights)[:, column_a] - b.values(weights)[:, column_b]
    low, high, undefined = _interval(replicates)
    value = _number(a.point()[metric] - b.point()[metric])
    known = replicates[np.isfinite(replicates)]
    if value is None or not len(known):
        return Difference(value, low, high, None, undefined)
    tail = min((known <= 0).sum(), (known >= 0).sum())
    return Difference(value, low, high, min(1.0, 2 * (int(tail) + 1) / (len(known) + 1)), undefined)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979): max over the smaller ones of (m - rank)·p, at most 1."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
