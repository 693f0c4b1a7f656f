"""Heads: labels read from tokens by a linear map, p = σ(W t + b). Training them is the business of whoever has the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xecg import ops
from xecg.errors import SpecError

__all__ = ["Head", "Heads"]


@dataclass(frozen=True, eq=False)
class Head:
    """weight float32 (L, D), bias (L,) of L labels; an event begins with the first token whose probability reaches `threshold`.

    Raises SpecError when the sizes disagree, a number is not finite or the threshold is outside 0..1.
    """

    name: str
    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    threshold: float = 0.5

    def __post_init__(self) -> None:
        n, weight, bias = len(self.labels), np.asarray(self.weight), np.asarray(self.bias)
        if weight.ndim != 2 or weight.shape[0] != n or bias.shape != (n,) or not n:
            raise SpecError(
                f"head {self.name!r} has {n} labels, weight {weight.shape}, bias {bias.shape}; needed (L, D) and (L,)"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all() and 0 < self.threshold < 1):
            raise SpecError(f"head {self.name!r} needs finite numbers and a threshold between 0 and 1")


class Heads:
    """All heads of a stream as one batch-invariant product. width: features of a token."""

    def __init__(self, heads: Sequence[Head], width: int) -> None:
        for head in heads:
            if head.weight.shape[1] != width:
                raise SpecError(f"head {head.name!r} takes {head.weight.shape[1]} features; the model gives {width}")
        self.names = [(f"head:{head.name}", label) for head in heads for label in head.labels]
        rows = [np.asarray(head.weight, np.float32) for head in heads]
        self._weight = torch.from_numpy(np.concatenate(rows)) if rows else torch.zeros(0, width)
        biases = [np.asarray(head.bias, np.float32) for head in heads]
        self._bias = torch.from_numpy(np.concatenate(biases)) if rows else torch.zeros(0)
        self.thresholds = np.array([head.threshold for head in heads for _ in head.labels])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Names weights, labels and thresholds; empty without heads."""
        if not len(self):
            return ""
        parts = (repr(self.names).encode(), self._weight.numpy(), self._bias.numpy(), self.thresholds)
        return hashlib.sha256(b"".join(bytes(p) for p in parts)).hexdigest()

    def probabilities(self, tokens: Tensor) -> np.ndarray:
        """tokens (n, D) → float64 (n, labels); a row's bits do not depend on the others on the `cpu` backend."""
        scores = ops.linear(tokens, self._weight, self._bias).numpy().astype(np.float64)
        return 1 / (1 + np.exp(-scores))
