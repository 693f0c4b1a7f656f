"""sLSTM: the scalar-memory LSTM with memory mixing of xLSTM (arXiv 2405.04517), exact forward and backward, with states.

    (i, f, z, o) = x_t + h_{t−1} R + b        lf = log σ(f)
    m_t = max(i, lf + m_{t−1})     F = exp(lf + m_{t−1} − m_t)     I = exp(i − m_t)      (first step, n_{t−1} = 0: m = i, F = 0, I = 1)
    c_t = F c_{t−1} + I tanh z     n_t = F n_{t−1} + I             h_t = σ(o) c_t / n_t

"First step" is decided per element, so no row of a batch changes another. No gradient is cut or clipped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["SLSTMState", "slstm", "slstm_step", "slstm_step_"]

_OP = "slstm"


class SLSTMState(NamedTuple):
    """h, c, n, m, each (B, H, D), float32 (float64 for float64). Empty: all zero."""

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


def slstm(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    *,
    initial_state: SLSTMState | tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, SLSTMState]:
    """Run the recurrence over T steps.

    x: (B, T, 4, H, D) gate pre-activations of the input in the order i, f, z, o; last dimension contiguous, other strides free.
    R: (4, H, D, D) recurrent weights [gate, head, in, out]; b: (4, H, D); both in x's type or float32. float32, bfloat16, float16
    or float64. initial_state: h, c, n, m of `SLSTMState`; None means empty. lengths, reverse: as `mlstm`.
    Returns h (B, T, H, D) in x's type and, with return_state, the `SLSTMState` after the last step visited.

    Raises ShapeError for a wrong rank, size, type, device, layout or length; BackendError when a forced backend cannot serve it.
    """
    lengths = _check_call(x, R, b, initial_state, lengths)
    state = tuple(initial_state) if initial_state is not None else (None,) * 4
    h, *final = torch.ops.xecg.slstm(x, R, b, *state, lengths, reverse)
    return (h, SLSTMState(*final)) if return_state else h


def slstm_step(
    x: Tensor, R: Tensor, b: Tensor, state: SLSTMState | tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, SLSTMState]:
    """One time step: x (B, 4, H, D) and a state → h (B, H, D) and the new state. Arguments and errors as `slstm`."""
    h, new = slstm(_check.one_step(x), R, b, initial_state=state, return_state=True)
    return h.squeeze(1), new


def slstm_step_(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    state: SLSTMState | tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`slstm_step` that overwrites the four state tensors and writes h into `out` (allocated only when not given); no gradient."""
    if out is not None and len(state) == 4 and _dispatch.quick_step(_OP, x, R, b, *state, out):
        return out
    _check_call(_check.one_step(x), R, b, state, None)
    for name, t in zip(SLSTMState._fields, state):
        if not t.is_contiguous():
            _check.fail(_OP, name, f"strided {t.stride()}", "contiguous memory")
    B, _, H, D = x.shape
    out = x.new_empty((B, H, D)) if out is None else out
    _check.like(_OP, "out", out, (B, H, D), "(B, H, D)", x)
    if out.dtype != x.dtype or not out.is_contiguous():
        _check.fail(_OP, "out", f"{out.dtype} with strides {out.stride()}", f"{x.dtype} like x, contiguous")
    _check.apart(_OP, {**dict(zip(SLSTMState._fields, state)), "out": out}, {"x": x, "R": R, "b": b})
    torch.ops.xecg.slstm_step_(x, R, b, *state, out)
    return out


def _state_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_call(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    state: SLSTMState | tuple[Tensor, Tensor, Tensor, Tensor] | None,
    lengths: Tensor | None,
) -> Tensor | None:
    _check.tensor(_OP, "x", x, "(B, T, 4, H, D)")
    B, T, G, H, D = x.shape
    if G != 4:
        _check.fail(_OP, "x", f"of shape {tuple(x.shape)}", "(B, T, 4, H, D): gates i, f, z, o")
    types = (x.dtype,) if x.dtype == torch.float64 else (x.dtype, torch.float32)
    for name, t, shape, form in (("R", R, (4, H, D, D), "(4, H, D, D)"), ("b", b, (4, H, D), "(4, H, D)")):
        _check.tensor(_OP, name, t, form, types)
        _check.like(_OP, name, t, shape, form, x)
    if state is not None:
        if len(state) != 4:
            _check.fail(_OP, "initial_state", f"{len(state)} tensors", "four: h, c, n, m")
        for name, t in zip(SLSTMState._fields, state):
            _check.tensor(_OP, name, t, "(B, H, D)", (_state_type(x.dtype),))
            _check.like(_OP, name, t, (B, H, D), "(B, H, D)", x)
    return _check.lengths_of(_OP, lengths, B, T, x)


def _pick(x: Tensor) -> Any:
    return _dispatch.pick(_OP, x.device, x.dtype, d=x.shape[-1])


def _forward(*args: Any) -> tuple[Tensor, ...]:
    *tensors, reverse = args
    return _pick(tensors[0]).forward(*tensors, reverse=reverse)


def _forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    B, T, _, H, D = x.shape
    return x.new_empty((B, T, H, D)), *(x.new_empty((B, H, D), dtype=_state_type(x.dtype)) for _ in range(4))


def _backward(*args: Any) -> tuple[Tensor, ...]:
    *tensors, reverse = args
    grads = _pick(tensors[5]).backward(*tensors, reverse=reverse)
    return tuple(tensors[0].new_empty(0) if g is None else g for g in grads)


def _backward_fake(*args: Any) -> tuple[Tensor, ...]:
    dh, _, _, _, _, x, R, b, *state = args[:12]
    wide = _state_type(x.dtype)
    weights = (t.new_empty(tuple(t.shape), dtype=wide) for t in (R, b))
    return (
        x.new_empty(tuple(x.shape)),
        *weights,
        *(dh.new_empty(0) if t is None else t.new_empty(tuple(t.shape)) for t in state),
    )


def _step_(x: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, out: Tensor) -> None:
    _pick(x).step_(x, R, b, h, c, n, m, out)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    results = torch.ops.xecg.slstm_backward(*grads, *saved, ctx.reverse)
    return *(_register.maybe(g, t) for g, t in zip(results, saved[:7])), None, None


_INPUTS = "Tensor x, Tensor R, Tensor b, Tensor? h, Tensor? c, Tensor? n, Tensor? m, Tensor? lengths, bool reverse"
_register.define(f"slstm({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _forward, _forward_fake)
_register.define(
    f"slstm_backward(Tensor dy, Tensor dh, Tensor dc, Tensor dn, Tensor dm, {_INPUTS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
_register.define_in_place(
    "slstm_step_(Tensor x, Tensor R, Tensor b, Tensor(a!) h, Tensor(b!) c, Tensor(c!) n, Tensor(d!) m, Tensor(e!) out) -> ()",
    _step_,
)
_register.differentiate("slstm", _gradient, _save)
