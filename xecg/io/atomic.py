"""The one way a file is written: a temporary name in the same folder, synced, renamed, the folder synced.

A run that is killed leaves the old file or the new one, and at most one temporary file, which `remove_stale` finds.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["remove_stale", "replacing", "write_bytes", "write_json", "write_text"]

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")


def _host() -> str:
    return sha256(platform.node().encode()).hexdigest()[:8]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what the block wrote there takes `path`'s place when it ends without an error.

    The file is synced before the rename and the folder after it. On an error, one from fsync or rename included, the
    temporary file is removed, `path` keeps its old content and the error goes on to the caller; an OSError names `path`, not the
    temporary file.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (str(temporary), None):
            raise type(error)(error.errno, error.strerror, str(target)) from error
        raise
    _sync(target.parent)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as JSON in its own key order, whole or not at all. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_stale(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove temporary files and folders that a dead process of this machine left in `folder`; returns what was removed."""
    removed = []
    for path in sorted(Path(folder).iterdir()):
        found = _TEMPORARY.fullmatch(path.name)
        if found and found[1] == _host() and not _alive(int(found[2])):
            if path.is_dir() and not path.is_symlink():  # a checkpoint is written as a folder
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
