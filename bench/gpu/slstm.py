"""sLSTM on a GPU, bfloat16: time of the shapes, beside cuDNN's LSTM, flashrnn and xlstm. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from bench import gpu_peers
from bench.floors import slstm as work
from bench.gpu_checks import assert_as_good_as_rounding, served
from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]

_TYPE = torch.bfloat16
_Sizes = tuple[int, int, int, int]
_XECG, _LONG = (512, 40, 4, 256), (32, 2500, 4, 128)  # B, T, H, D


def _inputs(sizes: _Sizes) -> list[Tensor]:
    B, T, H, D = sizes
    g = torch.Generator("cuda").manual_seed(B + T)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device="cuda")

    made = [normal(B, T, 4, H, D), normal(4, H, D, D) / D**0.5, normal(4, H, D)]
    return [t.to(_TYPE) for t in made]


def _right(inputs: list[Tensor], *, train: bool) -> None:
    """h, and dx, of the first and the last row: dR and db are sums over all rows, which the parity tests judge."""
    rows = [0, len(inputs[0]) - 1]
    x, R, b = inputs
    wide = x[rows].double().requires_grad_()
    with ops.use_backend("reference"):
        expected = ops.slstm(wide, R.double(), b.double())
    assert isinstance(expected, Tensor)
    leaf = x.detach().requires_grad_(train)
    found = ops.slstm(leaf, R, b)
    assert isinstance(found, Tensor)
    assert_as_good_as_rounding(found[rows], expected, "h")
    if train:
        given = torch.randn_like(found)
        (theirs,) = torch.autograd.grad(expected, [wide], given[rows].double())
        assert_as_good_as_rounding(torch.autograd.grad(found, [leaf], given)[0][rows], theirs, "dx")


def _entry(
    what: str, sizes: _Sizes, peers: dict[str, Callable[..., gpu_peers.Call]], *, score: str, bar: float, aim: float
) -> Bench:
    train = what == "both"
    inputs = cache(partial(_inputs, sizes))
    B, T, H, D = sizes
    moved, flops = work(*sizes, backward=train)
    made: list[gpu_peers.Call] = []

    def run() -> object:
        if not made:
            made.append(gpu_peers.gradients(ops.slstm, inputs()) if train else lambda: ops.slstm(*inputs()))  # type: ignore[arg-type]
        return made[0]()

    return Bench(
        id=f"slstm.{what}.{B}:{T}:{H}x{D}" + (".time" if score == "time" else ".beside-others"),
        op="slstm",
        shape=f"{B}:{T}:{H}x{D}",
        dtype="bfloat16",
        run=run,
        check=lambda: _right(inputs(), train=train),
        makers={name: lambda make=make: make(inputs(), train=train) for name, make in peers.items()},  # type: ignore[misc]
        bytes=moved,
        flops=flops,
        bound="floor",
        score=score,
        bar=bar,
        aim=aim,
        against="flashrnn" if peers is _OTHERS else "",
        device="cuda",
        backend=served("slstm", _TYPE, d=D),
        turn=2 if peers is _OTHERS else 0,  # those compile for a minute
    )


_QUICK: dict[str, Callable[..., gpu_peers.Call]] = {"cuDNN LSTM": gpu_peers.cudnn_lstm}
_OTHERS: dict[str, Callable[..., gpu_peers.Call]] = {
    "flashrnn Triton": partial(gpu_peers.flashrnn, backend="triton_fused"),
    "flashrnn fused": partial(gpu_peers.flashrnn, backend="cuda_fused"),
    "xlstm cuda": gpu_peers.xlstm_cuda,
}


def entries() -> list[Bench]:
    """Times first; the peers that compile themselves at first use come last, each may take a minute."""
    steps = _LONG[1]
    return [
        _entry("forward", _LONG, _QUICK, score="time", bar=0.8e-6 * steps, aim=0.4e-6 * steps),
        _entry("forward", _XECG, _QUICK, score="time", bar=200e-6, aim=110e-6),
        _entry("forward", _LONG, _OTHERS, score="ratio", bar=2.0, aim=4.0),
        _entry("both", _LONG, _OTHERS, score="ratio", bar=1.7, aim=3.0),
        _entry("both", _XECG, _OTHERS, score="ratio", bar=1.7, aim=3.0),
    ]
