"""Peak head: a linear map from each token to one value per 10 ms of it, and the peaks picked from that curve.

The head is a ridge regression (closed form, one solve per C of the grid) on the token's standardised features. Its target is a bell
of 20 ms around each true peak instead of a single sample, so that the curve's top can be placed between samples
(`xecg.signal.peaks.pick`). C and theta are chosen together on the validation records by F1 at ±75 ms (ties: the smaller C, then the
smaller theta); the head is then fitted again on train and validation, and applied to the test records once. Fine-tuning
(`benchecg.protocols.peak_tuning`) starts from the head of the training records alone and reads its curves in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from benchecg.models.base import Tokens
from benchecg.protocols.linear_probe import C_GRID, LinearMap
from xecg.errors import SpecError
from xecg.signal import peaks

__all__ = [
    "READINGS",
    "THETA_GRID",
    "PeakProbe",
    "Picked",
    "Reading",
    "above",
    "best_theta",
    "heights_of",
    "peak_probe",
    "target_of",
]

THETA_GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))
_STEP_S = 0.010  # one output per 10 ms of a token: 25 for the 0.25 s tokens of xECG
_MOST_OUTPUTS = 1_000  # longer tokens than 10 s get a coarser curve
_BELL_S = 0.020
_TOLERANCE_S = 0.075  # of the choice: ±10 ms is near the jitter of the marks


Picked = tuple[np.ndarray, np.ndarray]  # time_s and height, of a curve or of the peaks in it


def above(time_s: np.ndarray, height: np.ndarray, *, theta: float) -> Picked:
    """Every sample of at least `theta` is a peak, without picking one of several (D11, D13)."""
    kept = np.asarray(height) >= theta
    return time_s[kept], np.asarray(height, float)[kept]


@dataclass(frozen=True)
class Reading:
    """From a curve to peaks: pick(time_s, height, theta=…), the thresholds tried, the tolerance (s) of the F1 that chooses."""

    pick: Callable[..., Picked]
    thetas: tuple[float, ...]
    tolerance_s: float


READINGS = {  # by profile; of the published scripts: a probability above one half, sample by sample
    "corrected": Reading(peaks.pick, THETA_GRID, _TOLERANCE_S),
    "authors": Reading(above, (0.5,), _STEP_S / 2),
}


@dataclass(frozen=True, eq=False)
class PeakProbe:
    """found: record index → (time_s, height) of the peaks picked in each test record. outputs: values a token.

    c, theta: chosen. validation: F1 at ±75 ms of each C at its best theta. head: what gave the curves, `outputs` heights a token.
    """

    found: dict[int, tuple[np.ndarray, np.ndarray]]
    c: float
    theta: float
    outputs: int
    validation: dict[str, float | None]
    n_fit: int
    head: LinearMap


class _Head:
    """Ridge regression from tokens to curves, for every C at once: the sums are taken once."""

    def __init__(self, tokens: Iterable[Tokens], truth_s: Iterable[np.ndarray], outputs: int) -> None:
        pairs = list(zip(tokens, truth_s))
        x = np.concatenate([t.values for t, _ in pairs]).astype(np.float64)
        y = np.concatenate([target_of(_grid(t, outputs), s) for t, s in pairs])
        deviation = x.std(0)
        self._centre, self._scale = x.mean(0), np.where(deviation > 1e-12, deviation, 1.0)
        self._offset = y.mean(0)
        x = (x - self._centre) / self._scale
        self._values, self._vectors = np.linalg.eigh(x.T @ x)
        self._projected = self._vectors.T @ (x.T @ (y - self._offset))
        self.n = len(x)

    def curve(self, tokens: Tokens, c: float) -> np.ndarray:
        """Heights (T, outputs) at the times of `_grid`."""
        return (tokens.values - self._centre) / self._scale @ self._weights(c) + self._offset

    def linear(self, c: float) -> LinearMap:
        """The same as a map of tokens to `outputs` heights."""
        return LinearMap(self._weights(c).T, self._offset, self._centre, self._scale)

    def _weights(self, c: float) -> np.ndarray:
        found: np.ndarray = self._vectors @ (self._projected / (np.maximum(self._values, 0) + 1 / c)[:, None])
        return found


def _grid(tokens: Tokens, outputs: int) -> np.ndarray:
    """Times (T, outputs): the middles of the equal parts of each token, s."""
    return tokens.start_s[:, None] + tokens.length_s[:, None] * (np.arange(outputs) + 0.5) / outputs


def heights_of(token_s: float) -> int:
    """How many heights a token of `token_s` seconds has."""
    return int(np.clip(round(token_s / _STEP_S), 1, _MOST_OUTPUTS))


def target_of(grid_s: np.ndarray, truth_s: np.ndarray) -> np.ndarray:
    """Heights at the times `grid_s` that true peaks at `truth_s` (ascending) ask for; same shape."""
    if not len(truth_s):
        return np.zeros(grid_s.shape)
    after = np.clip(np.searchsorted(truth_s, grid_s), 1, len(truth_s) - 1) if len(truth_s) > 1 else np.zeros(1, int)
    nearest = np.minimum(np.abs(grid_s - truth_s[after]), np.abs(grid_s - truth_s[np.maximum(after - 1, 0)]))
    return np.exp(-0.5 * (nearest / _BELL_S) ** 2)


def peak_probe(
    tokens: Mapping[int, Tokens],
    truth_s: Mapping[int, np.ndarray],
    *,
    train: list[int],
    val: list[int],
    test: list[int],
    reading: Reading = READINGS["corrected"],
    refit: bool = True,
) -> PeakProbe:
    """Fit, choose and pick. tokens, truth_s (ascending, s): by record index; train, val, test: record indices.

    refit=False keeps the head of the training records alone. Raises SpecError.
    """
    if not train or not val:
        raise SpecError(f"{len(train)} training and {len(val)} validation records have tokens; needed some of each")
    length_s = float(np.median(np.concatenate([tokens[i].length_s for i in train])))
    outputs = heights_of(length_s)
    head = _Head([tokens[i] for i in train], [truth_s[i] for i in train], outputs)
    best = {c: best_theta(_curves(head, c, tokens, val, outputs), truth_s, reading) for c in C_GRID}
    c = max(C_GRID, key=lambda each: (best[each][0], -each))
    theta = best[c][1]
    if refit:
        both = sorted(train + val)
        head = _Head([tokens[i] for i in both], [truth_s[i] for i in both], outputs)
    curves = _curves(head, c, tokens, test, outputs)
    found = {i: reading.pick(*curve, theta=theta) for i, curve in curves.items()}
    validation: dict[str, float | None] = {f"{each:g}": value for each, (value, _) in best.items()}
    return PeakProbe(found, c, theta, outputs, validation, head.n, head.linear(c))


def _curves(head: _Head, c: float, tokens: Mapping[int, Tokens], records: list[int], outputs: int) -> dict[int, Picked]:
    return {i: (_grid(tokens[i], outputs).ravel(), head.curve(tokens[i], c).ravel()) for i in records}


def best_theta(
    curves: Mapping[int, Picked], truth_s: Mapping[int, np.ndarray], reading: Reading
) -> tuple[float, float]:
    """The best F1 over the records of `curves` at the reading's tolerance, and the smallest threshold that has it."""
    picked = {i: reading.pick(*curve, theta=reading.thetas[0]) for i, curve in curves.items()}
    scores = []
    for theta in (
        reading.thetas
    ):  # raising theta only drops peaks: the kept ones stay apart, and a lower one never hid a higher one
        matches = [
            peaks.match(truth_s[i], at[height >= theta], reading.tolerance_s) for i, (at, height) in picked.items()
        ]
        hit = sum(m.true_positive for m in matches)
        wrong = sum(m.false_positive + m.false_negative for m in matches)
        scores.append(2 * hit / (2 * hit + wrong) if hit + wrong else 0.0)
    best = int(np.argmax(scores))
    return scores[best], reading.thetas[best]
