"""sLSTM beside nn.LSTM (per head, it also does an input product as large as the recurrent one), a baddbmm loop, and xlstm's vanilla."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench import floors
from bench.harness import Bench, Measure, speedup
from xecg import ops

__all__ = ["entries"]

_SHAPES: tuple[tuple[tuple[int, int, int], tuple[float, float], tuple[float | None, float | None]], ...] = (
    ((32, 40, 256), (1.2, 1.5), (None, None)),
    ((32, 40, 64), (1.3, 1.8), (None, None)),
    ((32, 40, 32), (1.3, 2.0), (None, None)),
    ((8, 250, 64), (1.2, 1.6), (0.9, 1.2)),
    ((8, 250, 128), (1.2, 1.5), (0.9, 1.2)),
    ((8, 250, 256), (1.4, 1.9), (None, None)),
)
_H = 4


def _inputs(B: int, T: int, D: int) -> list[Tensor]:
    return [torch.randn(B, T, 4, _H, D), torch.randn(4, _H, D, D) / D**0.5, torch.randn(4, _H, D)]


def _loop(x: Tensor, R: Tensor, b: Tensor) -> Tensor:
    """The eager loop that a user would write: one batched product a step, then the gates."""
    B, T, _, H, D = x.shape
    w = R.permute(1, 2, 0, 3).reshape(H, D, 4 * D)
    given = (x + b).permute(1, 3, 0, 2, 4).reshape(T, H, B, 4 * D)
    h = c = n = m = x.new_zeros(H, B, D)
    out = []
    for t in range(T):
        i, f, z, o = torch.baddbmm(given[t], h, w).chunk(4, -1)
        lf = logsigmoid(f)
        new = torch.where(n == 0, i, torch.maximum(i, lf + m))
        F, I = torch.where(n == 0, 0.0, torch.exp(lf + m - new)), torch.exp(i - new)
        c, n, m = F * c + I * torch.tanh(z), F * n + I, new
        h = torch.sigmoid(o) * c / n
        out.append(h)
    return torch.stack(out).permute(2, 0, 1, 3)


def _lstm(D: int) -> tuple[list[torch.nn.LSTM], Callable[[Tensor], None]]:
    layers = [torch.nn.LSTM(D, D, batch_first=True) for _ in range(_H)]

    def run(x: Tensor) -> None:
        for head, layer in enumerate(layers):
            layer(x[..., head, :])

    return layers, run


def _vanilla(B: int, T: int, D: int) -> Callable[[], Any] | None:
    if not find_spec("xlstm"):
        return None
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    cell = sLSTMCell(sLSTMCellConfig(hidden_size=_H * D, num_heads=_H, backend="vanilla", batch_size=B))
    x = torch.randn(B, T, 4 * _H * D)
    return lambda: cell(x)


def entries() -> list[Bench | Measure]:
    """Forward, forward + backward, and steps of many streams; two threads over one."""
    made: list[Bench | Measure] = []
    for (B, T, D), forward, both in _SHAPES:
        x, R, b = _inputs(B, T, D)
        leaves = [t.clone().requires_grad_() for t in (x, R, b)]
        flops = 8.0 * B * T * _H * D * D
        layers, run_lstm = _lstm(D)
        one_gate = x[:, :, 0].contiguous()
        leaf = one_gate.clone().requires_grad_()

        def right(x: Tensor = x, R: Tensor = R, b: Tensor = b) -> None:
            expected = _loop(x.double(), R.double(), b.double())
            torch.testing.assert_close(
                ops.slstm(x, R, b).double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
            )

        def quiet(f: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                with torch.no_grad():
                    f()

            return run

        def train(leaves: list[Tensor] = leaves) -> None:
            ops.slstm(*leaves).sum().backward()

        def train_lstm(layers: list[torch.nn.LSTM] = layers, leaf: Tensor = leaf) -> None:
            sum(layer(leaf[..., head, :])[0].sum() for head, layer in enumerate(layers)).backward()  # type: ignore[union-attr]

        peers = {
            "nn.LSTM a head": quiet(lambda x=one_gate, f=run_lstm: f(x)),
            "baddbmm loop": quiet(lambda x=x, R=R, b=b: _loop(x, R, b)),
        }
        if T <= 40:  # unrolled over the steps: longer loops compile for minutes
            loop = torch.compile(_loop, dynamic=False)
            peers["baddbmm loop, torch.compile"] = quiet(lambda x=x, R=R, b=b, loop=loop: loop(x, R, b))
        vanilla = _vanilla(B, T, D)
        if (
            vanilla is not None and B * T * D <= 8 * 250 * 64
        ):  # slower by a factor of 30 and more: the small shapes suffice
            peers["xlstm vanilla"] = quiet(vanilla)
        common = {"op": "slstm", "shape": f"{B}:{T}:{D}", "dtype": "float32", "check": right, "bound": "gemm"}
        made.append(
            Bench(
                id=f"slstm.forward.{B}:{T}:{D}",
                run=lambda x=x, R=R, b=b: ops.slstm(x, R, b),
                peers=peers,
                flops=flops,
                bytes=floors.slstm(B, T, _H, D, item=4).bytes,
                bar=forward[0],
                aim=forward[1],
                **common,
            )
        )
        made.append(
            Bench(
                id=f"slstm.both.{B}:{T}:{D}",
                run=train,
                peers={"nn.LSTM a head": train_lstm},
                flops=4 * flops,
                bytes=floors.slstm(B, T, _H, D, backward=True, item=4).bytes,
                bar=both[0],
                aim=both[1],
                **common,
            )
        )
    return [*made, *(_step(B, D) for B in (1, 256, 2000) for D in (32, 64)), _threads(8, 250, 128)]


def _threads(B: int, T: int, D: int) -> Measure:
    x, R, b = _inputs(B, T, D)
    return Measure(
        id=f"slstm.threads.{B}:{T}:{D}", op="slstm", shape=f"{B}:{T}:{D}", unit="x one thread, on two", threads=2,
        run=lambda: speedup(lambda: ops.slstm(x, R, b), 2), bar=1.7,
    )  # fmt: skip


def _step(B: int, D: int) -> Bench:
    x, R, b = _inputs(B, 1, D)
    x = x[:, 0].contiguous()
    state = ops.SLSTMState(*(torch.randn(B, _H, D) for _ in range(2)), 1 + torch.rand(B, _H, D), torch.randn(B, _H, D))
    out = torch.empty(B, _H, D)
    peers: dict[str, Callable[[], Any]] = {}
    if find_spec("xlstm"):
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        cell = sLSTMCell(sLSTMCellConfig(hidden_size=_H * D, num_heads=_H, backend="vanilla", batch_size=B))
        given, old = torch.randn(B, 1, 4 * _H * D), torch.stack([t.reshape(B, _H * D) for t in state])

        def step() -> None:
            with torch.no_grad():
                cell.step(given, old)

        peers["xlstm step"] = step

    def right() -> None:
        copy = ops.SLSTMState(*(t.clone() for t in state))
        expected, _ = ops.slstm_step(x, R, b, copy)
        torch.testing.assert_close(ops.slstm_step_(x, R, b, copy), expected)

    return Bench(
        id=f"slstm.step.{B}:{D}",
        op="slstm",
        shape=f"{B}:{D}",
        dtype="float32",
        run=lambda: ops.slstm_step_(x, R, b, state, out=out),
        check=right,
        peers=peers,
        flops=8.0 * B * _H * D * D,
        bytes=4.0 * _H * D * (13 * B + 4 * D),
        bound="gemm",
        bar=20.0 if peers else None,
        aim=40.0 if peers and B == 1 else None,
    )
