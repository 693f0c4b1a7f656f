"""An archive of recordings to one table of embeddings: one bad file never stops it, an interrupted run goes on.

The record list is cut into parts. A part is read, preprocessed and embedded as a whole and kept in `OUT.partial/` under
a name made of everything that decides its content: model, options, and id, size and time of each input file. A restart
takes the parts that are there; an input or an option that changed gives another name, and is done again. The table is
written when all parts are done.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xecg.errors import ReadError, SpecError
from xecg.model.archive_inputs import cut_into_parts, list_inputs
from xecg.model.archive_output import (
    Shelf,
    check_output,
    errors_path,
    is_whole,
    n_rows,
    part_path,
    provenance,
    read_facts,
    working_folder,
    write_part,
    write_result,
)
from xecg.model.archive_records import Piece, Reader, Ready
from xecg.model.long import piece_tokens

if TYPE_CHECKING:
    from xecg.model.encoder import XECG

__all__ = ["CONTEXT_S", "EmbedReport", "embed_archive"]

CONTEXT_S = 60.0  # the longest context of docs/LONG_RECORDINGS.md that costs no shipped weights any score

_BATCH_SECONDS = 10.0  # `batch_size` counts ECGs of this length
_LENGTH_STEP = 1.25  # lengths within this factor share a batch: at most a fifth of it is padding
_BATCH_TOKENS = 4096  # of a batch of pieces longer than that
_CHUNK_TOKENS = 1024  # longer sequences go through the blocks in stretches: memory stays bounded
_SPILL_TOKENS = (
    1 << 16
)  # tokens of a batch, padding too, that are kept in memory: 0.25 GB for `base`; more go to a file
_IN_FLIGHT = 8  # such sequences side by side: time steps come one after another, so they share them
_LONG_BATCH = 1 << 27  # samples, of leads that are there, of such a batch: 0.7 GB; eight days of two leads at 100 Hz
_WAITING = 1 << 27  # samples that wait for company at most


@dataclass(frozen=True)
class EmbedReport:
    """What a run did.

    n_done: records embedded. n_rows: rows written. n_empty_windows: windows, or tokens, without a valid sample: they have no row.
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
            lines[0] += f", {self.n_empty_windows:,} without signal left out"
        if self.errors:
            lines.append(f"{self.n_refused:,} refused, with reasons in {errors_path(self.out)}")
        return "\n".join(lines)


def embed_archive(
    inputs: str | Path | Sequence[str | Path],
    model: XECG,
    out: str | Path,
    *,
    window_s: float | None = None,
    context_s: float | None = CONTEXT_S,
    tokens: bool = False,
    batch_size: int = 16,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedReport:
    """Embed recordings and folders of recordings into the Parquet table `out`.

    window_s: a row per window of so many seconds (each window is preprocessed as if it were a recording of its own, the
    last may be shorter); None: a row per record. context_s: how much of a record its tokens see where there is no window: longer
    records are cut like into windows, and the row is the pool of all their tokens; None: they see all of it. tokens: a row per token
    that has a valid sample; window_start_s and window_s are then the token's. batch_size: ten-second ECGs a batch, or so many longer
    ones as fit in its memory. workers: threads that read.
    shard: (i, n) takes the i-th of n shares of the records, i from 1; a record's share follows from its id alone.
    reading: keyword arguments for `xecg.read`. progress: called with (records done, records in all).

    The record id is the path below its root without suffix. Refused records go to `OUT.errors.jsonl`; if all
    are, the table is empty. The same inputs, model and options give the same bytes. A table of more than 100,000 rows
    is a folder of files with a manifest, which pyarrow and pandas read as one.
    Raises ReadError when two inputs have one record id or no input holds a recording, SpecError (before the first
    record is read) on a bad option, when another process writes `out` or when it cannot be written, and OSError when its disk is full.
    """
    token_s = model.spec.patch / (model.spec.rate or 20_000)  # the highest rate that a recording can have
    for name, value, none in (("window_s", window_s, "a row per record"), ("context_s", context_s, "the whole record")):
        if value is not None and not value >= token_s:
            raise SpecError(f"{name} is {value}; needed at least {token_s:g} s (a token), or None for {none}")
    if batch_size < 1:
        raise SpecError(f"batch_size is {batch_size}; needed at least 1")
    if not 1 <= shard[0] <= shard[1]:
        raise SpecError(f"shard is {shard[0]}/{shard[1]}; needed i/n with i from 1 to n")
    out = check_output(out)
    reading = {name: value for name, value in sorted((reading or {}).items()) if value}
    told = {
        "window_s": window_s,
        "context_s": window_s or context_s,
        "tokens": tokens,
        "batch_size": batch_size,
        "shard": shard,
    }
    origin = provenance(model, **told, reading=reading)
    kind = "token" if tokens else "record" if window_s is None else "window"
    reader = Reader(model.spec, window_s or context_s, kind, reading)
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
                ready = _counted(reader.ahead(part, workers or os.cpu_count() or 1), done, tell)
                write_part(path, *_embed_part(ready, model, batch_size, folder, rows=kind))
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
        n_rows=sum(n_rows(part) for part in facts),
        n_empty_windows=sum(part["empty_windows"] for part in facts),
        errors=tuple(ReadError(*fields) for part in facts for fields in part["errors"]),
    )


def _counted(items: Iterable[Ready], done: int, tell: Callable[[int], None]) -> Iterator[Ready]:
    for item in items:
        tell(done)
        yield item
        done += item.next_window is None


# Pieces to embeddings.


def _embed_part(
    records: Iterable[Ready], model: XECG, batch_size: int, folder: Path, *, rows: str
) -> tuple[list[np.ndarray], list[dict[str, Any]], dict[str, Any]]:
    """Embeddings float32 (n, D), one array of all rows or one of the tokens of each, in the order of the records; the rows' other
    fields; and the part's facts.

    Which pieces share a batch follows from their order and lengths alone, so that a rerun gives the same bits.
    """
    batches = _Batches(model, batch_size, folder, tokens=rows == "token")
    facts: dict[str, Any] = {"done": 0, "empty_windows": 0, "errors": []}
    made: list[tuple[dict[str, Any], dict[int, int]]] = []  # a row's fields; its pieces' numbers, and tokens in each
    mine: dict[int, Piece] = {}  # pieces of the record in hand, emptied of their signals
    stretches: list[Ready] = []
    for ready in records:
        stretches.append(replace(ready, pieces=()))
        error = ready.error or (None if mine else ready.nothing)
        if error is None:
            for piece in ready.pieces:
                mine[batches.add(piece)] = piece.without_signal()
        if error is None and ready.next_window is not None:
            continue
        if error is not None:
            facts["errors"].append([error.file, error.field, error.found, error.rule, error.hint])
        else:
            facts["done"] += 1
            facts["empty_windows"] += sum(part.n_empty for part in stretches)
            if rows == "record":
                first = next(iter(mine.values())).row
                made.append(({**first, **_whole(stretches)}, {n: piece.tokens for n, piece in mine.items()}))
            else:
                made += [(piece.row, {n: piece.tokens}) for n, piece in mine.items()]
        mine, stretches = {}, []
    vectors = batches.finish()
    found = [_pooled([vectors[n] for n in pieces], list(pieces.values()), model) for _, pieces in made]
    if rows != "token":
        found = [np.stack(found)] if found else []
    return found, [row for row, _ in made], facts


def _whole(stretches: Sequence[Ready]) -> dict[str, Any]:
    """Start, length and quality of a record that was read in stretches: shares and sizes are means over its time, and a flag is up that
    is so for most of it."""
    seconds = [part.duration_s for part in stretches]
    merged = dict(stretches[0].quality)
    for name, value in merged.items() if len(stretches) > 1 else ():
        mean = float(np.average([float(part.quality[name]) for part in stretches], weights=seconds))
        merged[name] = mean > 0.5 if isinstance(value, (bool, np.bool_)) else mean
    return {"window_start_s": 0.0, "window_s": math.fsum(seconds), "quality": merged}


def _pooled(vectors: Sequence[np.ndarray], tokens: Sequence[int], model: XECG) -> np.ndarray:
    """What `model.embed` would make of the tokens of all pieces, which have so many valid ones."""
    if len(vectors) == 1:
        return vectors[0]
    if model.config.pooling == "max":
        return np.max(vectors, axis=0)
    return np.average(np.stack(vectors).astype(np.float64), axis=0, weights=tokens).astype(np.float32)


class _Batches:
    """Pieces in batches of about one length. tokens: keep every token, on a shelf in `folder`."""

    def __init__(self, model: XECG, batch_size: int, folder: Path, *, tokens: bool) -> None:
        self._model, self._size, self._folder = model, batch_size, folder
        self._patch = model.spec.patch
        self._short = batch_size * _BATCH_SECONDS * (model.spec.rate or 500.0)  # samples of a batch
        self._shelf = Shelf(folder) if tokens else None
        self._waiting: dict[int, dict[int, Piece]] = {}  # length class → number → piece
        self._vectors: dict[int, np.ndarray] = {}
        self._count = 0

    def add(self, piece: Piece) -> int:
        """Put a piece into its batch, and run batches that are full; the piece's number."""
        length, number = _length_class(piece.x.shape[-1], self._patch), self._count
        self._count += 1
        batch = self._waiting.setdefault(length, {})
        batch[number] = piece
        if self._is_full(batch, length, piece.samples):
            self._run(length)
        sizes = {length: sum(piece.samples for piece in batch.values()) for length, batch in self._waiting.items()}
        if sum(sizes.values()) > _WAITING:
            self._run(max(sizes, key=lambda length: sizes[length]))
        return number

    def finish(self) -> dict[int, np.ndarray]:
        """float32 (D,), or (tokens, D), of every number."""
        for length in sorted(self._waiting):
            self._run(length)
        return self._vectors

    def _is_full(self, batch: Mapping[int, Piece], length: int, samples: int) -> bool:
        if length > _CHUNK_TOKENS * self._patch:
            return len(batch) == _IN_FLIGHT or (len(batch) + 1) * samples > _LONG_BATCH
        more = (len(batch) + 1) * length
        return more > self._short and (len(batch) >= self._size or more > _BATCH_TOKENS * self._patch)

    def _run(self, length: int) -> None:
        batch = self._waiting.pop(length)
        numbers, pieces = list(batch), deque(batch.values())
        batch.clear()
        for number, found in zip(numbers, _embed(pieces, self._model, self._folder, tokens=self._shelf is not None)):
            self._vectors[number] = found if self._shelf is None else self._shelf.put(found)


def _length_class(samples: int, patch: int) -> int:
    """The upper end of the class: a whole number of patches, growing by `_LENGTH_STEP`."""
    tokens = 1
    while tokens * patch < samples:
        tokens = max(tokens + 1, int(tokens * _LENGTH_STEP))
    return tokens * patch


def _embed(pieces: deque[Piece], model: XECG, folder: Path, *, tokens: bool) -> list[np.ndarray]:
    """float32 (D,) of each piece, or (tokens, D). The pieces are used up: they and their batch are not held both. Tokens that are too
    many for memory are kept in a file of `folder`."""
    import torch

    lengths = [piece.x.shape[-1] for piece in pieces]
    if len(pieces) == 1:
        piece = pieces.popleft()
        x, mask = piece.x[None], piece.mask[None]
    else:
        x = np.zeros((len(pieces), pieces[0].x.shape[0], max(lengths)), np.float32)
        mask = np.zeros(x.shape, bool)
        for n, samples in enumerate(lengths):
            piece = pieces.popleft()
            for lead in np.flatnonzero(piece.mask.any(-1)):  # pages of the others are never touched
                x[n, lead, :samples], mask[n, lead, :samples] = piece.x[lead], piece.mask[lead]
    device = next(model.parameters()).device
    many = x[:, 0].size > _SPILL_TOKENS * model.spec.patch
    way: dict[str, Any] = {
        "lengths": torch.tensor(lengths, device=device),
        "mask": torch.from_numpy(mask).to(device),
        "chunk": piece_tokens(len(lengths)) if max(lengths) > _CHUNK_TOKENS * model.spec.patch else None,
        "spill": folder if many and device.type == "cpu" else None,
    }
    with torch.inference_mode():
        if not tokens:
            return list(model.embed(torch.from_numpy(x).to(device), **way).float().cpu().numpy())
        found = model.encode(torch.from_numpy(x).to(device), **way)
        return [row[: n // model.spec.patch].float().cpu().numpy() for row, n in zip(found, lengths)]
