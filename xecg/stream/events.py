"""What a stream gives: tokens of the model, and events, each saying who made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DETECTOR", "STREAM", "Event", "Token"]

STREAM, DETECTOR = "stream", "detector"  # makers of events; a head's are "head:NAME"


@dataclass(frozen=True, eq=False)
class Token:
    """One output of the model: `embedding` float32 (D,) of the samples start ≤ t < stop, absolute indices at the input rate.

    index counts tokens since the stream began or was reset. valid is False when every sample of the token was missing.
    """

    id: str
    index: int
    start: int
    stop: int
    embedding: np.ndarray
    valid: bool


@dataclass(frozen=True)
class Event:
    """What happened to a stream at the absolute sample `start`, over `samples` samples, and who says so.

    by "stream": kind "gap" (samples missing), "reset" (a gap too long to bridge, or the end of a record), "late" (samples that came
    twice or too late, and were dropped). by "detector": kind "beat", an R peak of the classical detector, samples 0. by "head:NAME":
    kind is the label that a head of the model began to see, score its probability.
    """

    id: str
    kind: str
    start: int
    samples: int
    by: str = STREAM
    score: float | None = None
