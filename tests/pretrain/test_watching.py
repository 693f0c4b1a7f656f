"""Promises of what is said while training: held-out patients, probes that tell information from none, the report."""

from __future__ import annotations

import json
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.pretrain.test_corpus import write
from xecg.cli import main
from xecg.errors import SpecError, XECGError
from xecg.pretrain import progress, report
from xecg.pretrain.build import build_corpus
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.objective import new_model
from xecg.pretrain.order import Batches
from xecg.pretrain.probes import Probes
from xecg.pretrain.report import write_report
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS

SETTINGS = Settings(model="tiny-causal", steps=4, batch=8, held_out=0.5, views=ViewSettings(local_views=1))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(8):
        write(folder / "in", f"r{i}", seed=i, duration_s=26.0)  # three windows each
    build_corpus([folder / "in"], folder / "out", PRESETS["causal"], synthetic=60)
    return Corpus(folder / "out")


def test_no_step_takes_a_held_out_patient(corpus: Corpus) -> None:
    batches = Batches(SETTINGS, corpus)
    steps = [batches.of(step) for step in range(30)]
    taken = {i for _, ids in steps for i, _ in ids}
    assert not taken & set(batches.held.tolist()) and steps[-1][0] >= 3
    assert taken | set(batches.held.tolist()) == set(range(len(corpus)))
    assert not {int(corpus.patients[i]) for i in taken} & set(corpus.patients[batches.held].tolist())
    assert 0.3 < len(batches.held) / len(corpus) < 0.7
    assert Batches(replace(SETTINGS, seed=1), corpus).held.tolist() != batches.held.tolist()
    assert not len(Batches(replace(SETTINGS, held_out=0.0), corpus).held)
    for step in (7, 0, 29):  # whatever was asked before
        assert Batches(SETTINGS, corpus).of(step) == steps[step]
    with pytest.raises(SpecError, match="needed at least one batch, 80"):
        Batches(replace(SETTINGS, batch=80), corpus)


class Seeing(torch.nn.Module):
    """Tokens that hold the number of R peaks' worth of energy: a model that knows, or one that does not."""

    def __init__(self, corpus: Corpus, knows: bool) -> None:
        super().__init__()
        self.model, self.knows, self.spec = new_model(SETTINGS), knows, PRESETS["causal"]
        self.rates = {}
        for i in range(len(corpus)):
            x = corpus.record(i)[1]
            self.rates[float(x[1, 300])] = 1 / float(np.median(np.diff(corpus.beats(i).time)))

    def encode(self, x: torch.Tensor, *, lengths: torch.Tensor) -> torch.Tensor:
        rng = np.random.default_rng(0)
        rows = [self.rates[float(row[1, 300])] if self.knows else rng.normal() for row in x]
        noise = torch.from_numpy(rng.normal(size=(len(rows), 3)))
        row = torch.cat([torch.tensor(rows).double()[:, None], noise], 1)
        return row[:, None].expand(-1, x.shape[-1] // 25, -1).clone()

    def valid_tokens(self, x: torch.Tensor, *, lengths: torch.Tensor) -> torch.Tensor:
        return self.model.valid_tokens(x, lengths=lengths)


def test_the_heart_rate_probe_tells_features_that_hold_it_from_those_that_do_not(corpus: Corpus) -> None:
    probes = Probes(corpus, np.arange(len(corpus)))
    knows = probes.ask(Seeing(corpus, True), torch.device("cpu"))
    not_ = probes.ask(Seeing(corpus, False), torch.device("cpu"))
    assert knows["heart_rate_r2"] > 0.9 and -0.3 < not_["heart_rate_r2"] < 0.3
    assert knows["windows"] == len(corpus) and 0 <= not_["knn_source"] <= 1 and not_["knn_chance"] > 0.5


def test_the_source_probe_finds_the_nearest() -> None:
    from xecg.pretrain.probes import _nearest

    x = np.array([[1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [2, 0.3], [0.3, 2.0]])
    fit = np.array([True, True, True, True, False, False])
    label = np.array([0, 0, 1, 1, 0, 1])
    assert _nearest(x[:, :], label, fit).tolist() == [0, 1]


def test_what_cannot_be_probed_is_none_or_refused(corpus: Corpus) -> None:
    synthetic = np.array([i for i, name in enumerate(corpus.ids) if name.startswith("synthetic")])
    found = Probes(corpus, synthetic).ask(new_model(SETTINGS), torch.device("cpu"))
    assert found["knn_source"] is None and found["heart_rate_r2"] is not None
    with pytest.raises(SpecError, match="needed 8 on either side"):
        Probes(corpus, np.arange(5))


def test_probes_are_logged_and_change_nothing(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[dict] = []
    train(SETTINGS, corpus, tmp_path / "with", probe_every=2, log_every=2, board=seen.append)
    train(SETTINGS, corpus, tmp_path / "without")
    ours, theirs = ((tmp_path / name / "teacher/model.safetensors").read_bytes() for name in ("with", "without"))
    assert ours == theirs and not (tmp_path / "without" / "probes.jsonl").exists()
    lines = [json.loads(text) for text in (tmp_path / "with" / "probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and all(line["heart_rate_r2"] is not None for line in lines)
    assert len(seen) == 4
    with pytest.raises(SpecError, match="held-out windows"):
        train(replace(SETTINGS, held_out=0.0), corpus, tmp_path / "none", probe_every=2)


def test_the_report_is_whole_and_fetches_nothing(corpus: Corpus, tmp_path: Path) -> None:
    train(SETTINGS, corpus, tmp_path, probe_every=2, log_every=1)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<script|https?://|url\(|@import", page)
    figures = re.findall(r"<figure><h2>(.*?)</h2>", page)
    assert (
        figures[:2] == ["Loss", "Parts of the loss"]
        and "Probes on held-out windows" in figures
        and "Beat heads" not in figures
    )
    for svg in re.findall(r"<svg.*?</svg>", page):
        tree = ElementTree.fromstring(svg)
        for line in tree.iter("polyline"):
            points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
            assert all(0 <= x <= 360 and 0 <= y <= 210 for x, y in points)
            assert points == sorted(points, key=lambda p: p[0])
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert f"<b>{last['loss']:.3g}</b>loss" in page and "Finished: step 4 of 4, 32 records" in page
    (tmp_path / "report.html").unlink()
    done = CliRunner().invoke(main, ["pretrain", "--report", "-o", str(tmp_path)])
    assert done.exit_code == 0 and (tmp_path / "report.html").read_text() == page
    none = CliRunner().invoke(main, ["pretrain", "--report", "-o", str(tmp_path / "student")])
    assert none.exit_code == 1 and "needed the folder of a run" in none.stderr


def test_a_report_of_bad_steps_and_long_logs(tmp_path: Path) -> None:
    settings = Settings(steps=5000).to_dict() | {"model": "<b>"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert "No step is logged yet" in write_report(tmp_path).read_text()
    for step in range(1, 4001):
        line = {
            "step": step,
            "samples": step,
            "loss": 2.0 if step % 7 else float("nan"),
            "rate_share": 0.05,
            "rank_share": 0.5,
        }
        line |= {"records_per_s": 10.0, "loading_share": 0.1, "eta_s": 7200.0, "skipped": 3, "alarm": "collapse: x"}
        progress.append_line(tmp_path / "log.jsonl", line)
    page = write_report(tmp_path).read_text()
    assert (
        "3 steps skipped" in page
        and "Alarm since step 1" in page
        and "<b>2</b>to go, hours" in page
        and "<h1>Training of &lt;b&gt;" in page
    )
    assert max(text.count(",") for text in re.findall(r'points="(.*?)"', page)) <= 240


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.31, -0.29), (3.2, 3.2), (0, 0), (1e-9, 2e-9), (-5, 12345), (0, 4.5e-4)]
)
def test_ticks_hold_the_range_in_few_round_numbers(low: float, high: float) -> None:
    ticks = report._ticks(low, high)
    assert 2 <= len(ticks) <= 7 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12


def test_tensorboard_is_drawn_where_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[tuple] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_scalar(self, *what: object) -> None:
            drawn.append(what)

        def flush(self) -> None:
            pass

    made = types.ModuleType("torch.utils.tensorboard")
    made.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", made)
    progress.board(tmp_path)({"step": 3, "loss": 0.5, "alarm": "x", "knn": None})
    assert drawn == [("loss", 0.5, 3)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(XECGError, match="tensorboard is not installed"):
        progress.board(tmp_path)
