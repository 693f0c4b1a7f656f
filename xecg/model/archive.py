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
from dataclasses import dataclass
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

__all__ = ["EmbedReport", "embed_archive"]

_BATCH_SECONDS = 10.0  # `batch_size` counts ECGs of this length
_LENGTH_STEP = 1.25  # lengths within this factor share a batch: at most a fifth of it is padding
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
    tokens: bool = False,
    batch_size: int = 16,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedReport:
    """Embed recordings and folders of recordings into the Parquet table `out`.

    window_s: a row per window of so many seconds (each window is preprocessed as if it were a recording of its own, the
    last may be shorter); None: a row per record. tokens: a row per token that has a valid sample, which has seen all of its window or
    record; window_start_s and window_s are then the token's. batch_size: ten-second ECGs a batch. workers: threads that read.
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
    origin = provenance(model, window_s=window_s, tokens=tokens, batch_size=batch_size, shard=shard, reading=reading)
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
                ready = Reader(model.spec, window_s, reading, tokens).ahead(part, workers or os.cpu_count() or 1)
                write_part(path, *_embed_part(_counted(ready, done, tell), model, batch_size, folder, tokens=tokens))
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
    records: Iterable[Ready], model: XECG, batch_size: int, folder: Path, *, tokens: bool
) -> tuple[list[np.ndarray], list[dict[str, Any]], dict[str, Any]]:
    """Embeddings float32 (n, D), one array of all rows or one of the tokens of each, in the order of the records; the rows' other
    fields; and the part's facts.

    Which pieces share a batch follows from their order and lengths alone, so that a rerun gives the same bits.
    """
    short = batch_size * _BATCH_SECONDS * (model.spec.rate or 500.0)  # samples of a batch
    rows: list[dict[str, Any] | None] = []  # None: of a record that was refused later
    vectors: dict[int, np.ndarray] = {}
    waiting: dict[int, dict[int, Piece]] = {}  # length class → row → piece
    facts: dict[str, Any] = {"done": 0, "empty_windows": 0, "errors": []}
    shelf = Shelf(folder) if tokens else None

    def run(length: int) -> None:
        batch = waiting.pop(length)
        numbers, pieces = list(batch), deque(batch.values())
        batch.clear()
        for number, found in zip(numbers, _embed(pieces, model, folder, tokens=tokens)):
            vectors[number] = found if shelf is None else shelf.put(found)

    began, empty = 0, 0  # of the record in hand: its first row, its empty windows
    for ready in records:
        last = ready.next_window is None
        error = ready.error or (ready.nothing if len(rows) == began else None)
        if error is not None:
            facts["errors"].append([error.file, error.field, error.found, error.rule, error.hint])
            rows[began:] = [None] * (len(rows) - began)
            began, empty = len(rows), 0
            continue
        empty += ready.n_empty
        for piece in ready.pieces:
            length = _length_class(piece.x.shape[-1], model.spec.patch)
            batch = waiting.setdefault(length, {})
            batch[len(rows)] = piece
            rows.append(piece.row)
            if length <= _CHUNK_TOKENS * model.spec.patch:
                full = (len(batch) + 1) * length > short
            else:
                full = len(batch) == _IN_FLIGHT or (len(batch) + 1) * piece.samples > _LONG_BATCH
            if full:
                run(length)
            sizes = {length: sum(piece.samples for piece in batch.values()) for length, batch in waiting.items()}
            if sum(sizes.values()) > _WAITING:
                run(max(sizes, key=lambda length: sizes[length]))
        if last:
            facts["done"] += 1
            facts["empty_windows"] += empty
            began, empty = len(rows), 0
    for length in sorted(waiting):
        run(length)
    kept = [n for n, row in enumerate(rows) if row is not None]
    found = [vectors[n] for n in kept]
    if not tokens:
        found = [np.stack(found)] if found else []
    return found, [row for row in rows if row is not None], facts


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
