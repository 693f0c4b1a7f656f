"""Promises of views made in advance: the same ones, one step ahead, errors in their place, no thread left."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrain.test_trainer import SETTINGS, Broken, corpus, same, weights  # noqa: F401
from xecg.errors import XECGError
from xecg.pretrain import trainer
from xecg.pretrain.ahead import Ahead
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.objective import SimDINO


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("views")]


def test_the_next_step_is_made_while_this_one_is_computed_and_none_beyond() -> None:
    made: list[int] = []
    events = [threading.Event() for _ in range(5)]

    def make(step: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        made.append(step)
        events[step].set()
        return step * 10

    with Ahead(make, 4) as ahead:
        for step in range(4):
            assert ahead.of(step) == step * 10
            if step < 3:
                assert events[step + 1].wait(10)  # while nobody asks for it
            assert made == list(range(min(step + 2, 4)))
    assert not threads()


def test_a_step_out_of_turn_is_made_when_it_is_asked_for() -> None:
    with Ahead(lambda step: step, 100) as ahead:
        assert [ahead.of(step) for step in (7, 8, 3, 4, 4, 99)] == [7, 8, 3, 4, 4, 99]


def test_an_error_comes_at_its_own_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise XECGError("bad record")
        return step

    with Ahead(make, 4) as ahead:
        assert [ahead.of(0), ahead.of(1)] == [0, 1]
        with pytest.raises(XECGError, match="bad record"):
            ahead.of(2)
    assert not threads()


class _Serial(Ahead[Any]):
    """Makes a step when it is asked for, where it is asked for."""

    def of(self, step: int) -> Any:
        return self._make(step)


def test_training_has_the_same_bits_as_without(
    corpus: Corpus,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer.train(SETTINGS, corpus, tmp_path / "ahead", micro=3)
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "Ahead", _Serial)
        trainer.train(SETTINGS, corpus, tmp_path / "serial", micro=3)
    assert same(weights(tmp_path / "ahead"), weights(tmp_path / "serial"))


def test_views_are_made_by_the_thread_and_it_ends_with_the_run(corpus: Corpus, tmp_path: Path) -> None:  # noqa: F811
    goal = SimDINO(SETTINGS, corpus, torch.device("cpu"))
    load, by = goal.load, []
    goal.load = lambda records, epoch: (by.append(threading.current_thread().name), load(records, epoch))[1]  # type: ignore[method-assign]
    trainer.train(SETTINGS, corpus, tmp_path / "run", objective=goal)
    assert len(by) == SETTINGS.steps and all(name.startswith("views") for name in by)
    with pytest.raises(XECGError, match="third in a row"):
        trainer.train(SETTINGS, Broken(corpus, set(range(10))), tmp_path / "bad")
    assert not threads()
