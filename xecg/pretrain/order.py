"""Which records a step takes: from (seed, epoch) alone, so the same however many processes share them; and which none does."""

from __future__ import annotations

import numpy as np

from xecg.errors import SpecError
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.settings import Settings
from xecg.pretrain.views import draw

__all__ = ["Batches"]


class Batches:
    """held: windows that no step takes, int64, ascending: those of `settings.held_out` of the patients.

    Raises SpecError where what is left does not fill a batch.
    """

    def __init__(self, settings: Settings, corpus: Corpus) -> None:
        self._settings = settings
        held = _held_out(settings, corpus)
        self.held = np.flatnonzero(held)
        once = np.flatnonzero(~held)
        real = np.array([not corpus.ids[i].startswith("synthetic/") for i in once.tolist()], bool)
        times = [once] + [once[real]] * (settings.repeat_real - 1)
        self._index = np.concatenate(times)
        self._repetition = np.repeat(np.arange(len(times)), [len(part) for part in times])
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        if len(once) < settings.batch:
            raise SpecError(f"corpus holds {len(once)} windows; needed at least one batch, {settings.batch}")

    def of(self, step: int) -> tuple[int, list[tuple[int, int]]]:
        """The epoch of a step and its records, (index, repetition); the rest of an epoch that fills no batch is left out."""
        size, total = self._settings.batch, len(self._index)
        epoch, place = divmod(step, total // size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, draw(self._settings.seed, epoch, "order").permutation(total)
        chosen = self._order[place * size : (place + 1) * size]
        return epoch, list(zip(self._index[chosen].tolist(), self._repetition[chosen].tolist()))


def _held_out(settings: Settings, corpus: Corpus) -> np.ndarray:
    """bool (windows,): those of patients whose number, drawn by the name of their first recording, falls under the share."""
    if not settings.held_out:
        return np.zeros(len(corpus), bool)
    _, first, patient = np.unique(corpus.patients, return_index=True, return_inverse=True)
    names = [corpus.ids[i].rpartition("@")[0] for i in first.tolist()]
    chosen = [draw(settings.seed, 0, "held out", name).uniform() < settings.held_out for name in names]
    found: np.ndarray = np.array(chosen)[patient]
    return found
