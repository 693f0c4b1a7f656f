"""`write_wfdb`: a `Recording` as a WFDB record, format 16, with initial values and checksums."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xecg.errors import ShapeError
from xecg.io.atomic import write_bytes
from xecg.io.readers.wfdb_format import wrapped_sums
from xecg.signal.recording import Recording

__all__ = ["write_wfdb"]

_FULL_SCALE = 32_000  # counts, a little inside 16 bits; -32768 is the code of a missing sample
_MISSING = -32_768
_GAINS = (10_000, 5_000, 2_000, 1_000, 500, 200, 100, 50, 20, 10, 5, 2, 1)  # counts per mV
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


def write_wfdb(
    recording: Recording, folder: str | os.PathLike[str], name: str, *, comments: Sequence[str] = ()
) -> Path:
    """Write `name`.dat and `name`.hea into `folder` (made if need be); returns the path of the header.

    The gain of a lead is the largest of 10,000, 5,000, … 1 counts per mV that its largest sample allows; missing
    samples get the format's own code. Age, sex and codes in `recording.meta` become comments as in the Challenge sets.
    Annotations are not written. The data file is in place before the header that names it.
    Raises ShapeError for a name other than letters, digits, _ and -, for an empty recording, and above 32,000 mV.
    """
    if not _NAME.fullmatch(name):
        raise ShapeError(f"record name is {name!r}; needed 1 to 80 letters, digits, _ or -")
    leads, samples = recording.signal.shape
    if not leads or not samples:
        raise ShapeError(f"recording has {leads} leads and {samples} samples; needed at least one of each")
    gains = [_gain(row, mask, lead) for row, mask, lead in zip(recording.signal, recording.mask, recording.leads)]
    scaled = np.rint(recording.signal * np.array(gains, np.float64)[:, None])
    counts = np.ascontiguousarray(np.where(recording.mask, scaled, _MISSING).astype("<i2").T)
    sums = wrapped_sums(counts).astype(np.int16)
    lines = [f"{name} {leads} {format(recording.rate, '.12g')} {samples}"]
    for lead, gain, first, total in zip(recording.leads, gains, counts[0], sums):
        lines.append(f"{name}.dat 16 {gain}(0)/mV 16 0 {first} {total} 0 {lead}")
    lines += [f"# {_one_line(comment)}" for comment in (*_person(recording), *comments)]
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_bytes(target / f"{name}.dat", counts.tobytes())
    write_bytes(target / f"{name}.hea", ("\n".join(lines) + "\n").encode())
    return target / f"{name}.hea"


def _gain(row: np.ndarray, mask: np.ndarray, lead: str) -> int:
    most = float(np.abs(row[mask]).max()) if mask.any() else 0.0
    for gain in _GAINS:
        if most * gain <= _FULL_SCALE:
            return gain
    raise ShapeError(f"lead {lead} reaches {most:g} mV; needed finite samples within {_FULL_SCALE} mV")


def _person(recording: Recording) -> list[str]:
    meta, lines = recording.meta, []
    age = meta.get("age")
    if age is not None and math.isfinite(age):
        lines.append(f"Age: {age:g}")
    if meta.get("sex") in ("F", "M"):
        lines.append(f"Sex: {'Female' if meta['sex'] == 'F' else 'Male'}")
    if meta.get("dx"):
        lines.append("Dx: " + ",".join(meta["dx"]))
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())
