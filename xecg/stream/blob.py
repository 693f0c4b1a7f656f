"""Saved state of one stream, as bytes: written by `Stream.save`, refused by `Stream.restore` unless every byte is right.

All little-endian:  8 B magic "XECGSTR\\0" · u16 version · 16 B key of model and heads · 16 B front-end plan hash · u16 id bytes ·
u32 front-end bytes · u32 detector bytes · u32 pending samples · u32 labels · u8 begun · u8 valid · 4 × i64 base,
position, token, late · id (UTF-8) · front-end state (its own format) · detector state (`Beats.save`) ·
pending samples float32 (leads × pending) · labels u8 · the model's state tensors float32, sorted by name · u32 CRC-32 (zlib).
Research note: the blob holds what the model remembers of a patient; treat it like the ECG.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from xecg.errors import StreamError

__all__ = ["Saved", "pack", "unpack"]

_MAGIC, _VERSION = b"XECGSTR\0", 3
_HEAD = struct.Struct("<8sH16s16sHIIIIBB4q")


@dataclass(frozen=True)
class Saved:
    """One stream between two pushes. x (leads, pending) float32; on bool (labels,); state: name → float32 array of one stream."""

    id: str
    fingerprint: str  # of the model and its heads, 16 hex digits
    plan: str  # of the front end, 32 hex digits
    base: int
    position: int
    token: int
    late: int
    begun: bool
    valid: bool
    frontend: bytes
    beats: bytes
    x: np.ndarray
    on: np.ndarray
    state: dict[str, np.ndarray]


def pack(saved: Saved) -> bytes:
    """The blob of a stream."""
    name = saved.id.encode()
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        saved.fingerprint.encode(),
        bytes.fromhex(saved.plan),
        len(name),
        len(saved.frontend),
        len(saved.beats),
        saved.x.shape[1],
        len(saved.on),
        saved.begun,
        saved.valid,
        saved.base,
        saved.position,
        saved.token,
        saved.late,
    )
    arrays = [saved.x.astype("<f4"), saved.on.astype("u1")]
    arrays += [saved.state[key].astype("<f4") for key in sorted(saved.state)]
    body = head + name + saved.frontend + saved.beats + b"".join(a.tobytes() for a in arrays)
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(
    blob: bytes,
    *,
    fingerprint: str,
    plan: str,
    leads: int,
    patch: int,
    labels: int,
    shapes: dict[str, tuple[int, ...]],
) -> Saved:
    """The stream that a blob holds. Raises StreamError for a blob that is foreign, altered, or of another model or front end."""
    if len(blob) < _HEAD.size + 4:
        raise StreamError(f"saved stream has {len(blob)} bytes; needed at least {_HEAD.size + 4}: it was cut")
    magic, version, model, key, *rest = _HEAD.unpack_from(blob)
    id_bytes, frontend_bytes, beats_bytes, pending, on_bytes, begun, valid, base, position, token, late = rest
    if magic != _MAGIC:
        raise StreamError(f"saved stream begins with {magic!r}; needed {_MAGIC!r}: this is not a saved stream")
    if version != _VERSION:
        raise StreamError(f"saved stream has version {version}; this xecg reads version {_VERSION}")
    if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
        raise StreamError("saved stream fails its checksum: it was altered or cut; save it again at its source")
    if model.decode("ascii", "replace") != fingerprint:
        raise StreamError(
            f"saved stream is of model and heads {model.decode('ascii', 'replace')}; these are {fingerprint}: load those"
        )
    if key.hex() != plan:
        raise StreamError(f"saved stream is of front end {key.hex()}; this one is {plan}: same rate and leads?")
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    needed = _HEAD.size + id_bytes + frontend_bytes + beats_bytes + 4 * leads * pending + on_bytes
    needed += 4 * sum(sizes.values()) + 4
    if pending >= patch or on_bytes != labels or len(blob) != needed:
        raise StreamError(
            f"saved stream has {len(blob)} bytes, {pending} pending samples and {on_bytes} labels; "
            f"needed {needed}, under {patch}, and {labels}"
        )
    at, parts = _HEAD.size, []
    for size in (id_bytes, frontend_bytes, beats_bytes):
        parts.append(blob[at : at + size])
        at += size
    x = np.frombuffer(blob, "<f4", leads * pending, at).astype(np.float32).reshape(leads, pending)
    at += 4 * leads * pending
    on = np.frombuffer(blob, "u1", on_bytes, at).astype(bool)
    at, state = at + on_bytes, {}
    for name in sorted(shapes):
        state[name] = np.frombuffer(blob, "<f4", sizes[name], at).astype(np.float32).reshape(shapes[name])
        at += 4 * sizes[name]
    try:
        id = parts[0].decode()
    except UnicodeDecodeError:
        raise StreamError("saved stream has an id that is not UTF-8; it was not written by xecg") from None
    counts = (base, position, token, late)
    return Saved(id, fingerprint, plan, *counts, bool(begun), bool(valid), parts[1], parts[2], x, on, state)
