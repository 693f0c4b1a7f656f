"""`Stream`: live ECGs of many patients through one causal model, token by token, with the beats of the classical detector beside.

Per patient: the front end's filter and resampler state, the samples of the unfinished patch, the recurrent state of every block, and
the detector's. Nothing grows with time. States stand in arrays by slot and are advanced in place (`xecg.model.stepper`); a push goes
through them in blocks of neighbouring slots, so its buffers are small however many patients it has. A patient's tokens and events
depend on that patient's samples only: not on how they were cut into chunks, on the other patients, or on the slot: to the bit on the
`cpu` backend, elsewhere to rounding (a matrix product's rounding follows its batch).
"""

from __future__ import annotations

import hashlib
import heapq
import operator
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xecg.errors import StreamError
from xecg.model.stepper import BLOCK_ROWS, Stepper
from xecg.signal import ECGFrontend, canonical_leads
from xecg.stream.beats import Beats
from xecg.stream.blob import Saved, pack, unpack
from xecg.stream.events import DETECTOR, Event, Token
from xecg.stream.heads import LiveHeads

if TYPE_CHECKING:
    from xecg.model import XECG, Head

__all__ = ["Stream"]

_LONGEST_BRIDGE_S = 3600.0  # the front end takes no longer gap


@dataclass(slots=True)
class _Patient:
    slot: int
    base: int = 0  # absolute index of the front end's sample 0
    position: int = 0  # absolute index of the next sample
    token: int = 0
    late: int = 0
    fill: int = 0  # samples of the unfinished patch
    valid: bool = False  # one of them is
    begun: bool = False
    beats: Beats | None = None


class _Fed(NamedTuple):
    """What is new of one stream's chunk, from absolute sample `first` on, and where its tokens and events go."""

    name: str
    patient: _Patient
    chunk: np.ndarray
    first: int
    out: list[Token | Event]


class Stream:
    """Up to `capacity` live patients. Research use only, not a medical device.

    model: an `XECG` without reverse blocks, such as `xecg.load("tiny-causal")`; its weights are taken as they are now. rate: Hz of the
    samples. leads: their names, in row order. gain, baseline: for int16 counts, as in `ECGFrontend.apply`. reset_after_s: a gap up to
    this long is bridged with missing samples and the state kept; a longer one resets the patient's state. beats: run the classical
    detector on lead II, or on the first lead where there is none. look_every_s: how often it looks, as a look costs the same however
    few samples are new; beats are told so much later, and are the same. heads: name → head of tokens (`xecg.model.load_head`).
    Raises XECGError for a model with reverse blocks, SpecError for leads, rates or heads that do not fit.
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
        beats: bool = True,
        look_every_s: float = 1.0,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        model.initial_state(0)  # refuses a model that cannot go token by token
        if not 0 <= reset_after_s <= _LONGEST_BRIDGE_S:
            raise StreamError(f"reset_after_s is {reset_after_s!r}; needed 0..{_LONGEST_BRIDGE_S:,.0f} s")
        if not 0 < look_every_s <= 60:
            raise StreamError(f"look_every_s is {look_every_s!r}; needed 0..60 s")
        self.model, self.rate, self.leads = model, float(rate), tuple(leads)
        self.reset_after_s = reset_after_s
        self._frontend = ECGFrontend(model.spec, in_rate=rate, leads=leads)
        self._live = self._frontend.stream(capacity)
        self._counts = {"gain": gain, "baseline": baseline}
        names = canonical_leads(self.leads)
        self._lead = names.index("II") if "II" in names else 0
        self._scale: tuple[np.float32, np.float32] | None = None
        if gain is not None:
            per_lead = (np.broadcast_to(v, len(self.leads)) for v in (gain, 0.0 if baseline is None else baseline))
            g, zero = (np.float32(v[self._lead]) for v in per_lead)
            self._scale = (np.float32(1 / g), zero)
        self._stepper = Stepper(model, capacity)
        self._key = fingerprint = model.fingerprint
        self._heads = LiveHeads(heads or {}, width=model.config.dim, fingerprint=fingerprint)
        if len(self._heads):
            self._key = hashlib.sha256((fingerprint + self._heads.digest).encode()).hexdigest()[:16]
        self._on = np.zeros((capacity, len(self._heads)), bool)
        self._every = max(1, round(look_every_s * self.rate)) if beats else 0
        spec = model.spec
        self._wait = np.zeros((capacity, len(spec.leads), spec.patch), np.float32)
        self._gathered = np.zeros((BLOCK_ROWS, len(spec.leads), spec.patch), np.float32)
        self._stride = spec.patch / self._frontend.out_rate * self.rate  # input samples a token
        self._shift = self._frontend.fir_delay_s * self.rate
        self._patients: dict[str, _Patient] = {}
        self._free = list(range(capacity))  # a heap: low slots first, so that patients stand side by side
        self._new_beats("", 0)  # refuses a rate that the detector does not take

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
        return self._stepper.state_bytes

    def open(self, id: str) -> None:
        """Begin a stream. Raises StreamError when the id is open already or not plain text, or all slots are taken."""
        if not isinstance(id, str) or len(id.encode("utf-8", "replace")) > 65_535 or not id.isprintable():
            raise StreamError(f"id is {id!r}; needed printable text of at most 65,535 bytes")
        if id in self._patients:
            raise StreamError(f"stream {id!r} is already open; close it first, or push to it")
        if not self._free:
            raise StreamError(
                f"the stream is full, {self.capacity:,} of {self.capacity:,}; close one, or make it with more capacity"
            )
        self._patients[id] = patient = _Patient(heapq.heappop(self._free))
        self._restart(id, patient, 0)

    def close(self, id: str) -> None:
        """End a stream and free its slot; samples that still wait are dropped (`flush` first to keep them)."""
        patient = self._patient(id)
        self._clear(patient)
        heapq.heappush(self._free, patient.slot)
        del self._patients[id]

    def position(self, id: str) -> int:
        """Absolute index of the next sample of this stream."""
        return self._patient(id).position

    def late(self, id: str) -> int:
        """Samples of this stream dropped so far because they came twice or too late."""
        return self._patient(id).late

    def push(
        self, id: str | Sequence[str] | Mapping[str, Any], samples: Any = None, start: Any = None
    ) -> list[Token | Event]:
        """Add samples of one stream, or of several at once, and get what is now decided.

        One id: samples (leads, n), start the absolute index of the first or None for "joined on". Several ids: a sequence of each, or
        a mapping of id → samples with start a mapping or None; chunks may be of unequal length. What comes back goes stream by stream:
        first gaps and repeats of the chunk, then tokens, beats and labels by their start. Raises StreamError before anything is changed
        when an id is unknown, stands twice, or its chunk has a wrong shape or type.
        """
        if isinstance(id, str):
            names, chunks, starts = [id], [samples], [start]
        elif isinstance(id, Mapping):
            names, chunks = list(id), list(id.values())
            starts = [None] * len(names) if start is None else [start.get(name) for name in names]
        else:
            names, chunks = list(id), list(samples)
            starts = [None] * len(names) if start is None else list(start)
        arrays, firsts = self._check(names, chunks, starts)
        told: list[list[Token | Event]] = []
        made: list[list[Token | Event]] = []
        fed = []
        for name, chunk, first in zip(names, arrays, firsts):
            told.append([])
            made.append([])
            fed.append(self._admit(name, chunk, first, told[-1], made[-1]))
        fed.sort(key=lambda f: f.patient.slot)
        for at in range(0, len(fed), BLOCK_ROWS):
            self._advance(fed[at : at + BLOCK_ROWS])
        return [e for before, after in zip(told, made) for part in (before, _in_time(after)) for e in part]

    def flush(self, id: str) -> list[Token | Event]:
        """Decide what still waits, as at a record's end; then the stream is as newly opened, at the sample it had reached."""
        patient = self._patient(id)
        out: list[Token | Event] = []
        made = self._live.flush(patient.slot)
        fed = _Fed(id, patient, made.x, patient.position, out)
        self._collect([fed], [made])
        if patient.beats is not None:
            out += [_beat(id, at) for at in patient.beats.flush()]
        self._restart(id, patient, patient.position)
        return _in_time(out)

    def save(self, id: str) -> bytes:
        """Everything that the stream remembers; `restore` continues it to the bit, in this process or another."""
        p = self._patient(id)
        counts = (p.base, p.position, p.token, p.late)
        return pack(
            Saved(
                id,
                self._key,
                self._frontend.hash,
                *counts,
                p.begun,
                p.valid,
                self._live.save(p.slot),
                b"" if p.beats is None else p.beats.save(),
                self._wait[p.slot, :, : p.fill],
                self._on[p.slot],
                self._stepper.get(p.slot),
            )
        )

    def restore(self, blob: bytes) -> str:
        """Open the stream that `save` wrote and return its id. Raises StreamError for a blob that is foreign, altered or open."""
        saved = unpack(
            bytes(blob),
            fingerprint=self._key,
            plan=self._frontend.hash,
            leads=len(self.model.spec.leads),
            patch=self.model.spec.patch,
            labels=len(self._heads),
            shapes={name: tuple(t.shape[1:]) for name, t in self._stepper.state.items()},
        )
        if bool(saved.beats) != bool(self._every):
            raise StreamError(
                f"saved stream has {'a' if saved.beats else 'no'} beat detector, this one {'a' if self._every else 'no'}"
            )
        beats = Beats.restored(self.rate, saved.beats) if saved.beats else None
        self.open(saved.id)
        p = self._patients[saved.id]
        try:
            self._live.restore(p.slot, saved.frontend)
        except StreamError:
            self.close(saved.id)
            raise
        self._stepper.put(p.slot, saved.state)
        p.base, p.position, p.token, p.late = saved.base, saved.position, saved.token, saved.late
        p.begun, p.valid, p.fill, p.beats = saved.begun, saved.valid, saved.x.shape[1], beats
        self._wait[p.slot, :, : p.fill] = saved.x
        self._on[p.slot] = saved.on
        return saved.id

    def _patient(self, id: str) -> _Patient:
        if id not in self._patients:
            raise StreamError(f"stream {id!r} is not open; open it first ({len(self._patients):,} are open)")
        return self._patients[id]

    def _check(
        self, names: list[str], chunks: list[Any], starts: list[Any]
    ) -> tuple[list[np.ndarray], list[int | None]]:
        """Chunks as arrays and starts as numbers. Nothing may raise after this."""
        if not len(names) == len(chunks) == len(starts):
            raise StreamError(
                f"push got {len(names)} ids, {len(chunks)} chunks and {len(starts)} starts; needed as many of each"
            )
        if len(set(names)) != len(names):
            raise StreamError("push got an id twice; join its chunks, or push twice")
        arrays, firsts, rows = [], [], len(self.leads)
        kinds, needed = ("f", "float mV") if self._scale is None else ("iu", "integer counts, as gain was given")
        for name, given, start in zip(names, chunks, starts):
            self._patient(name)
            try:
                chunk = np.asarray(given)
                first = None if start is None else operator.index(start)
            except (ValueError, TypeError) as error:
                raise StreamError(f"chunk or start of stream {name!r} is no array or whole number: {error}") from None
            if chunk.ndim != 2 or chunk.shape[0] != rows:
                raise StreamError(
                    f"chunk of stream {name!r} has shape {chunk.shape}; needed ({rows}, samples): {self.leads}"
                )
            if chunk.dtype.kind not in kinds:
                raise StreamError(f"chunk of stream {name!r} is {chunk.dtype}; needed {needed}")
            if first is not None and first < 0:
                raise StreamError(f"start of stream {name!r} is {first}; needed an index of at least 0")
            arrays.append(chunk)
            firsts.append(first)
        return arrays, firsts

    def _admit(
        self,
        name: str,
        chunk: np.ndarray,
        start: int | None,
        told: list[Token | Event],
        made: list[Token | Event],
    ) -> _Fed:
        """What is new of a chunk, and the absolute index of its first sample; gaps and repeats are told."""
        p = self._patients[name]
        if start is not None and not p.begun:
            self._restart(name, p, start)
        n, first = chunk.shape[1], p.position if start is None else start
        if n == 0:
            return _Fed(name, p, chunk, p.position, made)
        p.begun = True
        if first < p.position:
            dropped = min(p.position - first, n)
            p.late += dropped
            told.append(Event(name, "late", first, dropped))
            return _Fed(name, p, chunk[:, dropped:], p.position, made)
        if first > p.position:
            gap = first - p.position
            too_long = gap > self.reset_after_s * self.rate
            told.append(Event(name, "reset" if too_long else "gap", p.position, gap))
            if too_long:
                self._restart(name, p, first)
                p.begun = True
        return _Fed(name, p, chunk, first, made)

    def _advance(self, block: list[_Fed]) -> None:
        """Front end, model and detector over the new samples of at most `BLOCK_ROWS` streams, ascending in slot."""
        block = [f for f in block if f.chunk.shape[1]]
        if not block:
            return
        apart = any(f.first != f.patient.position for f in block)
        made = self._live.push_many(
            [f.patient.slot for f in block],
            [f.chunk for f in block],
            starts=[f.first - f.patient.base for f in block] if apart else None,
            **self._counts,
        )
        for f in block:
            if f.patient.beats is not None:
                self._look(f, f.patient.beats)
            f.patient.position = f.first + f.chunk.shape[1]
        self._collect(block, made)

    def _look(self, fed: _Fed, beats: Beats) -> None:
        x = fed.chunk[self._lead]
        if self._scale is not None:
            x = (x.astype(np.float32) - self._scale[1]) * self._scale[0]
        missing = fed.first - fed.patient.position
        found = beats.skip(missing) + beats.push(x) if missing else beats.push(x)
        if found:
            fed.out.extend([_beat(fed.name, at) for at in found])

    def _collect(self, block: list[_Fed], made: Sequence[Any]) -> None:
        """Fill patches with the front end's output; whenever some are full, step them together."""
        size, todo = self.model.spec.patch, []
        for f, (x, ok) in zip(block, made):
            if x.shape[1]:
                whole = bool(ok.all())
                todo.append((f, x if whole else np.where(ok, x, np.float32(0)), None if whole else ok, 0))
        while todo:
            full, rest = [], []
            for f, x, ok, at in todo:
                p = f.patient
                to = at + min(size - p.fill, x.shape[1] - at)
                self._wait[p.slot, :, p.fill : p.fill + to - at] = x[:, at:to]
                p.valid = p.valid or ok is None or bool(ok[:, at:to].any())
                p.fill += to - at
                if p.fill == size:
                    full.append(f)
                if to < x.shape[1]:
                    rest.append((f, x, ok, to))
            if full:
                self._decide(full)
            todo = rest

    def _decide(self, full: list[_Fed]) -> None:
        """Turn full patches into tokens and labels."""
        slots = np.array([f.patient.slot for f in full])
        first, n = int(slots[0]), len(slots)
        if int(slots[-1]) - first == n - 1:
            x = self._wait[first : first + n]
        else:
            x = np.take(self._wait, slots, axis=0, out=self._gathered[:n], mode="clip")
        tokens = self._stepper.step_(x, slots)
        scores = self._heads.probabilities(tokens) if len(self._heads) else None
        rows = tokens.numpy()
        for i, f in enumerate(full):
            p = f.patient
            start, stop = self._sample(p, p.token), self._sample(p, p.token + 1)
            f.out.append(Token(f.name, p.token, start, stop, rows[i].copy(), p.valid))
            if scores is not None:
                self._label(f, start, stop, scores[i])
            p.fill, p.valid, p.token = 0, False, p.token + 1

    def _label(self, fed: _Fed, start: int, stop: int, scores: np.ndarray) -> None:
        """An event for each label that begins with this token; a token without samples ends all."""
        p = fed.patient
        now = (scores >= self._heads.thresholds) & p.valid
        for k in np.flatnonzero(now & ~self._on[p.slot]).tolist():
            by, label = self._heads.labels[k]
            fed.out.append(Event(fed.name, label, start, stop - start, by, float(scores[k])))
        self._on[p.slot] = now

    def _sample(self, p: _Patient, token: int) -> int:
        """Absolute input sample at which a token begins: its first output sample, less the resampler's delay."""
        return p.base + max(0, round(token * self._stride - self._shift))

    def _new_beats(self, name: str, origin: int) -> Beats | None:
        if not self._every:
            return None
        phase = (
            1 + zlib.crc32(name.encode()) % self._every
        )  # streams look in turn, not all at once, wherever they stand
        return Beats(self.rate, self._every, origin=origin, phase=phase)

    def _clear(self, p: _Patient) -> None:
        self._live.reset(p.slot)
        self._stepper.reset(p.slot)
        self._on[p.slot] = False
        p.fill, p.valid, p.beats = 0, False, None

    def _restart(self, name: str, p: _Patient, position: int) -> None:
        self._clear(p)
        p.base = p.position = position
        p.token, p.begun = 0, False
        p.beats = self._new_beats(name, position)


def _beat(name: str, at: int) -> Token | Event:
    return Event(name, "beat", at, 0, DETECTOR)


def _in_time(found: list[Token | Event]) -> list[Token | Event]:
    if len(found) > 1:
        found.sort(key=lambda e: e.start)
    return found
