"""WFDB headers, bytes to facts: the grammar of header(5), every field matched to its end, nothing decided.

Reference: G. Moody et al., WFDB Applications Guide, header(5), physionet.org/physiotools/wag/header-5.htm.
Of the comments only age, sex, Dx codes and a patient id are looked at; the rest is never kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from typing import NamedTuple

from xecg.errors import ReadError
from xecg.io.readers.files import shown
from xecg.signal.recording import LogEntry

__all__ = ["HeaderFacts", "PersonFacts", "SignalFacts", "parse_header"]

HEADER_LIMIT = 16 << 20  # bytes; a multi-segment header of a month in hospital has some 10,000 lines
_LINE_LIMIT = 4096

_INT = r"[+-]?\d{1,18}"
_NUMBER = r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,4})?"
_BLANK = r"[ \t]+"


class SignalFacts(NamedTuple):
    """One signal line. None: the field is absent. (A tuple: a frozen dataclass of 13 fields takes ten times as long to make.)"""

    file: str
    format: int
    frame: int = 1
    skew: int = 0
    offset: int = 0
    gain: float | None = None
    baseline: int | None = None
    unit: str | None = None
    resolution: int | None = None
    zero: int | None = None
    initial: int | None = None
    checksum: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class PersonFacts:
    """What comments say of the person."""

    age: float | None = None
    sex: str | None = None
    dx: tuple[str, ...] = ()
    patient: str = field(default="", repr=False)


@dataclass(frozen=True)
class HeaderFacts:
    """A header. `segments` is () for a plain record, else (name, samples) of each; `rate` is frames a second."""

    file: str
    name: str
    rate: float | None
    samples: int | None
    signals: tuple[SignalFacts, ...]
    segments: tuple[tuple[str, int], ...] = ()
    start: datetime | time | None = field(default=None, repr=False)
    start_valid: bool = True
    person: PersonFacts = PersonFacts()
    log: tuple[LogEntry, ...] = ()


# name of the field, pattern, what it must be; one list makes both the fast whole-line match and the explanation.
_RECORD_FIELDS = (
    ("record name", r"([^\s/\x00-\x1f\x7f]{1,255})(?:/(\d{1,9}))?", "a name, or name/segments"),
    ("number of signals", r"(\d{1,18})", "a whole number"),
    ("sampling rate", rf"({_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?", "a positive number of Hz"),
    ("number of samples", r"(\d{1,18})", "a whole number, 1 or more"),
)
_SIGNAL_FIELDS = (
    ("data file", r"([^\s\x00-\x1f\x7f]{1,255})", "a file name"),
    ("format", r"(\d{1,6})(?:x(\d{1,18}))?(?::(\d{1,18}))?(?:\+(\d{1,18}))?", "format[xframe][:skew][+offset]"),
    ("gain", rf"({_NUMBER})(?:\(({_INT})\))?(?:/([^\s\x00-\x1f\x7f]{{1,60}}))?", "number[(baseline)][/unit]"),
    ("ADC resolution", rf"({_INT})", "a whole number of bits"),
    ("ADC zero", rf"({_INT})", "a whole number"),
    ("initial value", rf"({_INT})", "a whole number"),
    ("checksum", rf"({_INT})", "a whole number"),
    ("block size", rf"{_INT}", "a whole number"),
    ("lead name", r"([^\x00-\x08\x0a-\x1f\x7f]*)", "printable text"),
)


def _nested(fields: tuple[tuple[str, str, str], ...], required: int, tail: str = "") -> re.Pattern[str]:
    """One pattern for a line in which a field may be left out only when all after it are."""
    pattern = tail
    for index in range(len(fields) - 1, -1, -1):
        part = (_BLANK if index else "") + fields[index][1] + pattern
        pattern = part if index < required else f"(?:{part})?"
    return re.compile(pattern)


_RECORD = _nested(_RECORD_FIELDS, 2, rf"(?:{_BLANK}([^\x00-\x08\x0a-\x1f\x7f]*))?")
_SIGNAL = _nested(_SIGNAL_FIELDS, 2)
_SEGMENT = re.compile(rf"([^\s/\\\x00-\x1f\x7f]{{1,255}}){_BLANK}(\d{{1,18}})")


def parse_header(data: bytes, *, file: str) -> HeaderFacts:
    """The facts of a header. Raises ReadError naming the line's first field that does not match its grammar."""
    text, log = _decode(data)
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip(" \t")]
    plain = [line.strip(" \t") for line in lines if not line.lstrip(" \t").startswith("#")]
    if not plain:
        raise ReadError(
            file, "header", f"{len(data)} bytes without a record line", "needed 'name signals rate samples'"
        )
    for line in plain:
        if len(line) > _LINE_LIMIT:
            raise ReadError(file, "header line", f"{len(line):,} characters", f"at most {_LINE_LIMIT:,}")
    record = _RECORD.fullmatch(plain[0])
    if record is None:
        raise _explained(plain[0], _RECORD_FIELDS, 2, file, "record line")
    name, segment_count, signal_count, rate, samples, rest = record.groups()
    start, start_valid, note = _start((rest or "").split())
    facts = HeaderFacts(
        file,
        name,
        rate=None if rate is None else float(rate),
        samples=None if samples is None else int(samples),
        signals=(),
        start=start,
        start_valid=start_valid,
        person=_person([line for line in lines if line.lstrip(" \t").startswith("#")]),
        log=tuple(log + note),
    )
    body = plain[1:]
    if segment_count is not None:
        _check_count("segments", int(segment_count), body, file)
        return replace(facts, segments=tuple(_segment(line, file) for line in body))
    _check_count("signals", int(signal_count), body, file)
    return replace(facts, signals=tuple(_signal(line, file) for line in body))


def _decode(data: bytes) -> tuple[str, list[LogEntry]]:
    log = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        log.append(LogEntry("repaired", "header", "byte-order mark removed"))
    try:
        return data.decode(), log
    except UnicodeDecodeError:
        log.append(LogEntry("guessed", "header", "not UTF-8; read as Latin-1"))
        return data.decode("latin-1"), log


def _check_count(what: str, announced: int, body: list[str], file: str) -> None:
    if announced != len(body):
        raise ReadError(file, f"number of {what}", announced, f"the header has {len(body)} lines for them")


def _signal(line: str, file: str) -> SignalFacts:
    found = _SIGNAL.fullmatch(line)
    if found is None:
        raise _explained(line, _SIGNAL_FIELDS, 2, file, "signal line")
    path, code, frame, skew, offset, gain, baseline, unit, resolution, zero, initial, checksum, name = found.groups()
    return SignalFacts(
        path,
        int(code),
        1 if frame is None else int(frame),
        int(skew or 0),
        int(offset or 0),
        None if gain is None else float(gain),
        None if baseline is None else int(baseline),
        unit,
        None if resolution is None else int(resolution),
        None if zero is None else int(zero),
        None if initial is None else int(initial),
        None if checksum is None else int(checksum),
        (name or "").strip() or None,
    )


def _segment(line: str, file: str) -> tuple[str, int]:
    found = _SEGMENT.fullmatch(line)
    if found is None:
        raise ReadError(file, "segment line", shown(line), "needed 'record samples', a record of the same folder")
    return found[1], int(found[2])


def _explained(line: str, fields: tuple[tuple[str, str, str], ...], required: int, file: str, where: str) -> ReadError:
    """The error for the first field of `line` that does not match."""
    parts = re.split(_BLANK, line, maxsplit=len(fields) - 1)
    for (name, pattern, rule), part in zip(fields, parts):
        if re.fullmatch(pattern, part) is None:
            hint = "Decimals are written with a point." if re.fullmatch(r"[+-]?\d+,\d+.*", part) else ""
            return ReadError(file, name, shown(part), f"needed {rule}", hint)
    return ReadError(file, where, f"{len(parts)} fields in {shown(line)}", f"needed {required} or more")


_TIME = re.compile(r"\[?(?:(?:(\d{1,2}):)?(\d{1,2}):)?(\d{1,2})(?:\.(\d{1,6})\d*)?")
_DATE = re.compile(r"(\d{1,2})[/-](\d{1,2}|[A-Za-z]{3})[/-](\d{4})\]?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def _start(fields: list[str]) -> tuple[datetime | time | None, bool, list[LogEntry]]:
    """Base time and date, in either order; an impossible one is no reason to lose the signal."""
    if not fields:
        return None, True, []
    note = []
    if len(fields) == 2 and _DATE.fullmatch(fields[0]):
        fields = fields[::-1]
        note = [LogEntry("repaired", "start", "date stands before time; read as what it is")]
    clock = _TIME.fullmatch(fields[0])
    day = _DATE.fullmatch(fields[1]) if len(fields) == 2 else None
    try:
        if clock is None or len(fields) > 2 or (len(fields) == 2 and day is None):
            raise ValueError
        hour, minute, second, fraction = clock.groups()
        if fields[0].count(":") == 1 and fraction is None:  # H:MM has no seconds; MM:SS.fff has
            hour, minute, second = minute, second, "0"
        at = time(int(hour or 0), int(minute or 0), int(second), int((fraction or "0").ljust(6, "0")))
        if day is None:
            return at, True, note
        month = int(day[2]) if day[2].isdigit() else _MONTHS.index(day[2].lower()) + 1
        return datetime.combine(datetime(int(day[3]), month, int(day[1])), at), True, note
    except ValueError:
        return None, False, [LogEntry("dropped", "start", "base time or date is not a possible one; start is unknown")]


_AGE = re.compile(r"<?\bage\b>?\s*[:=]?\s*(\d{1,3}(?:\.\d+)?)", re.IGNORECASE)
_SEX = re.compile(r"<?\b(?:sex|gender)\b>?\s*[:=]?\s*(male|female|m|f)\b", re.IGNORECASE)
_DX = re.compile(r"#\s*Dx\s*:\s*([\d,\s]+)$", re.IGNORECASE)
_PATIENT = re.compile(r"#\s*Patient\s*ID\s*:\s*(\S+)", re.IGNORECASE)
_MITDB = re.compile(r"#\s*(\d{1,3})\s+([MF])\b(?:\s+\d+)*")  # "# 69 M 1085 1629 x1"


def _person(comments: list[str]) -> PersonFacts:
    age: float | None = None
    sex: str | None = None
    dx: tuple[str, ...] = ()
    patient = ""
    for line in comments:
        line = line.strip()
        if (found := _AGE.search(line)) and age is None:
            age = float(found[1])
        if (found := _SEX.search(line)) and sex is None:
            sex = found[1]
        if found := _DX.fullmatch(line):
            dx = tuple(code.strip() for code in found[1].split(",") if code.strip())
        if found := _PATIENT.match(line):
            patient = found[1]
        if age is None and sex is None and (found := _MITDB.match(line)):
            age, sex = float(found[1]), found[2]
    return PersonFacts(age, sex, dx, patient)
