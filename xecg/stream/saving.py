"""All streams of a `Stream` in one file, replaced whole or not at all, so that a killed process finds its last state.

All little-endian: 8 B magic "XECGSTS\\0" · u32 streams · for each u32 bytes and the blob of `Stream.save` · u32 CRC-32 (zlib).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from xecg.errors import StreamError
from xecg.io.atomic import write_bytes

__all__ = ["read_blobs", "write_blobs"]

_MAGIC = b"XECGSTS\0"


def write_blobs(path: str | os.PathLike[str], blobs: Iterable[bytes]) -> None:
    """Replace the file by these blobs of `Stream.save`."""
    parts = [struct.pack("<I", len(blob)) + blob for blob in blobs]
    body = _MAGIC + struct.pack("<I", len(parts)) + b"".join(parts)
    write_bytes(path, body + struct.pack("<I", zlib.crc32(body)))


def read_blobs(path: str | os.PathLike[str]) -> list[bytes]:
    """The blobs in the file; none when there is no file. Raises StreamError for a file that is foreign, cut or altered."""
    place = Path(path)
    if not place.exists():
        return []
    data = place.read_bytes()
    if len(data) < 16 or data[:8] != _MAGIC:
        raise StreamError(
            f"{place} begins with {data[:8]!r}; needed a state file of xecg stream. Remove it to begin anew"
        )
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise StreamError(f"{place} fails its checksum: it was cut or altered. Remove it to begin anew")
    count, at, blobs = struct.unpack_from("<I", data, 8)[0], 12, []
    for _ in range(count):
        size = struct.unpack_from("<I", data, at)[0]
        blobs.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return blobs
