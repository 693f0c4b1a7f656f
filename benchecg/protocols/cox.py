"""Linear proportional-hazards head (Cox 1972), ties by Efron (1977), with an L2 penalty; the risk set is the whole training set.

The penalised log-likelihood is concave and is climbed by Newton's method with halved steps, in float64. The reference benchmark puts a
sigmoid on the risk, which limits every hazard ratio to e, takes a batch as risk set and ignores ties.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CoxRidge", "SigmoidCox", "efron", "sigmoid_loss"]

_STEPS, _HALVINGS = 50, 30
_LEAST = -690.0  # about the log of the smallest float64
_TOLERANCE = 1e-9  # of the decrement, per event
_BATCH = 512  # rows of a risk set in the published scripts


def efron(risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Negative log partial likelihood, ties by Efron, summed over events. risk, time, event: (n,)."""
    order = np.argsort(-time, kind="stable")
    return _Likelihood(np.zeros((len(time), 0)), time[order], event[order].astype(bool)).at(risk[order])[0]


class _Likelihood:
    """The likelihood of rows in descending time: what does not depend on the weights is made once."""

    def __init__(self, x: np.ndarray, time: np.ndarray, event: np.ndarray) -> None:
        self.x, self._event = x, event
        self._at = np.flatnonzero(event)
        times, group = np.unique(-time, return_inverse=True)
        self._last = np.searchsorted(-time, times, side="right")[group] - 1  # of everybody at least this late
        died = np.bincount(group[self._at], minlength=len(times))
        self._group, self._n_groups = group, len(times)
        place = np.arange(len(self._at)) - np.r_[0, np.cumsum(died)][group[self._at]]
        self._share = place / np.maximum(died[group[self._at]], 1)

    def at(self, risk: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient (D,) and Hessian (D, D) of the negative log-likelihood at the rows' log risks (n,)."""
        shift = float(risk.max()) if len(risk) else 0.0
        w = np.exp(
            np.maximum(risk - shift, _LEAST)
        )  # a sum of exact zeros would make a wild step look like the best one
        at, share, group = self._at, self._share, self._group[self._at]
        s0, s1 = np.cumsum(w)[self._last[at]], np.cumsum(w[:, None] * self.x, 0)[self._last[at]]
        d0 = np.bincount(group, weights=w[at], minlength=self._n_groups)
        d1 = np.zeros((self._n_groups, self.x.shape[1]))
        np.add.at(d1, group, w[at, None] * self.x[at])
        s0, s1 = s0 - share * d0[group], s1 - share[:, None] * d1[group]
        mean = s1 / s0[:, None]
        value = float(np.log(s0).sum() + shift * len(at) - risk[at].sum())
        # A row is in the sums of every event no later than itself; an event's own group counts it less by Efron's share.
        per_group = np.bincount(group, weights=1 / s0, minlength=self._n_groups)
        within = np.cumsum(per_group[::-1])[::-1][self._group]
        own = np.bincount(group, weights=share / s0, minlength=self._n_groups)[self._group] * self._event
        hessian = (self.x * (w * (within - own))[:, None]).T @ self.x - mean.T @ mean
        return value, mean.sum(0) - self.x[at].sum(0), hessian


class CoxRidge:
    """alpha: weight of half the squared norm. fit(x (n, D), y (n, 2): time and event); predict(x) → log risk, higher is earlier."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.weights = np.zeros(0)

    def fit(self, x: np.ndarray, y: np.ndarray) -> CoxRidge:
        """Climb from 0 until the Newton decrement is negligible."""
        order = np.argsort(-y[:, 0], kind="stable")
        x = np.asarray(x, np.float64)[order]
        event = y[order, 1] == 1
        likelihood = _Likelihood(x, y[order, 0].astype(float), event)
        b = np.zeros(x.shape[1])
        for _ in range(_STEPS if event.any() else 0):
            value, gradient, hessian = likelihood.at(x @ b)
            gradient, hessian = gradient + self._alpha * b, hessian + self._alpha * np.eye(len(b))
            step = np.linalg.solve(hessian, gradient)
            decrement = float(gradient @ step)
            if decrement < _TOLERANCE * event.sum():
                break
            here = value + 0.5 * self._alpha * float(b @ b)
            b = b - self._length(likelihood, b, step, here, decrement) * step
        self.weights = b
        return self

    def _length(self, likelihood: _Likelihood, b: np.ndarray, step: np.ndarray, here: float, decrement: float) -> float:
        length = 1.0
        for _ in range(_HALVINGS):
            c = b - length * step
            if (
                likelihood.at(likelihood.x @ c)[0] + 0.5 * self._alpha * float(c @ c)
                <= here - 1e-4 * length * decrement
            ):
                break
            length /= 2
        return length

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Log risk (n,)."""
        return x @ self.weights


def sigmoid_loss(logit: np.ndarray, time: np.ndarray, event: np.ndarray) -> tuple[float, np.ndarray]:
    """The published scripts' loss of one batch (D09), and its gradient (n,): r = sigmoid(logit) in the place of the risk, rows in
    descending time, the mean over all rows of (log cumsum exp r − r) · event."""
    order = np.argsort(time, kind="stable")[::-1]  # of equal times the later row first
    r = 1 / (1 + np.exp(-np.clip(logit[order], -500, 500)))
    e, n = event[order].astype(float), len(r)
    total = np.cumsum(np.exp(r))
    later = np.cumsum((e / total)[::-1])[::-1]
    gradient = np.empty(n)
    gradient[order] = (np.exp(r) * later - e) * r * (1 - r) / n
    return float(((np.log(total) - r) * e).sum() / n), gradient


class SigmoidCox:
    """A linear head on `sigmoid_loss`, batches of 512 rows in the order given, with the penalty of `CoxRidge` per row."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.weights, self.bias = np.zeros(0), 0.0

    def fit(self, x: np.ndarray, y: np.ndarray) -> SigmoidCox:
        """From 0, by L-BFGS."""
        from scipy.optimize import minimize

        x = np.column_stack([np.asarray(x, np.float64), np.ones(len(x))])
        batches = [slice(first, first + _BATCH) for first in range(0, len(x), _BATCH)]

        def loss(b: np.ndarray) -> tuple[float, np.ndarray]:
            ridge = np.r_[self._alpha * b[:-1] / len(x), 0.0]
            value, gradient = 0.5 * float(ridge @ b), ridge
            for rows in batches:
                part, slope = sigmoid_loss(x[rows] @ b, y[rows, 0], y[rows, 1])
                value, gradient = value + part / len(batches), gradient + x[rows].T @ slope / len(batches)
            return value, gradient

        found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1_000}).x
        self.weights, self.bias = found[:-1], float(found[-1])
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The logit (n,), whose order is that of the sigmoid."""
        return x @ self.weights + self.bias
