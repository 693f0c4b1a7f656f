"""The encoder equals the published one: same weights in official names and layout, same tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model import official
from tests.tolerances import MODEL_FLOAT32, MODEL_FLOAT64, error
from xecg.model import XECG
from xecg.model.convert import to_ours

HEADS, DIM, BLOCKS = 4, 64, "ssmms"


def _pair(blocks: str, layout: str, dtype: torch.dtype) -> tuple[XECG, dict[str, Tensor]]:
    weights = official.random_weights(blocks, dim=DIM, heads=HEADS, layout=layout)
    found = to_ours(weights)
    model = XECG(found.config)
    model.load_state_dict(found.tensors)
    return model.to(dtype), weights


@pytest.mark.parametrize("layout", ["cuda", "vanilla"])
@pytest.mark.parametrize("steps", [1, 2, 33])
def test_tokens_equal_the_published_encoder(steps: int, layout: str) -> None:
    model, weights = _pair(BLOCKS, layout, torch.float64)
    x = torch.randn(2, steps * 25, 12)
    expected = official.encode(weights, x, heads=HEADS, layout=layout)
    with torch.no_grad():
        assert error(model.encode(x.double().transpose(1, 2)), expected) < MODEL_FLOAT64
        assert error(model.float().encode(x.transpose(1, 2)), expected) < MODEL_FLOAT32


@pytest.mark.parametrize("flaw", official.FLAWS)
def test_every_known_mistake_breaks_parity(flaw: str) -> None:
    model, weights = _pair(BLOCKS, "cuda", torch.float64)
    x = torch.randn(2, 33 * 25, 12)
    wrong = official.encode(weights, x, heads=HEADS, layout="cuda", flaw=flaw)
    with torch.no_grad():
        assert error(model.encode(x.double().transpose(1, 2)), wrong) > 10 * MODEL_FLOAT32


def test_even_block_counts_give_time_order() -> None:
    model, weights = _pair("sm", "cuda", torch.float64)
    x = torch.randn(2, 9 * 25, 12)
    reversed_tokens = official.encode(weights, x, heads=HEADS, layout="cuda")  # one flip: the published order
    with torch.no_grad():
        assert error(model.encode(x.double().transpose(1, 2)), reversed_tokens.flip(1)) < MODEL_FLOAT64


def test_first_sample_rule_pools_as_published() -> None:
    model, weights = _pair("ssm", "cuda", torch.float64)
    x = torch.randn(2, 8 * 25, 12)
    x[0, 3 * 25] = 0  # one instant of zeros at a patch's start: padding, by the published rule
    x[1, 6 * 25 :] = 0
    ours = x.double().transpose(1, 2)
    expected = official.embed(weights, x, heads=HEADS, layout="cuda")
    with torch.no_grad():
        assert error(model.embed(ours, pad_rule="first-sample"), expected) < MODEL_FLOAT64
        assert error(model.embed(ours), expected) > MODEL_FLOAT32
