"""On which scale a metric's values spread evenly: a range without ends for its interval, or one that no interval leaves.

`share`        0 to 1, of counts (F1, sensitivity, RSMAPE): logit
`rank`         0 to 1, of pairs (AUROC, average precision, C-index): arc sine of the root, finite where all pairs are right
`positive`     0 and more (an error): log
`correlation`  -1 to 1: Fisher's z
`explained`    up to 1 (R²): log of what is not explained
`any`          as it is
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["SCALES"]

_EDGE = 1e-6  # how near the ends of their range the unbounded scales go


def _logit(x: np.ndarray) -> np.ndarray:
    inside = np.clip(x, _EDGE, 1 - _EDGE)
    return np.log(inside / (1 - inside))


def _expit(z: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(z / 2)


def _positive(x: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(x, _EDGE))


def _exp(z: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(z, 700.0))  # the largest float64 is e^709


SCALES: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "share": (_logit, _expit),
    "rank": (
        lambda x: 2 * np.arcsin(np.sqrt(np.clip(x, 0, 1))),
        lambda z: np.sin(np.clip(z, 0, np.pi) / 2) ** 2,
    ),
    "positive": (_positive, _exp),
    "correlation": (lambda x: _logit((x + 1) / 2), lambda z: 2 * _expit(z) - 1),
    "explained": (lambda x: -_positive(1 - x), lambda z: 1 - _exp(-z)),
    "any": (lambda x: x, lambda z: z),
}
