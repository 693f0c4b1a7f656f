"""Promises of what a batch is made of: patients' pairs, lower precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pretrain.test_corpus import write
from xecg.errors import CheckpointError
from xecg.pretrain.build import build_corpus, read_patients
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Group
from xecg.pretrain.objective import SimDINO
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS

TOL_BFLOAT16 = 3e-2  # of losses: eight bits of mantissa through three blocks
CALM = ViewSettings(local_views=2, gain=0, lead_drop=0, jitter=0, mask_chance=0.5)
SETTINGS = Settings(model="tiny-causal", steps=3, batch=4, views=CALM)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Records 0 and 3 are one patient's, 1 and 4 another's, 2 alone."""
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(5):
        write(folder / "in", f"r{i}", seed=i)
    (folder / "who.csv").write_text("record,patient\n" + "".join(f"in/r{i},p{i % 3}\n" for i in range(5)))
    build_corpus([folder / "in"], folder / "out", PRESETS["causal"], patients=read_patients(folder / "who.csv"))
    return Corpus(folder / "out")


def owner_of(corpus: Corpus, view: np.ndarray) -> int:
    """The window that a view without augmentation is a part of."""
    return next(
        i
        for i in range(len(corpus))
        if any(np.array_equal(row[:25], view[1, :25]) for row in np.lib.stride_tricks.sliding_window_view(corpus.record(i)[1][1], 25))
    )  # fmt: skip


def test_odd_views_are_of_another_window_of_the_patient(corpus: Corpus) -> None:
    for pairing, expected in (("record", [0, 1, 2]), ("patient", [3, 4, 2])):
        goal = SimDINO(replace(SETTINGS, pairing=pairing), corpus, torch.device("cpu"))
        piece = goal.load([(0, 0), (1, 0), (2, 0)], 0)
        assert piece.narrow is not None
        for x, _ in (piece.wide, piece.narrow):
            owners = [owner_of(corpus, row.numpy()) for row in x]
            assert owners == [0, 1, 2, *expected]


def test_beat_heads_are_asked_for_the_beats_of_the_view_they_see(corpus: Corpus) -> None:
    settings = replace(SETTINGS, pairing="patient", auxiliary=1.0, views=replace(CALM, global_fraction=1.0))
    asked = SimDINO(settings, corpus, torch.device("cpu")).load([(0, 0), (2, 0)], 0).asked
    alone = (
        SimDINO(replace(settings, pairing="record"), corpus, torch.device("cpu"))
        .load([(0, 0), (3, 0), (2, 0)], 0)
        .asked
    )
    assert np.array_equal(asked[0].beat, alone[0].beat)
    assert (
        asked[2].beat.sum() == alone[4].beat.sum() != asked[0].beat.sum()
    )  # whole windows: record 0 and its partner 3
    assert np.array_equal(asked[3].beat, alone[5].beat)


def test_a_run_of_pairs_is_gone_on_with_under_the_same_patients_only(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(SETTINGS, pairing="patient")
    train(settings, corpus, tmp_path, stop=iter([False, True]).__next__)
    other = Corpus.__new__(Corpus)
    other.__dict__.update(corpus.__dict__, patients=np.arange(5, dtype=np.int32))
    with pytest.raises(CheckpointError, match="other patients"):
        train(settings, other, tmp_path)
    assert train(settings, corpus, tmp_path).finished


def test_bfloat16_is_the_same_objective(corpus: Corpus, tmp_path: Path) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        goal = SimDINO(replace(SETTINGS, precision=precision), corpus, torch.device("cpu"))
        piece = goal.load([(i, 0) for i in range(5)], 0)
        parts = goal.backward([piece], goal.counts(piece), Group()).parts
        assert all(value.dtype == torch.float32 for value in parts.values())
        found.append({name: float(value) for name, value in parts.items()})
    assert found[0] != found[1] and found[1] == pytest.approx(found[0], abs=TOL_BFLOAT16)
    assert train(replace(SETTINGS, precision="bfloat16"), corpus, tmp_path).finished
