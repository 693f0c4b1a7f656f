"""`find_records`: the files under a folder that `read` can be asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from xecg.errors import DataMissing, ReadError

__all__ = ["find_records", "no_records"]

_OWN = frozenset((".npy", ".npz", ".edf", ".bdf", ".dcm", ".h5", ".hdf5", ".xml"))
_TABLES = frozenset((".csv", ".tsv"))
_DATA = frozenset((".dat", ".mat"))
_SEGMENT = re.compile(r"(.+?)_?\d+")
_HEADER_START = 65_536  # bytes of a header that are looked at for its segments


def find_records(root: str | os.PathLike[str]) -> list[Path]:
    """Every recording under `root`, sorted by POSIX path; a path of a file gives just that file.

    WFDB: the .hea of each record, not its data files, layouts or segments. Other formats: the file, those included that
    `read` will refuse, so that they are reported. Tables whose first row holds text are label tables and not listed;
    .dat and .mat files only where no header lies beside them. Hidden files, and links to folders, are not followed.
    Raises DataMissing where `root` does not exist.
    """
    start = Path(root)
    if start.is_dir():
        return sorted(_walk(str(start)), key=lambda path: path.as_posix())
    if start.exists() or start.with_name(start.name + ".hea").exists():
        return [start]
    raise DataMissing(f"{start} does not exist; needed a file or a folder with recordings")


def no_records(roots: Iterable[str | os.PathLike[str]]) -> ReadError:
    """What to say where `find_records` lists nothing under any of these folders."""
    named = [os.fspath(root) for root in roots]
    files = sum(len(names) for root in named for _, _, names in os.walk(root))
    return ReadError(
        ", ".join(named),
        "content",
        f"no recording, and {files:,} other files" if files else "no recording: the folder is empty",
        "needed WFDB headers (.hea), EDF (.edf), tables of numbers (.csv) or arrays (.npy, .npz)",
        "Name the folder that holds them, or a file. Links to folders are not followed.",
    )


def _walk(root: str) -> list[Path]:
    found, folders = [], [root]
    while folders:
        names = []
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    names.append(entry.path)
        found += _recordings(names)
    return found


def _recordings(paths: list[str]) -> list[Path]:
    """The recordings among the files of one folder."""
    parts = [(path, *os.path.splitext(path)) for path in paths]
    stems = {stem for _, stem, suffix in parts if suffix == ".hea"}
    layouts = {stem.removesuffix("_layout") for stem in stems if stem.endswith("_layout")}
    listed: dict[str, frozenset[str]] = {}
    out = []
    for path, stem, suffix in parts:
        low = suffix.lower()
        if suffix == ".hea":
            keep = not stem.endswith("_layout") and not _is_segment(stem, stems, layouts, listed)
        elif low in _TABLES:
            keep = not _is_label_table(path)
        else:
            keep = low in _OWN or (low in _DATA and not stems)
        if keep:
            out.append(Path(path))
    return out


def _is_segment(stem: str, stems: set[str], layouts: set[str], listed: dict[str, frozenset[str]]) -> bool:
    """Does another header of the folder name this one as its segment? Only those are opened whose name begins like it."""
    found = _SEGMENT.fullmatch(stem)
    if found is None:
        return False
    if found[1] in layouts:
        return True
    digits = re.search(r"_?\d+$", stem)
    tail = digits.start() if digits else len(stem)
    for cut in range(tail, len(stem)):
        master = stem[:cut]
        if master in stems:
            if master not in listed:
                listed[master] = _segments_of(master + ".hea")
            if os.path.basename(stem) in listed[master]:
                return True
    return False


def _segments_of(path: str) -> frozenset[str]:
    try:
        with open(path, "rb") as handle:
            lines = handle.read(_HEADER_START).decode("latin-1").splitlines()
    except OSError:
        return frozenset()
    plain = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not plain or "/" not in plain[0][0]:
        return frozenset()
    return frozenset(fields[0] for fields in plain[1:])


def _is_label_table(path: str) -> bool:
    """Does the second line of a table hold a cell that is no number?"""
    try:
        with open(path, "rb") as handle:
            lines = handle.read(_HEADER_START).decode("latin-1").splitlines()[1:2]
    except OSError:
        return False
    return any(not _is_number(cell) for line in lines for cell in re.split(r"[,;\t]", line))


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"') or "nan")
    except ValueError:
        return False
    return True
