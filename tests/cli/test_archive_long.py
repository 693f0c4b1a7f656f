"""Promises of `embed_archive` for long records: rows of tokens, reading by stretches, several records side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import xecg
from xecg.cli import main
from xecg.errors import ReadError
from xecg.io import write_wfdb
from xecg.model import XECG, XECGConfig, archive_output, archive_records
from xecg.model import archive as archive_module
from xecg.model.archive import CONTEXT_S, embed_archive
from xecg.signal import PRESETS, STANDARD_LEADS, Recording, preprocess, quality, simulate

TOL_BATCH = dict(rtol=1e-4, atol=1e-5)  # batches of other lengths sum in another order: float32 rounding


@pytest.fixture(scope="module")
def model() -> XECG:
    return XECG(XECGConfig(blocks="sm", dim=16, heads=2), spec=PRESETS["poly"], name="test").eval()


def encoded(model: XECG, recording: Recording) -> np.ndarray:
    ready = preprocess(recording, model.spec)
    with torch.inference_mode():
        return model.encode(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].numpy()


def rows(path: Path, record_id: str) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(path).to_pylist() if row["record_id"] == record_id]


# Rows of tokens.


def test_a_row_a_token_with_its_time(archive: Path, model: XECG, tmp_path: Path) -> None:
    report = embed_archive(archive, model, tmp_path / "t", tokens=True, context_s=None)
    assert (report.n_done, report.n_rows, report.n_refused) == (5, 4 * 40 + 244, 2)
    for name, file, count in (("site-a/r2", "site-a/r2.hea", 40), ("site-b/long", "site-b/long.hea", 244)):
        found = rows(tmp_path / "t", name)
        assert [row["window_start_s"] for row in found] == [0.25 * n for n in range(count)]
        assert {row["window_s"] for row in found} == {0.25} and {row["source"] for row in found} == {file}
        assert {row["model_fingerprint"] for row in found} == {model.fingerprint}
        expected = encoded(model, xecg.read(archive / file))
        np.testing.assert_allclose([row["embedding"] for row in found], expected, **TOL_BATCH)
    assert json.loads(pq.read_schema(tmp_path / "t").metadata[b"xecg.options"])["tokens"] is True
    assert not (tmp_path / "t.partial").exists()


def test_a_token_has_seen_its_window_and_no_more(archive: Path, model: XECG, tmp_path: Path) -> None:
    embed_archive(archive / "site-b" / "long.hea", model, tmp_path / "t", tokens=True, window_s=20)
    found = rows(tmp_path / "t", "long")
    assert [row["window_start_s"] for row in found] == [0.25 * n for n in range(244)]
    expected = encoded(model, xecg.read(archive / "site-b" / "long.hea", start=20, end=40))
    np.testing.assert_allclose([row["embedding"] for row in found[80:160]], expected, **TOL_BATCH)


def test_tokens_without_signal_have_no_row(archive: Path, model: XECG, tmp_path: Path) -> None:
    signal = xecg.read(archive / "site-a" / "r0.hea").signal.copy()
    signal[:, 2000:3500] = np.nan
    np.save(tmp_path / "gap.npy", signal)
    reading = {"rate": 500.0, "unit": "mV", "leads": STANDARD_LEADS}
    report = embed_archive(tmp_path / "gap.npy", model, tmp_path / "t", tokens=True, reading=reading)
    ready = preprocess(xecg.read(tmp_path / "gap.npy", **reading), model.spec)
    valid = model.valid_tokens(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].numpy()
    found = rows(tmp_path / "t", "gap")
    assert [row["window_start_s"] for row in found] == (0.25 * np.flatnonzero(valid)).tolist() and 0 < len(found) < 40
    assert report.n_rows == len(found) and report.n_empty_windows == 40 - len(found)
    expected = encoded(model, xecg.read(tmp_path / "gap.npy", **reading))[valid]
    np.testing.assert_allclose([row["embedding"] for row in found], expected, **TOL_BATCH)


def test_many_tokens_make_a_folder_and_equal_bytes(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_archive(archive, model, tmp_path / "one", tokens=True, workers=1)
    for name, value in (("_ONE_FILE_ROWS", 300), ("_FILE_ROWS", 150), ("_READ_ROWS", 7)):
        monkeypatch.setattr(archive_output, name, value)
    report = embed_archive(archive, model, tmp_path / "many", tokens=True, workers=4)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == [
        "_manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    one, many = pq.read_table(tmp_path / "one"), pq.read_table(tmp_path / "many")
    assert one.num_rows == report.n_rows and one.equals(many)


def test_the_command_writes_tokens(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    done = CliRunner().invoke(main, ["embed", str(archive / "site-a" / "r0.hea"), "-o", str(out), "--tokens", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["n_rows"] == 40 == pq.read_metadata(out).num_rows
    expected = encoded(xecg.load("tiny"), xecg.read(archive / "site-a" / "r0.hea"))
    np.testing.assert_allclose([row["embedding"] for row in rows(out, "r0")], expected, rtol=1e-3, atol=1e-4)


# A record in contexts.


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_row_of_a_long_record_pools_the_tokens_of_its_contexts(archive: Path, tmp_path: Path, pooling: str) -> None:
    config = XECGConfig(blocks="sm", dim=16, heads=2, pooling=pooling)
    model, file = XECG(config, spec=PRESETS["poly"], name="test").eval(), archive / "site-b" / "long.hea"
    spans = ((0, 25), (25, 50), (50, 61))
    tokens = np.concatenate([encoded(model, xecg.read(file, start=a, end=b)) for a, b in spans])
    report = embed_archive(file, model, tmp_path / "e", context_s=25)
    (row,) = rows(tmp_path / "e", "long")
    np.testing.assert_allclose(row["embedding"], getattr(tokens, pooling)(0), **TOL_BATCH)
    assert (row["window_start_s"], row["window_s"], report.n_rows) == (0.0, 61.0, 1)
    whole = quality.assess(xecg.read(file)).as_columns()
    assert {name: row[name] for name in whole} == pytest.approx(whole, nan_ok=True)
    embed_archive(file, model, tmp_path / "t", context_s=25, tokens=True)
    np.testing.assert_allclose([row["embedding"] for row in rows(tmp_path / "t", "long")], tokens, **TOL_BATCH)


def test_a_record_within_the_context_is_embedded_as_ever(archive: Path, model: XECG, tmp_path: Path) -> None:
    for name, context_s in (("default", CONTEXT_S), ("whole", None)):
        embed_archive(archive / "site-a", model, tmp_path / name, context_s=context_s)
    default, whole = (pq.read_table(tmp_path / name) for name in ("default", "whole"))
    assert default["embedding"].equals(whole["embedding"]) and CONTEXT_S == 60


def test_contexts_are_read_by_stretches(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archive / "site-b" / "long.hea"
    embed_archive(file, model, tmp_path / "whole", context_s=10)
    in_stretches(monkeypatch, 20.0)
    spans = spied(monkeypatch)
    embed_archive(file, model, tmp_path / "parts", context_s=10)
    assert [start for start, _ in spans] == [0, 20, 40, 60]
    (whole,), (parts,) = (rows(tmp_path / name, "long") for name in ("whole", "parts"))
    assert parts["embedding"] == whole["embedding"] and parts["window_s"] == pytest.approx(61)
    assert parts["quality_gap"] == whole["quality_gap"] and parts["quality_noise"] == pytest.approx(
        whole["quality_noise"]
    )
    assert parts["quality_abstain"] is whole["quality_abstain"] is False


def test_the_command_takes_a_context_or_the_record(archive: Path, tmp_path: Path) -> None:
    def run(name: str, *options: str) -> tuple[int, str]:
        file, out = str(archive / "site-b" / "long.hea"), str(tmp_path / name)
        done = CliRunner().invoke(main, ["embed", file, "-o", out, *options])
        return done.exit_code, done.stderr

    assert run("default")[0] == run("record", "--context", "record")[0] == run("minute", "--context", "60")[0] == 0
    default, record, minute = (
        rows(tmp_path / name, "long")[0]["embedding"] for name in ("default", "record", "minute")
    )
    assert default == minute != record
    expected = encoded(xecg.load("tiny"), xecg.read(archive / "site-b" / "long.hea")).mean(0)
    np.testing.assert_allclose(record, expected, rtol=1e-3, atol=1e-4)
    for wrong in (("--context", "0"), ("--context", "all"), ("--window", "10", "--context", "5")):
        assert run("wrong", *wrong)[0] == 2
    assert "context_s is 0.1" in run("wrong", "--context", "0.1")[1]


# Reading by stretches.


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float | None, float | None]]:
    spans: list[tuple[float | None, float | None]] = []
    read = xecg.io.read

    def seen(path: Path, *, start: float | None = None, end: float | None = None, **policy: Any) -> Recording:
        spans.append((start, end))
        return read(path, start=start, end=end, **policy)

    monkeypatch.setattr(xecg.io, "read", seen)
    return spans


def in_stretches(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(archive_records, "_LONG_BYTES", 0)
    monkeypatch.setattr(archive_records, "_STRETCH_S", seconds)


@pytest.mark.parametrize(("window_s", "tokens"), [(7.0, False), (0.7, True), (10.0, False), (30.0, True)])
def test_stretches_give_the_bytes_of_the_whole(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_s: float, tokens: bool
) -> None:
    embed_archive(archive, model, tmp_path / "whole", window_s=window_s, tokens=tokens)
    in_stretches(monkeypatch, 20.0)
    spans = spied(monkeypatch)
    report = embed_archive(archive, model, tmp_path / "parts", window_s=window_s, tokens=tokens, workers=2)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert (tmp_path / "parts.errors.jsonl").read_bytes() == (tmp_path / "whole.errors.jsonl").read_bytes()
    assert (report.n_done, report.n_refused) == (5, 2)
    assert all(end - start <= max(20.0, window_s) + 1 for start, end in spans)  # type: ignore[operator]
    assert len(spans) > 7


def test_short_records_whole_contexts_and_strict_reading_are_read_whole(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = spied(monkeypatch)
    embed_archive(archive, model, tmp_path / "short", window_s=10)
    in_stretches(monkeypatch, 20.0)
    embed_archive(archive, model, tmp_path / "whole", context_s=None)
    embed_archive(archive, model, tmp_path / "strict", window_s=10, reading={"strict": True})
    assert set(spans) == {(None, None)} and len(spans) == 21


def test_a_refusal_in_a_later_stretch_takes_the_record_out(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_stretches(monkeypatch, 20.0)
    read = xecg.io.read

    def torn(path: Path, *, start: float, **policy: Any) -> Recording:
        if start >= 40 and "long" in str(path):
            raise ReadError(str(path), "data", "torn", "needed a whole file")
        return read(path, start=start, **policy)

    monkeypatch.setattr(xecg.io, "read", torn)
    report = embed_archive(archive, model, tmp_path / "e", window_s=10)
    assert (report.n_done, report.n_rows, report.n_refused) == (4, 4, 3)
    assert "site-b/long" not in pq.read_table(tmp_path / "e")["record_id"].to_pylist()
    assert {error.found for error in report.errors} >= {"torn"}


def test_a_quiet_stretch_of_a_known_unit_is_no_refusal(
    model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = simulate.ecg(seed=4, rate_hz=250.0, duration_s=60.0, leads=("II", "V1"))
    quiet = made.signal.copy()
    quiet[:, 7500:] *= 1e-3
    write_wfdb(made.with_(signal=quiet, annotations=None), tmp_path, "quiet")
    with pytest.raises(ReadError, match="amplitude"):
        xecg.read(tmp_path / "quiet", start=40)
    noted = xecg.read(tmp_path / "quiet", start=40, any_amplitude=True).log
    assert any(entry.field == "amplitude" and entry.kind == "guessed" for entry in noted)
    embed_archive(tmp_path / "quiet.hea", model, tmp_path / "whole", window_s=10)
    in_stretches(monkeypatch, 20.0)
    assert embed_archive(tmp_path / "quiet.hea", model, tmp_path / "parts", window_s=10).n_rows == 6
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


# Several records side by side.


def test_long_records_share_a_batch_and_give_what_they_give_alone(
    model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for n, seconds in enumerate((60, 62, 64, 70, 66)):
        leads = ("II", "V1") if n % 2 else ("V5",)
        write_wfdb(simulate.ecg(seed=n, rate_hz=250.0, duration_s=seconds, leads=leads), folder, f"r{n}")
    monkeypatch.setattr(archive_module, "_CHUNK_TOKENS", 128)
    sizes: list[int] = []
    embed = XECG.embed

    def seen(self: XECG, x: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(x))
        return embed(self, x, **options)

    monkeypatch.setattr(XECG, "embed", seen)
    embed_archive(folder, model, tmp_path / "together", context_s=None)
    assert sizes == [5]
    monkeypatch.setattr(archive_module, "_IN_FLIGHT", 2)
    embed_archive(folder, model, tmp_path / "pairs", context_s=None)
    assert sizes[1:] == [2, 2, 1]
    monkeypatch.setattr(archive_module, "_IN_FLIGHT", 8)
    monkeypatch.setattr(archive_module, "_LONG_BATCH", 20_000)  # samples: two of one lead, or one of two
    embed_archive(folder, model, tmp_path / "by-size", context_s=None)
    assert max(sizes[4:]) <= 2 and sum(sizes[4:]) == 5
    together = rows_by_id(tmp_path / "together")
    for n in range(5):
        embed_archive(folder / f"r{n}.hea", model, tmp_path / f"alone-{n}", context_s=None)
        (alone,) = rows(tmp_path / f"alone-{n}", f"r{n}")
        for name in ("together", "pairs", "by-size"):
            found = rows_by_id(tmp_path / name)[f"r{n}"]
            np.testing.assert_allclose(found["embedding"], alone["embedding"], **TOL_BATCH)
            assert found["window_s"] == alone["window_s"]
    assert list(together) == [f"r{n}" for n in range(5)]


def rows_by_id(path: Path) -> dict[str, dict[str, Any]]:
    return {row["record_id"]: row for row in pq.read_table(path).to_pylist()}
