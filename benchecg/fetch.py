"""Downloads an open release: the list of checksums first, then every file, resumed where it stopped, kept only when its SHA-256 fits.

The one place in this package that speaks to a network, and only when `benchecg prepare --download` was asked to.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchecg.sources import Source
from benchecg.versions import library_version
from xecg.errors import ReadError, SpecError

__all__ = ["SUMS", "Fetched", "fetch"]

SUMS = "SHA256SUMS.txt"
_BLOCK = 1 << 18
_TIMEOUT_S = 60.0
_ATTEMPTS = 6  # in a row without a single new byte
_PAUSE_S = 1.0  # after a cut; doubled for each attempt that brought nothing
_MEGABYTE = 1_000_000
_MOST_SUMS = 64 * _MEGABYTE
_MARGIN = 1.5  # a release that grows beyond this multiple of its stated size is stopped
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Fetched:
    """files: of the release that are now there and whole; kept: of them, there before. received: bytes that came over the network."""

    folder: Path
    files: int
    kept: int
    received: int


def fetch(
    source: Source,
    root: Path,
    *,
    accept_licence: bool,
    mirror: str | None = None,
    pause_s: float = _PAUSE_S,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Fetched:
    """Download `source` into its folder under `root`. mirror: another root URL of the same release.

    A cut connection is taken up where it was cut, in this run or the next. Raises SpecError before anything is written when the
    licence was not accepted or the disk is too small, ReadError when what came is not what the checksums say, OSError when the
    network stays away.
    """
    if not accept_licence:
        raise SpecError(
            f"{source.name} is under {source.licence}, {source.licence_url}; read it and pass --accept-licence"
        )
    base = _base(source.url if mirror is None else mirror)
    folder = root / source.folder
    _room(source, folder, root)
    session = _Session(pause_s, int(source.size_mb * _MEGABYTE * _MARGIN))
    folder.mkdir(parents=True, exist_ok=True)
    sums = session.small(urllib.parse.urljoin(base, SUMS))
    listed = _listed(sums, source, base + SUMS)
    kept = 0
    for path, sha256 in progress(listed):
        target = _inside(folder, path)
        if target.is_file() and _sha256(target) == sha256:
            kept += 1
            continue
        session.file(urllib.parse.urljoin(base, urllib.parse.quote(path)), target, sha256)
    from xecg.io.atomic import write_bytes

    write_bytes(folder / SUMS, sums)
    return Fetched(folder, len(listed), kept, session.received)


def _base(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"the address {url!r} is not one of a web server; needed http:// or https://")
    return url if url.endswith("/") else url + "/"


def _room(source: Source, folder: Path, root: Path) -> None:
    there = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0
    need, free = source.size_mb * _MEGABYTE - there, shutil.disk_usage(root).free
    if need > free:
        raise SpecError(
            f"{source.name} needs {need / _MEGABYTE:,.0f} MB more under {root}, where {free / _MEGABYTE:,.0f} MB are free; "
            "make room, or pass --data with a folder on another disk"
        )


def _listed(sums: bytes, source: Source, url: str) -> list[tuple[str, str]]:
    """(path, SHA-256) of the files that the tasks read, in the list's order. Raises ReadError on a list that is none."""
    found = []
    for number, line in enumerate(sums.decode("utf-8", "replace").splitlines(), start=1):
        sha256, _, name = line.strip().partition(" ")
        path = name.strip().removeprefix("*").removeprefix("./")
        if not line.strip():
            continue
        if len(sha256) != 64 or not set(sha256.lower()) <= _HEX or not _harmless(path):
            raise ReadError(url, f"line {number}", repr(line[:80]), "needed a SHA-256 and a path inside the release")
        if not source.wanted or path.startswith(source.wanted):
            found.append((path, sha256.lower()))
    if not found:
        wanted = ", ".join(source.wanted) or "any file"
        raise ReadError(url, "list", f"without {wanted}", f"needed the checksums of {source.name}", "Check --mirror.")
    return found


def _harmless(path: str) -> bool:
    parts = PurePosixPath(path).parts
    odd = any(c in path for c in "\\:") or any(not c.isprintable() for c in path)
    return bool(parts) and not path.startswith("/") and ".." not in parts and not odd


def _inside(folder: Path, path: str) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_symlink():
        raise SpecError(f"{target} leads out of {folder} through a link; remove the link")
    return target


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web servers, but never from https to something weaker."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http:", "https:")):
            raise urllib.error.HTTPError(newurl, code, "redirected away from the web", headers, fp)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "redirected away from https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Session:
    """received: bytes so far."""

    def __init__(self, pause_s: float, most: int) -> None:
        self._open = urllib.request.build_opener(_NoDowngrade).open
        self._pause_s, self._most = pause_s, most
        self.received = 0

    def small(self, url: str) -> bytes:
        """A whole small file in memory."""
        held = bytearray()

        def sink(response: Any) -> None:
            held.clear()
            for block in self._blocks(response):
                held.extend(block)
                if len(held) > _MOST_SUMS:
                    raise ReadError(url, "size", f"over {_MOST_SUMS:,} bytes", "needed a list of checksums")

        self._until_whole(url, lambda: 0, sink)
        return bytes(held)

    def file(self, url: str, target: Path, sha256: str) -> None:
        """Through target.part, which a later run goes on with, to target. Raises ReadError when the checksum does not fit."""
        part = target.with_name(target.name + ".part")

        def size() -> int:
            return part.stat().st_size if part.is_file() else 0

        def sink(response: Any) -> None:
            goes_on = response.status == 206 and _starts_at(response) == size()
            with part.open("ab" if goes_on else "wb") as handle:
                for block in self._blocks(response):
                    handle.write(block)
                handle.flush()
                os.fsync(handle.fileno())

        for again in (True, False):
            self._until_whole(url, size, sink)
            found = _sha256(part) if part.is_file() else "nothing"
            if found == sha256:
                os.replace(part, target)
                return
            with suppress(OSError):
                part.unlink()
            if not again:
                rule = f"needed {sha256[:16]}…, as {SUMS} says"
                raise ReadError(
                    url, "SHA-256", f"{found[:16]}…", rule, "The server gives another file; nothing of it was kept."
                )

    def _until_whole(self, url: str, size: Callable[[], int], sink: Callable[[Any], None]) -> None:
        failures, most = 0, size()
        while True:
            try:
                with self._open(self._request(url, size()), timeout=_TIMEOUT_S) as response:
                    sink(response)
                return
            except urllib.error.HTTPError as error:
                if (
                    error.code == 416
                ):  # nothing follows what is there: whole, or of another file, which its checksum tells
                    return
                if error.code < 500 and error.code not in (408, 429):
                    raise OSError(f"{url}: the server says {error.code} {error.reason}") from None
                reason: Exception = error
            except ReadError:  # a ValueError too
                raise
            except (OSError, http.client.HTTPException) as error:
                reason = error
            except ValueError as error:  # an address or a number that is none, as the server wrote it
                raise OSError(f"{url}: the server's answer is not understood: {error}") from None
            held = size()  # what is not held is asked for again: bytes that came and were thrown away are no progress
            failures, most = (0, held) if held > most else (failures + 1, most)
            if failures >= _ATTEMPTS:
                raise OSError(
                    f"{url}: {failures} attempts brought nothing ({reason}); the same command goes on from here later"
                ) from None
            time.sleep(self._pause_s * 2**failures)

    def _request(self, url: str, size: int) -> urllib.request.Request:
        headers = {"User-Agent": f"benchecg/{library_version('xecg')}", "Accept-Encoding": "identity"}
        return urllib.request.Request(url, headers={**headers, "Range": f"bytes={size}-"} if size else headers)

    def _blocks(self, response: Any) -> Iterable[bytes]:
        """Raises IncompleteRead when fewer bytes come than the server announced."""
        length = response.headers.get("Content-Length")
        wanted = int(length) if length is not None and length.isdigit() else None
        got = 0
        while block := response.read(_BLOCK):
            got += len(block)
            self.received += len(block)
            if self.received > self._most:
                raise ReadError(
                    response.url, "release", f"over {self._most:,} bytes", "needed about what is stated for it"
                )
            yield block
        if wanted is not None and got < wanted:
            raise http.client.IncompleteRead(b"", wanted - got)


def _starts_at(response: Any) -> int | None:
    """First byte of a partial answer: "bytes 100-199/200"."""
    text = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
