"""The norm of xLSTM's blocks with what follows it there, in one pass over memory.

    y = (norm(x) ⊙ (1 + weight) + skip ⊙ skip_weight) ⊙ SiLU(gate)
    norm(x) = (x − mean) / √(var + eps) over the D features of each of H heads, var the mean square (biased)

With one head this is layer norm (arXiv 1607.06450), with several group norm (arXiv 1803.08494); skip and gate make it the tail of the
mLSTM block (xLSTM, arXiv 2405.04517, figure 11), skip alone the residual of the sLSTM block (figure 10). A row's bits depend on its
own inputs only. Backends: `cpu` (float32, bfloat16), `triton`, `reference` (all types, any device).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xecg.ops import _check, _dispatch, _register

__all__ = ["norm"]

_OP = "norm"


def norm(
    x: Tensor,
    weight: Tensor,
    *,
    skip: Tensor | None = None,
    skip_weight: Tensor | None = None,
    gate: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x (…, H, D) → (…, H·D), in skip's type where there is one, else in x's.

    x: float32, bfloat16, float16 or float64. weight (H·D,): w acts as 1 + w; skip_weight (H·D,), 1 when absent; both in x's type
    or float32. skip (…, H·D): x's type or float32; gate (…, H·D): x's type. Last dimensions contiguous. Differentiable in all of
    them. Raises ShapeError for a wrong size, type, device or layout.
    """
    H, D = _check_call(x, weight, skip, skip_weight, gate, eps)
    rows = math.prod(x.shape[:-2])

    def flat(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.reshape(rows, H * D)

    y = torch.ops.xecg.norm(x.reshape(rows, H, D), weight, flat(skip), skip_weight, flat(gate), eps)
    return y.view(*x.shape[:-2], H * D)


def _check_call(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, eps: float
) -> tuple[int, int]:
    if not isinstance(x, Tensor) or x.dim() < 2 or x.dtype not in _check.FLOATS:
        found = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        _check.fail(_OP, "x", found, "a floating tensor (…, H, D)")
    *lead, H, D = x.shape
    wide = (x.dtype,) if x.dtype in (torch.float32, torch.float64) else (x.dtype, torch.float32)
    for name, t, shape, form, types in (
        ("x", x, tuple(x.shape), "(…, H, D)", (x.dtype,)),
        ("weight", weight, (H * D,), "(H·D,)", wide),
        ("skip", skip, (*lead, H * D), "(…, H·D)", wide),
        ("skip_weight", skip_weight, (H * D,), "(H·D,)", wide),
        ("gate", gate, (*lead, H * D), "(…, H·D)", (x.dtype,)),
    ):
        if t is None:
            continue
        _check.like(_OP, name, t, shape, form, x)
        if t.dtype not in types:
            _check.fail(_OP, name, f"of type {t.dtype}", " or ".join(map(str, types)))
        if t.shape[-1] > 1 and t.stride(-1) != 1 and t.numel() > 0:
            _check.fail(_OP, name, f"strided {t.stride()}", "a contiguous last dimension; call .contiguous()")
    if skip is None and skip_weight is not None:
        _check.fail(_OP, "skip", "absent beside skip_weight", "both, or skip alone")
    if not eps > 0:
        _check.fail(_OP, "eps", eps, "a number above 0")
    return H, D


def _forward(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, eps: float
) -> Tensor:
    return _dispatch.pick(_OP, x.device, x.dtype, d=x.shape[-1]).forward(x, weight, skip, skip_weight, gate, eps=eps)


def _fake(
    x: Tensor, weight: Tensor, skip: Tensor | None, skip_weight: Tensor | None, gate: Tensor | None, eps: float
) -> Tensor:
    rows, H, D = x.shape
    return (x if skip is None else skip).new_empty((rows, H * D))


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    skip_weight: Tensor | None,
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _dispatch.pick(_OP, x.device, x.dtype, d=x.shape[-1]).backward(
        dy, x, weight, skip, skip_weight, gate, eps=eps
    )


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    skip_weight: Tensor | None,
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)

    def like(t: Tensor | None, dtype: torch.dtype) -> Tensor:
        return x.new_empty(0 if t is None else tuple(t.shape), dtype=dtype)

    dskip = like(skip, x.dtype if skip is None else skip.dtype)
    return like(x, x.dtype), like(weight, wide), dskip, like(skip_weight, wide), like(gate, x.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.xecg.norm_backward(dy, *ctx.saved_tensors, ctx.eps)
    return *(_register.maybe(g, t) for g, t in zip(grads, ctx.saved_tensors)), None


_TENSORS = "Tensor x, Tensor weight, Tensor? skip, Tensor? skip_weight, Tensor? gate, float eps"
_register.define(f"norm({_TENSORS}) -> Tensor", _forward, _fake)
_register.define(
    f"norm_backward(Tensor dy, {_TENSORS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _backward, _backward_fake
)
_register.differentiate("norm", _gradient, _save)
