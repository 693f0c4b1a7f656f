"""WFDB, bytes and decisions to arrays: decode, verify, deskew, scale to mV."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.common import LARGEST_MV, Request
from xecg.io.readers.files import shown
from xecg.io.readers.traces import Traces, empty_rows
from xecg.io.readers.wfdb_format import FORMATS, bytes_for, decode, wrapped_sums
from xecg.io.readers.wfdb_plan import GroupPlan, LeadPlan, Plan
from xecg.signal.recording import LogEntry

__all__ = ["read_traces"]

# (name of the data file, first byte, bytes) to the bytes there; None: to the end
Fetch = Callable[[str, int, "int | None"], bytes]

_FLAC_SUBTYPES = {508: "PCM_S8", 516: "PCM_16", 524: "PCM_24"}
_FLAC_BLOCK = 1 << 20  # frames decoded at a time
_BLOCK = 1 << 16  # samples decoded at a time: what is made of them stays in the cache
_EXACT_FLOAT32 = 1 << 23  # counts up to here minus a baseline up to here are exact in float32


def read_traces(plan: Plan, request: Request, fetch: Fetch) -> Traces:
    """Read what `plan` decided. Raises ReadError where checksums or initial values deny the data."""
    log = list(plan.log)
    kept = sorted(
        (lead for group in plan.groups for lead in group.leads if lead.name is not None), key=lambda lead: lead.position
    )
    row_of = {lead.position: row for row, lead in enumerate(kept)}
    frame = tuple(lead.frame for lead in kept)
    values, masks = empty_rows(frame, plan.last - plan.first)
    for group in plan.groups:
        reach = max((lead.skew for lead in group.leads if lead.name is not None), default=0)
        stop = min(group.frames, plan.last + reach)
        alike = _alike(group, len(kept))
        sums, begin, heads = np.zeros(group.width, np.uint16), plan.first, None
        for counts in _blocks(group, plan, stop, request, fetch):
            sums += wrapped_sums(counts)
            heads = counts[0].tolist() if heads is None else heads
            place = begin - plan.first
            if alike and counts.dtype == np.int16:
                span = slice(place, place + len(counts))
                _scale_together(group, counts, values[:, span], masks[:, span], plan.file)  # type: ignore[call-overload]
            else:
                for lead, column in _columns(group):
                    if lead.name is not None:
                        raw = counts[:, column : column + lead.frame].reshape(-1)
                        row = row_of[lead.position]
                        _scale(raw, lead, group.code, values[row], masks[row], place, plan.file)
            begin += len(counts)
        if plan.first == 0 and stop == plan.frames and heads is not None:
            _verify(group, sums, heads, request, log, plan.file)
        elif any(lead.checksum is not None for lead in group.leads):
            log.append(LogEntry("noted", "checksum", f"not checked: {group.file} was read in part"))
        for lead in group.leads:
            if lead.skew and lead.name is not None:
                log.append(LogEntry("repaired", "skew", f"{lead.found} moved by {lead.skew} frames, the end masked"))
    return Traces(tuple(str(lead.name) for lead in kept), frame, values, masks, tuple(log))


def _columns(group: GroupPlan) -> Iterator[tuple[LeadPlan, int]]:
    """The signals of a group, each with its first column in a frame."""
    column = 0
    for lead in group.leads:
        yield lead, column
        column += lead.frame


def _blocks(group: GroupPlan, plan: Plan, stop: int, request: Request, fetch: Fetch) -> Iterator[np.ndarray]:
    """Counts of frames plan.first..stop, some at a time: (frames, width) int16, int32 for 24 and 32 bits."""
    form, width = FORMATS[group.code], group.width
    if form.flac:
        yield _flac(group, plan, request, fetch)[plan.first : stop]
        return
    first = 0 if group.code == 8 else plan.first  # differences add up from the start
    lead_in = first * width % form.block
    begin = first * width // form.block * form.size
    samples = max(0, stop - first) * width
    needed = bytes_for(group.code, samples + lead_in)
    data = memoryview(fetch(group.file, group.offset + begin, needed))
    if len(data) < needed:
        where = f"data file {shown(group.file)}"
        raise ReadError(plan.file, where, f"{len(data):,} bytes read", f"{needed:,} were there when its size was taken")
    # The initial value of format 8 is a field of 16 bits with sign, and what the first difference is added to.
    carried = [((lead.initial or 0) + 0x8000 & 0xFFFF) - 0x8000 for lead in group.leads]
    step = max(1, _BLOCK // (width * form.block)) * width * form.block  # whole frames, whole blocks of the format
    for done in range(0, samples, step):
        count = min(step, samples - done)
        part = data[done // form.block * form.size :]
        if lead_in:
            yield decode(group.code, part, lead_in + count).reshape(-1)[lead_in:].reshape(-1, width)
        elif group.code == 8:
            frames = _summed(decode(8, part, count, width=width), group, carried)[max(0, plan.first - done // width) :]
            if len(frames):
                yield frames
        else:
            yield decode(group.code, part, count, width=width)


def _summed(differences: np.ndarray, group: GroupPlan, carried: list[int]) -> np.ndarray:
    """Format 8: each signal's differences, frame by frame, added to the value before them, which is `carried` on."""
    out = np.empty(differences.shape, np.int32)
    for index, (lead, column) in enumerate(_columns(group)):
        block = slice(column, column + lead.frame)
        total = np.cumsum(differences[:, block].reshape(-1), dtype=np.int32) + np.int32(carried[index])
        carried[index] = int(total[-1])
        out[:, block] = total.reshape(-1, lead.frame)
    return out


def _flac(group: GroupPlan, plan: Plan, request: Request, fetch: Fetch) -> np.ndarray:
    """Counts of a FLAC file: a channel a signal, frames · frame samples each."""
    import soundfile

    where, each = f"data file {shown(group.file)}", group.leads[0].frame
    if any(lead.frame != each for lead in group.leads):
        raise ReadError(plan.file, where, "signals with unequal samples per frame", "FLAC holds equal ones")
    size = plan.frames * group.width * 4
    if size > request.max_decoded:
        raise ReadError(plan.file, where, f"{size:,} bytes decoded", f"at most {request.max_decoded:,} (max_decoded)")
    try:
        with soundfile.SoundFile(io.BytesIO(fetch(group.file, group.offset, None))) as stream:
            found = (stream.format, stream.subtype, stream.channels, stream.frames)
            needed = ("FLAC", _FLAC_SUBTYPES[group.code], len(group.leads), plan.frames * each)
            if found != needed:
                raise ReadError(plan.file, where, found, f"the header needs {needed}")
            parts = []
            while len(part := stream.read(_FLAC_BLOCK, dtype="int32", always_2d=True)):
                parts.append(part >> (32 - FORMATS[group.code].bits))
    except (RuntimeError, OSError) as error:
        raise ReadError(plan.file, where, shown(str(error)), "needed a whole FLAC stream") from None
    samples = np.concatenate([np.zeros((0, len(group.leads)), np.int32), *parts])
    if len(samples) != plan.frames * each:
        raise ReadError(plan.file, where, f"{len(samples):,} samples", f"the header needs {plan.frames * each:,}")
    return samples.reshape(plan.frames, each, -1).transpose(0, 2, 1).reshape(plan.frames, -1)


def _verify(
    group: GroupPlan, sums: np.ndarray, heads: list[int], request: Request, log: list[LogEntry], file: str
) -> None:
    """Checksum and initial value of every signal, kept or not: a wrong one says that all of the file is in doubt.

    sums: of each column, modulo 65,536. heads: the first frame.
    """
    totals = sums.tolist()
    for lead, column in _columns(group):
        found = sum(totals[column : column + lead.frame]) & 0xFFFF
        first = heads[column]
        right = lead.checksum is not None and found == lead.checksum & 0xFFFF
        if lead.checksum is not None and not right:
            if not request.ignore_checksum:
                hint = "The data are damaged, or format or byte offset are wrong."
                rule = f"the header says {lead.checksum & 0xFFFF}"
                raise ReadError(file, f"checksum of {shown(lead.found)} in {shown(group.file)}", found, rule, hint)
            text = f"{lead.found}: {found}, header {lead.checksum & 0xFFFF}; ignored as asked"
            log.append(LogEntry("noted", "checksum", text))
        if not lead.initial or (lead.initial - first) & 0xFFFF == 0 or group.code == 8:
            continue  # 0 is a placeholder in the field; in format 8 it is not a sample but the sum's start
        offset_binary = (lead.initial - first) & 0xFFFF == 0x8000 and group.code in (16, 160)
        if (offset_binary or not right) and not request.ignore_checksum:
            hint = "Formats 16 and 160 differ by 32,768." if offset_binary else ""
            rule = f"the first sample of {shown(group.file)} is {first}, and no checksum speaks for the data"
            raise ReadError(file, f"initial value of {shown(lead.found)}", lead.initial, rule, hint)
        log.append(LogEntry("noted", "initial value", f"{lead.found}: header {lead.initial}, first sample {first}"))


def _alike(group: GroupPlan, kept: int) -> bool:
    """Can all signals of the group be scaled in one go: all kept, one sample a frame, nothing to shift?"""
    return (
        len(group.leads) == kept == group.width
        and FORMATS[group.code].invalid is not None
        and all(lead.skew == 0 and _exact(lead) for lead in group.leads)
    )


def _exact(lead: LeadPlan) -> bool:
    """Is (count - baseline) / gain in float32 the rounded true quotient, for counts of 16 bits?"""
    return abs(lead.baseline) < _EXACT_FLOAT32 and float(np.float32(lead.gain)) == lead.gain


def _scale_together(group: GroupPlan, counts: np.ndarray, values: np.ndarray, masks: np.ndarray, file: str) -> None:
    """`_scale` of all leads at once: twelve short leads spend more time in calls than in arithmetic."""
    baseline = np.array([lead.baseline for lead in group.leads], np.float32)[:, None]
    gain = np.array([lead.gain for lead in group.leads], np.float32)[:, None]
    rows = np.ascontiguousarray(counts.T)  # once, instead of three strided passes
    values[...] = rows
    values -= baseline
    values /= gain
    np.not_equal(rows, FORMATS[group.code].invalid or 0, out=masks)
    if not masks.all():
        values[~masks] = 0.0
    for lead, row in zip(group.leads, values):
        _check_reach(row, lead, group.code, file)


def _scale(
    raw: np.ndarray, lead: LeadPlan, code: int, values: np.ndarray, mask: np.ndarray, place: int, file: str
) -> None:
    """Counts of one lead, frame `place` on, into `values` (float32 mV) and `mask`, skew undone."""
    at = (place - lead.skew) * lead.frame
    raw = raw[max(0, -at) : max(0, len(values) - at)]
    here, valid = values[max(0, at) :][: raw.size], mask[max(0, at) :][: raw.size]
    if raw.dtype == np.int16 and _exact(lead):
        np.subtract(raw, np.float32(lead.baseline), out=here, dtype=np.float32)
        here /= np.float32(lead.gain)
    else:
        here[:] = (raw - np.float64(lead.baseline)) / lead.gain
    invalid = FORMATS[code].invalid
    if invalid is None:
        valid[:] = True
    else:
        np.not_equal(raw, invalid, out=valid)
        if not valid.all():
            here[~valid] = 0.0
    _check_reach(here, lead, code, file)


def _check_reach(values: np.ndarray, lead: LeadPlan, code: int, file: str) -> None:
    """Samples are looked at only where the format, gain and baseline allow more than any ECG has."""
    reach = ((1 << (FORMATS[code].bits - 1)) + abs(lead.baseline)) / abs(lead.gain)
    if (reach > LARGEST_MV or code == 8) and values.size:
        most = float(np.abs(values).max())
        if not most <= LARGEST_MV:
            raise ReadError(file, f"amplitude of {shown(lead.found)}", f"{most:.4g} mV", f"at most {LARGEST_MV:g} mV")
