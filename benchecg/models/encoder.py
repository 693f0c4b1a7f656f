"""An xECG encoder as a module whose call gives tokens, the form in which every network here is trained."""

from __future__ import annotations

from torch import Tensor, nn

from xecg.model import XECG

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """(B, leads, samples) → tokens (B, T, D): `XECG.encode` as the module's call. mask: see there."""

    def __init__(self, model: XECG) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.model.encode(x, mask=mask)
