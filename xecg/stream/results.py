"""Where the tokens and events of a stream go: JSON lines, Parquet, WFDB annotations; and how its beats compare with reference marks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from xecg.errors import StreamError
from xecg.io.atomic import replacing, write_bytes
from xecg.signal import Annotations
from xecg.signal.peaks import match
from xecg.stream.events import DETECTOR, STREAM, Event, Token

__all__ = ["as_line", "beat_summary", "token_table", "write_annotations"]

_BEATS = frozenset(
    "NLRBAaJSVrFejnE/fQ?"
)  # beat marks of WFDB (annotation codes, PhysioNet); the rest is rhythm, noise, waves
_ROWS = 4096  # of a Parquet row group


def as_line(item: Token | Event, rate: float, *, vectors: bool = True) -> dict[str, Any]:
    """A token or event as JSON types, with times in seconds; without vectors the embedding is left out."""
    line: dict[str, Any] = {"kind": "token" if isinstance(item, Token) else "event"}
    for field in fields(item):
        value = getattr(item, field.name)
        if isinstance(value, np.ndarray):
            if not vectors:
                continue
            value = value.tolist()
        line["event" if field.name == "kind" else field.name] = value
    return {**line, "time_s": round(item.start / rate, 4)}


def beat_summary(found: Sequence[int], marks: Annotations, rate: float, *, tolerance_s: float = 0.15) -> dict[str, Any]:
    """Beats found (samples) against the beat marks, one to one within the tolerance (`xecg.signal.peaks`).

    150 ms is the usual tolerance of beat detection (ANSI/AAMI EC57). Every beat mark counts, those in the first minutes and in
    ventricular flutter too.
    """
    truth = np.array([s for s, symbol in zip(marks.sample.tolist(), marks.symbol) if symbol in _BEATS], np.int64)
    m = match(truth / rate, np.asarray(found, np.int64) / rate, tolerance_s)
    return {
        "reference_beats": len(truth),
        "found_beats": len(found),
        "matched": m.true_positive,
        "missed": m.false_negative,
        "extra": m.false_positive,
        "sensitivity": None if not len(truth) else round(m.sensitivity, 5),
        "ppv": None if not len(found) else round(m.ppv, 5),
        "median_error_ms": None if not m.true_positive else round(float(np.median(m.errors_s)) * 1e3, 2),
        "tolerance_ms": tolerance_s * 1e3,
    }


class _Table:
    def __init__(self, path: Path, width: int, model: str, rate: float) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa, self._width = pa, width
        self._rows: list[Token] = []
        self._schema = pa.schema(
            [
                ("stream", pa.string()),
                ("index", pa.int64()),
                ("start", pa.int64()),
                ("stop", pa.int64()),
                ("valid", pa.bool_()),
                ("embedding", pa.list_(pa.float32(), width)),
            ],
            metadata={"model_fingerprint": model, "rate_hz": repr(rate)},
        )
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def add(self, items: Sequence[Token | Event]) -> None:
        """Keep the tokens among these."""
        self._rows += [item for item in items if isinstance(item, Token)]
        if len(self._rows) >= _ROWS:
            self._write()

    def _write(self) -> None:
        pa, rows = self._pa, self._rows
        columns = [pa.array([getattr(t, name) for t in rows]) for name in ("id", "index", "start", "stop", "valid")]
        flat = np.concatenate([t.embedding for t in rows]) if rows else np.zeros(0, np.float32)
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), self._width))
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()


@contextmanager
def token_table(path: str | os.PathLike[str], *, width: int, model: str, rate: float) -> Iterator[_Table]:
    """A Parquet file of tokens, written as they come (`add`), in place when the block ends without an error."""
    with replacing(path) as temporary:
        table = _Table(temporary, width, model, rate)
        try:
            yield table
        finally:
            table.close()


def write_annotations(path: str | os.PathLike[str], events: Sequence[Event]) -> None:
    """Events as a WFDB annotation file, RECORD.EXTENSION, in samples of the record; whole or not at all.

    A beat of the detector is `Q` (a beat of unknown class), what a head saw a comment with label and maker, a gap a comment. Raises
    StreamError for a name that WFDB does not take.
    """
    import wfdb

    target = Path(path)
    name, extension = target.stem, target.suffix[1:]
    if not name.replace("_", "").replace("-", "").isalnum() or not extension.isalpha():
        raise StreamError(f"annotation file is {target.name!r}; needed RECORD.EXTENSION, as 100.qrs")
    told = sorted((e for e in events if not (e.by == STREAM and e.kind == "late")), key=lambda e: e.start)
    if not told:
        raise StreamError(
            f"there is no event to write to {target.name}; an empty WFDB annotation file cannot be written"
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wfdb.wrann(
            name,
            extension,
            np.array([e.start for e in told]),
            symbol=["Q" if e.by == DETECTOR else '"' for e in told],
            aux_note=["" if e.by == DETECTOR else f"{e.by}: {e.kind}" for e in told],
            write_dir=folder,
        )
        write_bytes(target, (Path(folder) / target.name).read_bytes())
