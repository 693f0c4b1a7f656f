"""R-peak tasks: the matcher's oracles at every tolerance, the floors, picking, the head, and a run from files to result."""

import numpy as np
import pytest
from bench_data import MeanAdapter

from benchecg.answering import unsuited
from benchecg.comparing import compare
from benchecg.metrics import PEAK_NAMES, TOLERANCES_S, peak_counts, peak_metrics, statistic
from benchecg.models import Tokens, load_adapter
from benchecg.predictions import read_predictions
from benchecg.protocols import C_GRID, THETA_GRID, peak_probe
from benchecg.running import load_data, run
from benchecg.scoring import score
from benchecg.tasks import load_task
from xecg.errors import SpecError
from xecg.signal import simulate
from xecg.signal.peaks import pick

TOL_FLOOR = 0.01  # simulated floors against the printed three digits


def _values(truth, found):
    return dict(zip(PEAK_NAMES, peak_metrics(peak_counts(np.array(truth, float), np.array(found, float)))))


@pytest.mark.parametrize(
    ("truth", "found", "tolerance_s", "counts", "f1"),
    [
        ([1.0], [0.99, 1.00, 1.01], 0.010, (1, 2, 0), 0.5),
        ([1.000, 1.015], [1.0075], 0.010, (1, 0, 1), 0.6667),
        ([1, 2], [], 0.010, (0, 0, 2), 0.0),
        ([], [0.5, 0.7], 0.010, (0, 2, 0), 0.0),
        ([1, 2, 3], [1.009, 2.011, 2.990, 3.009], 0.010, (2, 2, 1), 0.5714),
        ([0.8, 1.0], [0.90, 0.95], 0.150, (2, 0, 0), 1.0),
    ],
)
def test_peak_counts_are_those_of_the_worked_cases(truth, found, tolerance_s, counts, f1):
    place = TOLERANCES_S.index(tolerance_s)
    got = peak_counts(np.array(truth, float), np.array(found, float))
    assert tuple(got[3 * place : 3 * place + 3]) == counts
    assert _values(truth, found)[f"f1_{1000 * tolerance_s:.0f}ms"] == pytest.approx(f1, abs=5e-5)


def test_without_any_peak_f1_is_undefined():
    values = _values([], [])
    assert all(np.isnan(v) for v in values.values())


def test_a_perfect_detector_with_8_ms_jitter_and_a_metronome_have_their_known_floors():
    rng = np.random.default_rng(0)
    truth = np.cumsum(rng.normal(0.8, 0.08, 20_000))
    jitter = _values(truth, truth + rng.normal(0, 0.008, len(truth)))
    assert jitter["f1_10ms"] == pytest.approx(0.788, abs=TOL_FLOOR) and jitter["f1_75ms"] == 1.0
    assert jitter["timing_error_ms"] == pytest.approx(8 * np.sqrt(2 / np.pi), abs=0.1)
    assert jitter["timing_bias_ms"] == pytest.approx(0, abs=0.2)
    beats = _values(truth, np.arange(0.4, truth[-1], 0.8))
    for tolerance, floor in (("10ms", 0.025), ("75ms", 0.188), ("150ms", 0.376)):
        assert beats[f"f1_{tolerance}"] == pytest.approx(floor, abs=TOL_FLOOR)


def test_the_aami_part_leaves_the_first_300_s_to_the_pair_that_a_true_peak_belongs_to():
    values = _values([1.0, 300.05, 400.0], [2.0, 299.99, 400.0, 500.0])
    assert values["se_150ms"] == pytest.approx(2 / 3) and values["ppv_150ms"] == pytest.approx(0.5)
    assert values["aami_se_150ms"] == 1.0 and values["aami_ppv_150ms"] == pytest.approx(2 / 3)
    assert values["aami_se_10ms"] == 0.5
    assert _values([400.0], [1.0, 2.0, 400.0])["aami_ppv_10ms"] == 1.0


def test_counts_are_pooled_over_records_with_their_weights():
    record = np.array([0, 0, 1, 1, 1])
    time_s = np.array([1.0, 1.0, 1.0, 5.0, 9.0])
    truth = np.array([1, 0, 1, 1, 0])  # record 0: one hit; record 1: two misses, one false
    stat = statistic(
        "peaks",
        truth=truth,
        score=truth * 0.0,
        valid=truth == 0,
        cluster=record,
        classes=("R",),
        record=record,
        time_s=time_s,
    )
    at = stat.names.index("f1_75ms")
    weights = np.array([[1, 1], [2, 0], [1, 2], [0, 0]], float)
    np.testing.assert_allclose(stat.values(weights)[:, at], [2 / 5, 1.0, 2 / 8, np.nan])
    assert stat.point()["record_f1_75ms"] == 0.5


def test_picking_takes_the_middle_of_a_plateau_the_higher_of_two_near_and_the_top_between_samples():
    time_s = np.arange(200) * 0.01
    height = np.zeros(200)
    height[20:23] = 0.5
    height[60], height[70] = 0.6, 0.9  # 100 ms apart
    height[120], height[130] = 0.3, 0.04
    at, top = pick(time_s, height, theta=0.05)
    np.testing.assert_allclose(at, [0.21, 0.70, 1.20], atol=1e-12)
    assert top.tolist() == [0.5, 0.9, 0.3]
    assert pick(time_s, height, theta=0.55)[0].tolist() == pytest.approx([0.70])
    bell = np.exp(-0.5 * ((time_s - 0.7037) / 0.02) ** 2)
    assert pick(time_s, bell, theta=0.5)[0] == pytest.approx([0.7037], abs=5e-4)
    assert len(pick(time_s, np.zeros(200), theta=0.05)[0]) == 0


def _planted(seed, n=400, length_s=0.25):
    """Tokens whose features are a bell around the peak inside them (zero without one)."""
    rng = np.random.default_rng(seed)
    start = np.arange(n) * length_s
    truth = np.cumsum(rng.uniform(0.6, 1.1, int(n * length_s)))
    truth = truth[truth < n * length_s]
    grid = start[:, None] + length_s * (np.arange(12) + 0.5) / 12
    near = np.abs(grid[..., None] - truth).min(-1)
    values = np.exp(-0.5 * (near / 0.03) ** 2) + rng.normal(0, 0.02, grid.shape)
    return Tokens(values.astype(np.float32), start, np.full(n, length_s)), truth


def test_the_head_finds_peaks_that_the_tokens_hold_and_ignores_the_test_truth():
    made = {i: _planted(i) for i in range(6)}
    tokens, truth = ({i: m[k] for i, m in made.items()} for k in (0, 1))
    split = {"train": [0, 1, 2], "val": [3], "test": [4, 5]}
    probe = peak_probe(tokens, truth, **split)
    assert probe.c in C_GRID and probe.theta in THETA_GRID and probe.outputs == 25
    for i in split["test"]:
        values = _values(truth[i], probe.found[i][0])
        assert values["f1_75ms"] == 1.0 and values["f1_10ms"] > 0.8  # a peak at a token's border is placed within 15 ms
    curve = (tokens[4].values - probe.head.centre) / probe.head.scale @ probe.head.weight.T + probe.head.bias
    grid = tokens[4].start_s[:, None] + 0.25 * (np.arange(25) + 0.5) / 25
    np.testing.assert_allclose(pick(grid.ravel(), curve.ravel(), theta=probe.theta), probe.found[4], atol=1e-9)
    other = peak_probe(tokens, {**truth, 4: truth[4][::2] + 0.1, 5: np.zeros(0)}, **split)
    for i in split["test"]:
        np.testing.assert_array_equal(probe.found[i][0], other.found[i][0])


def test_the_head_equals_ridge_of_scikit_learn():
    from sklearn.linear_model import Ridge

    from benchecg.protocols.peak_head import _grid, _Head, target_of

    tokens, truth = _planted(0)
    head = _Head([tokens], [truth], 25)
    x = (tokens.values - tokens.values.mean(0, dtype=float)) / tokens.values.std(0, dtype=float)
    for c in (1e-4, 1.0, 100.0):
        other = Ridge(alpha=1 / c).fit(x, target_of(_grid(tokens, 25), truth))
        np.testing.assert_allclose(head.curve(tokens, c), other.predict(x), atol=1e-6)


def test_a_record_without_peaks_is_a_target_of_zeros():
    tokens, truth = _planted(0, n=40)
    empty, _ = _planted(1, n=40)
    probe = peak_probe(
        {0: tokens, 1: empty, 2: tokens}, {0: truth, 1: np.zeros(0), 2: truth}, train=[0, 1], val=[2], test=[2]
    )
    assert len(probe.found[2][0])


class Truthful(MeanAdapter):
    """A detector that is a little late and misses nothing: peaks at 300, 640, … samples of 360 Hz."""

    id = "truthful"

    def peaks_s(self, recording):
        return (300 + 340 * np.arange(9)) / 360 + 0.02


@pytest.fixture(scope="module")
def mit(small_mitdb):
    return load_data(load_task("mitbih-rpeaks"), small_mitdb)


def test_a_detectors_run_is_scored_again_from_its_predictions(mit, tmp_path):
    result = run(mit, Truthful(), out=tmp_path)
    assert result.metrics["f1_10ms"]["value"] == 0.0 and result.metrics["f1_75ms"]["value"] == 1.0
    assert result.metrics["timing_bias_ms"]["value"] == pytest.approx(20, abs=1e-6)
    assert result.metrics["aami_f1_75ms"]["value"] is None  # 10 s records end before
    assert result.support == {
        "units": 198, "without_prediction": 0, "patients": 22, "records": 22, "classes": {"R": {"units": 198, "patients": 22}},
    }  # fmt: skip
    assert len(result.per_record) == 22 and result.per_record[0]["correct"] == 9
    again = score(read_predictions(tmp_path / "predictions.parquet"))
    assert all(again[name] == getattr(result, name) for name in again)


def test_an_encoders_run_caches_its_tokens_and_repeats_to_the_byte(mit, tmp_path):
    runs = [run(mit, MeanAdapter(), out=tmp_path / str(i), cache=tmp_path / "c") for i in range(2)]
    assert runs[0].predictions["sha256"] == runs[1].predictions["sha256"]
    assert runs[0].cost["feature_blocks_cached"] == 0 and runs[1].cost["feature_blocks_cached"] == 43
    assert (
        runs[0].protocol["outputs"] == 100
        and "201" not in read_predictions(tmp_path / "0" / "predictions.parquet").record_id
    )


def test_two_models_are_compared_on_the_true_peaks(mit, tmp_path):
    for adapter in (Truthful(), load_adapter("beat-75")):
        run(mit, adapter, out=tmp_path / adapter.id)
    row = compare(tmp_path, "truthful", "beat-75")[0]
    assert row["metric"] == "f1_10ms" and row["value"] is not None


def test_detectors_are_asked_peaks_only(mit, small_code15, tmp_path):
    detector = load_adapter("qrs")
    assert unsuited(load_task("open-age"), detector) and not unsuited(mit.task, detector)
    result = run(load_data(load_task("open-age"), small_code15), detector, out=tmp_path)
    assert result.headline is None and "qrs finds peaks" in result.reason
    with pytest.raises(SpecError, match="ask it a peaks task"):
        detector.features([])
    result = run(mit, MeanAdapter(), out=tmp_path, protocol="knn")
    assert result.headline is None and "a peaks task has no k nearest neighbours" in result.reason


def test_the_detector_finds_simulated_beats():
    recording = simulate.ecg(seed=3, rate_hz=360, duration_s=30)
    truth = np.asarray(recording.annotations.sample) / recording.rate
    assert _values(truth, load_adapter("qrs").peaks_s(recording))["f1_75ms"] > 0.9


def test_real_peaks_have_the_published_number(real_data):
    task = load_task("mitbih-rpeaks")
    loaded = load_data(task, real_data)
    for part in task.expected:
        assert task.counts(loaded.data, *part.splits) == dict(part.counts)
