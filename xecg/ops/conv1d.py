"""Causal depthwise convolution with state: the small convolution in front of every recurrence.

    y_t = act(bias + Σ_{j=0}^{K−1} w[:, j] x_{t−K+1+j})     state = the last K − 1 inputs, oldest first, zero at the start

As in Mamba (arXiv 2312.00752) and xLSTM (arXiv 2405.04517), plus exact gradients of and through the state, reversed time, ragged
batches, and any layout of B and T. Backends: `cpu` (float32, bfloat16), `cuda` (float32, bfloat16, float16; not yet run on a
GPU), `reference` (all types, any device).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["causal_conv1d", "causal_conv1d_step", "causal_conv1d_step_"]

_OP = "causal_conv1d"


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its own K past samples.

    x: (B, T, C) float32, bfloat16, float16 or float64; B and T of any stride. weight: (C, K), the last tap is the current sample;
    bias: (C,); both in x's type or float32. activation: None or "silu". initial_state: (B, K−1, C), oldest first.
    lengths: (B,) int, valid steps of each row: steps beyond give output 0 and gradient 0. reverse: time runs from the last valid
    step to the first, without a copy. Returns y (B, T, C) in x's type and, with return_state, the state (B, K−1, C) after the last
    step visited, in float32 (float64 for float64).

    Raises ShapeError for a wrong rank, size, type, device, layout or length; BackendError when a forced backend cannot serve it.
    """
    lengths = _check_call(x, weight, bias, activation, initial_state, lengths)
    y, state = torch.ops.xecg.causal_conv1d(x, weight, bias, initial_state, lengths, activation == "silu", reverse)
    return (y, state) if return_state else y


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """One time step: x (B, C) and state (B, K−1, C) → y (B, C) and the new state. Arguments and errors as `causal_conv1d`."""
    y, new = causal_conv1d(
        _check.one_step(x), weight, bias, activation=activation, initial_state=state, return_state=True
    )
    return y.squeeze(1), new


def causal_conv1d_step_(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    *,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`causal_conv1d_step` that overwrites `state` (float32, or float64 beside float64) and writes y into `out`; no gradient.

    Returns `out`, which is allocated only when it is not given. Errors as `causal_conv1d`.
    """
    served = out is not None and activation in (None, "silu")
    if served and _dispatch.quick_step(_OP, x, weight, bias, state, out, activation == "silu"):
        return out  # type: ignore[return-value]
    _check_call(_check.one_step(x), weight, bias, activation, state, None)
    if state.dtype != _state_type(x.dtype) or not state.is_contiguous():
        _check.fail(_OP, "state", f"{state.dtype} with strides {state.stride()}", f"{_state_type(x.dtype)}, contiguous")
    out = torch.empty_like(x) if out is None else out
    _check.like(_OP, "out", out, tuple(x.shape), "(B, C)", x)
    if out.dtype != x.dtype:
        _check.fail(_OP, "out", f"of type {out.dtype}", f"{x.dtype}, like x")
    _check.apart(_OP, {"state": state, "out": out}, {"x": x, "weight": weight, "bias": bias})
    torch.ops.xecg.causal_conv1d_step_(x, weight, bias, state, out, activation == "silu")
    return out


def _state_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_call(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    state: Tensor | None,
    lengths: Tensor | None,
) -> Tensor | None:
    _check.tensor(_OP, "x", x, "(B, T, C)")
    _check.tensor(_OP, "weight", weight, "(C, K)")
    B, T, C = x.shape
    K = weight.shape[1]
    _check.like(_OP, "weight", weight, (C, K), "(C, K)", x)
    if K < 1:
        _check.fail(_OP, "weight", f"of shape {tuple(weight.shape)}", "(C, K) with K ≥ 1")
    if activation not in (None, "silu"):
        _check.fail(_OP, "activation", repr(activation), "None or 'silu'")
    parameter = (x.dtype,) if x.dtype in (torch.float32, torch.float64) else (x.dtype, torch.float32)
    for name, p, shape, form in (("weight", weight, (C, K), "(C, K)"), ("bias", bias, (C,), "(C,)")):
        if p is not None:
            _check.like(_OP, name, p, shape, form, x)
            if p.dtype not in parameter:
                _check.fail(_OP, name, f"of type {p.dtype}", " or ".join(map(str, parameter)))
    if state is not None:
        _check.tensor(_OP, "initial_state", state, "(B, K-1, C)")
        _check.like(_OP, "initial_state", state, (B, K - 1, C), "(B, K-1, C)", x)
    return _check.lengths_of(_OP, lengths, B, T, x)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    backend = _dispatch.pick(_OP, x.device, x.dtype, taps=weight.shape[1])
    return backend.forward(x, weight, bias, state, lengths, silu=silu, reverse=reverse)


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    B, T, C = x.shape
    return x.new_empty((B, T, C)), x.new_empty((B, weight.shape[1] - 1, C), dtype=_state_type(x.dtype))


def _backward(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    backend = _dispatch.pick(_OP, x.device, x.dtype, taps=weight.shape[1])
    return backend.backward(dy, dstate, x, weight, bias, state, lengths, silu=silu, reverse=reverse)


def _backward_fake(
    dy: Tensor,
    dstate: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    lengths: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = _state_type(x.dtype)
    B, T, C = x.shape
    dbias = x.new_empty((C,) if bias is not None else (0,), dtype=wide)
    dfirst = x.new_empty((B, weight.shape[1] - 1, C) if state is not None else (0,), dtype=wide)
    return x.new_empty((B, T, C)), x.new_empty(tuple(weight.shape), dtype=wide), dbias, dfirst


def _step_(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, out: Tensor, silu: bool) -> None:
    _dispatch.pick(_OP, x.device, x.dtype, taps=weight.shape[1]).step_(x, weight, bias, state, out, silu=silu)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, state, lengths = ctx.saved_tensors
    dx, dw, db, dfirst = torch.ops.xecg.causal_conv1d_backward(
        dy, dstate, x, weight, bias, state, lengths, ctx.silu, ctx.reverse
    )
    return dx, dw.to(weight.dtype), _register.maybe(db, bias), _register.maybe(dfirst, state), None, None, None


_register.define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, Tensor? state, Tensor? lengths, bool silu, bool reverse)"
    " -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_register.define(
    "causal_conv1d_backward(Tensor dy, Tensor dstate, Tensor x, Tensor weight, Tensor? bias, Tensor? state, Tensor? lengths,"
    " bool silu, bool reverse) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
_register.define_in_place(
    "causal_conv1d_step_(Tensor x, Tensor weight, Tensor? bias, Tensor(a!) state, Tensor(b!) out, bool silu) -> ()",
    _step_,
)
_register.differentiate("causal_conv1d", _gradient, _save)
