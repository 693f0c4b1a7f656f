"""WFDB, facts to decisions: what of a record is read, how, and why; refusals before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xecg.errors import ReadError
from xecg.io.readers.common import GAIN_PER_MV, LARGEST_MV, Request, check_rate, lead_names, per_mv, window
from xecg.io.readers.files import shown
from xecg.io.readers.wfdb_format import FORMATS, bytes_for, samples_in
from xecg.io.readers.wfdb_header import HeaderFacts, SignalFacts
from xecg.signal.recording import LogEntry

__all__ = ["GroupPlan", "LeadPlan", "Plan", "choose_leads", "decide", "frame_rate"]

DEFAULT_GAIN = 200.0  # counts per mV where the header gives none: header(5)
_SAMPLE_BYTES = 5  # float32 and its mask

# Names of signals that monitors store beside the ECG, often without a unit.
_OTHER_SIGNAL = re.compile(
    r"(?:.* )?(?:abp|abpmean|art|bp|co2|cvp|eda|eeg|emg|eog|event|gsr|hr|hrv|icp|marker|nbp|pap|pleth|ppg|pulse|resp"
    r"|respiration|spo2)",
    re.IGNORECASE,
)


class LeadPlan(NamedTuple):
    """One signal of a file. name: None where it is not kept. gain: counts per mV. frame: samples a frame."""

    name: str | None
    found: str
    position: int
    frame: int
    skew: int
    gain: float
    baseline: int
    initial: int | None
    checksum: int | None


@dataclass(frozen=True)
class GroupPlan:
    """The signals that lie interleaved in one file; `frames` are whole and there, `width` samples each."""

    file: str
    code: int
    offset: int
    leads: tuple[LeadPlan, ...]
    frames: int

    @property
    def width(self) -> int:
        return sum(lead.frame for lead in self.leads)


@dataclass(frozen=True)
class Plan:
    """Frames first..last of `frames` are read from `groups`. rate: frames a second."""

    file: str
    rate: float
    frames: int
    first: int
    last: int
    groups: tuple[GroupPlan, ...]
    calibrated: bool
    log: tuple[LogEntry, ...]


def frame_rate(facts: HeaderFacts, request: Request) -> tuple[float, list[LogEntry]]:
    """Frames a second: the header's, or the caller's where the header has none. Never the format's default of 250 Hz."""
    if facts.rate is None:
        if request.rate is None:
            raise ReadError(facts.file, "sampling rate", "absent", "needed in Hz", "Pass rate= if you know it.")
        return request.rate, [
            LogEntry("noted", "rate", f"{request.rate:g} Hz given by the caller, the header has none")
        ]
    if not facts.rate > 0:
        raise ReadError(facts.file, "sampling rate", f"{facts.rate:g} Hz", "needed a positive number")
    if request.rate is not None and abs(request.rate - facts.rate) > 1e-6 * facts.rate:
        raise ReadError(facts.file, "sampling rate", f"{facts.rate:g} Hz", f"the caller says {request.rate:g} Hz")
    return facts.rate, []


def choose_leads(
    signals: Sequence[SignalFacts], request: Request, *, file: str, layout: bool = False
) -> tuple[list[str | None], list[LogEntry]]:
    """The lead name of each signal, None for those that are no ECG: another unit than volts, or a monitor's other signal.

    layout: the signals of a layout header, which stand for those of the segments and hold no samples themselves.
    """
    ecg, log = [], []
    for index, signal in enumerate(signals):
        unit, name = signal.unit or "mV", signal.name or f"unknown-{index + 1}"
        if unit[:1] == "M" and unit[1:].lower() == "v":
            raise ReadError(file, f"unit of {shown(name)}", shown(unit), "megavolt is no unit of an ECG", "Is it mV?")
        reason = ""
        if per_mv(unit) is None:
            reason = f"unit {shown(unit)}"
        elif _OTHER_SIGNAL.fullmatch(name):
            reason = "its name"
        elif signal.format == 0 and not layout:
            reason = "no samples stored (format 0)"
        ecg.append(not reason)
        if reason:
            log.append(LogEntry("dropped", "lead", f"{shown(name)} is not read as an ECG lead: {reason}"))
    names, named = lead_names([signal.name for signal in signals], ecg, request, file=file)
    return names, log + named


def decide(
    facts: HeaderFacts,
    request: Request,
    size_of: Callable[[str], int],
    *,
    names: Sequence[str | None] | None = None,
) -> Plan:
    """How a plain record is read. size_of: bytes of a data file by its name. names: decided already (a segment's)."""
    file = facts.file
    if not facts.signals:
        raise ReadError(file, "number of signals", 0, "no signal in it; needed at least one")
    if facts.samples == 0:
        raise ReadError(file, "number of samples", 0, "the record is empty")
    rate, log = frame_rate(facts, request)
    if names is None:
        names, named = choose_leads(facts.signals, request, file=file)
        log += named
    leads, calibrated, scaled = _leads(facts, names, request)
    log += scaled
    grouped: dict[str, list[tuple[SignalFacts, LeadPlan]]] = {}
    for signal, lead in zip(facts.signals, leads):
        if signal.format or lead.name is not None:
            grouped.setdefault(signal.file, []).append((signal, lead))
    groups, frames = [], facts.samples
    for name, members in grouped.items():
        group = _group(name, members, facts.samples, size_of(name), request, log, file=file)
        frames = group.frames if frames is None else frames
        if facts.samples is None and group.frames != frames:
            rule = f"other data files hold {frames:,} frames, and the header gives no number of samples"
            raise ReadError(file, f"data file {shown(name)}", f"{group.frames:,} frames", rule)
        groups.append(group)
    frames = frames or 0
    if facts.samples is None:
        log.append(LogEntry("repaired", "length", f"absent in the header; {frames:,} frames from the file size"))
    check_rate(rate * max(lead.frame for lead in leads if lead.name is not None), file=file)
    for lead in leads:
        if lead.skew >= frames:
            raise ReadError(file, f"skew of {shown(lead.found)}", lead.skew, f"the record has {frames:,} samples")
    first, last = window(request, rate, frames, file=file)
    _check_decoded(leads, last - first, request, file)
    return Plan(file, rate, frames, first, last, tuple(groups), calibrated, tuple(log))


def _check_decoded(leads: Sequence[LeadPlan], frames: int, request: Request, file: str) -> None:
    kept = [lead.frame for lead in leads if lead.name is not None]
    size = frames * max(kept) * len(kept) * _SAMPLE_BYTES
    if size > request.max_decoded:
        rule = f"at most {request.max_decoded:,} (max_decoded)"
        raise ReadError(file, "decoded size", f"{size:,} bytes", rule, "Read a part with start= and end=.")


def _leads(
    facts: HeaderFacts, names: Sequence[str | None], request: Request
) -> tuple[list[LeadPlan], bool, list[LogEntry]]:
    """Gain, baseline and unit of each signal, checked where it is kept. Second: is every kept gain a stated one?"""
    file, log, plans = facts.file, [], []
    assumed: dict[str, list[str]] = {}
    for index, (signal, name) in enumerate(zip(facts.signals, names)):
        found = signal.name or f"unknown-{index + 1}"
        gain, baseline = signal.gain or DEFAULT_GAIN, signal.baseline
        if baseline is None:
            baseline = signal.zero or 0
        if name is not None:
            if not signal.gain:
                if request.strict:
                    raise ReadError(file, f"gain of {found}", signal.gain, "uncalibrated, refused by strict")
                assumed.setdefault("gain: absent or 0, so 200 per mV, uncalibrated", []).append(found)
            if signal.unit is None and request.unit is None:
                assumed.setdefault("unit: absent, so mV, the format's default", []).append(found)
            if signal.baseline is None and signal.zero:
                assumed.setdefault("baseline: absent, so the ADC zero", []).append(found)
            if signal.resolution is not None and not 0 <= signal.resolution <= 32:
                log.append(LogEntry("noted", "ADC resolution", f"{signal.resolution} bits in {found}; not used"))
            unit = request.unit or signal.unit or "mV"
            gain *= per_mv(unit) or 1.0
            if request.unit is not None:
                assumed.setdefault(f"unit: {unit} given by the caller, header {signal.unit}", []).append(found)
            elif unit != "mV":
                assumed.setdefault(f"unit: {unit} to mV", []).append(found)
            _check_scale(gain, baseline, signal, found, request, file)
        plans.append(
            LeadPlan(
                name,
                found,
                index,
                signal.frame,
                signal.skew,
                gain,
                baseline,
                signal.initial,
                signal.checksum,
            )
        )
    for text, found_names in assumed.items():
        field, _, reason = text.partition(": ")
        kind = "guessed" if reason.startswith("absent") else "converted"
        log.append(LogEntry(kind, field, f"{reason} ({', '.join(found_names)})"))
    calibrated = not any(text.startswith("gain") for text in assumed)
    return plans, calibrated, log


def _check_scale(gain: float, baseline: int, signal: SignalFacts, found: str, request: Request, file: str) -> None:
    if gain < 0 and not request.allow_negative_gain:
        hint = "Pass allow_negative_gain=True if the lead is to be flipped."
        raise ReadError(
            file, f"gain of {found}", f"{signal.gain:g}", "polarity is unclear; needed a positive gain", hint
        )
    low, high = GAIN_PER_MV
    if not low <= abs(gain) <= high:
        raise ReadError(file, f"gain of {found}", f"{gain:g} per mV", f"needed {low:g}..{high:g}")
    form = FORMATS.get(signal.format)
    if form is not None:
        least = -(1 << (form.bits - 1))
        away = max(least - baseline, baseline + least + 1, 0)  # counts from the format's range to the baseline
        if away / abs(gain) > LARGEST_MV:
            rule = f"no sample of format {signal.format} comes within {LARGEST_MV:g} mV of it"
            raise ReadError(file, f"baseline of {found}", f"{baseline:,}", rule)


def _group(
    name: str,
    members: list[tuple[SignalFacts, LeadPlan]],
    frames: int | None,
    size: int,
    request: Request,
    log: list[LogEntry],
    *,
    file: str,
) -> GroupPlan:
    """One data file's signals against its size."""
    where = f"data file {shown(name)}"
    codes, offsets = {signal.format for signal, _ in members}, {signal.offset for signal, _ in members}
    for code in sorted(codes):
        if code not in FORMATS:
            known = ", ".join(str(known) for known in FORMATS)
            raise ReadError(file, "format", code, f"known formats are {known}")
    if len(codes) > 1 or len(offsets) > 1:
        field, values = ("formats", codes) if len(codes) > 1 else ("byte offsets", offsets)
        raise ReadError(file, f"{field} of {where}", sorted(values), "needed one for all signals of a file")
    code, offset = codes.pop(), offsets.pop()
    leads = tuple(lead for _, lead in members)
    for lead in leads:
        if lead.frame < 1:
            raise ReadError(file, f"samples per frame of {shown(lead.found)}", lead.frame, "needed 1 or more")
    sums = [lead.checksum for lead in leads]
    if None in sums and any(value is not None for value in sums):
        lacking = leads[sums.index(None)].found
        raise ReadError(file, f"checksum of {shown(lacking)}", "absent", f"the other signals of {where} have one")
    if name.lower().endswith(".mat") and offset == 0:
        hint = "`.mat` needs `16+24`."
        raise ReadError(file, f"byte offset of {where}", 0, "a .mat file begins with a header of 24 bytes", hint)
    if size == 0:
        raise ReadError(file, where, "0 bytes", "the file is empty")
    if offset >= size:
        raise ReadError(file, f"byte offset of {where}", offset, f"the file has {size:,} bytes")
    group = GroupPlan(name, code, offset, leads, frames or 0)
    if FORMATS[code].flac:
        if frames is None:
            raise ReadError(file, "number of samples", "absent", "needed for a compressed signal")
        return group
    return GroupPlan(name, code, offset, leads, _frames_there(group, frames, size, request, log, file))


def _frames_there(
    group: GroupPlan, frames: int | None, size: int, request: Request, log: list[LogEntry], file: str
) -> int:
    """Whole frames of an uncompressed file that are there, at most `frames`."""
    form, where = FORMATS[group.code], f"data file {shown(group.file)}"
    there = samples_in(group.code, size - group.offset) // group.width
    if frames is None:
        if there == 0:
            raise ReadError(file, where, f"{size:,} bytes", "not one whole frame")
        return there
    needed = group.offset + bytes_for(group.code, frames * group.width)
    if needed > size:
        if not request.partial:
            hint = "Pass partial=True to read what is there."
            raise ReadError(file, where, f"{size:,} bytes", f"the header needs {needed:,}", hint)
        if there == 0:
            raise ReadError(file, where, f"{size:,} bytes", "not one whole frame")
        text = f"{group.file} has {size:,} of {needed:,} bytes; {frames - there:,} of {frames:,} frames masked"
        log.append(LogEntry("repaired", "length", text))
        return there
    surplus = size - needed
    if surplus and form.block == 1 and surplus % form.size and not request.partial:
        raise ReadError(file, where, f"{size:,} bytes", f"format {group.code} is made of words of {form.size} bytes")
    if surplus:
        log.append(LogEntry("noted", "length", f"{surplus:,} bytes after the last frame of {group.file} ignored"))
    return frames
