"""The adapter: all that an encoder needs to be benchmarked. Ten lines for a user's own:

class Mine:
    id = "mine"
    fingerprint = "v1"             # changes whenever the features would: names them in the cache and in every result
    trained = True
    spec_hash = ""                 # the preprocessing's, if it has one
    about = "my encoder"
    pretrained_on = ("CODE-15 %",)

    def features(self, recordings):
        return [Tokens(encode(r.signal), start_s=..., length_s=...) for r in recordings]

r.signal is (leads, samples) in mV at r.rate; docs/MODELS.md has a whole one that runs.
A torch network needs less: `benchecg.models.wrapped.Wrapped` does windows and times; docs/MODELS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xecg.errors import ShapeError
from xecg.signal import Recording

__all__ = ["Adapter", "Tokens"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Features of one recording in time order.

    values: float32 (T, D), finite. start_s: float64 (T,), ascending, s from the recording's first sample. length_s: float64 (T,).
    A token speaks for [start, start + length). One vector for the whole recording is one token as long as it.
    """

    values: np.ndarray
    start_s: np.ndarray
    length_s: np.ndarray

    def __post_init__(self) -> None:
        for name in ("values", "start_s", "length_s"):
            if not isinstance(given := getattr(self, name), np.ndarray):
                raise ShapeError(
                    f"token {name} is a {type(given).__name__}; needed numpy arrays: values (T, D), start_s and length_s (T,)"
                )
        if self.values.ndim != 2 or not len(self.values):
            raise ShapeError(
                f"token values have shape {self.values.shape}; needed (T, D) with at least one token a recording"
            )
        for name in ("start_s", "length_s"):
            shape = getattr(self, name).shape
            if shape != (len(self.values),):
                raise ShapeError(f"token {name} has shape {shape}; needed ({len(self.values)},), one for each token")
        if not np.isfinite(self.values).all():
            raise ShapeError(
                f"{int((~np.isfinite(self.values)).sum())} token values are not finite; needed finite features"
            )
        if (np.diff(self.start_s) < 0).any():
            raise ShapeError("token start_s goes back in time; needed ascending starts")

    def at(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The token that holds each instant: index int (n,), and whether there is one, bool (n,)."""
        index = np.searchsorted(self.start_s, time_s, side="right") - 1
        safe = np.maximum(index, 0)
        return safe, (index >= 0) & (time_s < self.start_s[safe] + self.length_s[safe])


class Adapter(Protocol):
    """An encoder under test. It sees recordings without their annotations and without the meta entries that a task hides.

    id: its name in tables. fingerprint: of weights and settings. spec_hash: of the preprocessing, "" without one. trained: False
    for random weights, None where nothing is learned beforehand. about: one line for reports. pretrained_on: data sets it has
    seen, () for none, None for unknown. A detector has `peaks_s(recording)` in place of features: the peaks it finds, in seconds;
    it is asked peaks tasks only.
    """

    id: str
    spec_hash: str
    trained: bool | None
    about: str
    pretrained_on: tuple[str, ...] | None

    @property
    def fingerprint(self) -> str:
        """Of weights and settings; a plain attribute serves, too."""
        ...

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """One `Tokens` for each recording, in order."""
        ...
