"""Ragged batches and reversed time, for every recurrence alike: reorder once on the way in, once on the way out.

A recurrence then only ever runs forward over T steps. `reverse` flips the valid part of each row (position t of a row
of length n becomes n − 1 − t); positions t ≥ n stay where they are. The map is its own inverse, so it also leads back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Timeline"]


@dataclass(frozen=True)
class Timeline:
    """Order of processing of a (B, T, …) batch.

    index: (B, T) int64 positions in processing order, or None for the given order.
    valid: (B, T) bool, False on padding, or None when every position is valid.
    """

    index: Tensor | None
    valid: Tensor | None

    @classmethod
    def of(cls, batch: int, steps: int, lengths: Tensor | None, *, reverse: bool, device: torch.device) -> Timeline:
        """Timeline of a batch whose row b holds lengths[b] ≤ `steps` valid positions (all without `lengths`)."""
        position = torch.arange(steps, device=device).expand(batch, steps)
        if lengths is None:
            return cls(steps - 1 - position if reverse else None, None)
        size = lengths.to(device=device, dtype=torch.int64)[:, None]
        valid = position < size
        return cls(torch.where(valid, size - 1 - position, position) if reverse else None, valid)

    def take(self, x: Tensor, *, padding: float = 0.0) -> Tensor:
        """x (B, T, …) in processing order, with padding overwritten: whatever it held, NaN included, is gone."""
        return self._masked(self._ordered(x), padding)

    def put(self, y: Tensor) -> Tensor:
        """y (B, T, …) back in the caller's order, exactly 0 on padding."""
        return self._masked(self._ordered(y), 0.0)

    def _ordered(self, x: Tensor) -> Tensor:
        if self.index is None:
            return x
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        return x[rows, self.index]

    def _masked(self, x: Tensor, padding: float) -> Tensor:
        if self.valid is None:
            return x
        return x.masked_fill(~self.valid.view(*self.valid.shape, *(1,) * (x.dim() - 2)), padding)
