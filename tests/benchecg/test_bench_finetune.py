"""Fine-tuning: what is trained, what is kept, that a killed run ends as an undisturbed one, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_data import MeanAdapter
from torch import nn

from benchecg.answering import _peak_probe, unsuited
from benchecg.models import load_adapter
from benchecg.models.network import Contract, NetworkAdapter, seeded
from benchecg.predictions import read_predictions
from benchecg.protocols import linear_probe, record_tokens, tuning, unit_features
from benchecg.protocols.finetune import Plan, class_weights, fine_tune
from benchecg.protocols.linear_probe import metric_of
from benchecg.protocols.peak_tuning import peak_units
from benchecg.protocols.tiles import Grid, Inputs, batch_of, features_of, grid_of, tiles_of
from benchecg.protocols.tuning import Lesson, Network, Recipe, _groups, _stochastic_depth
from benchecg.reference import published_plan
from benchecg.report.names import number
from benchecg.report.seeds import seed_table
from benchecg.results import read_result
from benchecg.running import LoadedTask, load_data, run
from benchecg.scoring import score
from benchecg.tasks import load_task
from benchecg.tasks.base import Record, TaskData
from xecg.errors import SpecError
from xecg.model import Head, HeadSpec
from xecg.model.heads import loss_of
from xecg.signal import PRESETS, STANDARD_LEADS, Recording, simulate

TOL_LOGIT = 1e-4  # float32 tokens of a batch against those of one recording, through a head with C up to 100
SHORT = Recipe(1e-3, 1.0, epochs=3, batch=8)


class _Net(nn.Module):
    """One token each `token` samples, with a norm that keeps running sums."""

    def __init__(self, token=100, norm=nn.BatchNorm1d):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(12, 8, token, stride=token), norm(8), nn.Conv1d(8, 8, 1)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x)))).transpose(1, 2)


@pytest.fixture
def conv():
    with seeded(3):
        return NetworkAdapter(
            _Net(), id="conv", contract=Contract(PRESETS["xecg"], window=400, token=100), about="a test"
        )


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


@pytest.fixture(scope="module")
def spikes():
    """R peaks as spikes in noise: 6 records to train, 2 to validate, 3 to test, of 12 s at 100 Hz, three whole windows."""
    records, record, time_s, made = [], [], [], {}
    for i in range(11):
        rng = np.random.default_rng(i)
        at = np.cumsum(rng.uniform(0.5, 0.95, 12))
        signal = rng.normal(0, 0.3, (12, 1_200)).astype(np.float32)
        signal[:, np.round(at * 100).astype(int)] += np.float32(1.0)
        split = "train" if i < 6 else "val" if i < 8 else "test"
        records.append(Record(f"r{i}", f"p{i}", split, Path("none.csv")))
        made[f"r{i}"] = Recording(signal, 100.0, STANDARD_LEADS, np.ones(signal.shape, bool))
        record += [i] * len(at)
        time_s += at.tolist()
    data = TaskData(
        tuple(records),
        np.array(record),
        np.array(time_s),
        np.zeros(len(record), int),
        True,
        (),
        read=lambda r: made[r.id],
    )
    return LoadedTask(load_task("mitbih-rpeaks"), data, "0" * 64, "0" * 64)


@pytest.fixture
def fine(conv):
    """A network of 0.25 s tokens."""
    with seeded(4):
        return NetworkAdapter(
            _Net(25), id="fine", contract=Contract(PRESETS["xecg"], window=400, token=25), about="a test"
        )


@pytest.fixture(scope="module")
def mit(small_mitdb):
    return load_data(load_task("mitbih-beats"), small_mitdb)


def _tuned(loaded, adapter, plan, cache=None, label=None, beside=None):
    data = loaded.data if label is None else replace(loaded.data, label=label)
    start = _probe(replace(loaded, data=data), adapter, beside)[0].head
    return fine_tune(
        loaded.task, data, adapter, start=start, beside=beside, data_sha256=loaded.data_sha256, plan=plan, cache=cache
    )


def _probe(loaded, adapter, beside=None):
    if loaded.task.kind == "peaks":
        return _peak_probe(
            loaded.task, loaded.data, record_tokens(loaded.task, loaded.data, adapter, data_sha256=""), refit=False
        ), None
    f = unit_features(loaded.task, loaded.data, adapter, data_sha256=loaded.data_sha256)
    values = f.values if beside is None else np.concatenate([f.values, beside], 1)
    parts = {s: loaded.data.in_split(s) for s in ("train", "val", "test")}
    return linear_probe(
        loaded.task, features=values, valid=f.valid, label=loaded.data.label, refit=False, **parts
    ), f.valid[parts["test"]]


def test_fine_tuning_beats_the_linear_probe_of_a_random_encoder(tmp_path):
    simulate.archive(tmp_path / "demo-synthetic", patients=120, seed=1)
    demo = load_data(load_task("demo-synthetic"), tmp_path)
    adapter = load_adapter("xecg-random")
    before = adapter.features([_first(demo)])[0].values
    tuned = _tuned(demo, adapter, Plan((Recipe(1e-3, 1.0, epochs=6),), seeds=1))
    probe, valid = _probe(demo, adapter)
    linear = metric_of(demo.task, demo.data.label[demo.data.in_split("test")], probe.score, valid)
    assert tuned.test[0] > linear + 0.02
    np.testing.assert_array_equal(adapter.features([_first(demo)])[0].values, before)  # the adapter itself is untouched


def _first(loaded):
    from xecg import read

    return read(loaded.data.records[0].path)


@pytest.mark.parametrize("which", ["xecg-random", "conv"])
@pytest.mark.parametrize("task", ["sex", "mit"])
def test_before_the_first_step_it_is_the_linear_probe(which, task, request):
    loaded = request.getfixturevalue(task)
    adapter = request.getfixturevalue("conv") if which == "conv" else load_adapter(which)
    tuned = _tuned(loaded, adapter, Plan((replace(SHORT, epochs=0),), seeds=1))
    probe, valid = _probe(loaded, adapter)
    np.testing.assert_array_equal(tuned.valid, valid)
    if task == "mit" and which != "conv":
        return  # tiles give a recurrent encoder other surroundings than the whole record
    seen = probe.score[valid]
    np.testing.assert_allclose(tuned.scores[0][valid], seen, atol=TOL_LOGIT * max(1, np.abs(seen).max()))


@pytest.mark.parametrize("task", ["sex", "spikes"])
def test_a_killed_training_ends_as_an_undisturbed_one(task, conv, tmp_path, monkeypatch, request):
    loaded = request.getfixturevalue(task)
    plan = Plan((SHORT, replace(SHORT, lr_core=1e-4)), seeds=2)
    whole = _tuned(loaded, conv, plan, tmp_path / "a")
    real, left = tuning.write_bytes, [4]

    def dying(path, data):
        if path.name == "state.safetensors":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(tuning, "write_bytes", dying)
    for _ in range(20):
        try:
            again = _tuned(loaded, conv, plan, tmp_path / "b")
            break
        except KeyboardInterrupt:
            left[0] = 1
    else:
        pytest.fail("never done")
    assert again.search == whole.search and again.epochs == whole.epochs and again.test == whole.test
    assert again.thetas == whole.thetas and len(whole.scores) == 2
    for a, b in zip(whole.scores, again.scores):
        for one, two in zip(a.values(), b.values()) if task == "spikes" else [(a, b)]:
            np.testing.assert_array_equal(one, two)
    assert not list((tmp_path / "b").rglob("state.safetensors"))


def test_a_finished_training_is_not_done_again(sex, conv, tmp_path, monkeypatch):
    first = _tuned(sex, conv, Plan((SHORT,), seeds=1), tmp_path)
    monkeypatch.setattr(tuning, "_step", lambda *a: pytest.fail("trained again"))
    again = _tuned(sex, conv, Plan((SHORT,), seeds=1), tmp_path)
    np.testing.assert_array_equal(first.scores[0], again.scores[0])


def test_seeds_differ_and_the_test_labels_choose_nothing(sex, conv, tmp_path):
    plan = Plan((SHORT, replace(SHORT, lr_core=1e-4)), seeds=2)
    a = _tuned(sex, conv, plan)
    label = sex.data.label.copy()
    label[sex.data.in_split("test")] = 1 - label[sex.data.in_split("test")]
    b = _tuned(sex, conv, plan, label=label)
    assert a.recipe == b.recipe and a.test != b.test
    for x, y in zip(a.scores, b.scores):
        np.testing.assert_array_equal(x, y)
    other = _tuned(sex, conv, Plan((replace(SHORT, seed=0),), seeds=2), tmp_path)
    assert len(other.scores) == 2 and (other.epochs == (0, 0) or not np.array_equal(*other.scores))


def trained_with(values, folder, **settings):
    """A training whose validation metric is `values`, epoch by epoch."""
    net = Network(_Net(), Head(HeadSpec("binary", ("a", "b")), 8))
    data = TaskData(
        tuple(Record(str(i), str(i), "train", None) for i in range(8)),
        np.arange(8), np.full(8, np.nan), np.arange(8) % 2, True, (),
    )  # fmt: skip
    inputs = {i: _input(i) for i in range(8)}
    tiles = tiles_of(load_task("open-sex"), data, inputs, Grid(100.0, 100.0))
    given = iter(values)
    recipe = Recipe(1e-3, 1.0, epochs=len(values) - 1, **settings)
    label = torch.from_numpy(data.label).float()
    return tuning.tune(net, Lesson(tiles, inputs, label), recipe, folder=folder, value_of=lambda n: next(given))


def test_the_kept_epoch_is_the_earliest_best_and_patience_ends_a_training(tmp_path):
    values = [0.5, 0.7, 0.7, 0.6, 0.9, 0.9]
    impatient, patient = (trained_with(values, tmp_path / str(n), patience=n) for n in (2, 3))
    assert (impatient.epoch, len(impatient.history)) == (1, 4)
    assert (patient.epoch, patient.value, len(patient.history)) == (4, 0.9, 6)


def _input(seed, n=400, leads=12):
    from xecg.signal import ModelInput

    x = np.random.default_rng(seed).normal(size=(leads, n)).astype(np.float32)
    return ModelInput(x, np.ones(x.shape, bool))


def test_every_beat_is_in_one_core_by_the_token_that_holds_it_with_context_on_both_sides():
    rng = np.random.default_rng(0)
    time_s = np.sort(rng.uniform(0, 180, 200))
    data = TaskData((Record("r", "p", "test", None),), np.zeros(200, int), time_s, np.zeros(200, int), True, ())
    grid = Grid(100.0, 25.0)
    tiles = tiles_of(load_task("mitbih-beats"), data, {0: _input(0, 18_000)}, grid).test
    assert sorted(np.concatenate([t.unit for t in tiles]).tolist()) == list(range(200))
    assert len(tiles) == 7 and max(t.stop - t.start for t in tiles) == 3_600
    for tile in tiles:
        at = time_s[tile.unit] * 100
        begin = tile.start + 25 * tile.tokens[:, 0]
        assert (begin <= at).all() and (at < begin + 25).all() and (np.diff(tile.tokens, axis=1) == 1).all()
        assert (at - tile.start >= 500).all() or tile.start == 0
        assert (tile.stop - at > 500).all() or tile.stop == 18_000


def test_a_unit_that_lasts_takes_the_tokens_that_start_in_it():
    time_s = np.arange(10) * 60.0
    data = TaskData(
        (Record("r", "p", "test", None),), np.zeros(10, int), time_s, np.zeros(10, int), True, (), span_s=60
    )
    tiles = tiles_of(load_task("apnea-ecg"), data, {0: _input(0, 60_000, 1)}, Grid(100.0, 25.0)).test
    assert [t.unit.tolist() for t in tiles] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    for tile in tiles:
        first = tile.start / 25 + tile.tokens[:, 0]
        np.testing.assert_array_equal(first, tile.unit * 240)
        np.testing.assert_array_equal(np.diff(tile.tokens, axis=1), 240)


def test_companions_of_other_lengths_change_no_feature(sex):
    adapter = load_adapter("xecg-random")
    module, grid = adapter.module(), grid_of(adapter, adapter.module())
    data = TaskData(
        tuple(Record(str(i), str(i), "test", None) for i in range(3)),
        np.arange(3), np.full(3, np.nan), np.zeros(3, int), True, (),
    )  # fmt: skip
    inputs = {0: _input(0, 400), 1: _input(1, 1_000), 2: _input(2, 650)}
    tiles = tiles_of(sex.task, data, inputs, grid).test
    with torch.no_grad():
        together = features_of(module, tiles, inputs, grid, "cpu")
        alone = torch.cat([features_of(module, [t], inputs, grid, "cpu") for t in tiles])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    x, mask = batch_of(tiles, inputs, grid)
    assert x.shape == (3, 12, 1_000) and not mask[0, :, 400:].any() and not x[0, :, 400:].any()


@pytest.mark.parametrize("which", ["xecg-random", "xresnet1d101"])
def test_every_parameter_has_one_rate_that_falls_toward_the_input(which):
    network = Network(load_adapter(which).module(), Head(HeadSpec("binary", ("a", "b")), 128))
    groups = _groups(network, Recipe(1e-4, 0.5))
    owned = [id(p) for g in groups for p in g["params"]]
    assert sorted(owned) == sorted(
        id(p) for p in [*network.module.parameters(), network.head.weight, network.head.bias]
    )
    rate = {id(p): g["height"] for g in groups for p in g["params"]}
    parameters = [p for name, p in network.module.named_parameters() if not name.endswith("mask_token")]
    assert rate[id(parameters[0])] < rate[id(parameters[-1])] <= 1e-4 < rate[id(network.head.weight)] == 1e-3
    assert all(g["weight_decay"] == 0 for g in groups for p in g["params"] if p.dim() < 2)


def test_stochastic_depth_keeps_the_mean_and_ends_with_its_block():
    module = load_adapter("xecg-random").module()
    x = torch.from_numpy(np.stack([_input(0, 100).x] * 512))
    with torch.no_grad():
        plain = module(x[:1])
        with _stochastic_depth(module, 0.5):
            torch.manual_seed(0)
            dropped = module(x)
        assert dropped.std(0).max() > 0.1
        torch.testing.assert_close(module(x[:1]), plain)
        last = module.model.blocks[-1]
        y = torch.randn(1, 4, 128)
        residual = last(y) - y
        with _stochastic_depth(module, 0.5):
            many = last(y.expand(4_096, -1, -1)) - y
    kept = many.abs().amax((1, 2)) > 0
    assert 0.45 < kept.float().mean() < 0.55  # the last of n blocks has the whole rate
    torch.testing.assert_close(many[kept][0], 2 * residual[0], atol=1e-4, rtol=1e-4)


def test_a_run_logs_the_search_and_every_seed_and_is_scored_again(sex, conv, tmp_path):
    plan = Plan((SHORT, replace(SHORT, lr_core=1e-4)), seeds=3)
    result = run(sex, conv, out=tmp_path, protocol="finetune", plan=plan, cache=tmp_path / "cache")
    assert result.model["id"] == "conv+finetune"
    assert set(result.protocol["validation"]) == {"lr_core=0.001 decay=1", "lr_core=0.0001 decay=1"}
    assert len(result.protocol["test_by_seed"]) == 3 and "over 3 seeds" in result.protocol["summary"]
    assert result.to_dict() == read_result(tmp_path).to_dict()
    values = list(result.protocol["test_by_seed"].values())
    assert result.protocol["nested_value"] == pytest.approx(np.mean(values))
    assert (result.protocol["seed_min"], result.protocol["seed_max"]) == (min(values), max(values))
    page = seed_table([result])
    assert all(
        text in page
        for text in ("conv+finetune", number(result.protocol["nested_low"]), number(np.std(values, ddof=1)))
    )
    assert seed_table([replace(result, protocol={"seeds": 1, "seed_sd": None})]) == ""
    files = ["predictions.parquet", "predictions.seed-1.parquet", "predictions.seed-2.parquet"]
    for seed, name in enumerate(files):
        again = score(read_predictions(tmp_path / name))["metrics"]["auroc"]["value"]
        assert again == pytest.approx(result.protocol["test_by_seed"][str(seed)])


def test_what_has_no_network_is_refused_by_name(sex, tmp_path):
    assert "mean has no network to train" in unsuited(sex.task, MeanAdapter(), "finetune")
    assert "tell the label" in unsuited(sex.task, load_adapter("xecg-random"), "finetune", ("sex",))
    assert unsuited(sex.task, load_adapter("xecg-random"), "finetune", ("age",)) is None
    assert "qrs has no network" in unsuited(load_task("mitbih-rpeaks"), load_adapter("qrs"), "finetune")
    result = run(sex, MeanAdapter(), out=tmp_path, protocol="finetune")
    assert result.status == "no score" and "docs/MODELS.md" in result.reason
    with pytest.raises(SpecError, match="no network"):
        _tuned(sex, MeanAdapter(), Plan((SHORT,)))


@pytest.mark.parametrize("task_id", ["open-age", "survival-like", "panel-like"])
def test_numbers_panels_and_survival_train(task_id, small_code15, conv):
    loaded = load_data(load_task("open-age"), small_code15)
    age = loaded.data.label
    if task_id == "survival-like":
        label = np.stack([120 - age + 0.0, np.arange(len(age)) % 2], 1)
        loaded = replace(loaded, task=load_task("open-survival"), data=replace(loaded.data, label=label))
    if task_id == "panel-like":
        high = (age > 50).astype(float)
        label = np.stack([1 - high, high, 1 - high, high], 1)
        label[::3, :2] = np.nan
        task = replace(load_task("blood-tests"), classes=("a/low", "a/high", "b/low", "b/high"))
        loaded = replace(loaded, task=task, data=replace(loaded.data, label=label))
    tuned = _tuned(loaded, conv, Plan((replace(SHORT, epochs=2, patience=99),), seeds=1))
    assert np.isfinite(tuned.scores[0]).all() and tuned.test[0] is not None
    if task_id == "open-age":
        assert 0 < tuned.test[0] < 0.2 and tuned.scores[0].min() > 10  # years, not standard units


def test_inputs_beyond_the_memory_are_made_again(sex, conv, monkeypatch):
    monkeypatch.setattr("benchecg.protocols.tiles._IN_MEMORY", 0)
    inputs = Inputs(sex.task, sex.data, conv.spec)
    assert inputs[0].x is not inputs[0].x
    np.testing.assert_array_equal(inputs[0].x, inputs[0].x)


def test_before_the_first_step_peaks_are_those_of_the_probe(spikes, fine):
    tuned = _tuned(spikes, fine, Plan((replace(SHORT, epochs=0),), seeds=1))
    probe, _ = _probe(spikes, fine)
    assert tuned.thetas == (probe.theta,) and tuned.valid is None
    assert tuned.scores[0].keys() == probe.found.keys() == {8, 9, 10}
    for i, (at, height) in tuned.scores[0].items():
        np.testing.assert_allclose(at, probe.found[i][0], atol=1e-4)
        np.testing.assert_allclose(height, probe.found[i][1], atol=1e-3)


def test_fine_tuned_peaks_are_better_than_the_probes_and_ignore_the_test_truth(spikes, fine):
    plan = Plan((Recipe(1e-2, 1.0, epochs=12, batch=8, drop_path=0.0),), seeds=1)
    before = _tuned(spikes, fine, plan.with_(epochs=0))
    tuned = _tuned(spikes, fine, plan)
    assert tuned.validation[0] > before.validation[0] and tuned.test[0] > before.test[0] + 0.05
    late = spikes.data.time_s + 0.3 * spikes.data.in_split("test")
    other = _tuned(replace(spikes, data=replace(spikes.data, time_s=late)), fine, plan)
    assert other.test[0] < tuned.test[0] and other.thetas == tuned.thetas
    for i in tuned.scores[0]:
        np.testing.assert_array_equal(tuned.scores[0][i][0], other.scores[0][i][0])


def test_every_instant_of_a_record_has_one_height_of_the_token_that_holds_it(spikes):
    inputs = {i: _input(i, n) for i, n in enumerate([1_310, 8_000, 30, *[700] * 8])}
    for grid in (Grid(100.0, 25.0), Grid(100.0, 31.25, 0.0, 250, True), Grid(100.0, 25.0, 5.0, 110)):
        units = peak_units(spikes.data, inputs, grid)
        count = units.target.shape[1]
        for tiles in (*units.tiles.train, *units.tiles.val, *units.tiles.test):
            at = units.time_s[tiles.unit]
            first = (tiles.start + grid.shift + grid.token * tiles.tokens[:, 0]) / grid.rate_hz
            np.testing.assert_allclose(at.mean(1), first + grid.token / grid.rate_hz / 2)
        for i, ready in inputs.items():
            rows = units.record == i
            times = units.time_s[rows][units.own[rows]]
            step = grid.token / grid.rate_hz / count
            assert (np.diff(times) > 0).all() and np.diff(times).max() < 2 * step
            missing = times[0] + (ready.x.shape[-1] / 100 - times[-1])
            assert missing < (grid.shift + grid.token) / 100 + step  # of the end at most a token that is not whole


def test_a_peaks_run_keeps_every_seed_and_is_scored_again(spikes, fine, tmp_path):
    plan = Plan((SHORT,), seeds=2)
    result = run(spikes, fine, out=tmp_path, protocol="finetune", plan=plan, cache=tmp_path / "cache")
    assert result.model["id"] == "fine+finetune" and result.protocol["outputs"] == 25
    assert set(result.protocol["theta_by_seed"]) == {"0", "1"}
    for seed, name in enumerate(["predictions.parquet", "predictions.seed-1.parquet"]):
        again = score(read_predictions(tmp_path / name))["metrics"]["f1_10ms"]["value"]
        assert again == pytest.approx(result.protocol["test_by_seed"][str(seed)])


def test_columns_beside_the_tokens_enter_the_probe_and_the_training(sex, conv, tmp_path):
    told = np.where(sex.data.label == 1, 1.0, -1.0).astype(np.float32)[:, None]
    tuned = _tuned(sex, conv, Plan((replace(SHORT, epochs=0),), seeds=1), beside=told)
    probe, valid = _probe(sex, conv, told)
    np.testing.assert_allclose(tuned.scores[0][valid], probe.score[valid], atol=TOL_LOGIT * np.abs(probe.score).max())
    assert tuned.test[0] == 1.0 and tuned.width == 9
    noise = np.random.default_rng(0).normal(size=told.shape).astype(np.float32)
    one = _tuned(sex, conv, Plan((SHORT,), seeds=1), tmp_path, beside=noise)
    two = _tuned(sex, conv, Plan((SHORT,), seeds=1), tmp_path, beside=noise + np.float32(0.5) * noise[::-1])
    assert not np.array_equal(one.scores[0], two.scores[0])  # trainings with other columns are other trainings


def test_a_run_with_covariates_says_so(sex, conv, tmp_path):
    result = run(
        sex,
        conv,
        out=tmp_path,
        protocol="finetune",
        plan=Plan((replace(SHORT, epochs=1),), seeds=1),
        covariates=("age",),
    )
    assert result.model["id"] == "conv+finetune+age" and result.model["width"] == 9
    assert result.protocol["covariates"] == "age"


def test_class_weights_are_those_of_torch_and_make_classes_equal():
    task = load_task("mitbih-beats")
    label = np.array([0] * 90 + [1] * 9 + [2])
    weight = class_weights(task, label)
    np.testing.assert_allclose(weight[:3], [100 / (5 * 90), 100 / (5 * 9), 100 / 5], rtol=1e-6)
    logits, target = torch.randn(101, 5), torch.from_numpy(np.append(label, -1))
    ours = loss_of(Head(HeadSpec("multiclass", task.classes), 3), logits, target, weight=weight)
    theirs = nn.functional.cross_entropy(logits, target, weight=weight, ignore_index=-1)
    torch.testing.assert_close(ours, theirs)
    labels = np.array([[1, 0], [0, 0], [1, 1], [1, 0]], np.float32)
    many = class_weights(load_task("cpsc2018"), np.tile(labels, (1, 5))[:, :9])
    np.testing.assert_allclose(many[:2], [4 / (9 * 3), 4 / 9])
    head = Head(HeadSpec("multilabel", ("a", "b")), 3)
    logits = torch.randn(4, 2)
    theirs = nn.BCEWithLogitsLoss(weight=many[:2])(logits, torch.from_numpy(labels))
    torch.testing.assert_close(loss_of(head, logits, torch.from_numpy(labels), weight=many[:2]), theirs)
    assert class_weights(load_task("apnea-ecg"), label) is None


def test_class_weights_change_a_training_only_where_the_recipe_asks(mit, conv):
    plans = [Plan((replace(SHORT, epochs=1, class_weights=on, keep="last"),), seeds=1) for on in (False, True)]
    one, two = (_tuned(mit, conv, plan).scores[0] for plan in plans)
    assert not np.array_equal(one, two)
    assert (
        published_plan("mitbih-beats").search[0].class_weights
        and not published_plan("survival").search[0].class_weights
    )
    assert not any(r.class_weights for r in Plan().search)
