"""The two residual blocks of the encoder (xLSTM, arXiv 2405.04517, figures 10 and 11), one class each.

A block maps tokens (B, T, D) to tokens (B, T, D). Three ways through the same weights:
`forward`, a whole sequence · `resume`, a stretch of it: takes the state before it, returns the state after it ·
`step_`, one token (B, D), state overwritten; its dense layers use `ops.linear`, where a row's bits do not depend on the
other rows. A state is a flat dict of plain tensors, float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg import ops
from xecg.model.config import CONV_TAPS, QKV_BLOCK, XECGConfig

__all__ = ["HeadNorm", "MLSTMBlock", "Norm", "SLSTMBlock", "State"]

State = dict[str, Tensor]

_EPS = 1e-5  # of every norm, as published
_NO_MAXIMUM = torch.finfo(torch.float32).min  # stabiliser of an empty mLSTM state: stands for −∞


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


class _Affine(nn.Module):
    """A weight and a bias under the names that checkpoints use."""

    def __init__(self, weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias = _empty(*weight), _empty(*bias)


class Norm(nn.Module):
    """Layer norm without bias, (..., D) → (..., D). The stored weight w acts as 1 + w."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = _empty(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, self.weight.shape, 1 + self.weight, eps=_EPS)
        # Autocast gives norms in float32: rounded here once on a GPU, not anew by each product, and the convolution reads half.
        return y if y.device.type == "cpu" else y.to(_product_type(y))


class HeadNorm(nn.Module):
    """Group norm over each head's features, (..., H, Dh) → (..., H·Dh), and what follows it (`ops.norm`). w acts as 1 + w."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = _empty(width)

    def forward(self, h: Tensor, **rest: Tensor) -> Tensor:
        return ops.norm(h, self.weight, eps=_EPS, **rest)


def _product_type(x: Tensor) -> torch.dtype:
    """The type in which products of x are computed: autocast's, where that is on and does not leave x alone."""
    kind = x.device.type
    if kind == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def _wide(parameter: Tensor) -> Tensor:
    """An empty tensor of the type and device of a state that goes with `parameter`."""
    return parameter.new_empty(0, dtype=torch.promote_types(parameter.dtype, torch.float32))


def _blockwise(x: Tensor, weight: Tensor) -> Tensor:
    """Block-diagonal product with tiny blocks: x (..., N·I), weight (N, O, I) → (..., N·O)."""
    return ops.linear(x.unflatten(-1, (weight.shape[0], weight.shape[2])), weight).flatten(-2)


def _by_head(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Pairs of x (..., H, K) and weight (H, N, K) → (..., pairs, H, N): one matrix product a pair and head.

    The results stand one behind the other in memory, where `ops.slstm` reads them without a copy. Single products are three times as
    fast as batched ones of this size (bench entry encode.base.32).
    """
    rows = [(x.flatten(0, -3)[:, h], w[h]) for x, w in pairs for h in range(len(w))]
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        parts = torch.stack([F.linear(x, w) for x, w in rows])
    else:
        parts = rows[0][0].new_empty(len(rows), rows[0][0].shape[0], rows[0][1].shape[0])
        for part, (x, w) in zip(parts, rows):
            torch.mm(x, w.t(), out=part)
    return _behind_each_other(parts, pairs)


def _batched(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The products of `_by_head`, (pairs·H, rows, N), all heads of a pair in one."""
    made = [(x.flatten(0, -3).transpose(0, 1), w.mT) for x, w in pairs]
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([torch.matmul(x, w) for x, w in made])
    (x, w), kind = made[0], _product_type(pairs[0][0])
    parts = x.new_empty(len(made), len(w), x.shape[1], w.shape[2], dtype=kind)
    for part, (x, w) in zip(parts, made):
        torch.bmm(x.to(kind), w.to(kind), out=part)  # with `out`, autocast changes no type
    return parts.flatten(0, 1)


def _behind_each_other(parts: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Products (pairs·H, rows, N) as (..., pairs, H, N), where they lie."""
    x, w = pairs[0]
    return parts.unflatten(0, (len(pairs), len(w))).permute(2, 0, 1, 3).unflatten(0, x.shape[:-2])


def _by_head_by_row(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([ops.linear(x, w) for x, w in pairs], -3)


class _Maths(NamedTuple):
    """How a block computes: fastest for sequences, each row independent of the others, to the bit, for steps."""

    linear: Callable[..., Tensor]
    by_head: Callable[[list[tuple[Tensor, Tensor]]], Tensor]


_SEQUENCE = _Maths(F.linear, _by_head)
_STEP = _Maths(ops.linear, _by_head_by_row)


class MLSTMBlock(nn.Module):
    """y = x + down((headnorm(mlstm(q, k, v, i, f)) + skip ⊙ a) ⊙ SiLU(z)), [u, z] = up·norm(x), a = SiLU(conv(u)).

    q and k are block-diagonal maps of a, v of u; the gates i, f are dense maps of [q, k, v].
    """

    def __init__(self, config: XECGConfig, *, reverse: bool) -> None:
        super().__init__()
        d, p, self.heads, self.reverse = config.dim, config.inner, config.heads, reverse
        self.norm = Norm(d)
        self.up = _empty(2 * p, d)
        self.conv = _Affine((p, CONV_TAPS), (p,))
        self.q, self.k, self.v = (_empty(p // QKV_BLOCK, QKV_BLOCK, QKV_BLOCK) for _ in range(3))
        self.gate_i, self.gate_f = (_Affine((self.heads, 3 * p), (self.heads,)) for _ in range(2))
        self.headnorm = HeadNorm(p)
        self.skip = _empty(p)
        self.down = _empty(d, p)

    def initial_state(self, batch: int) -> State:
        p, H, wide = self.skip.shape[0], self.heads, _wide(self.skip)
        return {
            "conv": wide.new_zeros(batch, CONV_TAPS - 1, p),
            "C": wide.new_zeros(batch, H, p // H, p // H),
            "n": wide.new_zeros(batch, H, p // H),
            "m": wide.new_full((batch, H), _NO_MAXIMUM),
        }

    def forward(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        u, z = F.linear(self.norm(x), self.up).chunk(2, -1)
        a = self._conv(ops.causal_conv1d, u, lengths=lengths, reverse=self.reverse)
        h: Any = ops.mlstm(*self._cell_inputs(a, u, _SEQUENCE), lengths=lengths, reverse=self.reverse)
        return x + F.linear(self._gated(h, a, z), self.down)

    def resume(self, x: Tensor, state: State, *, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        u, z = F.linear(self.norm(x), self.up).chunk(2, -1)
        way: dict[str, Any] = {"lengths": lengths, "reverse": self.reverse, "return_state": True}
        a, conv = self._conv(ops.causal_conv1d, u, initial_state=state["conv"], **way)
        h, cell = ops.mlstm(*self._cell_inputs(a, u, _SEQUENCE), initial_state=self._cell(state), **way)
        return x + F.linear(self._gated(h, a, z), self.down), {"conv": conv, **cell._asdict()}

    def step_(self, x: Tensor, state: State) -> Tensor:
        u, z = ops.linear(self.norm(x), self.up).chunk(2, -1)
        a = self._conv(ops.causal_conv1d_step_, u, state=state["conv"])
        h = ops.mlstm_step_(*self._cell_inputs(a, u, _STEP), self._cell(state))
        return x + ops.linear(self._gated(h, a, z), self.down)

    @staticmethod
    def _cell(state: State) -> ops.MLSTMState:
        return ops.MLSTMState(state["C"], state["n"], state["m"])

    def _conv(self, op: Callable[..., Any], u: Tensor, **kwargs: object) -> Any:
        return op(u, self.conv.weight, self.conv.bias, activation="silu", **kwargs)

    def _cell_inputs(self, a: Tensor, u: Tensor, maths: _Maths) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (..., H, Dh) and the pre-activations i, f (..., H)."""
        q, k, v = _blockwise(a, self.q), _blockwise(a, self.k), _blockwise(u, self.v)
        weight = torch.cat((self.gate_i.weight, self.gate_f.weight)).unflatten(1, (3, -1)).unbind(1)
        bias = torch.cat((self.gate_i.bias, self.gate_f.bias))
        gates = maths.linear(q, weight[0], bias) + maths.linear(k, weight[1]) + maths.linear(v, weight[2])
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        return q, k, v, *gates.chunk(2, -1)

    def _gated(self, h: Tensor, a: Tensor, z: Tensor) -> Tensor:
        return self.headnorm(h, skip=a, skip_weight=self.skip, gate=z)


class SLSTMBlock(nn.Module):
    """y = x + headnorm(slstm(gates)), then y + ffn_down(GELU(g) ⊙ u), where [g, u] = ffn_up·ffn_norm(y).

    Gates i and f come from a = SiLU(conv(norm(x))), z and o from norm(x); every map is block-diagonal over the heads.
    """

    def __init__(self, config: XECGConfig, *, reverse: bool) -> None:
        super().__init__()
        d, H, self.reverse = config.dim, config.heads, reverse
        D = d // H
        self.norm = Norm(d)
        self.conv = _Affine((d, CONV_TAPS), (d,))
        self.in_i, self.in_f, self.in_z, self.in_o = (_empty(H, D, D) for _ in range(4))  # each [head, out, in]
        self.R = _empty(4, H, D, D)  # [gate i f z o, head, in, out]
        self.bias = _empty(4, H, D)
        self.headnorm = HeadNorm(d)
        self.ffn_norm = Norm(d)
        self.ffn_up = _empty(2 * config.ffn, d)
        self.ffn_down = _empty(d, config.ffn)

    def initial_state(self, batch: int) -> State:
        new, (_, H, D) = _wide(self.bias).new_zeros, self.bias.shape
        return {"conv": new(batch, CONV_TAPS - 1, H * D), **{name: new(batch, H, D) for name in "hcnm"}}

    def forward(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        a = self._conv(ops.causal_conv1d, y, lengths=lengths, reverse=self.reverse)
        gates = self._gates(a, y, _SEQUENCE)
        h: Any = ops.slstm(gates, self._recurrent(gates), self.bias, lengths=lengths, reverse=self.reverse)
        return self._feed_forward(self.headnorm(h, skip=x), _SEQUENCE)

    def resume(self, x: Tensor, state: State, *, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        y = self.norm(x)
        way: dict[str, Any] = {"lengths": lengths, "reverse": self.reverse, "return_state": True}
        a, conv = self._conv(ops.causal_conv1d, y, initial_state=state["conv"], **way)
        gates = self._gates(a, y, _SEQUENCE)
        h, cell = ops.slstm(gates, self._recurrent(gates), self.bias, initial_state=self._cell(state), **way)
        return self._feed_forward(self.headnorm(h, skip=x), _SEQUENCE), {"conv": conv, **cell._asdict()}

    def step_(self, x: Tensor, state: State) -> Tensor:
        y = self.norm(x)
        a = self._conv(ops.causal_conv1d_step_, y, state=state["conv"])
        gates = self._gates(a, y, _STEP)
        h = ops.slstm_step_(gates, self._recurrent(gates), self.bias, self._cell(state))
        return self._feed_forward(self.headnorm(h, skip=x), _STEP)

    @staticmethod
    def _cell(state: State) -> ops.SLSTMState:
        return ops.SLSTMState(state["h"], state["c"], state["n"], state["m"])

    def _conv(self, op: Callable[..., Any], y: Tensor, **kwargs: object) -> Any:
        return op(y, self.conv.weight, self.conv.bias, activation="silu", **kwargs)

    def _recurrent(self, gates: Tensor) -> Tensor:
        """R, on a GPU in the type of the gates: tensor cores take both alike, another R goes to the plain kernel."""
        return self.R if gates.device.type == "cpu" else self.R.to(gates.dtype)

    def _gates(self, a: Tensor, y: Tensor, maths: _Maths) -> Tensor:
        """Pre-activations of the input, (..., 4, H, D), order i, f, z, o."""
        H = self.in_i.shape[0]
        a, y = a.unflatten(-1, (H, -1)), y.unflatten(-1, (H, -1))
        return maths.by_head([(a, self.in_i), (a, self.in_f), (y, self.in_z), (y, self.in_o)])

    def _feed_forward(self, y: Tensor, maths: _Maths) -> Tensor:
        g, u = maths.linear(self.ffn_norm(y), self.ffn_up).chunk(2, -1)
        return y + maths.linear(ops.gated(g, u, activation="gelu"), self.ffn_down)
