"""Beats of one stream by the classical detector (`xecg.signal.qrs`), in absolute samples, with a state that can be saved.

The detector's cost is by the call, not by the sample, so its samples are collected and handed over in pieces; what it finds does not
depend on how they are cut.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from typing import Any

import numpy as np

from xecg.errors import StreamError
from xecg.signal import qrs

__all__ = ["Beats"]

_TYPES = ("float32", "float64", "int64", "bool")


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
        """u32 text bytes · JSON text · arrays, little-endian. The text holds the detector's attributes that differ from a new one's."""
        arrays: list[np.ndarray] = [self._wait[: self._fill]]
        fresh = vars(qrs.Detector(self._rate))
        own = {k: _plain(v, arrays) for k, v in vars(self._detector).items() if not _same(v, fresh.get(k))}
        facts = {"origin": self.origin, "until": self._until, "every": len(self._wait), "detector": own}
        facts["arrays"] = [[a.dtype.name, list(a.shape)] for a in arrays]
        text = json.dumps(facts, separators=(",", ":")).encode()
        data = b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)
        return struct.pack("<I", len(text)) + text + data

    @classmethod
    def restored(cls, rate: float, blob: bytes) -> Beats:
        """What `save` wrote. Raises StreamError when it is not that."""
        try:
            size = struct.unpack_from("<I", blob)[0]
            facts, at, arrays = json.loads(blob[4 : 4 + size]), 4 + size, []
            for name, shape in facts["arrays"]:
                dtype = np.dtype(_TYPES[_TYPES.index(name)])
                count = int(np.prod(shape, dtype=object))
                arrays.append(np.frombuffer(blob, dtype.newbyteorder("<"), count, at).astype(dtype).reshape(shape))
                at += count * dtype.itemsize
            self = cls(rate, int(facts["every"]), origin=int(facts["origin"]), phase=int(facts["until"]))
            self._fill = len(arrays[0])
            self._wait[: self._fill] = arrays[0]
            known = vars(self._detector)
            for key, value in facts["detector"].items():
                if key not in known:
                    raise KeyError(key)
                known[key] = _rebuilt(value, arrays)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as error:
            raise StreamError(
                f"saved stream holds a state of the beat detector that this xecg does not know ({error!r}); it is of another version"
            ) from None
        return self


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    return isinstance(a, (int, float, str)) and a == b


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """A value of the detector as JSON; arrays go to `arrays`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, deque):
        return {"deque": [_plain(v, arrays) for v in value], "longest": value.maxlen}
    if isinstance(value, list):
        return [_plain(v, arrays) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, arrays) for v in value], "class": type(value).__name__}
    return {"object": {k: _plain(v, arrays) for k, v in vars(value).items()}, "class": type(value).__name__}


def _rebuilt(value: Any, arrays: list[np.ndarray]) -> Any:
    """The inverse of `_plain`; only classes of the detector's own module are made."""
    if isinstance(value, list):
        return [_rebuilt(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "deque" in value:
        return deque((_rebuilt(v, arrays) for v in value["deque"]), value["longest"])
    if value["class"] == "tuple":
        return tuple(_rebuilt(v, arrays) for v in value["tuple"])
    kind = getattr(qrs, value["class"])
    if not isinstance(kind, type) or kind.__module__ != qrs.__name__:
        raise ValueError(f"class {value['class']!r}")
    if "tuple" in value:
        return kind(*(_rebuilt(v, arrays) for v in value["tuple"]))
    made: Any = object.__new__(kind)
    vars(made).update({k: _rebuilt(v, arrays) for k, v in value["object"].items()})
    return made
