"""A run from files to result: what the adapter sees, the cache, the probe, the round trip, the comparison."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bench_data import Arrays, MeanAdapter

from benchecg.comparing import compare
from benchecg.models import Tokens
from benchecg.predictions import read_predictions
from benchecg.protocols import C_GRID, linear_probe, unit_features
from benchecg.results import read_result, suite_score, write_result
from benchecg.running import load_data, run
from benchecg.scoring import score
from benchecg.tasks import load_task
from xecg.errors import ReadError, ShapeError, SpecError
from xecg.signal import simulate


class Silent(MeanAdapter):
    """Says nothing after the fifth second."""

    id = "silent"

    def _one(self, r):
        t = super()._one(r)
        keep = t.start_s < 5
        return Tokens(t.values[keep], t.start_s[keep], t.length_s[keep])


class Noise(MeanAdapter):
    id = "noise"

    def _one(self, r):
        return replace(
            super()._one(r), values=np.random.default_rng(r.signal.size).normal(size=(int(r.duration_s), 2)).astype("f")
        )


@pytest.fixture(scope="module")
def mit(small_mitdb):
    return load_data(load_task("mitbih-beats"), small_mitdb)


@pytest.fixture(scope="module")
def age(small_code15):
    return load_data(load_task("open-age"), small_code15)


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


@pytest.mark.parametrize("which", ["mit", "age", "sex"])
def test_scoring_the_predictions_again_gives_the_runs_numbers(which, request, tmp_path):
    result = run(request.getfixturevalue(which), MeanAdapter(), out=tmp_path)
    again = score(read_predictions(tmp_path / "predictions.parquet"))
    stored = read_result(tmp_path)
    for name, value in again.items():
        assert value == getattr(result, name) == getattr(stored, name)


def test_result_survives_its_json(mit, tmp_path):
    result = run(mit, MeanAdapter(), out=tmp_path)
    assert read_result(tmp_path).to_dict() == result.to_dict()


def test_two_runs_give_the_same_predictions_to_the_byte(sex, tmp_path):
    runs = [run(sex, MeanAdapter(), out=tmp_path / str(i)) for i in range(2)]
    assert runs[0].predictions["sha256"] == runs[1].predictions["sha256"]
    assert runs[0].metrics == runs[1].metrics


def test_a_feature_that_holds_the_label_scores_high(sex, age, tmp_path):
    assert run(sex, MeanAdapter(), out=tmp_path / "s").headline["value"] == 1.0
    assert run(age, MeanAdapter(), out=tmp_path / "a").metrics["r2"]["value"] > 0.95


def test_every_test_beat_is_scored_once_and_the_dropped_record_never(mit, tmp_path):
    result = run(mit, MeanAdapter(), out=tmp_path)
    predictions = read_predictions(tmp_path / "predictions.parquet")
    assert len(set(predictions.unit_id)) == len(predictions.unit_id) == 22 * 9 == result.support["units"]
    assert "201" not in predictions.record_id and "202" in predictions.record_id
    assert result.split["units"] == {"train": 19 * 9, "val": 18, "test": 198, "dropped": 9}
    assert any("201" in note for note in result.notes)
    assert sum(map(sum, result.confusion)) == 198 and len(result.per_record) == 22


def test_beats_without_a_token_count_as_wrong(mit, tmp_path):
    result = run(mit, Silent(), out=tmp_path)
    lost = result.support["without_prediction"]
    assert lost == sum(row[-1] for row in result.confusion) > 0
    assert result.metrics["accuracy"]["value"] <= 1 - lost / 198
    assert f"{lost} units have no prediction and count as wrong" in result.warnings


def test_an_adapter_never_sees_what_would_tell_the_label(mit, age, sex):
    for loaded, hidden in ((mit, set()), (age, {"age"}), (sex, {"sex"})):
        adapter = MeanAdapter()
        unit_features(loaded.task, loaded.data, adapter, data_sha256=loaded.data_sha256)
        for recording in adapter.seen:
            assert recording.annotations is None
            assert set(recording.meta) <= {"age", "sex"} - hidden


def test_no_patient_id_is_written(age, tmp_path):
    run(age, MeanAdapter(), out=tmp_path)
    patients = {r.patient for r in age.data.records}
    predictions = read_predictions(tmp_path / "predictions.parquet")
    assert set(predictions.patient_id) == {f"p{i:06d}" for i in range(len(set(predictions.patient_id)))}
    text = (tmp_path / "result.json").read_text() + (tmp_path / "predictions.parquet").read_bytes().decode("latin-1")
    assert not any(p in text for p in patients)


def test_features_come_from_the_cache_and_a_damaged_block_is_made_again(mit, tmp_path):
    facts = {"data_sha256": mit.data_sha256, "cache": tmp_path}
    first = unit_features(mit.task, mit.data, MeanAdapter(), **facts)
    assert (first.blocks, first.cached) == (43, 0)
    block = sorted(tmp_path.rglob("block-*.npz"))[3]
    block.write_bytes(block.read_bytes()[:100])
    adapter = MeanAdapter()
    second = unit_features(mit.task, mit.data, adapter, **facts)
    assert second.cached == 42 and adapter.calls == 2  # the witness and the damaged block
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("field", ["fingerprint", "spec_hash", "id"])
def test_another_model_does_not_take_the_cache(mit, tmp_path, field):
    facts = {"data_sha256": mit.data_sha256, "cache": tmp_path}
    unit_features(mit.task, mit.data, MeanAdapter(), **facts)
    other = MeanAdapter()
    setattr(other, field, "other")
    assert unit_features(mit.task, mit.data, other, **facts).cached == 0


def test_other_data_do_not_take_the_cache(mit, tmp_path):
    unit_features(mit.task, mit.data, MeanAdapter(), data_sha256="a" * 64, cache=tmp_path)
    assert unit_features(mit.task, mit.data, MeanAdapter(), data_sha256="b" * 64, cache=tmp_path).cached == 0


def test_changed_bytes_change_the_data_hash(small_code15, tmp_path):
    folder = tmp_path / "challenge-2025"
    folder.mkdir()
    for path in (small_code15 / "challenge-2025").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    before = load_data(load_task("open-age"), tmp_path).data_sha256
    header = folder / "1000.hea"
    header.write_text(header.read_text().replace("Exam ID: 0", "Exam ID: 9"))
    assert load_data(load_task("open-age"), tmp_path).data_sha256 != before


def test_an_adapter_that_breaks_its_contract_is_refused(mit):
    class Short(MeanAdapter):
        def features(self, recordings):
            return super().features(recordings)[:-1]

    with pytest.raises(ShapeError, match="'mean' gave 0 features for 1 recordings"):
        unit_features(mit.task, mit.data, Short(), data_sha256="")


def test_subsets_and_untrained_weights_are_marked(age, tmp_path):
    adapter = MeanAdapter()
    adapter.trained = False
    result = run(age, adapter, out=tmp_path)
    assert result.notes[0].startswith("UNTRAINED")
    assert result.notes[1].startswith("SUBSET: 200 of 345,779 records")


def test_contamination_is_said(age, tmp_path):
    for seen, says in (((), "not seen in pretraining"), (("CODE-15 %",), "seen in pretraining"), (None, "unknown")):
        adapter = MeanAdapter()
        adapter.pretrained_on = seen
        assert run(age, adapter, out=tmp_path).model["contamination"] == says


def test_too_few_records_write_a_result_without_a_score(small_ptbxl, tmp_path):
    result = run(load_data(load_task("ptbxl-superclass"), small_ptbxl), MeanAdapter(), out=tmp_path)
    assert result.status == "no score" and result.headline is None and result.predictions is None
    assert "too few records for a score" in read_result(tmp_path).reason
    assert not (tmp_path / "predictions.parquet").exists()


@pytest.mark.parametrize("real", [True, False])
def test_synthetic_and_real_recordings_never_trade_names(real, small_code15, tmp_path):
    if real:
        folder = tmp_path / "challenge-2025"
        folder.mkdir()
        for path in (small_code15 / "challenge-2025").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        with (folder / "1003.hea").open("a") as header:
            header.write("# synthetic\n")
        loaded, says = load_data(load_task("open-age"), tmp_path), "record 1003 is synthetic"
    else:
        folder = tmp_path / "demo-synthetic"
        simulate.archive(folder, patients=60, seed=1, duration_s=2, leads=("II",))
        for header in folder.glob("*.hea"):
            header.write_text("".join(l for l in header.read_text().splitlines(True) if not l.startswith("#")))
        loaded, says = load_data(load_task("demo-synthetic"), tmp_path), "is not marked synthetic"
    with pytest.raises(SpecError, match=says):
        run(loaded, MeanAdapter(), out=tmp_path / "run")


def _toy(n=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    parts = {name: np.arange(n) % 3 == i for i, name in enumerate(("train", "val", "test"))}
    return x, parts


@pytest.mark.parametrize("task_id", ["mitbih-beats", "ptbxl-superclass", "open-sex", "open-age"])
def test_probe_choice_ignores_the_test_labels(task_id):
    task = load_task(task_id)
    x, parts = _toy()
    rng = np.random.default_rng(1)
    base = (x[:, 0] + 0.3 * rng.normal(size=len(x)) > 0).astype(int)
    label = {"multilabel": np.stack([base] * 5, 1), "regression": 50 + 10.0 * x[:, 0]}.get(task.kind, base)
    shuffled = label.copy()
    shuffled[parts["test"]] = label[parts["test"]][::-1]
    valid = np.ones(len(x), bool)
    a, b = (linear_probe(task, features=x, valid=valid, label=y, **parts) for y in (label, shuffled))
    np.testing.assert_array_equal(a.score, b.score)
    assert a.c in C_GRID and list(a.validation) == [f"{c:g}" for c in C_GRID]


def test_probe_takes_the_smaller_c_on_a_tie_and_minds_the_direction():
    x, parts = _toy()
    valid = np.ones(len(x), bool)
    easy = (x[:, 0] > 0).astype(int)
    constant = linear_probe(load_task("open-sex"), features=x * 0, valid=valid, label=easy, **parts)
    assert constant.c == min(C_GRID) and len(set(constant.score.tolist())) == 1
    age = linear_probe(load_task("open-age"), features=x, valid=valid, label=50 + 5.0 * x[:, 1], **parts)
    best = min(age.validation, key=age.validation.get)
    assert f"{age.c:g}" == best  # RSMAPE: lower is better


def test_probe_never_predicts_a_class_that_training_lacks():
    x, parts = _toy()
    label = np.where(parts["test"], 4, (x[:, 0] > 0).astype(int))
    probe = linear_probe(load_task("mitbih-beats"), features=x, valid=np.ones(len(x), bool), label=label, **parts)
    assert set(probe.score.argmax(1).tolist()) <= {0, 1} and probe.score.shape == (100, 5)


def test_probe_equals_scikit_learn_fitted_on_train_and_val():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, parts = _toy()
    label = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
    probe = linear_probe(load_task("open-sex"), features=x, valid=np.ones(len(x), bool), label=label, **parts)
    both = parts["train"] | parts["val"]
    scaler = StandardScaler().fit(x[both].astype(np.float64))
    head = LogisticRegression(C=probe.c, max_iter=1000).fit(scaler.transform(x[both]), label[both])
    np.testing.assert_allclose(probe.score, head.decision_function(scaler.transform(x[parts["test"]])), atol=1e-4)


def test_compare_pairs_the_runs_and_adjusts_over_tasks(age, sex, tmp_path):
    for loaded in (age, sex):
        for adapter in (MeanAdapter(), Noise()):
            run(loaded, adapter, out=tmp_path / loaded.task.id / adapter.id)
    rows = {row["task"]: row for row in compare(tmp_path, "mean", "noise")}
    assert rows["open-sex"]["value"] > 0 and rows["open-age"]["value"] < 0  # RSMAPE: lower is better
    assert {row["better"] for row in rows.values()} == {"a"}
    for row in rows.values():
        assert row["p"] <= row["p_holm"] <= 2 * row["p"]
    with pytest.raises(SpecError, match=r"no scored run of 'rr'.*scores there: mean, noise"):
        compare(tmp_path, "mean", "rr")


def test_suite_score_is_refused_until_all_ten_tasks_ran_on_full_data(mit, tmp_path):
    result = run(mit, MeanAdapter(), out=tmp_path)
    suite = suite_score([result])
    assert suite["score"] is None and suite["n_tasks"] == 1 and len(suite["missing"]) == 9
    nine = [
        replace(result, task={**result.task, "id": f"task-{i}", "suite": f"T{i}"}) for i in (1, 2, 3, 4, 5, 6, 7, 9, 10)
    ]
    ages = [
        replace(result, task={**result.task, "id": f"age-{of}", "suite": "T8", "higher_is_better": False})
        for of in ("mimic", "ptbxl", "cpsc")
    ]  # 1 - RSMAPE
    value = result.headline["value"]
    assert suite_score([*nine, *ages])["score"] == pytest.approx((9 * value + 1 - value) / 10)
    without = suite_score([*nine, *ages[:2]])
    assert without["score"] is None and without["missing"] == ["T8 Age (MIMIC-IV-ECG, PTB-XL, CPSC2018): not run"]
    assert without["partial_score"] == pytest.approx(value)
    part = replace(nine[0], data={**nine[0].data, "complete": False})
    assert suite_score([part, *nine[1:], *ages])["missing"] == ["T1 PTB-XL superclass: run on a subset"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format="other/1"), "needed benchecg-result/4"),
        (lambda d: d.pop("notes"), "notes is missing"),
        (lambda d: d["task"].update(extra=1), "task.extra is unknown"),
        (lambda d: d["metrics"]["macro_f1"].update(value="0.9"), "metrics.macro_f1.value is str; needed float or null"),
        (lambda d: d["support"].update(units=True), "support.units is bool; needed int"),
        (lambda d: d["confusion"].append([1, None]), r"confusion\[5\]\[1\] is null; needed int"),
    ],
)
def test_a_result_of_another_shape_is_refused(mit, tmp_path, change, says):
    run(mit, MeanAdapter(), out=tmp_path)
    path = tmp_path / "result.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ReadError, match=says):
        read_result(tmp_path)


def test_a_result_is_checked_before_it_is_written(mit, tmp_path):
    result = run(mit, MeanAdapter(), out=tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(ReadError, match="warnings"):
        write_result(tmp_path, replace(result, warnings=[1]))
    assert (tmp_path / "result.json").read_bytes() == before


def test_a_file_that_is_no_prediction_table_is_refused(tmp_path):
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ReadError, match="needed a Parquet table of predictions"):
        read_predictions(path)


def test_an_adapter_that_gives_arrays_is_told_what_is_needed(small_code15, tmp_path):
    with pytest.raises(ShapeError, match=r"gave a ndarray for a recording; needed a benchecg\.models\.Tokens"):
        run(load_data(load_task("open-sex"), small_code15), Arrays(), out=tmp_path)


def test_a_metric_that_the_kind_lacks_is_named_with_those_it_has(small_code15, tmp_path):
    task = replace(load_task("open-sex"), metric="auc")
    with pytest.raises(SpecError, match="metric is 'auc'; needed one that kind 'binary' computes: auroc"):
        run(load_data(task, small_code15), MeanAdapter(), out=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda d: {"record": d.record[::-1]}, "needed ascending indices into 200 records"),
        (lambda d: {"record": d.record + 1}, "record goes from 1 to 200; needed ascending indices"),
        (lambda d: {"time_s": d.time_s[1:]}, "record has 200 rows, time_s 199, label 200"),
        (lambda d: {"label": d.label * 2}, "label holds 2; needed class indices 0 to 1"),
        (lambda d: {"label": d.label.astype(str)}, "label holds 0, 1; needed class indices 0 to 1"),
        (
            lambda d: {"records": (replace(d.records[0], split="valid"), *d.records[1:])},
            "has split 'valid'; needed one of",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_not_scored(wrong, says, small_code15):
    task = load_task("open-sex")
    broken = replace(task, load=lambda root: replace(data := task.load(root), **wrong(data)))
    with pytest.raises(SpecError, match=says):
        load_data(broken, small_code15)
