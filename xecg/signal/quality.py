"""Signal quality: measured facts about a recording, and one flag that says "do not trust a result from this". Nothing
is repaired.

Fractions are taken over windows of one second and lead. Limb-lead reversal is judged on the average beat, after the
idea of Kors and van Herpen, Am. J. Cardiol. 88:396 (2001), that chest leads tell how the limb leads should look: lead
I (or II) upside down, P wave included, while V6 (or V5) is upright. Dextrocardia looks the same, which is why this is
a flag and not a correction.

csrc/cpu/quality.h and reversal.h do the same in C++ and serve where they are built; what is here is the definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np

from xecg.signal import kernel, qrs
from xecg.signal.qrs_definition import CLEAR
from xecg.signal.recording import Recording

__all__ = ["Quality", "assess"]

_WINDOW_S = 1.0
_FLAT_MV = 0.01  # mV, a window that moves less is flat; two steps of the coarsest usual converter (200 counts per mV)
_RAIL_SHARE, _RAIL_RANGE_MV = (
    0.01,
    0.2,
)  # share of samples at one rail that counts as clipping; smaller leads are not judged
_GAP_LIMIT = 0.2  # share of missing samples
_SIGNAL_HZ, _MAINS_HZ = (1.0, 40.0), (50.0, 60.0)
_MAINS_WIDTH_HZ = 2.0
_NOISE_RATIO = 0.5  # RMS above 40 Hz (mains aside) over RMS of 1–40 Hz in a noisy window
_RANGE_MV = (0.05, 20.0)  # plausible median over leads of the 1–99 % range
_EINTHOVEN_MV = 0.1  # RMS of I + III − II
_BAD_LEADS = 0.5  # share of unusable leads from which the flag is raised
_BEAT_S = (0.28, 0.45)  # s before and after the R peak
_REVERSAL_S = 60.0  # s from the start that are looked at for reversal
_REVERSAL_LEAST_HZ = 50.0  # below, beats are not looked for
_MIRROR, _P_WAVE_MV = -0.5, 0.02  # correlation with the chest lead; size of the upside-down P wave
_BLOCK = 256  # windows at a time: bounds memory on long recordings


@dataclass(frozen=True)
class Quality:
    """Facts and flags of one recording.

    flat, noise: share of lead-seconds (of those with samples). clipped: largest share of a lead's samples at one
    rail. gap: share of missing samples. mains: share of leads in which 50 or 60 Hz is stronger than the ECG.
    range_mv: median over leads of the 1–99 % range. einthoven_mv: RMS of I + III − II, NaN without the three leads.
    reversal: limb electrodes look exchanged. implausible: range_mv outside 0.05–20 mV. abstain: a model's result
    should not be used. reasons: each flag in words.
    """

    flat: float
    clipped: float
    gap: float
    noise: float
    mains: float
    range_mv: float
    einthoven_mv: float
    reversal: bool
    implausible: bool
    einthoven: bool
    abstain: bool
    reasons: tuple[str, ...]

    def as_columns(self) -> dict[str, float | bool]:
        """All but `reasons`, named quality_*, for a table of results."""
        return {f"quality_{f.name}": getattr(self, f.name) for f in fields(self) if f.name != "reasons"}


class _Facts(NamedTuple):
    """Of each lead: share of missing samples, of samples at one rail, of flat and of noisy windows, whether mains outweighs the ECG.

    range_mv: 1–99 % of each lead that has samples. exchanged: electrodes, an index of `_ELECTRODES`.
    """

    gap: list[float]
    clipped: list[float]
    flat: list[float]
    noise: list[float]
    mains: list[bool]
    range_mv: list[float]
    einthoven_mv: float
    exchanged: int


_ELECTRODES = ("", "RA and LL (lead II is upside down)", "RA and LA (lead I is upside down)")


def assess(recording: Recording) -> Quality:
    """Judge a recording of any length, rate and leads (lead names are used for `einthoven` and `reversal`)."""
    if not recording.signal.size:
        return Quality(0.0, 0.0, 1.0, 0.0, 0.0, 0.0, math.nan, False, True, False, True, ("no samples",))
    rows = {name: i for i, name in enumerate(recording.leads)}
    native = kernel.native()
    if native is not None and _longest_factor(_window(recording)) <= native.quality_longest_factor:
        facts = _compiled(native, recording, rows)
    else:
        facts = _defined(recording, rows)
    range_mv = _middle(facts.range_mv)
    by_lead = list(zip(facts.gap, facts.clipped, facts.flat, facts.noise, facts.mains))
    bad = [g > _GAP_LIMIT or c > _RAIL_SHARE or f > 0.5 or n > 0.5 or m for g, c, f, n, m in by_lead]
    swapped, triangle = _ELECTRODES[facts.exchanged], facts.einthoven_mv
    implausible = not _RANGE_MV[0] <= range_mv <= _RANGE_MV[1]
    gap, odd = _mean(facts.gap), implausible or triangle > _EINTHOVEN_MV or bool(swapped)
    return Quality(
        flat=_mean(facts.flat),
        clipped=max(facts.clipped),
        gap=gap,
        noise=_mean(facts.noise),
        mains=_mean(facts.mains),
        range_mv=range_mv,
        einthoven_mv=triangle,
        reversal=bool(swapped),
        implausible=implausible,
        einthoven=triangle > _EINTHOVEN_MV,
        abstain=_mean(bad) >= _BAD_LEADS or gap > _GAP_LIMIT or implausible or bool(swapped),
        reasons=_reasons(recording.leads, facts, range_mv, swapped) if any(bad) or odd else (),
    )


def _mean(values: list[float] | list[bool]) -> float:
    return math.fsum(values) / len(values)


def _middle(values: list[float]) -> float:
    """The median; 0 of nothing."""
    ordered, half = sorted(values), len(values) // 2
    if not ordered:
        return 0.0
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _window(recording: Recording) -> int:
    """Samples a window."""
    return min(max(2, round(_WINDOW_S * recording.rate)), recording.signal.shape[1])


def _chosen(rows: dict[str, int]) -> tuple[int, int, int] | None:
    """Rows of I, II and a chest lead, which tell whether limb electrodes are exchanged."""
    chest = next((rows[name] for name in ("V6", "V5") if name in rows), None)
    return None if chest is None or not {"I", "II"} <= set(rows) else (rows["I"], rows["II"], chest)


# The compiled form.


class _Tables(NamedTuple):
    taper: np.ndarray
    roots: np.ndarray
    bands: np.ndarray

    def addresses(self) -> tuple[int, ...]:
        return tuple(table.ctypes.data for table in self)


@lru_cache(maxsize=64)
def _longest_factor(n: int) -> int:
    """Largest odd prime factor, or 1."""
    largest, factor = 1, 3
    while n % 2 == 0:
        n //= 2
    while n > 1:
        while n % factor == 0:
            n, largest = n // factor, factor
        factor += 2
        if factor * factor > n > 1:
            return max(n, largest)
    return largest


@lru_cache(maxsize=16)
def _tables(size: int, rate: float) -> tuple[_Tables, tuple[int, ...]]:
    """What csrc/common/quality.h asks for, and where it is."""
    turn = 2 * np.pi * np.arange(size) / size
    taper, bands = _spectrum(size, rate)
    tables = _Tables(taper, np.stack([np.cos(turn), -np.sin(turn)], axis=1).astype(np.float32), bands)
    return tables, tables.addresses()


def _compiled(native: ModuleType, recording: Recording, rows: dict[str, int]) -> _Facts:
    x, mask, rate = recording.signal, recording.mask, recording.rate
    if x.strides[1] != 4 or x.strides[0] % 4:
        x = np.ascontiguousarray(x)
    if mask.strides[1] != 1:
        mask = np.ascontiguousarray(mask)
    size = _window(recording)
    _, tables = _tables(size, rate)
    limbs = (rows["I"], rows["II"], rows["III"]) if {"I", "II", "III"} <= set(rows) else (-1, -1, -1)
    chosen = _chosen(rows) if rate >= _REVERSAL_LEAST_HZ else None
    looked_at = min(x.shape[1], round(_REVERSAL_S * rate))
    plan = None if chosen is None else qrs.compiled_plan(float(rate))
    return _Facts(
        *native.quality(
            *x.shape, x.ctypes.data, x.strides[0] // 4, mask.ctypes.data, mask.strides[0], size, tables, limbs,
            (*(chosen or (-1, -1, -1)), looked_at),
            (_FLAT_MV, _RAIL_RANGE_MV, _NOISE_RATIO, _GAP_LIMIT, *_BEAT_S, CLEAR, _MIRROR, _P_WAVE_MV), plan,
        )
    )  # fmt: skip


# The definition.


def _defined(recording: Recording, rows: dict[str, int]) -> _Facts:
    x, mask = recording.signal, recording.mask & np.isfinite(recording.signal)
    gaps = 1 - np.count_nonzero(mask, axis=1) / x.shape[1]
    flat, noise, mains = _windows(x, mask, _window(recording), recording.rate)
    return _Facts(
        gaps.tolist(),
        _clipping(x, mask).tolist(),
        flat.tolist(),
        noise.tolist(),
        mains.tolist(),
        [_range(row[ok]) for row, ok in zip(x, mask) if ok.any()],
        _einthoven(x, mask, rows),
        _reversal(x, mask, rows, recording.rate),
    )


def _clipping(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Per lead: larger share of samples exactly at its maximum or minimum; 0 for a lead that hardly moves."""
    whole = bool(mask.all())
    high = (x if whole else np.where(mask, x, -np.inf)).max(axis=1)
    low = (x if whole else np.where(mask, x, np.inf)).min(axis=1)
    at = [x == rail[:, None] for rail in (high, low)]
    most = np.maximum(*(np.count_nonzero(a if whole else a & mask, axis=1) for a in at))
    return np.where(high - low >= _RAIL_RANGE_MV, most / np.maximum(np.count_nonzero(mask, axis=1), 1), 0.0)


def _range(x: np.ndarray) -> float:
    """From the 1st to the 99th percentile of x (n,)."""
    ordered = np.sort(x)
    at = np.array([0.99, 0.01]) * (len(x) - 1)
    before = at.astype(int)
    first, second = ordered[before], ordered[np.minimum(before + 1, len(x) - 1)]
    high, low = first + (second - first).astype(np.float64) * (at - before)
    return float(high - low)


def _windows(x: np.ndarray, mask: np.ndarray, size: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per lead: share of flat and of noisy windows, and whether mains outweighs the ECG."""
    count = x.shape[1] // size
    sums = np.zeros((5, len(x)))
    for first in range(0, count, _BLOCK):
        cut = slice(first * size, min(first + _BLOCK, count) * size)
        sums += _block(x[:, cut].reshape(len(x), -1, size), mask[:, cut].reshape(len(x), -1, size), rate)
    used, still, noisy, hum, ecg = sums
    return still / np.maximum(used, 1), noisy / np.maximum(used, 1), (hum > ecg) & (still < used)


def _block(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """x, mask (leads, windows, size) → (5, leads): windows used, flat, noisy; mains power, ECG power."""
    from scipy import fft

    used = np.count_nonzero(mask, axis=2) / mask.shape[2] >= 1 - _GAP_LIMIT
    if not mask.all():
        x = np.where(mask, x, np.float32(0))
    still = x.max(axis=2) - x.min(axis=2) < _FLAT_MV
    x = x - x.mean(axis=2, keepdims=True)
    window, bands = _spectrum(x.shape[2], rate)
    spectrum = fft.rfft(x * window, axis=2)  # of several float32 rows at a time, which numpy's is not
    ecg, fifty, sixty, above = np.moveaxis((spectrum.real**2 + spectrum.imag**2) @ bands, 2, 0)
    hum = np.maximum(fifty, sixty)
    noisy = (above > _NOISE_RATIO**2 * ecg) & ~still
    return np.stack([np.sum(w * used, axis=1) for w in (np.ones_like(used), still, noisy, hum, ecg)]).astype(np.float64)


@lru_cache(maxsize=16)
def _spectrum(size: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Hann window float32 (size,), and which frequencies are ECG, 50 Hz, 60 Hz, noise: float32 (size // 2 + 1, 4) of 0 and 1."""
    hz = np.fft.rfftfreq(size, 1 / rate)
    near = [np.abs(hz - f) <= _MAINS_WIDTH_HZ for f in _MAINS_HZ]
    signal = (hz >= _SIGNAL_HZ[0]) & (hz <= _SIGNAL_HZ[1])
    above = (hz > _SIGNAL_HZ[1]) & ~near[0] & ~near[1]
    return np.hanning(size).astype(np.float32), np.stack([signal, *near, above], axis=1).astype(np.float32)


def _einthoven(x: np.ndarray, mask: np.ndarray, rows: dict[str, int]) -> float:
    if not {"I", "II", "III"} <= set(rows):
        return math.nan
    one, two, three = (rows[name] for name in ("I", "II", "III"))
    valid = mask[one] & mask[two] & mask[three]
    limbs = x[[one, two, three]] if valid.all() else x[[one, two, three]][:, valid]
    rest = limbs[0].astype(np.float64) + limbs[2] - limbs[1]
    return float(np.sqrt(np.mean(rest**2))) if rest.size else math.nan


def _reversal(x: np.ndarray, mask: np.ndarray, rows: dict[str, int], rate: float) -> int:
    """Which limb electrodes look exchanged, as an index of `_ELECTRODES`."""
    chosen, end = _chosen(rows), round(_REVERSAL_S * rate)
    if chosen is None or not mask[chosen, :end].all():
        return 0
    beat = _average_beat(x[chosen, :end], rate)
    if beat is None:
        return 0
    one, two, reference = beat
    if _inverted(two, reference, rate):  # first: RA and LL turn lead I over as well in many hearts
        return 1
    return 2 if _inverted(one, reference, rate) else 0


def _average_beat(x: np.ndarray, rate: float) -> np.ndarray | None:
    """Median of the beats, from 280 ms before to 450 ms after the R peak; None with fewer than three beats."""
    before, after = round(_BEAT_S[0] * rate), round(_BEAT_S[1] * rate)
    peaks = [p for p in qrs.detect(x, rate) if before <= p < x.shape[1] - after] if rate >= _REVERSAL_LEAST_HZ else []
    if len(peaks) < 3:
        return None
    beats = np.stack([x[:, p - before : p + after] for p in peaks])
    beats.sort(axis=0)  # twice as quick as np.median
    half = len(peaks) // 2
    return beats[half] if len(peaks) % 2 else (beats[half - 1] + beats[half]) / 2


def _inverted(limb: np.ndarray, chest: np.ndarray, rate: float) -> bool:
    """P wave negative in the limb lead, and both its QRS complex and its whole beat the mirror image of the chest
    lead's."""

    def part(row: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
        return row[round((start_s + _BEAT_S[0]) * rate) : round((end_s + _BEAT_S[0]) * rate)]

    def mirrored(start_s: float, end_s: float) -> bool:
        a, b = (part(row, start_s, end_s) - part(row, start_s, end_s).mean() for row in (limb, chest))
        size = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
        return size > 0 and float(np.sum(a * b)) / size < _MIRROR

    p = part(limb, -0.22, -0.06)
    edge = max(1, len(p) // 8)
    bump = p - np.linspace(np.median(p[:edge]), np.median(p[-edge:]), len(p))
    return bool(bump[np.abs(bump).argmax()] < -_P_WAVE_MV) and mirrored(-0.06, 0.08) and mirrored(-0.25, 0.42)


def _reasons(leads: tuple[str, ...], facts: _Facts, range_mv: float, swapped: str) -> tuple[str, ...]:
    checks = (
        ([f > 0.5 for f in facts.flat], "flat"),
        ([c > _RAIL_SHARE for c in facts.clipped], f"more than {_RAIL_SHARE:.0%} of samples at one rail"),
        ([g > _GAP_LIMIT for g in facts.gap], f"more than {_GAP_LIMIT:.0%} missing"),
        ([n > 0.5 for n in facts.noise], "noise above 40 Hz in most seconds"),
        (facts.mains, "mains stronger than the ECG"),
    )
    reasons = [f"{', '.join(name for name, b in zip(leads, bad) if b)}: {text}" for bad, text in checks if any(bad)]
    if range_mv > _RANGE_MV[1]:
        reasons.append(f"range is {range_mv:.3g} mV: looks like µV read as mV (1,000×)")
    elif range_mv < _RANGE_MV[0]:
        reasons.append(f"range is {range_mv:.3g} mV: no signal, or V read as mV (1,000×)")
    if swapped:
        reasons.append(f"limb electrodes {swapped} look exchanged")
    if facts.einthoven_mv > _EINTHOVEN_MV:
        reasons.append(
            f"I + III − II is {facts.einthoven_mv:.2f} mV RMS, more than {_EINTHOVEN_MV} mV: lead names or polarity are wrong"
        )
    return tuple(reasons)
