"""mLSTM beside mlstm_kernels' native chunkwise form and xlstm's parallel form, where they are installed, and our own reference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench import floors
from bench.harness import ROOT, Bench, Measure, speedup
from xecg import ops

__all__ = ["entries"]

# B, T, D; bar and aim of forward, of forward + backward (ratios to the best peer)
_SHAPES: tuple[
    tuple[tuple[int, int, int], tuple[float | None, float | None], tuple[float | None, float | None]], ...
] = (
    ((8, 1000, 64), (4.5, 6.5), (2.5, 3.3)),
    ((8, 1000, 128), (2.3, 3.2), (1.8, 2.4)),
    ((8, 1000, 256), (2.0, 2.7), (None, None)),
    ((32, 40, 512), (2.0, 3.3), (None, None)),
    ((32, 40, 64), (2.5, 4.5), (None, None)),
    ((1, 30000, 64), (4.0, 6.0), (2.8, 3.6)),
)
_H = 4
_PEER_CHUNK = {
    (1000, 64): 50,
    (1000, 128): 100,
    (1000, 256): 125,
}  # the peer's quickest of 20 to 500 here, elsewhere 40
_COMPILED = "mlstm_kernels native, torch.compile"


def _inputs(B: int, T: int, D: int) -> list[Tensor]:
    # q and k lean to one side: where the normaliser passes near 0, no float32 form has digits to compare.
    q, k = (torch.randn(B, T, _H, D).abs() for _ in range(2))
    return [q, k, torch.randn(B, T, _H, D), torch.randn(B, T, _H), 3 + torch.randn(B, T, _H)]


def _flops(B: int, T: int, D: int) -> float:
    chunk = min(64, T)
    return B * T * _H * (4.0 * chunk * D + (4.0 * D * D if T > 64 else 0.0))


def _peers(inputs: list[Tensor]) -> dict[str, Callable[..., Any]]:
    """Functions of q, k, v, i, f in our layout; heads are moved before time once, outside the timing."""
    T = inputs[0].shape[1]
    found: dict[str, Callable[..., Any]] = {}
    if find_spec("mlstm_kernels"):
        from mlstm_kernels.torch.chunkwise.native.fwbw import (
            mlstm_chunkwise__native_autograd,
            mlstm_chunkwise__native_custbw,
        )

        chunk = _PEER_CHUNK.get((T, inputs[0].shape[-1]), 40)

        def native(*a: Tensor) -> Tensor:
            return mlstm_chunkwise__native_autograd(*a, chunk_size=chunk)

        found["mlstm_kernels native"] = native
        if T <= 40 or (T, inputs[0].shape[-1]) == (1000, 64):  # unrolled over the chunks: others compile for minutes
            found[_COMPILED] = torch.compile(native, dynamic=False)
        found["mlstm_kernels custbw (inexact)"] = lambda *a: mlstm_chunkwise__native_custbw(*a, chunk_size=chunk)
    if find_spec("xlstm") and T <= 2000:
        from xlstm.blocks.mlstm.backends import parallel_stabilized_simple

        found["xlstm parallel"] = lambda q, k, v, i, f: parallel_stabilized_simple(q, k, v, i[..., None], f[..., None])
    return found


def entries() -> list[Bench | Measure]:
    """Forward, forward + backward, and steps of many streams; two threads over one; memory."""
    made: list[Bench | Measure] = []
    for (B, T, D), forward, both in _SHAPES:
        inputs = _inputs(B, T, D)
        heads_first = [t.transpose(1, 2).contiguous() for t in inputs]
        leaves = [t.clone().requires_grad_() for t in inputs]
        peer_leaves = [t.clone().requires_grad_() for t in heads_first]

        def right(inputs: list[Tensor] = inputs) -> None:
            few = [t[:1, :130] for t in inputs]
            with ops.use_backend("reference"):
                expected = ops.mlstm(*(t.double() for t in few))
            torch.testing.assert_close(
                ops.mlstm(*few).double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
            )

        def train(f: Callable[..., Tensor], leaves: list[Tensor]) -> None:
            for t in leaves:
                t.grad = None
            f(*leaves).sum().backward()

        peers = _peers(inputs)
        plain = {name: (lambda f=f, a=heads_first: f(*a)) for name, f in peers.items() if "custbw" not in name}
        plain["xecg reference"] = lambda a=inputs: _reference(*a)
        trained = {
            name: (lambda f=f, a=peer_leaves: train(f, a))
            for name, f in peers.items()
            if name not in ("xlstm parallel", _COMPILED)
        }
        trained["xecg reference"] = lambda a=leaves: train(_reference, a)
        common = {"op": "mlstm", "shape": f"{B}:{T}:{D}", "dtype": "float32", "check": right, "bound": "gemm"}
        made.append(
            Bench(
                id=f"mlstm.forward.{B}:{T}:{D}",
                run=lambda a=inputs: ops.mlstm(*a),
                peers=plain,
                flops=_flops(B, T, D),
                bytes=floors.mlstm(B, T, _H, D, D, item=4).bytes,
                bar=forward[0] if peers else None,
                aim=forward[1] if peers else None,
                **common,
            )
        )
        made.append(
            Bench(
                id=f"mlstm.both.{B}:{T}:{D}",
                run=lambda a=leaves: train(ops.mlstm, a),
                peers=trained,
                flops=3.5 * _flops(B, T, D),
                bytes=floors.mlstm(B, T, _H, D, D, backward=True, item=4).bytes,
                bar=both[0] if peers else None,
                aim=both[1] if peers else None,
                **common,
            )
        )
    return [
        *made,
        *(_bfloat16(*sizes) for sizes, _, _ in _SHAPES),
        *(_step(B, D) for B in (1, 256, 2000) for D in (32, 64)),
        _threads(8, 1000, 128),
        _memory(),
    ]


def _threads(B: int, T: int, D: int) -> Measure:
    inputs = _inputs(B, T, D)
    return Measure(
        id=f"mlstm.threads.{B}:{T}:{D}", op="mlstm", shape=f"{B}:{T}:{D}", unit="x one thread, on two", threads=2,
        run=lambda: speedup(lambda: ops.mlstm(*inputs), 2), bar=1.8, aim=1.9,
    )  # fmt: skip


# Growth of the peak over a process that has loaded and run everything once, by the bytes of q, k, v, i, f and h.
_PEAK = """
import torch
from xecg import ops

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def train(T):
    q, k, v = (torch.rand(1, T, 4, 64, requires_grad=True) for _ in range(3))
    i, f = (torch.rand(1, T, 4, requires_grad=True) for _ in range(2))
    h = ops.mlstm(q, k, v, i, f)
    h.backward(torch.ones_like(h))
    return sum(4 * t.numel() for t in (q, k, v, i, f, h))

train(100)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
plain = train(30000)
print(plain, status("VmHWM") - before)
"""


def _memory() -> Measure:
    def run() -> float:
        done = subprocess.run([sys.executable, "-c", _PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
        plain, grown = map(int, done.stdout.split())
        return grown / plain

    return Measure(
        id="mlstm.memory.1:30000:64", op="mlstm", shape="1:30000:64", unit="x inputs and output, with all gradients",
        run=run, bar=3.0, aim=2.0, at_most=True,
    )  # fmt: skip


def _bfloat16(B: int, T: int, D: int) -> Bench:
    """q, k, v in bfloat16 beside our own float32."""
    wide = _inputs(B, T, D)
    half = [*(t.bfloat16() for t in wide[:3]), *wide[3:]]

    def right() -> None:
        few = [t[:1, :130] for t in half]
        with ops.use_backend("reference"):
            expected = ops.mlstm(*(t.double() for t in few))
        torch.testing.assert_close(ops.mlstm(*few).double(), expected, rtol=0, atol=2**-8 * float(expected.abs().max()))

    barred = (B, T) == (8, 1000)
    return Bench(
        id=f"mlstm.forward.bfloat16.{B}:{T}:{D}",
        op="mlstm",
        shape=f"{B}:{T}:{D}",
        dtype="bfloat16",
        run=lambda: ops.mlstm(*half),
        check=right,
        peers={"xecg float32": lambda: ops.mlstm(*wide)},
        flops=_flops(B, T, D),
        bytes=floors.mlstm(B, T, _H, D, D, item=2).bytes,
        bound="gemm",
        bar=1.3 if barred else None,
        aim=1.8 if barred else None,
    )


def _reference(*inputs: Tensor) -> Tensor:
    with ops.use_backend("reference"):
        return ops.mlstm(*inputs)  # type: ignore[return-value]


def _step(B: int, D: int) -> Bench:
    one = [t[:, 0] for t in _inputs(B, 1, D)]
    state = ops.mlstm(*_inputs(B, 3, D), return_state=True)[1]
    out = torch.empty(B, _H, D)
    peers: dict[str, Callable[[], Any]] = {}
    if find_spec("xlstm"):
        from xlstm.blocks.mlstm.backends import recurrent_step_stabilized_simple

        C, n, m = state.C.clone(), state.n.clone()[..., None], state.m.clone()[..., None, None]
        q, k, v = (t[:, :, None].contiguous() for t in one[:3])
        i, f = (t[:, :, None, None].contiguous() for t in one[3:])
        peers["xlstm step"] = lambda: recurrent_step_stabilized_simple(  # it squeezes q, k, v in place: hand it views
            C, n, m, q.view(q.shape), k.view(k.shape), v.view(v.shape), i, f
        )

    def right() -> None:
        copy = ops.MLSTMState(*(t.clone() for t in state))
        expected, _ = ops.mlstm_step(*one, copy)
        torch.testing.assert_close(ops.mlstm_step_(*one, copy), expected)

    bar = (14.0, 25.0) if B == 1 else (8.0, None)
    return Bench(
        id=f"mlstm.step.{B}:{D}",
        op="mlstm",
        shape=f"{B}:{D}",
        dtype="float32",
        run=lambda: ops.mlstm_step_(*one, state, out=out),
        check=right,
        peers=peers,
        flops=6.0 * B * _H * D * D,
        bytes=8.0 * B * _H * D * D,
        bar=bar[0] if peers else None,
        aim=bar[1] if peers else None,
    )
