"""`Recording`: one ECG in memory, in one form whatever file it came from. `io` makes them, everything else reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xecg.errors import ShapeError

__all__ = ["Annotations", "LogEntry", "Recording"]


@dataclass(frozen=True)
class LogEntry:
    """One conversion, repair or guess made on the way from bytes to `Recording`."""

    kind: str  # "converted" | "repaired" | "guessed" | "dropped" | "noted"
    field: str
    text: str


@dataclass(frozen=True, eq=False)
class Annotations:
    """Marks on the time axis of a recording: `sample` int64 (n,) at the recording's rate, `symbol` and `aux` text of each."""

    sample: np.ndarray
    symbol: tuple[str, ...]
    aux: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.symbol)


@dataclass(frozen=True, eq=False)
class Recording:
    """An ECG: `signal` float32 (leads, samples) in mV, `rate` in Hz, `leads` standard names where they are standard.

    mask: bool like signal, False where a sample is missing (the signal is 0 there).
    start: seconds from the start of the original record to sample 0, or a datetime when dates were asked for; None if unknown.
    log: every conversion, repair and guess. meta: age (years), sex ("F"/"M") and loader facts; never a name or an id.
    quality: filled by `xecg.signal.quality`; None until then.
    """

    signal: np.ndarray
    rate: float
    leads: tuple[str, ...]
    mask: np.ndarray
    source: str = ""
    start: Any = None
    annotations: Annotations | None = None
    log: tuple[LogEntry, ...] = ()
    quality: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or self.signal.dtype != np.float32:
            raise ShapeError(
                f"signal is {self.signal.dtype} with shape {self.signal.shape}; needed float32 (leads, samples)"
            )
        if self.mask.shape != self.signal.shape or self.mask.dtype != np.bool_:
            raise ShapeError(
                f"mask is {self.mask.dtype} with shape {self.mask.shape}; needed bool {self.signal.shape}, like signal"
            )
        if len(self.leads) != self.signal.shape[0]:
            raise ShapeError(
                f"leads has {len(self.leads)} names; signal has {self.signal.shape[0]} rows: one name a row"
            )

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.signal.shape[1] / self.rate)

    def with_(self, **changes: Any) -> Recording:
        """A copy with some fields changed."""
        return replace(self, **changes)
