"""The norm with skip and gate beside PyTorch's layers, as a block of `base` has them and out of cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]

_SHAPES = (
    (1280, 1, 1024),
    (1280, 4, 256),
    (1280, 4, 512),
    (6000, 1, 1024),
    (6000, 4, 256),
    (3000, 4, 512),
)  # rows, H, D


def _plain(x: Tensor, weight: Tensor, **rest: Tensor) -> Tensor:
    y = layer_norm(x, x.shape[-1:], 1 + weight) if x.shape[1] == 1 else layer_norm(x, x.shape[-1:])
    y = y.flatten(-2) if x.shape[1] == 1 else y.flatten(-2) * (1 + weight)
    if "gate" in rest:
        return silu(rest["gate"]) * (y + rest["skip"] * rest["skip_weight"])
    return y + rest["skip"] if "skip" in rest else y


def entries() -> list[Bench]:
    """One head: layer norm. Heads of 256: the sLSTM block's norm and residual. Of 512: the mLSTM block's norm, skip and gate."""
    return [entry for shape in _SHAPES for entry in _of(*shape)]


def _of(rows: int, H: int, D: int) -> list[Bench]:
    n = H * D
    rest = {} if H == 1 else {"skip": torch.randn(rows, n)}
    if D == 512:
        rest |= {"skip_weight": torch.randn(n), "gate": torch.randn(rows, 2 * n)[:, n:]}
    given = {"x": torch.randn(rows, H, D), "weight": 0.1 * torch.randn(n), **rest}
    leaves = {k: t.clone().requires_grad_() for k, t in given.items()}

    def both(f) -> None:
        for t in leaves.values():
            t.grad = None
        f(**leaves).sum().backward()

    # Out of cache, but with an output under 32 MiB: above that every call maps and faults fresh pages, ours and the peers' alike.
    out_of_cache = rows > 1280
    name = ".".join(("norm", *(k for k in ("skip", "gate") if k in rest)))
    big = 1 + sum(t.dim() > 1 for t in rest.values())
    common = {
        "op": "norm",
        "shape": f"{rows}:{H}:{D}",
        "dtype": "float32",
        "check": lambda: torch.testing.assert_close(ops.norm(**given), _plain(**given), rtol=0, atol=1e-4),
    }
    flops = (9.0 + 2.0 * len(rest) + (20.0 if "gate" in rest else 0.0)) * rows * n
    forward = Bench(
        id=f"{name}.forward.{rows}:{H}:{D}",
        run=lambda: ops.norm(**given),
        peers={"torch": lambda: _plain(**given)},
        flops=flops,
        bytes=4.0 * rows * n * (big + 1),
        score="ceiling",
        bar=0.6 if out_of_cache else None,
        aim=0.8 if out_of_cache else None,
        **common,
    )
    backward = Bench(
        id=f"{name}.both.{rows}:{H}:{D}",
        run=lambda: both(ops.norm),
        peers={"torch": lambda: both(_plain)},
        flops=3 * flops,
        bytes=4.0 * rows * n * (3 * big + 2),
        **common,
    )
    return [forward, backward]
