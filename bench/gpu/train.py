"""One training step of `base`, 512 records in 2 global and 4 local views, against the rate of matrix products. Not yet run on a GPU.

The step is the trainer's: objective, optimiser and clipping of `xecg.pretrain`. Views are drawn beforehand, as a loader beside the GPU
does. Operations are those of the model on the tokens of the views: forward and backward of the student, forward of the teacher. What
micro-batches compute twice (`xecg.pretrain.objective`) does not count, so that cutting a batch never looks like work done.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from bench.floors import BASE_FLOPS
from bench.gpu_checks import serving
from bench.harness import Bench
from xecg.model.config import SIGNAL_PRESET
from xecg.pretrain import schedule
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import current
from xecg.pretrain.objective import SimDINO, learned
from xecg.pretrain.settings import Settings
from xecg.signal import PRESETS

__all__ = ["Step", "entries", "token_forwards"]

_SAMPLES, _BATCH = 1000, 512
_FEW = 8  # records of the check
_COSINE = 0.98  # of the bfloat16 gradient to the float32 one


class _Noise:
    """Records of noise in a corpus's place: how long a step takes does not depend on what is in them."""

    def __init__(self, records: int, leads: int, samples: int) -> None:
        self.ids = [f"noise@{i}" for i in range(records)]
        self._x = np.random.default_rng(0).standard_normal((records, leads, samples), dtype=np.float32)

    def record(self, index: int) -> tuple[str, np.ndarray]:
        return self.ids[index], self._x[index]


class Step:
    """A step of `settings`, the batch taken `micro` records at a time; all is made at the first call."""

    def __init__(self, settings: Settings, device: str, *, samples: int = _SAMPLES) -> None:
        self.settings, self.device, self._samples = settings, device, samples
        self.micro = settings.batch
        self._corpus = cache(self._noise)
        self._objective = cache(self._new)
        self._optimiser = cache(self._adam)
        self._pieces = cache(self._load)

    def _noise(self) -> Corpus:
        leads = len(PRESETS[SIGNAL_PRESET[self.settings.model]].leads)
        return cast(Corpus, _Noise(self.settings.batch, leads, self._samples))

    def _new(self) -> SimDINO:
        return SimDINO(self.settings, self._corpus(), torch.device(self.device))

    def _adam(self) -> torch.optim.AdamW:
        groups = schedule.parameter_groups(self._objective().student, decay=self.settings.layer_decay)
        return torch.optim.AdamW(groups, lr=1e-6, betas=(0.9, 0.999), eps=1e-8)

    def _load(self, micro: int) -> list[Any]:
        numbers = [(i, 0) for i in range(self.settings.batch)]
        return [self._objective().load(numbers[i : i + micro], 0) for i in range(0, len(numbers), micro)]

    def gradients(self, pieces: list[Any]) -> dict[str, Tensor]:
        """Forward and backward; the parts of the loss."""
        objective, group = self._objective(), current(self.device)
        totals = torch.stack([objective.counts(piece) for piece in pieces]).sum(0)
        return objective.backward(pieces, totals, group).parts

    def run(self) -> None:
        """The step, in the largest micro-batches that fit: they are halved where memory ends."""
        while True:
            try:
                return self._step(self._pieces(self.micro))
            except torch.cuda.OutOfMemoryError:
                if self.micro == 1:
                    raise
                self.micro = -(-self.micro // 2)
                self._pieces.cache_clear()
            self._optimiser().zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _step(self, pieces: list[Any]) -> None:
        optimiser = self._optimiser()
        optimiser.zero_grad(set_to_none=True)
        self.gradients(pieces)
        torch.nn.utils.clip_grad_norm_([p for _, p in learned(self._objective())], self.settings.clip)
        optimiser.step()
        self._objective().after_step(0.999)

    def check(self) -> None:
        """The gradient of a few records points where the one in float32 points; a step of all leaves finite weights."""
        numbers = [(i, 0) for i in range(min(_FEW, self.settings.batch))]
        found = []
        for precision in ("float32", self.settings.precision):
            made = Step(Settings.from_dict(self.settings.to_dict() | {"precision": precision}), self.device)
            made._corpus = self._corpus
            parts = made.gradients([made._objective().load(numbers, 0)])
            gradients = [p.grad for _, p in learned(made._objective()) if p.grad is not None]
            found.append((torch.cat([g.flatten() for g in gradients]), parts))
        (exact, wanted), (ours, parts) = found
        cosine = float(torch.nn.functional.cosine_similarity(ours, exact, dim=0))
        if not cosine >= _COSINE:
            raise AssertionError(f"cosine of the gradient to that of float32 is {cosine:.4f}; needed {_COSINE}")
        for name, value in wanted.items():
            if not abs(float(parts[name]) - float(value)) <= 0.02 * max(1.0, abs(float(value))):
                raise AssertionError(f"{name} is {float(parts[name]):.4f}; {float(value):.4f} in float32")
        self.run()
        if not all(bool(torch.isfinite(p).all()) for _, p in learned(self._objective())):
            raise AssertionError("weights are not finite after a step")


def token_forwards(settings: Settings, samples: int, patch: int) -> int:
    """Forward passes of a token that one record asks for: three for a pass forward and back of the student, one for the teacher's."""
    views = settings.views
    wide, narrow = (max(1, int(f * samples) // patch) for f in (views.global_fraction, views.local_fraction))
    return 3 * (views.global_views * wide + views.local_views * narrow) + views.global_views * wide


def entries() -> list[Bench]:
    """`base`, bfloat16. The id tells the batch; micro-batches are halved until one fits."""
    settings = Settings(model="base", batch=_BATCH, precision="bfloat16")
    step, patch = Step(settings, "cuda"), 25
    per_token = BASE_FLOPS / (_SAMPLES // patch)
    return [
        Bench(
            id=f"train.base.{_BATCH}.step",
            op="train",
            shape=f"{_BATCH}x(2+4 views)",
            dtype="bfloat16",
            run=step.run,
            check=step.check,
            flops=per_token * token_forwards(settings, _SAMPLES, patch) * _BATCH,
            bound="gemm",
            score="ceiling",
            bar=0.25,
            aim=0.40,
            device="cuda",
            backend=serving(torch.bfloat16),
            turn=0,
        )
    ]
