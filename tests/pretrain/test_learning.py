"""What the objective does, on a small encoder: it can fit a batch, and without its coding rate all records become one vector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from xecg.io.store import StoreItem, write_store
from xecg.model import XECG, XECGConfig
from xecg.pretrain import losses, objective, synthetic
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.objective import SimDINO
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS, preprocess

SPEC = PRESETS["causal"]
DIM = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """64 windows of 4 s: four of each of 16 simulated records."""

    def items() -> Iterator[StoreItem]:
        for index in range(16):
            x, mask = preprocess(synthetic.record(seed=0, index=index, duration_s=16.0), SPEC)
            for start in range(0, 1600, 400):
                part = slice(start, start + 400)
                yield StoreItem(f"synthetic/{index}@{start / 100:g}", x[:, part], mask[:, part], 100.0)

    folder = tmp_path_factory.mktemp("corpus")
    write_store(folder, items(), spec_hash=SPEC.hash)
    return Corpus(folder)


def small(monkeypatch: pytest.MonkeyPatch, blocks: str, *, alternate: bool) -> None:
    config = XECGConfig(blocks=blocks, dim=DIM, heads=4, alternate=alternate)
    monkeypatch.setattr(objective, "new_model", lambda settings: XECG(config, spec=SPEC, seed=settings.seed))


def above_one_vector(share: float, m: int) -> float:
    """A share of the largest coding rate, counted from that of m equal vectors, which is not 0."""
    floor = float(losses.coding_rate(torch.ones(m, DIM))) / losses.rate_maximum(m, DIM)
    return (share - floor) / (1 - floor)


def test_one_batch_can_be_fitted(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "mm", alternate=True)
    one = Corpus.__new__(Corpus)
    one.__dict__.update(corpus.__dict__, ids=corpus.ids[:8])
    views = ViewSettings(local_views=0, global_fraction=1.0, gain=0, jitter=0, lead_drop=0)
    settings = Settings(
        model="tiny-causal", batch=8, steps=200, rate=1e-2, warmup=0.05, layer_decay=1.0, first_decay=0.0, last_decay=0.0,
        first_beta=0.9, views=views,
    )  # fmt: skip
    lines: list[dict] = []
    train(settings, one, tmp_path, log_every=1, report=lines.append)
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert above_one_vector(lines[-1]["rate_share"], 8) > 0.5  # not by saying the same of all


def test_without_the_coding_rate_all_vectors_become_one(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patch term is off: it holds vectors apart too. Few tokens are hidden, so that views of a record can agree."""
    small(monkeypatch, "s", alternate=False)
    found = {}
    for weight in (0.0, 0.1):
        settings = Settings(
            model="tiny-causal", batch=64, steps=80, rate=2e-2, warmup=0.05, layer_decay=1.0, first_beta=0.9, gamma="sum",
            expansion=weight, views=ViewSettings(local_views=0, mask_ratio=0.1),
        )  # fmt: skip
        goal = SimDINO(settings, corpus, torch.device("cpu"))
        goal.weights["patch"] = 0.0
        done = train(settings, corpus, tmp_path / str(weight), objective=goal, log_every=100)
        found[weight] = above_one_vector(done.last["rate_share"], 64)
    assert found[0.0] < 0.06 and found[0.1] > 0.3
