"""The records of an archive: their ids, the state of their files, and the parts that the list is cut into."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xecg.errors import ReadError

__all__ = ["Input", "cut_into_parts", "list_inputs"]

_PART_RECORDS = 256  # records of a part at most: what an interruption can cost
_PART_BYTES = 256 << 20  # bytes of input of a part at most: some days of two leads, which share batches


@dataclass(frozen=True)
class Input:
    """A record to embed.

    source: the path below its root, with suffix. size: bytes of all its files. state: their names, sizes and times.
    """

    record_id: str
    source: str
    path: Path
    size: int
    state: str

    def share(self, n: int) -> int:
        """Which of n shares, 1..n: the same on every machine, whatever else is in the archive."""
        return int.from_bytes(hashlib.sha256(self.record_id.encode()).digest()[:8], "big") % n + 1


def list_inputs(roots: Sequence[str | Path], *, leave_out: Path) -> list[Input]:
    """Every record below the roots, sorted by id, but for those in the folder `leave_out`.

    Raises ReadError when two records have one id, and when there is none.
    """
    from xecg.io.find import find_records, no_records

    found: dict[str, Input] = {}
    for root in map(Path, roots):
        base = root if root.is_dir() else root.parent
        files = _files_by_stem(base, deep=root.is_dir())
        for path in find_records(root):
            if leave_out in path.parents:
                continue
            record_id = _record_id(path.relative_to(base))
            if record_id in found and found[record_id].path != path:
                rule = f"{found[record_id].path} has the same one and ids must differ"
                hint = "Rename one of the two, or embed them into two tables."
                raise ReadError(str(path), "record id", repr(record_id), rule, hint)
            source = _text(path.relative_to(base).as_posix())
            found[record_id] = Input(
                record_id, source, path, *_state(files.get((str(path.parent), _stem(path.name)), []))
            )
    if not found:
        raise no_records(roots)
    return [found[record_id] for record_id in sorted(found)]


def cut_into_parts(records: Sequence[Input]) -> Iterator[list[Input]]:
    """Neighbours in the list, so many that a part is worth a file and its loss is bearable."""
    part: list[Input] = []
    size = 0
    for record in records:
        if part and (len(part) == _PART_RECORDS or size + record.size > _PART_BYTES):
            yield part
            part, size = [], 0
        part.append(record)
        size += record.size
    if part:
        yield part


def _text(name: str) -> str:
    """File names are bytes: what is not UTF-8 is written as an escape, the rest in one Unicode form (NFC)."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode("utf-8"))


def _record_id(path: Path) -> str:
    # ".0001" is a number, not a suffix: DICOM files are often named so.
    is_suffix = any(c.isalpha() for c in path.suffix) and len(path.suffix) <= 9
    return _text((path.with_suffix("") if is_suffix else path).as_posix())


def _stem(name: str) -> str:
    return name.partition(".")[0]


def _files_by_stem(base: Path, *, deep: bool) -> dict[tuple[str, str], list[Path]]:
    """Files by folder and stem: header, samples and annotations of a WFDB record share both."""
    found: dict[tuple[str, str], list[Path]] = {}
    for folder, below, names in os.walk(base):
        for name in sorted(names):
            found.setdefault((folder, _stem(name)), []).append(Path(folder, name))
        if not deep:
            below.clear()
    return found


def _state(files: Sequence[Path]) -> tuple[int, str]:
    size, told = 0, []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue  # a dangling link: the reader will say what is wrong
        size += status.st_size
        told.append(f"{file.name!r} {status.st_size} {status.st_mtime_ns}")
    return size, "\n".join(told)
