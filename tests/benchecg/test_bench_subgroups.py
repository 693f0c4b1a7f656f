"""Subgroups: right bands, right numbers, recomputed from the predictions alone, small groups flagged, nobody named."""

import csv
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench_data import MeanAdapter, write_record
from sklearn.metrics import roc_auc_score

from benchecg.predictions import GROUPS, peak_predictions_of, predictions_of, read_predictions
from benchecg.report import render
from benchecg.running import load_data, run
from benchecg.scoring import score
from benchecg.subgroups import age_band, record_facts
from benchecg.tasks import load_task
from benchecg.verifying import rescore
from xecg import read
from xecg.errors import ReadError


class Coin(MeanAdapter):
    """Features that know little, so that groups differ."""

    id = "coin"

    def _one(self, r):
        tokens = super()._one(r)
        rng = np.random.default_rng(abs(int(1e6 * r.signal[0, 0])))
        return type(tokens)(
            (tokens.values + rng.normal(0, 0.6, (1, 2))).astype(np.float32), tokens.start_s, tokens.length_s
        )


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


@pytest.fixture(scope="module")
def result(sex, tmp_path_factory):
    out = tmp_path_factory.mktemp("groups")
    return run(sex, Coin(), out=out), out


def _rows(result, by):
    return {g["group"]: g for g in result.subgroups if g["by"] == by}


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "<40"), (39.9, "<40"), (40, "40–59"), (59.99, "40–59"), (60, "60–74"), (75, ">=75"), (300, ">=75"),
     (None, "unknown"), (float("nan"), "unknown"), (-1, "unknown")],
)  # fmt: skip
def test_age_bands_meet_without_a_gap(age, band):
    assert age_band(age) == band


def test_groups_are_those_of_the_headers(sex, result):
    found, _ = result
    test = [r for r in sex.data.records if r.split == "test"]
    metas = [read(r.path).meta for r in test]
    for by, fact in (("sex", lambda m: m["sex"]), ("age_band", lambda m: age_band(m["age"]))):
        rows = _rows(found, by)
        assert {g: n["units"] for g, n in rows.items()} == {
            g: sum(fact(m) == g for m in metas) for g in {fact(m) for m in metas}
        }
        for g, row in rows.items():
            assert row["patients"] == len({r.patient for r, m in zip(test, metas) if fact(m) == g})
            assert row["few"] == (row["units"] < 30 or row["patients"] < 20)
    assert _rows(found, "source").keys() == {sex.task.dataset.name}
    assert any(g["few"] for g in found.subgroups) and not all(g["few"] for g in found.subgroups)


def test_a_groups_value_is_the_metric_of_its_rows(result):
    found, out = result
    p = read_predictions(out / "predictions.parquet")
    rows = _rows(found, "age_band")
    assert len(rows) >= 3
    for band, row in rows.items():
        inside = p.groups["age_band"] == band
        assert row["value"] == pytest.approx(roc_auc_score(p.y[inside], p.score[inside]))
        alone = min(len(set(p.patient_id[inside & (p.y == y)])) for y in (0, 1)) == 1  # a class of one patient
        assert row["low"] is None if alone else row["low"] <= row["value"] <= row["high"]
    assert len({round(row["value"], 6) for row in rows.values()}) > 1
    one_class = _rows(found, "sex")
    assert all(row["value"] is None and row["undefined"] == 1 for row in one_class.values())  # AUROC of one sex


def test_a_group_of_everyone_has_the_headline(result):
    found, _ = result
    (whole,) = _rows(found, "source").values()
    assert {k: whole[k] for k in found.headline} == found.headline
    assert whole["units"] == found.support["units"] and whole["patients"] == found.support["patients"]


def test_the_table_comes_from_the_predictions_alone(result, monkeypatch):
    found, out = result
    monkeypatch.setattr("xecg.read", None)
    assert score(read_predictions(out / "predictions.parquet"))["subgroups"] == found.subgroups
    assert rescore(out)["same"]


def test_changed_facts_are_noticed_by_rescoring(sex, tmp_path):
    run(sex, Coin(), out=tmp_path)
    path = tmp_path / "predictions.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("age_band")
    pq.write_table(table.set_column(at, "age_band", [["<40"] * table.num_rows]), path)
    assert not rescore(tmp_path)["same"]


def test_predictions_without_groups_are_refused(result, tmp_path):
    table = pq.read_table(result[1] / "predictions.parquet")
    pq.write_table(table.drop_columns(["sex"]), tmp_path / "old.parquet")
    with pytest.raises(ReadError, match="sex"):
        read_predictions(tmp_path / "old.parquet")


def test_no_age_is_written_only_its_band(result):
    table = pq.read_table(result[1] / "predictions.parquet")
    assert "age" not in table.column_names
    assert set(table["age_band"].to_pylist()) <= {"<40", "40–59", "60–74", ">=75", "unknown"}


def test_facts_come_from_the_cache_and_a_damaged_file_is_made_again(sex, tmp_path):
    seen = []

    def counting(items):
        seen.append(len(list(items)))
        return items

    facts = {"data_sha256": sex.data_sha256, "cache": tmp_path, "progress": counting}
    first = record_facts(sex.task, sex.data, **facts)
    again = record_facts(sex.task, sex.data, **facts)
    (path,) = tmp_path.glob("facts-*.json")
    path.write_text(path.read_text()[:40])
    repaired = record_facts(sex.task, sex.data, **facts)
    assert len(seen) == 2
    for name in first:
        assert first[name].tolist() == again[name].tolist() == repaired[name].tolist()
    record_facts(sex.task, sex.data, **(facts | {"data_sha256": "other"}))
    assert len(seen) == 3


def test_every_beat_and_peak_has_its_records_group(small_mitdb, tmp_path):
    for task in ("mitbih-beats", "mitbih-rpeaks"):
        found = run(load_data(load_task(task), small_mitdb), MeanAdapter(), out=tmp_path / task)
        for by in ("sex", "age_band", "source", "quality"):
            rows = _rows(found, by).values()
            assert sum(row["units"] for row in rows) == found.support["units"]
            assert sum(row["patients"] for row in rows) == 22
        assert _rows(found, "sex").keys() == {"unknown"}


def test_a_row_has_the_facts_of_its_own_record(small_mitdb):
    loaded = load_data(load_task("mitbih-rpeaks"), small_mitdb)
    ids = np.array([r.id for r in loaded.data.records])
    test = [i for i, r in enumerate(loaded.data.records) if r.split == "test"]
    found = {i: (np.array([0.5, 1.5]), np.ones(2)) for i in test}
    facts = {"model": "m", "groups": dict.fromkeys(GROUPS, ids), "seed": 0}
    peaks = peak_predictions_of(loaded.task, loaded.data, found=found, **facts)
    n = int(loaded.data.in_split("test").sum())
    units = predictions_of(loaded.task, loaded.data, score=np.zeros(n), valid=np.ones(n, bool), **facts)
    for table in (peaks, units):
        assert len(set(table.record_id)) == 22
        for name in GROUPS:
            assert table.groups[name].tolist() == table.record_id.tolist()


def test_a_flat_recording_is_in_the_group_that_abstains(small_code15, tmp_path):
    folder = tmp_path / "challenge-2025"
    folder.mkdir()
    for path in (small_code15 / "challenge-2025").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    loaded = load_data(load_task("open-age"), tmp_path)
    record = next(r for r in loaded.data.records if r.split == "test")
    before = record_facts(loaded.task, loaded.data, data_sha256="")["quality"]
    real = read(record.path)
    write_record(
        folder, record.id, real.signal * 0, rate=400, leads=list(real.leads), comments=["Age: 50", "Sex: Male"]
    )
    after = record_facts(loaded.task, loaded.data, data_sha256="")["quality"]
    i = loaded.data.records.index(record)
    assert after[i] == "abstain" and (np.delete(after, i) == np.delete(before, i)).all()


def test_ptbxl_facts_come_from_its_table(small_ptbxl):
    loaded = load_data(load_task("ptbxl-superclass"), small_ptbxl)
    facts = record_facts(loaded.task, loaded.data, data_sha256="")
    with (small_ptbxl / "ptb-xl" / "ptbxl_database.csv").open() as handle:
        assert {(r["age"], r["sex"]) for r in csv.DictReader(handle)} == {("60.0", "1")}
    test = np.array([r.split == "test" for r in loaded.data.records])
    assert test.any() and set(facts["sex"][test]) == {"F"} and set(facts["age_band"][test]) == {"60–74"}
    assert set(facts["sex"][~test]) == {""}


def test_the_report_shows_every_group_and_flags_the_small(result):
    found, _ = result
    page = render([found])
    table = re.search(r"Subgroups of the test set: AUROC.*?</table>", page, re.S).group()
    for g in found.subgroups:
        assert f"{g['group'].replace('>', '&gt;').replace('<', '&lt;')}<br>" in table
    assert table.count(">few<") == sum(g["few"] for g in found.subgroups)
