"""Saved state of one stream, as bytes: written by `Stream.save`, refused by `Stream.restore` unless every byte is right.

All little-endian:  8 B magic "XECGSTR\\0" · u16 version · 16 B model fingerprint · 16 B front-end plan hash · u16 id bytes ·
u32 front-end bytes · u32 pending samples · 4 × i64 base, position, token, late · id (UTF-8) · front-end state (its own format) ·
pending samples float32 (leads × pending) · their validity u8 · the model's state tensors float32, sorted by name · u32 CRC-32 (zlib).
Research note: the blob holds what the model remembers of a patient; treat it like the ECG.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from xecg.errors import StreamError

__all__ = ["Saved", "pack", "unpack"]

_MAGIC, _VERSION = b"XECGSTR\0", 1
_HEAD = struct.Struct("<8sH16s16sHII4q")


@dataclass(frozen=True)
class Saved:
    """One stream between two pushes. x (leads, pending) float32, mask bool alike; state: name → float32 array of one stream."""

    id: str
    fingerprint: str  # of the model, 16 hex digits
    plan: str  # of the front end, 32 hex digits
    base: int
    position: int
    token: int
    late: int
    frontend: bytes
    x: np.ndarray
    mask: np.ndarray
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
        saved.x.shape[1],
        saved.base,
        saved.position,
        saved.token,
        saved.late,
    )
    arrays = [saved.x.astype("<f4"), saved.mask.astype("u1")]
    arrays += [saved.state[key].astype("<f4") for key in sorted(saved.state)]
    body = head + name + saved.frontend + b"".join(a.tobytes() for a in arrays)
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(
    blob: bytes, *, fingerprint: str, plan: str, leads: int, patch: int, shapes: dict[str, tuple[int, ...]]
) -> Saved:
    """The stream that a blob holds. Raises StreamError for a blob that is foreign, altered, or of another model or front end."""
    if len(blob) < _HEAD.size + 4:
        raise StreamError(f"saved stream has {len(blob)} bytes; needed at least {_HEAD.size + 4}: it was cut")
    magic, version, model, key, id_bytes, frontend_bytes, pending, base, position, token, late = _HEAD.unpack_from(blob)
    if magic != _MAGIC:
        raise StreamError(f"saved stream begins with {magic!r}; needed {_MAGIC!r}: this is not a saved stream")
    if version != _VERSION:
        raise StreamError(f"saved stream has version {version}; this xecg reads version {_VERSION}")
    if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
        raise StreamError("saved stream fails its checksum: it was altered or cut; save it again at its source")
    if model.decode("ascii", "replace") != fingerprint:
        raise StreamError(
            f"saved stream is of model {model.decode('ascii', 'replace')}; this model is {fingerprint}: load that one"
        )
    if key.hex() != plan:
        raise StreamError(f"saved stream is of front end {key.hex()}; this one is {plan}: same rate and leads?")
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    needed = _HEAD.size + id_bytes + frontend_bytes + 5 * leads * pending + 4 * sum(sizes.values()) + 4
    if pending >= patch or len(blob) != needed:
        raise StreamError(
            f"saved stream has {len(blob)} bytes and {pending} pending samples; needed {needed} and under {patch}"
        )
    at = _HEAD.size
    name, at = blob[at : at + id_bytes].decode(), at + id_bytes
    frontend, at = blob[at : at + frontend_bytes], at + frontend_bytes
    x = np.frombuffer(blob, "<f4", leads * pending, at).astype(np.float32).reshape(leads, pending)
    at += 4 * leads * pending
    mask = np.frombuffer(blob, "u1", leads * pending, at).astype(bool).reshape(leads, pending)
    at += leads * pending
    state = {}
    for key_name in sorted(shapes):
        state[key_name] = np.frombuffer(blob, "<f4", sizes[key_name], at).astype(np.float32).reshape(shapes[key_name])
        at += 4 * sizes[key_name]
    return Saved(name, fingerprint, plan, base, position, token, late, frontend, x, mask, state)
