"""The encoder against the layers that the published model is made of: PyPI `xlstm` 2.0.6, its "vanilla" backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.model import official
from tests.tolerances import MODEL_FLOAT32, MODEL_FLOAT64, error
from xecg.model import XECG
from xecg.model.convert import to_ours

pytestmark = pytest.mark.oracle
xlstm = pytest.importorskip("xlstm", reason="needs the package xlstm 2.0.6")

HEADS, DIM, BLOCKS = 4, 64, "ssmms"


class _Published(nn.Module):
    """The released model's structure around xlstm's own blocks: patch convolution, a flip before each block but the first."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Module()
        self.patch_embedding.conv = nn.Conv1d(12, DIM, 25, stride=25, bias=False)
        self.mask_token = nn.Parameter(torch.empty(DIM))
        self.core = nn.Module()
        self.core.model = xlstm.xLSTMBlockStack(
            xlstm.xLSTMBlockStackConfig(
                mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=HEADS)),
                slstm_block=xlstm.sLSTMBlockConfig(
                    slstm=xlstm.sLSTMLayerConfig(backend="vanilla", num_heads=HEADS),
                    feedforward=xlstm.FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
                ),
                context_length=context,
                num_blocks=len(BLOCKS),
                embedding_dim=DIM,
                add_post_blocks_norm=False,
                slstm_at=[n for n, kind in enumerate(BLOCKS) if kind == "s"],
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch_embedding.conv(x).transpose(1, 2)
        for n, block in enumerate(self.core.model.blocks):
            y = block(y.flip(1) if n else y)
        return y


@pytest.mark.parametrize("steps", [1, 2, 33])
def test_tokens_equal_xlstm(steps: int) -> None:
    weights = official.random_weights(BLOCKS, dim=DIM, heads=HEADS, layout="vanilla")
    published = _Published(context=steps)
    published.load_state_dict(weights)  # strict: names and shapes are the package's own
    published = published.double().eval()
    found = to_ours(weights)
    model = XECG(found.config)
    model.load_state_dict(found.tensors)
    x = torch.randn(2, 12, steps * 25)
    with torch.no_grad():
        expected = published(x.double())
        assert error(model.double().encode(x.double()), expected) < MODEL_FLOAT64
        assert error(model.float().encode(x), expected) < MODEL_FLOAT32
        second = official.encode(weights, x.transpose(1, 2), heads=HEADS, layout="vanilla")
        assert error(second, expected) < MODEL_FLOAT64
