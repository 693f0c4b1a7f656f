"""WFDB records: header, data files, segments, annotations beside them, to one `Recording`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import Request, amplitude_note, person
from xecg.io.readers.files import file_size, inside, read_file
from xecg.io.readers.traces import Traces, one_rate
from xecg.io.readers.wfdb_annotations import read_annotations
from xecg.io.readers.wfdb_header import HEADER_LIMIT, HeaderFacts, parse_header
from xecg.io.readers.wfdb_plan import decide
from xecg.io.readers.wfdb_segments import read_segments
from xecg.io.readers.wfdb_signal import read_traces
from xecg.signal.recording import Annotations, LogEntry, Recording

__all__ = ["header", "read_plain", "read_wfdb"]


def header(path: Path, *, file: str) -> HeaderFacts:
    """Facts of the header at `path`; `file` names it in errors."""
    return parse_header(read_file(path, file=file, limit=HEADER_LIMIT), file=file)


def read_wfdb(path: Path, data: bytes | None, request: Request, *, source: str) -> Recording:
    """The record whose header is at `path` (links resolved). data: the header's bytes, where they are at hand."""
    facts = header(path, file=source) if data is None else parse_header(data, file=source)
    if facts.segments:
        traces, rate, first, last, calibrated = read_segments(facts, path, request)
    else:
        traces, rate, first, last, calibrated = read_plain(facts, path, request)
    log = list(facts.log) + list(traces.log)
    if facts.name != path.stem:
        log.insert(0, LogEntry("repaired", "record name", f"header says {facts.name}, file is {path.name}"))
    factor = max(traces.frame)
    signal, mask, resampled = one_rate(traces, rate)
    log += resampled
    log += amplitude_note(signal, mask, request, file=source)
    marks, marked = _annotations_beside(path, rate, first, last, factor, request)
    known = facts.person
    meta = person(age=known.age, sex=known.sex, dx=known.dx, patient=known.patient, key=request.group_key)
    return Recording(
        signal,
        rate * factor,
        traces.names,
        mask,
        source=source,
        start=(facts.start if request.keep_dates else first / rate) if facts.start_valid else None,
        annotations=marks,
        log=tuple(log + marked),
        meta={**meta, "calibrated": calibrated},
    )


def read_plain(
    facts: HeaderFacts, path: Path, request: Request, *, names: Sequence[str | None] | None = None
) -> tuple[Traces, float, int, int, bool]:
    """A record of one segment: traces, frames a second, first and last frame, calibrated."""
    real: dict[str, Path] = {}

    def size_of(name: str) -> int:
        real[name] = inside(path.parent, name, file=facts.file)
        return file_size(real[name], file=facts.file, field="data file")

    def fetch(name: str, start: int, count: int | None) -> bytes:
        return read_file(real[name], file=facts.file, field="data file", start=start, count=count)

    plan = decide(facts, request, size_of, names=names)
    return read_traces(plan, request, fetch), plan.rate, plan.first, plan.last, plan.calibrated


def _annotations_beside(
    path: Path, rate: float, first: int, last: int, factor: int, request: Request
) -> tuple[Annotations | None, list[LogEntry]]:
    """Annotations of REC.atr in the window, in samples of the recording; a broken file costs the marks, not the signal."""
    marks = path.with_suffix(".atr")
    if not os.path.lexists(marks):
        return None, []
    try:
        found, log = read_annotations(inside(path.parent, marks.name, file=str(marks)), request, file=str(marks))
    except ReadError as error:
        if request.strict:
            raise
        return None, [LogEntry("dropped", "annotations", f"{error.field} is {error.found}; {error.rule}")]
    at = found.at(rate)
    if request.start is None and request.end is None and at.size and at[-1] >= last:
        log.append(LogEntry("dropped", "annotations", f"{int((at >= last).sum())} past the end of the signal"))
    kept = np.flatnonzero((at >= first) & (at < last))
    if len(kept) == len(at):
        return Annotations((at - first) * factor, found.symbol, found.aux), log
    picked = (tuple(texts[i] for i in kept) for texts in (found.symbol, found.aux))
    return Annotations((at[kept] - first) * factor, *picked), log
