"""The objective of SimDINOv2 on a batch that is cut into micro-batches and spread over processes.

Every part of the loss is a sum of shares (`xecg.pretrain.distributed`): means are divided by counts of the whole batch.
The coding rate is no mean. With scope "global" it is that of all rows: over processes the Gram matrix is summed, with its
gradient; over micro-batches the vectors are collected without a graph first, the rate's gradient with respect to each is
taken, and each micro-batch, computed again, is pulled along its own. Both give the gradient of the joined batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from xecg.errors import SpecError
from xecg.model import XECG, XECGConfig
from xecg.model.config import SIGNAL_PRESET
from xecg.model.padding import pool
from xecg.pretrain import losses, schedule
from xecg.pretrain.auxiliary import Auxiliary
from xecg.pretrain.beats import Targets, token_targets
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Group
from xecg.pretrain.settings import Settings
from xecg.pretrain.views import Batch, draw, make_batch
from xecg.signal import PRESETS

__all__ = [
    "Objective",
    "Result",
    "SimDINO",
    "backwards",
    "encoding",
    "learned",
    "new_model",
    "row_of_lead_two",
    "spread_in_time",
]


class Result(NamedTuple):
    """parts: this process's shares of each part of the loss · z float (m, p), spread (m,): of its records, to watch."""

    parts: dict[str, Tensor]
    z: Tensor
    spread: Tensor


class Objective(Protocol):
    """What `xecg.pretrain.trainer.train` minimises: `Σ weights[name] · parts[name]`.

    student learns, and heads, if any, with it; teacher, if any, is the student's average and is kept with the state.
    facts: what a run depends on beside settings and corpus.
    """

    student: XECG
    weights: dict[str, float]
    facts: dict[str, str]

    @property
    def heads(self) -> nn.Module | None: ...

    @property
    def teacher(self) -> XECG | None: ...

    def load(self, records: list[tuple[int, int]], epoch: int) -> Any:
        """The views of records (index, repetition) of one micro-batch, and all else that has no gradient.

        Called from a thread, a step before it is needed: it may depend on nothing that training changes.
        """

    def counts(self, piece: Any) -> Tensor:
        """What shares are divided by, once summed over micro-batches and processes: float64 (n,)."""

    def backward(self, pieces: list[Any], totals: Tensor, group: Group) -> Result:
        """Add the gradients of this process's shares."""

    def after_step(self, beta: float) -> None:
        """What follows the optimiser's step."""

    def origin(self, role: str) -> str:
        """The first sentence of an exported checkpoint's card."""


def new_model(settings: Settings) -> XECG:
    spec = PRESETS[SIGNAL_PRESET[settings.model]]
    return XECG(XECGConfig.preset(settings.model), spec=spec, seed=settings.seed, name=settings.model)


def row_of_lead_two(model: XECG) -> int:
    return model.spec.leads.index("II") if "II" in model.spec.leads else 0


def encoding(settings: Settings, device: torch.device) -> torch.autocast:
    """The precision of the encoder, as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def spread_in_time(tokens: Tensor, valid: Tensor) -> Tensor:
    """Deviation of normalised tokens (m, T, D) along time, over the valid ones, mean over features: (m,)."""
    rows = torch.nn.functional.normalize(tokens.detach().float(), dim=-1)
    count = valid.sum(1, keepdim=True)
    there = valid[..., None]
    centre = (rows * there).sum(1, keepdim=True) / count[..., None]
    return (((rows - centre) ** 2 * there).sum(1) / (count - 1).clamp_min(1)).sqrt().mean(1)


class _Piece(NamedTuple):
    wide: tuple[Tensor, Tensor]  # x, lengths of the global views
    narrow: tuple[Tensor, Tensor] | None
    hidden: Tensor
    valid: Tensor
    asked: list[Targets]
    records: int


class SimDINO:
    """Compression + expansion + patch term of student and averaged teacher, and the beat heads where settings want them."""

    def __init__(self, settings: Settings, corpus: Corpus, device: torch.device) -> None:
        self._settings, self._corpus, self._device = settings, corpus, device
        self.student, self.teacher = (new_model(settings).to(device) for _ in range(2))
        self.teacher.requires_grad_(False)
        self.heads: Auxiliary | None = None
        if settings.auxiliary:
            spread = _spread(self.student, corpus)
            self.heads = Auxiliary(self.student.config.dim, *spread, seed=settings.seed).to(device)
        self.weights = {"compression": 1.0, "expansion": settings.expansion, "patch": 1.0}
        self.weights |= {f"aux_{name}": settings.auxiliary for name in ("beat", "kind", "values")} if self.heads else {}
        self.facts: dict[str, str] = {}
        self._kin: list[np.ndarray] | None = None
        if settings.pairing == "patient":
            number = np.unique(corpus.patients, return_inverse=True)[1]
            of = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
            self._kin = [of[i] for i in number.tolist()]
            self.facts["patients"] = sha256(number.astype("<i4").tobytes()).hexdigest()[:16]

    def load(self, records: list[tuple[int, int]], epoch: int) -> _Piece:
        ids, model = self._corpus.ids, self.student
        named = [(f"{ids[i]}#{k}" if k else ids[i], self._corpus.record(i)[1]) for i, k in records]
        views, patch, own = self._settings.views, model.config.patch, [i for i, _ in records]
        others = own if self._kin is None else [self._partner(i, name, epoch) for i, (name, _) in zip(own, named)]
        wide, narrow = make_batch(
            named, views, seed=self._settings.seed, epoch=epoch, patch=patch, second=row_of_lead_two(model),
            partners=None if self._kin is None else [self._corpus.record(i)[1] for i in others],
        )  # fmt: skip
        turns = [others if v % 2 else own for v in range(views.global_views)]
        asked = _targets(model, self._corpus, [i for turn in turns for i in turn], wide) if self.heads else []
        assert wide.hidden is not None
        hidden = torch.from_numpy(wide.hidden)
        valid = torch.arange(hidden.shape[1]) < torch.from_numpy(wide.lengths)[:, None] // patch
        return _Piece(
            self._there(wide),
            None if narrow is None else self._there(narrow),
            hidden.to(self._device),
            valid.to(self._device),
            asked,
            len(records),
        )

    def _partner(self, index: int, name: str, epoch: int) -> int:
        """Another window of the same patient, drawn; the same one where there is none."""
        assert self._kin is not None
        others = self._kin[index][self._kin[index] != index]
        return (
            int(others[draw(self._settings.seed, epoch, name, "partner").integers(len(others))])
            if len(others)
            else index
        )

    def _there(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(batch.x).to(self._device), torch.from_numpy(batch.lengths).to(self._device)

    def counts(self, piece: _Piece) -> Tensor:
        """Records; hidden tokens, or views with any; what the beat heads are asked."""
        hidden = (piece.hidden & piece.valid).sum(1)
        patch = hidden.sum() if self._settings.patch_average == "global" else (hidden > 0).sum()
        found = [torch.tensor([piece.records], device=self._device), patch[None]]
        if self.heads is not None:
            found.append(self.heads.counts(piece.asked, _whole_views(piece)))
        return torch.cat([part.double() for part in found])

    def backward(self, pieces: list[_Piece], totals: Tensor, group: Group) -> Result:
        if not bool(totals[1]):
            raise SpecError("no token is hidden; the patch term needs a mask ratio that hides at least one")
        shared = self._settings.scope == "global"
        pulls = self._pulls(pieces, group) if shared and len(pieces) > 1 else None
        parts: dict[str, Tensor] = {}
        z, spread = [], []
        first = 0
        for piece in pieces:
            tokens, pooled, shares = self._shares(piece, totals)
            if pulls is not None:
                value, gradient = pulls
                rows = slice(first, first + piece.records)
                first += piece.records
                loss = (pooled * gradient[:, rows]).sum()
                shares["expansion"] = value / len(pieces)
            elif shared:
                rate = losses.expansion(pooled, rule=self._settings.gamma, group=group)
                shares["expansion"] = rate / group.size
                loss = self.weights["expansion"] * shares["expansion"]
            else:
                rate = losses.expansion(pooled, rule=self._settings.gamma)
                shares["expansion"] = rate * (piece.records / totals[0].item())
                loss = self.weights["expansion"] * shares["expansion"]
            for name, share in shares.items():
                loss = loss + (self.weights[name] * share if name != "expansion" else 0)
                parts[name] = parts.get(name, 0) + share.detach()
            loss.backward()
            z.append(pooled[0].detach())
            spread.append(spread_in_time(tokens[: piece.records], piece.valid[: piece.records]))
        return Result(parts, torch.cat(z), torch.cat(spread))

    def _pulls(self, pieces: list[_Piece], group: Group) -> tuple[Tensor, Tensor]:
        """This process's share of the expansion, and the gradient of its weighted value in each of its vectors (V, m, p)."""
        with torch.no_grad():
            found = torch.cat([self._pooled(piece)[1] for piece in pieces], 1)
        z = found.requires_grad_()
        value = losses.expansion(z, rule=self._settings.gamma, group=group) / group.size
        (gradient,) = torch.autograd.grad(self.weights["expansion"] * value, z)
        return value.detach(), gradient

    def _pooled(self, piece: _Piece) -> tuple[Tensor, Tensor]:
        """The student's tokens of the global views, hidden ones hidden, and their means (V, m, p)."""
        x, lengths = piece.wide
        with encoding(self._settings, self._device):
            tokens = self.student.encode(x, lengths=lengths, hide=piece.hidden)
        return tokens, pool(tokens, piece.valid, "mean").unflatten(0, (self._settings.views.global_views, -1))

    def _shares(self, piece: _Piece, totals: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x, lengths = piece.wide
        with torch.no_grad(), encoding(self._settings, self._device):
            target = self.teacher.encode(x, lengths=lengths)
        tokens, pooled = self._pooled(piece)
        views = self._settings.views
        students = [pooled]
        if piece.narrow is not None:
            short, ends = piece.narrow
            with encoding(self._settings, self._device):
                local = self.student.encode(short, lengths=ends)
            local = pool(local, self.student.valid_tokens(short, lengths=ends), "mean")
            students.append(local.unflatten(0, (views.local_views, -1)))
        teacher = pool(target, piece.valid, "mean").unflatten(0, (views.global_views, -1))
        count = totals.tolist()
        shares = {
            "compression": losses.compression(torch.cat(students), teacher) * (piece.records / count[0]),
            "expansion": tokens.new_zeros(()),  # its place in the log; `backward` fills it
        }
        hidden, average = piece.hidden & piece.valid, self._settings.patch_average
        own = float(hidden.sum() if average == "global" else hidden.any(1).sum())
        shares["patch"] = tokens.new_zeros(())
        if own:
            shares["patch"] = losses.patch_term(tokens, target, hidden, average=average) * (own / count[1])
        if self.heads is not None:  # a view with hidden tokens does not show its intervals: only whole ones are asked
            shares |= self.heads(tokens, piece.asked, _whole_views(piece), totals[2:])
        return tokens, pooled, shares

    def after_step(self, beta: float) -> None:
        schedule.update_teacher_(self.teacher, self.student, beta)

    def origin(self, role: str) -> str:
        return f"The {role} of a SimDINOv2 pretraining run, without labels"


def _whole_views(piece: _Piece) -> Tensor:
    return piece.valid & ~piece.hidden.any(1, keepdim=True)


def _lag(model: XECG) -> int:
    """Tokens between a beat and the token that is asked for it: a causal model has not seen the whole beat in its own."""
    return int(model.config.causal)


def _targets(model: XECG, corpus: Corpus, ids: Sequence[int], wide: Batch) -> list[Targets]:
    """What the tokens of every global view are asked for, view after view; ids: the window that each is of."""
    patch, rate, lag = model.config.patch, model.spec.rate or 1.0, _lag(model)
    return [
        token_targets(corpus.beats(i), start=start, stretch=stretch, tokens=n // patch, patch=patch, rate_hz=rate, lag=lag)
        for i, n, (start, stretch) in zip(ids, wide.lengths.tolist(), wide.places.tolist())
    ]  # fmt: skip


def _spread(model: XECG, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every auxiliary value over some whole windows, spread evenly over the corpus."""
    patch, rate = model.config.patch, model.spec.rate or 1.0
    chosen = np.unique(np.linspace(0, len(corpus) - 1, 512).astype(int)).tolist()
    found = [
        token_targets(corpus.beats(i), start=0, stretch=1, tokens=48, patch=patch, rate_hz=rate, lag=_lag(model)).values
        for i in chosen
    ]
    values = np.concatenate(found).astype(np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    centre = np.where(known, values, 0).sum(0) / count
    scale = np.sqrt((np.where(known, values - centre, 0) ** 2).sum(0) / count)
    return centre.astype(np.float32), np.where(scale > 1e-6, scale, 1).astype(np.float32)


def learned(objective: Objective) -> Iterator[tuple[str, nn.Parameter]]:
    """What the optimiser changes, by the names of the state's file."""
    yield from objective.student.named_parameters()
    if objective.heads is not None:
        yield from ((f"heads.{name}", parameter) for name, parameter in objective.heads.named_parameters())


def backwards(objective: Objective) -> list[nn.Parameter]:
    """What the optimiser changes, in the order in which a backward pass has it: the last block first; then the heads."""
    return [*reversed(list(objective.student.parameters())), *(objective.heads.parameters() if objective.heads else ())]
