"""NumPy files. npy: floats, with rate, unit and leads from the caller. npz: these beside the signal.

An npz holds `signal`, and may hold `rate` (Hz), `leads` (names), `unit`, and for integers `gain` (counts per unit) and
`baseline` (counts), scalars or one a lead. Nothing is ever unpickled.
Header: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import Request, check_rate, from_arrays, lead_names, per_mv
from xecg.io.readers.files import read_file, shown
from xecg.signal.recording import LogEntry, Recording

__all__ = ["ArrayFacts", "parse_array", "read_npy"]

_HEADER_LIMIT = 10_000
_SIDE_LIMIT = 1 << 20  # bytes of an array of names or numbers beside the signal


@dataclass(frozen=True)
class ArrayFacts:
    """The header of one array; its items begin at byte `begin`."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int


_PREFIX = {1: (10, 2), 2: (12, 4), 3: (12, 4)}  # major version: bytes before the header text, bytes of its length
_DESCR = re.compile(rb"'descr':\s*'([<>|=]?[A-Za-z?]\d{0,4})'")
_ORDER = re.compile(rb"'fortran_order':\s*(True|False)")
_SHAPE = re.compile(rb"'shape':\s*\(([\d\s,]{0,200})\)")


def parse_array(data: bytes, *, file: str, field: str = "array") -> ArrayFacts:
    """Header facts of an npy file. Raises ReadError where header and size disagree, or items are Python objects."""
    begin, text = 0, b""
    if data.startswith(b"\x93NUMPY") and len(data) > 12 and data[6] in _PREFIX:
        before, width = _PREFIX[data[6]]
        begin = before + int.from_bytes(data[8 : 8 + width], "little")
        text = data[before:begin] if begin - before <= _HEADER_LIMIT else b""
    found = [pattern.findall(text) for pattern in (_DESCR, _ORDER, _SHAPE)]
    if any(len(matches) != 1 for matches in found):
        rule = "needed an npy header with one descr (a plain type), fortran_order and shape"
        raise ReadError(file, f"header of {field}", shown(text.decode("latin-1")), rule)
    (descr,), (order,), (sides,) = found
    try:
        dtype = np.dtype(descr.decode())
        shape = tuple(int(side) for side in sides.split(b",") if side.strip())
    except (TypeError, ValueError):
        raise ReadError(
            file, f"header of {field}", shown(text.decode("latin-1")), "needed a type and a shape"
        ) from None
    if dtype.hasobject:
        raise ReadError(file, f"type of {field}", "object", "Python objects are never loaded; needed numbers")
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data) - begin:
        rule = f"its shape {shape} of {dtype} needs {needed:,}"
        raise ReadError(file, f"size of {field}", f"{len(data) - begin:,} bytes", rule)
    return ArrayFacts(shape, order == b"True", dtype, begin)


def _array(data: bytes, facts: ArrayFacts) -> np.ndarray:
    flat = np.frombuffer(data, facts.dtype, offset=facts.begin)
    return flat.reshape(facts.shape, order="F" if facts.fortran else "C")


def read_npy(path: Path, request: Request, *, source: str) -> Recording:
    """The recording in an npy or npz file at `path` (links resolved)."""
    data = read_file(path, file=source, limit=request.max_decoded)
    sides: dict[str, np.ndarray] = {}
    if data.startswith(b"PK"):
        data, sides = _unpacked(data, request, source)
    facts = parse_array(data, file=source, field="signal")
    kind = facts.dtype.kind
    if kind not in "fiu" or facts.dtype.itemsize > 8:
        raise ReadError(source, "type of signal", facts.dtype, "needed floats, or integers with a gain")
    if len(facts.shape) not in (1, 2) or 0 in facts.shape:
        raise ReadError(
            source, "shape of signal", facts.shape, "needed (leads, samples), (samples, leads) or (samples,)"
        )
    gain = _numbers(sides, "gain", source)
    if kind in "iu" and gain is None:
        hint = "Write an npz with `gain` (counts per unit) beside `signal`."
        raise ReadError(source, "gain", "absent", "integers are counts; needed the counts per unit", hint)
    log: list[LogEntry] = []
    rate = _rate(sides, request, source)
    unit, scale = _unit(sides, request, source)
    if unit != "mV":
        log.append(LogEntry("converted", "unit", f"{unit} to mV"))
    found = _names(sides, request, source)
    values = np.atleast_2d(_array(data, facts)).astype(np.float64)
    values = _leads_first(values, len(found), log, source)
    wishes = request if "leads" not in sides or request.leads is not None else replace(request, leads=None)
    if "leads" not in sides:
        wishes = replace(request, leads=found)
    names, named = lead_names(found, [True] * len(found), wishes, file=source)
    log += named
    if np.isinf(values).any():
        raise ReadError(source, "signal", "infinite", "needed finite numbers; NaN marks a missing sample")
    values -= _column(_numbers(sides, "baseline", source), 0.0, len(found), "baseline", source)
    values /= _column(gain, 1.0, len(found), "gain", source) * scale
    keep = [index for index, name in enumerate(names) if name is not None]
    return from_arrays(values[keep], rate, [str(names[i]) for i in keep], request, log, source=source)


def _unpacked(data: bytes, request: Request, source: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """The signal's npy bytes and the other known arrays of an npz; sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            signal = members.get("signal.npy")
            if signal is None:
                listed = shown(", ".join(members))
                raise ReadError(source, "arrays", listed, "needed one called signal")
            if signal.file_size > request.max_decoded:
                rule = f"at most {request.max_decoded:,} bytes unpacked (max_decoded)"
                raise ReadError(source, "decoded size", f"{signal.file_size:,} bytes", rule)
            sides = {}
            for name in ("rate", "leads", "unit", "gain", "baseline"):
                info = members.get(f"{name}.npy")
                if info is not None:
                    if info.file_size > _SIDE_LIMIT:
                        raise ReadError(
                            source, f"size of {name}", f"{info.file_size:,} bytes", f"at most {_SIDE_LIMIT:,}"
                        )
                    part = archive.read(info)
                    sides[name] = _array(part, parse_array(part, file=source, field=name))
            return archive.read(signal), sides
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(source, "archive", shown(str(error)), "needed a whole npz file") from None
    except Exception as error:  # zlib.error and lzma.LZMAError have no common base
        if type(error).__module__ not in ("zlib", "lzma", "_lzma"):
            raise
        raise ReadError(source, "archive", shown(str(error)), "needed a whole npz file") from None


def _numbers(sides: dict[str, np.ndarray], name: str, source: str) -> np.ndarray | None:
    if name not in sides:
        return None
    value = sides[name]
    if value.dtype.kind not in "fiu" or not value.size or not np.isfinite(value).all():
        raise ReadError(source, name, shown(str(value)), "needed finite numbers")
    return value.astype(np.float64).reshape(-1)


def _column(values: np.ndarray | None, default: float, leads: int, name: str, source: str) -> np.ndarray:
    if values is None:
        return np.full((1, 1), default)
    if values.size not in (1, leads):
        raise ReadError(source, name, f"{values.size} numbers", f"needed one, or one for each of {leads} leads")
    if name == "gain" and not (values > 0).all():
        raise ReadError(source, name, shown(str(values)), "needed positive numbers")
    return values[:, None]


def _rate(sides: dict[str, np.ndarray], request: Request, source: str) -> float:
    stated = _numbers(sides, "rate", source)
    if stated is None:
        if request.rate is None:
            raise ReadError(source, "sampling rate", "absent", "needed in Hz", "Pass rate=.")
        return request.rate
    if stated.size != 1:
        raise ReadError(source, "sampling rate", f"{stated.size} numbers", "needed one")
    rate = float(stated[0])
    if request.rate is not None and abs(request.rate - rate) > 1e-6 * abs(rate):
        raise ReadError(source, "sampling rate", f"{rate:g} Hz", f"the caller says {request.rate:g} Hz")
    return check_rate(rate, file=source)


def _texts(sides: dict[str, np.ndarray], name: str, source: str) -> list[str]:
    value = sides[name]
    if value.dtype.kind not in "US":
        raise ReadError(source, f"type of {name}", value.dtype, "needed text")
    texts = [text.decode("latin-1") if isinstance(text, bytes) else str(text) for text in value.reshape(-1).tolist()]
    if any(not text.isprintable() for text in texts):
        raise ReadError(source, name, shown(", ".join(texts)), "needed printable text")
    return texts


def _unit(sides: dict[str, np.ndarray], request: Request, source: str) -> tuple[str, float]:
    stated = _texts(sides, "unit", source) if "unit" in sides else []
    unit = request.unit or (stated[0] if len(stated) == 1 else None)
    if unit is None:
        raise ReadError(source, "unit", "absent", "needed mV, uV, V or nV", "Pass unit=.")
    scale = per_mv(unit)
    if scale is None:
        raise ReadError(source, "unit", shown(unit), "needed mV, uV, V or nV")
    return unit, scale


def _names(sides: dict[str, np.ndarray], request: Request, source: str) -> Sequence[str | None]:
    if "leads" in sides:
        return _texts(sides, "leads", source)
    if request.leads is None or isinstance(request.leads, (str, dict)):
        raise ReadError(source, "leads", "absent", "needed a name for each lead", "Pass leads=[…].")
    return list(request.leads)


def _leads_first(values: np.ndarray, leads: int, log: list[LogEntry], source: str) -> np.ndarray:
    rows, columns = values.shape
    if rows == leads != columns:
        return values
    if columns == leads != rows:
        log.append(LogEntry("converted", "shape", f"({rows}, {columns}) turned to (leads, samples)"))
        return values.T
    if rows == leads:
        rule = "both sides equal the number of leads: rows and columns cannot be told apart"
        raise ReadError(source, "shape of signal", f"({rows}, {columns})", rule)
    raise ReadError(source, "shape of signal", f"({rows}, {columns})", f"no side equals the number of leads, {leads}")
