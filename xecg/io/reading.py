"""`read`: any file to a `Recording`. The format is told by content, never by the name alone."""

# No "from __future__ import annotations" here: it would define the name `annotations`, which is a function of this module.

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xecg.errors import ReadError
from xecg.io.readers.common import Request
from xecg.io.readers.files import inside, read_file
from xecg.signal.recording import Annotations, Recording

__all__ = ["annotations", "read"]

_SNIFFED = 4096  # bytes looked at to tell a format


def read(
    path: str | os.PathLike[str],
    *,
    rate: float | None = None,
    unit: str | None = None,
    leads: Mapping[str, str | None] | Sequence[str | None] | None = None,
    start: float | None = None,
    end: float | None = None,
    **policy: Any,
) -> Recording:
    """Read one ECG. Formats: WFDB (the .hea, or the record's path without it), EDF and EDF+, CSV, npy, npz.

    rate: Hz, for files that do not state it. unit: "mV", "uV", "V" or "nV"; needed where the file states none and the
    format has no default, and overrides the file's. leads: a mapping from names found to names wanted (None drops), or
    a name (or None) for each signal in the file's order. start, end: seconds; only that part is read, where the format
    allows, and then WFDB's checksum, which covers the whole record, is not checked (the log says so).

    policy, all off unless given: partial (read what is there of a cut file, mask the rest), strict (refuse what is
    otherwise read with a warning in the log), ignore_checksum, allow_negative_gain, keep_dates (`Recording.start` is
    the date and time of the header), decimal ("," for CSV), max_decoded (bytes, 4 GiB), any_amplitude (a size that no ECG in
    mV has is noted, not refused: for parts of a record whose unit is known), group_key (bytes: keeps `meta["exam_group"]` the
    same from one process to the next).

    Nothing that identifies a person is kept: of the header's text only age (90 for all above 89), sex and diagnosis
    codes reach `Recording.meta`. Raises ReadError with the field, the value found and the rule for every file refused.
    """
    request = Request(rate=rate, unit=unit, leads=leads, start=start, end=end, **policy)
    given = Path(path)
    source = given.as_posix()
    if "://" in os.fspath(path):
        raise ReadError(source, "path", "an address", "needed a local file", "Nothing is ever fetched.")
    if not given.exists() and given.with_name(given.name + ".hea").is_file():
        given = given.with_name(given.name + ".hea")
    real = inside(given.parent, given.name, file=source)
    head = read_file(real, file=source, count=_SNIFFED)
    kind = _kind(head, real.suffix.lower())
    if kind == "wfdb":
        from xecg.io.readers.wfdb import read_wfdb

        return read_wfdb(real, head if len(head) < _SNIFFED else None, request, source=source)
    if kind == "numpy":
        from xecg.io.readers.npy import read_npy

        return read_npy(real, request, source=source)
    if kind == "csv":
        from xecg.io.readers.csv import read_csv

        return read_csv(real, request, source=source)
    if kind == "EDF":
        from xecg.io.readers.edf import read_edf

        return read_edf(real, request, source=source)
    raise _unread(kind, real, source)


def annotations(path: str | os.PathLike[str], extension: str = "atr", *, partial: bool = False) -> Annotations:
    """The marks in `path` with its suffix replaced by `extension` (MIT format), without the signal.

    Times are frames of the record, int64 and ascending, as stored; where the file states a time resolution of its own
    and the header is there, they are converted. Raises ReadError naming the byte of the first bad word, and where a
    time lies past the end of the record.
    """
    from xecg.io.readers.wfdb import header
    from xecg.io.readers.wfdb_annotations import read_annotations

    given = Path(path)
    record = given.with_suffix("") if given.suffix in (".hea", f".{extension}") else given
    marks = record.with_name(f"{record.name}.{extension}")
    source = marks.as_posix()
    found, _ = read_annotations(inside(marks.parent, marks.name, file=source), Request(partial=partial), file=source)
    beside = record.with_name(f"{record.name}.hea")
    sample = found.sample
    if beside.is_file():
        facts = header(inside(beside.parent, beside.name, file=source), file=beside.as_posix())
        sample = found.at(facts.rate or found.resolution or 1.0)
        if facts.samples is not None and sample.size and sample[-1] > facts.samples:  # equal: a mark at the end
            raise ReadError(source, "time", f"{int(sample[-1]):,}", f"the record ends at sample {facts.samples:,}")
    return Annotations(sample, found.symbol, found.aux)


# First bytes, what they say, and what would read it.
_SIGNATURES = (
    (b"\x93NUMPY", "numpy"),
    (b"PK\x03\x04", "numpy"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"0       ", "EDF"),
    (b"\xffBIOSEMI", "BDF"),
    (b"MATLAB 5.0 MAT-file", "MATLAB 5"),
    (b"<?xml", "XML"),
    (b"fLaC", "FLAC"),
    (b"\x1f\x8b", "gzip"),
    (b"%PDF", "PDF"),
    (b"PAR1", "Parquet"),
)
_HINTS = {
    "BDF": "Convert it to WFDB or CSV.",
    "DICOM": "Convert it to WFDB or CSV.",
    "HDF5": "Convert it to WFDB, CSV or npy.",
    "XML": "Convert it to WFDB or CSV.",
    "FLAC": "Read the WFDB header (.hea) that belongs to it.",
    "WFDB data": "Read the header (.hea) that belongs to it.",
}


def _kind(head: bytes, suffix: str) -> str:
    """The format of a file by its first bytes; the suffix decides only between kinds of text."""
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[128:132] == b"DICM":
        return "DICOM"
    if suffix == ".hea":
        return "wfdb"
    if suffix in (".dat", ".mat"):
        return "WFDB data"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return "XML"
    if suffix in (".csv", ".tsv", ".txt"):
        return "csv"
    return "unknown"


def _unread(kind: str, path: Path, source: str) -> ReadError:
    rule = "this version reads WFDB, EDF, CSV, npy and npz"
    found = f"unknown (suffix {path.suffix or 'none'})" if kind == "unknown" else kind
    return ReadError(source, "format", found, rule, _HINTS.get(kind, ""))
