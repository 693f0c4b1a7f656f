"""EDF and EDF+ headers, bytes to facts: every field matched to its grammar, nothing decided.

References: B. Kemp et al., Electroencephalogr. Clin. Neurophysiol. 82 (1992) 391 (EDF); B. Kemp and J. Olivan, Clin.
Neurophysiol. 114 (2003) 1755 (EDF+). The fields of patient and recording are skipped, except the sex in EDF+.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from xecg.errors import ReadError
from xecg.io.readers.files import shown
from xecg.signal.recording import LogEntry

__all__ = ["EDFFacts", "EDFSignal", "parse_edf"]

MAIN = 256  # bytes of the header before the signals, and of each signal's part
ANNOTATIONS = "EDF Annotations"

_INT = re.compile(r"[+-]?\d{1,12}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
# field of a signal and its width; all signals' first fields come first, then all second ones
_FIELDS = (
    ("label", 16),
    ("transducer", 80),
    ("dimension", 8),
    ("physical minimum", 8),
    ("physical maximum", 8),
    ("digital minimum", 8),
    ("digital maximum", 8),
    ("prefiltering", 80),
    ("samples per record", 8),
    ("reserved", 32),
)


class EDFSignal(NamedTuple):
    """One channel; `samples` in each data record."""

    label: str
    dimension: str
    physical: tuple[float, float]
    digital: tuple[int, int]
    samples: int


@dataclass(frozen=True)
class EDFFacts:
    """A header. records: data records stated (-1: unknown); record_s: duration of one in seconds."""

    file: str
    discontinuous: bool
    records: int
    record_s: float
    signals: tuple[EDFSignal, ...]
    start: datetime | None
    sex: str | None
    log: tuple[LogEntry, ...]

    @property
    def size(self) -> int:
        """Bytes before the first data record."""
        return MAIN * (1 + len(self.signals))

    @property
    def record_bytes(self) -> int:
        return 2 * sum(signal.samples for signal in self.signals)


def parse_edf(data: bytes, *, file: str) -> EDFFacts:
    """The facts of a header; `data` may go on after it. Raises ReadError naming the field that is not as it should be."""
    if len(data) < MAIN:
        raise ReadError(file, "header", f"{len(data)} bytes", f"needed {MAIN} and {MAIN} for each signal")
    log: list[LogEntry] = []
    count = _whole(_text(data[252:256], log), "number of signals", file)
    if count < 1:
        raise ReadError(file, "number of signals", count, "no signal in it; needed at least one")
    size = _whole(_text(data[184:192], log), "header bytes", file)
    if size != MAIN * (1 + count):
        raise ReadError(file, "header bytes", size, f"{count} signals need {MAIN * (1 + count)}")
    if len(data) < size:
        raise ReadError(file, "header", f"{len(data)} bytes", f"needed {size}")
    kind = _text(data[192:236], log)
    start = _start(_text(data[168:176], log), _text(data[176:184], log), log)
    plus = kind.startswith("EDF+")
    sex = _text(data[8:88], log).split(" ")[1:2] if plus else []
    return EDFFacts(
        file,
        kind.startswith("EDF+D"),
        _whole(_text(data[236:244], log), "number of data records", file),
        _number(_text(data[244:252], log), "duration of a data record", file),
        _signals(data, count, file, log),
        start,
        sex[0] if sex and sex[0] in ("F", "M") else None,
        tuple(dict.fromkeys(log)),
    )


def _text(raw: bytes, log: list[LogEntry]) -> str:
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        log.append(LogEntry("guessed", "header", "not ASCII; read as Latin-1"))
    return text.strip(" ")


def _whole(text: str, field: str, file: str) -> int:
    if not _INT.fullmatch(text):
        raise ReadError(file, field, shown(text), "needed a whole number")
    return int(text)


def _number(text: str, field: str, file: str) -> float:
    if not _NUMBER.fullmatch(text):
        hint = "Decimals are written with a point." if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
        raise ReadError(file, field, shown(text), "needed a number", hint)
    return float(text)


def _start(day: str, clock: str, log: list[LogEntry]) -> datetime | None:
    """dd.mm.yy and hh.mm.ss; years 85…99 are of the last century (EDF+, clipping date)."""
    found = re.fullmatch(r"(\d\d)\.(\d\d)\.(\d\d) (\d\d)\.(\d\d)\.(\d\d)", f"{day} {clock}")
    try:
        if found is None:
            raise ValueError
        days, months, years, hours, minutes, seconds = (int(part) for part in found.groups())
        return datetime(years + (1900 if years >= 85 else 2000), months, days, hours, minutes, seconds)
    except ValueError:
        log.append(LogEntry("dropped", "start", "start date or time is not a possible one; start is unknown"))
        return None


def _signals(data: bytes, count: int, file: str, log: list[LogEntry]) -> tuple[EDFSignal, ...]:
    at, columns = MAIN, {}
    for name, width in _FIELDS:
        columns[name] = [_text(data[at + width * i : at + width * (i + 1)], log) for i in range(count)]
        at += width * count
    out = []
    for index in range(count):
        label = columns["label"][index]
        if not label.isprintable():
            raise ReadError(file, f"label of signal {index + 1}", shown(label), "needed printable text")

        def field(name: str, index: int = index, label: str = label) -> tuple[str, str, str]:
            return columns[name][index], f"{name} of {shown(label)}", file

        samples = _whole(*field("samples per record"))
        if samples < 1:
            raise ReadError(file, f"samples per record of {shown(label)}", samples, "needed 1 or more")
        physical = (_number(*field("physical minimum")), _number(*field("physical maximum")))
        digital = (_whole(*field("digital minimum")), _whole(*field("digital maximum")))
        out.append(EDFSignal(label, columns["dimension"][index], physical, digital, samples))
    return tuple(out)
