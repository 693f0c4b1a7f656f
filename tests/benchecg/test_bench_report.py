"""The page: self-contained, marked, and honest about what has no score."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from bench_data import MeanAdapter

from benchecg.models.baselines import Constant
from benchecg.report import render
from benchecg.report.plot import interval_plot
from benchecg.running import load_data, run
from benchecg.tasks import load_task


class _Balanced(HTMLParser):
    VOID = ("meta", "br", "circle", "line")

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


@pytest.fixture(scope="module")
def results(small_mitdb, small_code15, small_ptbxl, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    places = {"mitbih-beats": small_mitdb, "open-age": small_code15, "ptbxl-superclass": small_ptbxl}
    untrained = MeanAdapter()
    untrained.trained = False
    return [
        run(load_data(load_task(task), root), adapter, out=out / task / adapter.id)
        for task, root in places.items()
        for adapter in (untrained, Constant())
    ]


@pytest.fixture(scope="module")
def page(results):
    return render(results)


def test_page_needs_nothing_from_outside(page):
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page and "url(" not in page and "<script" not in page
    assert page.count("<style>") == 1 and "<svg" in page


def test_page_is_well_formed_and_fits_phone_and_dark(page):
    parser = _Balanced()
    parser.feed(page)
    assert not parser.open
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page and "max-width: 40rem" in page
    assert page.count("<table>") == page.count('<div class="scroll">')  # wide tables scroll, the page does not


def test_page_says_what_must_not_be_missed(page):
    for text in (
        "Research use only, not a medical device",
        "untrained",
        "subset",
        "too few records for a score",
        "given only when all ten ran on full data",
        "record 201 is counted but not trained on",
        "class Q has only",
        "Published by others, not computed here",
    ):
        assert text in page


def test_page_shows_value_and_interval_of_every_run(page, results):
    for result in results:
        if result.headline is not None:
            h = result.headline
            assert f"<b>{h['value']:.3f}</b>" in page
            assert f"[{h['low']:.3f}, {h['high']:.3f}]" in page


def test_page_escapes_what_came_from_files(results):
    evil = replace(results[0], notes=["<script>alert(1)</script>"], model={**results[0].model, "id": "<b>x</b>"})
    page = render([evil])
    assert "<script" not in page and "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page


def test_plot_puts_dots_inside_their_intervals():
    rows = [("a", {"value": 0.8, "low": 0.7, "high": 0.9}), ("b", {"value": 0.5, "low": 0.5, "high": 0.5})]
    svg = interval_plot([*rows, ("none", {"value": None, "low": None, "high": None})])
    dots = [float(x) for x in re.findall(r'class="dot" cx="([\d.]+)"', svg)]
    bars = [(float(a), float(b)) for a, b in re.findall(r'class="bar" x1="([\d.]+)" x2="([\d.]+)"', svg)]
    assert len(dots) == len(bars) == 2 and "none" not in svg
    assert all(low <= dot <= high for dot, (low, high) in zip(dots, bars))
    assert dots[1] < dots[0] <= 420


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 0.5), (-0.2, 0.01), (55.0, 61.0), (0.8991, 0.9004)])
def test_plot_axis_holds_every_range(low, high):
    svg = interval_plot([("m", {"value": (low + high) / 2, "low": low, "high": high})])
    xs = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([-\d.]+)"', svg)]
    assert min(xs) >= 119 and max(xs) <= 420
