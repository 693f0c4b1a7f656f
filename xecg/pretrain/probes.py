"""Probes while training: what frozen features of held-out windows say, by patients that training has not seen.

Heart rate by ridge regression on the mean of a window's tokens, fitted on every other held-out patient and scored (R²) on the
rest; source by the nearest windows of the first half. No label of a person is read: the rate comes from the windows' own
beats, the source from where a recording lies. The corpus holds no benchmark recording, so the probes see none.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from xecg.errors import ReadError, SpecError
from xecg.model import XECG
from xecg.model.padding import pool
from xecg.pretrain.corpus import Corpus

__all__ = ["Probes"]

_FEWEST = 8  # windows on either side, and beats' intervals are taken from windows with
_INTERVALS = 3  # of them, or more
_NEIGHBOURS = 5
_RIDGES = tuple(10.0**k for k in range(-2, 6))  # on standardised features; the one that leave-one-out errors choose
_AT_ONCE = 32


class Probes:
    """held: windows of the corpus to probe with; of more than `most` an even choice is taken. Raises SpecError on too few."""

    def __init__(self, corpus: Corpus, held: np.ndarray, *, most: int = 1024) -> None:
        self._corpus = corpus
        if len(held) > most:
            held = held[np.linspace(0, len(held) - 1, most).astype(int)]
        self._windows = held.tolist()
        patients = np.unique(corpus.patients[held], return_inverse=True)[1]
        self._fit = patients % 2 == 0
        if min(self._fit.sum(), (~self._fit).sum()) < _FEWEST:
            raise SpecError(
                f"{len(held)} held-out windows, {int(self._fit.sum())} of them to fit; needed {_FEWEST} on either side: hold out "
                "more, or probe never"
            )
        names = [corpus.ids[i].split("/")[0] for i in self._windows]
        self._source = np.unique(names, return_inverse=True)[1]

    def ask(self, model: XECG, device: torch.device) -> dict[str, Any]:
        """windows, heart_rate_r2, knn_source (share of right sources) beside knn_chance (of the commonest), seconds.

        What cannot be asked is None: one source only, or too few windows with beats.
        """
        before = time.perf_counter()
        x = self._features(model, device)
        x = (x - x[self._fit].mean(0)) / np.maximum(x[self._fit].std(0), 1e-6)
        rate = self._heart_rate(float(model.spec.rate or 1.0))
        found: dict[str, Any] = {"windows": len(x), "heart_rate_r2": _ridge(x, rate, self._fit)}
        found |= {"knn_source": None, "knn_chance": None}
        if len(set(self._source[self._fit])) > 1:
            truth = self._source[~self._fit]
            found["knn_source"] = float((_nearest(x, self._source, self._fit) == truth).mean())
            found["knn_chance"] = float(np.bincount(truth).max() / len(truth))
        return found | {"probe_s": time.perf_counter() - before}

    @torch.no_grad()
    def _features(self, model: XECG, device: torch.device) -> np.ndarray:
        """float64 (windows, dim): the mean of each window's tokens."""
        found = []
        for first in range(0, len(self._windows), _AT_ONCE):
            parts = [self._corpus.record(i)[1] for i in self._windows[first : first + _AT_ONCE]]
            lengths = torch.tensor([part.shape[1] for part in parts], device=device)
            x = np.zeros((len(parts), parts[0].shape[0], int(lengths.max())), np.float32)
            for row, part in zip(x, parts):
                row[:, : part.shape[1]] = part
            signal = torch.from_numpy(x).to(device)
            valid = model.valid_tokens(signal, lengths=lengths)
            found.append(pool(model.encode(signal, lengths=lengths), valid, "mean").double().cpu().numpy())
        return np.concatenate(found)

    def _heart_rate(self, rate_hz: float) -> np.ndarray:
        """Beats a minute, from the median interval; NaN where there are few beats, or none are known."""
        found = np.full(len(self._windows), np.nan)
        for row, window in enumerate(self._windows):
            try:
                beats = self._corpus.beats(window).time
            except ReadError:
                return found
            if len(beats) > _INTERVALS:
                found[row] = 60 * rate_hz / max(float(np.median(np.diff(beats))), 1e-6)
        return found


def _ridge(x: np.ndarray, y: np.ndarray, fit: np.ndarray) -> float | None:
    """R² on the rows that are not for fitting, against their own mean; the ridge is chosen on those that are."""
    known = np.isfinite(y)
    ours, theirs = known & fit, known & ~fit
    if min(ours.sum(), theirs.sum()) < _FEWEST or y[theirs].std() == 0:
        return None
    centre, n = y[ours].mean(), int(ours.sum())
    u, s, v = np.linalg.svd(x[ours] - x[ours].mean(0), full_matrices=False)
    seen = u.T @ (y[ours] - centre)

    def left_out(ridge: float) -> float:
        """Mean square error of each row by the fit without it, from the diagonal of the smoother."""
        share = s**2 / (s**2 + ridge)
        inside = (u**2 @ share) + 1 / n
        return float((((y[ours] - centre - u @ (share * seen)) / np.maximum(1 - inside, 1e-6)) ** 2).mean())

    ridge = min(_RIDGES, key=left_out)
    error = y[theirs] - centre - (x[theirs] - x[ours].mean(0)) @ (v.T @ (s / (s**2 + ridge) * seen))
    return float(1 - (error**2).sum() / ((y[theirs] - y[theirs].mean()) ** 2).sum())


def _nearest(x: np.ndarray, label: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """The commonest label of the nearest fitted rows (cosine) of every other row; the nearest decides a draw."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    order = np.argsort(-(unit[~fit] @ unit[fit].T), axis=1, kind="stable")[:, :_NEIGHBOURS]
    near = label[fit][order]
    votes = np.stack([np.bincount(row, minlength=label.max() + 1) for row in near])
    winner = votes.max(1, keepdims=True)
    return np.array([next(v for v in row if votes[i, v] == winner[i, 0]) for i, row in enumerate(near)])
