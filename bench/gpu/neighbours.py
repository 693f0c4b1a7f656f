"""What stands between the products and recurrences of `base`, batch 512, bfloat16: norm with skip and gate, gated product, blocks of
4 × 4, convolution with SiLU. Each is bound by the bytes that it must move once. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from bench import gpu_peers
from bench.floors import rows as work
from bench.gpu_checks import assert_as_good_as_rounding, served
from bench.harness import Bench
from xecg import ops

__all__ = ["Neighbour", "entries", "neighbours"]

_HALF, _WIDE = 2, 4  # bytes


class Neighbour(NamedTuple):
    """An op as the encoder calls it. inputs: name → shape, whose first number is rows (B·T), and type; what is of `weights` is no
    traffic. rows, width: of every other tensor, each `items` bytes a number, in and out."""

    op: str
    name: str
    call: Callable[..., Tensor]
    inputs: dict[str, tuple[tuple[int, ...], torch.dtype]]
    weights: tuple[str, ...]
    width: int
    items_in: tuple[int, ...]
    items_out: tuple[int, ...]
    sizes: dict[str, int]


def neighbours(batch: int, tokens: int, dim: int, heads: int, ffn: int) -> list[Neighbour]:
    """Those of an encoder of these sizes."""
    n, p, bf16, f32 = batch * tokens, 2 * dim, torch.bfloat16, torch.float32
    x, row, weight = ((n, heads, p // heads), bf16), ((n, p), bf16), ((p,), f32)
    return [
        Neighbour(
            "norm", "of-mlstm", ops.norm,
            {"x": x, "weight": weight, "skip": row, "skip_weight": weight, "gate": row},
            ("weight", "skip_weight"), p, (_HALF, _HALF, _HALF), (_HALF,), {"d": p // heads},
        ),
        Neighbour(
            "norm", "of-slstm", ops.norm,
            {"x": ((n, heads, dim // heads), bf16), "weight": ((dim,), f32), "skip": ((n, dim), f32)},
            ("weight",), dim, (_HALF, _WIDE), (_WIDE,), {"d": dim // heads},
        ),
        Neighbour(
            "gated", "gelu", lambda a, b: ops.gated(a, b, activation="gelu"),
            {"a": ((n, ffn), bf16), "b": ((n, ffn), bf16)},
            (), ffn, (_HALF, _HALF), (_HALF,), {},
        ),
        Neighbour(
            "linear", "blocks", ops.linear,
            {"x": ((n, p // 4, 4), bf16), "weight": ((p // 4, 4, 4), f32)},
            ("weight",), p, (_HALF,), (_HALF,), {"k": 4, "n": 4},
        ),
        Neighbour(
            "causal_conv1d", "silu", lambda x, weight, bias: ops.causal_conv1d(x, weight, bias, activation="silu"),  # type: ignore[arg-type, return-value]
            {"x": ((batch, tokens, p), bf16), "weight": ((p, 4), f32), "bias": ((p,), f32)},
            ("weight", "bias"), p, (_HALF,), (_HALF,), {"taps": 4},
        ),
    ]  # fmt: skip


def entry(one: Neighbour, count: int, *, train: bool, device: str) -> Bench:
    """Its row; count: rows (B·T)."""

    @cache
    def inputs() -> dict[str, Tensor]:
        g = torch.Generator(device).manual_seed(0)
        return {n: torch.randn(s, generator=g, device=device).to(dtype) for n, (s, dtype) in one.inputs.items()}

    def call(*tensors: Tensor) -> Tensor:
        return one.call(**dict(zip(one.inputs, tensors)))

    @cache
    def made() -> gpu_peers.Call:
        given = list(inputs().values())
        return gpu_peers.gradients(call, given) if train else lambda: call(*given)

    def right() -> None:
        """First and last row (of a convolution: sequence), by the definition; gradients of weights are sums that parity tests judge."""
        some = [0, -1]
        wide = {n: (t if n in one.weights else t[some]).double().requires_grad_() for n, t in inputs().items()}
        with ops.use_backend("reference"):
            expected = one.call(**wide)
        leaves = {n: t.detach().requires_grad_(train) for n, t in inputs().items()}
        found = one.call(**leaves)
        assert_as_good_as_rounding(found[some], expected, "y")
        if train:
            given = torch.randn_like(found)
            ours = torch.autograd.grad(found, list(leaves.values()), given)
            theirs = torch.autograd.grad(expected, list(wide.values()), given[some].double())
            for name, a, b in zip(leaves, ours, theirs):
                if name not in one.weights:
                    assert_as_good_as_rounding(a[some], b, f"d{name}")

    what = "both" if train else "forward"
    return Bench(
        id=f"{one.op}.{what}.{one.name}.{count}x{one.width}",
        op=one.op,
        shape=f"{count}x{one.width}",
        dtype="bfloat16",
        run=lambda: made()(),
        check=right,
        bytes=work(count, one.width, items_in=one.items_in, items_out=one.items_out, backward=train).bytes,
        score="ceiling",
        bar=1 / 2,
        aim=1 / 1.3,
        device="cuda",
        backend=served(one.op, torch.bfloat16, **one.sizes),
    )


def entries() -> list[Bench]:
    """Forward, then forward and backward of each."""
    batch, tokens = 512, 40
    every = neighbours(batch, tokens, 1024, 4, 1344)
    return [entry(one, batch * tokens, train=train, device="cuda") for train in (False, True) for one in every]
