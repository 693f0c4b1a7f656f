"""Records of an archive on their way to the model: read, cut into windows, preprocessed. Long ones go stretch by stretch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg import io
from xecg.errors import ReadError, XECGError
from xecg.model.archive_inputs import Input
from xecg.signal import canonical_leads, preprocess, quality

if TYPE_CHECKING:
    from xecg.signal import Recording, SignalSpec

__all__ = ["Piece", "Ready", "Reader", "cut"]

_LONG_BYTES = 16 << 20  # of a record's files: longer ones are read in stretches where windows suffice
_STRETCH_S = 600.0
_PEEK_S = 1.0  # read past a stretch, to see whether there is more
_READ_IN_PART = (".hea", ".edf")  # other readers read the file whole whatever part is asked for
_AHEAD_BYTES = 128 << 20  # of files read ahead


@dataclass(frozen=True, eq=False)
class Piece:
    """A recording or a window of one, ready for the model: x float32 and mask bool (leads, samples)."""

    x: np.ndarray
    mask: np.ndarray
    row: dict[str, Any]  # the fields of its EmbeddingRow, but for the embedding; of tokens see `_tokens`
    samples: int  # of all leads that hold any: the others are zeros, which take no memory
    tokens: int  # with a valid sample

    def without_signal(self) -> Piece:
        """Its row and counts, for which no memory is held."""
        return replace(self, x=self.x[:, :0].copy(), mask=self.mask[:, :0].copy())


@dataclass(frozen=True, eq=False)
class Ready:
    """What became of a record, or of a stretch of it. n_empty: windows or tokens without a valid sample. next_window: where the rest
    begins, None when this is the last. nothing: the refusal, should the record have no piece at all. duration_s, quality: of it, where
    the row is the record's."""

    pieces: tuple[Piece, ...] = ()
    n_empty: int = 0
    error: ReadError | None = None
    next_window: int | None = None
    nothing: ReadError | None = None
    duration_s: float = 0.0
    quality: Mapping[str, float | bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reader:
    """spec: of the model. window_s: seconds a piece, None for whole records. rows: what a row of the table is: "record", "window" or
    "token". reading: keyword arguments for `xecg.read`."""

    spec: SignalSpec
    window_s: float | None
    rows: str
    reading: Mapping[str, Any]

    def ahead(self, records: Iterable[Input], workers: int) -> Iterator[Ready]:
        """Every record or stretch in order, made ahead by `workers` threads, no further than two records each."""
        todo = iter(records)
        upcoming = next(todo, None)
        ahead: deque[tuple[Input, Future[Ready]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            while ahead or upcoming is not None:
                while upcoming is not None and self._may_start(upcoming, [record for record, _ in ahead], workers):
                    ahead.append((upcoming, pool.submit(self.prepare, upcoming)))
                    upcoming = next(todo, None)
                record, future = ahead.popleft()
                ready = future.result()
                if ready.next_window is not None:
                    ahead.appendleft((record, pool.submit(self.prepare, record, ready.next_window)))
                yield ready

    @staticmethod
    def _may_start(record: Input, ahead: list[Input], workers: int) -> bool:
        return not ahead or (
            len(ahead) < 2 * workers and record.size + sum(other.size for other in ahead) <= _AHEAD_BYTES
        )

    def prepare(self, record: Input, first: int = 0) -> Ready:
        """The record, or the stretch of it that begins with window number `first`. A refusal is a value, so that it keeps its place."""
        try:
            return self._pieces(record, first)
        except ReadError as error:
            return Ready(error=error)
        except XECGError as error:
            found = f"refused ({type(error).__name__})"
            return Ready(error=ReadError(str(record.path), "recording", found, str(error)))
        except Exception as error:  # a defect of a reader must cost one record, not the archive
            told = f"failed with {type(error).__name__}"
            return Ready(error=ReadError(str(record.path), "reader", told, str(error), "Please report it as a defect."))

    def _pieces(self, record: Input, first: int) -> Ready:
        recording, following = self._read(record, first)
        spec = self.spec
        if not set(canonical_leads(recording.leads)) & set(spec.leads):
            found, rule = ", ".join(recording.leads), f"the model needs at least one of {', '.join(spec.leads)}"
            raise ReadError(str(record.path), "leads", found, rule, "Name them with leads= (--leads).")
        pieces, n_empty = [], 0
        for start_s, window in cut(recording, self.window_s, first=first):
            ready = preprocess(window, spec)
            samples = ready.x.shape[-1] // spec.patch * spec.patch  # a token is a whole patch
            if not samples:
                continue
            x, mask = ready.x[..., :samples], ready.mask[..., :samples]
            leads = int(mask.any(-1).sum())
            if not leads:
                n_empty += 1
                continue
            row: dict[str, Any] = {"record_id": record.record_id, "source": record.source, "window_start_s": start_s}
            of_tokens = _tokens(mask, spec.patch, spec.rate or recording.rate)
            valid = sum(stop - start for start, stop in of_tokens["valid"])
            if self.rows == "token":
                row |= of_tokens
                n_empty += of_tokens["tokens"] - valid
            elif self.rows == "window":
                row |= {"window_s": window.duration_s, "quality": quality.assess(window).as_columns()}
            pieces.append(Piece(x, mask, row, leads * samples, valid))
        nothing = None if pieces or following is not None else self._nothing(record, recording, n_empty + first)
        whole = quality.assess(recording).as_columns() if self.rows == "record" else {}
        return Ready(tuple(pieces), n_empty, None, following, nothing, recording.duration_s, whole)

    def _read(self, record: Input, first: int) -> tuple[Recording, int | None]:
        """The recording, whole or from window `first` on, and the window that comes after it."""
        window_s = self.window_s
        long = record.size >= _LONG_BYTES and record.path.suffix in _READ_IN_PART
        if window_s is None or not long or self.reading.get("strict"):  # checksums are of whole records
            return io.read(record.path, **self.reading), None
        following = first + max(1, int(_STRETCH_S / window_s))
        recording = io.read(
            record.path,
            **self.reading,
            start=first * window_s,
            end=following * window_s + _PEEK_S,
            any_amplitude=first > 0,  # the first stretch tells whether the unit is right
        )
        samples = _edge(following, window_s, recording.rate) - _edge(first, window_s, recording.rate)
        if recording.signal.shape[1] <= samples:
            return recording, None
        signal, mask = recording.signal[:, :samples], recording.mask[:, :samples]
        return recording.with_(signal=signal, mask=mask, annotations=None), following

    def _nothing(self, record: Input, recording: Recording, n_empty: int) -> ReadError:
        if n_empty:
            rule = "needed one valid sample in a lead of the model"
            return ReadError(str(record.path), "signal", "missing from start to end", rule)
        rate_hz = self.spec.rate if self.spec.rate is not None else recording.rate
        rule = f"needed at least {self.spec.patch / rate_hz:g} s in a piece, which is one token of the model"
        return ReadError(str(record.path), "duration", f"{recording.duration_s:g} s", rule)


def cut(recording: Recording, window_s: float | None, *, first: int = 0) -> Iterator[tuple[float, Recording]]:
    """(start in seconds, recording) of each window, the last may be shorter; the whole recording without `window_s`.

    first: the number of the window that the recording begins with; starts count from window 0.
    """
    if window_s is None:
        yield 0.0, recording
        return
    length, rate = recording.signal.shape[1], recording.rate
    base = _edge(first, window_s, rate)
    for begin, end in pairwise(_edge(n, window_s, rate) for n in count(first)):
        if begin - base >= length:
            return
        part = slice(begin - base, min(end - base, length))
        signal, mask = recording.signal[:, part], recording.mask[:, part]
        yield begin / rate, recording.with_(signal=signal, mask=mask, annotations=None)


def _edge(window: int, window_s: float, rate: float) -> int:
    """The sample at which a window begins: where `xecg.read(start=window * window_s)` does."""
    return round(window * window_s * rate)


def _tokens(mask: np.ndarray, patch: int, rate: float) -> dict[str, Any]:
    """For the rows of a piece's tokens: their number and length, and from where to where they have a valid sample."""
    tokens = mask.shape[1] // patch
    if mask[0].all():  # the usual case, at a tenth of the cost
        return {"tokens": tokens, "window_s": patch / rate, "valid": [[0, tokens]]}
    there = np.asarray(mask.reshape(len(mask), -1, patch).any((0, 2)))
    edges = np.flatnonzero(np.diff(there, prepend=False, append=False))
    return {"tokens": tokens, "window_s": patch / rate, "valid": edges.reshape(-1, 2).tolist()}
