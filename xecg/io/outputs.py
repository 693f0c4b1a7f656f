"""Places to write to: refused before the work begins, and what the system's errors mean, in words that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from xecg.errors import SpecError

__all__ = ["check_output", "explain"]

_MEANINGS = {
    errno.EACCES: ("permission is denied", "needed the right to use it; change its permissions, or name another place"),
    errno.EPERM: ("permission is denied", "needed the right to use it; change its permissions, or name another place"),
    errno.EROFS: ("it lies on a read-only file system", "needed one that can be written; name another place"),
    errno.ENOSPC: ("no space is left on its disk", "needed more; free some, or name a place on another disk"),
    errno.EDQUOT: ("your quota on its disk is used up", "needed more; free some, or name a place on another disk"),
    errno.EISDIR: ("it is a folder", "needed a file; name one"),
    errno.ENOTDIR: ("it, or what its path leads through, is a file", "needed a folder there; name another place"),
    errno.ENAMETOOLONG: ("its name is too long for the file system", "needed a shorter one"),
    errno.ELOOP: ("its links go round in a circle", "needed a path that ends; mend the links"),
    errno.EMFILE: ("too many files are open", "needed fewer, or a higher limit: ulimit -n"),
    errno.EIO: ("its disk fails to read or write", "needed a disk that works; copy what is there and look at the disk"),
    errno.ENOMEM: ("memory is used up", "needed more; take smaller batches or fewer processes"),
}


def check_output(path: str | os.PathLike[str], *, folder: bool = False) -> Path:
    """`path` as a Path, if a file can be put there, or a folder made with the folders above it; whatever is there stays untouched.

    Raises SpecError that says what is in the way: a folder or a device where a file is wanted, or the other way round, no parent
    folder, or no right to write. What only writing shows, such as a full disk, is not looked for.
    """
    place = Path(path)
    try:
        _check(place, folder)
    except OSError as error:
        raise SpecError(f"output {explain(error)}") from None
    return place


def _check(place: Path, folder: bool) -> None:
    if folder:
        if place.exists() and not place.is_dir():
            raise SpecError(f"output {place} is a file; needed a folder; name another, or remove the file")
        above = place
        while not os.path.lexists(above):
            above = above.parent
    else:
        if place.is_dir():
            raise SpecError(f"output {place} is a folder; needed the name of a file, in that folder or elsewhere")
        if place.exists() and not place.is_file():
            raise SpecError(
                f"output {place} is no plain file; needed a name that is free, or that of a file to replace"
            )
        above = place.parent
        if not above.exists():
            raise SpecError(f"output {place} has no folder to be in: {above} does not exist; make it, or name another")
    if not above.is_dir():
        raise SpecError(f"output {place} leads through {above}, which is no folder; name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(above).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(place))


def explain(error: OSError) -> str:
    """One sentence: the file, what is wrong, what is needed and what to do. Python's words for a number that is not known here."""
    known = _MEANINGS.get(error.errno or 0)
    if error.errno == errno.ENOENT and error.filename is not None:
        parent = Path(os.fsdecode(error.filename)).parent
        missing = "it does not exist" if parent.is_dir() else f"the folder {parent} does not exist"
        known = (missing, "needed a path that is there; check its spelling, or make the folder")
    if known is None:
        return str(error)
    name = "standard output or a file" if error.filename is None else os.fsdecode(error.filename)
    return f"{name} cannot be used: {known[0]}; {known[1]}"
