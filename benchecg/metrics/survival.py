"""Harrell's concordance index with weights; lifelines is the arbiter of the unweighted one."""

from __future__ import annotations

import numpy as np

__all__ = ["concordance", "concordance_many"]


def concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of comparable pairs that the risk orders rightly; NaN when no pair is comparable.

    time (n,), event 0/1 (n,), risk (n,): higher means an earlier event; weights (n,), a pair weighs the product of its two.
    (i, j) is comparable when time_i < time_j and i had the event, or at equal times when i had it and j not (Harrell 1982; two
    events at one time are not comparable). Equal risks count half.
    """
    return float(concordance_many(time, event, risk, np.ones(len(time)) if weights is None else weights)[0])


def concordance_many(time: np.ndarray, event: np.ndarray, risk: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`concordance` for weights (B, n) at once, (B,): O(n log n) steps on B numbers.

    A binary indexed tree (Fenwick 1994) over the ranks of the risk holds the weights of the units seen. Units enter it from the
    latest time to the earliest, so that what an event is compared with is what is in the tree.
    """
    time, had = np.asarray(time, float), np.asarray(event).astype(bool)
    rank = np.unique(np.asarray(risk, float), return_inverse=True)[1].reshape(-1)
    w = np.ascontiguousarray(np.atleast_2d(np.asarray(weights, float)).T)
    size = int(rank.max()) + 1 if len(rank) else 0
    tree = np.zeros((size + 1, w.shape[1]))
    inside, good, total = (np.zeros(w.shape[1]) for _ in range(3))

    def below(stop: int) -> np.ndarray:
        value = np.zeros(w.shape[1])
        while stop:
            value += tree[stop]
            stop &= stop - 1
        return value

    def put(unit: int) -> None:
        inside[:] += w[unit]
        slot = int(rank[unit]) + 1
        while slot <= size:
            tree[slot] += w[unit]
            slot += slot & -slot

    order = np.argsort(-time, kind="stable")
    for at_once in np.split(order, np.flatnonzero(np.diff(time[order])) + 1):
        for unit in at_once[~had[at_once]].tolist():
            put(unit)
        events = at_once[had[at_once]].tolist()
        for unit in events:
            lower = below(int(rank[unit]))
            good += w[unit] * (lower + below(int(rank[unit]) + 1)) / 2
            total += w[unit] * inside
        for unit in events:
            put(unit)
    with np.errstate(invalid="ignore", divide="ignore"):
        return good / total
