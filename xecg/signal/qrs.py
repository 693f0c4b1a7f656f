"""Causal QRS detector: finds beats in a stream as in a record, with the same result however the samples are cut.

The method is that of `xecg.signal.qrs_definition`; where csrc/cpu/qrs.h is built, it runs, with the same peaks and the same state.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from xecg.errors import ShapeError, SpecError, StreamError
from xecg.signal import kernel
from xecg.signal.qrs_definition import CLEAR, Definition, numbers, peakedness

__all__ = ["Detector", "compiled_plan", "detect"]


def detect(signal: np.ndarray, rate_hz: float) -> np.ndarray:
    """R peaks of a whole record: signal (n,) or (leads, n) in mV → int64 sample indices, ascending.

    Of several leads the first one whose beats stand out from its noise is used, or else the one where they do most.
    Raises ShapeError, SpecError.
    """
    x = _numbers("signal", signal)
    if x.ndim not in (1, 2):
        raise ShapeError(f"signal has shape {x.shape}; needed (n,) or (leads, n)")
    rate_hz = _rate(rate_hz)
    if x.ndim == 2:
        if not len(x):
            raise ShapeError(f"signal has shape {x.shape}; needed at least one lead")
        x = x[_clearest(x, rate_hz)] if len(x) > 1 else x[0]
    native = kernel.native()
    if native is None:
        detector = Definition(rate_hz)
        return np.array([*detector.push(x), *detector.flush()], dtype=np.int64)
    x = np.ascontiguousarray(x)
    return np.array(native.qrs(x.ctypes.data, len(x), compiled_plan(rate_hz)), dtype=np.int64)


class Detector:
    """Beats of one lead as they come. `push` returns sample indices counted from the first sample ever pushed.

    A decision comes at most `delay_s` after the R peak, the first ones after 2 s of signal; a beat found by searching
    back comes up to 1.66 RR intervals late. Indices ascend. Samples that are not numbers repeat the last value.
    Raises SpecError for a rate outside 50..20,000 Hz.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = _rate(rate_hz)
        native = kernel.native()
        self._form = Definition(self.rate_hz) if native is None else native.QrsDetector(compiled_plan(self.rate_hz))

    @property
    def delay_s(self) -> float:
        """Longest time from an R peak to its decision, but for search-back and the first 2 s."""
        return Definition(self.rate_hz).delay_s

    def push(self, samples: np.ndarray) -> list[int]:
        """Samples (n,) in mV, any n → the beats now decided. Raises ShapeError."""
        x = _numbers("samples", samples)
        if x.ndim != 1:
            raise ShapeError(f"samples has shape {x.shape}; needed (n,): one lead")
        if isinstance(self._form, Definition):
            return self._form.push(x)
        x = np.ascontiguousarray(x)
        found: list[int] = self._form.push(x.ctypes.data, len(x))
        return found

    def flush(self) -> list[int]:
        """The beats of the last samples, judged with what is there; the end of a record. Push no more afterwards."""
        found: list[int] = self._form.flush()
        return found

    def save(self) -> bytes:
        """Everything that it remembers, as little-endian float64; either form of the detector continues it to the bit."""
        form = self._form
        state = form.save() if isinstance(form, Definition) else np.frombuffer(form.save())
        return bytes(state.astype("<f8").tobytes())

    def restore(self, state: bytes) -> None:
        """Continue what `save` wrote at this rate. Raises StreamError, changing nothing, when it is not that."""
        x = np.frombuffer(state if len(state) % 8 == 0 else b"", "<f8").astype(np.float64)
        form = self._form
        if not (form.restore(x) if isinstance(form, Definition) else form.restore(x.ctypes.data, len(x))):
            raise StreamError(
                f"saved state of a beat detector ({len(state)} bytes) is none of {self.rate_hz:g} Hz that this xecg knows; "
                "it is of another version or rate, or was altered"
            )


@lru_cache(maxsize=32)
def compiled_plan(rate_hz: float) -> Any:
    """QrsPlan of csrc/cpu/qrs.h, where `xecg._cpu` is built."""
    native = kernel.native()
    assert native is not None
    return native.QrsPlan(*numbers(rate_hz))


def _rate(rate_hz: float) -> float:
    if not 50 <= rate_hz <= 20_000:
        raise SpecError(f"rate_hz is {rate_hz!r}; needed 50..20,000 Hz")
    return float(rate_hz)


def _numbers(name: str, values: Any) -> np.ndarray:
    """float64. Raises ShapeError for what is no array of real numbers: complex values, text, rows of unequal length."""
    try:
        x = np.asarray(values)
    except ValueError:
        raise ShapeError(f"{name} has rows of unequal length; needed (n,) or (leads, n)") from None
    if x.dtype.kind not in "fiu":
        raise ShapeError(f"{name} is of type {x.dtype}; needed real numbers, in mV")
    return x.astype(np.float64, copy=False)


def _clearest(x: np.ndarray, rate_hz: float) -> int:
    """The first lead whose 5–20 Hz signal is peaked (excess kurtosis) as beats are and noise is not, else the most peaked one.

    The first, because annotators mark beats on it: the R wave of a chest lead can come tens of milliseconds later.
    """
    best, chosen = -np.inf, 0
    for lead, row in enumerate(x):
        peaked = _peakedness(row, rate_hz)
        if peaked >= CLEAR:
            return lead
        if peaked > best:
            best, chosen = peaked, lead
    return chosen


def _peakedness(row: np.ndarray, rate_hz: float) -> float:
    """Excess kurtosis of a lead's 5–20 Hz signal: of noise it is 0, of silence −3."""
    native = kernel.native()
    if native is None:
        return peakedness(row, rate_hz)
    row = np.ascontiguousarray(row)
    return float(native.qrs_peakedness(row.ctypes.data, len(row), compiled_plan(rate_hz)))
