"""The interval study: its statistics are the benchmark's, its errors are right, its methods are the textbook's, and what is printed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import intervals
from bench.readme import intervals_table
from benchecg.metrics import Statistic, statistic
from benchecg.stats import GROUPS, coverage, coverage_note, estimate, simulated_coverage, spread

TOL_VALUE = 1e-12  # one number by two orders of summation
TOL_INFLUENCE = 1e-5  # central differences of step 1e-4 in float64
TOL_RESAMPLING = 0.02  # of the width: two bootstraps of 20,000 draws with other random numbers


def _mean(x):
    def values(w):
        total = w.sum(1)
        centre = w @ x / total
        return centre, np.sqrt((w * (x - centre[:, None]) ** 2).sum(1)) / total

    return intervals.Sample(len(x), values)


def test_the_beats_statistic_is_the_benchmarks_macro_f1():
    counts = intervals._beat_counts(np.random.default_rng(3), (12,))
    sample = intervals.beats(np.random.default_rng(3), 12)
    cells = [(k, i, j) for k in range(12) for i in range(3) for j in range(3) for _ in range(int(counts[k, i, j]))]
    record, truth, found = np.array(cells).T
    ours = statistic(
        "multiclass", truth=truth, score=np.eye(3)[found], valid=np.ones(len(truth), bool), cluster=record,
        classes=("N", "S", "V"),
    )  # fmt: skip
    weights = np.random.default_rng(0).integers(1, 4, (5, 12)).astype(float)
    np.testing.assert_allclose(sample.values(weights)[0], ours.values(weights)[:, 0], atol=1e-12)


def _statistics(rng, n):
    """The populations scored by pairs, one study of n patients each, as the benchmark would score them."""
    score, positive, negative = intervals._exam_draw(rng, (1, n))
    there = (positive | negative)[0]
    return statistic(
        "binary", truth=positive[0][there].astype(int), score=score[0][there], valid=np.ones(there.sum(), bool),
        cluster=np.repeat(np.arange(n), there.sum(1)), classes=(),
    )  # fmt: skip


@pytest.mark.parametrize("n", [30, 2 * GROUPS])
def test_values_without_exams_are_those_of_the_benchmarks_auroc(n):
    drawn = intervals.POPULATIONS["exams"].draw(np.random.default_rng(8), 1, n)
    stat = _statistics(np.random.default_rng(8), n)
    groups = np.arange(n) // max(1, n // GROUPS)
    left = stat.values((groups != np.arange(min(n, GROUPS))[:, None]).astype(float))[:, 0]
    assert drawn.value[0, 0] == pytest.approx(stat.point()["auroc"], rel=TOL_VALUE)
    np.testing.assert_allclose(drawn.left[0, 0], left, rtol=TOL_VALUE)


@pytest.mark.parametrize("n", [30, 2 * GROUPS])
def test_values_without_patients_are_those_of_the_benchmarks_c_index(n):
    drawn = intervals.POPULATIONS["survival"].draw(np.random.default_rng(8), 1, n)
    time, event, risk = (x[0] for x in intervals._survival_draw(np.random.default_rng(8), (1, n)))
    stat = statistic(
        "survival", truth=np.stack([time, event], 1), score=risk, valid=np.ones(n, bool),
        cluster=np.arange(n), classes=("no", "yes"),
    )  # fmt: skip
    groups = np.arange(n) // max(1, n // GROUPS)
    left = stat.values((groups != np.arange(min(n, GROUPS))[:, None]).astype(float))[:, 0]
    assert drawn.value[0, 0] == pytest.approx(stat.point()["c_index"], rel=TOL_VALUE)
    np.testing.assert_allclose(drawn.left[0, 0], left, rtol=TOL_VALUE)


@pytest.mark.parametrize("name", ["beats", "compare", "peaks", "ages"])
def test_values_of_sums_without_a_patient_are_those_of_the_other_patients(name):
    population = intervals.POPULATIONS[name]
    sums, values = population.draw.args[:2]
    drawn = population.draw(np.random.default_rng(4), 2, 20)
    each = sums(np.random.default_rng(4), (2, 20))
    for k in range(20):
        np.testing.assert_allclose(drawn.left[:, :, k], values(np.delete(each, k, 1).sum(1)), rtol=1e-9)
    grouped = population.draw(np.random.default_rng(4), 1, 2 * GROUPS)
    assert grouped.left.shape == (1, len(population.metrics), GROUPS)


def test_ages_are_summed_as_the_benchmark_sums_them():
    from benchecg.metrics import REGRESSION_NAMES, regression

    sums = intervals._age_sums(np.random.default_rng(2), (1, 50_000))[0].sum(0)
    values = dict(zip(REGRESSION_NAMES, regression(sums)))
    assert 0.05 < values["rsmape"] < 0.15 and 5 < values["mae"] < 15 and 0.5 < values["pearson_r"] < 0.9
    assert values["bias"] == pytest.approx(-3, abs=0.5) and values["bias_slope"] == pytest.approx(-0.4, abs=0.05)


@pytest.mark.parametrize("population", [intervals.beats, intervals.exams])
def test_the_standard_error_is_the_infinitesimal_jackknifes(population):
    sample = population(np.random.default_rng(5), 40)
    weights = np.random.default_rng(1).integers(1, 4, 40).astype(float)
    step = 1e-4
    influence = [
        (sample.values((weights + step * row)[None])[0] - sample.values((weights - step * row)[None])[0]) / (2 * step)
        for row in np.eye(40)
    ]
    expected = np.sqrt((weights * np.array(influence)[:, 0] ** 2).sum())
    assert sample.values(weights[None])[1][0] == pytest.approx(expected, rel=TOL_INFLUENCE)


def test_the_exams_statistic_is_the_area_under_the_curve():
    sample = intervals.exams(np.random.default_rng(5), 60)
    weights = np.ones((2, 60))
    weights[1, ::2] = 2
    area = sample.values(weights)[0]
    assert 0.8 < area[0] < 1 and area[0] != area[1]
    truth = intervals.exams(np.random.default_rng(0), 20_000).values(np.ones((1, 20_000)))[0][0]
    assert truth == pytest.approx(0.90, abs=0.01)


def test_the_jackknife_of_the_comparison_is_the_interval_that_results_print():
    sample = intervals.exams(np.random.default_rng(5), 60)
    stat = Statistic(("auroc",), 60, lambda w: sample.values(w)[0][:, None], {"auroc": "rank"})
    printed = estimate(stat)["auroc"]
    found = intervals.intervals(sample, resamples=300, seed=4, scale="rank")
    assert found["jackknife"] == pytest.approx((printed.low, printed.high))
    normal, student = found["jackknife, normal"], found["jackknife, t of n - 1"]
    assert student[0] < normal[0] < printed.value < normal[1] < student[1]


def test_the_percentile_drawn_out_by_t_holds_the_percentile():
    found = intervals.intervals(intervals.beats(np.random.default_rng(5), 30), resamples=300)
    (low, high), (lower, higher) = found["percentile"], found["percentile, drawn out"]
    assert lower < low < high < higher


def test_the_benchmarks_interval_covers_where_the_percentile_does_not():
    beats, truth = intervals.POPULATIONS["beats"], 0.786
    drawn = beats.draw(np.random.default_rng(6), 400, 54)
    found = spread(drawn.value[:, 0], drawn.left[:, 0], "share")
    assert ((found.low <= truth) & (truth <= found.high)).mean() > 0.9
    normal = np.abs(drawn.value[:, 0] - truth) < 1.96 * drawn.left[:, 0].std(-1) * np.sqrt(53)
    assert normal.mean() < 0.9


def test_bca_and_studentised_agree_with_scipy_and_with_students_table():
    from scipy import stats

    x = np.random.default_rng(2).exponential(size=40)
    found = intervals.intervals(_mean(x), resamples=20_000)
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found["BCa"] == pytest.approx((theirs.low, theirs.high), abs=TOL_RESAMPLING * width)
    normal = np.random.default_rng(3).normal(size=200)
    low, high = intervals.intervals(_mean(normal), resamples=20_000)["studentised"]
    reach = stats.t.ppf(0.975, 199) * normal.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((normal.mean() - reach, normal.mean() + reach), abs=2 * TOL_RESAMPLING * reach)


def test_logit_intervals_stay_within_the_unit_interval():
    sample = intervals.exams(np.random.default_rng(7), 30)
    found = intervals.intervals(sample, resamples=500)
    for name in ("logit", "studentised logit"):
        assert 0 <= found[name][0] < found[name][1] <= 1


def test_a_study_has_a_row_for_every_method_and_counts_what_it_missed(monkeypatch):
    monkeypatch.setattr(intervals, "CLUSTERS", {16: 30, 54: 30})
    monkeypatch.setattr(intervals, "COMPARED", {16: 10})
    monkeypatch.setattr(
        intervals, "POPULATIONS", {k: replace(p, truth=(2, 1_000)) for k, p in intervals.POPULATIONS.items()}
    )
    result = intervals.study()
    metrics = sum(len(p.metrics) for p in intervals.POPULATIONS.values())
    assert len(result["rows"]) == 2 * metrics + 2 * (len(intervals.METHODS) - 1)
    for row in result["rows"]:
        assert row["coverage"] + row["too_low"] + row["too_high"] == pytest.approx(1) and row["width"] > 0
        assert row["undefined"] == 0 or row["population"] in ("exams", "survival")
        assert 0.4 < row["coverage"] <= 1
    assert result == {**intervals.study(), "commit": result["commit"]}
    assert "| exams | auroc | jackknife, normal |" in intervals_table(result)


def test_few_patients_get_the_simulated_coverage_beside_their_interval():
    assert simulated_coverage("multiclass", 50) is None and coverage_note("binary", 50) is None
    assert simulated_coverage("multiclass", 49) == coverage.COVERAGE["beats", "macro_f1"][22]
    assert simulated_coverage("peaks", 21) == coverage.COVERAGE["peaks", "f1"][16]
    assert simulated_coverage("panel", 9) == coverage.COVERAGE["exams", "auroc"][16]
    assert coverage_note("multiclass", 22).startswith(
        "22 patients: in simulation 95 % intervals from 22 patients held the truth"
    )
    for table in coverage.COVERAGE.values():
        assert all(0.85 < held < 1 for held in table.values())


@pytest.fixture(scope="module")
def committed():
    return json.loads((Path(intervals.__file__).parent / "results" / "intervals.json").read_text())["rows"]


def test_the_printed_coverages_are_those_of_the_committed_study(committed):
    for (population, metric), table in coverage.COVERAGE.items():
        for n, held in table.items():
            (row,) = [
                r
                for r in committed
                if (r["population"], r["metric"], r["clusters"], r["method"]) == (population, metric, n, "jackknife")
            ]
            assert held == pytest.approx(row["coverage"], abs=0.0005)


def test_from_fifty_patients_and_thirty_units_of_a_class_the_committed_coverage_is_within_93_and_97_percent(committed):
    rows = [r for r in committed if r["method"] == "jackknife" and r["clusters"] >= 50 and (r["rarest"] or 30) >= 30]
    assert {r["population"] for r in rows} == set(intervals.POPULATIONS)
    for row in rows:
        slack = 2 * row["standard_error"]
        assert 0.93 - slack < row["coverage"] < 0.97 + slack, row
    inside = [0.93 <= row["coverage"] <= 0.97 for row in rows]
    assert np.mean(inside) > 0.8
