"""Views: reproducible from their names alone, masks of an exact size, crops of whole patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xecg.errors import SpecError
from xecg.pretrain.views import ViewSettings, block_mask, draw, make_batch, reference_mask, view

PLAIN = ViewSettings(lead_drop=0, gain=0, jitter=0)
RECORDS = [
    (f"r{i}", np.random.default_rng(i).normal(size=(12, n)).astype(np.float32)) for i, n in enumerate((1200, 900))
]


def test_a_view_depends_on_its_names_only() -> None:
    settings = ViewSettings(rate=0.03, few_leads=0.3)
    wide, narrow = make_batch(RECORDS, settings, seed=3, epoch=2, patch=25)
    np.random.seed(7)
    alone, _ = make_batch(RECORDS[1:], settings, seed=3, epoch=2, patch=25)
    n = int(alone.lengths[1])
    assert narrow is not None and len(narrow.x) == 8 and len(wide.x) == 4
    assert np.array_equal(wide.x[3, :, :n], alone.x[1, :, :n])  # view 1 of record 1
    for other in ({"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 1}):
        changed, _ = make_batch(RECORDS, settings, patch=25, **other)
        assert not np.array_equal(changed.x, wide.x)
    assert not np.array_equal(wide.x[0], wide.x[2])  # two views of one record


def test_crops_are_whole_patches_of_the_stated_share() -> None:
    rng = draw(0, 0, "a")
    x = np.zeros((12, 1200), np.float32)
    assert view(x, rng, PLAIN, fraction=0.8, patch=25).shape[1] == 950  # 38 patches of the 960 samples
    assert view(x, rng, PLAIN, fraction=0.4, patch=25).shape[1] == 475  # 19 of 480


def test_a_plain_crop_is_a_piece_of_the_record() -> None:
    x = RECORDS[0][1]
    crop = view(x, draw(0, 0, "a"), PLAIN, fraction=0.4, patch=25)
    starts = np.flatnonzero(x[0] == crop[0, 0])
    assert any(np.array_equal(x[:, s : s + 475], crop) for s in starts)


def test_padding_follows_each_view_and_is_zero() -> None:
    wide, _ = make_batch(RECORDS, ViewSettings(), seed=0, epoch=0, patch=25)
    assert wide.lengths.tolist() == [950, 700, 950, 700]
    assert not wide.x[1, :, 700:].any() and wide.x[1, 1, :700].any()
    assert wide.hidden is not None and not wide.hidden[1, 28:].any()
    assert wide.hidden.sum(1).tolist() == [11, 8, 11, 8]  # round(0.3·38), round(0.3·28)


@pytest.mark.parametrize("tokens", [1, 2, 7, 19, 38, 40])
def test_mask_has_an_exact_count_in_blocks_that_do_not_wrap(tokens: int) -> None:
    count = max(1, round(0.3 * tokens))
    for key in range(200):
        hidden = block_mask(draw(0, 0, key), tokens, ratio=0.3, block=4)
        assert hidden.shape == (tokens,) and hidden.sum() == count
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
        assert len(edges) // 2 <= -(-count // 4)


def test_mask_reaches_every_token_evenly() -> None:
    share = np.mean([block_mask(draw(0, 0, key), 40, ratio=0.3, block=4) for key in range(4000)], axis=0)
    assert share.min() > 0.07 and np.allclose(share[6:-6], 0.33, atol=0.06)


def test_reference_mask_hides_less_than_asked() -> None:
    share = np.mean([reference_mask(draw(0, 0, key), 38, ratio=0.3, block=4) for key in range(4000)])
    assert share == pytest.approx(0.267906, abs=0.005)


def test_lead_two_is_never_dropped() -> None:
    settings = replace(PLAIN, lead_drop=1.0)
    crop = view(RECORDS[0][1], draw(0, 0, "a"), settings, fraction=0.8, patch=25)
    assert np.flatnonzero(crop.any(1)).tolist() == [1]
    few = replace(PLAIN, few_leads=1.0)
    left = [np.flatnonzero(view(RECORDS[0][1], draw(0, 0, k), few, fraction=0.8, patch=25).any(1)) for k in range(60)]
    assert all(1 in kept and len(kept) <= 2 for kept in left) and len({tuple(kept) for kept in left}) > 6


def test_stretching_keeps_a_straight_line_straight() -> None:
    line = np.tile(np.arange(1200, dtype=np.float32), (12, 1))
    crop = view(line, draw(0, 0, "a"), replace(PLAIN, rate=0.05), fraction=0.8, patch=25)
    steps = np.diff(crop[0])
    assert np.allclose(steps, steps[0], atol=1e-2) and 0.94 < steps[0] < 1.06 and abs(steps[0] - 1) > 1e-4


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"global_views": 1}, {"mask_ratio": 0.0}, {"mask_rule": "all"}, {"gain": 1.5}, {"lead_drop": 2.0}):
        with pytest.raises(SpecError):
            ViewSettings(**wrong)
