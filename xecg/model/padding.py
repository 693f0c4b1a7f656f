"""Which samples and tokens of a batch are there: checks and rules in front of the encoder, pooling behind it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xecg.errors import ShapeError
from xecg.model.config import XECGConfig

__all__ = ["Prepared", "pool", "prepare"]


_STRETCH = 1 << 16  # tokens looked at or summed at once: what is made on the way stays small however long the record


class Prepared(NamedTuple):
    """What the encoder works on; None means all tokens. `patches` gives the input: records are not copied as a whole."""

    x: Tensor  # (B, leads, T·patch), as given
    patch: int
    mask: Tensor | None  # (B, leads or 1, T·patch) bool, as given
    whole: Tensor | None  # (B,) whole patches of each record's length
    valid: Tensor | None  # (B, T) bool, tokens to pool
    steps: Tensor | None  # (B,) tokens that enter the recurrences

    @property
    def tokens(self) -> int:
        return self.x.shape[-1] // self.patch

    def record(self, b: int) -> Prepared:
        """Record b alone."""
        x, mask, whole, valid, steps = (
            None if t is None else t[b : b + 1] for t in (self.x, self.mask, self.whole, self.valid, self.steps)
        )
        assert x is not None
        return Prepared(x, self.patch, mask, whole, valid, steps)

    def present(self, first: int, last: int) -> Tensor | None:
        """Which samples of tokens first..last are there, bool (B, leads or 1, samples); None: all."""
        samples = slice(first * self.patch, last * self.patch)
        there = None if self.mask is None else self.mask[..., samples]
        if self.whole is not None:
            inside = torch.arange(samples.start, samples.stop, device=self.x.device)
            inside = inside < self.whole[:, None, None] * self.patch
            there = inside if there is None else there & inside
        return there

    def patches(self, first: int, last: int) -> Tensor:
        """The samples of tokens first..last, (B, leads, samples), missing ones 0."""
        x, there = self.x[..., first * self.patch : last * self.patch], self.present(first, last)
        return x if there is None else x.masked_fill(~there, 0)


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
        return Prepared(x, patch, None, None, (x[..., ::patch] != 0).any(1), None)
    if lengths is None and mask is None:
        return Prepared(x, patch, None, None, None, None)

    if mask is not None:
        shapes = {2: (len(x), samples), 3: (len(x), config.leads, samples)}
        _need(mask.dtype == torch.bool, "mask", mask.dtype, "bool")
        _need(tuple(mask.shape) in shapes.values(), "mask", tuple(mask.shape), f"{shapes[3]} or {shapes[2]}")
        _need(mask.device == x.device, "mask", f"on {mask.device}", f"on {x.device}, as x")
        mask = (mask if mask.dim() == 3 else mask[:, None])[..., : T * patch]
    whole = None if lengths is None else _whole_patches(lengths, x, samples, patch)
    ready = Prepared(x, patch, mask, whole, None, None)
    valid = torch.cat([_any_present(ready, first, min(first + _STRETCH, T)) for first in range(0, T, _STRETCH)], 1)
    steps = ((torch.arange(T, device=x.device) + 1) * valid).amax(1)  # one past the last valid token
    return ready._replace(valid=valid, steps=steps)


def _any_present(ready: Prepared, first: int, last: int) -> Tensor:
    """Which of tokens first..last have a sample, bool (B, tokens)."""
    there = ready.present(first, last)
    assert there is not None
    return there.unflatten(-1, (last - first, ready.patch)).any(-1).any(1)


def pool(tokens: Tensor, valid: Tensor | None, how: str) -> Tensor:
    """Tokens (B, T, D) → (B, D): their "mean" or "max" over the valid ones. Raises ShapeError where there are none."""
    if valid is None:
        return tokens.mean(1) if how == "mean" else tokens.amax(1)
    count = valid.sum(1)
    if not (torch.compiler.is_compiling() or _recording(tokens)):
        empty = (count == 0).nonzero().flatten().tolist()
        _need(not empty, "x", f"without a valid token in records {empty[:10]}", "at least one in every record")
    pieces = list(zip(tokens.split(_STRETCH, 1), valid.split(_STRETCH, 1)))
    if how == "max":
        return torch.stack([y.masked_fill(~v[..., None], -torch.inf).amax(1) for y, v in pieces]).amax(0)
    total = torch.stack([y.masked_fill(~v[..., None], 0).sum(1) for y, v in pieces]).sum(0)
    return total / count[:, None].to(tokens.dtype)


def _recording(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, where the host may not look at a number."""
    return x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _whole_patches(lengths: Tensor, x: Tensor, samples: int, patch: int) -> Tensor:
    _need(isinstance(lengths, Tensor), "lengths", type(lengths).__name__, "a tensor")
    _need(tuple(lengths.shape) == (len(x),), "lengths", tuple(lengths.shape), f"({len(x)},)")
    integer = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
    _need(integer, "lengths", lengths.dtype, "an integer type")
    _need(lengths.device == x.device, "lengths", f"on {lengths.device}", f"on {x.device}, as x")
    if not torch.compiler.is_compiling():
        outside = (lengths < 0) | (lengths > samples)
        if lengths.device.type == "cpu":
            wrong = lengths[outside].tolist()
            _need(not wrong, "lengths", wrong[:10], f"0..{samples}, the samples of x")
        else:  # without waiting for the device, as xecg.ops does
            torch._assert_async(~outside.any(), f"lengths are not all in 0..{samples}, the samples of x")
    return lengths.long() // patch


def _need(fact: bool, name: str, got: object, needed: object) -> None:
    if not fact:
        raise ShapeError(f"{name} is {got}; needed {needed}")
