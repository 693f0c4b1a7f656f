"""Opening files that strangers wrote: regular files only, inside their folder only, no more bytes than asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from xecg.errors import ReadError

__all__ = ["file_size", "inside", "read_file", "shown"]


def shown(value: object, *, limit: int = 60) -> str:
    """A value for an error text: control bytes escaped, cut to `limit` characters."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= limit else text[:limit] + "…"


def inside(folder: Path, name: str, *, file: str) -> Path:
    """The path of `name` in `folder`, links resolved. Raises ReadError where it leaves the folder; `file` names the asker."""
    if "://" in name or "\0" in name:
        raise ReadError(file, "data file", shown(name), "needed the name of a local file", "Nothing is ever fetched.")
    plain = os.path.join(folder, name)
    if "/" not in name and name not in (".", "..") and not os.path.islink(plain):
        return Path(plain)
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, name))
    if os.path.isabs(name) or not real.startswith(root.rstrip(os.sep) + os.sep):
        raise ReadError(
            file, "data file", shown(name), f"it leaves the record's folder {root}", "Put a copy beside the header."
        )
    return Path(real)


def _checked(path: Path, file: str, field: str) -> os.stat_result:
    """`stat` before `open`: a FIFO would block, a device would never end."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ReadError(file, field, shown(path.name), f"it cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ReadError(file, field, shown(path.name), f"it is {kind}; needed a regular file")
    return status


def file_size(path: Path, *, file: str, field: str = "file") -> int:
    """Bytes of a regular file. Raises ReadError with `file` and `field` where there is none."""
    return _checked(path, file, field).st_size


def read_file(
    path: Path, *, file: str, field: str = "file", start: int = 0, count: int | None = None, limit: int | None = None
) -> bytes:
    """`count` bytes from `start` on (to the end when None) of a regular file, or fewer where the file ends.

    `path` has its links resolved. Raises ReadError where it cannot be read or is longer than `limit` bytes.
    """
    size = _checked(path, file, field).st_size
    if limit is not None and size > limit:
        raise ReadError(file, field, f"{size:,} bytes", f"at most {limit:,} are read")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ReadError(file, field, shown(path.name), "it is not a regular file; needed a regular file")
            wanted = max(0, size - start if count is None else min(count, size - start))
            parts = []
            while wanted > 0:
                part = os.pread(handle, wanted, start)
                if not part:  # the file shrank since its size was taken
                    break
                parts.append(part)
                start, wanted = start + len(part), wanted - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(handle)
    except OSError as error:
        raise ReadError(file, field, shown(path.name), f"it cannot be read: {error.strerror}") from None
