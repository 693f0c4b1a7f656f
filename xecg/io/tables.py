"""Result tables: embeddings as Parquet, refused files as JSON lines. The same rows give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xecg.errors import ReadError, ShapeError, XECGError
from xecg.io.atomic import replacing, write_text

__all__ = ["EmbeddingRow", "error_fields", "write_embeddings", "write_errors"]


@dataclass(frozen=True, eq=False)
class EmbeddingRow:
    """One embedded record or window: `embedding` float32 (D,), `quality` with names that start with quality_."""

    record_id: str
    source: str
    window_start_s: float
    window_s: float
    embedding: np.ndarray
    quality: Mapping[str, float | bool] = field(default_factory=dict)


def write_embeddings(
    path: str | os.PathLike[str], rows: Sequence[EmbeddingRow], *, spec_hash: str, model_fingerprint: str
) -> None:
    """Write rows to one Parquet file, in their order.

    Columns: record_id, source, window_start_s, window_s, embedding (fixed-size list of float32), quality_* (sorted by
    name, null where a row has none), spec_hash, model_fingerprint. Raises ShapeError where embeddings differ in length.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = len(rows[0].embedding) if rows else 0
    for row in rows:
        if row.embedding.shape != (width,):
            raise ShapeError(
                f"embedding of {row.record_id} has shape {row.embedding.shape}; needed ({width},) in every row"
            )
    flat = np.concatenate([row.embedding for row in rows]) if rows else np.zeros(0)
    columns: dict[str, Any] = {
        "record_id": pa.array([row.record_id for row in rows], pa.string()),
        "source": pa.array([row.source for row in rows], pa.string()),
        "window_start_s": pa.array([row.window_start_s for row in rows], pa.float64()),
        "window_s": pa.array([row.window_s for row in rows], pa.float64()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(np.float32)), max(width, 1)),
    }
    for name in sorted({name for row in rows for name in row.quality}):
        values = [row.quality.get(name) for row in rows]
        logical = all(value is None or isinstance(value, (bool, np.bool_)) for value in values)
        columns[name] = pa.array(values, pa.bool_() if logical else pa.float64(), from_pandas=False)
    columns["spec_hash"] = pa.array([spec_hash] * len(rows), pa.string())
    columns["model_fingerprint"] = pa.array([model_fingerprint] * len(rows), pa.string())
    with replacing(path) as temporary:
        pq.write_table(
            pa.table(columns), temporary, compression="zstd", use_dictionary=["spec_hash", "model_fingerprint"]
        )


def error_fields(error: XECGError) -> dict[str, str]:
    """The parts of an error as text: file, field, value, rule, hint."""
    if isinstance(error, ReadError):
        parts = (error.file, error.field, error.found, error.rule, error.hint)
    else:
        parts = ("", type(error).__name__, "", str(error), "")
    return dict(zip(("file", "field", "value", "rule", "hint"), parts))


def write_errors(path: str | os.PathLike[str], errors: Iterable[XECGError]) -> None:
    """Write refused files as JSON lines (file, field, value, rule, hint), sorted by file."""
    lines = (error_fields(error) for error in errors)
    ordered = sorted(lines, key=lambda fields: tuple(fields.values()))
    write_text(path, "".join(json.dumps(fields) + "\n" for fields in ordered))
