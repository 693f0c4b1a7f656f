"""WFDB records of several segments, fixed and variable layout: one time axis, gaps masked, each segment's own scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xecg.errors import ReadError
from xecg.io.readers.common import Request, window
from xecg.io.readers.files import inside, read_file, shown
from xecg.io.readers.traces import Traces, empty_rows
from xecg.io.readers.wfdb_header import HEADER_LIMIT, HeaderFacts, SignalFacts, parse_header
from xecg.io.readers.wfdb_plan import choose_leads, frame_rate
from xecg.signal.recording import LogEntry

__all__ = ["read_segments"]

_GAP = "~"


def read_segments(facts: HeaderFacts, path: Path, request: Request) -> tuple[Traces, float, int, int, bool]:
    """The record of a multi-segment header at `path`: traces, frames a second, first and last frame, calibrated."""
    file, folder = facts.file, path.parent
    rate, log = frame_rate(facts, request)
    total = sum(samples for _, samples in facts.segments)
    if facts.samples is not None and facts.samples != total:
        raise ReadError(file, "number of samples", f"{facts.samples:,}", f"its segments hold {total:,}")
    if total == 0:
        raise ReadError(file, "number of samples", 0, "the record is empty")
    variable = facts.segments[0][1] == 0
    guide = _guide(facts, folder, variable)
    names, named = choose_leads(guide, request, file=file, layout=variable)
    log += named
    by_name = {signal.name: name for signal, name in zip(guide, names)}
    frames = {name: signal.frame for signal, name in zip(guide, names) if name is not None}
    first, last = window(request, rate, total, file=file)
    size = (last - first) * sum(frames.values()) * 5
    if size > request.max_decoded:
        rule = f"at most {request.max_decoded:,} (max_decoded)"
        raise ReadError(file, "decoded size", f"{size:,} bytes", rule, "Read a part with start= and end=.")
    row_of = {name: row for row, name in enumerate(frames)}
    values, masks = empty_rows(tuple(frames.values()), last - first)
    begin, gaps, calibrated = 0, 0, True
    for name, samples in facts.segments[1:] if variable else facts.segments:
        begin, end = begin + samples, begin + samples
        start, stop = max(first, end - samples), min(last, end)
        if start >= stop:
            continue
        if name == _GAP:
            gaps += stop - start
            continue
        try:
            part, calibrated_part = _segment(
                name,
                samples,
                facts,
                folder,
                request,
                guide,
                names,
                by_name if variable else None,
                (start - end + samples, stop - end + samples),
                rate,
            )
        except ReadError as error:
            if not (request.partial and error.field in ("segment", "data file")):
                raise
            log.append(LogEntry("repaired", "segment", f"{name} is missing; {stop - start:,} frames masked"))
            continue
        calibrated &= calibrated_part
        log += [entry for entry in part.log if entry not in log]
        for lead, row, mask, frame in zip(part.names, part.values, part.masks, part.frame):
            if frame != frames[lead]:
                raise ReadError(file, f"samples per frame of {lead} in {name}", frame, f"the record has {frames[lead]}")
            place = slice((start - first) * frame, (stop - first) * frame)
            values[row_of[lead]][place], masks[row_of[lead]][place] = row, mask
    if gaps:
        log.append(LogEntry("noted", "gaps", f"{gaps:,} of {last - first:,} frames are gaps between segments, masked"))
    return Traces(tuple(frames), tuple(frames.values()), values, masks, tuple(log)), rate, first, last, calibrated


def _guide(facts: HeaderFacts, folder: Path, variable: bool) -> tuple[SignalFacts, ...]:
    """The signals of the record: those of the layout header, or of the first segment that is there."""
    if variable:
        return _segment_header(facts.segments[0][0], facts, folder).signals
    for name, _ in facts.segments:
        if name != _GAP:
            try:
                return _segment_header(name, facts, folder).signals
            except ReadError as error:
                missing = error
    raise missing


def _segment_header(name: str, facts: HeaderFacts, folder: Path) -> HeaderFacts:
    if name == facts.name:
        raise ReadError(facts.file, "segment", shown(name), "the record names itself as its segment")
    path = inside(folder, f"{name}.hea", file=facts.file)
    found = parse_header(read_file(path, file=facts.file, field="segment", limit=HEADER_LIMIT), file=str(path))
    if found.segments:
        raise ReadError(facts.file, "segment", shown(name), "it has segments itself; needed a plain record")
    return found


def _segment(
    name: str,
    samples: int,
    facts: HeaderFacts,
    folder: Path,
    request: Request,
    guide: tuple[SignalFacts, ...],
    names: list[str | None],
    by_name: dict[str | None, str | None] | None,
    span: tuple[int, int],
    rate: float,
) -> tuple[Traces, bool]:
    """Frames span[0]..span[1] of one segment."""
    from xecg.io.readers.wfdb import read_plain

    found = _segment_header(name, facts, folder)
    if found.samples is not None and found.samples != samples:
        raise ReadError(facts.file, f"length of segment {name}", f"{samples:,}", f"its header says {found.samples:,}")
    if found.rate != rate:
        raise ReadError(facts.file, f"sampling rate of segment {name}", found.rate, f"the record has {rate:g} Hz")
    if by_name is None:
        if [signal.name for signal in found.signals] != [signal.name for signal in guide]:
            listed = ", ".join(signal.name or "?" for signal in found.signals)
            rule = "in a fixed layout all segments have the same signals"
            raise ReadError(facts.file, f"signals of segment {name}", shown(listed), rule)
        chosen = names
    else:
        for signal in found.signals:
            if signal.name not in by_name:
                raise ReadError(facts.file, f"signal in segment {name}", shown(signal.name), "the layout lacks it")
        chosen = [by_name[signal.name] for signal in found.signals]
    if not any(chosen):
        return Traces((), (), [], [], ()), True
    whole = span == (0, samples)
    part = replace(request, start=None if whole else span[0] / rate, end=None if whole else span[1] / rate, rate=None)
    traces, _, _, _, calibrated = read_plain(found, folder / f"{name}.hea", part, names=chosen)
    return traces, calibrated
