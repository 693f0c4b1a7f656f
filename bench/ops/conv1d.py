"""causal_conv1d beside torch's depthwise conv1d (padded, as users write it) and the shift-and-add form in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]

_SHAPES = (  # B, T, C: the m and s blocks of `base` at batch 32, an out-of-cache batch, a long record
    (32, 40, 2048),
    (32, 40, 1024),
    (64, 1000, 256),
    (1, 30000, 256),
)


def _torch_conv1d(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return silu(conv1d(x.mT, w[:, None], bias, padding=w.shape[1] - 1, groups=w.shape[0])[..., : x.shape[1]]).mT


def _shifted(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(x, (0, 0, w.shape[1] - 1, 0))
    return silu(sum(w[:, j] * padded[:, j : j + x.shape[1]] for j in range(w.shape[1])) + bias)


def entries() -> list[Bench]:
    """Forward with SiLU, kernel size 4; forward + backward; one step of many streams."""
    made = []
    for B, T, C in _SHAPES:
        x, w, bias = torch.randn(B, T, C), torch.randn(C, 4), torch.randn(C)
        leaf = x.clone().requires_grad_()

        def both(f, leaf=leaf, w=w, bias=bias) -> None:
            leaf.grad = None
            f(leaf, w, bias).sum().backward()

        def ours(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
            return ops.causal_conv1d(x, w, bias, activation="silu")

        def right(x=x, w=w, bias=bias) -> None:
            torch.testing.assert_close(ours(x, w, bias), _torch_conv1d(x, w, bias), rtol=0, atol=1e-4)

        # Out of cache, but with an output under 32 MiB: above that every call maps and faults fresh pages, ours and the peers' alike.
        out_of_cache = 1 << 24 < x.numel() * 4 < 1 << 25
        made.append(
            Bench(
                id=f"conv1d.forward.{B}:{T}:{C}",
                op="causal_conv1d",
                shape=f"{B}:{T}:{C}",
                dtype="float32",
                run=lambda x=x, w=w, bias=bias: ours(x, w, bias),
                check=right,
                peers={
                    "torch conv1d": lambda x=x, w=w, bias=bias: _torch_conv1d(x, w, bias),
                    "shift and add": lambda x=x, w=w, bias=bias: _shifted(x, w, bias),
                },
                flops=(2 * 4 + 10) * x.numel(),
                bytes=8 * x.numel(),
                score="ceiling",
                bar=0.6 if out_of_cache else None,
                aim=0.8 if out_of_cache else None,
            )
        )
        made.append(
            Bench(
                id=f"conv1d.both.{B}:{T}:{C}",
                op="causal_conv1d",
                shape=f"{B}:{T}:{C}",
                dtype="float32",
                run=lambda both=both: both(ours),
                check=right,
                peers={
                    "torch conv1d": lambda both=both: both(_torch_conv1d),
                    "shift and add": lambda both=both: both(_shifted),
                },
                flops=3 * (2 * 4 + 10) * x.numel(),
                bytes=20 * x.numel(),
            )
        )
    return [*made, _step()]


def _step(streams: int = 2000, C: int = 256) -> Bench:
    x, w, bias, state = torch.randn(streams, C), torch.randn(C, 4), torch.randn(C), torch.zeros(streams, 3, C)
    out = torch.empty_like(x)

    def plain() -> Tensor:
        full = torch.cat([state, x[:, None]], 1)
        y = silu(torch.einsum("bkc,ck->bc", full, w) + bias)
        state.copy_(full[:, 1:])
        return y

    def right() -> None:
        y, _ = ops.causal_conv1d_step(x, w, bias, state, activation="silu")
        torch.testing.assert_close(y, silu(torch.einsum("bkc,ck->bc", torch.cat([state, x[:, None]], 1), w) + bias))

    return Bench(
        id=f"conv1d.step.{streams}:{C}",
        op="causal_conv1d",
        shape=f"{streams}:{C}",
        dtype="float32",
        run=lambda: ops.causal_conv1d_step_(x, w, bias, state, activation="silu", out=out),
        check=right,
        peers={"cat and einsum": plain},
        flops=(2 * 4 + 10) * x.numel(),
        bytes=4 * (2 * x.numel() + 2 * state.numel()),
    )
