"""Labels of live tokens by the linear heads of a model (`xecg.model.Head`), all heads as one batch-invariant product."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xecg import ops
from xecg.errors import SpecError

if TYPE_CHECKING:
    from xecg.model import Head

__all__ = ["LiveHeads"]

_KINDS = ("binary", "multilabel")  # a multiclass head of tokens is read at beats, not at every token


class LiveHeads:
    """heads: name → head of tokens, binary or multilabel; width: features of a token; fingerprint: of the encoder.

    A label is on while its probability is at least the head's threshold. Raises SpecError for a head of records, of another kind, of
    another width or fitted on another encoder.
    """

    def __init__(self, heads: Mapping[str, Head], *, width: int, fingerprint: str) -> None:
        self.labels: list[tuple[str, str]] = []  # maker and label of each column
        weights, biases, thresholds = [np.zeros((0, width))], [np.zeros(0)], [np.zeros(0)]
        for name, head in heads.items():
            spec = head.spec
            if spec.of != "token" or spec.kind not in _KINDS or spec.after:
                raise SpecError(
                    f"head {name!r} is {spec.kind} of a {spec.of}, read {spec.after} tokens later; a stream needs one of every token, "
                    f"{' or '.join(_KINDS)}. `xecg predict` reads a head at the beats of a recording"
                )
            if head.width != width or spec.fingerprint not in ("", fingerprint):
                raise SpecError(
                    f"head {name!r} was fitted on {head.width} features of encoder {spec.encoder!r} ({spec.fingerprint}); "
                    f"this one gives {width} ({fingerprint}): load that encoder"
                )
            self.labels += [(f"head:{name}", c) for c in (spec.classes[1:] if spec.kind == "binary" else spec.classes)]
            parts = (head.weight, head.bias, head.centre, head.scale)
            weight, bias, centre, scale = (t.detach().cpu().double().numpy() for t in parts)
            weights.append(weight / scale)
            biases.append(bias - weights[-1] @ centre)
            thresholds.append(np.full(len(bias), spec.threshold))
        self._weight, self._bias = (torch.from_numpy(np.concatenate(a).astype(np.float32)) for a in (weights, biases))
        self.thresholds = np.concatenate(thresholds)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """Names labels, weights and thresholds; empty without heads."""
        if not len(self):
            return ""
        arrays = (self._weight.numpy(), self._bias.numpy(), self.thresholds)
        return hashlib.sha256(repr(self.labels).encode() + b"".join(a.tobytes() for a in arrays)).hexdigest()

    def probabilities(self, tokens: Tensor) -> np.ndarray:
        """tokens (n, D) → float64 (n, labels); a row's bits do not depend on the others on the `cpu` backend."""
        scores = ops.linear(tokens, self._weight, self._bias).numpy().astype(np.float64)
        return 1 / (1 + np.exp(-scores))
