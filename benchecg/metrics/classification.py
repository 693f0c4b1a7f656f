"""Metrics of classes and labels, each with weights, so that the values without every patient are one array call.

Undefined values (a class without positives or without negatives, an F1 of 0/0) are NaN and never a silent 0: the caller leaves
them out of a mean and counts them. scikit-learn is the arbiter (tests/benchecg/test_bench_metrics.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["auroc", "average_precision", "confusion", "macro", "precision_recall_f1", "ranking"]


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


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Positive and negative units by score, with their weights (B, units) added up from the lowest score.

    weight: (B, P), of each positive. below, tied: (P,) how many negatives lie below its score, and at most at it; under: (P,) how many
    positives lie below it. positive, negative: (B, 1 + units), weights of the lowest 0, 1, … units.
    """

    weight: np.ndarray
    under: np.ndarray
    below: np.ndarray
    tied: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


def _ranked(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None) -> _Ranked:
    truth, score = np.asarray(truth).astype(bool), np.asarray(score)
    w = np.ones((1, len(score))) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))
    order = np.argsort(score, kind="stable")
    ups, downs = order[truth[order]], order[~truth[order]]
    weight, high, low = w[:, ups], score[ups], score[downs]
    return _Ranked(
        weight=weight,
        under=np.searchsorted(high, high, "left"),
        below=np.searchsorted(low, high, "left"),
        tied=np.searchsorted(low, high, "right"),
        positive=_sums(weight),
        negative=_sums(w[:, downs]),
    )


def _sums(weights: np.ndarray) -> np.ndarray:
    total = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total


def auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve by midranks (a tie counts half): (B,) for weights (B, n), (1,) without; NaN where undefined.

    truth: 0/1 (n,). score: (n,) finite. With weights: the sum over positives of w (negatives below + those tied / 2) over the product
    of both sums.
    """
    return _auroc(_ranked(truth, score, weights))


def average_precision(truth: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Step-wise area under the precision-recall curve, sum (R_k - R_{k-1}) P_k: shapes as `auroc`; NaN without positives."""
    return _average_precision(_ranked(truth, score, weights))


def ranking(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`auroc` and `average_precision` of the same units, sorted and added up once."""
    r = _ranked(truth, score, weights)
    return _auroc(r), _average_precision(r)


def _auroc(r: _Ranked) -> np.ndarray:
    beaten = r.negative[:, r.below]
    beaten += r.negative[:, r.tied]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("bp,bp->b", r.weight, beaten) / (2 * r.positive[:, -1] * r.negative[:, -1])


def _average_precision(r: _Ranked) -> np.ndarray:
    hit = r.positive[:, -1:] - r.positive[:, r.under]
    called = hit + r.negative[:, -1:] - r.negative[:, r.below]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hit / called, 0.0)
        return np.einsum("bp,bp->b", r.weight, precision) / r.positive[:, -1]
