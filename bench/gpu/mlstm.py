"""mLSTM on a GPU, bfloat16: against the floor of the shape, and beside TFLA and simple_gla. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from bench import gpu_peers
from bench.floors import mlstm as work
from bench.gpu_checks import assert_as_good_as_rounding, served
from bench.harness import Bench
from xecg import ops

__all__ = ["entries"]

_TYPE = torch.bfloat16
# B, T, H, DK, DV: the published encoder, long records, and the size of the literature (65,536 tokens).
_XECG, _LONG, _TOKENS = (512, 40, 4, 512, 512), (32, 2500, 4, 128, 128), (8, 8192, 16, 128, 256)
_Sizes = tuple[int, int, int, int, int]


def _inputs(sizes: _Sizes) -> list[Tensor]:
    B, T, H, DK, DV = sizes
    g = torch.Generator("cuda").manual_seed(B + T)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device="cuda")

    # q and k lean to one side: where the normaliser passes near 0, no short type has digits to compare.
    q, k = (normal(B, T, H, DK).abs() for _ in range(2))
    made = [q, k, normal(B, T, H, DV), normal(B, T, H), 3 + normal(B, T, H)]
    return [t.to(_TYPE) for t in made]


def _right(inputs: list[Tensor], *, train: bool) -> None:
    """The whole call, its first and last row judged: rows are independent, and the size decides which kernel runs."""
    rows = [0, len(inputs[0]) - 1]
    wide = [t[rows].double().requires_grad_() for t in inputs]
    with ops.use_backend("reference"):
        expected = ops.mlstm(*wide)
    assert isinstance(expected, Tensor)
    leaves = [t.detach().requires_grad_(train) for t in inputs]
    found = ops.mlstm(*leaves)
    assert isinstance(found, Tensor)
    assert_as_good_as_rounding(found[rows], expected, "h")
    if train:
        given = torch.randn_like(found)
        theirs = torch.autograd.grad(expected, wide, given[rows].double())
        for name, ours, exact in zip("qkvif", torch.autograd.grad(found, leaves, given), theirs):
            assert_as_good_as_rounding(ours[rows], exact, f"d{name}")


def _entry(what: str, sizes: _Sizes, *, peers: bool, score: str, bar: float, aim: float) -> Bench:
    train = what == "both"
    inputs = cache(partial(_inputs, sizes))
    B, T, H, DK, DV = sizes
    name = f"{B}:{T}:{H}x{DK}" + (f":{DV}" if DV != DK else "")
    moved, flops = work(*sizes, backward=train)
    made: list[gpu_peers.Call] = []

    def run() -> object:
        if not made:
            made.append(gpu_peers.gradients(ops.mlstm, inputs()) if train else lambda: ops.mlstm(*inputs()))  # type: ignore[arg-type]
        return made[0]()

    makers = {}
    if peers:
        for gate in ("exp", "sig"):
            for chunk in (64,) if T <= 64 else (128, 256):
                padded = f", T padded to {-(-T // chunk) * chunk}" if T % chunk else ""
                makers[f"TFLA {gate}, chunks of {chunk}{padded}"] = _tfla(inputs, gate, chunk, train)
        if sizes == _TOKENS:
            makers["fla simple_gla (less work)"] = lambda: gpu_peers.simple_gla(inputs(), train=train)
    return Bench(
        id=f"mlstm.{what}.{name}" + (".beside-others" if peers else ".floor"),
        op="mlstm",
        shape=name,
        dtype="bfloat16",
        run=run,
        check=lambda: _right(inputs(), train=train),
        makers=makers,
        bytes=moved,
        flops=flops,
        bound="floor",
        score=score,
        bar=bar,
        aim=aim,
        against="TFLA" if peers else "",
        device="cuda",
        backend=served("mlstm", _TYPE, dk=DK, dv=DV),
        turn=1 if peers else 0,
    )


def _tfla(inputs: Callable[[], list[Tensor]], gate: str, chunk: int, train: bool) -> Callable[[], gpu_peers.Call]:
    def make() -> gpu_peers.Call:
        with torch.no_grad():
            ours = None if train else ops.mlstm(*inputs(), gate=gate)
        return gpu_peers.tfla(inputs(), ours, gate=gate, chunk=chunk, train=train)  # type: ignore[arg-type]

    return make


def entries() -> list[Bench]:
    """Floors first: they need no peer."""
    floors = [
        _entry("forward", _XECG, peers=False, score="ceiling", bar=1 / 2.5, aim=1 / 1.5),
        _entry("forward", _LONG, peers=False, score="ceiling", bar=1 / 3, aim=1 / 2),
    ]
    beside = [
        _entry("forward", _LONG, peers=True, score="ratio", bar=2.0, aim=4.0),
        _entry("both", _XECG, peers=True, score="ratio", bar=1.7, aim=3.0),
        _entry("both", _LONG, peers=True, score="ratio", bar=1.7, aim=3.0),
        _entry("forward", _TOKENS, peers=True, score="ratio", bar=1.3, aim=3.0),
    ]
    return [*floors, *beside]
