"""mLSTM: the matrix-memory LSTM of xLSTM (arXiv 2405.04517), exact forward and backward, any length, with states.

    m_t = max(lf_t + m_{t−1}, i_t)      F = exp(lf_t + m_{t−1} − m_t)      I = exp(i_t − m_t)      lf = log σ(f)
    C_t = F C_{t−1} + I k_t v_tᵀ        n_t = F n_{t−1} + I k_t
    h_t = s C_tᵀ q_t / (max(|s q_t·n_t|, exp(−m_t)) + eps)

gate="sig" (arXiv 2503.14376): F = σ(f), I = σ(i), m = 0 and 1 in place of exp(−m_t). The scale s is applied to q, so C and n hold
unscaled k. All terms of the gradient are computed, those through the normaliser, the stabiliser and the states included.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["MLSTMState", "mlstm", "mlstm_step", "mlstm_step_"]

_OP = "mlstm"


class MLSTMState(NamedTuple):
    """C (B, H, DK, DV), n (B, H, DK), m (B, H): float32 (float64 for float64). Empty: C = n = 0, m = the lowest finite float."""

    C: Tensor
    n: Tensor
    m: Tensor


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    *,
    initial_state: MLSTMState | tuple[Tensor, Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    gate: str = "exp",
    scale: float | None = None,
    eps: float = 1e-6,
    return_state: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, MLSTMState]:
    """Run the recurrence over T steps.

    q, k: (B, T, H, DK); v: (B, T, H, DV), all of one type: float32, bfloat16, float16 or float64. i, f: (B, T, H) input and forget
    gate pre-activations, in that type or float32. Last dimensions contiguous, other strides free. initial_state: C, n, m of
    `MLSTMState`; None means empty. lengths: (B,) int, valid steps of each row: output and gradient are 0 beyond, and the state is
    the one after lengths[b] steps. reverse: time runs from the last valid step to the first. gate: "exp" or "sig".
    scale: of q, default DK**-0.5. chunk_size: steps a chunk; None lets the backend choose; results differ by rounding only.
    Returns h (B, T, H, DV) in v's type and, with return_state, the `MLSTMState` after the last step visited.

    Raises ShapeError for a wrong rank, size, type, device, layout or length; BackendError when a forced backend cannot serve it.
    """
    lengths = _check_call(q, k, v, i, f, initial_state, lengths, gate, chunk_size)
    C0, n0, m0 = initial_state if initial_state is not None else (None, None, None)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    h, C, n, m = torch.ops.xecg.mlstm(
        q, k, v, i, f, C0, n0, m0, lengths, reverse, gate == "sig", scale, float(eps), chunk_size or 0, return_state
    )
    return (h, MLSTMState(C, n, m)) if return_state else h


def mlstm_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | tuple[Tensor, Tensor, Tensor],
    *,
    gate: str = "exp",
    scale: float | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, MLSTMState]:
    """One time step: q, k (B, H, DK), v (B, H, DV), i, f (B, H) and a state → h (B, H, DV) and the new state. As `mlstm`."""
    h, new = mlstm(
        *(_check.one_step(t) for t in (q, k, v, i, f)),
        initial_state=state,
        gate=gate,
        scale=scale,
        eps=eps,
        return_state=True,
    )
    return h.squeeze(1), new


def mlstm_step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | tuple[Tensor, Tensor, Tensor],
    *,
    gate: str = "exp",
    scale: float | None = None,
    eps: float = 1e-6,
    out: Tensor | None = None,
) -> Tensor:
    """`mlstm_step` that overwrites the three state tensors and writes h into `out` (allocated only when not given); no gradient."""
    served = out is not None and gate in ("exp", "sig") and len(state) == 3
    if served and _dispatch.quick_step(_OP, q, k, v, i, f, *state, out, gate == "sig", scale, eps):
        return out  # type: ignore[return-value]
    one = [_check.one_step(t) for t in (q, k, v, i, f)]
    _check_call(one[0], one[1], one[2], one[3], one[4], state, None, gate, None)
    for name, t in zip(MLSTMState._fields, state):
        if t.dtype != _state_type(v.dtype) or not t.is_contiguous():
            _check.fail(_OP, name, f"{t.dtype} with strides {t.stride()}", f"{_state_type(v.dtype)}, contiguous")
    out = torch.empty_like(v, memory_format=torch.contiguous_format) if out is None else out
    _check.like(_OP, "out", out, tuple(v.shape), "(B, H, DV)", v)
    if out.dtype != v.dtype or not out.is_contiguous():
        _check.fail(_OP, "out", f"{out.dtype} with strides {out.stride()}", f"{v.dtype} like v, contiguous")
    inputs = {"q": q, "k": k, "v": v, "i": i, "f": f}
    _check.apart(_OP, {**dict(zip(MLSTMState._fields, state)), "out": out}, inputs)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    torch.ops.xecg.mlstm_step_(q, k, v, i, f, *state, out, gate == "sig", scale, float(eps))
    return out


def _state_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | tuple[Tensor, Tensor, Tensor] | None,
    lengths: Tensor | None,
    gate: str,
    chunk_size: int | None,
) -> Tensor | None:
    _check.tensor(_OP, "q", q, "(B, T, H, DK)")
    _check.tensor(_OP, "v", v, "(B, T, H, DV)")
    B, T, H, DK = q.shape
    DV = v.shape[-1]
    for name, t, shape, form in (
        ("k", k, (B, T, H, DK), "(B, T, H, DK)"),
        ("v", v, (B, T, H, DV), "(B, T, H, DV)"),
        ("i", i, (B, T, H), "(B, T, H)"),
        ("f", f, (B, T, H), "(B, T, H)"),
    ):
        types = (q.dtype,) if name in "kv" or q.dtype == torch.float64 else (q.dtype, torch.float32)
        _check.tensor(_OP, name, t, form, types)
        _check.like(_OP, name, t, shape, form, q)
    if gate not in ("exp", "sig"):
        _check.fail(_OP, "gate", repr(gate), "'exp' or 'sig'")
    if chunk_size is not None and chunk_size < 1:
        _check.fail(_OP, "chunk_size", chunk_size, "at least 1, or None")
    if state is not None:
        if len(state) != 3:
            _check.fail(_OP, "initial_state", f"{len(state)} tensors", "three: C, n, m")
        sizes: tuple[tuple[int, ...], ...] = ((B, H, DK, DV), (B, H, DK), (B, H))
        forms = ("(B, H, DK, DV)", "(B, H, DK)", "(B, H)")
        for field, s, size, text in zip(MLSTMState._fields, state, sizes, forms):
            _check.tensor(_OP, field, s, text, (_state_type(q.dtype),))
            _check.like(_OP, field, s, size, text, q)
    return _check.lengths_of(_OP, lengths, B, T, q)


def _pick(q: Tensor, v: Tensor) -> Any:
    return _dispatch.pick(_OP, q.device, q.dtype, dk=q.shape[-1], dv=v.shape[-1])


def _options(reverse: bool, sig: bool, scale: float, eps: float, chunk_size: int) -> dict[str, Any]:
    return {
        "reverse": reverse,
        "gate": "sig" if sig else "exp",
        "scale": scale,
        "eps": eps,
        "chunk_size": chunk_size or None,
    }


def _forward(*args: Any) -> tuple[Tensor, ...]:
    tensors, options, state = args[:9], args[9:-1], args[-1]
    return _pick(tensors[0], tensors[2]).forward(*tensors, **_options(*options), want_state=state)


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    (B, T, H, DK), DV, wide = q.shape, v.shape[-1], _state_type(q.dtype)
    shapes: tuple[tuple[int, ...], ...] = ((B, H, DK, DV), (B, H, DK), (B, H)) if rest[-1] else ((0,),) * 3
    C, n, m = (q.new_empty(s, dtype=wide) for s in shapes)
    return v.new_empty((B, T, H, DV)), C, n, m


def _backward(*args: Any) -> tuple[Tensor, ...]:
    tensors, options = args[:13], args[13:]
    grads = _pick(tensors[4], tensors[6]).backward(*tensors, **_options(*options))
    return tuple(tensors[0].new_empty(0) if g is None else g for g in grads)


def _backward_fake(*args: Any) -> tuple[Tensor, ...]:
    dh, _, _, _, *inputs = args[:12]
    return tuple(dh.new_empty(0) if t is None else t.new_empty(tuple(t.shape)) for t in inputs)


def _step_(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C: Tensor, n: Tensor, m: Tensor, out: Tensor, *options: Any
) -> None:
    sig, scale, eps = options
    _pick(q, v).step_(q, k, v, i, f, C, n, m, out, gate="sig" if sig else "exp", scale=scale, eps=eps)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # the state of a large head is larger than its sequence: no zeros in its place
    ctx.options = inputs[9:-1]
    ctx.save_for_backward(*inputs[:9])


def _gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    saved, (dh, *ends) = ctx.saved_tensors, grads
    dh = torch.zeros_like(saved[2]) if dh is None else dh
    results = torch.ops.xecg.mlstm_backward(dh, *ends, *saved, *ctx.options)
    return *(_register.maybe(g, t) for g, t in zip(results, saved[:8])), None, None, None, None, None, None, None


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, Tensor? C, Tensor? n, Tensor? m, Tensor? lengths"
_OPTIONS = "bool reverse, bool sig, float scale, float eps, int chunk_size"
_register.define(
    f"mlstm({_INPUTS}, {_OPTIONS}, bool state) -> (Tensor, Tensor, Tensor, Tensor)", _forward, _forward_fake
)
_register.define(
    f"mlstm_backward(Tensor dh, Tensor? dC, Tensor? dn, Tensor? dm, {_INPUTS}, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
_register.define_in_place(
    "mlstm_step_(Tensor q, Tensor k, Tensor v, Tensor i, Tensor f, Tensor(a!) C, Tensor(b!) n, Tensor(c!) m, Tensor(d!) out,"
    " bool sig, float scale, float eps) -> ()",
    _step_,
)
_register.differentiate("mlstm", _gradient, _save)
