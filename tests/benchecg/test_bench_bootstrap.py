"""The bootstrap against one that copies rows, and the paired comparison."""

import numpy as np
import pytest

from benchecg.metrics import statistic
from benchecg.predictions import GROUPS, Predictions, TaskFacts
from benchecg.scoring import score
from benchecg.stats import draw_weights, estimate, holm, paired_difference
from xecg.errors import ShapeError

TOL_REPLICATE = 1e-9  # same numbers summed in another order


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
def test_weighted_replicates_equal_copied_rows(kind):
    truth, score, cluster = _table(kind)
    stat = _stat(kind, truth, score, cluster)
    weights = draw_weights(stat.n_clusters, resamples=20, seed=5)
    fast = stat.values(weights)
    for row, values in zip(weights, fast):
        rows = np.concatenate([np.repeat(np.flatnonzero(cluster == k), int(row[k])) for k in range(stat.n_clusters)])
        slow = _stat(kind, truth[rows], score[rows], np.zeros(len(rows), int)).point()
        np.testing.assert_allclose(values, list(slow.values()), atol=TOL_REPLICATE)


def test_draws_are_whole_resamples_and_follow_the_seed():
    weights = draw_weights(22, resamples=300, seed=1)
    assert (weights.sum(1) == 22).all()
    assert (weights == draw_weights(22, resamples=300, seed=1)).all()
    assert (weights != draw_weights(22, resamples=300, seed=2)).any()


def test_interval_holds_the_value_and_widens_with_fewer_clusters():
    widths = []
    for n_clusters in (10, 200):
        truth, score, cluster = _table("regression", n=600, n_clusters=n_clusters)
        found = score + np.random.default_rng(1).normal(0, 6, n_clusters)[cluster]  # patients differ
        mae = estimate(_stat("regression", truth, found, cluster), seed=0)["mae"]
        assert mae.low < mae.value < mae.high
        widths.append(mae.high - mae.low)
    assert widths[0] > widths[1]


def test_cluster_interval_is_wider_than_a_unit_interval_when_units_repeat():
    truth, score, _ = _table("binary", n=60, n_clusters=60)
    truth, score = np.repeat(truth, 20), np.repeat(score, 20)  # every patient twenty times
    by_patient = estimate(_stat("binary", truth, score, np.repeat(np.arange(60), 20)))["auroc"]
    by_unit = estimate(_stat("binary", truth, score, np.arange(1200)))["auroc"]
    assert by_patient.high - by_patient.low > 3 * (by_unit.high - by_unit.low)


def test_undefined_replicates_are_counted_not_hidden():
    truth, score = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3])
    auc = estimate(_stat("binary", truth, score, np.arange(4)))["auroc"]
    assert auc.value == 1.0 and auc.undefined == pytest.approx(0.75**4 + 0.25**4, abs=0.04)


def test_a_class_that_often_leaves_the_mean_is_flagged():
    truth, cluster = np.array([0, 0, 0, 0, 1]), np.arange(5)
    facts = TaskFacts("t", "1", "m", "multiclass", ("a", "b"), {}, "macro_f1", True, False, 20_000, 0)
    text = np.array([f"p{i}" for i in cluster])
    score_of = np.eye(2, dtype=np.float32)[truth]
    table = Predictions(
        facts, text, text, text, np.full(5, np.nan), truth, score_of, np.ones(5, bool), dict.fromkeys(GROUPS, text)
    )
    assert "f1/b is undefined in 33% of the resamples; means leave it out there" in score(table)["warnings"]  # 0.8**5


def test_paired_difference_of_a_model_with_itself_is_nought():
    stat = _stat("binary", *_table("binary"))
    difference = paired_difference(stat, stat, "auroc")
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1.0)


def test_paired_difference_finds_a_better_model():
    truth, score, cluster = _table("binary")
    noise = np.random.default_rng(9).normal(0, 3, len(score))
    difference = paired_difference(
        _stat("binary", truth, score, cluster), _stat("binary", truth, score + noise, cluster), "auroc"
    )
    assert difference.low > 0 and difference.p == pytest.approx(2 / 2001)


def test_paired_difference_refuses_other_patients():
    truth, score, cluster = _table("binary")
    with pytest.raises(ShapeError, match="30 and 1 clusters"):
        paired_difference(_stat("binary", truth, score, cluster), _stat("binary", truth, score, cluster * 0), "auroc")


def test_holm_steps_down_and_stays_monotone():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
