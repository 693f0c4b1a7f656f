"""Whole models that somebody else would run: the published encoder's own layers, and the convolutional network of ECGFounder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg.model import XECGConfig

__all__ = ["Net1D", "published"]


def published(config: XECGConfig, *, context: int) -> nn.Module:
    """The published encoder's structure around the blocks of PyPI `xlstm` 2.0.6, its "vanilla" backend, random weights.

    x (B, leads, samples) → tokens (B, T, D); in time order for an odd number of blocks. context: T. Its state dict has the
    names of the published file, so that `xecg.model.convert.to_official(model, layout="vanilla")` loads into it.
    """
    import xlstm

    core: Any = nn.Module()
    core.model = xlstm.xLSTMBlockStack(
        xlstm.xLSTMBlockStackConfig(
            mlstm_block=xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(num_heads=config.heads)),
            slstm_block=xlstm.sLSTMBlockConfig(
                slstm=xlstm.sLSTMLayerConfig(backend="vanilla", num_heads=config.heads),
                feedforward=xlstm.FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
            ),
            context_length=context,
            num_blocks=len(config.blocks),
            embedding_dim=config.dim,
            add_post_blocks_norm=False,
            slstm_at=[n for n, kind in enumerate(config.blocks) if kind == "s"],
        )
    )
    return _Published(config, core)


class _Published(nn.Module):
    """Patch convolution, then a flip before each block but the first."""

    def __init__(self, config: XECGConfig, core: nn.Module) -> None:
        super().__init__()
        self.patch_embedding: Any = nn.Module()
        self.patch_embedding.conv = nn.Conv1d(config.leads, config.dim, config.patch, stride=config.patch, bias=False)
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        self.core: Any = core

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch_embedding.conv(x).transpose(1, 2)
        for n, block in enumerate(self.core.model.blocks):
            y = block(y.flip(1) if n else y)
        return y


class Net1D(nn.Module):
    """The network of ECGFounder (arXiv 2410.04133) by its published dimensions, random weights: x (B, 12, 5000) → (B, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(12, 64, _TAPS, stride=2)
        widths = (64, 160, 160, 400, 400, 1024, 1024)
        layers: list[nn.Module] = []
        for before, width, blocks in zip((64, *widths), widths, (2, 2, 2, 3, 3, 4, 4)):
            layers += [_Bottleneck(before if n == 0 else width, width, stride=1 + (n == 0)) for n in range(blocks)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(F.silu(self.first(_pad(x, 2)))).mean(-1)


_TAPS, _GROUP_WIDTH = 16, 16


class _Bottleneck(nn.Module):
    """1 × 1, grouped with 16 taps, 1 × 1, squeeze and excitation of ratio 2; the shortcut is pooled and padded with channels of 0."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(before, width, 1), nn.Conv1d(width, width, 1)
        self.grouped = nn.Conv1d(width, width, _TAPS, stride=stride, groups=width // _GROUP_WIDTH)
        self.squeeze, self.excite = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.grouped.stride[0]
        y = self.leave(F.silu(self.grouped(_pad(F.silu(self.enter(F.silu(x))), stride))))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean(-1)))))[..., None]
        kept = F.max_pool1d(x, stride, ceil_mode=True) if stride > 1 else x
        return y + F.pad(kept, (0, 0, (y.shape[1] - x.shape[1]) // 2, (y.shape[1] - x.shape[1] + 1) // 2))


def _pad(x: Tensor, stride: int) -> Tensor:
    """Zeros on both sides, so that a convolution with 16 taps gives ⌈length / stride⌉ samples."""
    missing = max((-(-x.shape[-1] // stride) - 1) * stride + _TAPS - x.shape[-1], 0)
    return F.pad(x, (missing // 2, missing - missing // 2))
