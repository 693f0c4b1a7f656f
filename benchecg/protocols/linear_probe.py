"""Linear probe: one linear head on frozen, cached features, the same seven values of C for every model.

Features are standardised with the training units' mean and deviation. C is chosen on the validation units by the task's own
metric (ties: the smaller C), then the head is fitted again on train and validation together, and applied to the test units once.
Logistic regression (scikit-learn, lbfgs, L2, no class weights); one head per label for multilabel, one per question, on the units
that answer it, for a panel; ridge with alpha = 1/C for a
number, a Cox head with that penalty for survival. Every
fit starts from 0 and runs to its own tolerance; nothing is random.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchecg.metrics import statistic
from benchecg.protocols.cox import CoxRidge, SigmoidCox
from benchecg.tasks.base import Task
from xecg.errors import SpecError
from xecg.model.head_spec import questions

__all__ = ["C_GRID", "LinearMap", "Probe", "best_setting", "linear_probe", "metric_of"]

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
_MAX_ITER = 1_000
_NEVER = -1e4
_COX: dict[str, type[CoxRidge] | type[SigmoidCox]] = {"corrected": CoxRidge, "authors": SigmoidCox}  # by profile
_FALLBACK_C = 1.0  # when the metric is undefined on the validation units for every C


@dataclass(frozen=True, eq=False)
class LinearMap:
    """score = (x − centre) / scale · weightᵀ + bias, float64: weight (outputs, D), bias (outputs,), centre and scale (D,)."""

    weight: np.ndarray
    bias: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Probe:
    """score: float32 test scores, (n, classes), or (n,) where the answer is one number; rows of invalid units are not meaningful.

    c: the chosen C. validation: metric of each C on the validation units, None where undefined. converged: of the last fit.
    head: what gave the scores, None where nothing linear did.
    """

    score: np.ndarray
    c: float
    validation: dict[str, float | None]
    converged: bool
    n_fit: int
    head: LinearMap | None = None


def linear_probe(
    task: Task,
    *,
    features: np.ndarray,
    valid: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test: np.ndarray,
    refit: bool = True,
) -> Probe:
    """Fit, choose and predict. features (n, D), label (n,) or (n, C); train, val, test and valid: bool (n,).

    refit=False keeps the head of the training units alone, as few-label probes need.
    """
    fit, choose = train & valid, val & valid
    if not fit.any() or not choose.any():
        raise SpecError(
            f"{int(fit.sum())} training and {int(choose.sum())} validation units have features; needed some of each"
        )
    validation = _validate(task, features, valid, label, fit, val)
    chosen = best_setting(validation, higher_is_better=task.higher_is_better, fallback=_FALLBACK_C)
    both = fit | choose if refit else fit
    centre, scale = _standard(features[both])
    head = _head(task)
    converged = head.fit(chosen, (features[both] - centre) / scale, label[both])
    score = head.score((features[test] - centre) / scale).astype(np.float32)
    linear = LinearMap(*head.linear(features.shape[1]), centre, scale)
    return Probe(score, chosen, {f"{c:g}": v for c, v in validation.items()}, converged, int(both.sum()), linear)


def _validate(
    task: Task, features: np.ndarray, valid: np.ndarray, label: np.ndarray, fit: np.ndarray, val: np.ndarray
) -> dict[float, float | None]:
    centre, scale = _standard(features[fit])
    x, x_val = (features[fit] - centre) / scale, (features[val] - centre) / scale
    head, result = _head(task), {}
    for c in C_GRID:
        head.fit(c, x, label[fit])
        result[c] = metric_of(task, label[val], head.score(x_val), valid[val])
    return result


def metric_of(task: Task, truth: np.ndarray, score: np.ndarray, valid: np.ndarray) -> float | None:
    """The task's own metric of these units, None where it is undefined. Raises SpecError when the kind does not compute it."""
    stat = statistic(
        task.kind,
        truth=truth,
        score=score,
        valid=valid,
        cluster=np.zeros(len(truth), int),
        classes=task.classes,
        class_sets=task.class_sets,
    )
    point = stat.point()
    if task.metric not in point:
        raise SpecError(
            f"{task.id}: the metric is {task.metric!r}; needed one that kind {task.kind!r} computes: {', '.join(point)}"
        )
    value = point[task.metric]
    return None if np.isnan(value) else value


def best_setting(validation: dict[float, float | None], *, higher_is_better: bool, fallback: float) -> float:
    """The setting with the best metric, on a tie the smaller; `fallback` when the metric is undefined for all."""
    known = [(value if higher_is_better else -value, -c) for c, value in validation.items() if value is not None]
    return -max(known)[1] if known else fallback


def _standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = x.std(0, dtype=np.float64)
    return x.mean(0, dtype=np.float64), np.where(scale > 1e-12, scale, 1.0)


def _head(task: Task) -> _Head | _PanelHead:
    return _PanelHead(task.classes) if task.kind == "panel" else _Head(task.kind, len(task.classes), _COX[task.profile])


class _PanelHead:
    """A multiclass head per question, fitted on the units that answer it; scores are log-probabilities within the question."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._columns = list(questions(classes).values())
        self._heads = [_Head("multiclass", len(columns)) for columns in self._columns]

    def fit(self, c: float, x: np.ndarray, y: np.ndarray) -> bool:
        """Fit on x (n, D), y (n, C) with NaN; a question that nobody answers stays at equal scores."""
        fitted = []
        for head, columns in zip(self._heads, self._columns):
            rows = ~np.isnan(y[:, columns[0]])
            fitted.append(not rows.any() or head.fit(c, x[rows], y[rows][:, columns].argmax(1)))
        return all(fitted)

    def score(self, x: np.ndarray) -> np.ndarray:
        """(n, C)."""
        from scipy.special import log_softmax

        parts = [h.score(x) if h.fitted else np.zeros((len(x), len(c))) for h, c in zip(self._heads, self._columns)]
        return np.concatenate([log_softmax(part, axis=1) for part in parts], 1)

    def linear(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight (C, D) and bias (C,) whose scores are those before the log-softmax."""
        empty = [(np.zeros((len(c), width)), np.zeros(len(c))) for c in self._columns]
        parts = [h.linear(width) if h.fitted else e for h, e in zip(self._heads, empty)]
        return np.concatenate([w for w, _ in parts]), np.concatenate([b for _, b in parts])


class _Head:
    """The linear model of a task kind."""

    def __init__(self, kind: str, n_classes: int, cox: Callable[[float], Any] = CoxRidge) -> None:
        self._kind, self._n_classes, self._cox = kind, n_classes, cox
        self._models: list[Any] = []

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return bool(self._models)

    def fit(self, c: float, x: np.ndarray, y: np.ndarray) -> bool:
        """Fit on x (n, D), y; returns whether the solver converged."""
        columns = y.T if self._kind == "multilabel" else [y]
        self._models = [self._new(c, column) for column in columns]
        fitted = [_converges(m, x, column) for m, column in zip(self._models, columns) if m is not None]
        return all(fitted)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Log-odds (classes) or the number itself; a label that training showed one value of scores 0."""
        if self._kind in ("regression", "survival"):
            return self._models[0].predict(x)
        if self._kind == "multiclass":
            return self._class_scores(x)
        columns = [np.zeros(len(x)) if m is None else m.decision_function(x) for m in self._models]
        return np.stack(columns, 1) if self._kind == "multilabel" else columns[0]

    def linear(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Weight (outputs, D) and bias (outputs,) of `score`; a class that is never predicted has bias −1e4 in place of −∞."""
        if self._kind == "multiclass":
            return self._class_map(width)
        maps = [(np.zeros(width), 0.0) if m is None else _map_of(m) for m in self._models]
        return np.stack([w for w, _ in maps]), np.array([b for _, b in maps])

    def _class_map(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = np.zeros((self._n_classes, width)), np.full(self._n_classes, _NEVER)
        model = self._models[0]
        if model is None:
            bias[self._only] = 0.0
        elif len(model.classes_) == 2:
            w, b = _map_of(model)
            weight[model.classes_], bias[model.classes_] = np.outer([-0.5, 0.5], w), np.multiply([-0.5, 0.5], b)
        else:
            weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
        return weight, bias

    def _new(self, c: float, y: np.ndarray) -> Any:
        from sklearn.linear_model import LogisticRegression, Ridge

        if self._kind == "regression":
            return Ridge(alpha=1 / c)
        if self._kind == "survival":
            return self._cox(1 / c)
        if len(np.unique(y)) < 2:
            self._only = int(y[0])
            return None
        return LogisticRegression(C=c, max_iter=_MAX_ITER)

    def _class_scores(self, x: np.ndarray) -> np.ndarray:
        score = np.full((len(x), self._n_classes), -np.inf)  # a class that training lacks is never predicted
        model = self._models[0]
        if model is None:
            score[:, self._only] = 0.0
        elif len(model.classes_) == 2:
            score[:, model.classes_] = np.outer(model.decision_function(x), [-0.5, 0.5])
        else:
            score[:, model.classes_] = model.decision_function(x)
        return score


def _map_of(model: Any) -> tuple[np.ndarray, float]:
    """Weight (D,) and bias of a model with one output."""
    if isinstance(model, (CoxRidge, SigmoidCox)):
        return model.weights, getattr(model, "bias", 0.0)
    return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])


def _converges(model: Any, x: np.ndarray, y: np.ndarray) -> bool:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x, y)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)
