"""What every reader shares: the caller's wishes, units, lead names, the time window, and the amplitude check."""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from xecg.errors import ReadError
from xecg.io.readers.files import shown
from xecg.signal.leads import STANDARD_LEADS, canonical_lead
from xecg.signal.recording import LogEntry, Recording

__all__ = ["Request", "amplitude_note", "check_rate", "from_arrays", "lead_names", "per_mv", "person", "window"]

RATE_HZ = (25.0, 20_000.0)  # below: no QRS is left; above: no electrocardiograph
GAIN_PER_MV = (1e-3, 1e7)
LARGEST_MV = 1e4  # no electrode sees ten volts
_PLAUSIBLE_MV, _POSSIBLE_MV = (0.05, 20.0), (0.01, 50.0)  # 1–99 % range of a lead: QRS size with room on both sides
_LOOKED_AT = 250  # samples a lead: enough for a range that is judged by decades
_OLDEST = 90.0  # ages above 89 identify a person (HIPAA safe harbour, 45 CFR 164.514(b)(2)(i)(C))

_STANDARD = frozenset(STANDARD_LEADS)

# A unit's size in mV, as "how many of it make one mV".
_PER_MV = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "nv": 1e6, "v": 1e-3}


# Groups of patients are comparable inside one process; pass group_key to make them last.
_RUN_KEY = os.urandom(32)


@dataclass(frozen=True)
class Request:
    """What the caller of `read` asked for; `xecg.io.read` documents the fields."""

    rate: float | None = None
    unit: str | None = None
    leads: Mapping[str, str | None] | Sequence[str | None] | None = None
    start: float | None = None
    end: float | None = None
    partial: bool = False
    strict: bool = False
    ignore_checksum: bool = False
    allow_negative_gain: bool = False
    keep_dates: bool = False
    decimal: str = "."
    max_decoded: int = 4 << 30
    any_amplitude: bool = False
    group_key: bytes = field(default=_RUN_KEY, repr=False)

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_rate(self.rate, file="read", field="rate")
        if self.unit is not None and per_mv(self.unit) is None:
            raise ReadError("read", "unit", shown(self.unit), "needed mV, uV, V or nV")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ReadError("read", name, value, "needed seconds from the start of the record, 0 or more")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ReadError("read", "end", self.end, f"needed more than start, {self.start}")
        if self.decimal not in (".", ","):
            raise ReadError("read", "decimal", shown(self.decimal), "needed '.' or ','")


def check_rate(rate: float, *, file: str, field: str = "sampling rate") -> float:
    """`rate` in Hz. Raises ReadError outside 25..20,000 Hz."""
    low, high = RATE_HZ
    if not low <= rate <= high:
        raise ReadError(file, field, f"{rate:g} Hz", f"needed {low:g}..{high:,.0f} Hz")
    return float(rate)


def per_mv(unit: str) -> float | None:
    """How many of `unit` make one mV; None where it is not a voltage. `MV` is no unit of an ECG: megavolt, or a typing slip."""
    return None if unit[:1] == "M" else _PER_MV.get(unit.lower())


def window(request: Request, rate: float, samples: int, *, file: str) -> tuple[int, int]:
    """First sample and the one after the last that `start` and `end` ask for. Raises ReadError where nothing is left."""
    first = 0 if request.start is None else round(request.start * rate)
    last = samples if request.end is None else min(samples, round(request.end * rate))
    if first >= last:
        asked = f"{request.start or 0:g}..{'end' if request.end is None else format(request.end, 'g')} s"
        raise ReadError(file, "window", asked, f"the record holds {samples / rate:g} s")
    return first, last


def lead_names(
    found: Sequence[str | None], ecg: Sequence[bool], request: Request, *, file: str
) -> tuple[list[str | None], list[LogEntry]]:
    """The lead name of each signal of a file, None where it is dropped.

    found: names in the file. ecg: False where a signal is no ECG lead. A mapping in `request.leads` renames by the name
    found (None drops); a sequence names all signals of the file in their order.
    """
    log: list[LogEntry] = []
    wishes = request.leads
    if wishes is not None and not isinstance(wishes, Mapping):
        if isinstance(wishes, str) or len(wishes) != len(found):
            count = 1 if isinstance(wishes, str) else len(wishes)
            names_found = ", ".join(name or "?" for name in found)
            raise ReadError(
                file, "leads", f"{count} names", f"the file holds {len(found)} signals ({shown(names_found)})"
            )
        names = [None if wish is None else canonical_lead(wish) for wish in wishes]
        log.append(LogEntry("noted", "leads", "named by the caller: " + ", ".join(str(name) for name in names)))
    else:
        names = []
        for index, (text, keep) in enumerate(zip(found, ecg)):
            name = text or f"unknown-{index + 1}"
            if not text:
                log.append(LogEntry("repaired", "lead name", f"signal {index + 1} has none; called {name}"))
            if wishes is not None and name in wishes:
                wish = wishes[name]
                names.append(None if wish is None else canonical_lead(wish))
                log.append(LogEntry("noted", "leads", f"{name} mapped to {wish} by the caller"))
            elif not keep:
                names.append(None)
            else:
                names.append(name if name in _STANDARD else canonical_lead(name))
    kept = [name for name in names if name is not None]
    if wishes is None:
        changed = [f"{text} as {name}" for text, name in zip(found, names) if text and name not in (None, text)]
        if changed:
            log.append(LogEntry("converted", "lead name", "read " + ", ".join(changed)))
    twice = sorted({name for name in kept if kept.count(name) > 1})
    if twice:
        listed = ", ".join(text or "?" for text in found)
        hint = "Pass leads=[…], a name (or None) for each signal in the file's order."
        raise ReadError(file, "lead name", f"{shown(twice[0])} twice in ({shown(listed)})", "each lead once", hint)
    if not kept:
        listed = ", ".join(text or "?" for text in found)
        raise ReadError(file, "signals", shown(listed), "no ECG lead among them; needed at least one")
    return names, log


def amplitude_note(signal: np.ndarray, mask: np.ndarray, request: Request, *, file: str) -> list[LogEntry]:
    """Is the size of the signal that of an ECG in mV? The median over leads of the 1–99 % range decides.

    Flat and masked leads do not vote. Every n-th sample is looked at, some 250 a lead. Raises ReadError outside
    0.01..50 mV (with `strict` outside 0.05..20 mV); where the caller gave the unit, or any_amplitude, it is only noted.
    """
    step = max(1, signal.shape[1] // _LOOKED_AT)
    some, valid = signal[:, ::step], mask[:, ::step]
    if valid.all():
        count = some.shape[1]
        ends = [(count - 1) // 100, count - 1 - (count - 1) // 100]
        ordered = np.partition(some, ends, axis=1)
        spans = ordered[:, ends[1]] - ordered[:, ends[0]]
    else:
        spans = np.array([np.ptp(np.percentile(row[ok], (1, 99))) if ok.any() else 0.0 for row, ok in zip(some, valid)])
    moving = sorted(float(span) for span in spans if span > 0)
    if not moving:
        return []
    span = (moving[(len(moving) - 1) // 2] + moving[len(moving) // 2]) / 2
    if _PLAUSIBLE_MV[0] <= span <= _PLAUSIBLE_MV[1]:
        return []
    guess = f"looks like {'µV read as mV: 1,000×' if span > 1 else 'V read as mV, or a wrong gain'}"
    low, high = _PLAUSIBLE_MV if request.strict else _POSSIBLE_MV
    if not low <= span <= high and request.unit is None and not request.any_amplitude:
        hint = f"It {guess}; pass unit= if you know it."
        raise ReadError(file, "amplitude", f"{span:.4g} mV", f"the 1–99 % range of an ECG is {low}..{high} mV", hint)
    return [LogEntry("guessed", "amplitude", f"1–99 % range is {span:.4g} mV; {guess}")]


def from_arrays(
    values: np.ndarray, rate: float, names: Sequence[str], request: Request, log: list[LogEntry], *, source: str
) -> Recording:
    """A `Recording` from (leads, samples) in mV of a format that has no mask of its own: NaN is a missing sample."""
    first, last = window(request, rate, values.shape[1], file=source)
    values = values[:, first:last]
    mask = ~np.isnan(values)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        signal = np.ascontiguousarray(np.where(mask, values, 0), np.float32)
    most = float(np.abs(signal).max(initial=0.0))
    if not most <= LARGEST_MV:
        raise ReadError(source, "amplitude", f"{most:.4g} mV", f"at most {LARGEST_MV:g} mV")
    missing = int(mask.size - np.count_nonzero(mask))
    if missing:
        log.append(LogEntry("noted", "gaps", f"{missing:,} of {mask.size:,} samples are missing, masked"))
    log += amplitude_note(signal, mask, request, file=source)
    start = first / rate
    return Recording(signal, rate, tuple(names), mask, source=source, start=start, log=tuple(log))


def person(
    *, age: float | None, sex: str | None, dx: Sequence[str] = (), patient: str = "", key: bytes
) -> dict[str, Any]:
    """`Recording.meta` about the person: age in years (90 for all above 89), sex F or M, codes, the patient's keyed hash."""
    meta: dict[str, Any] = {}
    if age is not None and math.isfinite(age) and 0 <= age < 200:
        meta["age"] = min(age, _OLDEST)
    if sex and sex[:1].upper() in "FM":
        meta["sex"] = sex[:1].upper()
    if dx:
        meta["dx"] = tuple(dx)
    if patient:
        meta["exam_group"] = hmac.new(key, patient.encode(), sha256).hexdigest()[:32]
    return meta
