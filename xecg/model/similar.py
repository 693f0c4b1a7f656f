"""The nearest rows of an embedding table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xecg.errors import SpecError

__all__ = ["nearest"]


def nearest(
    table: str | Path, record_id: str, *, window_start_s: float = 0.0, count: int = 10
) -> list[tuple[str, float, float]]:
    """The rows of an embedding table nearest to one of its rows: (record id, window start in s, cosine similarity).

    The row itself is left out. Raises SpecError when the table has no such row or comes from more than one model.
    """
    import pyarrow.parquet as pq

    columns = ["record_id", "window_start_s", "embedding", "model_fingerprint"]
    rows = pq.read_table(table, columns=columns)
    models = set(rows["model_fingerprint"].to_pylist())
    if len(models) > 1:
        raise SpecError(f"{table} holds embeddings of {len(models)} models; needed one: they cannot be compared")
    ids, starts = rows["record_id"].to_pylist(), rows["window_start_s"].to_numpy()
    own = [n for n, name in enumerate(ids) if name == record_id and starts[n] == window_start_s]
    if not own:
        found = f"its windows start at {sorted(starts[n] for n, name in enumerate(ids) if name == record_id)[:5]} s"
        known = found if record_id in set(ids) else f"its first ids are {', '.join(ids[:3])}"
        raise SpecError(f"{table} has no row of {record_id} at {window_start_s:g} s; {known}")
    vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1).astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similarity = unit @ unit[own[0]]
    order = np.argsort(-similarity, kind="stable")
    return [(ids[n], float(starts[n]), float(similarity[n])) for n in order if n != own[0]][:count]
