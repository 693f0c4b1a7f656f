"""An archive of recordings to one table of embeddings: one bad file never stops it, an interrupted run goes on.

The record list is cut into parts. A part is read, preprocessed and embedded as a whole and kept in `OUT.partial/` under
a name made of everything that decides its content: model, options, and id, size and time of each input file. A restart
takes the parts that are there; an input or an option that changed gives another name, and is done again. The table is
written when all parts are done.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from xecg import io
from xecg.errors import ReadError, SpecError, XECGError
from xecg.model.archive_inputs import Input, cut_into_parts, list_inputs
from xecg.model.archive_output import (
    check_output,
    errors_path,
    is_whole,
    part_path,
    provenance,
    read_facts,
    working_folder,
    write_part,
    write_result,
)
from xecg.signal import canonical_leads, preprocess, quality

if TYPE_CHECKING:
    from xecg.model.encoder import XECG
    from xecg.signal import Recording, SignalSpec

__all__ = ["EmbedReport", "embed_archive"]

_T = TypeVar("_T")

_BATCH_SECONDS = 10.0  # `batch_size` counts ECGs of this length
_LENGTH_STEP = 1.25  # lengths within this factor share a batch: at most a fifth of it is padding
_CHUNK_TOKENS = 1024  # longer sequences go through the blocks in stretches: memory stays bounded
_SPILL_TOKENS = (
    1 << 16
)  # tokens of a batch, padding too, that are kept in memory: 0.25 GB for `base`; more go to a file
_LONG_BATCH = 1 << 21  # samples of a batch of such sequences: time steps come one after another, so they share them
_WAITING = 1 << 23  # samples that wait for company at most: 0.5 GB with 12 leads


@dataclass(frozen=True)
class EmbedReport:
    """What a run did.

    n_done: records embedded. n_rows: rows written. n_empty_windows: windows without a valid sample: they have no row.
    n_refused: records refused, each with its reason in `errors`.
    """

    out: Path
    n_done: int
    n_rows: int
    n_empty_windows: int
    errors: tuple[ReadError, ...]

    @property
    def n_refused(self) -> int:
        return len(self.errors)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        counts = {k: getattr(self, k) for k in ("n_done", "n_rows", "n_empty_windows", "n_refused")}
        return {"out": str(self.out), "errors": str(errors_path(self.out)) if self.errors else None, **counts}

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.n_rows:,} rows of {self.n_done:,} records"]
        if self.n_empty_windows:
            lines[0] += f", {self.n_empty_windows:,} windows without signal left out"
        if self.errors:
            lines.append(f"{self.n_refused:,} refused, with reasons in {errors_path(self.out)}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Piece:
    """A recording or a window of one, ready for the model: x float32 and mask bool (leads, samples)."""

    x: np.ndarray
    mask: np.ndarray
    row: dict[str, Any]  # the fields of its EmbeddingRow, but for the embedding


@dataclass(frozen=True, eq=False)
class _Ready:
    """What became of a record."""

    pieces: tuple[_Piece, ...] = ()
    n_empty: int = 0  # windows without a valid sample
    error: ReadError | None = None


def embed_archive(
    inputs: str | Path | Sequence[str | Path],
    model: XECG,
    out: str | Path,
    *,
    window_s: float | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedReport:
    """Embed recordings and folders of recordings into the Parquet table `out`.

    window_s: a row per window of so many seconds (each window is preprocessed as if it were a recording of its own, the
    last may be shorter); None: a row per record. batch_size: ten-second ECGs a batch. workers: threads that read.
    shard: (i, n) takes the i-th of n shares of the records, i from 1; a record's share follows from its id alone.
    reading: keyword arguments for `xecg.read`. progress: called with (records done, records in all).

    The record id is the path below its root without suffix. Refused records go to `OUT.errors.jsonl`; if all
    are, the table is empty. The same inputs, model and options give the same bytes. A table of more than 100,000 rows
    is a folder of files with a manifest, which pyarrow and pandas read as one.
    Raises ReadError when two inputs have one record id or no input holds a recording, SpecError on a bad option or when
    another process writes `out`, and OSError when `out` cannot be written (before the first record is read).
    """
    token_s = model.spec.patch / (model.spec.rate or 20_000)  # the highest rate that a recording can have
    if window_s is not None and not window_s >= token_s:
        raise SpecError(
            f"window_s is {window_s}; needed at least {token_s:g} s (a token), or None for a row per record"
        )
    if batch_size < 1:
        raise SpecError(f"batch_size is {batch_size}; needed at least 1")
    if not 1 <= shard[0] <= shard[1]:
        raise SpecError(f"shard is {shard[0]}/{shard[1]}; needed i/n with i from 1 to n")
    out = check_output(out)
    reading = {name: value for name, value in sorted((reading or {}).items()) if value}
    origin = provenance(model, window_s=window_s, batch_size=batch_size, shard=shard, reading=reading)
    parts: list[Path] = []
    done = 0
    with working_folder(out) as folder:
        records = list_inputs([inputs] if isinstance(inputs, (str, Path)) else inputs, leave_out=folder)
        records = [record for record in records if record.share(shard[1]) == shard[0]]

        def tell(n: int) -> None:
            if progress is not None:
                progress(n, len(records))

        for part in cut_into_parts(records):
            path = part_path(folder, origin, part)
            if not is_whole(path):
                ready = _read_ahead(part, model.spec, window_s, reading, workers or os.cpu_count() or 1)
                write_part(path, *_embed_part(_counted(ready, done, tell), model, batch_size, folder))
            parts.append(path)
            done += len(part)
        tell(done)
        write_result(out, parts, origin)
        report = _report(out, parts)
        shutil.rmtree(folder)
    return report


def _report(out: Path, parts: Iterable[Path]) -> EmbedReport:
    facts = [read_facts(path) for path in parts]
    return EmbedReport(
        out=out,
        n_done=sum(part["done"] for part in facts),
        n_rows=sum(len(part["rows"]) for part in facts),
        n_empty_windows=sum(part["empty_windows"] for part in facts),
        errors=tuple(ReadError(*fields) for part in facts for fields in part["errors"]),
    )


def _counted(items: Iterable[_T], done: int, tell: Callable[[int], None]) -> Iterator[_T]:
    for n, item in enumerate(items, done):
        tell(n)
        yield item


# A record to pieces. A refusal is a value here, so that it keeps its place in the order.


def _read_ahead(
    part: Iterable[Input], spec: SignalSpec, window_s: float | None, reading: Mapping[str, Any], workers: int
) -> Iterator[_Ready]:
    """Results in the order of `part`, made ahead by `workers` threads, no further than two records each."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[_Ready]] = deque()
        for record in part:
            ahead.append(pool.submit(_prepare, record, spec, window_s, reading))
            if len(ahead) == 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _prepare(record: Input, spec: SignalSpec, window_s: float | None, reading: Mapping[str, Any]) -> _Ready:
    try:
        return _pieces(record, spec, window_s, reading)
    except ReadError as error:
        return _Ready(error=error)
    except XECGError as error:
        return _Ready(error=ReadError(str(record.path), "recording", f"refused ({type(error).__name__})", str(error)))
    except Exception as error:  # a defect of a reader must cost one record, not the archive
        told = f"failed with {type(error).__name__}"
        return _Ready(error=ReadError(str(record.path), "reader", told, str(error), "Please report it as a defect."))


def _pieces(record: Input, spec: SignalSpec, window_s: float | None, reading: Mapping[str, Any]) -> _Ready:
    recording = io.read(record.path, **reading)
    if not set(canonical_leads(recording.leads)) & set(spec.leads):
        found, rule = ", ".join(recording.leads), f"the model needs at least one of {', '.join(spec.leads)}"
        raise ReadError(str(record.path), "leads", found, rule, "Name them with leads= (--leads).")
    pieces, n_empty = [], 0
    for start_s, window in _windows(recording, window_s):
        ready = preprocess(window, spec)
        samples = ready.x.shape[-1] // spec.patch * spec.patch  # a token is a whole patch
        if not samples:
            continue
        x, mask = ready.x[..., :samples], ready.mask[..., :samples]
        if not mask.any():
            n_empty += 1
            continue
        row = {
            "record_id": record.record_id,
            "source": record.source,
            "window_start_s": start_s,
            "window_s": window.duration_s,
            "quality": quality.assess(window).as_columns(),
        }
        pieces.append(_Piece(x, mask, row))
    error = None if pieces else _nothing_to_embed(record, recording, spec, n_empty)
    return _Ready(tuple(pieces), n_empty, error)


def _windows(recording: Recording, window_s: float | None) -> Iterator[tuple[float, Recording]]:
    """(start in seconds, recording) of each window; the whole recording without `window_s`."""
    if window_s is None:
        yield 0.0, recording
        return
    length, step = recording.signal.shape[1], window_s * recording.rate
    edges = [round(n * step) for n in range(int(length / step) + 1)]
    for first, last in pairwise([*edges, length]):
        if first < last:
            signal, mask = recording.signal[:, first:last], recording.mask[:, first:last]
            yield first / recording.rate, recording.with_(signal=signal, mask=mask, annotations=None)


def _nothing_to_embed(record: Input, recording: Recording, spec: SignalSpec, n_empty: int) -> ReadError:
    if n_empty:
        rule = "needed one valid sample in a lead of the model"
        return ReadError(str(record.path), "signal", "missing from start to end", rule)
    rate_hz = spec.rate if spec.rate is not None else recording.rate
    rule = f"needed at least {spec.patch / rate_hz:g} s in a piece, which is one token of the model"
    return ReadError(str(record.path), "duration", f"{recording.duration_s:g} s", rule)


# Pieces to embeddings.


def _embed_part(
    records: Iterable[_Ready], model: XECG, batch_size: int, folder: Path
) -> tuple[np.ndarray, list[dict[str, Any]], dict[str, Any]]:
    """Embeddings float32 (rows, D) in the order of the records, the rows' other fields, and the part's facts.

    Which pieces share a batch follows from their order and lengths alone, so that a rerun gives the same bits.
    """
    short = batch_size * _BATCH_SECONDS * (model.spec.rate or 500.0)  # samples of a batch
    rows: list[dict[str, Any]] = []
    vectors: dict[int, np.ndarray] = {}
    waiting: dict[int, dict[int, _Piece]] = {}  # length class → row → piece
    facts: dict[str, Any] = {"done": 0, "empty_windows": 0, "errors": []}

    def run(length: int) -> None:
        batch = waiting.pop(length)
        vectors.update(zip(batch, _embed(list(batch.values()), model, folder)))

    for ready in records:
        if ready.error is not None:
            error = ready.error
            facts["errors"].append([error.file, error.field, error.found, error.rule, error.hint])
            continue
        facts["done"] += 1
        facts["empty_windows"] += ready.n_empty
        for piece in ready.pieces:
            length = _length_class(piece.x.shape[-1], model.spec.patch)
            batch = waiting.setdefault(length, {})
            batch[len(rows)] = piece
            rows.append(piece.row)
            if (len(batch) + 1) * length > (short if length <= _CHUNK_TOKENS * model.spec.patch else _LONG_BATCH):
                run(length)
            sizes = {length: length * len(batch) for length, batch in waiting.items()}
            if sum(sizes.values()) > _WAITING:
                run(max(sizes, key=lambda length: sizes[length]))
    for length in sorted(waiting):
        run(length)
    table = np.stack([vectors[n] for n in range(len(rows))]) if rows else np.zeros((0, 0), np.float32)
    return table, rows, facts


def _length_class(samples: int, patch: int) -> int:
    """The upper end of the class: a whole number of patches, growing by `_LENGTH_STEP`."""
    tokens = 1
    while tokens * patch < samples:
        tokens = max(tokens + 1, int(tokens * _LENGTH_STEP))
    return tokens * patch


def _embed(pieces: Sequence[_Piece], model: XECG, folder: Path) -> np.ndarray:
    """float32 (pieces, D). Tokens that are too many for memory are kept in a file of `folder`."""
    import torch

    lengths = [piece.x.shape[-1] for piece in pieces]
    if len(pieces) == 1:
        x, mask = pieces[0].x[None], pieces[0].mask[None]
    else:
        x = np.zeros((len(pieces), pieces[0].x.shape[0], max(lengths)), np.float32)
        mask = np.zeros(x.shape, bool)
        for n, piece in enumerate(pieces):
            x[n, :, : lengths[n]], mask[n, :, : lengths[n]] = piece.x, piece.mask
    device = next(model.parameters()).device
    with torch.inference_mode():
        vectors = model.embed(
            torch.from_numpy(x).to(device),
            lengths=torch.tensor(lengths, device=device),
            mask=torch.from_numpy(mask).to(device),
            chunk=_CHUNK_TOKENS,
            spill=folder if device.type == "cpu" and x[:, 0].size > _SPILL_TOKENS * model.spec.patch else None,
        )
    return vectors.float().cpu().numpy()
