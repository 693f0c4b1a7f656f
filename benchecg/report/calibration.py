"""Calibration from predictions alone: is what a model calls 30 % right three times in ten?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchecg.predictions import Predictions, read_predictions
from benchecg.results import PREDICTIONS_FILE, Result
from xecg.model.head_spec import questions

__all__ = ["Calibration", "calibration", "calibration_of"]

_BINS = 10
_FEWEST = 20  # answers of a bin: fewer bins before fewer answers


@dataclass(frozen=True)
class Calibration:
    """bins: (mean predicted, mean observed, answers), at most ten, of equal size, by what was predicted. error: their mean distance.

    Of classes, probabilities and shares, every class's answers together; of a number, its own unit.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float


def calibration(folder: Path, result: Result) -> Calibration | None:
    """Of a run's stored predictions; None without a score and for kinds without one (peaks, survival)."""
    if result.predictions is None or result.task["kind"] in ("peaks", "survival"):
        return None
    return calibration_of(read_predictions(folder / PREDICTIONS_FILE), probabilities="k" in result.protocol)


def calibration_of(p: Predictions, *, probabilities: bool = False) -> Calibration | None:
    """None for kinds without one. probabilities: the scores are such already (nearest neighbours), else they are log-odds."""
    pairs = _pairs(p, probabilities)
    if pairs is None or not len(pairs[0]):
        return None
    predicted, observed = pairs
    order = np.argsort(predicted, kind="stable")
    bins = []
    for rows in np.array_split(order, min(_BINS, max(1, len(order) // _FEWEST))):
        bins.append((float(predicted[rows].mean()), float(observed[rows].mean()), len(rows)))
    error = sum(n * abs(a - b) for a, b, n in bins) / len(order)
    return Calibration(tuple(bins), error)


def _pairs(p: Predictions, probabilities: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Predicted and observed of every answer."""
    kind = p.facts.kind
    score, y = p.score[p.valid].astype(np.float64), p.y[p.valid].astype(np.float64)
    if kind == "regression":
        return score, y
    if kind in ("binary", "multilabel"):
        found = score if probabilities else _logistic(score)
    elif kind == "multiclass":
        y = np.eye(len(p.facts.classes))[y.astype(int)]
        found = score if probabilities else _softmax(score)
    elif kind == "panel":
        found = np.concatenate([_softmax(score[:, c]) for c in questions(p.facts.classes).values()], 1)
        order = np.argsort(np.concatenate(list(questions(p.facts.classes).values())))
        found = found[:, order]
    else:
        return None
    known = np.isfinite(y)
    return found[known], y[known]


def _logistic(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(x)


def _softmax(x: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(x, axis=1)
