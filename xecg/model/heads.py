"""Heads: one linear map from an encoder's tokens to an answer, the losses that train it, and the one file that holds it.

A head is bound to the encoder that it was fitted on, by the encoder's fingerprint: on other tokens its numbers mean nothing.
The kinds of answers are in `xecg.model.head_spec`.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg.errors import CheckpointError, ShapeError, SpecError
from xecg.io.atomic import write_bytes
from xecg.model import _strict_json
from xecg.model.checkpoint import check_tensors, read_tensors
from xecg.model.encoder import XECG
from xecg.model.head_spec import HeadSpec, questions
from xecg.model.padding import pool

__all__ = ["Head", "HeadSpec", "efron", "load_head", "loss_of", "save_head"]

_FORMAT = "xecg-head/1"
_HEADS = Path(__file__).parent.parent / "weights" / "heads"  # heads that ship with the package


class Head(nn.Module):
    """weight (outputs, D + covariates), bias (outputs,) on features standardised by `centre` and `scale`, (D + covariates,).

    A regression's logits are standard numbers: its answer is `offset` + `spread` · logit. card: text about origin and limits.
    errors: of recordings that it was not fitted on, {} where it says none: "on" (which), "metrics" (name → value, low, high),
    "each" and "by_record" (what of each record, record → value).
    """

    centre: Tensor
    scale: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, spec: HeadSpec, width: int, *, card: str = "") -> None:
        super().__init__()
        self.spec, self.card = spec, card
        self.errors: dict[str, Any] = {}
        n = width + len(spec.covariates)
        self.weight = nn.Parameter(torch.zeros(spec.outputs, n))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        for name, value in (
            ("centre", torch.zeros(n)),
            ("scale", torch.ones(n)),
            ("offset", torch.zeros(())),
            ("spread", torch.ones(())),
        ):
            self.register_buffer(name, value)

    @property
    def width(self) -> int:
        """Token width that it needs."""
        return self.weight.shape[1] - len(self.spec.covariates)

    def forward(self, tokens: Tensor, valid: Tensor | None = None, covariates: Tensor | None = None) -> Tensor:
        """Logits, (B, outputs), or (B, T, outputs) of a head of tokens, float32.

        tokens (B, T, D). valid (B, T) bool: which are pooled. covariates (B, names). Raises ShapeError.
        """
        if tokens.dim() != 3 or tokens.shape[-1] != self.width:
            raise ShapeError(f"tokens are {tuple(tokens.shape)}; needed (batch, tokens, {self.width})")
        n = len(self.spec.covariates)
        if n and (covariates is None or tuple(covariates.shape) != (len(tokens), n)):
            found = None if covariates is None else tuple(covariates.shape)
            raise ShapeError(f"covariates are {found}; needed ({len(tokens)}, {n}): {', '.join(self.spec.covariates)}")
        x = tokens if self.spec.of == "token" else pool(tokens, valid, self.spec.pooling)
        return self.of_features(x if covariates is None or not n else torch.cat([x, covariates.to(x)], -1))

    def of_features(self, x: Tensor) -> Tensor:
        """Logits of features as they were fitted: pooled tokens with covariates, or single tokens; (..., D) → (..., outputs)."""
        return F.linear((x.float() - self.centre) / self.scale, self.weight, self.bias)

    def answer(self, logits: Tensor) -> Tensor:
        """Logits → what `xecg.model.head_spec` says of each kind; same shape."""
        kind = self.spec.kind
        if kind == "multiclass":
            return logits.softmax(-1)
        if kind == "panel":
            return torch.cat([logits[..., c].softmax(-1) for c in questions(self.spec.classes).values()], -1)
        if kind in ("multilabel", "binary"):
            return logits.sigmoid()
        return self.offset + self.spread * logits if kind == "regression" else logits


def loss_of(head: Head, logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """The head's loss, a float32 scalar; 0 where no target is known.

    logits (n, outputs). target: class (n,), −1 unknown · labels (n, labels) or (n,), NaN unknown · panel (n, classes), NaN where
    the question is not answered · number (n,) · time and event (n, 2) · heights (n, heights).

    Cross entropy over known classes (panel: over all answered questions) · binary cross entropy over known labels · squared error in
    standard numbers · Cox partial likelihood by Efron per event, the batch as risk set (Efron 1977) · squared error of heights.

    weight: of each class, (outputs,), for multiclass (the mean is then the weighted one) and multilabel.
    """
    kind, logits = head.spec.kind, logits.float()
    if kind == "multiclass":
        known = target >= 0
        total = known.sum() if weight is None else weight[target[known].long()].sum()
        each = F.cross_entropy(logits[known], target[known].long(), weight=weight, reduction="sum")
        return each / torch.where(total > 0, total, 1)
    if kind == "panel":
        return _panel_loss(head.spec, logits, target)
    if kind in ("multilabel", "binary"):
        logits = logits[:, 0] if kind == "binary" else logits
        known = ~target.isnan()
        each = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), weight=weight, reduction="none")
        return each[known].sum() / known.sum().clamp(min=1)
    if kind == "regression":
        return F.mse_loss(logits[:, 0], (target.float() - head.offset) / head.spread)
    if kind == "survival":
        return efron(logits[:, 0], target[:, 0], target[:, 1])
    return F.mse_loss(logits, target.float())


def _panel_loss(spec: HeadSpec, logits: Tensor, target: Tensor) -> Tensor:
    total, count = logits.sum() * 0, 0
    for columns in questions(spec.classes).values():
        known = ~target[:, columns[0]].isnan()
        chosen = target[known][:, columns].argmax(-1)
        total = total + F.cross_entropy(logits[known][:, columns], chosen, reduction="sum")
        count += int(known.sum())
    return total / max(count, 1)


def efron(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative log partial likelihood per event, ties by Efron: risk, time, event (n,) → scalar; 0 without an event."""
    dead = event > 0
    if not bool(dead.any()):
        return risk.sum() * 0
    at, now = risk[dead], time[dead]
    at_risk = torch.where(time >= now[:, None], risk, -torch.inf).logsumexp(1)
    tied = now[:, None] == now
    dying = torch.where(tied, at, -torch.inf).logsumexp(1)
    rank = torch.tril(tied, -1).sum(1)  # place among the events of its instant
    share = rank / tied.sum(1)
    lost = at_risk + torch.log1p(-share * (dying - at_risk).exp())
    return (lost - at).sum() / dead.sum()


def save_head(head: Head, path: str | os.PathLike[str]) -> None:
    """Write one safetensors file, the specification and the card in its header; whole or not at all."""
    from safetensors.torch import save

    about = {"format": _FORMAT, "spec": json.dumps(asdict(head.spec), sort_keys=True), "card": head.card}
    about |= {"errors": json.dumps(head.errors, sort_keys=True)} if head.errors else {}
    tensors = {name: t.detach().cpu().float().contiguous() for name, t in head.state_dict().items()}
    write_bytes(Path(path), save(tensors, metadata=about))


def load_head(name_or_path: str | os.PathLike[str], encoder: XECG | None = None) -> Head:
    """A head that ships, by name, or from a file. encoder: the one whose tokens it will be given.

    Raises CheckpointError when the file is absent, damaged or no head, or when the head was fitted on another encoder.
    """
    path = Path(name_or_path)
    shipped = _HEADS / f"{name_or_path}.safetensors"
    path = shipped if not path.is_file() and shipped.is_file() else path
    try:
        data = path.read_bytes()
    except OSError as error:
        have = ", ".join(sorted(p.stem for p in _HEADS.glob("*.safetensors"))) or "none"
        raise CheckpointError(
            f"{path}: head is not readable ({error.strerror}); needed a file, or one that ships: {have}"
        ) from None
    tensors = read_tensors(data, str(path))
    spec, card, errors = _about(data, str(path))
    head = Head(spec, tensors["weight"].shape[-1] - len(spec.covariates) if "weight" in tensors else 0, card=card)
    head.errors = errors
    check_tensors(tensors, {key: tuple(t.shape) for key, t in head.state_dict().items()}, str(path))
    head.load_state_dict(tensors)
    if encoder is not None and encoder.fingerprint != spec.fingerprint:
        raise CheckpointError(
            f"{path}: head was fitted on encoder {spec.encoder!r} ({spec.fingerprint}); this one is {encoder.name!r} "
            f"({encoder.fingerprint}). Load that encoder, or fit a head on this one"
        )
    return head.eval()


def _about(data: bytes, file: str) -> tuple[HeadSpec, str, dict[str, Any]]:
    header = _strict_json.parse(data[8 : 8 + int.from_bytes(data[:8], "little")], f"{file}: header")
    about: dict[str, Any] = header.get("__metadata__", {})
    if about.get("format") != _FORMAT:
        raise CheckpointError(f"{file}: format is {about.get('format')!r}; needed {_FORMAT}. Is it a head?")
    stored = _strict_json.parse(about["spec"].encode(), f"{file}: spec")
    errors = _strict_json.parse(about.get("errors", "{}").encode(), f"{file}: errors")
    names = ("classes", "covariates")
    try:
        return HeadSpec(**{**stored, **{k: tuple(stored[k]) for k in names}}), about.get("card", ""), errors
    except (TypeError, KeyError, SpecError) as error:
        raise CheckpointError(f"{file}: spec is not that of a head ({error}). Fetch the file anew") from None
