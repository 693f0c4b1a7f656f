"""Metrics against closed-form oracles and against scikit-learn and lifelines."""

import numpy as np
import pytest

from benchecg.metrics import (
    auroc,
    average_precision,
    concordance,
    confusion,
    macro,
    precision_recall_f1,
    regression,
    regression_sums,
    rsmape_terms,
    statistic,
)
from xecg.errors import SpecError

TOL_METRIC = 1e-12  # float64 sums of at most a few thousand terms
CLASSES = ("N", "S", "V", "F", "Q")
SETS = {"macro_f1_4": ("N", "S", "V", "F"), "macro_f1_3": ("N", "S", "V")}
DS2 = {"N": 44259, "S": 1837, "V": 3221, "F": 388, "Q": 7}  # de Chazal et al. 2004


def _beats(truth, found, cluster=None):
    """A multiclass statistic whose scores make `found` the argmax; -1 = no prediction."""
    score = np.zeros((len(truth), 5), np.float32)
    score[np.arange(len(found)), np.maximum(found, 0)] = 1
    cluster = np.zeros(len(truth), int) if cluster is None else cluster
    return statistic(
        "multiclass", truth=truth, score=score, valid=found >= 0, cluster=cluster, classes=CLASSES, class_sets=SETS
    )


def test_auroc_gives_ties_half():
    assert auroc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))[0] == pytest.approx(0.875, abs=TOL_METRIC)


def test_average_precision_is_step_wise():
    got = average_precision(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))[0]
    assert got == pytest.approx(0.8333333333, abs=1e-9)


def test_auroc_with_integer_weights_equals_repeated_rows():
    y, s = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    w = np.array([1, 2, 1, 3])
    assert auroc(y, s, w[None])[0] == pytest.approx(0.9, abs=TOL_METRIC)
    assert auroc(np.repeat(y, w), np.repeat(s, w))[0] == pytest.approx(0.9, abs=TOL_METRIC)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_auroc_and_ap_equal_scikit_learn(seed):
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 200)
    s = np.round(rng.normal(size=200) + y, 1)  # many ties
    w = rng.integers(0, 4, (3, 200)).astype(float)
    for row, area, ap in zip(w, auroc(y, s, w), average_precision(y, s, w)):
        assert area == pytest.approx(roc_auc_score(y, s, sample_weight=row), abs=TOL_METRIC)
        assert ap == pytest.approx(average_precision_score(y, s, sample_weight=row), abs=TOL_METRIC)


@pytest.mark.parametrize("truth", [[0, 0, 0], [1, 1, 1]])
def test_auroc_of_one_class_is_undefined_not_zero(truth):
    assert np.isnan(auroc(np.array(truth), np.array([0.1, 0.2, 0.3]))[0])


def test_macro_auroc_leaves_a_label_without_positives_out():
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    stat = statistic(
        "multilabel",
        truth=truth,
        score=truth.astype(np.float32),
        valid=np.ones(3, bool),
        cluster=np.arange(3),
        classes=("a", "b", "c"),
    )
    point = stat.point()
    assert point["macro_auroc"] == 1.0  # torchmetrics 1.9.0 says 0.6667 here
    assert np.isnan(point["auroc/c"])


def test_macro_f1_of_a_perfect_prediction_ignores_absent_classes():
    truth = np.array([0, 0, 2, 2])
    assert _beats(truth, truth).point()["macro_f1"] == 1.0  # a mean with zeros for absent classes would say 0.4


def test_class_present_but_never_predicted_scores_zero():
    point = _beats(np.array([0, 0, 1]), np.array([0, 0, 0])).point()
    assert point["f1/S"] == 0.0 and np.isnan(point["ppv/S"])
    assert point["macro_f1"] == pytest.approx(0.4, abs=TOL_METRIC)


def test_beat_without_prediction_counts_as_wrong_and_as_no_false_positive():
    point = _beats(np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])).point()
    assert point["se/N"] == 0.5 and point["ppv/N"] == 1.0 and point["f1/N"] == pytest.approx(2 / 3, abs=TOL_METRIC)
    assert point["ppv/S"] == 1.0


def test_constant_normal_on_ds2_has_the_published_floor():
    truth = np.repeat(np.arange(5), list(DS2.values()))
    point = _beats(truth, np.zeros_like(truth)).point()
    assert round(point["f1/N"], 3) == 0.942
    assert round(point["macro_f1"], 3) == 0.188
    assert point["macro_f1_4"] == pytest.approx(0.235, abs=6e-4)
    assert round(point["macro_f1_3"], 3) == 0.315


def test_macro_f1_equals_scikit_learn():
    from sklearn.metrics import confusion_matrix, f1_score

    rng = np.random.default_rng(0)
    truth, found = rng.integers(0, 5, 500), rng.integers(0, 5, 500)
    counts = confusion(truth, found, 5)
    assert (counts[:, :5] == confusion_matrix(truth, found)).all() and not counts[:, 5].any()
    f1 = precision_recall_f1(counts)[2]
    assert macro(f1) == pytest.approx(f1_score(truth, found, average="macro"), abs=TOL_METRIC)


def test_reduced_macro_f1_counts_predictions_outside_the_set_as_misses():
    point = _beats(np.array([0, 0, 1, 3]), np.array([0, 3, 1, 0])).point()
    # N: one hit, one lost to F; the F unit is not of the 3-class set and leaves no false positive on N
    assert point["macro_f1_3"] == pytest.approx((2 / 3 + 1) / 2, abs=TOL_METRIC)


def test_rsmape_matches_its_worked_example():
    terms = rsmape_terms(np.array([50.0, 80, 20, 0]), np.array([45.0, 100, -5, 30]))
    np.testing.assert_allclose(terms, [0.0526315789, 0.1111111111, 1, 1], atol=1e-9)
    sums = regression_sums(np.array([50.0, 80, 20, 0]), np.array([45.0, 100, -5, 30]), np.zeros(4, int), 1)
    assert regression(sums)[0][0] == pytest.approx(0.5409356725, abs=1e-9)


def test_regression_metrics_equal_scikit_learn_and_scipy():
    from scipy.stats import linregress, pearsonr
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(1)
    y = rng.uniform(18, 90, 300)
    p = 0.4 * y + rng.normal(30, 8, 300)
    sums = regression_sums(y, p, rng.integers(0, 40, 300), 40)
    _, mae, r2, r, slope, bias = regression(sums.sum(0))
    assert mae == pytest.approx(mean_absolute_error(y, p), abs=1e-9)
    assert r2 == pytest.approx(r2_score(y, p), abs=1e-9)
    assert r == pytest.approx(pearsonr(y, p).statistic, abs=1e-9)
    assert slope == pytest.approx(linregress(y, p - y).slope, abs=1e-9)
    assert bias == pytest.approx((p - y).mean(), abs=1e-9)


def test_constant_age_has_rsmape_near_its_known_floor():
    age = np.random.default_rng(0).normal(60, 17, 200_000)
    age = age[(age >= 18) & (age <= 90)]
    best = min(rsmape_terms(age, np.full_like(age, c)).mean() for c in np.arange(45, 65))
    assert 1 - best == pytest.approx(0.891, abs=2e-3)


def test_concordance_matches_its_worked_examples():
    assert concordance([1, 2, 3], [1, 1, 0], [-0.5, -0.5, -0.7]) == pytest.approx(0.8333333333, abs=1e-9)
    assert concordance([1, 1], [1, 0], [-0.1, -0.2]) == 1.0
    assert concordance([5, 3, 3, 1, 4], [1, 1, 1, 0, 0], [0.5, -0.2, 0.3, 1.0, -1.0]) == 0.5
    time, event, risk = [1, 2, 2, 3, 4], [1, 1, 0, 1, 0], [0.9, 0.2, 0.2, 0.1, 0.3]
    assert concordance(time, event, risk) == pytest.approx(0.6875, abs=TOL_METRIC)
    assert concordance(time, event, risk, np.array([2, 1, 0, 3, 1])) == pytest.approx(13 / 17, abs=TOL_METRIC)


def test_concordance_equals_lifelines():
    from lifelines.utils import concordance_index

    rng = np.random.default_rng(3)
    time, event = rng.integers(1, 30, 300).astype(float), rng.integers(0, 2, 300)
    risk = np.round(rng.normal(size=300), 1)
    assert concordance(time, event, risk) == pytest.approx(concordance_index(time, -risk, event), abs=TOL_METRIC)


def test_concordance_without_a_comparable_pair_is_undefined():
    assert np.isnan(concordance([1, 1], [1, 1], [0.1, 0.2]))


def test_shuffled_labels_score_at_chance():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1], [1658, 500]))
    assert auroc(y, rng.normal(size=2158))[0] == pytest.approx(0.5, abs=0.03)


def test_a_model_cannot_leave_out_units_of_a_label_task():
    with pytest.raises(SpecError, match="1 of 3 units have no prediction"):
        statistic(
            "binary",
            truth=np.array([0, 1, 1]),
            score=np.zeros(3),
            valid=np.array([True, True, False]),
            cluster=np.arange(3),
            classes=("F", "M"),
        )
