"""kNN and few-label protocols beside the linear probe."""

import numpy as np
import pytest
from bench_data import MeanAdapter

from benchecg.predictions import read_predictions
from benchecg.protocols import K_GRID, few_label_train, knn
from benchecg.results import read_result
from benchecg.running import load_data, run, run_name
from benchecg.scoring import score
from benchecg.tasks import load_task
from benchecg.tasks.base import Record, TaskData
from xecg.errors import SpecError


def _toy(n=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, {name: np.arange(n) % 3 == i for i, name in enumerate(("train", "val", "test"))}


@pytest.mark.parametrize("task_id", ["mitbih-beats", "ptbxl-superclass", "open-sex", "open-age"])
def test_knn_equals_scikit_learn(task_id):
    from sklearn.neighbors import NearestNeighbors

    task = load_task(task_id)
    x, parts = _toy()
    base = (x[:, 0] > 0).astype(int)
    label = {"multilabel": np.stack([base] * 5, 1), "regression": 50 + 10.0 * x[:, 0]}.get(task.kind, base)
    probe = knn(task, features=x, valid=np.ones(len(x), bool), label=label, **parts)
    both = parts["train"] | parts["val"]
    centre = x[both].mean(0)
    search = NearestNeighbors(n_neighbors=int(probe.c), metric="cosine", algorithm="brute").fit(x[both] - centre)
    distance, near = search.kneighbors(x[parts["test"]] - centre)
    weight = 2 - distance
    y = label[both]
    truth = np.eye(5)[y] if task.kind == "multiclass" else y.astype(float)
    expected = np.einsum("nk,nk...->n...", weight / weight.sum(1, keepdims=True), truth[near])
    np.testing.assert_allclose(probe.score, expected, atol=2e-4 * max(1, np.abs(expected).max()))
    assert probe.c in K_GRID and list(probe.validation) == [f"{k:g}" for k in K_GRID]


def test_knn_choice_ignores_the_test_labels():
    x, parts = _toy()
    label = (x[:, 0] > 0).astype(int)
    other = label.copy()
    other[parts["test"]] = 1 - label[parts["test"]]
    valid = np.ones(len(x), bool)
    a, b = (knn(load_task("open-sex"), features=x, valid=valid, label=y, **parts) for y in (label, other))
    np.testing.assert_array_equal(a.score, b.score)


def test_knn_with_few_references_uses_the_ks_there_are():
    x, _ = _toy(40)
    parts = {"train": np.arange(40) < 4, "val": (np.arange(40) >= 4) & (np.arange(40) < 8), "test": np.arange(40) >= 8}
    probe = knn(load_task("open-sex"), features=x, valid=np.ones(40, bool), label=(x[:, 0] > 0).astype(int), **parts)
    assert list(probe.validation) == ["1", "3"] and np.isfinite(probe.score).all()


def _data(tmp_path, n_patients=200, per_patient=2):
    records = tuple(
        Record(f"r{i}", f"p{i // per_patient}", "train" if i < 0.8 * n_patients * per_patient else "test", tmp_path)
        for i in range(n_patients * per_patient)
    )
    label = np.zeros(len(records), int)
    label[:2] = 1  # one patient alone shows class 1
    return TaskData(records, np.arange(len(records)), np.full(len(records), np.nan), label, True, ())


@pytest.mark.parametrize(("fraction", "n"), [(0.01, 2), (0.10, 16)])
def test_a_few_label_subset_is_of_whole_training_patients_with_every_class(tmp_path, fraction, n):
    data, task = _data(tmp_path), load_task("open-sex")
    subsets = [few_label_train(task, data, fraction=fraction, subset=s) for s in range(5)]
    patient = np.array([r.patient for r in data.records])
    for kept in subsets:
        assert not (kept & ~data.in_split("train")).any()
        chosen = set(patient[kept])
        assert n <= len(chosen) <= n + 1 and kept.sum() == 2 * len(chosen)
        assert set(data.label[kept]) == {0, 1}
    assert len({s.tobytes() for s in subsets}) == 5
    again = few_label_train(task, data, fraction=fraction, subset=3)
    np.testing.assert_array_equal(again, subsets[3])


def test_few_label_subsets_are_nested_by_size(tmp_path):
    data, task = _data(tmp_path), load_task("open-age")
    small, large = (few_label_train(task, data, fraction=f, subset=1) for f in (0.01, 0.10))
    assert small.sum() == 4 and large.sum() == 32 and not (small & ~large).any()


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


@pytest.mark.parametrize("protocol", ["knn", "few-1", "few-10"])
def test_a_run_of_each_protocol_names_it_and_is_scored_again(sex, tmp_path, protocol):
    result = run(sex, MeanAdapter(), out=tmp_path, protocol=protocol, subset=2)
    assert result.model["id"] == run_name("mean", protocol, 2) == read_result(tmp_path).model["id"]
    again = score(read_predictions(tmp_path / "predictions.parquet"))
    assert all(again[name] == getattr(result, name) for name in again)
    if protocol == "knn":
        assert result.protocol["k"] in K_GRID and "neighbours" in result.protocol["summary"]
    else:
        few = few_label_train(sex.task, sex.data, fraction=result.protocol["fraction"], subset=2)
        assert result.protocol["fitted_units"] == few.sum() < sex.data.in_split("train").sum() / 5
        assert result.model["id"] == f"mean+{protocol}.2"


def test_an_unknown_protocol_is_refused(sex, tmp_path):
    with pytest.raises(SpecError, match="no protocol 'magic'; the protocols are probe, knn"):
        run(sex, MeanAdapter(), out=tmp_path, protocol="magic")
