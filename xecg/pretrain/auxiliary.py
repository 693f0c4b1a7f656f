"""The auxiliary objective: linear heads on the tokens that say where beats are, of which kind, how early and of what shape.

The heads are linear, so that what they find can be found by a linear probe of the frozen tokens. They are not exported.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg.pretrain.beats import VALUES, Targets
from xecg.pretrain.synthetic import KINDS

__all__ = ["Auxiliary"]


class Auxiliary(nn.Module):
    """Heads on tokens (…, dim). centre, scale float32 (VALUES,): of the values, so that each counts alike."""

    def __init__(self, dim: int, centre: np.ndarray, scale: np.ndarray, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        outputs = 1 + len(KINDS) + VALUES
        self.weight = nn.Parameter(torch.randn(outputs, dim, generator=generator) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._centre, self._scale = torch.from_numpy(centre), torch.from_numpy(scale)

    def forward(self, tokens: Tensor, targets: list[Targets], asked: Tensor) -> dict[str, Tensor]:
        """tokens (B, T, dim), one `Targets` a row (shorter than T where the view is), asked bool (B, T) → three losses."""
        B, T = asked.shape
        beat, kind = torch.zeros(B, T), torch.full((B, T), -1)
        values = torch.full((B, T, VALUES), torch.nan)
        for i, t in enumerate(targets):
            n = len(t.beat)
            beat[i, :n], kind[i, :n], values[i, :n] = (torch.from_numpy(part) for part in t)
        out = F.linear(F.layer_norm(tokens, tokens.shape[-1:])[asked], self.weight, self.bias)
        beat, kind, values = beat[asked], kind[asked], (values[asked] - self._centre) / self._scale
        known = torch.isfinite(values)
        error = F.smooth_l1_loss(out[:, 1 + len(KINDS) :], values.nan_to_num().clamp(-6, 6), reduction="none")
        return {
            "aux_beat": F.binary_cross_entropy_with_logits(out[:, 0], beat),
            "aux_kind": F.cross_entropy(out[:, 1 : 1 + len(KINDS)], kind, ignore_index=-1, reduction="sum")
            / (kind >= 0).sum().clamp_min(1),
            "aux_values": ((error * known).sum(0) / known.sum(0).clamp_min(1)).mean(),
        }
