"""The nearest rows of an embedding table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xecg.errors import SpecError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["nearest"]


def nearest(
    table: str | Path, record_id: str, *, window_start_s: float = 0.0, count: int = 10
) -> list[tuple[str, float, float]]:
    """The rows of an embedding table nearest to one of its rows: (record id, window start in s, cosine similarity).

    The row itself is left out. Raises SpecError for what is no whole table of embeddings, and when the table has no such row or comes
    from more than one model.
    """
    rows = _read(table)
    models = set(rows["model_fingerprint"].to_pylist())
    if len(models) > 1:
        raise SpecError(f"{table} holds embeddings of {len(models)} models; needed one: they cannot be compared")
    ids, starts = rows["record_id"].to_pylist(), rows["window_start_s"].to_numpy()
    own = [n for n, name in enumerate(ids) if name == record_id and starts[n] == window_start_s]
    if not own:
        begins = sorted(float(starts[n]) for n, name in enumerate(ids) if name == record_id)[:5]
        known = f"its first ids are {', '.join(ids[:3])}" if ids else "it is empty"
        if begins:
            known = f"its windows start at {', '.join(f'{s:g}' for s in begins)} s"
        raise SpecError(f"{table} has no row of {record_id} at {window_start_s:g} s; {known}")
    vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1).astype(np.float64)
    if not np.isfinite(vectors).all():
        raise SpecError(f"{table} holds embeddings that are not finite; needed those of `xecg embed`: make it anew")
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similarity = unit @ unit[own[0]]
    order = np.argsort(-similarity, kind="stable")
    return [(ids[n], float(starts[n]), float(similarity[n])) for n in order if n != own[0]][:count]


def _read(table: str | Path) -> pa.Table:
    """The columns that count, of their types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = "needed a table that `xecg embed` wrote: copy it whole, or make it anew"
    try:
        rows = pq.read_table(table, columns=["record_id", "window_start_s", "embedding", "model_fingerprint"])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"{table} is no table of embeddings ({reason}); {needed}") from None
    types = {name: str(rows.schema.field(name).type) for name in ("record_id", "window_start_s", "embedding")}
    vectors = rows.schema.field("embedding").type
    if (
        types["record_id"] != "string"
        or types["window_start_s"] != "double"
        or not pa.types.is_fixed_size_list(vectors)
    ):
        told = ", ".join(f"{name} {kind}" for name, kind in types.items())
        raise SpecError(f"{table} has the columns {told}; {needed}")
    return rows
