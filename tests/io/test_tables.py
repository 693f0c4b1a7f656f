"""Result tables: the columns that were promised, the same bytes for the same rows."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xecg.errors import ReadError, ShapeError, XECGError
from xecg.io import tables


def _rows(count: int = 5, width: int = 4) -> list[tables.EmbeddingRow]:
    rng = np.random.default_rng(0)
    return [
        tables.EmbeddingRow(
            f"a/{index}",
            f"a/{index}.hea",
            10.0 * index,
            10.0,
            rng.normal(size=width).astype(np.float32),
            {"quality_noise": 0.5, "quality_abstain": index == 1} if index else {},
        )
        for index in range(count)
    ]


def _write(path, rows):
    tables.write_embeddings(path, rows, spec_hash="s" * 16, model_fingerprint="m" * 16)
    return pq.read_table(path)


def test_embeddings_have_the_promised_columns(tmp_path):
    rows = _rows()
    table = _write(tmp_path / "out.parquet", rows)
    assert table.column_names == [
        "record_id",
        "source",
        "window_start_s",
        "window_s",
        "embedding",
        "quality_abstain",
        "quality_noise",
        "spec_hash",
        "model_fingerprint",
    ]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    assert table.schema.field("quality_abstain").type == pa.bool_()
    found = np.stack(table.column("embedding").to_pylist())
    np.testing.assert_array_equal(found.astype(np.float32), np.stack([row.embedding for row in rows]))
    assert table.column("quality_noise").to_pylist() == [None, 0.5, 0.5, 0.5, 0.5]
    assert table.column("record_id").to_pylist() == [row.record_id for row in rows]


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / name, _rows())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_row_is_a_table_too(tmp_path):
    assert _write(tmp_path / "out.parquet", []).num_rows == 0


def test_embeddings_of_unequal_length_are_refused(tmp_path):
    with pytest.raises(ShapeError, match=r"a/1 has shape \(5,\); needed \(4,\)"):
        _write(tmp_path / "out.parquet", [_rows()[0], _rows(2, 5)[1]])


def test_errors_are_lines_of_json_sorted_by_file(tmp_path):
    path = tmp_path / "errors.jsonl"
    errors = [
        ReadError("b.hea", "gain", "-1", "needed a positive gain", "Look."),
        XECGError("something else"),
        ReadError("a\nb.hea", "rate", 0, "needed Hz"),
    ]
    tables.write_errors(path, errors)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["", "a\nb.hea", "b.hea"]
    assert lines[2] == {
        "file": "b.hea",
        "field": "gain",
        "value": "-1",
        "rule": "needed a positive gain",
        "hint": "Look.",
    }
