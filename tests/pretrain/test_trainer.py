"""Promises of the training loop: exact resume, guards, no collapse, what is on disk."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import xecg
from tests.pretrain.faults import killed_at
from tests.pretrain.test_corpus import write
from xecg.cli import main
from xecg.errors import CheckpointError, SpecError, XECGError
from xecg.io.atomic import replacing
from xecg.pretrain import state as on_disk
from xecg.pretrain.build import build_corpus
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.order import Batches
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS

FEW = ViewSettings(local_views=1, rate=0.03, few_leads=0.3)
SETTINGS = Settings(model="tiny-causal", steps=7, batch=4, views=FEW)  # the smallest preset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "in", "a", seed=1)
    build_corpus([folder / "in"], folder / "out", PRESETS["causal"], synthetic=9)
    return Corpus(folder / "out")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{side}.{k}": v for side in ("student", "teacher") for k, v in xecg.load(folder / side).state_dict().items()
    }


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def after(steps: int) -> Callable[[], bool]:
    """A stop function that says so when `steps` are done."""
    asked = itertools.count()
    return lambda: next(asked) >= steps


@pytest.fixture(scope="module")
def whole(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(SETTINGS, corpus, folder, log_every=1)
    return folder


def test_the_same_seed_gives_the_same_bits_and_another_does_not(corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    train(SETTINGS, corpus, tmp_path / "again", save_every=3)
    assert same(weights(tmp_path / "again"), weights(whole))
    train(replace(SETTINGS, seed=1), corpus, tmp_path / "other")
    assert not same(weights(tmp_path / "other"), weights(whole))


@pytest.mark.parametrize("at", [0, 1, 4, 6])
def test_a_run_stopped_before_any_step_goes_on_to_the_same_bits(
    corpus: Corpus, whole: Path, tmp_path: Path, at: int
) -> None:
    done = train(SETTINGS, corpus, tmp_path, log_every=1, stop=after(at))
    assert (done.step, done.finished) == (at, False) and not (tmp_path / "teacher").exists()
    assert train(SETTINGS, corpus, tmp_path, log_every=1).finished
    assert same(weights(tmp_path), weights(whole))
    steps = [json.loads(text)["step"] for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_a_crash_after_the_last_state_repeats_what_was_lost(corpus: Corpus, whole: Path, tmp_path: Path) -> None:
    def crash(line: dict) -> None:
        if line["step"] == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(SETTINGS, corpus, tmp_path, save_every=2, log_every=1, report=crash)
    assert [p.name for p in on_disk.states(tmp_path)] == ["state-000000002.safetensors", "state-000000004.safetensors"]
    with open(tmp_path / "log.jsonl", "a") as handle:
        handle.write('{"step": 6, "lo')  # cut in the middle of a line
    train(SETTINGS, corpus, tmp_path, save_every=2, log_every=1)
    assert same(weights(tmp_path), weights(whole))
    assert [json.loads(t)["step"] for t in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_failed_write_leaves_the_state_before(
    corpus: Corpus, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if "state-000000004" in str(path):
            with replacing(path) as temporary:
                temporary.write_bytes(data[: len(data) // 2])
                raise OSError("no space left on device")
        return write_bytes(path, data)

    write_bytes = on_disk.write_bytes
    with monkeypatch.context() as patched:
        patched.setattr(on_disk, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            train(SETTINGS, corpus, tmp_path, save_every=2)
    assert [p.name for p in on_disk.states(tmp_path)] == ["state-000000002.safetensors"]
    train(SETTINGS, corpus, tmp_path)
    assert same(weights(tmp_path), weights(whole))


def test_a_run_killed_at_any_write_goes_on_to_the_same_bits(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=2)
    train(settings, corpus, tmp_path / "whole", save_every=1, log_every=1)
    points = 0
    for at in itertools.count(1):
        out = tmp_path / str(at)
        if not killed_at(at, lambda: train(settings, corpus, out, save_every=1, log_every=1)):  # noqa: B023
            break
        points += 1
        train(settings, corpus, out, save_every=1, log_every=1)
        assert same(weights(out), weights(tmp_path / "whole"))
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
        assert [json.loads(text)["step"] for text in (out / "log.jsonl").read_text().splitlines()] == [1, 2]
    assert points == 1 + 2 + 2 * 6 + 1  # settings, states, two checkpoints of five files and a folder, the report


def test_a_damaged_or_foreign_state_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    train(SETTINGS, corpus, tmp_path, stop=after(1))
    with pytest.raises(CheckpointError, match=r"other settings: rate was 0\.001, is 0\.002"):
        train(replace(SETTINGS, rate=0.002), corpus, tmp_path)
    other = Corpus.__new__(Corpus)
    other.__dict__.update(corpus.__dict__, digest="0" * 32)
    with pytest.raises(CheckpointError, match="other corpus"):
        train(SETTINGS, other, tmp_path)
    newest = on_disk.states(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        train(SETTINGS, corpus, tmp_path)


def test_a_corpus_that_does_not_fit_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="corpus holds 10 windows; needed at least one batch, 64"):
        train(replace(SETTINGS, batch=64), corpus, tmp_path)
    with pytest.raises(SpecError, match="corpus was made for signal spec"):
        train(replace(SETTINGS, model="tiny"), corpus, tmp_path)
    for wrong in ({"steps": 0}, {"clip": 0.0}, {"gamma": "x"}, {"model": "big"}, {"rate": -1.0}):
        with pytest.raises(SpecError):
            replace(SETTINGS, **wrong)


class Broken(Corpus):
    """The corpus with one record, or all, made of NaN."""

    def __init__(self, of: Corpus, bad: set[int]) -> None:
        self.__dict__.update(of.__dict__)
        self._bad = bad

    def record(self, index: int) -> tuple[str, np.ndarray]:
        name, x = super().record(index)
        return name, np.full_like(x, np.nan) if index in self._bad else x


def test_a_step_that_is_not_finite_changes_nothing(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=2)
    first = Batches(settings, corpus).of(0)[1]
    second = Batches(settings, corpus).of(1)[1]
    assert not set(first) & set(second)
    done = train(settings, Broken(corpus, {first[0][0]}), tmp_path, log_every=1)
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert done.finished and [line["skipped"] for line in lines] == [1, 1] and lines[0]["loss"] == "nan"
    assert all(bool(torch.isfinite(t).all()) for t in weights(tmp_path).values())


def test_three_steps_in_a_row_that_are_not_finite_end_the_run(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(XECGError, match=r"step 3: loss nan.*third in a row"):
        train(SETTINGS, Broken(corpus, set(range(10))), tmp_path)
    assert not (tmp_path / "teacher").exists()


def test_too_much_memory_saves_and_stops(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(XECGError, match=r"step 1: .* MB of memory in use; allowed were 1"):
        train(SETTINGS, corpus, tmp_path, max_memory_mb=1)
    assert len(on_disk.states(tmp_path)) == 1


def test_the_teacher_is_exported_with_a_card_and_is_not_the_student(corpus: Corpus, whole: Path) -> None:
    teacher, student = xecg.load(whole / "teacher"), xecg.load(whole / "student")
    assert teacher.trained and teacher.fingerprint != student.fingerprint
    assert corpus.digest in teacher.card and "synthetic: 9 windows" in teacher.card and "7 steps of 4" in teacher.card
    assert not any(name.startswith("teacher") for name in student.state_dict())
    assert sorted(p.name for p in whole.iterdir()) == [
        "log.jsonl", "report.html", "settings.json", "state-000000007.safetensors", "student", "teacher",
    ]  # fmt: skip


def test_the_loss_falls_and_the_coding_rate_holds_vectors_apart(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(SETTINGS, batch=8, steps=24, rate=3e-3, warmup=0.1, expansion=2.0)
    lines: list[dict] = []
    train(settings, corpus, tmp_path / "with", log_every=1, report=lines.append)
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    without = train(replace(settings, expansion=0.0), corpus, tmp_path / "without")
    assert without.last["rate_share"] < 0.85 * lines[-1]["rate_share"]


def test_command_saves_its_state_on_sigterm(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / "in", f"r{i}", seed=i)
    asked = [str(tmp_path / "in"), "--model", "tiny-causal", "--batch", "4", "--steps", "400", "--log-every", "1"]
    run = [sys.executable, "-m", "xecg.cli", "pretrain", *asked, "-o", str(tmp_path / "out")]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert process.stderr is not None and "step 1/400" in process.stderr.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
    states = on_disk.states(tmp_path / "out")
    assert len(states) == 1 and 1 <= int(states[0].stem.split("-")[1]) < 400


def test_command_leaves_benchmarks_out_and_prints_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "own", "r1", seed=1)
    write(tmp_path / "data" / "ptb-xl", "r2", seed=2)
    bad = CliRunner().invoke(main, ["pretrain", "data/own", "data/ptb-xl"])
    assert bad.exit_code == 1 and "belongs to PTB-XL" in bad.stderr and "Traceback" not in bad.stderr
    asked = ["pretrain", "--data", "data", "--config", "tiny-causal", "--steps", "1"]
    more = ["--batch", "2", "--synthetic", "2"]
    good = CliRunner().invoke(main, [*asked, *more, "--json"])
    assert good.exit_code == 0, good.stderr
    summary = json.loads(good.stdout)
    assert summary["finished"] and summary["windows"] == 3 and summary["output"] == "run-tiny-causal/teacher"
    assert summary["left_out"] == [{"folder": "ptb-xl", "reason": "PTB-XL, a benchmark set", "recordings": 1}]
    assert json.loads(Path("run-tiny-causal/data.json").read_text())["left_out"] == [
        ["ptb-xl", "PTB-XL, a benchmark set", 1]
    ]
    model = xecg.load(summary["output"])
    assert (
        model.trained and "Left out of the folders that were given: ptb-xl 1 (PTB-XL, a benchmark set)." in model.card
    )
    said = CliRunner().invoke(main, [*asked, *more]).stdout
    assert "left out, for models are scored on them: ptb-xl 1 (PTB-XL, a benchmark set)" in said
    other = CliRunner().invoke(main, [*asked, "--batch", "2", "--synthetic", "3"])
    assert other.exit_code == 1 and "was built from 0-data and 2 synthetic records" in other.stderr
