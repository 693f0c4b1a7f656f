"""Calibration, cost, labels, disturbance: what the report draws beside the main plot, and the tables for a paper."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from bench_data import MeanAdapter
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.metering import Metered
from benchecg.models import load_adapter
from benchecg.models.baselines import Constant
from benchecg.predictions import Predictions, TaskFacts
from benchecg.report import latex, markdown, render
from benchecg.report.calibration import calibration, calibration_of
from benchecg.report.curves import Point, Series, curve_plot
from benchecg.report.figures import _front, _ranks, label_figure
from benchecg.robustness import robustness
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from xecg.signal import simulate


def _predictions(kind, y, score, classes=("no", "yes")):
    n = len(y)
    names = np.array([f"p{i}" for i in range(n)])
    facts = TaskFacts(
        task="t", version="1", model="m", kind=kind, classes=classes, class_sets={}, metric="auroc", higher_is_better=True,
        per_record=False, seed=0,
    )  # fmt: skip
    return Predictions(
        facts, names, names, names, np.full(n, np.nan), np.asarray(y, "f"), np.asarray(score, "f"), np.ones(n, bool), {}
    )


def test_labels_drawn_by_their_probability_are_calibrated_and_sharper_ones_are_not():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-z))
    good, bold = (calibration_of(_predictions("binary", y, k * z)) for k in (1.0, 3.0))
    assert good.error < 0.01 < 0.1 < bold.error
    assert len(good.bins) == 10 and {n for *_, n in good.bins} == {2_000}
    assert [a for a, *_ in good.bins] == sorted(a for a, *_ in good.bins)


def test_calibration_by_hand():
    """Forty answers at 0.5, half of them right; forty at 0.8, all wrong: errors 0 and 0.8."""
    score = np.r_[np.zeros(40), np.full(40, np.log(4))]
    found = calibration_of(_predictions("binary", np.r_[np.tile([0, 1], 20), np.zeros(40)], score))
    assert found.error == pytest.approx(0.4) and found.bins[-1][:2] == pytest.approx((0.8, 0.0))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "panel", "regression"])
def test_every_kind_with_answers_has_its_calibration(kind):
    rng = np.random.default_rng(1)
    n = 3_000
    if kind == "regression":
        y = rng.normal(50, 10, n)
        p = _predictions(kind, y, y)
    elif kind == "multilabel":
        z = rng.normal(size=(n, 2))
        p = _predictions(kind, rng.random((n, 2)) < 1 / (1 + np.exp(-z)), z, ("a", "b"))
    else:
        z = rng.normal(size=(n, 3))
        share = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        drawn = np.array([rng.choice(3, p=row) for row in share])
        if kind == "multiclass":
            p = _predictions(kind, drawn, z, ("a", "b", "c"))
        else:
            y = np.concatenate([np.eye(3)[drawn], np.full((n, 2), np.nan)], 1)
            p = _predictions(kind, y, np.c_[z, np.zeros((n, 2))], ("q/a", "q/b", "q/c", "r/a", "r/b"))
    assert calibration_of(p).error < 0.02


def test_probabilities_of_neighbours_are_taken_as_they_are():
    y = np.tile([0, 1], 50)
    p = _predictions("binary", y, np.full(100, 0.5))
    assert calibration_of(p, probabilities=True).error == 0
    assert calibration_of(p).error == pytest.approx(1 / (1 + np.exp(-0.5)) - 0.5, abs=1e-6)


def test_kinds_without_calibration_have_none():
    assert calibration_of(_predictions("peaks", np.ones(5), np.ones(5))) is None


def test_an_unpredicted_class_and_missing_units_do_no_harm():
    p = _predictions("multiclass", np.zeros(60), np.tile([0.0, -np.inf], (60, 1)))
    assert calibration_of(p).error == 0
    assert calibration_of(replace(p, valid=np.zeros(60, bool))) is None


# ---------------------------------------------------------------------------
# Plots.


def _circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot [^"]*" cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_lie_where_their_numbers_say():
    svg = curve_plot(
        [Series("m", (Point(1, 0.5), Point(10, 0.7), Point(100, 0.9)))], x_label="x", y_label="y", log_x=True
    )
    (a, b, c), legend = _circles(svg)[:3], _circles(svg)[3:]
    assert len(legend) == 1
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2) and a[0] < b[0]  # decades
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2) and a[1] > b[1]  # up is more


@pytest.mark.parametrize(
    "points", [[(0.0, 1.0)], [(0.5, 0.5), (0.5, 0.5)], [(-3.0, -1e-3), (1e4, 2.0)], [(0.999, 1.0), (1.0, 0.0)]]
)
def test_every_point_and_whisker_is_inside_the_picture(points):
    series = [Series("m", tuple(Point(x, y, y - 0.1, y + 0.1) for x, y in points))]
    for extra in ({}, {"diagonal": True}, {"x_names": [f"tick {i}" for i in range(2)]}):
        if "x_names" in extra:
            series = [Series("m", tuple(Point(i, y, y - 0.1, y + 0.1) for i, (_, y) in enumerate(points)))]
        svg = curve_plot(series, x_label="x", y_label="y", **extra)
        height = float(re.search(r'viewBox="0 0 420 (\d+)"', svg).group(1))
        xs = [float(v) for v in re.findall(r'(?:x1|x2|cx)="([-\d.]+)"', svg)]
        ys = [float(v) for v in re.findall(r'(?:y1|y2|cy)="([-\d.]+)"', svg)]
        assert min(xs) >= 0 and max(xs) <= 420 and min(ys) >= 0 and max(ys) <= height


def test_front_holds_what_nothing_beats_in_both():
    points = [(1.0, 0.9), (2.0, 0.8), (1.5, 0.7), (4.0, 0.8), (3.0, 0.85)]
    assert _front(points, higher=True) == [(1.0, 0.9), (3.0, 0.85), (4.0, 0.8)]
    assert _front(points, higher=False) == [(1.5, 0.7), (4.0, 0.8)]


def test_models_keep_their_colour_and_no_two_share_one():
    order = list("abcdefghij")
    assert _ranks(["a", "c", "f"], order) == [0, 2, 5]
    assert sorted(_ranks(["b", "d", "h", "j", "new"], order)) == [0, 1, 2, 3, 4]
    assert _ranks(["b", "h"], order)[0] == 1


# ---------------------------------------------------------------------------
# The page with all of them.


class _Untrained(MeanAdapter):
    id = "noisy_mean"
    trained = False

    def features(self, recordings):
        time.sleep(0.001)
        return super().features(recordings)


@pytest.fixture(scope="module")
def runs(small_code15, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    loaded = load_data(load_task("open-sex"), small_code15)
    for adapter in (_Untrained(), Constant(), load_adapter("age-sex")):
        run(loaded, adapter, out=out / adapter.id, cache=out / ".cache")
    for protocol, subset in (("few-1", 0), ("few-10", 0), ("few-10", 1)):
        folder = out / f"{protocol}.{subset}"
        run(loaded, _Untrained(), out=folder, protocol=protocol, subset=subset, cache=out / ".cache")
    robustness(loaded, _Untrained(), out=out / "noisy_mean", root=small_code15, cache=out / ".cache")
    return out


@pytest.fixture(scope="module")
def results(runs):
    from benchecg.results import find_results, read_result

    return {folder: read_result(folder) for folder in find_results(runs)}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "page.html"
    assert CliRunner().invoke(main, ["report", str(runs), "-o", str(target)]).exit_code == 0
    return target.read_text()


class _Balanced(HTMLParser):
    VOID = ("meta", "br", "circle", "line", "polyline", "polygon")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


def test_the_page_shows_every_figure_once(page):
    for words in ("Calibration: observed", "Score against speed", "Label efficiency: AUROC", "<figcaption>AUROC by leads left",
                  "<figcaption>AUROC by added noise, muscle", "the change from undisturbed"):  # fmt: skip
        assert page.count(words) == 1, words
    parser = _Balanced()
    parser.feed(page)
    assert not parser.open and page.count("<table>") == page.count('<div class="scroll">')
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_few_label_runs_are_in_their_figure_and_not_in_the_tables(page, results):
    overview = page[page.index("Overview") : page.index("BenchECG score")]
    assert "noisy_mean" in overview and "few-" not in overview
    figure = label_figure(list(results.values()), ["noisy_mean"])
    spoken = re.search(r'aria-label="([^"]*)"', figure).group(1)
    values = {f: r.headline["value"] for f, r in results.items() if r.model["id"].startswith("noisy_mean")}
    ten = [v for f, v in values.items() if f.name.startswith("few-10")]
    want = [
        values[next(f for f in values if f.name == "few-1.0")],
        sum(ten) / 2,
        values[next(f for f in values if f.name == "noisy_mean")],
    ]
    assert spoken.endswith("noisy_mean: " + ", ".join(f"{v:.3f}" for v in want))
    assert "majority" not in spoken


def test_calibration_of_a_run_comes_from_its_predictions(results):
    for folder, result in results.items():
        found = calibration(folder, result)
        assert sum(n for *_, n in found.bins) == result.support["units"]
    constant = next(calibration(f, r) for f, r in results.items() if r.model["id"] == "majority")
    assert len({round(a, 6) for a, *_ in constant.bins}) == 1


def test_cost_counts_the_recordings_that_were_encoded(results, small_code15, tmp_path):
    found = {f.name: r for f, r in results.items()}
    loaded = load_data(load_task("open-sex"), small_code15)
    hours = len(loaded.data.records) * 4.0 / 3_600  # each exam lasts 4 s
    cost = found["noisy_mean"].cost
    assert cost["ecg_hours"] == pytest.approx(hours) and cost["ecg_hours_per_s"] == pytest.approx(
        hours / cost["encode_wall_s"]
    )
    assert "ecg_hours" not in found["few-1.0"].cost  # all from the cache: no speed is claimed


def test_a_meter_changes_nothing_and_counts_detectors_too():
    adapter, recording = load_adapter("rr"), simulate.ecg(seed=1, duration_s=20)
    metered = Metered(adapter)
    assert np.array_equal(metered.features([recording])[0].values, adapter.features([recording])[0].values)
    assert (
        metered.id == "rr"
        and metered.ecg_s == 20
        and not hasattr(metered, "peaks_s")
        and metered.cost()["ecg_hours"] > 0
    )
    detector = Metered(load_adapter("beat-75"))
    assert hasattr(detector, "peaks_s") and len(detector.peaks_s(recording)) == 25 and detector.ecg_s == 20
    assert Metered(adapter).cost() == {}


# ---------------------------------------------------------------------------
# Tables for a paper.


def test_tables_hold_the_numbers_and_the_warnings(runs, results, tmp_path):
    for suffix, make in ((".tex", latex), (".md", markdown)):
        target = tmp_path / f"t{suffix}"
        assert CliRunner().invoke(main, ["report", str(runs), "-o", str(target)]).exit_code == 0
        text = target.read_text()
        assert text == make(list(results.values()))
        for result in results.values():
            value = f"{result.headline['value']:.3f}"
            assert (value in text) or "fraction" in result.protocol
        assert "on a subset of the data" in text and "random weights" in text and "few-" not in text
        assert "not a medical device" in text


def test_best_is_bold_and_latex_is_escaped_and_balanced(results):
    text = latex(list(results.values()))
    best = max((r for r in results.values() if "fraction" not in r.protocol), key=lambda r: r.headline["value"])
    assert f"\\textbf{{{best.headline['value']:.3f}}}" in text and text.count("\\textbf") == 1
    assert "noisy\\_mean" in text and "CODE-15 \\%" in text and not re.search(r"(?<!\\)[_&%](?=mean)", text)
    assert text.count("{") == text.count("}") and "\\begin{tabular}{lccc}" in text
    rows = [line for line in text.splitlines() if " & " in line]
    assert all(row.count(" & ") == 3 for row in rows)


@pytest.mark.slow
def test_latex_compiles(results, tmp_path):
    import shutil

    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    body = latex(list(results.values()))
    (tmp_path / "t.tex").write_text(
        f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}\\end{{document}}"
    )
    assert (
        subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True).returncode
        == 0
    )


def test_a_page_without_extras_is_as_before(results):
    page = render([r for r in results.values() if r.model["id"] == "majority"])
    assert "Robustness" not in page and "Calibration:" not in page and "Score against speed" not in page
