"""The encoder against the layers that the published model is made of: PyPI `xlstm` 2.0.6, its "vanilla" backend."""

from __future__ import annotations

import pytest
import torch

from bench.peers import published
from tests.model import official
from tests.tolerances import MODEL_FLOAT32, MODEL_FLOAT64, error
from xecg.model import XECG, XECGConfig
from xecg.model.convert import to_ours

pytestmark = pytest.mark.oracle
pytest.importorskip("xlstm", reason="needs the package xlstm 2.0.6")

HEADS, DIM, BLOCKS = 4, 64, "ssmms"


@pytest.mark.parametrize("steps", [1, 2, 33])
def test_tokens_equal_xlstm(steps: int) -> None:
    weights = official.random_weights(BLOCKS, dim=DIM, heads=HEADS, layout="vanilla")
    config = XECGConfig(blocks=BLOCKS, dim=DIM, heads=HEADS)
    theirs = published(config, context=steps)
    theirs.load_state_dict(weights)  # strict: names and shapes are the package's own
    theirs = theirs.double().eval()
    found = to_ours(weights)
    model = XECG(found.config)
    model.load_state_dict(found.tensors)
    x = torch.randn(2, 12, steps * 25)
    with torch.no_grad():
        expected = theirs(x.double())
        assert error(model.double().encode(x.double()), expected) < MODEL_FLOAT64
        assert error(model.float().encode(x), expected) < MODEL_FLOAT32
        second = official.encode(weights, x.transpose(1, 2), heads=HEADS, layout="vanilla")
        assert error(second, expected) < MODEL_FLOAT64
