"""Live form of the front end: many patients, one plan, chunks of any size.

What a slot gives depends on its own samples only: not on how they were cut, on other slots, or on the slot's number,
to the bit (one-shot `apply` of a causal spec runs this same code). Saved state, all little-endian:

    8 B magic "XECGFES\\0" · u16 version · 16 B plan hash · u32 rows · u32 pending samples · u64 payload bytes · payload · u32 CRC-32

The payload is the state arrays of `CausalRows` in their fixed order (float64 and int64), the pending samples and
their validity, and the next sample index and late count. The CRC is zlib's (polynomial 0x04C11DB7) over everything
before it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import ShapeError, SpecError, StreamError
from xecg.signal.arrays import CausalRows

if TYPE_CHECKING:
    from xecg.signal.frontend import ECGFrontend, ModelInput

__all__ = ["FrontendStream"]

_MAGIC, _VERSION = b"XECGFES\0", 1
_HEAD = struct.Struct("<8sH16sIIQ")
_MAX_JUMP_S = 3600.0  # s, longest gap that a `start` jump may claim
_PIECE_S = 60.0  # s, gaps are fed in pieces of this length


class FrontendStream:
    """State of up to `capacity` patients; made by `ECGFrontend.stream`."""

    def __init__(self, frontend: ECGFrontend, capacity: int) -> None:
        if not frontend._plan.causal:
            raise SpecError(
                "this spec is zero-phase, which looks ahead; a stream needs a causal spec, as preset 'causal'"
            )
        if not isinstance(capacity, int) or capacity < 1:
            raise SpecError(f"capacity is {capacity!r}; needed a whole number, at least 1")
        self.frontend = frontend
        self.capacity = capacity
        self._slots: list[_Slot | None] = [None] * capacity

    def push(
        self,
        slot: int,
        samples: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        start: int | None = None,
        gain: Any = None,
        baseline: Any = None,
    ) -> ModelInput:
        """Samples (leads, n), as in `ECGFrontend.apply` → the output samples now decided (leads, m), m ≥ 0.

        start: index of the first sample since the slot was reset; equal to `position(slot)` or None: joined on.
        Greater: the samples between are a gap (refused above one hour). Less: the part before `position` is dropped
        and counted in `late`. While a gap of 100 ms or less is open its samples wait; otherwise nothing waits. Raises
        ShapeError, StreamError.
        """
        x, valid = self.frontend._millivolts(samples, mask, gain, baseline)
        if x.ndim != 2:
            raise ShapeError(f"samples has shape {np.shape(samples)}; needed ({len(self.frontend.leads)}, n)")
        state = self._slot(slot)
        parts = []
        if start is not None and start != state.position:
            jump = int(start) - state.position
            if jump > _MAX_JUMP_S * self.frontend.in_rate:
                raise StreamError(
                    f"start is {start}, {jump / self.frontend.in_rate:,.0f} s after the next sample ({state.position}); "
                    f"needed a gap of at most {_MAX_JUMP_S:,.0f} s; reset the slot instead"
                )
            if jump < 0:
                late = min(-jump, x.shape[1])
                state.late += late
                x, valid = x[:, late:], valid[:, late:]
            piece = int(_PIECE_S * self.frontend.in_rate)
            for begin in range(0, max(jump, 0), piece):
                gap = np.zeros((len(x), min(piece, jump - begin)))
                parts.append(state.rows.push(gap, gap > 0))
            state.position += max(jump, 0)
        parts.append(state.rows.push(x, valid))
        state.position += x.shape[1]
        return self.frontend._scatter(*(np.concatenate(p, axis=1) for p in zip(*parts)))

    def flush(self, slot: int) -> ModelInput:
        """The samples that waited for the end of a gap, decided as at a record's end; then the slot is reset."""
        state = self._slot(slot)
        rows = len(self.frontend._rows)
        out = state.rows.push(np.zeros((rows, 0)), np.zeros((rows, 0), dtype=bool), final=True)
        self.reset(slot)
        return self.frontend._scatter(*out)

    def reset(self, slot: int) -> None:
        """Forget the patient in this slot."""
        self._check(slot)
        self._slots[slot] = None

    def position(self, slot: int) -> int:
        """Index of the next sample since the slot was reset."""
        return self._slot(slot).position

    def late(self, slot: int) -> int:
        """Samples dropped because they came late or twice."""
        return self._slot(slot).late

    def save(self, slot: int) -> bytes:
        """The slot's whole state (layout in the module's docstring)."""
        state = self._slot(slot)
        rows = state.rows
        arrays = [*rows.arrays(), rows.pending, rows.pending_valid.astype(np.int64)]
        counts = np.array([state.position, state.late], dtype=np.int64)
        payload = b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in (*arrays, counts))
        key = bytes.fromhex(self.frontend.hash)
        head = _HEAD.pack(_MAGIC, _VERSION, key, len(rows.last), rows.pending.shape[1], len(payload))
        return head + payload + struct.pack("<I", zlib.crc32(head + payload))

    def restore(self, slot: int, blob: bytes) -> None:
        """Put a saved state into a slot. Raises StreamError, leaving the slot as it was, when the blob is not exactly
        right."""
        self._check(slot)
        self._slots[slot] = self._parse(bytes(blob))

    def _parse(self, blob: bytes) -> _Slot:
        if len(blob) < _HEAD.size + 4:
            raise StreamError(f"saved state has {len(blob)} bytes; needed at least {_HEAD.size + 4}")
        magic, version, key, rows, pending, size = _HEAD.unpack_from(blob)
        slot = _Slot(self.frontend)
        if magic != _MAGIC:
            raise StreamError(f"saved state begins with {magic!r}; needed {_MAGIC!r}: this is not a front-end state")
        if version != _VERSION:
            raise StreamError(f"saved state has version {version}; this xecg reads version {_VERSION}")
        if key.hex() != self.frontend.hash:
            raise StreamError(
                f"saved state is of plan {key.hex()}; this front end is {self.frontend.hash}: same spec, rate, leads?"
            )
        shapes = [(a.shape, a.dtype) for a in slot.rows.arrays()]
        shapes += [
            ((rows, pending), np.dtype(np.float64)),
            ((rows, pending), np.dtype(np.int64)),
            ((2,), np.dtype(np.int64)),
        ]
        expected = 8 * sum(int(np.prod(shape, dtype=object)) for shape, _ in shapes)
        if rows != len(slot.rows.last) or size != expected or len(blob) != _HEAD.size + size + 4:
            raise StreamError(
                f"saved state claims {rows} rows, {pending} pending samples and {size} bytes in a blob of {len(blob)}; "
                f"needed {len(slot.rows.last)} rows and {expected + _HEAD.size + 4} bytes"
            )
        if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
            raise StreamError("saved state fails its checksum: it was altered or cut; ask the source for it again")
        at, arrays = _HEAD.size, []
        for shape, dtype in shapes:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(blob, dtype.newbyteorder("<"), count, at).astype(dtype).reshape(shape))
            at += 8 * count
        *state, waiting, waiting_valid, counts = arrays
        if not all(np.isfinite(a).all() for a in arrays):
            raise StreamError("saved state holds numbers that are not finite; it cannot be of a front end")
        slot.rows.load(state, waiting, waiting_valid > 0)
        slot.position, slot.late = (int(c) for c in counts)
        return slot

    def _check(self, slot: int) -> None:
        if not isinstance(slot, (int, np.integer)) or not 0 <= slot < self.capacity:
            raise StreamError(f"slot is {slot!r}; needed 0..{self.capacity - 1}")

    def _slot(self, slot: int) -> _Slot:
        self._check(slot)
        state = self._slots[slot]
        if state is None:
            state = self._slots[slot] = _Slot(self.frontend)
        return state


class _Slot:
    """One patient: the rows' state, the next sample index, samples that came late."""

    def __init__(self, frontend: ECGFrontend) -> None:
        self.rows = CausalRows(frontend._plan, len(frontend._rows))
        self.position = 0
        self.late = 0
