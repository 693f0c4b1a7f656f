"""ECG-JEPA for the user's downloaded checkpoint, written from the description of its author.

Kim 2024 (arXiv 2410.08559): a transformer over 8 leads × 50 patches of 50 samples (10 s at 250 Hz; leads I, II, V1…V6), width 768,
12 layers of 16 heads, pre-norm, no bias in the projections of q, k and v. A patch attends to those of its own lead and to those of
its own instant (cross-pattern attention). The positions, a two-dimensional sine-cosine code that the file holds, are added before
every layer. The vector of a recording is the mean over all patches; a token here is the mean over the leads of one instant.

What the paper leaves open (16 heads, where positions enter, names of weights) are facts of the author's public code
(sehunfromdaegu/ECG_JEPA); the code here is our own. The attribute names are those of the weights in the file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from benchecg.models.network import Contract
from benchecg.models.origin import OriginAdapter, read_weights
from xecg.signal import PRESETS

__all__ = ["JEPAEncoder", "ecg_jepa"]

_LEADS, _PATCHES, _PATCH = 8, 50, 50
_WIDTH, _DEPTH, _HEADS, _HIDDEN = 768, 12, 16, 4 * 768
_VERSION = 1


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH, bias=False)
        self.proj = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, width / heads)
        return self.proj(scaled_dot_product_attention(q, k, v, attn_mask=sees).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(_WIDTH, _HIDDEN)
        self.fc2 = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(_WIDTH), _Attention()
        self.norm2, self.mlp = nn.LayerNorm(_WIDTH), _MLP()

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), sees)
        return x + self.mlp(self.norm2(x))


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Layer() for _ in range(_DEPTH))

    def forward(self, x: Tensor, position: Tensor, sees: Tensor) -> Tensor:
        for layer in self.blocks:
            x = layer(x + position, sees)
        return x


class JEPAEncoder(nn.Module):
    """(B, 8, 2500) → tokens (B, 50, 768)."""

    def __init__(self) -> None:
        super().__init__()
        self.W_P = nn.Linear(_PATCH, _WIDTH)
        self.pos_embed = nn.Parameter(_positions(), requires_grad=False)
        self.encoder_blocks = _Layers()
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.W_P(x.unflatten(-1, (_PATCHES, _PATCH))).flatten(
            1, 2
        )  # (B, leads · patches, width), lead by lead
        y = self.norm(self.encoder_blocks(patches, self.pos_embed, _sees(x.device)))
        return y.unflatten(1, (_LEADS, _PATCHES)).mean(1)


def _sees(device: torch.device) -> Tensor:
    """Which patch attends to which, bool (leads · patches, leads · patches): the same lead or the same instant."""
    n = torch.arange(_LEADS * _PATCHES, device=device)
    lead, instant = n // _PATCHES, n % _PATCHES
    return (lead[:, None] == lead) | (instant[:, None] == instant)


def _positions() -> Tensor:
    """Sine and cosine of the instant in one half of the width, of the lead in the other (Vaswani et al. 2017, in two dimensions)."""
    lead, instant = (
        g.flatten().double() for g in torch.meshgrid(torch.arange(_LEADS), torch.arange(_PATCHES), indexing="ij")
    )
    frequency = 10_000.0 ** -(torch.arange(_WIDTH // 4).double() / (_WIDTH // 4))
    angles = [axis[:, None] * frequency for axis in (instant, lead)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1).float()


def ecg_jepa(file: str) -> OriginAdapter:
    """The published encoder (`multiblock_epoch100.pth`). Raises CheckpointError."""
    network = JEPAEncoder()
    read_weights(Path(file), "encoder", network)
    return OriginAdapter(
        network,
        id="ecg-jepa",
        version=_VERSION,
        contract=Contract(PRESETS["ecg-jepa"], window=_PATCHES * _PATCH, token=_PATCH),
        about="ECG-JEPA (Kim 2024), 8 leads",
        file=Path(file),
        pretrained_on=("Chapman-Shaoxing/Ningbo", "CODE-15 %"),
    )
