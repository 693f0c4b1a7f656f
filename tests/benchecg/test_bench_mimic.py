"""The MIMIC-IV tasks on small tables in the original layout: which blood test belongs to which ECG, and ages."""

import gzip

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchecg.metrics import statistic
from benchecg.protocols.linear_probe import linear_probe
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from tests.benchecg.bench_data import MeanAdapter, write_record
from xecg.errors import DataMissing, ReadError
from xecg.signal import STANDARD_LEADS

CLASSES = load_task("blood-tests").classes


@pytest.fixture
def labs(tmp_path):
    """Three patients with ECGs at noon; returns a function that writes events and gives the labels by study."""
    folder = tmp_path / "mimic-iv-ecg"
    lines = ["file_name,study_id,subject_id,ecg_time,age,fold"]
    for subject, study, at, fold in [
        (1, 10, "12:00", 0),
        (1, 11, "18:00", 0),
        (2, 20, "12:00", 18),
        (3, 30, "12:00", 19),
    ]:
        where = folder / "files" / f"p{subject}" / f"s{study}"
        write_record(where, str(study), np.zeros((12, 100)), rate=500, leads=list(STANDARD_LEADS))
        name = f"mimic-iv-ecg/1.0/files/p{subject}/s{study}/{study}"
        lines.append(f"{name},{study},{subject},2150-01-01 {at}:00,61,{fold}")
    (folder / "records_w_diag_icd10.csv").write_text("\n".join(lines) + "\n")
    items = "itemid,label,fluid\n1,Hemoglobin,Blood\n2,Hemoglobin,Urine\n3,NTproBNP,Blood\n4,Hemoglobin,Blood\n5,Sodium,Blood\n"
    (folder / "d_labitems.csv.gz").write_bytes(gzip.compress(items.encode()))

    def load(*events: str):
        head = "subject_id,itemid,charttime,valuenum,ref_range_lower,ref_range_upper\n"
        (folder / "labevents.csv.gz").write_bytes(gzip.compress((head + "\n".join(events) + "\n").encode()))
        data = load_task("blood-tests").load(tmp_path)
        named = [{c: v for c, v in zip(CLASSES, row) if not np.isnan(v)} for row in data.label]
        return {r.id: levels for r, levels in zip(data.records, named)}, data

    load.root = tmp_path
    return load


def _hemoglobin(level: str) -> dict[str, float]:
    return {f"Hemoglobin/{each}": float(each == level) for each in ("low", "normal", "high")}


def test_a_result_belongs_to_the_ecg_nearest_in_time_within_an_hour(labs):
    found, data = labs(
        "1,1,2150-01-01 12:59:00,5,12,16",
        "1,1,2150-01-01 17:30:00,14,12,16",
        "2,1,2150-01-01 13:01:00,5,12,16",
        "3,1,2150-01-01 11:00:00,20,12,16",
    )
    assert found == {"mimic/10": _hemoglobin("low"), "mimic/11": _hemoglobin("normal"), "mimic/30": _hemoglobin("high")}
    assert [r.split for r in data.records] == ["train", "train", "test"]


def test_of_several_results_the_nearest_counts_and_not_the_latest(labs):
    """The reference keeps the one farthest after the ECG, and loses the label when that is more than an hour away."""
    found, _ = labs(
        "2,1,2150-01-01 12:05:00,5,12,16", "2,1,2150-01-01 15:00:00,14,12,16", "2,1,2150-01-01 11:30:00,14,12,16"
    )
    assert found == {"mimic/20": _hemoglobin("low")}


def test_only_blood_and_only_the_item_used_most_counts(labs):
    found, _ = labs(
        "2,1,2150-01-01 12:20:00,14,12,16", "3,1,2150-01-01 12:00:00,5,12,16",
        "2,4,2150-01-01 12:01:00,5,12,16", "2,2,2150-01-01 12:00:00,5,12,16", "2,5,2150-01-01 12:00:00,5,12,16",
    )  # fmt: skip
    assert found["mimic/20"] == _hemoglobin("normal")


def test_a_low_value_of_a_two_class_test_and_one_without_range_are_no_answer(labs):
    found, _ = labs(
        "2,3,2150-01-01 12:00:00,5,10,100", "3,3,2150-01-01 12:00:00,500,10,100", "1,1,2150-01-01 12:00:00,5,,16"
    )
    assert found == {"mimic/30": {"NTproBNP/normal": 0.0, "NTproBNP/high": 1.0}}


def test_what_is_missing_or_no_number_of_a_date_is_said(labs):
    with pytest.raises(ReadError, match="date is 'noon'"):
        labs("2,1,noon,5,12,16")
    (labs.root / "mimic-iv-ecg" / "d_labitems.csv.gz").unlink()
    with pytest.raises(DataMissing, match=r"d_labitems\.csv\.gz is missing.*credentialed"):
        load_task("blood-tests").load(labs.root)


def _panel(n: int = 400):
    rng = np.random.default_rng(0)
    classes = ("a/low", "a/normal", "a/high", "b/normal", "b/high")
    x = rng.normal(size=(n, 4))
    a, b = np.digitize(x[:, 0] + 0.3 * rng.normal(size=n), (-0.7, 0.7)), (x[:, 1] > 0.5).astype(int)
    label = np.concatenate([np.eye(3)[a], np.eye(2)[b]], 1)
    label[rng.random(n) < 0.3, :3] = np.nan
    label[rng.random(n) < 0.3, 3:] = np.nan
    return classes, x, label


def test_a_panels_score_is_the_mean_over_questions_of_one_against_the_rest():
    classes, _, label = _panel()
    score = np.random.default_rng(1).normal(size=label.shape) + np.nan_to_num(label)
    every = np.ones(len(label), bool)
    found = statistic(
        "panel", truth=label, score=score, valid=every, cluster=np.arange(len(label)), classes=classes
    ).point()
    each = []
    for c in range(5):
        rows = ~np.isnan(label[:, c])
        each.append(roc_auc_score(label[rows, c], score[rows, c]))
        assert found[f"auroc/{classes[c]}"] == pytest.approx(each[-1])
    assert found["mean_auroc"] == pytest.approx((np.mean(each[:3]) + np.mean(each[3:])) / 2)


def test_a_panels_head_is_fitted_on_the_units_that_answer(small_task):
    classes, x, label = _panel()
    split = np.arange(len(x)) % 4
    probe = linear_probe(
        small_task(classes), features=x, valid=np.ones(len(x), bool), label=label,
        train=split < 2, val=split == 2, test=split == 3,
    )  # fmt: skip
    rows = (split < 3) & ~np.isnan(label[:, 0])
    z = (x - x[split < 3].mean(0)) / x[split < 3].std(0)
    alone = LogisticRegression(C=probe.c, max_iter=1000).fit(z[rows], label[rows, :3].argmax(1))
    np.testing.assert_allclose(probe.score[:, :3], alone.predict_log_proba(z[split == 3]), atol=1e-4)


@pytest.fixture
def small_task():
    from dataclasses import replace

    return lambda classes: replace(load_task("blood-tests"), classes=classes)


def test_blood_tests_run_from_tables_to_a_score(labs, tmp_path):
    folder = labs.root / "mimic-iv-ecg"
    rng = np.random.default_rng(0)
    lines, events = ["file_name,study_id,subject_id,ecg_time,age,fold"], []
    for i in range(90):
        level = i % 3
        where = folder / "files" / f"q{i}"
        signal = rng.normal(0, 0.2 + 0.3 * level, (12, 1000))
        write_record(where, str(1000 + i), signal, rate=500, leads=list(STANDARD_LEADS))
        lines.append(f"files/q{i}/{1000 + i},{1000 + i},{100 + i},2150-01-01 12:00:00,60,{(0, 18, 19)[i // 3 % 3]}")
        events.append(f"{100 + i},1,2150-01-01 12:10:00,{(5, 14, 20)[level]},12,16")
    (folder / "records_w_diag_icd10.csv").write_text("\n".join(lines) + "\n")
    labs(*events)
    result = run(load_data(load_task("blood-tests"), labs.root), MeanAdapter(), out=tmp_path / "run")
    assert result.status == "scored" and result.metrics["mean_auroc"]["value"] > 0.7
    assert result.metrics["auroc/Ferritin"]["value"] is None
    assert result.support["classes"]["Hemoglobin/low"]["units"] == 10


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "panel", "regression", "survival"])
def test_the_probes_linear_map_gives_the_probes_scores(kind):
    from dataclasses import replace

    from scipy.special import log_softmax

    classes, x, panel = _panel()
    rng = np.random.default_rng(2)
    number = x[:, 0] + 0.1 * rng.normal(size=len(x))
    label = {
        "binary": (number > 0).astype(int),
        "multiclass": np.digitize(number, (-0.5, 0.5)),
        "multilabel": np.stack([number > 0, x[:, 1] > 0, np.zeros(len(x))], 1).astype(int),
        "panel": panel,
        "regression": number,
        "survival": np.column_stack([rng.exponential(np.exp(-number)), rng.integers(0, 2, len(x))]),
    }[kind]
    names = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "multilabel": ("a", "b", "c"), "panel": classes}
    metric = {"binary": "auroc", "multiclass": "macro_f1", "multilabel": "macro_auroc", "panel": "mean_auroc"}
    other = {"regression": "mae", "survival": "c_index"}
    task = replace(
        load_task("blood-tests"),
        kind=kind,
        classes=names.get(kind, ("years", "death")),
        metric={**metric, **other}[kind],
    )
    split = np.arange(len(x)) % 4
    probe = linear_probe(
        task, features=x, valid=np.ones(len(x), bool), label=label, train=split < 2, val=split == 2, test=split == 3
    )
    head = probe.head
    score = (x[split == 3] - head.centre) / head.scale @ head.weight.T + head.bias
    if kind == "panel":
        score = np.concatenate([log_softmax(score[:, :3], axis=1), log_softmax(score[:, 3:], axis=1)], 1)
    np.testing.assert_allclose(score.reshape(probe.score.shape), probe.score, atol=1e-4)
