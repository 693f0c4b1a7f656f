"""Deterministic test tensors without a random number generator: the same values in every language and library."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def wave(
    shape: Sequence[int], steps: Sequence[float], phase: float, *, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Tensor with entry [idx] = sin(phase + Σ_k steps[k]·idx[k]), computed in float64 and rounded to `dtype`."""
    if len(shape) != len(steps):
        raise ValueError(f"shape has {len(shape)} dimensions but {len(steps)} steps were given")
    angle = torch.tensor(phase, dtype=torch.float64)
    for axis, (size, step) in enumerate(zip(shape, steps)):
        view = [1] * len(shape)
        view[axis] = size
        angle = angle + step * torch.arange(size, dtype=torch.float64).view(view)
    return torch.sin(angle.expand(tuple(shape))).to(dtype)
