"""The roofline: which rows are in it, where, and that it is drawn from files of CPU and GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import roofline
from bench.__main__ import main

ROOT = Path(__file__).resolve().parents[1]


def row(**changes: object) -> dict[str, object]:
    given = {"id": "a", "op": "mlstm", "dtype": "bfloat16", "threads": 1, "flops": 4e9, "bytes": 1e9, "device_s": 1e-3}
    return given | {"machine": "a fake GPU", "commit": "abc"} | changes


RESULT = {
    "ceilings": {"gemm_flops": 8e14, "gemm_dtype": "bfloat16", "copy_bytes": 3e12},
    "rows": [
        row(),
        row(id="b", bytes=0.0),
        row(id="c", flops=0.0),
        row(id="d", threads=2),
        row(id="e", device_s=None, failed="wrong"),
        {"id": "f", "op": "x", "threads": 1, "value": 3.0, "unit": "dB", "machine": "m", "commit": "abc"},
    ],
}


def test_a_point_is_operations_per_byte_and_per_second() -> None:
    assert roofline.points(RESULT) == [roofline.Point("a", "mlstm", "bfloat16", 4.0, pytest.approx(4e12))]
    cpu = {"rows": [row(cpu_s=2e-3, time_s=5e-3) | {"device_s": 2e-3}]}
    assert roofline.points(cpu)[0].rate == pytest.approx(2e12)


def test_the_picture_holds_ceilings_and_legend_and_has_no_date(tmp_path: Path) -> None:
    file, out = tmp_path / "gpu.json", tmp_path / "gpu.svg"
    file.write_text(json.dumps(RESULT))
    done = CliRunner().invoke(main, ["roofline", str(file), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "1 rows; 5 without" in done.output
    text = out.read_text()
    assert "<svg" in text and "dc:date" not in text
    for comment in (
        "ceilings: bfloat16 matrix product 800 TFLOP/s, copy 3 TB/s",
        "mlstm, bfloat16",
        "a fake GPU, commit abc",
    ):
        assert comment in text


def test_a_committed_file_can_be_drawn_and_an_empty_one_too(tmp_path: Path) -> None:
    result = json.loads((ROOT / "bench" / "results" / "cpu.json").read_text())
    assert "rows" in roofline.draw(result, tmp_path / "cpu.svg")
    assert len(roofline.points(result)) >= 10
    assert "0 rows" in roofline.draw({**RESULT, "rows": []}, tmp_path / "none.png")
