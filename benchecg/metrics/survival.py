"""Harrell's concordance index with weights; lifelines is the arbiter of the unweighted one."""

from __future__ import annotations

import numpy as np

__all__ = ["concordance"]


def concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of comparable pairs that the risk orders rightly; NaN when no pair is comparable.

    time (n,), event 0/1 (n,), risk (n,): higher means an earlier event; weights (n,), a pair weighs the product of its two.
    (i, j) is comparable when time_i < time_j and i had the event, or at equal times when i had it and j not (Harrell 1982; two
    events at one time are not comparable). Equal risks count half. O(n²) in blocks of rows.
    """
    time, risk = np.asarray(time, float), np.asarray(risk, float)
    had = np.asarray(event).astype(bool)
    w = np.ones(len(time)) if weights is None else np.asarray(weights, float)
    good = total = 0.0
    for rows in np.array_split(np.flatnonzero(had), max(1, had.sum() * len(time) // 4_000_000)):
        t, r = time[rows, None], risk[rows, None]
        pair = w[rows, None] * w * ((t < time) | ((t == time) & ~had))
        good += (pair * ((r > risk) + 0.5 * (r == risk))).sum()
        total += pair.sum()
    return good / total if total else float("nan")
