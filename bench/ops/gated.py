"""The gated product beside torch's activation and multiplication."""

from __future__ import annotations

import torch
from torch.nn.functional import gelu, silu

from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]


def entries() -> list[Bench]:
    """Both halves of a fused projection, as the feed-forward of `base` at batch 32 has them."""
    made = []
    a, b = torch.randn(1280, 2 * 1344).chunk(2, -1)
    for activation, plain in (("silu", silu), ("gelu", gelu)):

        def peer(plain=plain) -> torch.Tensor:
            return plain(a) * b

        def run(activation: str = activation) -> torch.Tensor:
            return ops.gated(a, b, activation=activation)

        made.append(
            Bench(
                id=f"gated.{activation}.1280:1344",
                op="gated",
                shape="1280:1344",
                dtype="float32",
                run=run,
                check=lambda run=run, peer=peer: torch.testing.assert_close(run(), peer(), rtol=0, atol=1e-5),
                peers={"torch": peer},
                flops=(4.0 if activation == "silu" else 8.0) * a.numel(),  # an elementary function counts as one
                bytes=12.0 * a.numel(),
            )
        )
    return made
