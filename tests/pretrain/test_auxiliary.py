"""Beats on tokens, and the heads that are asked for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xecg.errors import ReadError
from xecg.pretrain import synthetic
from xecg.pretrain.auxiliary import Auxiliary
from xecg.pretrain.beats import VALUES, Beats, find_beats, token_targets
from xecg.pretrain.build import build_corpus
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings, make_batch
from xecg.signal import PRESETS, preprocess

BEATS = Beats(
    np.array([60.0, 160, 240, 360, 460], np.float32), np.array([0, 0, 2, 0, 0], np.int8), np.zeros((5, 45), np.float32)
)
WHOLE = {"start": 0.0, "stretch": 1.0, "tokens": 20, "patch": 25, "rate_hz": 100.0, "lag": 0}


def test_a_beat_falls_on_the_token_that_holds_it() -> None:
    found = token_targets(BEATS, **WHOLE)
    assert np.flatnonzero(found.beat).tolist() == [2, 6, 9, 14, 18]
    assert found.kind[[2, 6, 9, 14, 18]].tolist() == [0, 0, 2, 0, 0] and (found.kind == -1).sum() == 15
    assert found.values[2, -2] == pytest.approx(10 / 25)


def test_a_view_moves_and_stretches_the_beats_with_the_signal() -> None:
    found = token_targets(BEATS, **{**WHOLE, "start": 100.0, "stretch": 2.0})
    assert np.flatnonzero(found.beat).tolist() == [1, 2, 5, 7]  # samples 30, 70, 130, 180 of the view
    x = np.zeros((12, 1200), np.float32)
    x[:, 600] = 1
    settings = ViewSettings(rate=0.05, lead_drop=0, gain=0, jitter=0)
    wide, _ = make_batch([(f"r{i}", x) for i in range(40)], settings, seed=0, epoch=0, patch=25)
    for row, (start, stretch) in zip(wide.x[:, 1], wide.places.tolist()):
        at = (600 - start) / stretch
        if 1 < at < len(row) - 2:
            assert abs(int(row.argmax()) - at) <= 1


def test_intervals_say_how_early_a_beat_is_and_never_look_past_the_view() -> None:
    found = token_targets(BEATS, **WHOLE).values
    assert found[9, 45] == pytest.approx(np.log(0.8)) and found[9, 46] == pytest.approx(np.log(1.2))
    assert found[9, 48] == pytest.approx(np.log(0.8) - np.log([1.0, 0.8, 1.2, 1.0]).mean(), abs=1e-6)
    assert np.isnan(found[2, 45]) and np.isnan(found[18, 46])
    cut = token_targets(BEATS, **{**WHOLE, "start": 150.0, "tokens": 14}).values
    assert np.isnan(cut[0, 45]) and cut[3, 45] == pytest.approx(np.log(0.8))


def test_a_causal_model_is_asked_a_token_later_and_for_the_past_only() -> None:
    late, full = token_targets(BEATS, **{**WHOLE, "lag": 1}), token_targets(BEATS, **WHOLE)
    assert np.flatnonzero(late.beat).tolist() == [3, 7, 10, 15, 19]
    assert np.isnan(late.values[:, 46]).all() and not np.isnan(full.values[9, 46])
    future = Beats(BEATS.time + np.array([0, 0, 0, 40, 90], np.float32), BEATS.kind, BEATS.waves)
    other = token_targets(future, **{**WHOLE, "lag": 1}).values
    assert np.array_equal(other[:14, :-1], late.values[:14, :-1], equal_nan=True)  # all but the view's heart rate


def test_waves_tell_an_ectopic_beat_from_the_others() -> None:
    early, others = [], []
    for index in range(60):
        made = synthetic.record(seed=3, index=index)
        x, _ = preprocess(made, PRESETS["poly"])
        found = find_beats(made, x, 100.0, second=1)
        assert len(found.time) == len(made.annotations) and found.waves.shape[1] + 9 == VALUES
        early += found.waves[found.kind == 2, 42].tolist()
        others += found.waves[found.kind == 0, 42].tolist()
    assert np.nanmedian(others) > 0.95 and np.nanmedian(early) < 0.8  # correlation with the median beat


def test_real_beats_come_from_the_detector_and_have_no_kind() -> None:
    made = synthetic.record(seed=1, index=2)
    real = made.with_(meta={}, annotations=None)
    x, _ = preprocess(real, PRESETS["poly"])
    found = find_beats(real, x, 100.0, second=1)
    assert len(found.time) > 5 and (found.kind == -1).all()


def test_the_same_record_is_made_twice_and_every_kind_comes() -> None:
    one, two = synthetic.record(seed=4, index=9), synthetic.record(seed=4, index=9)
    assert np.array_equal(one.signal, two.signal) and np.isfinite(one.signal).all()
    kinds = {symbol for i in range(40) for symbol in synthetic.record(seed=0, index=i).annotations.symbol}
    assert kinds == {"N", "A", "V", "F", "/"}


def test_a_blocked_p_wave_is_no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    beat = synthetic._Beat
    made = [beat(1.0, 0, 0, 0.8), beat(1.5, 1, 0, 0.5, conducted=False), beat(2.4, 0, 0, 1.4), beat(3.2, 0, 0, 0.8)]
    monkeypatch.setattr(synthetic, "_beats", lambda *_, **__: made)
    record = synthetic.record(seed=5, index=0)
    assert record.annotations.sample.tolist() == [250, 600, 800] and record.annotations.symbol == ("N", "N", "N")


def test_only_asked_tokens_and_known_targets_count() -> None:
    heads = Auxiliary(8, np.zeros(VALUES, np.float32), np.ones(VALUES, np.float32), seed=0)
    tokens = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    asked = torch.ones(1, 20, dtype=torch.bool)
    asked[0, 9] = False
    found = token_targets(BEATS, **WHOLE)
    loss = sum(heads(tokens, [found], asked).values())
    loss.backward()
    assert tokens.grad is not None and not tokens.grad[0, 9].any() and tokens.grad[0, 2].any()
    blank = token_targets(Beats(BEATS.time, np.full(5, -1, np.int8), BEATS.waves), **WHOLE)
    assert float(heads(tokens, [blank], asked)["aux_kind"].detach()) == 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    from tests.pretrain.test_corpus import write

    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "in", "a", seed=1)
    build_corpus([folder / "in"], folder / "out", PRESETS["causal"], synthetic=12)
    return Corpus(folder / "out")


SETTINGS = Settings(
    model="tiny-causal", steps=6, batch=6, auxiliary=1.0, repeat_real=3, rate=3e-3,
    views=ViewSettings(local_views=0, mask_chance=0.5, rate=0.03),
)  # fmt: skip


def test_a_run_with_heads_goes_on_to_the_same_bits(corpus: Corpus, tmp_path: Path) -> None:
    train(SETTINGS, corpus, tmp_path / "whole")
    asked = iter(range(100))
    assert train(SETTINGS, corpus, tmp_path / "cut", stop=lambda: next(asked) >= 3).step == 3
    last = train(SETTINGS, corpus, tmp_path / "cut").last
    ours, theirs = ((tmp_path / n / "teacher" / "model.safetensors").read_bytes() for n in ("whole", "cut"))
    assert ours == theirs and {"aux_beat", "aux_kind", "aux_values"} <= last.keys()
    plain = train(replace(SETTINGS, auxiliary=0.0), corpus, tmp_path / "plain").last
    assert "aux_beat" not in plain and (tmp_path / "plain" / "teacher" / "model.safetensors").read_bytes() != ours


def test_the_heads_learn(corpus: Corpus, tmp_path: Path) -> None:
    lines: list[dict] = []
    train(replace(SETTINGS, steps=60), corpus, tmp_path, log_every=5, report=lines.append)
    first, last = lines[0], lines[-1]
    assert last["aux_beat"] < 0.6 * first["aux_beat"] and last["aux_values"] < 0.8 * first["aux_values"]


def test_a_corpus_without_beats_says_so(corpus: Corpus) -> None:
    folder = corpus._store.folder
    kept = (folder / "beats.npz").read_bytes()
    (folder / "beats.npz").unlink()
    try:
        with pytest.raises(ReadError, match="auxiliary"):
            Corpus(folder).beats(0)
    finally:
        (folder / "beats.npz").write_bytes(kept)
