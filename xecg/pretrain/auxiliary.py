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

    def counts(self, targets: list[Targets], asked: Tensor) -> Tensor:
        """What the three losses are means over: tokens asked, kinds known, values known (VALUES): float64 (2 + VALUES,)."""
        beat, kind, values = self._asked(targets, asked)
        known = torch.isfinite(values).sum(0)
        return torch.cat([torch.tensor([len(beat)], device=asked.device), (kind >= 0).sum()[None], known]).double()

    def forward(
        self, tokens: Tensor, targets: list[Targets], asked: Tensor, totals: Tensor | None = None
    ) -> dict[str, Tensor]:
        """tokens (B, T, dim), one `Targets` a row (shorter than T where the view is), asked bool (B, T) → three losses.

        totals: the `counts` of the whole batch of which this is a part; the losses are then its shares. Default: its own.
        """
        n = (self.counts(targets, asked) if totals is None else totals).clamp_min(1).to(tokens.dtype)
        beat, kind, values = self._asked(targets, asked)
        out = F.linear(F.layer_norm(tokens, tokens.shape[-1:])[asked], self.weight, self.bias)
        known = torch.isfinite(values)
        error = F.smooth_l1_loss(out[:, 1 + len(KINDS) :], values.nan_to_num().clamp(-6, 6), reduction="none")
        kinds = out[:, 1 : 1 + len(KINDS)]
        return {
            "aux_beat": F.binary_cross_entropy_with_logits(out[:, 0], beat, reduction="sum") / n[0],
            "aux_kind": F.cross_entropy(kinds, kind, ignore_index=-1, reduction="sum") / n[1],
            "aux_values": ((error * known).sum(0) / n[2:]).mean(),
        }

    def _asked(self, targets: list[Targets], asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """beat, kind and standardised values of the tokens that are asked."""
        B, T = asked.shape
        beat, kind = torch.zeros(B, T), torch.full((B, T), -1)
        values = torch.full((B, T, VALUES), torch.nan)
        for i, t in enumerate(targets):
            n = len(t.beat)
            beat[i, :n], kind[i, :n], values[i, :n] = (torch.from_numpy(part) for part in t)
        values = (values - self._centre) / self._scale
        return beat.to(asked.device)[asked], kind.to(asked.device)[asked], values.to(asked.device)[asked]
