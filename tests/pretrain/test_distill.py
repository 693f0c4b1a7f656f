"""Promises of distillation: it learns, with the delay that it states; it resumes, and in parts it is the whole; what the card says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import xecg
from tests.pretrain.test_corpus import write
from tests.pretrain.test_distributed import close, spread
from xecg.cli import main
from xecg.errors import CheckpointError, SpecError
from xecg.model import XECG, XECGConfig, save
from xecg.pretrain.build import build_corpus
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distill import Distillation
from xecg.pretrain.distributed import Gradients, current
from xecg.pretrain.objective import backwards, learned
from xecg.pretrain.order import Batches
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS

SETTINGS = Settings(model="tiny-causal", steps=4, batch=6, rate=3e-3, views=ViewSettings(rate=0.03))
CALM = ViewSettings(gain=0, lead_drop=0, jitter=0)


def teacher(spec: str = "causal") -> XECG:
    config = XECGConfig(blocks="sm", dim=32, heads=2)
    return XECG(config, spec=PRESETS[spec], seed=5, name="master", trained=True, card="x")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "in", "a", seed=1, duration_s=7.0)
    for spec in ("causal", "poly"):
        build_corpus([folder / "in"], folder / spec, PRESETS[spec], synthetic=14)
    return {spec: folder / spec for spec in ("causal", "poly")}


def goal(places: dict[str, Path], settings: Settings = SETTINGS, spec: str = "causal", ahead: int = 2) -> Distillation:
    corpus = Corpus(places["causal"])
    taught = None if spec == "causal" else Corpus(places[spec])
    return Distillation(settings, corpus, torch.device("cpu"), teacher=teacher(spec), taught=taught, look_ahead=ahead)


def test_teacher_and_student_see_the_same_stretch_of_time(places: dict[str, Path]) -> None:
    same = goal(places, replace(SETTINGS, views=CALM)).load([(i, 0) for i in range(8)], 0)
    assert torch.equal(same.x, same.clean)
    other = goal(places, replace(SETTINGS, views=replace(CALM, rate=0.05))).load([(i, 0) for i in range(8)], 0)
    torch.testing.assert_close(other.x, other.clean, rtol=0, atol=1e-6)
    both = goal(places, replace(SETTINGS, views=CALM), spec="poly").load([(i, 0) for i in range(8)], 0)
    assert both.x.shape == both.clean.shape and not torch.equal(both.x, both.clean)
    pulled = goal(places).load([(i, 0) for i in range(8)], 0)
    assert not torch.equal(pulled.x, pulled.clean) and pulled.pairs.shape[1] == pulled.valid.shape[1] - 2


def test_a_token_is_compared_with_the_teachers_so_many_tokens_earlier(places: dict[str, Path]) -> None:
    """A student that is its teacher, late by exactly the look-ahead, has no loss; by another look-ahead it has."""

    class Late(torch.nn.Module):
        def __init__(self, model: XECG, late: int) -> None:
            super().__init__()
            self.model, self.late, self.spec, self.config = model, late, model.spec, model.config

        def encode(self, x: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(self.model.encode(x, **more), (0, 0, self.late, 0))[:, : x.shape[-1] // 25]

    found = {}
    for ahead in (0, 1, 3):
        aim = goal(places, replace(SETTINGS, views=CALM), ahead=ahead)
        aim.student = Late(teacher(), 3)  # type: ignore[assignment]
        aim.heads = torch.nn.Identity()
        piece = aim.load([(i, 0) for i in range(6)], 0)
        aim.weights = {"tokens": 1.0, "pooled": 1.0}
        totals = aim.counts(piece)
        found[ahead] = float(aim.backward([piece], totals, current()).parts["tokens"])
    assert found[3] < 1e-6 and found[0] > 1e-3 and found[1] > 1e-3


def one_step(places: dict[str, Path], micro: int) -> dict[str, torch.Tensor]:
    group, aim = current(), goal(places)
    own = list(group.share(Batches(SETTINGS, Corpus(places["causal"])).of(0)[1]))
    size = micro or len(own)
    pieces = [aim.load(own[i : i + size], 0) for i in range(0, len(own), size)]
    totals = group.sum(torch.stack([aim.counts(piece) for piece in pieces]).sum(0))
    with Gradients(group, backwards(aim)) as gradients:
        gradients.expect(len(pieces))
        found = aim.backward(pieces, totals, group)
        gradients.finish()
    parts = {name: group.sum(value.double()) for name, value in found.parts.items()}
    return parts | {f"gradient.{name}": p.grad for name, p in learned(aim) if p.grad is not None}


def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(places: dict[str, Path], tmp_path: Path) -> None:
    whole = one_step(places, 0)
    assert close(one_step(places, 4), whole, 2e-5)
    for found in spread(2, tmp_path / "two", one_step, places, 2):
        assert close(found, whole, 2e-5)


def test_a_run_learns_goes_on_and_says_whose_pupil_it_is(places: dict[str, Path], tmp_path: Path) -> None:
    settings, corpus = replace(SETTINGS, steps=12), Corpus(places["causal"])
    lines: list[dict] = []
    train(settings, corpus, tmp_path / "whole", objective=goal(places, settings), log_every=1, report=lines.append)
    assert lines[-1]["tokens"] < 0.95 * lines[0]["tokens"] and lines[-1]["pooled"] < 0.5 * lines[0]["pooled"]
    asked = iter(range(100))
    train(settings, corpus, tmp_path / "cut", objective=goal(places, settings), stop=lambda: next(asked) >= 5)
    with pytest.raises(CheckpointError, match="look-ahead 2, is distillation, look-ahead 1"):
        train(settings, corpus, tmp_path / "cut", objective=goal(places, settings, ahead=1))
    train(settings, corpus, tmp_path / "cut", objective=goal(places, settings))
    ours, theirs = ((tmp_path / name / "student/model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert ours == theirs and not (tmp_path / "cut" / "teacher").exists()
    card = xecg.load(tmp_path / "cut" / "student").card
    assert teacher().fingerprint in card and "2 tokens (0.5 s) earlier" in card and "12 steps of 6" in card


def test_what_does_not_go_together_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    corpus = Corpus(places["causal"])
    with pytest.raises(SpecError, match="the teacher's windows are of signal spec"):
        Distillation(SETTINGS, corpus, torch.device("cpu"), teacher=teacher("poly"))
    slow = XECG(
        XECGConfig(blocks="s", dim=8, heads=2, patch=50), spec=replace(PRESETS["causal"], patch=50), name="slow"
    )
    with pytest.raises(SpecError, match=r"signal spec|needed the same time"):
        Distillation(SETTINGS, corpus, torch.device("cpu"), teacher=slow)
    with pytest.raises(SpecError, match="look-ahead, 40"):
        goal(places, ahead=40).load([(0, 0)], 0)
    with pytest.raises(SpecError, match="needed 0 tokens or more"):
        goal(places, ahead=-1)


def test_command_builds_both_corpora_and_exports_the_student(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "in", f"r{i}", seed=i)
    write(tmp_path / "in" / "mitdb", "m", seed=9)
    save(teacher("poly"), tmp_path / "master")
    asked = [
        "distill",
        "--teacher",
        str(tmp_path / "master"),
        "-o",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--batch",
        "3",
    ]
    done = CliRunner().invoke(main, [*asked, "--data", str(tmp_path / "in"), "--look-ahead", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    model = xecg.load(said["output"])
    assert said["finished"] and model.trained and model.config.causal and "1 tokens (0.25 s)" in model.card
    assert said["windows"] == 4 and said["left_out"][0]["folder"] == "mitdb" and "mitdb 1 (MIT-BIH" in model.card
    assert not any("mitdb" in name for name in Corpus(tmp_path / "out" / "teacher-corpus").ids)
    specs = [Corpus(tmp_path / "out" / name).spec_hash for name in ("corpus", "teacher-corpus")]
    assert specs == [PRESETS["causal"].hash, PRESETS["poly"].hash]
    alone = CliRunner().invoke(
        main, [*asked[:-5], str(tmp_path / "b"), "--batch", "3", "--data", str(tmp_path / "out/corpus")]
    )
    assert alone.exit_code == 1 and "Give a store that was built for it" in alone.stderr
    pair = [
        "--data",
        str(tmp_path / "out/corpus"),
        "--teacher-data",
        str(tmp_path / "out/teacher-corpus"),
        "--steps",
        "1",
    ]
    both = CliRunner().invoke(main, [*asked[:-5], str(tmp_path / "b"), "--batch", "3", *pair])
    assert both.exit_code == 0, both.stderr
    assert CliRunner().invoke(main, asked).exit_code == 2
    missing = CliRunner().invoke(main, [*asked, "--data", str(tmp_path / "in"), "--teacher", "base"])
    assert missing.exit_code == 1 and "xecg convert" in missing.stderr
