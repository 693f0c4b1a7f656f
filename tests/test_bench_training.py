"""The figures of a training step: what they are shares of."""

from pathlib import Path

import pytest
import torch

from bench import training
from xecg.pretrain import Corpus, Settings, build_corpus, trainer
from xecg.pretrain.objective import SimDINO
from xecg.pretrain.run import spec_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus") / "store"
    build_corpus([], folder, spec_of("tiny-causal"), synthetic=4)
    return Corpus(folder)


def test_shares_are_of_the_step_and_views_are_made_ahead_again_afterwards(corpus: Corpus, tmp_path: Path) -> None:
    before = trainer.Ahead
    found = training.measure(Settings(model="tiny-causal", batch=2, steps=3), corpus, tmp_path, 1)
    assert trainer.Ahead is before
    assert 0.3 < found["encoder_share"] < 1 and 0 <= found["wait_share"] < 1 and found["step_ms"] > 0


def test_without_the_encoder_the_optimiser_still_has_every_parameter(corpus: Corpus) -> None:
    goal = SimDINO(Settings(model="tiny-causal", batch=2), corpus, torch.device("cpu"))
    training._without_encoder(goal)
    goal.student.encode(torch.zeros(2, 12, 500)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in goal.student.parameters())


def test_memory_is_that_of_a_tenth_and_of_all_steps(corpus: Corpus, tmp_path: Path) -> None:
    found = training.memory(Settings(model="tiny-causal", batch=2, steps=10), corpus, tmp_path)
    assert found["steps"] == 10 and 0 < found["mb_at_a_tenth"] <= found["mb_at_the_end"]
