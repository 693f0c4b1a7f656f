"""The interval against scores without the patient and against formulas written out here, and the paired comparison."""

import numpy as np
import pytest

from benchecg.metrics import SCALES, Statistic, statistic
from benchecg.predictions import GROUPS as GROUPS_OF_UNITS
from benchecg.predictions import Predictions, TaskFacts
from benchecg.scoring import score
from benchecg.stats import GROUPS, estimate, holm, left_out, nested, paired_difference, spread
from xecg.errors import ShapeError

TOL_REPLICATE = 1e-9  # same numbers summed in another order
TOL_FORMULA = 1e-12  # one formula, evaluated twice in float64


def _table(kind, seed=0, n=400, n_clusters=30):
    rng = np.random.default_rng(seed)
    cluster = np.sort(np.r_[np.arange(n_clusters), rng.integers(0, n_clusters, n - n_clusters)])
    if kind == "multiclass":
        truth, score = rng.integers(0, 3, n), rng.normal(size=(n, 3))
        score[np.arange(n), truth] += 0.7
    elif kind == "multilabel":
        truth = rng.integers(0, 2, (n, 3))
        score = np.round(rng.normal(size=(n, 3)) + truth, 1)
    elif kind == "binary":
        truth = rng.integers(0, 2, n)
        score = np.round(rng.normal(size=n) + truth, 1)
    else:
        truth = rng.uniform(18, 90, n)
        score = truth + rng.normal(0, 9, n)
    return truth, score, cluster


def _stat(kind, truth, score, cluster):
    valid = np.ones(len(truth), bool)
    return statistic(kind, truth=truth, score=score, valid=valid, cluster=cluster, classes=("a", "b", "c"))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary", "regression"])
def test_weighted_values_equal_those_of_copied_rows(kind):
    truth, score, cluster = _table(kind)
    stat = _stat(kind, truth, score, cluster)
    weights = np.random.default_rng(5).integers(0, 4, (20, stat.n_clusters)).astype(float)
    fast = stat.values(weights)
    for row, values in zip(weights, fast):
        rows = np.concatenate([np.repeat(np.flatnonzero(cluster == k), int(row[k])) for k in range(stat.n_clusters)])
        slow = _stat(kind, truth[rows], score[rows], np.zeros(len(rows), int)).point()
        np.testing.assert_allclose(values, list(slow.values()), atol=TOL_REPLICATE)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary", "regression"])
def test_left_out_values_are_the_scores_without_the_patient(kind):
    truth, score, cluster = _table(kind)
    left = left_out(_stat(kind, truth, score, cluster))
    assert len(left) == 30
    for k, values in enumerate(left):
        rows = cluster != k
        slow = _stat(kind, truth[rows], score[rows], np.zeros(rows.sum(), int)).point()
        np.testing.assert_allclose(values, list(slow.values()), atol=TOL_REPLICATE)


def test_many_patients_are_left_out_in_groups_of_equal_size_that_follow_the_seed():
    n = 2 * GROUPS + 1
    seen = []
    stat = Statistic(("x",), n, lambda w: (seen.append(w), w.sum(1, keepdims=True))[1])
    sizes = n - left_out(stat, seed=1)[:, 0]
    assert len(sizes) == GROUPS and sorted(set(sizes)) == [2, 3] and (seen[0].sum(0) == GROUPS - 1).all()
    left_out(stat, seed=1), left_out(stat, seed=2)
    assert (seen[0] == seen[1]).all() and (seen[0] != seen[2]).any()


def _mean(x):
    x = np.asarray(x, float)
    return Statistic(("mean",), len(x), lambda w: (w @ x / w.sum(1))[:, None], {"mean": "any"})


def test_interval_of_a_mean_is_the_formula_of_the_text():
    from scipy import stats

    x = np.random.default_rng(3).exponential(size=12)
    found = estimate(_mean(x))["mean"]
    d = x - x.mean()  # the influence of each patient, exact for a mean
    df = (d**2).sum() ** 2 / (d**4).sum()
    shift = (d**3).sum() / (d**2).sum() ** 1.5 * (2 * stats.norm.ppf(0.975) ** 2 + 1) / 6
    error, reach = x.std(ddof=1) / np.sqrt(12), stats.t.ppf(0.975, max(df, 3))
    assert found.df == pytest.approx(df, rel=TOL_FORMULA)
    assert found.low == pytest.approx(x.mean() + error * (shift - reach), rel=TOL_FORMULA)
    assert found.high == pytest.approx(x.mean() + error * (shift + reach), rel=TOL_FORMULA)


def test_degrees_of_freedom_count_the_patients_that_weigh_in():
    alike = estimate(_mean(np.tile([0.0, 1.0], 50)))["mean"]
    assert alike.df == pytest.approx(100)
    one = estimate(_mean(np.r_[np.zeros(99), 1.0]))["mean"]
    assert one.df == pytest.approx(1, abs=0.05)
    assert one.high - one.low == pytest.approx(2 * 3.1824 * 0.01, rel=1e-4)  # t of three, not of one
    normal = estimate(_mean(np.random.default_rng(0).normal(size=GROUPS)))["mean"]
    assert normal.df == pytest.approx(GROUPS / 3, rel=0.2)


def test_interval_leans_to_where_unseen_patients_would_pull():
    x = np.random.default_rng(1).exponential(size=60)
    right, left = estimate(_mean(x))["mean"], estimate(_mean(-x))["mean"]
    assert right.high - right.value > 1.3 * (right.value - right.low)
    assert (left.low, left.high) == pytest.approx((-right.high, -right.low))


@pytest.mark.parametrize("scale", SCALES)
def test_scales_go_there_and_back_and_hold_their_range(scale):
    onto, back = SCALES[scale]
    inside = np.array([0.02, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(back(onto(inside)), inside, rtol=TOL_REPLICATE)
    assert (np.diff(onto(inside)) > 0).all()
    ends = back(np.array([-1e9, 1e9]))
    low, high = {
        "positive": (0, np.inf),
        "correlation": (-1, 1),
        "explained": (-np.inf, 1),
        "any": (-np.inf, np.inf),
    }.get(scale, (0, 1))
    assert low <= ends[0] < ends[1] <= high and np.isfinite(onto(np.array([0.0, 1.0]))).all()


def test_intervals_stay_in_the_metrics_range_where_a_single_patient_decides():
    truth, score = np.array([1, 0, 1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3, 0.25, 0.15])
    auc = estimate(_stat("binary", truth, score, np.arange(6)))["auroc"]
    assert 0 <= auc.low < auc.value < auc.high <= 1 and auc.df < 3
    mae = estimate(_stat("regression", np.arange(8) + 20.0, np.r_[np.arange(7) + 20.1, 90.0], np.arange(8)))["mae"]
    assert 0 < mae.low < mae.value < mae.high


def test_interval_holds_the_value_and_widens_with_fewer_clusters():
    widths = []
    for n_clusters in (10, 200):
        truth, score, cluster = _table("regression", n=600, n_clusters=n_clusters)
        found = score + np.random.default_rng(1).normal(0, 6, n_clusters)[cluster]  # patients differ
        mae = estimate(_stat("regression", truth, found, cluster), seed=0)["mae"]
        assert mae.low < mae.value < mae.high
        widths.append(mae.high - mae.low)
    assert widths[0] > widths[1]


def test_groups_of_patients_give_the_interval_of_single_ones():
    stat = _stat("binary", *_table("binary", n=1_000, n_clusters=1_000))
    by_groups = estimate(stat)["auroc"]
    single = spread(np.array(by_groups.value), stat.values(1 - np.eye(1_000))[:, 0], "rank")
    assert by_groups.high - by_groups.low == pytest.approx(single.high - single.low, rel=0.2)


def test_cluster_interval_is_wider_than_a_unit_interval_when_units_repeat():
    truth, score, _ = _table("binary", n=60, n_clusters=60)
    truth, score = np.repeat(truth, 20), np.repeat(score, 20)  # every patient twenty times
    by_patient = estimate(_stat("binary", truth, score, np.repeat(np.arange(60), 20)))["auroc"]
    by_unit = estimate(_stat("binary", truth, score, np.arange(1200)))["auroc"]
    assert by_patient.high - by_patient.low > 3 * (by_unit.high - by_unit.low)


def test_a_metric_that_one_patient_carries_has_no_interval_and_says_so():
    truth, score = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3])
    auc = estimate(_stat("binary", truth, score, np.arange(4)))["auroc"]
    assert (auc.value, auc.low, auc.high, auc.df) == (1.0, None, None, None) and auc.undefined == 0.25
    alone = estimate(_stat("binary", truth, score, np.zeros(4, int)))["auroc"]
    assert (alone.value, alone.low, alone.undefined) == (1.0, None, 1.0)


def test_where_all_patients_agree_the_interval_is_the_value():
    found = estimate(_mean(np.full(9, 0.1)))["mean"]
    assert (found.low, found.high, found.df) == (found.value, found.value, None)


def _warnings(truth, found):
    facts = TaskFacts("t", "1", "m", "multiclass", ("a", "b"), {}, "macro_f1", True, False, 0)
    text = np.array([f"p{i}" for i in range(len(truth))])
    table = Predictions(
        facts, text, text, text, np.full(len(truth), np.nan), np.array(truth), np.eye(2, dtype=np.float32)[found],
        np.ones(len(truth), bool), dict.fromkeys(GROUPS_OF_UNITS, text),
    )  # fmt: skip
    return score(table)["warnings"]


def test_a_class_that_one_patient_carries_is_flagged():
    lines = _warnings([0, 0, 0, 0, 1], [0, 0, 0, 0, 1])
    assert "f1/b has no interval: without one of its patients it has no value, and means leave it out" in lines


def test_an_interval_that_rests_on_hardly_anybody_is_flagged():
    lines = _warnings([0] * 12 + [1], [0] * 12 + [0])
    assert any(line.startswith("the interval of macro_f1 rests on 1.0 patients in effect") for line in lines)
    assert not any("rests on" in line for line in _warnings([0, 1] * 30, [0, 1, 1, 1, 0, 0] * 10))


def test_paired_difference_of_a_model_with_itself_is_nought():
    stat = _stat("binary", *_table("binary"))
    difference = paired_difference(stat, stat, "auroc")
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1.0)


def test_a_difference_that_all_patients_agree_on_has_the_p_of_the_sign_test():
    truth = np.tile([0, 1], 6)
    perfect, constant = (_stat("binary", truth, s, np.arange(12)) for s in (truth.astype(float), np.zeros(12)))
    found = paired_difference(perfect, constant, "auroc")
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5) and found.p == 2 * 0.5**12


def test_paired_difference_finds_a_better_model():
    truth, score, cluster = _table("binary")
    noise = np.random.default_rng(9).normal(0, 3, len(score))
    better, worse = _stat("binary", truth, score, cluster), _stat("binary", truth, score + noise, cluster)
    difference, back = paired_difference(better, worse, "auroc"), paired_difference(worse, better, "auroc")
    assert difference.low > 0 and 0 < difference.p < 1e-4
    assert (back.low, back.high, back.p) == pytest.approx((-difference.high, -difference.low, difference.p))


@pytest.mark.parametrize("noise", [0.2, 0.4, 0.6, 0.8])
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_nought_out(noise):
    truth, score, cluster = _table("binary")
    other = score + np.random.default_rng(3).normal(0, noise, len(score))
    found = paired_difference(_stat("binary", truth, score, cluster), _stat("binary", truth, other, cluster), "auroc")
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_p_of_skewed_differences_is_that_of_the_shifted_t():
    from scipy import stats

    a = np.random.default_rng(4).exponential(size=15) - 0.4
    found = paired_difference(_mean(a), _mean(np.zeros(15)), "mean")
    middle, error = (found.low + found.high) / 2, a.std(ddof=1) / np.sqrt(15)
    assert abs(middle - found.value) > 0.2 * error
    assert found.p == pytest.approx(2 * stats.t.sf(abs(middle) / error, found.df), rel=TOL_REPLICATE)


def test_a_unit_without_a_prediction_is_an_error_of_its_class_alone():
    truth, score, cluster = _table("multiclass")
    valid = np.arange(len(truth)) % 7 > 0
    stat = statistic(
        "multiclass", truth=truth, score=score, valid=valid, cluster=cluster, classes=("a", "b", "c"),
    )  # fmt: skip
    right = valid & (score.argmax(1) == truth)
    point = stat.point()
    assert point["accuracy"] == pytest.approx(right.mean())
    for c, name in enumerate("abc"):
        assert point[f"ppv/{name}"] == pytest.approx(right[truth == c].sum() / (valid & (score.argmax(1) == c)).sum())


def test_a_paired_difference_is_narrower_than_its_two_intervals():
    truth, score, cluster = _table("binary")
    a, b = _stat("binary", truth, score, cluster), _stat("binary", truth, score + 0.01 * (cluster % 3), cluster)
    difference, alone = paired_difference(a, b, "auroc"), estimate(a)["auroc"]
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)


def test_paired_difference_refuses_other_patients():
    truth, score, cluster = _table("binary")
    with pytest.raises(ShapeError, match="30 and 1 clusters"):
        paired_difference(_stat("binary", truth, score, cluster), _stat("binary", truth, score, cluster * 0), "auroc")


def test_holm_steps_down_and_stays_monotone():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_seeds_and_patients_weigh_in_together():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2

    def of(shift, n=80):
        return _stat("binary", y[:n], y[:n] * shift + rng.normal(size=n), np.arange(n))

    good, bad = of(3.0), of(0.5)
    alone, poor = (estimate(s)["auroc"] for s in (good, bad))
    same, both = nested([good] * 5, "auroc"), nested([good, bad] * 3, "auroc")
    assert (same.value, same.low, same.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )  # seeds that agree add nothing
    assert both.value == pytest.approx((alone.value + poor.value) / 2)
    assert both.high - both.low > 1.2 * (poor.high - poor.low)
    few, many = nested([good, bad], "auroc"), nested([good, bad] * 10, "auroc")
    assert few.low < both.low < many.low < many.high < both.high < few.high
    with pytest.raises(ShapeError, match="needed the same"):
        nested([good, of(1.0, 60)], "auroc")
