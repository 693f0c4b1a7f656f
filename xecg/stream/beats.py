"""Beats of one stream by the classical detector (`xecg.signal.qrs`), in absolute samples, with a state that can be saved.

A call of the detector costs more than a sample, so its samples are collected and handed over in pieces; what it finds does not depend
on how they are cut.
"""

from __future__ import annotations

import struct

import numpy as np

from xecg.errors import StreamError
from xecg.signal import qrs

__all__ = ["Beats"]

_HEAD = struct.Struct("<qIII")
_LONGEST_WAIT_S = 61.0  # `Stream` takes look_every_s up to 60


class Beats:
    """R peaks of one lead. rate: Hz. every: samples collected before the detector looks. origin: absolute index of the first sample.

    phase: samples in the first piece, so that many streams do not all look at once. Raises SpecError for a rate that the detector
    does not take.
    """

    def __init__(self, rate: float, every: int, *, origin: int = 0, phase: int = 0) -> None:
        self._rate, self.origin = rate, origin
        self._detector = qrs.Detector(rate)
        self._wait = np.empty(every, np.float32)
        self._fill, self._until = 0, phase or every

    def push(self, x: np.ndarray) -> list[int]:
        """Samples (n,) in mV, missing ones not-a-number → absolute samples of the peaks now decided."""
        found: list[int] = []
        at, n = 0, len(x)
        while at < n:
            take = min(n - at, self._until - self._fill)
            self._wait[self._fill : self._fill + take] = x[at : at + take]
            self._fill, at = self._fill + take, at + take
            if self._fill == self._until:
                found += self._look()
        return found

    def skip(self, n: int) -> list[int]:
        """n missing samples."""
        missing = np.full(min(n, len(self._wait)), np.nan, np.float32)
        return [beat for at in range(0, n, len(missing)) for beat in self.push(missing[: n - at])]

    def flush(self) -> list[int]:
        """The last peaks; push no more."""
        return [*self._look(), *(self.origin + beat for beat in self._detector.flush())]

    def _look(self) -> list[int]:
        x, self._fill, self._until = self._wait[: self._fill], 0, len(self._wait)
        return [self.origin + beat for beat in self._detector.push(x)]

    def save(self) -> bytes:
        """Little-endian: i64 origin · u32 samples a piece · u32 samples of this piece · u32 collected · those, float32 · the detector's
        state (`Detector.save`)."""
        head = _HEAD.pack(self.origin, len(self._wait), self._until, self._fill)
        return head + self._wait[: self._fill].astype("<f4").tobytes() + self._detector.save()

    @classmethod
    def restored(cls, rate: float, blob: bytes) -> Beats:
        """What `save` wrote. Raises StreamError when it is not that."""
        if len(blob) < _HEAD.size:
            raise StreamError(f"saved beat detector has {len(blob)} bytes; needed at least {_HEAD.size}: it was cut")
        origin, every, until, fill = _HEAD.unpack_from(blob)
        end = _HEAD.size + 4 * fill
        if not (0 <= fill < until <= every <= _LONGEST_WAIT_S * rate and end <= len(blob)):
            raise StreamError(
                f"saved beat detector has {fill} of {until} samples, {every} at most, in {len(blob)} bytes; it was altered, "
                "or is of another version"
            )
        self = cls(rate, every, origin=origin, phase=until)
        self._fill = fill
        self._wait[:fill] = np.frombuffer(blob, "<f4", fill, _HEAD.size)
        self._detector.restore(blob[end:])
        return self
