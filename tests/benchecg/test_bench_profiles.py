"""The defects of the published scripts, one by one: the corrected profile avoids each, the authors profile reproduces what it says."""

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bench_data import MeanAdapter
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.comparing import compare
from benchecg.metrics import auroc, confusion, macro, precision_recall_f1, statistic
from benchecg.models import load_adapter
from benchecg.predictions import Predictions, TaskFacts, read_predictions
from benchecg.profiles import DEFECTS, PROFILES, task_in
from benchecg.protocols.cox import SigmoidCox, efron, sigmoid_loss
from benchecg.protocols.linear_probe import linear_probe
from benchecg.protocols.peak_head import READINGS
from benchecg.protocols.tuning import Recipe
from benchecg.reference import SETTINGS, VARIANTS, metrics, published_plan
from benchecg.reference.metrics import batch_mean_f1, half_probability, on_grid, peak_score, running_auroc
from benchecg.reference.tasks import _last_fifth, classes_of_split, patch_labels, records_at_random
from benchecg.report import render
from benchecg.results import read_result, suite_score
from benchecg.running import load_data, run, run_folder
from benchecg.scoring import score
from benchecg.tasks import load_task
from benchecg.tasks.age_transfer import ptbxl_records
from benchecg.tasks.apnea_ecg import _validation
from benchecg.tasks.base import Record, TaskData
from benchecg.tasks.blood_tests import load as load_blood
from xecg.errors import SpecError
from xecg.signal import PRESETS, SignalSpec, peaks, preprocess, simulate


def _data(splits, label, patients=None):
    patients = patients or [f"p{i}" for i in range(len(splits))]
    records = tuple(Record(f"r{i}", p, s, Path("none")) for i, (s, p) in enumerate(zip(splits, patients)))
    return TaskData(
        records, np.arange(len(records)), np.full(len(records), np.nan), np.asarray(label), True, (),
    )  # fmt: skip


def _predictions(task_id, y, score_, *, time_s=None, record=None, classes=None, profile="authors", valid=None):
    task = load_task(task_id)
    n = len(y)
    facts = TaskFacts(
        task_id, "1", "m", task.kind, classes or task.classes, {}, task.metric, True, False, 0, profile
    )  # fmt: skip
    record = np.array(["r"] * n if record is None else record)
    time_s = np.full(n, np.nan) if time_s is None else np.asarray(time_s, float)
    groups = {g: np.array(["unknown"] * n) for g in ("sex", "age_band", "source", "quality")}
    valid = np.ones(n, bool) if valid is None else valid
    unit = np.array([f"u{i}" for i in range(n)])
    return Predictions(
        facts, unit, record, record, time_s, np.asarray(y, float), np.asarray(score_, float), valid, groups
    )


def test_the_register_names_every_defect_and_every_reproduced_one_is_in_a_task_or_a_score():
    assert list(DEFECTS) == [f"D{i:02d}" for i in range(1, 30)]
    in_tasks = {d for i in VARIANTS for d in task_in("authors", i).defects}
    reproduced = {d for d, defect in DEFECTS.items() if defect.reproduced == "yes"}
    assert in_tasks | {"D19", "D25"} == reproduced


def test_d01_batches_and_absent_classes_lower_a_perfect_score():
    """Seven batches of eighteen hold a Q beat: a perfect model scores (4 + 7 / 18) / 5."""
    batch = np.repeat(np.arange(18), 64)
    truth = np.tile(np.arange(64) % 4, 18)
    truth[np.arange(7) * 64] = 4
    assert batch_mean_f1(truth, truth, batch, 5) == pytest.approx(0.8 + 0.2 * 7 / 18)
    assert macro(precision_recall_f1(confusion(truth, truth, 5))[2]) == 1.0


def test_d01_batches_are_of_64_tiles_of_36_s_in_the_order_of_the_records():
    time_s = np.concatenate([np.arange(50) * 36.0 + 1, np.arange(50) * 36.0 + 1])
    y = np.where(np.arange(100) < 64, 0, 1)
    p = _predictions("mitbih-beats", y, np.eye(5)[y], time_s=time_s, record=["a"] * 50 + ["b"] * 50)
    assert metrics.reference_metrics(p)["macro_f1"] == pytest.approx(0.2)  # one class alone in each of two batches
    assert statistic(
        "multiclass", truth=y, score=np.eye(5)[y], valid=p.valid, cluster=p.cluster(), classes=p.facts.classes
    ).point()["macro_f1"] == 1.0  # fmt: skip


def test_d02_and_d03_ptbxl_records_without_a_superclass_and_subclasses_by_another_name(small_ptbxl):
    ours, theirs = (task_in(p, "ptbxl-superclass").load(small_ptbxl) for p in ("corrected", "authors"))
    extra = {r.id for r in theirs.records} - {r.id for r in ours.records}
    assert extra == {"2"} and not theirs.label[[r.id for r in theirs.records].index("2")].any()
    ours, theirs = (task_in(p, "ptbxl-subdiag") for p in ("corrected", "authors"))
    assert len(ours.classes) == 23 and theirs.classes == ("NORM", "MI", "STTC", "CD", "HYP")
    third = theirs.load(small_ptbxl).label[2]
    assert third.tolist() == [0, 1, 0, 1, 0]
    assert {c for c, v in zip(ours.classes, ours.load(small_ptbxl).label[1]) if v} == {"IMI", "CLBBB"}


def test_d04_a_class_that_a_split_lacks_shifts_the_columns_after_it():
    label = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])
    data = _data(["train", "train", "train", "test", "test"], label)
    theirs = classes_of_split(lambda root: data)(Path("none")).label
    assert theirs[:3].tolist() == label[:3].tolist() and theirs[3:].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert task_in("corrected", "cpsc2018").classes == task_in("authors", "cpsc2018").classes


def test_d05_records_of_one_patient_train_and_validate():
    splits = ["train", "val"] * 50 + ["test"]
    data = _data(splits, np.zeros(101), [f"p{i // 2}" for i in range(101)])
    theirs = records_at_random(lambda root: data)(Path("none"))
    kind = [r.split for r in theirs.records]
    assert kind.count("train") == 80 and kind.count("val") == 20 and kind[-1] == "test"
    of = {s: {r.patient for r in theirs.records if r.split == s} for s in ("train", "val")}
    assert of["train"] & of["val"]
    again = records_at_random(lambda root: data)(Path("none"))
    assert [r.split for r in again.records] == kind
    assert task_in("authors", "age-mimic").shared_patients and not task_in("corrected", "age-mimic").shared_patients


def test_d06_an_unknown_age_is_left_out_or_counts_as_0(small_ptbxl, tmp_path):
    (tmp_path / "ptb-xl").mkdir()
    (tmp_path / "ptb-xl" / "records500").symlink_to(small_ptbxl / "ptb-xl" / "records500")
    table = (small_ptbxl / "ptb-xl" / "ptbxl_database.csv").read_text().replace("5,2.0,60.0", "5,2.0,nan")
    table = table.replace("7,3.0,60.0", "7,3.0,").replace("9,4.0,60.0", "9,4.0,300")
    (tmp_path / "ptb-xl" / "ptbxl_database.csv").write_text(table)
    ours, theirs = ptbxl_records(tmp_path)[0], ptbxl_records(tmp_path, unknown=0.0)[0]
    added = {r.id: age for r, age in theirs if r.id not in {o.id for o, _ in ours}}
    assert added == {"ptb-xl/5": 0.0, "ptb-xl/7": 0.0} and all(age > 0 for _, age in ours)
    assert "D06" in task_in("authors", "age-ptbxl").defects and "D06" not in task_in("authors", "age-cpsc").defects


@pytest.fixture
def two_labs(tmp_path):
    """One ECG at noon with a low haemoglobin five minutes and a normal one three hours after it."""
    folder = tmp_path / "mimic-iv-ecg"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "20.hea").touch()
    (folder / "records_w_diag_icd10.csv").write_text(
        "file_name,study_id,subject_id,ecg_time,age,fold\nfiles/20,20,2,2150-01-01 12:00:00,61,19\n"
    )
    (folder / "d_labitems.csv.gz").write_bytes(gzip.compress(b"itemid,label,fluid\n1,Hemoglobin,Blood\n"))
    head = "subject_id,itemid,charttime,valuenum,ref_range_lower,ref_range_upper\n"
    events = "2,1,2150-01-01 12:05:00,5,12,16\n2,1,2150-01-01 15:00:00,14,12,16\n"
    (folder / "labevents.csv.gz").write_bytes(gzip.compress((head + events).encode()))
    return tmp_path


def test_d07_the_signed_sort_loses_the_near_result(two_labs):
    ours = task_in("corrected", "blood-tests").load(two_labs)
    assert len(ours.records) == 1 and np.nansum(ours.label) == 1
    assert len(task_in("authors", "blood-tests").load(two_labs).records) == 0
    assert len(load_blood(two_labs).records) == 1


def test_d08_subjects_validate_whole_or_records_in_an_order_without_meaning():
    subject = {f"{c}{i:02d}": f"{c}{i // 2}" for c, n in (("a", 20), ("b", 5), ("c", 10)) for i in range(n)}
    names = sorted(subject)
    theirs, ours = _last_fifth(names, subject), _validation(names, subject)
    assert len(theirs) == 7 and theirs == _last_fifth(names, subject)
    shared = {subject[r] for r in theirs} & {subject[r] for r in names if r not in theirs}
    assert shared and not {subject[r] for r in ours} & {subject[r] for r in names if r not in ours}


TIME, EVENT = np.array([5.0, 3, 3, 1, 4]), np.array([1.0, 1, 1, 0, 0])
RISK = np.array([0.5, -0.2, 0.3, 1.0, -1.0])


def test_d09_the_sigmoid_of_the_risk_and_efrons_ties():
    value, gradient = sigmoid_loss(RISK, TIME, EVENT)
    assert value == pytest.approx(0.4897606235, abs=1e-9)
    assert efron(RISK, TIME, EVENT) == pytest.approx(2.4632431065, abs=1e-9)
    step = 1e-6
    numeric = [
        (sigmoid_loss(RISK + step * row, TIME, EVENT)[0] - sigmoid_loss(RISK - step * row, TIME, EVENT)[0]) / (2 * step)
        for row in np.eye(5)
    ]
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_d09_the_authors_survival_head_is_the_sigmoid_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2)).astype(np.float32)
    label = np.stack([rng.exponential(np.exp(-x[:, 0])), np.ones(600)], 1)
    parts = {s: np.arange(600) % 3 == i for i, s in enumerate(("train", "val", "test"))}
    ours, theirs = (
        linear_probe(t, features=x, valid=np.ones(600, bool), label=label, **parts)
        for t in (load_task("survival"), task_in("authors", "survival"))
    )
    direct = SigmoidCox(1 / theirs.c)
    both = parts["train"] | parts["val"]
    centre, scale = x[both].mean(0, dtype=float), x[both].std(0, dtype=float)
    direct.fit((x[both] - centre) / scale, label[both])
    np.testing.assert_allclose(theirs.score, direct.predict((x[parts["test"]] - centre) / scale), rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours.score, theirs.score, atol=0.05)
    assert np.corrcoef(theirs.score, x[parts["test"], 0])[0, 1] > 0.9


def test_d10_patch_labels_and_every_beat_once(small_mitdb):
    sample, label = np.array([24, 26, 60, 70]), np.array([1, 2, 0, 1])
    assert patch_labels(sample, label, 4).tolist() == [1, 2, 1, -1]
    assert patch_labels(sample, label, 4, extend=True).tolist() == [2, 2, 1, -1]
    ours, theirs = (task_in(p, "mitbih-beats").load(small_mitdb) for p in ("corrected", "authors"))
    assert len(ours.label) == 44 * 9
    test = theirs.in_split("test")
    assert test.sum() <= ours.in_split("test").sum() and len(theirs.label) != len(ours.label)
    assert (np.round((theirs.time_s * 100 - 12.5) % 25, 6) == 0).all()


def test_d10_a_beat_on_the_last_sample_of_a_tile_is_lost(monkeypatch):
    data = _data(["test"], [0])
    data = replace(
        data, record=np.zeros(3, int), time_s=np.array([1.0, 35.99, 36.0]), label=np.array([0, 2, 1])
    )  # fmt: skip
    monkeypatch.setattr("benchecg.tasks._mitdb.load", lambda root, keep_201: data)
    theirs = VARIANTS["mitbih-beats"](load_task("mitbih-beats")).load(Path("none"))
    assert theirs.label.tolist() == [0, 1] and theirs.time_s.tolist() == [1.125, 36.125]


@pytest.mark.parametrize(
    ("truth", "found", "tolerance", "strict", "theirs"),
    [
        ([1.0], [0.99, 1.0, 1.01], 0.010, (1, 2, 0), (1, 0, 1)),
        ([1.0, 1.015], [1.0075], 0.010, (1, 0, 1), (1, 0, 2)),
        ([1.0, 2.0], [], 0.150, (0, 0, 2), (0, 0, 2)),
        ([], [0.5, 0.7], 0.150, (0, 2, 0), (0, 0, 0)),
        ([1.0, 2.0, 3.0], [1.009, 2.011, 2.990, 3.009], 0.010, (2, 2, 1), (2, 1, 3)),
        ([0.8, 1.0], [0.90, 0.95], 0.150, (2, 0, 0), (2, 0, 2)),
    ],
)
def test_d11_the_peak_score_of_the_scripts_and_the_strict_one(truth, found, tolerance, strict, theirs):
    m = peaks.match(truth, found, tolerance)
    assert (m.true_positive, m.false_positive, m.false_negative) == strict
    assert peak_score(np.array(truth), np.array(found), tolerance) == theirs


def test_d11_tiles_of_72_s_and_d12_truth_on_the_models_grid():
    time_s = [1.0051, 1.0160, 100.0, 145.0, 1_000.0]
    y = [1, 0, 0, 1, 0]
    theirs = metrics.reference_metrics(_predictions("mitbih-rpeaks", y, np.ones(5), time_s=time_s))
    assert on_grid(np.array([1.0051, 1.0160])).tolist() == [1.01, 1.02]
    # tile 0: a hit on the grid; the false peaks at 100 s and at 1,000 s are in tiles without a true one and are lost
    assert theirs["f1_10ms"] == pytest.approx(2 * 1 / (1 + 0 + 2))
    ours = statistic(
        "peaks", truth=np.array(y), score=np.ones(5), valid=np.ones(5, bool), cluster=np.zeros(5, int),
        classes=("R",), record=np.zeros(5, int), time_s=np.array(time_s),
    ).point()  # fmt: skip
    assert ours["f1_10ms"] == 0.0 and ours["f1_75ms"] == pytest.approx(2 / (2 + 2 + 1))


def test_d13_samples_above_one_half_are_peaks_and_the_choice_is_sample_exact():
    at = np.arange(100) * 0.01
    bell = np.exp(-0.5 * ((at - 0.5) / 0.02) ** 2)
    ours, theirs = (READINGS[p].pick(at, bell, theta=0.5)[0] for p in ("corrected", "authors"))
    assert len(ours) == 1 and theirs.tolist() == pytest.approx([0.48, 0.49, 0.50, 0.51, 0.52])
    assert READINGS["authors"].tolerance_s == 0.005 and READINGS["authors"].thetas == (0.5,)
    assert READINGS["corrected"].tolerance_s == 0.075


def test_d14_a_minute_is_the_mean_of_its_tokens_and_no_vote():
    assert "models" in DEFECTS["D14"].reproduced and "D14" not in task_in("authors", "apnea-ecg").defects
    assert (
        load_task("apnea-ecg").kind == "binary"
    )  # scores are log-odds of the minute's mean features, any number of levels


def test_d15_the_mean_of_running_values_and_one_pooled_value():
    classes = ("a/low", "a/high")
    y = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], float)
    s = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    batch = np.array([0, 1, 1, 1])
    pooled = statistic(
        "panel", truth=y, score=s, valid=np.ones(4, bool), cluster=np.zeros(4, int), classes=classes
    ).point()["mean_auroc"]  # fmt: skip
    assert pooled == pytest.approx(0.5)
    assert running_auroc(y, s, batch, classes) == pytest.approx((0.0 + 0.5) / 2)  # one class alone counts 0


def test_d16_half_precision_ties_and_a_sigmoid_by_batch():
    truth, logit = np.array([0, 0, 1]), np.array([-1.0, 8.5, 9.0])
    one = np.zeros(3, int)
    assert auroc(truth, half_probability(logit, one))[0] == pytest.approx(0.75)
    assert auroc(truth, logit)[0] == 1.0
    truth, logit, batch = np.array([0, 1, 1, 0]), np.array([0.9, 0.95, 1.5, -4.0]), np.array([0, 0, 1, 1])
    made = half_probability(logit, batch)
    np.testing.assert_allclose(made, [0.9, 0.95, 0.8176, 0.018], atol=1e-3)  # the first batch looks like probabilities
    assert auroc(truth, made)[0] == pytest.approx(0.75) and auroc(truth, logit)[0] == 1.0
    p = _predictions("deepbeat-af", truth, np.where(truth, 9.0, 8.5))
    assert metrics.reference_metrics(p)["auroc"] == 0.5


def test_d16_absent_classes_stay_in_the_mean_as_0():
    y = np.array([[1, 0], [0, 0]])
    theirs = metrics.reference_metrics(
        _predictions("ptbxl-superclass", y, np.array([[2.0, 1], [-2, 1]]), classes=("A", "B"))
    )
    assert theirs["macro_auroc"] == 0.5
    ours = statistic(
        "multilabel", truth=y, score=y.astype(float), valid=np.ones(2, bool), cluster=np.arange(2), classes=("A", "B")
    )  # fmt: skip
    assert ours.point()["macro_auroc"] == 1.0


def test_d18_every_model_answers_the_same_units(small_mitdb, tmp_path):
    loaded = load_data(load_task("mitbih-beats"), small_mitdb)
    for name in ("majority", "rr"):
        run(loaded, load_adapter(name), out=tmp_path / name)
    a, b = (read_predictions(tmp_path / name / "predictions.parquet") for name in ("majority", "rr"))
    np.testing.assert_array_equal(a.unit_id, b.unit_id)


def test_d19_the_last_epoch_and_the_best(tmp_path):
    from test_bench_finetune import trained_with

    values = [0.5, 0.9, 0.8, 0.7]
    ours, theirs = (trained_with(values, tmp_path / keep, keep=keep) for keep in ("best", "last"))
    assert (ours.epoch, ours.value) == (1, 0.9) and (theirs.epoch, theirs.value) == (3, 0.7)
    assert all(r.keep == "last" for i in SETTINGS for r in published_plan(i).search)
    assert Recipe(1e-3, 1.0).keep == "best"


def test_the_published_settings_are_of_every_variant_and_one_setting_each():
    assert set(SETTINGS) == set(VARIANTS)
    plan = published_plan("mitbih-rpeaks")
    assert len(plan.search) == 1 and plan.seeds == 5
    recipe = plan.search[0]
    assert (recipe.lr_core, recipe.lr_head, recipe.weight_decay, recipe.batch, recipe.epochs) == (
        1e-3,
        1e-3,
        0.0,
        64,
        30,
    )


def test_d21_every_test_set_of_age_is_a_task_of_its_own():
    ids = [f"age-{s}" for s in ("mimic", "ptbxl", "cpsc")]
    assert [load_task(i).dataset.name.partition(" and ")[2] for i in ids] == ["MIMIC-IV-ECG", "PTB-XL", "CPSC 2018"]


def test_d22_a_patient_in_two_splits_is_refused_unless_the_published_rule_says_so(small_mitdb):
    theirs = task_in("authors", "mitbih-beats")
    load_data(theirs, small_mitdb)
    with pytest.raises(SpecError, match="needed every patient in one split only"):
        load_data(replace(theirs, shared_patients=False), small_mitdb)


def test_d23_absent_files_are_counted_and_make_a_subset(small_ptbxl, tmp_path):
    import shutil

    shutil.copytree(small_ptbxl / "ptb-xl", tmp_path / "ptb-xl")
    next((tmp_path / "ptb-xl").rglob("00001_hr.hea")).unlink()
    data = load_task("ptbxl-superclass").load(tmp_path)
    assert not data.complete and any("files are not here" in note for note in data.notes)


def test_d24_a_misspelt_setting_is_refused():
    with pytest.raises(SpecError, match="unknown key 'rates'"):
        SignalSpec.from_dict({"rates": 100})
    with pytest.raises(TypeError, match="lr_coer"):
        Recipe(lr_coer=1e-3, decay=1.0)


def test_d26_a_model_that_is_not_here_is_not_another_one():
    with pytest.raises(SpecError):
        load_adapter("ecg-fm")


def test_d27_a_missing_lead_is_missing_over_the_whole_time():
    recording = simulate.ecg(seed=1, rate_hz=100.0, duration_s=4)
    mask = recording.mask.copy()
    mask[3] = False
    ready = preprocess(recording.with_(mask=mask), PRESETS["xecg"])
    assert not ready.mask[3].any() and ready.mask[2].all() and not ready.x[3].any()


def test_d28_standardisation_follows_the_filters_unless_the_spec_says_first():
    recording = simulate.ecg(seed=1, rate_hz=250.0, duration_s=9)
    after = replace(PRESETS["st-mem"], normalise_first=False)
    assert PRESETS["st-mem"].normalise_first and not PRESETS["xecg"].normalise_first
    assert np.std(preprocess(recording, after).x) == pytest.approx(1, abs=1e-3)
    assert abs(np.std(preprocess(recording, PRESETS["st-mem"]).x) - 1) > 1e-3


def test_d29_record_201_trains_only_in_the_authors_profile(small_mitdb):
    of = {p: task_in(p, "mitbih-beats").load(small_mitdb) for p in PROFILES}
    split = {p: {r.id: r.split for r in data.records} for p, data in of.items()}
    assert split["corrected"]["201"] == "dropped" and split["authors"]["201"] == "train"
    assert {k: v for k, v in split["authors"].items() if k != "201"} == {
        k: v for k, v in split["corrected"].items() if k != "201"
    }


class Other(MeanAdapter):
    id, fingerprint = "other", "other-1"

    def _one(self, r):
        tokens = super()._one(r)
        return replace(tokens, values=tokens.values[:, :1])


@pytest.fixture(scope="module")
def both(small_mitdb, tmp_path_factory):
    """Beats and peaks in both profiles by two models."""
    out = tmp_path_factory.mktemp("both")
    for task_id in ("mitbih-beats", "mitbih-rpeaks"):
        for profile in PROFILES:
            loaded = load_data(task_in(profile, task_id), small_mitdb)
            for adapter in (MeanAdapter(), Other()):
                folder = run_folder(out, loaded.task, adapter.id)
                run(loaded, adapter, out=folder)
    return out


def test_a_result_says_its_profile_and_defects_and_is_scored_again(both):
    folder = both / "mitbih-beats" / "mean@authors"
    theirs, ours = read_result(folder), read_result(both / "mitbih-beats" / "mean")
    assert (theirs.profile, theirs.defects) == ("authors", ["D01", "D10", "D29"])
    assert (ours.profile, ours.defects) == ("corrected", [])
    assert theirs.headline["low"] is None and ours.headline["low"] is not None
    assert theirs.headline["value"] < ours.headline["value"] + 0.2 and theirs.subgroups == []
    assert any(note.startswith("AUTHORS: ") for note in theirs.notes)
    again = score(read_predictions(folder / "predictions.parquet"))
    assert all(again[name] == getattr(theirs, name) for name in again)


def test_comparisons_never_mix_profiles_and_print_both_on_request(both):
    ours, theirs = (compare(both, "mean", "other", profile=p) for p in ("corrected", "authors"))
    assert {r["profile"] for r in ours} == {"corrected"} and {r["profile"] for r in theirs} == {"authors"}
    assert [r["task"] for r in ours] == [r["task"] for r in theirs] == ["mitbih-beats", "mitbih-rpeaks"]
    assert all(r["p"] is None and r["low"] is None and r["better"] is None for r in theirs)
    done = CliRunner().invoke(main, ["compare", str(both), "mean", "other", "--profile", "both", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout) == [*ours, *theirs]
    text = CliRunner().invoke(main, ["compare", str(both), "mean", "other", "--profile", "both"]).stdout
    assert text.count("as the published scripts compute it") == 2


def test_the_report_shows_both_side_by_side_and_ranks_only_the_corrected(both):
    results = [read_result(p.parent) for p in sorted(both.rglob("result.json"))]
    page = render(results)
    head, _, rest = page.partition("As the published scripts compute it")
    assert rest and "AUTHORS" not in head and "D11" not in head
    assert "D01, D10, D29" in rest and DEFECTS["D12"].instead in rest
    assert "@authors" not in page
    assert "As the published" not in render([r for r in results if r.profile == "corrected"])


def test_d25_the_suites_mean_over_what_is_there(both):
    results = [read_result(p.parent) for p in sorted(both.rglob("result.json"))]
    theirs = [r for r in results if r.profile == "authors" and r.model["id"] == "mean"]
    ours = [r for r in results if r.profile == "corrected" and r.model["id"] == "mean"]
    mean = np.mean([r.headline["value"] for r in theirs])
    assert suite_score(theirs)["score"] == pytest.approx(mean) and suite_score(ours)["score"] is None
    with pytest.raises(SpecError, match="authors, corrected have no common score"):
        suite_score(results)


def test_the_commands_keep_the_profiles_apart(small_mitdb, tmp_path):
    call = partial(CliRunner().invoke, main)
    given = ["--data", str(small_mitdb), "--out", str(tmp_path), "--profile", "authors"]
    done = call(["run", "-t", "mitbih-beats", "-m", "majority", *given])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "mitbih-beats" / "majority@authors" / "result.json").is_file()
    assert "majority@authors" in call(["score", str(tmp_path)]).stdout
    refused = call(["run", "-t", "open-age", "-m", "majority", *given])
    assert refused.exit_code == 1 and "no published script does open-age" in refused.output
    with pytest.raises(SpecError, match="no profile 'best'"):
        task_in("best", "open-age")
