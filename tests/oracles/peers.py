"""The peers behind our signatures: `xlstm` 2.0.6 and `mlstm_kernels` 2.0.6 (NXAI), which lay tensors out differently.

Both start from m = 0 where we start from the empty state: the same h up to eps, so comparisons set eps = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mlstm_kernels.torch import chunkwise, parallel, recurrent
from torch import Tensor
from xlstm.blocks.mlstm.backends import parallel_stabilized_simple
from xlstm.blocks.slstm.src.vanilla import slstm_forward, slstm_pointwise_function_registry

Inputs = dict[str, Tensor | None]


def mlstm_kernels_chunkwise(x: Inputs, *, exact_backward: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, C, n, m. With `exact_backward` autograd goes through the formulas; without, their hand-written gradient."""
    name = "native_autograd" if exact_backward else "native_custbw"
    states = zip(("c_initial", "n_initial", "m_initial"), (x["C0"], x["n0"], x["m0"]))
    h, (C, n, m) = chunkwise.registry[name](
        *_sequences(x), **{k: s for k, s in states if s is not None}, eps=0.0, return_last_states=True
    )
    return h.transpose(1, 2), C, n, m.squeeze(-1)


def mlstm_kernels_recurrent(x: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, C, n, m from the zero state, in float64."""
    function = recurrent.registry_sequence["native_sequence__native"]
    h, (C, n, m) = function(*_sequences(x), eps=0.0, return_last_states=True, dtype_state=torch.float64)
    return h.transpose(1, 2), C, n, m.squeeze(-1)


def mlstm_kernels_siging(x: Inputs) -> Tensor:
    """h of the sigmoid input gate from the zero state."""
    return parallel.registry["native_siging_autograd"](*_sequences(x), eps=0.0).transpose(1, 2)


def xlstm_mlstm_parallel(x: Inputs) -> Tensor:
    """h of the exponential input gate from the zero state."""
    q, k, v, i, f = _sequences(x)
    return parallel_stabilized_simple(q, k, v, i[..., None], f[..., None], eps=0.0).transpose(1, 2)


def xlstm_slstm(x: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h of all steps, and the final h, c, n, m."""
    pre, R, b = x["x"], x["R"], x["b"]
    assert pre is not None and R is not None and b is not None
    batch, _, _, heads, size = pre.shape
    zero = pre.new_zeros(batch, heads * size)
    state = torch.stack([zero if s is None else s.flatten(1) for s in (x["h0"], x["c0"], x["n0"], x["m0"])])
    every, last, _ = slstm_forward(
        pre.transpose(0, 1).flatten(2),
        state,
        R.permute(1, 0, 3, 2).flatten(1, 2),  # [head, gate·out, in]
        b.flatten(),
        slstm_pointwise_function_registry["slstm"],
    )
    h = every[0, 1:].unflatten(-1, (heads, size)).transpose(0, 1)
    hT, cT, nT, mT = last.unflatten(-1, (heads, size))
    return h, hT, cT, nT, mT


def gradients(function: Callable[[Inputs], tuple[Tensor, ...]], x: Inputs, weights: tuple[Tensor, ...]) -> Inputs:
    """Gradients of Σ output·weight by autograd through the peer; None where there is no input or no path to it."""
    leaves = {name: None if t is None else t.detach().clone().requires_grad_() for name, t in x.items()}
    loss = sum(((out * w).sum() for out, w in zip(function(leaves), weights)), torch.zeros(()))
    given = {name: t for name, t in leaves.items() if t is not None}
    grads = torch.autograd.grad(loss, list(given.values()), allow_unused=True)
    return dict.fromkeys(x) | dict(zip(given, grads))


def _sequences(x: Inputs) -> list[Tensor]:
    """q, k, v, i, f with heads before time, as the peers have them."""
    return [t.transpose(1, 2) for name in "qkvif" if (t := x[name]) is not None]
