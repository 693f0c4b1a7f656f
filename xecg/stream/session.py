"""`Stream`: live ECGs of many patients through one causal model, token by token.

Per patient: the front end's filter and resampler state, the samples of the unfinished patch, and the recurrent state of every block.
Nothing grows with time. A patient's tokens depend on that patient's samples only: not on how they were cut into chunks, on the other
patients, or on the slot: to the bit on the `cpu` backend, elsewhere to rounding (a matrix product's rounding follows its batch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xecg.errors import StreamError
from xecg.signal import ECGFrontend
from xecg.stream.blob import Saved, pack, unpack

if TYPE_CHECKING:
    from xecg.model import XECG

__all__ = ["Event", "Stream", "Token"]


@dataclass(frozen=True, eq=False)
class Token:
    """One output of the model: `embedding` float32 (D,) of the samples start ≤ t < stop, absolute indices at the input rate.

    index counts tokens since the stream began or was reset. valid is False when every sample of the token was missing.
    """

    id: str
    index: int
    start: int
    stop: int
    embedding: np.ndarray
    valid: bool


@dataclass(frozen=True)
class Event:
    """What happened to a stream at an absolute sample: kind "gap" (samples missing), "reset" (a gap too long to bridge), or "late"
    (samples that came twice or too late, and were dropped). samples: how many."""

    id: str
    kind: str
    start: int
    samples: int


@dataclass
class _Patient:
    slot: int
    base: int = 0  # absolute index of the front end's sample 0
    position: int = 0  # absolute index of the next sample
    token: int = 0
    late: int = 0
    x: Any = None  # (leads, < patch) samples of the unfinished patch
    mask: Any = None
    begun: bool = False


class Stream:
    """Up to `capacity` live patients. Research use only, not a medical device.

    model: an `XECG` without reverse blocks, such as `xecg.load("tiny-causal")`. rate: Hz of the samples. leads: their names, in row
    order. gain, baseline: for int16 counts, as in `ECGFrontend.apply`. reset_after_s: a gap up to this long is bridged with missing
    samples and the state kept; a longer one resets the patient's state. Raises XECGError for a model with reverse blocks, SpecError
    for leads or rates that the model's spec cannot take.
    """

    def __init__(
        self,
        model: XECG,
        rate: float,
        leads: Sequence[str],
        capacity: int = 1,
        *,
        gain: Any = None,
        baseline: Any = None,
        reset_after_s: float = 30.0,
    ) -> None:
        model.initial_state(0)  # refuses a model that cannot go token by token
        self.model, self.rate, self.leads = model, float(rate), tuple(leads)
        self.reset_after_s = reset_after_s
        self._counts = {"gain": gain, "baseline": baseline}
        self._frontend = ECGFrontend(model.spec, in_rate=rate, leads=leads)
        self._live = self._frontend.stream(capacity)
        self._state = model.initial_state(capacity)
        self._empty = model.initial_state(1)
        self._fingerprint = model.fingerprint
        self._patients: dict[str, _Patient] = {}
        self._free = list(range(capacity))[::-1]

    @property
    def capacity(self) -> int:
        """Patients that fit at once."""
        return self._live.capacity

    @property
    def ids(self) -> tuple[str, ...]:
        """Open streams, in the order they were opened."""
        return tuple(self._patients)

    @property
    def delay_s(self) -> float:
        """Seconds from the middle of a token's samples to its output: half a patch and the front end's delay."""
        return self._frontend.delay_s + self.model.spec.patch / self._frontend.out_rate / 2

    @property
    def state_bytes(self) -> int:
        """Bytes of model state per patient."""
        return sum(t[0].numel() * t.element_size() for t in self._state.values())

    def open(self, id: str) -> None:
        """Begin a stream. Raises StreamError when the id is open already or all slots are taken."""
        if id in self._patients:
            raise StreamError(f"stream {id!r} is already open; close it first, or push to it")
        if not self._free:
            raise StreamError(
                f"the stream is full, {self.capacity:,} of {self.capacity:,}; close one, or make it with more capacity"
            )
        self._patients[id] = patient = _Patient(self._free.pop())
        self._clear(patient)

    def close(self, id: str) -> None:
        """End a stream and free its slot; samples that still wait are dropped (`flush` first to keep them)."""
        patient = self._patient(id)
        self._clear(patient)
        self._free.append(patient.slot)
        del self._patients[id]

    def late(self, id: str) -> int:
        """Samples of this stream dropped so far because they came twice or too late."""
        return self._patient(id).late

    def push(self, id: str | Sequence[str], samples: Any, start: Any = None) -> list[Token | Event]:
        """Add samples of one stream, or of several at once, and get what is now decided.

        One id: samples (leads, n), start the absolute index of the first or None for "joined on". Several ids: a sequence of each;
        chunks may be of unequal length. Events and tokens come stream by stream, in time order. Raises StreamError before anything
        is changed when an id is unknown, stands twice, or its chunk has a wrong shape.
        """
        if isinstance(id, str):
            ids, chunks, starts = [id], [samples], [start]
        else:
            ids, chunks = list(id), list(samples)
            starts = [None] * len(ids) if start is None else list(start)
        self._check(ids, chunks, starts)
        events: dict[str, list[Token | Event]] = {name: [] for name in ids}
        fed = []
        for name, chunk, first in zip(ids, chunks, starts):
            fed.append(self._admit(name, np.asarray(chunk), first, events[name]))
        self._feed([self._patients[name] for name in ids], fed)
        for token in self._decide(ids):
            events[token.id].append(token)
        return [event for name in ids for event in events[name]]

    def flush(self, id: str) -> list[Token | Event]:
        """Decide what still waits, as at a record's end; then the stream is as newly opened, at the sample it had reached."""
        patient = self._patient(id)
        out = self._live.flush(patient.slot)
        self._append(patient, out.x, out.mask)
        tokens: list[Token | Event] = list(self._decide([id]))
        self._restart(patient, patient.position)
        return tokens

    def save(self, id: str) -> bytes:
        """Everything that the stream remembers; `restore` continues it to the bit, in this process or another."""
        p = self._patient(id)
        state = {name: t[p.slot].numpy() for name, t in self._state.items()}
        counts = (p.base, p.position, p.token, p.late)
        frontend = self._live.save(p.slot)
        return pack(Saved(id, self._fingerprint, self._frontend.hash, *counts, frontend, p.x, p.mask, state))

    def restore(self, blob: bytes) -> str:
        """Open the stream that `save` wrote and return its id. Raises StreamError for a blob that is foreign, altered or open."""
        saved = unpack(
            bytes(blob),
            fingerprint=self._fingerprint,
            plan=self._frontend.hash,
            leads=len(self.model.spec.leads),
            patch=self.model.spec.patch,
            shapes={name: tuple(t.shape[1:]) for name, t in self._state.items()},
        )
        self.open(saved.id)
        p = self._patients[saved.id]
        try:
            self._live.restore(p.slot, saved.frontend)
        except StreamError:
            self.close(saved.id)
            raise
        for name, t in self._state.items():
            t[p.slot] = torch.from_numpy(saved.state[name])
        p.base, p.position, p.token, p.late = saved.base, saved.position, saved.token, saved.late
        p.x, p.mask, p.begun = saved.x, saved.mask, True
        return saved.id

    def _patient(self, id: str) -> _Patient:
        if id not in self._patients:
            raise StreamError(f"stream {id!r} is not open; open it first ({len(self._patients):,} are open)")
        return self._patients[id]

    def _check(self, ids: list[str], chunks: list[Any], starts: list[Any]) -> None:
        if not len(ids) == len(chunks) == len(starts):
            raise StreamError(
                f"push got {len(ids)} ids, {len(chunks)} chunks and {len(starts)} starts; needed as many of each"
            )
        if len(set(ids)) != len(ids):
            raise StreamError("push got an id twice; join its chunks, or push twice")
        for name, chunk, start in zip(ids, chunks, starts):
            self._patient(name)
            shape = np.shape(chunk)
            if len(shape) != 2 or shape[0] != len(self.leads):
                raise StreamError(
                    f"chunk of stream {name!r} has shape {shape}; needed ({len(self.leads)}, samples): {self.leads}"
                )
            if start is not None and int(start) < 0:
                raise StreamError(f"start of stream {name!r} is {start}; needed an index of at least 0")

    def _admit(
        self, name: str, chunk: np.ndarray, start: int | None, events: list[Token | Event]
    ) -> tuple[np.ndarray, int]:
        """What is new of a chunk, and the absolute index of its first sample; gaps and repeats are told in `events`."""
        p = self._patients[name]
        if start is not None and not p.begun:
            self._restart(p, int(start))
        n, first = chunk.shape[1], p.position if start is None else int(start)
        if n == 0:
            return chunk, p.position
        p.begun = True
        if first < p.position:
            dropped = min(p.position - first, n)
            p.late += dropped
            events.append(Event(name, "late", first, dropped))
            return chunk[:, dropped:], p.position
        if first > p.position:
            gap = first - p.position
            too_long = gap > self.reset_after_s * self.rate
            events.append(Event(name, "reset" if too_long else "gap", p.position, gap))
            if too_long:
                self._restart(p, first)
                p.begun = True
        return chunk, first

    def _feed(self, patients: list[_Patient], fed: list[tuple[np.ndarray, int]]) -> None:
        """The front end over all chunks at once."""
        pairs = [(p, chunk, first) for p, (chunk, first) in zip(patients, fed) if chunk.shape[1]]
        if not pairs:
            return
        apart = any(first != p.position for p, _, first in pairs)
        out = self._live.push_many(
            [p.slot for p, *_ in pairs],
            [chunk for _, chunk, _ in pairs],
            starts=[first - p.base for p, _, first in pairs] if apart else None,
            **self._counts,
        )
        for (p, chunk, first), made in zip(pairs, out):
            p.position = first + chunk.shape[1]
            self._append(p, made.x, made.mask)

    def _decide(self, ids: list[str]) -> Iterator[Token]:
        """Turn finished patches into tokens, one patch of every ready stream at a time."""
        size = self.model.spec.patch
        patients = [(name, self._patients[name]) for name in ids]
        while True:
            ready = [(name, p) for name, p in patients if p.x.shape[1] >= size]
            if not ready:
                return
            slots = [p.slot for _, p in ready]
            patches = torch.from_numpy(np.stack([p.x[:, :size] for _, p in ready]))
            tokens = self._step(patches, slots).numpy()
            for (name, p), embedding in zip(ready, tokens):
                valid = bool(p.mask[:, :size].any())
                yield Token(name, p.token, self._sample(p, p.token), self._sample(p, p.token + 1), embedding, valid)
                p.x, p.mask, p.token = p.x[:, size:], p.mask[:, size:], p.token + 1

    def _step(self, patches: torch.Tensor, slots: list[int]) -> torch.Tensor:
        index = torch.tensor(slots)
        state = {name: t.index_select(0, index) for name, t in self._state.items()}
        tokens = self.model.step_(patches, state)
        for name, t in self._state.items():
            t.index_copy_(0, index, state[name])
        return tokens

    def _sample(self, p: _Patient, token: int) -> int:
        """Absolute input sample at which a token begins: its first output sample, less the resampler's delay."""
        seconds = token * self.model.spec.patch / self._frontend.out_rate - self._frontend.fir_delay_s
        return p.base + max(0, round(seconds * self.rate))

    def _append(self, p: _Patient, x: np.ndarray, mask: np.ndarray) -> None:
        p.x = np.concatenate([p.x, np.where(mask, x, np.float32(0))], 1)
        p.mask = np.concatenate([p.mask, mask], 1)

    def _clear(self, p: _Patient) -> None:
        self._live.reset(p.slot)
        for name, t in self._state.items():
            t[p.slot] = self._empty[name][0]
        rows = len(self.model.spec.leads)
        p.x, p.mask = np.zeros((rows, 0), dtype=np.float32), np.zeros((rows, 0), dtype=bool)

    def _restart(self, p: _Patient, position: int) -> None:
        self._clear(p)
        p.base = p.position = position
        p.token, p.begun = 0, False
