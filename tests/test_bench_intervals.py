"""The interval study: its statistics are the benchmark's, its errors are right, its methods are the textbook's, and what is printed."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import intervals
from benchecg.metrics import Statistic, statistic
from benchecg.stats import coverage, coverage_note, estimate, simulated_coverage

TOL_INFLUENCE = 1e-5  # central differences of step 1e-4 in float64
TOL_RESAMPLING = 0.02  # of the width: two bootstraps of 20,000 draws with other random numbers


def _mean(x):
    def values(w):
        total = w.sum(1)
        centre = w @ x / total
        return centre, np.sqrt((w * (x - centre[:, None]) ** 2).sum(1)) / total

    return intervals.Sample(len(x), values)


def test_the_beats_statistic_is_the_benchmarks_macro_f1():
    counts = intervals._beat_counts(np.random.default_rng(3), 12)
    sample = intervals.beats(np.random.default_rng(3), 12)
    cells = [(k, i, j) for k in range(12) for i in range(3) for j in range(3) for _ in range(int(counts[k, i, j]))]
    record, truth, found = np.array(cells).T
    ours = statistic(
        "multiclass", truth=truth, score=np.eye(3)[found], valid=np.ones(len(truth), bool), cluster=record,
        classes=("N", "S", "V"),
    )  # fmt: skip
    weights = np.random.default_rng(0).integers(1, 4, (5, 12)).astype(float)
    np.testing.assert_allclose(sample.values(weights)[0], ours.values(weights)[:, 0], atol=1e-12)


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


def test_the_percentile_interval_is_the_one_that_results_print():
    sample = intervals.exams(np.random.default_rng(5), 60)
    stat = Statistic(("auroc",), 60, lambda w: sample.values(w)[0][:, None])
    printed = estimate(stat, resamples=300, seed=4)["auroc"]
    low, high = intervals.intervals(sample, resamples=300, seed=4)["percentile"]
    assert (low, high) == pytest.approx((printed.low, printed.high))


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
    monkeypatch.setattr(intervals, "_TRUTH", 20_000)
    result = intervals.study()
    assert len(result["rows"]) == 2 * 2 * len(intervals.METHODS)
    for row in result["rows"]:
        assert row["coverage"] + row["too_low"] + row["too_high"] == pytest.approx(1) and row["width"] > 0
        assert row["undefined"] == 0 or row["population"] == "exams"
        assert 0.5 < row["coverage"] <= 1
    assert result == {**intervals.study(), "commit": result["commit"]}


def test_few_patients_get_the_simulated_coverage_beside_their_interval():
    assert simulated_coverage("multiclass", 50) is None and coverage_note("binary", 50) is None
    assert simulated_coverage("multiclass", 22) == simulated_coverage("peaks", 49) == coverage.COVERAGE["beats"][22]
    assert simulated_coverage("binary", 9) == coverage.COVERAGE["exams"][16]
    assert coverage_note("multiclass", 22).startswith(
        "22 patients: in simulation 95 % intervals from 22 patients held the truth"
    )
    for table in coverage.COVERAGE.values():
        assert all(0.6 < held < 0.95 for held in table.values())


def test_the_printed_coverages_are_those_of_the_committed_study():
    path = Path(intervals.__file__).parent / "results" / "intervals.json"
    if not path.is_file():
        pytest.skip("bench/results/intervals.json is not committed yet: `python -m bench intervals --json` makes it")
    rows = json.loads(path.read_text())["rows"]
    for population, table in coverage.COVERAGE.items():
        for n, held in table.items():
            (row,) = [r for r in rows if (r["population"], r["clusters"], r["method"]) == (population, n, "percentile")]
            assert held == pytest.approx(row["coverage"], abs=0.005)
