"""EDF and EDF+: facts to decisions, bytes and decisions to one `Recording`. Annotations in the file are not read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import (
    GAIN_PER_MV,
    LARGEST_MV,
    Request,
    amplitude_note,
    check_rate,
    lead_names,
    per_mv,
    person,
    window,
)
from xecg.io.readers.edf_header import ANNOTATIONS, MAIN, EDFFacts, EDFSignal, parse_edf
from xecg.io.readers.files import file_size, read_file, shown
from xecg.io.readers.traces import Traces, empty_rows, one_rate
from xecg.signal.leads import STANDARD_LEADS, canonical_lead
from xecg.signal.recording import LogEntry, Recording

__all__ = ["EDFPlan", "decide_edf", "read_edf"]

_MOST_SIGNALS = 4096
_ONSET = re.compile(rb"([+-]\d{1,9}(?:\.\d{1,9})?)(?:\x15[\d.]*)?\x14")
_BLOCK_BYTES = 1 << 22
_GRID_S = 1e-3  # a data record may start this far from a sample of the grid: onsets are written rounded


@dataclass(frozen=True)
class EDFPlan:
    """Leads kept as (name, signal, its place in the file, counts per mV, counts at 0 mV); `records` whole data records are there."""

    leads: tuple[tuple[str, EDFSignal, int, float, float], ...]
    records: int
    log: tuple[LogEntry, ...]


def decide_edf(facts: EDFFacts, request: Request, size: int) -> EDFPlan:
    """What of a file of `size` bytes is read, and how. Raises ReadError before anything is allocated."""
    file = facts.file
    if not facts.record_s > 0:
        raise ReadError(file, "duration of a data record", f"{facts.record_s:g} s", "needed more than 0")
    ecg = [_is_ecg(signal) for signal in facts.signals]
    names, log = lead_names([signal.label for signal in facts.signals], ecg, request, file=file)
    dropped = [
        signal.label for signal, name in zip(facts.signals, names) if name is None and signal.label != ANNOTATIONS
    ]
    if dropped:
        log.append(LogEntry("dropped", "lead", f"not read as ECG leads: {shown(', '.join(dropped))}"))
    leads, column = [], 0
    for signal, name in zip(facts.signals, names):
        if name is not None:
            leads.append((name, signal, column, *_scale(signal, request, file)))
            check_rate(signal.samples / facts.record_s, file=file, field=f"sampling rate of {shown(signal.label)}")
        column += signal.samples
    return EDFPlan(tuple(leads), _records(facts, request, size, log), tuple(log))


def _is_ecg(signal: EDFSignal) -> bool:
    label = signal.label
    named = canonical_lead(label) in STANDARD_LEADS or re.match(r"(?:ecg|ekg)", label, re.IGNORECASE) is not None
    return named and (not signal.dimension or per_mv(signal.dimension) is not None)


def _scale(signal: EDFSignal, request: Request, file: str) -> tuple[float, float]:
    """Counts per mV, and the count that stands for 0 mV."""
    label = shown(signal.label)
    (low, high), (least, most) = signal.physical, signal.digital
    if least >= most:
        raise ReadError(file, f"digital range of {label}", f"{least}..{most}", "needed minimum below maximum")
    if low == high:
        raise ReadError(
            file, f"physical range of {label}", f"{low:g}..{high:g}", "needed minimum and maximum to differ"
        )
    if high < low and not request.allow_negative_gain:
        hint = "Pass allow_negative_gain=True if the lead is to be flipped."
        raise ReadError(file, f"physical range of {label}", f"{low:g}..{high:g}", "polarity is unclear", hint)
    unit = request.unit or signal.dimension
    scale = per_mv(unit) if unit else None
    if scale is None:
        raise ReadError(
            file, f"dimension of {label}", shown(unit) if unit else "absent", "needed uV, mV or V", "Pass unit=."
        )
    gain = (most - least) / (high - low) * scale
    smallest, largest = GAIN_PER_MV
    if not smallest <= abs(gain) <= largest:
        raise ReadError(file, f"gain of {label}", f"{gain:g} per mV", f"needed {smallest:g}..{largest:g}")
    return gain, least - low * (most - least) / (high - low)


def _records(facts: EDFFacts, request: Request, size: int, log: list[LogEntry]) -> int:
    file, each = facts.file, facts.record_bytes
    there, rest = divmod(size - facts.size, each)
    stated = facts.records
    if stated == -1:
        log.append(LogEntry("repaired", "length", f"number of data records unknown; {there:,} from the file size"))
        stated = there
    elif stated < 0:
        raise ReadError(file, "number of data records", stated, "needed -1 or a number")
    elif stated == 0:
        raise ReadError(file, "number of data records", 0, "the record is empty")
    elif size > facts.size + stated * each:
        rule = f"{stated:,} data records need {facts.size + stated * each:,}"
        raise ReadError(file, "file size", f"{size:,} bytes", rule)
    elif there < stated:
        cut = there == stated - 1 and rest and not request.strict
        if not (cut or request.partial):
            hint = "Pass partial=True to read what is there."
            needed = f"{stated:,} data records need {facts.size + stated * each:,}"
            raise ReadError(file, "file size", f"{size:,} bytes", needed, hint)
        log.append(LogEntry("repaired", "length", f"{there:,} of {stated:,} data records are whole; the rest masked"))
    if there == 0:
        raise ReadError(file, "file size", f"{size:,} bytes", "not one whole data record")
    return there


def read_edf(path: Path, request: Request, *, source: str) -> Recording:
    """The recording in the EDF or EDF+ file at `path` (links resolved)."""
    facts = parse_edf(read_file(path, file=source, count=MAIN * (1 + _MOST_SIGNALS)), file=source)
    if request.rate is not None:
        raise ReadError(source, "rate", f"{request.rate:g} Hz by the caller", "EDF states its own")
    size = file_size(path, file=source)
    plan = decide_edf(facts, request, size)
    stated = max(plan.records, facts.records)
    begins, log = _begins(path, facts, plan.records, source)
    total_s = max(begins[-1] + facts.record_s, 0 if facts.discontinuous else stated * facts.record_s)
    records = math.ceil(total_s / facts.record_s)
    frame = tuple(signal.samples for _, signal, *_ in plan.leads)
    decoded = records * max(frame) * len(frame) * 5
    if decoded > request.max_decoded:
        raise ReadError(source, "decoded size", f"{decoded:,} bytes", f"at most {request.max_decoded:,} (max_decoded)")
    values, masks = empty_rows(frame, records)
    _fill(path, facts, plan, begins, values, masks, source)
    traces = Traces(tuple(name for name, *_ in plan.leads), frame, values, masks, ())
    signal, mask, resampled = one_rate(traces, 1 / facts.record_s)
    rate = max(frame) / facts.record_s
    first, last = window(request, rate, min(signal.shape[1], round(total_s * rate)), file=source)
    signal, mask = np.ascontiguousarray(signal[:, first:last]), np.ascontiguousarray(mask[:, first:last])
    notes = amplitude_note(signal, mask, request, file=source)
    return Recording(
        signal,
        rate,
        traces.names,
        mask,
        source=source,
        start=None if facts.start is None else facts.start if request.keep_dates else first / rate,
        log=(*facts.log, *plan.log, *log, *resampled, *notes),
        meta={**person(age=None, sex=facts.sex, key=request.group_key), "calibrated": True},
    )


def _begins(path: Path, facts: EDFFacts, records: int, source: str) -> tuple[list[float], list[LogEntry]]:
    """Start of each data record in seconds: one after another, or by the time-stamped lists of a discontinuous file."""
    if not facts.discontinuous:
        return [index * facts.record_s for index in range(records)], []
    column, marks = 0, None
    for signal in facts.signals:
        if signal.label == ANNOTATIONS:
            marks = (2 * column, 2 * signal.samples)
            break
        column += signal.samples
    if marks is None:
        raise ReadError(
            source, "signals", "without EDF Annotations", "a discontinuous file needs the times of its records"
        )
    begins: list[float] = []
    for _, data in _blocks(path, facts, records, source):
        for at in range(marks[0], len(data), facts.record_bytes):
            found, place = _ONSET.match(data[at : at + marks[1]]), f"time of data record {len(begins) + 1}"
            if found is None:
                raise ReadError(source, place, "absent", "needed a time-stamped list")
            begins.append(float(found[1]))
            if len(begins) > 1 and begins[-1] < begins[-2] + facts.record_s - _GRID_S:
                rule = f"the record before ends at {begins[-2] + facts.record_s:g} s"
                raise ReadError(source, place, f"{begins[-1]:g} s", rule)
    begins = [begin - begins[0] for begin in begins]
    missing = begins[-1] + facts.record_s - records * facts.record_s
    gaps = f"{missing:g} s between data records are missing, masked"
    return begins, [LogEntry("repaired", "gaps", gaps)] if missing > _GRID_S else []


def _blocks(path: Path, facts: EDFFacts, records: int, source: str) -> Iterator[tuple[int, bytes]]:
    """The data records, some at a time: number of the first, bytes."""
    each = facts.record_bytes
    step = max(1, _BLOCK_BYTES // each)
    for begin in range(0, records, step):
        count = min(step, records - begin)
        data = read_file(path, file=source, start=facts.size + begin * each, count=count * each)
        if len(data) < count * each:
            raise ReadError(source, "file", f"{len(data):,} bytes read", f"{count * each:,} were there before")
        yield begin, data


def _fill(
    path: Path,
    facts: EDFFacts,
    plan: EDFPlan,
    begins: list[float],
    values: np.ndarray | list[np.ndarray],
    masks: np.ndarray | list[np.ndarray],
    source: str,
) -> None:
    """The samples of every data record to their places."""
    for begin, data in _blocks(path, facts, plan.records, source):
        counts = np.frombuffer(data, "<i2").reshape(-1, facts.record_bytes // 2)
        count = len(counts)
        for row, (name, signal, column, gain, zero) in enumerate(plan.leads):
            part = (counts[:, column : column + signal.samples] - zero) / gain
            if not np.abs(part).max() <= LARGEST_MV:
                most = f"{np.abs(part).max():.4g} mV"
                raise ReadError(source, f"amplitude of {name}", most, f"at most {LARGEST_MV:g} mV")
            if not facts.discontinuous:
                place = slice(begin * signal.samples, (begin + count) * signal.samples)
                values[row][place], masks[row][place] = part.reshape(-1), True
                continue
            for index, samples in enumerate(part):
                at = round(begins[begin + index] / facts.record_s * signal.samples)
                place = slice(at, at + signal.samples)
                values[row][place], masks[row][place] = samples[: len(values[row]) - at], True
