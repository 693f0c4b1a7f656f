"""What the GPU entries share: who serves a call, and whether a result in a short type is right before it is timed."""

from __future__ import annotations

import torch
from torch import Tensor

from xecg.ops import _dispatch

__all__ = ["assert_as_good_as_rounding", "served", "serving"]

_OPS = ("mlstm", "slstm", "causal_conv1d", "linear", "norm", "gated")
_FACTOR = 2.0  # above rounding the exact result once; the tests ask for more (tests/tolerances.py)


def served(op: str, dtype: torch.dtype, **sizes: int) -> str:
    """The backend that a call on a GPU gets."""
    return _dispatch.pick(op, torch.device("cuda"), dtype, **sizes).__name__.split(".")[-2]


def assert_as_good_as_rounding(found: Tensor, exact: Tensor, name: str) -> None:
    """Relative root-mean-square error at most twice the half unit in the last place that any result of this type has."""
    found, exact = found.detach(), exact.detach()
    error = float((found.double() - exact).norm() / exact.norm())
    limit = _FACTOR * torch.finfo(found.dtype).eps / 2
    if not error <= limit:
        raise AssertionError(f"{name} is off by {error:.2e} of its norm; needed {limit:.1e}")


def serving(dtype: torch.dtype) -> str:
    """The backends that the ops of the encoder get on a GPU, joined."""
    return "+".join(dict.fromkeys(served(op, dtype) for op in _OPS))
