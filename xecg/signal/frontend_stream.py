"""Live form of the front end: many patients, one plan, chunks of any size.

What a slot gives depends on its own samples only: not on how they were cut, on other slots, or on the slot's number,
to the bit (one-shot `apply` of a causal spec runs this same code). Saved state, all little-endian:

    8 B magic "XECGFES\\0" · u16 version · 16 B plan hash · u32 rows · u32 pending samples · u64 payload bytes · payload · u32 CRC-32

The payload is the state arrays in their fixed order (version 1, the definition: `CausalRows.arrays`; version 2, the compiled
form: `CompiledSlots.arrays`), the pending samples (float64) and their validity (int64), and the next sample index and late
count. The CRC is zlib's (polynomial 0x04C11DB7) over everything before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import ShapeError, SpecError, StreamError
from xecg.signal.frontend import ModelInput
from xecg.signal.live import Chunk, CompiledSlots, make_slots

if TYPE_CHECKING:
    from xecg.signal.frontend import ECGFrontend

__all__ = ["FrontendStream", "run_causal"]

_MAGIC = b"XECGFES\0"
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
        self._inputs, self._outputs = (
            np.array(side, np.int64) for side in (list(frontend._rows.values()), list(frontend._rows))
        )
        self._slots = make_slots(frontend._plan, len(frontend._rows), capacity)
        self._position, self._late = (np.zeros(capacity, dtype=np.int64) for _ in range(2))

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
        self._check(slot)
        return self.push_many([slot], [samples], masks=[mask], starts=[start], gain=gain, baseline=baseline)[0]

    def push_many(
        self,
        slots: Sequence[int] | np.ndarray,
        chunks: Sequence[np.ndarray] | np.ndarray,
        *,
        masks: Sequence[np.ndarray | None] | np.ndarray | None = None,
        starts: Sequence[int | None] | None = None,
        gain: Any = None,
        baseline: Any = None,
    ) -> list[ModelInput]:
        """`push` for many slots at once, to the same bits: one chunk a slot, (leads, n), n may differ.

        Chunks without missing samples, float32 or int16, go through the compiled kernel together; fastest as one array (slots, leads,
        n). gain, baseline: for all. Raises as `push`, and StreamError for a slot given twice, before anything is changed.
        """
        index = self._indices(slots)
        given = [len(a) for a in (chunks, masks, starts) if a is not None]
        if any(n != len(index) for n in given):
            raise StreamError(
                f"push_many got {len(index)} slots for {given} chunks, masks, starts; needed as many of each"
            )
        chunks = _one_array(chunks)
        joined = np.ones(len(index), dtype=bool)
        for i in range(len(index)) if starts is not None or masks is not None else ():
            start, mask = None if starts is None else starts[i], None if masks is None else masks[i]
            self._check_start(int(index[i]), start)
            joined[i] = (start is None or start == self._position[index[i]]) and (
                mask is None or _all_true(mask, chunks[i])
            )
        done: list[ModelInput | None] = [None] * len(index)
        slow = {}
        for i, chunk in enumerate(chunks) if not self._uniform(chunks, gain, baseline) or not joined.all() else ():
            if not joined[i] or not self._plain(chunk, gain, baseline):
                slow[i] = self._values(chunk, None if masks is None else masks[i], gain, baseline)
                joined[i] = False
        if isinstance(self._slots, CompiledSlots):
            joined &= ~self._slots.waits[index]
            for i in self._push_together(self._slots, index, chunks, np.flatnonzero(joined), done, gain, baseline):
                joined[i] = False
        for i in np.flatnonzero(~joined).tolist():
            values = slow[i] if i in slow else self._values(chunks[i], None, gain, baseline)
            done[i] = self._push_one(int(index[i]), *values, None if starts is None else starts[i])
        return done  # type: ignore[return-value]

    def _push_together(
        self,
        slots: CompiledSlots,
        index: np.ndarray,
        chunks: Sequence[np.ndarray] | np.ndarray,
        rows: np.ndarray,
        done: list[ModelInput | None],
        gain: Any,
        baseline: Any,
    ) -> list[int]:
        """The kernel over chunks[rows], group by group of one shape, type and phase; returns the rows that it refused."""
        phase = slots.phase(index[rows])
        keys: Any = phase
        if not isinstance(chunks, np.ndarray):
            keys = np.array(
                [hash((p, chunks[i].shape, chunks[i].dtype)) for p, i in zip(phase.tolist(), rows.tolist())]
            )
        left: list[int] = []
        for key in np.unique(keys):
            group = rows[keys == key]
            whole = len(group) == len(chunks)
            if isinstance(chunks, np.ndarray):
                x = np.ascontiguousarray(chunks if whole else chunks[group])
            else:
                x = np.stack(chunks if whole else [chunks[i] for i in group])
            counts = x.dtype == np.int16
            scale, zero = self._scale(gain, baseline) if counts else (None, None)
            chunk = Chunk(x, self._inputs, self._outputs, len(self.frontend.spec.leads), scale, zero)
            y, ok, refused = slots.run(index[group], chunk)
            made: list[ModelInput] = list(map(tuple.__new__, repeat(ModelInput), zip(y, ok)))  # ModelInput(a, b), in C
            self._position[index[group]] += x.shape[-1]
            if whole and not refused.any():
                done[:] = made
                continue
            for i, one, no in zip(group.tolist(), made, refused.tolist()):
                if no:
                    left.append(i)
                    self._position[index[i]] -= x.shape[-1]
                else:
                    done[i] = one
        return left

    def _push_one(self, slot: int, x: np.ndarray, valid: np.ndarray, start: int | None) -> ModelInput:
        parts = []
        position = int(self._position[slot])
        jump = 0 if start is None else int(start) - position
        if jump < 0:
            late = min(-jump, x.shape[1])
            self._late[slot] += late
            x, valid = x[:, late:], valid[:, late:]
        piece = int(_PIECE_S * self.frontend.in_rate)
        for begin in range(0, max(jump, 0), piece):
            gap = np.zeros((len(x), min(piece, jump - begin)))
            parts.append(self._slots.push(slot, gap, gap > 0))
        parts.append(self._slots.push(slot, x, valid))
        self._position[slot] += max(jump, 0) + x.shape[1]
        return self.frontend._scatter(*(np.concatenate(p, axis=1) for p in zip(*parts)))

    def _plain(self, chunk: Any, gain: Any, baseline: Any) -> bool:
        """Whether the kernel takes this chunk as it is."""
        if not isinstance(self._slots, CompiledSlots) or not isinstance(chunk, np.ndarray) or chunk.ndim != 2:
            return False
        if chunk.shape[0] != len(self.frontend.leads) or chunk.shape[1] == 0:
            return False
        counts = gain is not None
        return chunk.dtype == (np.int16 if counts else np.float32) and (counts or baseline is None)

    def _uniform(self, chunks: Any, gain: Any, baseline: Any) -> bool:
        """Whether chunks is one array, (slots, leads, n), that the kernel takes."""
        return (
            isinstance(chunks, np.ndarray)
            and chunks.ndim == 3
            and len(chunks) > 0
            and self._plain(chunks[0], gain, baseline)
        )

    def _scale(self, gain: Any, baseline: Any) -> tuple[np.ndarray, np.ndarray]:
        """mV a count, and counts at 0 mV, float32 (rows,)."""
        scale, zero = self.frontend._counts(gain, baseline)
        return (1 / scale[self._inputs]).astype(np.float32), zero[self._inputs].astype(np.float32)

    def _values(self, samples: Any, mask: Any, gain: Any, baseline: Any) -> tuple[np.ndarray, np.ndarray]:
        """mV, float64 (rows, n), and where they are valid; counts are scaled as the kernel does it."""
        x, valid = self.frontend._millivolts(samples, mask, gain, baseline)
        if x.ndim != 2:
            raise ShapeError(f"samples has shape {np.shape(samples)}; needed ({len(self.frontend.leads)}, n)")
        if isinstance(self._slots, CompiledSlots) and samples.dtype == np.int16:
            scale, zero = self._scale(gain, baseline)
            x = np.where(valid, (samples[self._inputs].astype(np.float32) - zero[:, None]) * scale[:, None], 0).astype(
                float
            )
        return x, valid

    def flush(self, slot: int) -> ModelInput:
        """The samples that waited for the end of a gap, decided as at a record's end; then the slot is reset."""
        self._check(slot)
        rows = len(self._inputs)
        out = self._slots.push(slot, np.zeros((rows, 0)), np.zeros((rows, 0), dtype=bool), final=True)
        self.reset(slot)
        return self.frontend._scatter(*out)

    def reset(self, slot: int) -> None:
        """Forget the patient in this slot."""
        self._check(slot)
        self._slots.reset(slot)
        self._position[slot] = self._late[slot] = 0

    def position(self, slot: int) -> int:
        """Index of the next sample since the slot was reset."""
        self._check(slot)
        return int(self._position[slot])

    def late(self, slot: int) -> int:
        """Samples dropped because they came late or twice."""
        self._check(slot)
        return int(self._late[slot])

    def save(self, slot: int) -> bytes:
        """The slot's whole state (layout in the module's docstring)."""
        self._check(slot)
        pending, valid = self._slots.waiting(slot)
        counts = np.array([self._position[slot], self._late[slot]], dtype=np.int64)
        arrays = [*self._slots.arrays(slot), pending, valid.astype(np.int64), counts]
        payload = b"".join(a.astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays)
        key = bytes.fromhex(self.frontend.hash)
        head = _HEAD.pack(_MAGIC, self._slots.version, key, len(self._inputs), pending.shape[1], len(payload))
        return head + payload + struct.pack("<I", zlib.crc32(head + payload))

    def restore(self, slot: int, blob: bytes) -> None:
        """Put a saved state into a slot. Raises StreamError, leaving the slot as it was, when the blob is not exactly
        right, or was written by the other form (compiled or definition) of the front end."""
        self._check(slot)
        (position, late), *state = self._parse(slot, bytes(blob))
        self._slots.load(slot, *state)
        self._position[slot], self._late[slot] = position, late

    def _parse(self, slot: int, blob: bytes) -> tuple[Any, Any, Any, Any]:
        if len(blob) < _HEAD.size + 4:
            raise StreamError(f"saved state has {len(blob)} bytes; needed at least {_HEAD.size + 4}")
        magic, version, key, rows, pending, size = _HEAD.unpack_from(blob)
        if magic != _MAGIC:
            raise StreamError(f"saved state begins with {magic!r}; needed {_MAGIC!r}: this is not a front-end state")
        if version != self._slots.version:
            raise StreamError(
                f"saved state has version {version}; this front end reads version {self._slots.version} "
                "(1: the definition, 2: the compiled form); build xecg as the writer's was"
            )
        if key.hex() != self.frontend.hash:
            raise StreamError(
                f"saved state is of plan {key.hex()}; this front end is {self.frontend.hash}: same spec, rate, leads?"
            )
        shapes = [(a.shape, a.dtype) for a in self._slots.arrays(slot)]
        shapes += [((rows, pending), np.dtype(t)) for t in (np.float64, np.int64)]
        shapes += [((2,), np.dtype(np.int64))]
        expected = sum(int(np.prod(shape, dtype=object)) * dtype.itemsize for shape, dtype in shapes)
        if rows != len(self._inputs) or size != expected or len(blob) != _HEAD.size + size + 4:
            raise StreamError(
                f"saved state claims {rows} rows, {pending} pending samples and {size} bytes in a blob of {len(blob)}; "
                f"needed {len(self._inputs)} rows and {expected + _HEAD.size + 4} bytes"
            )
        if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
            raise StreamError("saved state fails its checksum: it was altered or cut; ask the source for it again")
        at, arrays = _HEAD.size, []
        for shape, dtype in shapes:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(blob, dtype.newbyteorder("<"), count, at).astype(dtype).reshape(shape))
            at += count * dtype.itemsize
        *state, waiting, waiting_valid, counts = arrays
        if not all(np.isfinite(a).all() for a in arrays):
            raise StreamError("saved state holds numbers that are not finite; it cannot be of a front end")
        return counts, state, waiting, waiting_valid > 0

    def _check(self, slot: int) -> None:
        if not isinstance(slot, (int, np.integer)) or not 0 <= slot < self.capacity:
            raise StreamError(f"slot is {slot!r}; needed 0..{self.capacity - 1}")

    def _indices(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        index = np.ascontiguousarray(slots)
        if index.size == 0:
            return np.zeros(0, dtype=np.int64)
        if index.ndim != 1 or index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= self.capacity:
            raise StreamError(f"slots is {slots!r}; needed numbers in 0..{self.capacity - 1}")
        if np.bincount(index).max() > 1:
            raise StreamError("push_many got a slot twice; join its chunks, or push twice")
        return index.astype(np.int64, copy=False)

    def _check_start(self, slot: int, start: int | None) -> None:
        jump = 0 if start is None else int(start) - int(self._position[slot])
        if jump > _MAX_JUMP_S * self.frontend.in_rate:
            raise StreamError(
                f"start is {start}, {jump / self.frontend.in_rate:,.0f} s after the next sample ({self._position[slot]}); "
                f"needed a gap of at most {_MAX_JUMP_S:,.0f} s; reset the slot instead"
            )


def _one_array(chunks: Sequence[np.ndarray] | np.ndarray) -> Sequence[np.ndarray] | np.ndarray:
    """(slots, leads, n) where all chunks have one shape and type."""
    first = chunks[0] if len(chunks) else None
    if isinstance(chunks, np.ndarray) or not isinstance(first, np.ndarray) or first.ndim != 2:
        return chunks
    shape, dtype = first.shape, first.dtype
    if not all(isinstance(c, np.ndarray) and c.shape == shape and c.dtype == dtype for c in chunks):
        return chunks
    return np.concatenate(chunks).reshape(len(chunks), *shape)


def _all_true(mask: Any, chunk: Any) -> bool:
    return (
        isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == np.shape(chunk) and bool(mask.all())
    )


def run_causal(frontend: ECGFrontend, x: np.ndarray, mask: np.ndarray | None, gain: Any, baseline: Any) -> ModelInput:
    """Whole records (B, leads, n) through a stream of their own."""
    stream = FrontendStream(frontend, max(len(x), 1))
    done = stream.push_many(range(len(x)), x, masks=mask, gain=gain, baseline=baseline)
    tails = [stream.flush(slot) for slot in range(len(x))]
    whole = [(np.concatenate(p, axis=-1) if p[1].size else p[0] for p in zip(*pair)) for pair in zip(done, tails)]
    x_out, ok = zip(*whole)
    return ModelInput(np.stack(x_out), np.stack(ok))
