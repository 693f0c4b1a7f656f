"""Promises of `embed_archive`: bad files stop nothing, equal input gives equal bytes, an interruption costs a part."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import xecg
from xecg.errors import ReadError, SpecError
from xecg.model import XECG, XECGConfig, archive_inputs, archive_output
from xecg.model import archive as archive_module
from xecg.model.archive import embed_archive
from xecg.signal import PRESETS, STANDARD_LEADS, preprocess

# Batches of other lengths sum in another order: float32 rounding of a few hundred terms.
TOL_BATCH = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model() -> XECG:
    return XECG(XECGConfig(blocks="sm", dim=16, heads=2), spec=PRESETS["poly"], name="test").eval()


def rows(path: Path) -> dict[tuple[str, float], dict[str, Any]]:
    return {(row["record_id"], row["window_start_s"]): row for row in pq.read_table(path).to_pylist()}


def test_every_record_is_a_row_or_a_refusal(archive: Path, model: XECG, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    report = embed_archive(archive, model, out)
    assert [key for key, _ in rows(out)] == ["site-a/r0", "site-a/r1", "site-a/r2", "site-a/r3", "site-b/long"]
    assert (report.n_done, report.n_rows, report.n_refused) == (5, 5, 2)
    refused = [json.loads(line) for line in (tmp_path / "e.parquet.errors.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).stem for line in refused] == ["broken", "short"]
    assert refused[1]["field"] == "duration"
    assert refused[1]["value"] == "0.1 s"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet", "e.parquet.errors.jsonl"]


def test_row_is_what_the_three_calls_give(archive: Path, model: XECG, tmp_path: Path) -> None:
    embed_archive(archive, model, tmp_path / "e.parquet")
    recording = xecg.read(archive / "site-a" / "r2.hea")
    ready = preprocess(recording, model.spec)
    with torch.inference_mode():
        expected = model.embed(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].numpy()
    row = rows(tmp_path / "e.parquet")["site-a/r2", 0.0]
    np.testing.assert_allclose(row["embedding"], expected, **TOL_BATCH)
    assert row["source"] == "site-a/r2.hea"
    assert row["window_s"] == recording.duration_s
    assert row["spec_hash"] == model.spec.hash
    assert row["model_fingerprint"] == model.fingerprint


def test_window_is_embedded_as_a_recording_of_its_own(archive: Path, model: XECG, tmp_path: Path) -> None:
    report = embed_archive(archive, model, tmp_path / "w.parquet", window_s=20)
    table = rows(tmp_path / "w.parquet")
    assert [start for name, start in table if name == "site-b/long"] == [0.0, 20.0, 40.0, 60.0]
    assert table["site-b/long", 60.0]["window_s"] == pytest.approx(1.0)
    assert report.n_rows == 4 + 4
    recording = xecg.read(archive / "site-b" / "long.hea", start=20, end=40)
    ready = preprocess(recording, model.spec)
    with torch.inference_mode():
        expected = model.embed(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].numpy()
    np.testing.assert_allclose(table["site-b/long", 20.0]["embedding"], expected, **TOL_BATCH)


def test_tokens_too_many_for_memory_go_to_the_working_folder(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_archive(archive, model, tmp_path / "a")
    spills: list[Path] = []
    embed = XECG.embed

    def seen(self: XECG, *args: Any, spill: Path | None = None, **options: Any) -> torch.Tensor:
        spills.extend([spill] if spill is not None else [])
        return embed(self, *args, spill=spill, **options)

    monkeypatch.setattr(XECG, "embed", seen)
    monkeypatch.setattr(archive_module, "_SPILL_TOKENS", 10)
    embed_archive(archive, model, tmp_path / "b")
    assert set(spills) == {tmp_path / "b.partial"}
    assert not (tmp_path / "b.partial").exists()
    one, other = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert list(one) == list(other)
    for key, row in one.items():
        np.testing.assert_allclose(other[key]["embedding"], row["embedding"], **TOL_BATCH)


def test_missing_leads_are_masked_not_refused(archive: Path, model: XECG, tmp_path: Path) -> None:
    embed_archive(archive / "site-b" / "long.hea", model, tmp_path / "e.parquet")
    assert np.isfinite(rows(tmp_path / "e.parquet")["long", 0.0]["embedding"]).all()


def test_missing_stretch_has_no_part_in_the_embedding(archive: Path, model: XECG, tmp_path: Path) -> None:
    signal = xecg.read(archive / "site-a" / "r0.hea").signal.copy()
    signal[:, 2000:3500] = np.nan
    np.save(tmp_path / "gap.npy", signal)
    reading = {"rate": 500.0, "unit": "mV", "leads": STANDARD_LEADS}
    embed_archive(tmp_path / "gap.npy", model, tmp_path / "e.parquet", reading=reading)
    ready = preprocess(xecg.read(tmp_path / "gap.npy", **reading), model.spec)
    assert not ready.mask.all()
    with torch.inference_mode():
        expected = model.embed(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].numpy()
    np.testing.assert_allclose(rows(tmp_path / "e.parquet")["gap", 0.0]["embedding"], expected, **TOL_BATCH)


def test_same_input_gives_same_bytes(archive: Path, model: XECG, tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 4)):
        embed_archive(archive, model, tmp_path / name, window_s=7, workers=workers)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.errors.jsonl").read_bytes() == (tmp_path / "b.errors.jsonl").read_bytes()


def test_output_does_not_depend_on_where_the_archive_is(archive: Path, model: XECG, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "moved")
    embed_archive(archive, model, tmp_path / "a")
    embed_archive(tmp_path / "moved", model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_interrupted_run_goes_on_where_it_stopped(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_inputs, "_PART_RECORDS", 2)
    embed_archive(archive, model, tmp_path / "whole")
    reads: list[str] = []
    read = xecg.io.read
    monkeypatch.setattr(
        xecg.io, "read", lambda path, **policy: (reads.append(Path(path).stem), read(path, **policy))[1]
    )

    def interrupt(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_archive(archive, model, tmp_path / "e", workers=1, progress=interrupt)
    assert not (tmp_path / "e").exists()
    before = len(reads)
    embed_archive(archive, model, tmp_path / "e", workers=1)
    assert sorted(reads[before:]) == ["broken", "long", "short"]  # two parts of site-a were kept
    assert (tmp_path / "e").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not (tmp_path / "e.partial").exists()


def stopped_after(archive: Path, model: XECG, out: Path, records: int, **options: Any) -> list[Path]:
    """Interrupts a run when `records` records are done; returns the parts that it kept."""

    def interrupt(done: int, total: int) -> None:
        if done >= records:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_archive(archive, model, out, progress=interrupt, **options)
    return sorted(Path(f"{out}.partial").glob("*.part"))


def test_damaged_part_is_made_again(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_inputs, "_PART_RECORDS", 2)
    embed_archive(archive, model, tmp_path / "whole")
    (part,) = stopped_after(archive, model, tmp_path / "e", 2)
    data = bytearray(part.read_bytes())
    for flipped in (100, len(data) // 2):
        data[flipped] ^= 1
    part.write_bytes(data)
    embed_archive(archive, model, tmp_path / "e")
    assert (tmp_path / "e").read_bytes() == (tmp_path / "whole").read_bytes()


def test_parts_of_another_model_or_option_are_not_used(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_inputs, "_PART_RECORDS", 2)
    other = XECG(model.config, spec=model.spec, seed=1).eval()
    embed_archive(archive, model, tmp_path / "whole")
    stopped_after(archive, other, tmp_path / "e", 4)
    stopped_after(archive, model, tmp_path / "e", 4, window_s=5)
    embed_archive(archive, model, tmp_path / "e")
    assert (tmp_path / "e").read_bytes() == (tmp_path / "whole").read_bytes()


def test_changed_input_is_read_again(archive: Path, model: XECG, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(archive, root)
    (before,) = stopped_after(root, model, tmp_path / "e", 7)
    os.utime(root / "site-a" / "r0.dat", ns=(1, 1))
    assert set(stopped_after(root, model, tmp_path / "e", 7)) > {before}


def test_two_inputs_with_one_id_are_refused_before_work(archive: Path, model: XECG, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive / "site-a", copy)
    with pytest.raises(ReadError, match=r"'r0'.*same") as refusal:
        embed_archive([archive / "site-a", copy], model, tmp_path / "e")
    assert str(archive / "site-a" / "r0.hea") in str(refusal.value)
    assert not (tmp_path / "e").exists()


def test_empty_folder_is_refused(model: XECG, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="no recording"):
        embed_archive(tmp_path / "empty", model, tmp_path / "e")


def test_all_refused_gives_an_empty_table(archive: Path, model: XECG, tmp_path: Path) -> None:
    report = embed_archive(archive / "site-b" / "short.hea", model, tmp_path / "e")
    assert (report.n_rows, report.n_refused) == (0, 1)
    assert pq.read_table(tmp_path / "e").num_rows == 0


def test_list_of_refusals_goes_when_nothing_is_refused(archive: Path, model: XECG, tmp_path: Path) -> None:
    embed_archive(archive / "site-b", model, tmp_path / "e")
    assert (tmp_path / "e.errors.jsonl").exists()
    embed_archive(archive / "site-a", model, tmp_path / "e")
    assert not (tmp_path / "e.errors.jsonl").exists()


def test_shards_share_the_records_out(archive: Path, model: XECG, tmp_path: Path) -> None:
    whole = embed_archive(archive, model, tmp_path / "whole")
    reports = [embed_archive(archive, model, tmp_path / "shards" / str(i), shard=(i, 3)) for i in (1, 2, 3)]
    ids = [name for i in (1, 2, 3) for name, _ in rows(tmp_path / "shards" / str(i))]
    assert sorted(ids) == [name for name, _ in rows(tmp_path / "whole")]
    assert max(report.n_done for report in reports) < whole.n_done
    assert sum(report.n_refused for report in reports) == whole.n_refused
    with pytest.raises(SpecError, match="shard is 4/3"):
        embed_archive(archive, model, tmp_path / "no", shard=(4, 3))


def test_second_writer_is_refused_and_names_the_first(archive: Path, model: XECG, tmp_path: Path) -> None:
    with archive_output.working_folder(tmp_path / "e"), pytest.raises(SpecError, match=f"process {os.getpid()} on"):
        embed_archive(archive, model, tmp_path / "e")


def test_long_table_is_a_folder_with_a_manifest(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_archive(archive, model, tmp_path / "one", window_s=5)
    monkeypatch.setattr(archive_output, "_ONE_FILE_ROWS", 10)
    monkeypatch.setattr(archive_output, "_FILE_ROWS", 8)
    for _ in range(2):  # the second run takes the place of the first
        report = embed_archive(archive, model, tmp_path / "many", window_s=5)
    many, one = (str(pq.read_table(tmp_path / name).to_pylist()) for name in ("many", "one"))  # text: NaN equals itself
    assert many == one
    manifest = json.loads((tmp_path / "many" / "_manifest.json").read_text())
    assert [entry["rows"] for entry in manifest["files"]] == [8, 8, report.n_rows - 16]
    assert {path.name for path in (tmp_path / "many").iterdir()} == {
        "_manifest.json",
        *(entry["file"] for entry in manifest["files"]),
    }


def test_table_says_where_it_comes_from_and_that_it_is_untrained(archive: Path, model: XECG, tmp_path: Path) -> None:
    embed_archive(archive / "site-a", model, tmp_path / "e")
    metadata = pq.read_schema(tmp_path / "e").metadata
    assert metadata[b"xecg.model"] == b"test"
    assert metadata[b"xecg.model_fingerprint"] == model.fingerprint.encode()
    assert b"untrained" in metadata[b"xecg.trained"]


def test_defect_of_a_reader_costs_one_record(
    archive: Path, model: XECG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = xecg.io.read

    def fragile(path: Path, **policy: Any) -> Any:
        if Path(path).stem == "r1":
            raise IndexError("boom")
        return read(path, **policy)

    monkeypatch.setattr(xecg.io, "read", fragile)
    report = embed_archive(archive / "site-a", model, tmp_path / "e")
    assert report.n_done == 3
    assert report.errors[0].found == "failed with IndexError"


def test_folder_that_is_no_table_is_not_overwritten(archive: Path, model: XECG, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpecError, match="is a folder"):
        embed_archive(archive, model, tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "record_id"),
    [
        ("a/b.hea", "a/b"),
        ("a/b.1.hea", "a/b.1"),
        ("IM.0001", "IM.0001"),
        ("e\u0301.edf", "\u00e9"),
        ("x\udcff.edf", r"x\udcff"),
    ],
)
def test_record_id_is_the_path_without_suffix(name: str, record_id: str) -> None:
    assert archive_inputs._record_id(Path(name)) == record_id
