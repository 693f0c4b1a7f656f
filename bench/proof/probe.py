"""Linear probes with folds of patients: the same rules for every set of features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchecg.tasks.base import hash_fraction

__all__ = ["CS", "Answer", "folds_of", "logistic", "ridge"]

FOLDS = 5
CS = (1e-3, 1e-2, 1e-1, 1.0)
_THIN = 4  # every fourth unit trains and chooses C; every unit is tested
_MOST_STEPS = 5_000

Answer = tuple[np.ndarray, list[float], bool]  # scores of every unit, C of each fold, whether every fit converged


def folds_of(name: str, patients: Sequence[str]) -> tuple[np.ndarray, str]:
    """Fold 0..4 of each unit by its patient, in the order of a hash; and the SHA-256 of the table patient → fold."""
    order = sorted(set(patients), key=lambda p: (hash_fraction(name, p), p))
    fold = {patient: i % FOLDS for i, patient in enumerate(order)}
    digest = hashlib.sha256(json.dumps(sorted(fold.items())).encode()).hexdigest()
    return np.array([fold[p] for p in patients]), digest


def logistic(x: np.ndarray, label: np.ndarray, fold: np.ndarray, n_classes: int, *, thin: int = _THIN) -> Answer:
    """Fold f is tested by a head that folds other than f and f + 1 taught, f + 1 chose C of, and both then taught again."""
    score, chosen, converged = np.full((len(x), n_classes), -np.inf), [], True
    kept = np.arange(len(x)) % thin == 0
    for f in range(FOLDS):
        val, test = fold == (f + 1) % FOLDS, fold == f
        train = ~val & ~test & kept
        found = []
        model = None
        for c in CS:
            model, z, ok = _fit(x, label, train, c, model)
            found.append(_macro(label[val & kept], model.predict(z[val & kept]), n_classes))
            converged &= ok
        chosen.append(CS[int(np.argmax(found))])
        model, z, ok = _fit(x, label, ~test & kept, chosen[-1], None)
        converged &= ok
        rows = model.decision_function(z[test])
        score[np.ix_(test, model.classes_)] = np.stack([-rows, rows], 1) if rows.ndim == 1 else rows
    return score, chosen, bool(converged)


def _fit(x: np.ndarray, label: np.ndarray, rows: np.ndarray, c: float, start: Any) -> tuple[Any, np.ndarray, bool]:
    from sklearn.linear_model import LogisticRegression

    deviation = x[rows].std(0)
    z = (x - x[rows].mean(0)) / np.where(deviation > 1e-9, deviation, 1)
    model = LogisticRegression(C=c, max_iter=_MOST_STEPS, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_.copy(), start.intercept_.copy(), start.classes_
    model.fit(z[rows], label[rows])
    return model, z, bool(np.max(model.n_iter_) < _MOST_STEPS)


def _macro(truth: np.ndarray, found: np.ndarray, n_classes: int) -> float:
    """Macro F1 of the first three classes of more, of both of two."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, found, labels=list(range(min(3, n_classes))), average="macro", zero_division=0))


def ridge(x: np.ndarray, value: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Each unit's value by a ridge regression of the other folds; its penalty chosen inside them by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out = np.zeros(len(x))
    for f in np.unique(fold):
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
        out[fold == f] = model.fit(x[fold != f], value[fold != f]).predict(x[fold == f])
    return out
