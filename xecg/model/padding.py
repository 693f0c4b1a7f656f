"""Which samples and tokens of a batch are there: checks and rules in front of the encoder, pooling behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xecg.errors import ShapeError
from xecg.model.config import XECGConfig

__all__ = ["Prepared", "pool", "prepare"]


class Prepared(NamedTuple):
    """What the encoder works on; None means all tokens."""

    x: Tensor  # (B, leads, T·patch), missing samples 0
    valid: Tensor | None  # (B, T) bool, tokens to pool
    steps: Tensor | None  # (B,) tokens that enter the recurrences


def prepare(
    x: Tensor, config: XECGConfig, *, lengths: Tensor | None, mask: Tensor | None, pad_rule: str | None
) -> Prepared:
    """Check the arguments of `XECG.encode` (rules and errors there) and bring them into one form."""
    patch, samples = config.patch, x.shape[-1] if x.dim() else 0
    _need(x.dim() == 3 and x.shape[1] == config.leads, "x", tuple(x.shape), f"(batch, {config.leads}, samples)")
    _need(x.is_floating_point(), "x", x.dtype, "a floating-point type")
    _need(samples >= patch, "x", f"{samples} samples long", f"at least one patch of {patch} samples")
    T = samples // patch
    x = x[..., : T * patch]
    if pad_rule is not None:
        _need(pad_rule == "first-sample", "pad_rule", repr(pad_rule), "None or 'first-sample'")
        _need(lengths is None and mask is None, "pad_rule", "given beside lengths or mask", "one of them")
        return Prepared(x, (x[..., ::patch] != 0).any(1), None)
    if lengths is None and mask is None:
        return Prepared(x, None, None)

    present = x.new_ones(len(x), 1, T * patch, dtype=torch.bool)
    if mask is not None:
        shapes = {2: (len(x), samples), 3: (len(x), config.leads, samples)}
        _need(mask.dtype == torch.bool, "mask", mask.dtype, "bool")
        _need(tuple(mask.shape) in shapes.values(), "mask", tuple(mask.shape), f"{shapes[3]} or {shapes[2]}")
        _need(mask.device == x.device, "mask", f"on {mask.device}", f"on {x.device}, as x")
        present = present & (mask if mask.dim() == 3 else mask[:, None])[..., : T * patch]
    if lengths is not None:
        whole = _whole_patches(lengths, x, samples, patch)
        present = present & (torch.arange(T * patch, device=x.device) < whole[:, None, None] * patch)
    valid = present.unflatten(-1, (T, patch)).any(-1).any(1)  # (B, T)
    steps = ((torch.arange(T, device=x.device) + 1) * valid).amax(1)  # one past the last valid token
    return Prepared(x.masked_fill(~present, 0), valid, steps)


def pool(tokens: Tensor, valid: Tensor | None, how: str) -> Tensor:
    """Tokens (B, T, D) → (B, D): their "mean" or "max" over the valid ones. Raises ShapeError where there are none."""
    if valid is None:
        return tokens.mean(1) if how == "mean" else tokens.amax(1)
    count = valid.sum(1)
    if not torch.compiler.is_compiling():
        empty = (count == 0).nonzero().flatten().tolist()
        _need(not empty, "x", f"without a valid token in records {empty[:10]}", "at least one in every record")
    if how == "max":
        return tokens.masked_fill(~valid[..., None], -torch.inf).amax(1)
    return tokens.masked_fill(~valid[..., None], 0).sum(1) / count[:, None].to(tokens.dtype)


def _whole_patches(lengths: Tensor, x: Tensor, samples: int, patch: int) -> Tensor:
    _need(isinstance(lengths, Tensor), "lengths", type(lengths).__name__, "a tensor")
    _need(tuple(lengths.shape) == (len(x),), "lengths", tuple(lengths.shape), f"({len(x)},)")
    integer = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    _need(integer, "lengths", lengths.dtype, "an integer type")
    _need(lengths.device == x.device, "lengths", f"on {lengths.device}", f"on {x.device}, as x")
    if not torch.compiler.is_compiling():
        wrong = lengths[(lengths < 0) | (lengths > samples)].tolist()
        _need(not wrong, "lengths", wrong[:10], f"0..{samples}, the samples of x")
    return lengths.long() // patch


def _need(fact: bool, name: str, got: object, needed: object) -> None:
    if not fact:
        raise ShapeError(f"{name} is {got}; needed {needed}")
