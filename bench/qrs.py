"""The QRS detector beside three libraries on the MIT-BIH Arrhythmia Database: `python -m bench qrs --data DIR --json FILE`.

First lead of every record, one strict matcher (`xecg.signal.peaks`) at three tolerances, for three ways of counting: the whole record;
without the first 5 min (a habit from ANSI/AAMI EC57, whose learning period they are); and without them and without ventricular
flutter, which EC57 leaves out as well (record 207 alone has it). Our constants were chosen on DS1, so DS2 stands apart.

Noise is synthetic, made by `xecg.signal.simulate`; no recorded noise is used. Its size follows the rule of WFDB's `nst`: the signal's
power is an eighth of the squared peak-to-peak size of the median QRS complex. Results hold counts and scores, never samples.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import commit, machine
from xecg import read
from xecg.errors import DataMissing
from xecg.signal import peaks, qrs, simulate

__all__ = ["CONDITIONS", "DETECTORS", "DS2", "TOLERANCES_S", "VARIANTS", "Record", "evaluate", "load", "noisy", "score"]

# de Chazal et al., IEEE Trans. Biomed. Eng. 51:1196 (2004); the paced records are of neither half.
_DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
_DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
_PACED = (102, 104, 107, 217)
DS2 = frozenset(map(str, _DS2))
_RECORDS = tuple(map(str, sorted(_DS1 + _DS2 + _PACED)))
_BEATS = frozenset("NLRejAaJSVEFQ/f")
VARIANTS = ("full", "skip 5 min", "no flutter")
TOLERANCES_S = (0.010, 0.075, 0.150)
_SKIPPED_S = 300.0
_QRS_S = 0.05  # either side of a beat mark, for the size of the QRS complex
_NOISES = {"wander": "baseline wander", "muscle": "muscle-like, 20–90 Hz", "electrode": "electrode-motion-like"}
CONDITIONS: tuple[tuple[str, float | None], ...] = (
    ("clean", None),
    *((kind, snr_db) for kind in _NOISES for snr_db in (12.0, 6.0)),
)


@dataclass(frozen=True, eq=False)
class Record:
    """signal (n,) in mV of the first lead. beats_s: true beats. flutter_s: (start, end) of each episode."""

    name: str
    signal: np.ndarray
    rate_hz: float
    beats_s: np.ndarray
    flutter_s: tuple[tuple[float, float], ...] = ()


def load(root: Path, *, names: Sequence[str] = _RECORDS) -> list[Record]:
    """The records under `root`, all 48 or `names`. Raises DataMissing where one is absent."""
    found = {path.stem: path for path in sorted(root.rglob("*.hea"))}
    missing = [name for name in names if name not in found]
    if missing:
        few = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise DataMissing(
            f"{root} lacks {len(missing)} of {len(names)} records ({few}); needed the MIT-BIH Arrhythmia Database 1.0.0 "
            "(PhysioNet, ODC-By 1.0, 104 MB): pass its folder with --data"
        )
    return [_record(found[name]) for name in names]


def _record(path: Path) -> Record:
    recording = read(path)
    marks = recording.annotations
    if marks is None:
        raise DataMissing(f"{path} has no .atr file beside it; needed the beat marks")
    at, symbols = marks.sample / recording.rate, np.array(marks.symbol)
    starts, ends = at[symbols == "["], at[symbols == "]"]
    flutter = tuple((float(a), float(b)) for a, b in zip(starts, ends))
    beats = at[np.isin(symbols, list(_BEATS))]
    return Record(path.stem, recording.signal[0].astype(np.float64), recording.rate, beats, flutter)


# Detectors: (n,) in mV and a rate to sample indices. A peer that is not installed is left out.


def _xecg(x: np.ndarray, rate_hz: float) -> np.ndarray:
    return qrs.detect(x, rate_hz)


def _sleepecg(x: np.ndarray, rate_hz: float) -> np.ndarray:
    import sleepecg

    return np.asarray(sleepecg.detect_heartbeats(x, rate_hz))


def _neurokit2(x: np.ndarray, rate_hz: float) -> np.ndarray:
    import neurokit2

    cleaned = neurokit2.ecg_clean(x, sampling_rate=int(rate_hz))
    return np.asarray(neurokit2.ecg_peaks(cleaned, sampling_rate=int(rate_hz))[1]["ECG_R_Peaks"])


def _xqrs(x: np.ndarray, rate_hz: float) -> np.ndarray:
    from wfdb import processing

    return np.asarray(processing.xqrs_detect(x, rate_hz, verbose=False))


DETECTORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "xecg": _xecg,
    "sleepecg": _sleepecg,
    "neurokit2": _neurokit2,
    "wfdb xqrs": _xqrs,
}


# Noise.


@lru_cache(maxsize=4)
def _noise(kind: str, rate_hz: float, n: int) -> np.ndarray:
    """Half an hour of one kind, RMS 1: what a simulated record has more with it than without it."""
    seconds = n / rate_hz
    with_it, without = (
        simulate.ecg(seed=7, duration_s=seconds, rate_hz=rate_hz, leads=("II",), noise={kind: size}).signal[0]
        for size in (1.0, 0.0)
    )
    noise = with_it.astype(np.float64) - without
    return noise / np.sqrt(np.mean(noise**2))


def noisy(record: Record, kind: str, snr_db: float) -> np.ndarray:
    """The record's signal with synthetic noise of its own stretch: the same seeded noise, turned by the record's number."""
    x, near = record.signal, round(_QRS_S * record.rate_hz)
    at = np.round(record.beats_s * record.rate_hz).astype(int)
    at = at[(at >= near) & (at < len(x) - near)]
    size = float(np.median([np.ptp(x[i - near : i + near + 1]) for i in at]))
    rms = np.sqrt(size**2 / 8 / 10 ** (snr_db / 10))
    noise = np.roll(_noise(kind, record.rate_hz, len(x)), int(record.name) * 9973)
    return np.asarray(x + rms * noise)


# Scores.


def _kept(times_s: np.ndarray, record: Record, variant: str) -> np.ndarray:
    """The times that a way of counting looks at."""
    keep = np.ones(len(times_s), bool)
    if variant != "full":
        keep &= times_s >= _SKIPPED_S
    if variant == "no flutter":
        for start, end in record.flutter_s:
            keep &= (times_s < start) | (times_s > end)
    return times_s[keep]


def score(
    records: Sequence[Record], found_s: Sequence[np.ndarray], *, variant: str, tolerance_s: float
) -> dict[str, Any]:
    """Counts and scores of all records together ("gross"), of DS2, and of each record."""
    matches = {
        record.name: peaks.match(_kept(record.beats_s, record, variant), _kept(times, record, variant), tolerance_s)
        for record, times in zip(records, found_s)
    }
    return {
        "gross": _pooled(list(matches.values())),
        "ds2": _pooled([m for name, m in matches.items() if name in DS2]),
        "records": {name: _pooled([m]) for name, m in matches.items()},
    }


def _pooled(matches: Sequence[peaks.Matches]) -> dict[str, float | int | None]:
    tp, fp, fn = (sum(getattr(m, f) for m in matches) for f in ("true_positive", "false_positive", "false_negative"))
    errors_ms = 1000 * np.concatenate([m.errors_s for m in matches]) if matches else np.zeros(0)

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "sensitivity": share(tp, tp + fn),
        "ppv": share(tp, tp + fp),
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "mean_ms": float(errors_ms.mean()) if tp else None,
        "sd_ms": float(errors_ms.std()) if tp else None,
    }


def evaluate(
    records: Sequence[Record], *, detectors: Sequence[str], conditions: Sequence[tuple[str, float | None]]
) -> dict[str, Any]:
    """Every detector on every condition: {"rows": …, "cost": …, where and with what}. Records apart only where clean."""
    rows, cost, absent = [], {}, []
    for name in detectors:
        for kind, snr_db in conditions:
            try:
                found, seconds = _detected(DETECTORS[name], records, kind, snr_db)
            except ImportError:
                absent.append(name)
                break
            if kind == "clean":
                cost[name] = 1e6 * seconds / sum(len(r.signal) / r.rate_hz for r in records)
            rows += list(_rows(records, found, name, kind, snr_db))
    return {
        "rows": rows,
        "cost_us_per_second_of_signal": cost,
        "delay_ms": 1000 * qrs.Detector(records[0].rate_hz).delay_s,
        "not_installed": absent,
        "records": [record.name for record in records],
        "machine": machine(),
        "python": platform.python_version(),
        "commit": commit(),
    }


def _detected(
    detect: Callable[[np.ndarray, float], np.ndarray], records: Sequence[Record], kind: str, snr_db: float | None
) -> tuple[list[np.ndarray], float]:
    """Peaks of each record in seconds, and the CPU time of the detector alone."""
    found, seconds = [], 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detect(records[0].signal[: round(20 * records[0].rate_hz)], records[0].rate_hz)  # imports
        for record in records:
            x = record.signal if snr_db is None else noisy(record, kind, snr_db)
            begin = time.process_time()
            samples = detect(x, record.rate_hz)
            seconds += time.process_time() - begin
            found.append(np.sort(np.asarray(samples, np.float64)) / record.rate_hz)
    return found, seconds


def _rows(
    records: Sequence[Record], found_s: Sequence[np.ndarray], name: str, kind: str, snr_db: float | None
) -> Iterator[dict[str, Any]]:
    for variant in VARIANTS:
        for tolerance_s in TOLERANCES_S:
            scores = score(records, found_s, variant=variant, tolerance_s=tolerance_s)
            if kind != "clean":
                del scores["records"]
            label = kind if snr_db is None else f"synthetic {_NOISES[kind]}"
            yield {
                "detector": name,
                "noise": label,
                "snr_db": snr_db,
                "variant": variant,
                "tolerance_ms": round(1000 * tolerance_s),
                **scores,
            }
