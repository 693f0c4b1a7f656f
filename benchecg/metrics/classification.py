"""Metrics of classes and labels, each with weights, so that a bootstrap is one array call instead of 2,000 re-scorings.

Undefined values (a class without positives or without negatives, an F1 of 0/0) are NaN and never a silent 0: the caller leaves
them out of a mean and counts them. scikit-learn is the arbiter (tests/benchecg/test_bench_metrics.py).
"""

from __future__ import annotations

import numpy as np

__all__ = ["auroc", "average_precision", "confusion", "macro", "precision_recall_f1"]


def confusion(truth: np.ndarray, found: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts int64 (n_classes, n_classes + 1): row = true class, column = predicted class; the last column is "no prediction".

    truth, found: int (n,) in 0..n_classes-1; found = -1 where the model gave nothing, which is an error of that class.
    """
    column = np.where(found < 0, n_classes, found)
    flat = np.bincount(truth * (n_classes + 1) + column, minlength=n_classes * (n_classes + 1))
    return flat.reshape(n_classes, n_classes + 1)


def precision_recall_f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision (PPV), recall (Se) and F1 = 2TP/(2TP+FP+FN), each (..., C), from confusion counts (..., C, C+1); 0/0 is NaN."""
    n_classes = counts.shape[-2]
    square = counts[..., :n_classes]
    hit = np.diagonal(square, axis1=-2, axis2=-1).astype(float)
    true, found = counts.sum(-1), square.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / found, hit / true, 2 * hit / (true + found)


def macro(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the defined values; NaN where none is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(-1) / known.sum(-1)


def _tied_groups(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _group_weights(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives per distinct score, ascending: two arrays (B, groups); B = 1 without weights."""
    order, first = _tied_groups(score)
    w = np.ones((1, len(score))) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))
    w = w[:, order]
    positive = truth[order].astype(bool)
    return np.add.reduceat(w * positive, first, axis=1), np.add.reduceat(w * ~positive, first, axis=1)


def auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve by midranks (a tie counts half): (B,) for weights (B, n), (1,) without; NaN where undefined.

    truth: 0/1 (n,). score: (n,) finite. With weights: sum wp (cumN + wn/2) / (sum wp · sum wn) over the groups of equal score.
    """
    if len(score) == 0:
        return np.full(1 if weights is None else len(np.atleast_2d(weights)), np.nan)
    positive, negative = _group_weights(truth, score, weights)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * (below + negative / 2)).sum(1) / (positive.sum(1) * negative.sum(1))


def average_precision(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Step-wise area under the precision-recall curve, sum (R_k - R_{k-1}) P_k: shapes as `auroc`; NaN without positives."""
    if len(score) == 0:
        return np.full(1 if weights is None else len(np.atleast_2d(weights)), np.nan)
    positive, negative = _group_weights(truth, score, weights)
    hit = np.cumsum(positive[:, ::-1], axis=1)
    called = hit + np.cumsum(negative[:, ::-1], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hit / called, 0.0)
        return (positive[:, ::-1] * precision).sum(1) / hit[:, -1]
