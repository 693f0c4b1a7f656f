"""Distillation: a student learns the tokens of a frozen teacher, so many tokens later than the teacher has them.

loss = mean over tokens of 1 − cos(W·student[t], teacher[t − look_ahead]) + mean over records of 1 − cos(W·mean(student),
mean(teacher)). W is a linear map that is not exported. The teacher sees the record clean and through its own front end; the
student sees the same stretch of time through its own, with gains, jitter and dropped leads. A causal student that may look
ahead has seen `look_ahead` tokens beyond the one that it is asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg.errors import SpecError
from xecg.model import XECG
from xecg.model.padding import pool
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Group
from xecg.pretrain.objective import Result, encoding, new_model, row_of_lead_two, spread_in_time
from xecg.pretrain.settings import Settings
from xecg.pretrain.views import draw, placed, stretch_of

__all__ = ["Distillation"]


class _Piece(NamedTuple):
    x: Tensor  # what the student sees (m, leads, samples)
    lengths: Tensor
    clean: Tensor  # what the teacher sees
    clean_lengths: Tensor
    valid: Tensor  # bool (m, T): the records' tokens
    pairs: Tensor  # bool (m, T − look_ahead): of student tokens from look_ahead on


class Distillation:
    """An `xecg.pretrain.objective.Objective`. corpus: through the student's front end; taught: the same windows through the
    teacher's, default the same corpus. Raises SpecError where the two do not go together.
    """

    def __init__(
        self,
        settings: Settings,
        corpus: Corpus,
        device: torch.device,
        *,
        teacher: XECG,
        taught: Corpus | None = None,
        look_ahead: int = 0,
    ) -> None:
        self._settings, self._device, self._ahead = settings, device, look_ahead
        self.student = new_model(settings).to(device)
        self._master = teacher.to(device).requires_grad_(False).eval()
        self._corpus, self._taught = corpus, corpus if taught is None else taught
        ours, theirs = self.student.spec, teacher.spec
        if self._taught.spec_hash != theirs.hash:
            raise SpecError(
                f"the teacher's windows are of signal spec {self._taught.spec_hash}; {teacher.name}'s is {theirs.hash}. Give a store "
                "that was built for it, or folders of recordings"
            )
        if not ours.rate or not theirs.rate or ours.patch / ours.rate != theirs.patch / theirs.rate:
            raise SpecError(
                f"a token of {settings.model} is {ours.patch} samples at {ours.rate} Hz, one of {teacher.name} {theirs.patch} at "
                f"{theirs.rate}; needed the same time"
            )
        places = {name: i for i, name in enumerate(self._taught.ids)}
        self._pair = [places.get(name, -1) for name in corpus.ids]
        if min(self._pair) < 0:
            raise SpecError(f"window {corpus.ids[self._pair.index(-1)]} is not among the teacher's; build both anew")
        if look_ahead < 0:
            raise SpecError(f"look-ahead is {look_ahead}; needed 0 tokens or more")
        self._fingerprint = teacher.fingerprint
        self._token_s = ours.patch / ours.rate
        self.heads: nn.Module = nn.Linear(self.student.config.dim, teacher.config.dim, bias=False)
        with torch.no_grad():
            rng = torch.Generator().manual_seed(settings.seed)
            self.heads.weight.copy_(torch.randn(self.heads.weight.shape, generator=rng) / self.student.config.dim**0.5)
        self.heads.to(device)
        self.teacher: XECG | None = None  # the master does not change: its fingerprint is kept, not its weights
        self.weights = {"tokens": 1.0, "pooled": 1.0}
        self.facts = {
            "objective": f"distillation, look-ahead {look_ahead}",
            "master": self._fingerprint,
            "master's corpus": self._taught.digest,
        }

    def load(self, records: list[tuple[int, int]], epoch: int) -> _Piece:
        views, ours, theirs = self._settings.views, self.student.spec, self._master.spec
        shown, clean, tokens = [], [], []
        for i, k in records:
            name, x = self._corpus.record(i)
            rng = draw(self._settings.seed, epoch, f"{name}#{k}" if k else name, "distill")
            part, start, stretch = placed(
                x, rng, views, fraction=views.global_fraction, patch=ours.patch, second=row_of_lead_two(self.student)
            )
            tokens.append(part.shape[1] // ours.patch)
            if tokens[-1] <= self._ahead:
                raise SpecError(
                    f"{name}: a view of {tokens[-1]} tokens; needed more than the look-ahead, {self._ahead}"
                )
            shown.append(part)
            whole = self._taught.record(self._pair[i])[1]
            scale = (theirs.rate or 1.0) / (ours.rate or 1.0)
            clean.append(stretch_of(whole, start * scale, stretch, tokens[-1] * theirs.patch, exact=not views.rate))
        count = torch.tensor(tokens)
        valid = torch.arange(max(tokens)) < count[:, None]
        there = [*_stacked(shown), *_stacked(clean), valid, valid[:, self._ahead :]]
        return _Piece(*(part.to(self._device) for part in there))

    def counts(self, piece: _Piece) -> Tensor:
        """Pairs of tokens, records."""
        return torch.stack([piece.pairs.sum(), torch.tensor(len(piece.x), device=self._device)]).double()

    def backward(self, pieces: list[_Piece], totals: Tensor, group: Group) -> Result:
        parts = {name: torch.zeros((), device=self._device) for name in self.weights}
        z, spread = [], []
        for piece in pieces:
            with torch.no_grad(), encoding(self._settings, self._device):
                target = self._master.encode(piece.clean, lengths=piece.clean_lengths).float()
            with encoding(self._settings, self._device):
                tokens = self.student.encode(piece.x, lengths=piece.lengths)
            pooled = pool(tokens, piece.valid, "mean")
            ahead = self._ahead
            far = 1 - F.cosine_similarity(self.heads(tokens[:, ahead:]), target[:, : target.shape[1] - ahead], dim=-1)
            apart = 1 - F.cosine_similarity(self.heads(pooled), pool(target, piece.valid, "mean"), dim=-1)
            shares = {
                "tokens": (far * piece.pairs).sum() / totals[0].float(),
                "pooled": apart.sum() / totals[1].float(),
            }
            loss = shares["tokens"] * self.weights["tokens"] + shares["pooled"] * self.weights["pooled"]
            loss.backward()  # type: ignore[no-untyped-call]
            for name, share in shares.items():
                parts[name] = parts[name] + share.detach()
            z.append(pooled.detach())
            spread.append(spread_in_time(tokens, piece.valid))
        return Result(parts, torch.cat(z), torch.cat(spread))

    def after_step(self, beta: float) -> None:
        """The master does not change."""

    def origin(self, role: str) -> str:
        late = f"{self._ahead} tokens ({self._ahead * self._token_s:g} s)"
        return (
            f"The {role} of a distillation, without labels. Teacher: {self._master.name}, fingerprint {self._fingerprint}. "
            f"Look-ahead: token t of this model was taught the teacher's token {late} earlier"
        )


def _stacked(parts: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([part.shape[1] for part in parts])
    x = torch.zeros(len(parts), parts[0].shape[0], int(lengths.max()))
    for row, part in zip(x, parts):
        row[:, : part.shape[1]] = torch.from_numpy(np.ascontiguousarray(part))
    return x, lengths
