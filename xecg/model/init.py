"""Seeded initialisation of an encoder, as the published layers do it (xLSTM, arXiv 2405.04517; PyPI `xlstm` 2.0).

Small init (arXiv 1910.05895) for maps into a block, Wang init (2 / (blocks·√dim)) for maps out of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xecg.model.blocks import MLSTMBlock

if TYPE_CHECKING:
    from xecg.model.encoder import XECG

__all__ = ["initialise_"]


@torch.no_grad()
def initialise_(model: XECG, *, seed: int) -> None:
    """Fill every parameter of `model`, in place; the same seed gives the same bits on the CPU, whatever ran before."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def normal_(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def uniform_(parameter: Tensor, bound: float) -> None:
        parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)

    small, wang = math.sqrt(2 / (5 * config.dim)), 2 / (len(config.blocks) * math.sqrt(config.dim))
    uniform_(model.patch.weight, 1 / math.sqrt(config.leads * config.patch))  # as torch's own Conv1d
    normal_(model.mask_token, 0.02)
    for index, block in enumerate(model._stack):
        for norm in (block.norm, block.headnorm):
            norm.weight.zero_()  # acts as 1
        uniform_(block.conv.weight, 1 / math.sqrt(block.conv.weight.shape[1]))
        block.conv.bias.zero_()
        if isinstance(block, MLSTMBlock):
            for parameter in (block.up, block.q, block.k, block.v):
                normal_(parameter, small)
            normal_(block.down, wang)
            block.skip.fill_(1)
            block.gate_i.weight.zero_()
            block.gate_f.weight.zero_()
            normal_(block.gate_i.bias, 0.1)
            block.gate_f.bias.copy_(torch.linspace(3, 6, config.heads))
        else:
            for parameter in (block.in_i, block.in_f, block.in_z, block.in_o, block.ffn_up):
                normal_(parameter, small)
            normal_(block.ffn_down, wang)
            block.ffn_norm.weight.zero_()
            block.R.zero_()
            block.bias.zero_()
            block.bias[1] = _forget_bias(block.bias.shape[-1], index / max(len(config.blocks) - 1, 1))


def _forget_bias(width: int, depth: float) -> Tensor:
    """From 5 down to −7 over a head's units, by a power that grows with the block's relative depth 0..1: (width,)."""
    place = torch.arange(width) / max(width - 1, 1)
    return 5 - 12 * place ** (0.3 + 1.3 * depth)
