"""`XECGConfig`: the shape of an encoder, and the three presets with the signal specification that each was made for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xecg.errors import SpecError

__all__ = ["PRESETS", "SIGNAL_PRESET", "XECGConfig"]

# Fixed in every xLSTM block that was published (arXiv 2405.04517, appendix); not options until somebody needs them.
CONV_TAPS = 4  # taps of the causal convolution before q, k and the i, f gates
QKV_BLOCK = 4  # q, k, v projections are block-diagonal with 4 × 4 blocks


@dataclass(frozen=True)
class XECGConfig:
    """The shape of an encoder.

    blocks: one letter a block, "s" (sLSTM) or "m" (mLSTM), in order. dim: token width. heads: heads of every block.
    leads, patch: the input is (leads, samples), a token is `patch` samples. alternate: odd blocks run backward in time
    (such a model cannot stream). pooling: "mean" or "max" over the valid tokens.
    Raises SpecError on any value out of range.
    """

    blocks: str = "ssmmssmms"
    dim: int = 1024
    heads: int = 4
    leads: int = 12
    patch: int = 25
    alternate: bool = True
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if (
            not isinstance(self.blocks, str)
            or not self.blocks
            or set(self.blocks) - {"s", "m"}
            or len(self.blocks) > 256
        ):
            raise SpecError(f"model blocks is {self.blocks!r}; needed 1..256 letters, each 's' (sLSTM) or 'm' (mLSTM)")
        for name, limit in (("dim", 65_536), ("heads", 1024), ("leads", 1024), ("patch", 1_000_000)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= limit:
                raise SpecError(f"model {name} is {value!r}; needed a whole number in 1..{limit:,}")
        if self.dim % self.heads or (2 * self.dim) % QKV_BLOCK:
            raise SpecError(f"model dim is {self.dim}; needed an even multiple of heads ({self.heads})")
        if type(self.alternate) is not bool:
            raise SpecError(f"model alternate is {self.alternate!r}; needed true or false")
        if self.pooling not in ("mean", "max"):
            raise SpecError(f"model pooling is {self.pooling!r}; needed 'mean' or 'max'")

    @property
    def inner(self) -> int:
        """Width inside an mLSTM block: twice the token width."""
        return 2 * self.dim

    @property
    def ffn(self) -> int:
        """Hidden width of the feed-forward part of an sLSTM block: 1.3 · dim, rounded up to a multiple of 64."""
        return -(-13 * self.dim // 640) * 64

    @property
    def causal(self) -> bool:
        """True when no block runs backward in time: such a model can stream."""
        return not self.alternate or len(self.blocks) == 1

    def reverse(self, block: int) -> bool:
        """Whether block number `block` runs backward in time."""
        return self.alternate and block % 2 == 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> XECGConfig:
        """The inverse of `to_dict`. Raises SpecError on an unknown or missing key, a wrong type or range."""
        if not isinstance(data, Mapping):
            raise SpecError(f"model config is a {type(data).__name__}; needed an object with named fields")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
                raise SpecError(f"model config has an unknown key {key!r}; {hint}")
        missing = [key for key in known if key not in data]
        if missing:
            raise SpecError(f"model config has no {missing[0]!r}; every key is needed: {', '.join(known)}")
        return cls(**data)

    @classmethod
    def preset(cls, name: str) -> XECGConfig:
        """The configuration named "base", "tiny" or "tiny-causal". Raises SpecError on another name."""
        if name not in PRESETS:
            raise SpecError(f"model preset is {name!r}; needed one of {', '.join(PRESETS)}")
        return PRESETS[name]


PRESETS: dict[str, XECGConfig] = {
    "base": XECGConfig(),
    "tiny": XECGConfig(blocks="ssmms", dim=128),
    "tiny-causal": XECGConfig(blocks="sms", dim=128, alternate=False),
}
# The name in xecg.signal's PRESETS that each model preset takes its input from.
SIGNAL_PRESET = {"base": "xecg", "tiny": "poly", "tiny-causal": "causal"}
