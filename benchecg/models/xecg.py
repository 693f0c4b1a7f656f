"""xECG checkpoints as adapters: preprocessing from the checkpoint's own spec, tokens of one offline `encode` per recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchecg.models.base import Tokens
from xecg.errors import ShapeError
from xecg.signal import ModelInput, Recording

if TYPE_CHECKING:
    from torch import nn

    from xecg.model import XECG
    from xecg.signal import SignalSpec

__all__ = ["XECGAdapter", "random_xecg", "shipped_xecg", "supervised_xlstm"]

_RANDOM_SEED, _SUPERVISED_SEED = 20_250, 20_251  # any seeds but that of the shipped tiny initialisation
_SEEN = ("Georgia 12-lead", "Chapman-Shaoxing/Ningbo", "CODE-15 %", "CPSC 2021")  # parts of them, by the shipped tiny
_CHUNK = 1_024  # tokens of a block at once: 4 min of signal, so a day of Holter fits in memory


class XECGAdapter:
    """An xECG encoder. id: its name in tables. pretrained_on: None = unknown; () is set for untrained weights."""

    def __init__(self, model: XECG, *, id: str, pretrained_on: tuple[str, ...] | None = None) -> None:
        self._model = model.eval()
        self.id = id
        self.spec_hash = model.spec.hash
        self.trained: bool | None = model.trained
        self.about = f"xECG {model.name}: {model.config.blocks}, D = {model.config.dim}" + (
            "" if model.trained else ", UNTRAINED: random weights"
        )
        self.pretrained_on = pretrained_on if model.trained else ()

    @property
    def fingerprint(self) -> str:
        """Of the weights as they are now: they are shared with whoever holds the model."""
        return self._model.fingerprint

    @property
    def spec(self) -> SignalSpec:
        """The preprocessing that the encoder expects."""
        return self._model.spec

    def module(self) -> nn.Module:
        """The encoder for training: preprocessed (B, leads, samples) → tokens (B, T, D). Shares its weights with this adapter."""
        from benchecg.models.encoder import Encoder

        return Encoder(self._model)

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """Tokens of each recording; recordings of one length are encoded together."""
        from xecg import preprocess

        inputs = [preprocess(r, self._model.spec) for r in recordings]
        same: dict[int, list[int]] = {}
        for i, ready in enumerate(inputs):
            same.setdefault(ready.x.shape[-1], []).append(i)
        tokens: dict[int, Tokens] = {}
        for members in same.values():
            values, valid = self._encode([inputs[i] for i in members])
            for row, i in enumerate(members):
                tokens[i] = self._timed(values[row], valid[row], recordings[i])
        return [tokens[i] for i in range(len(recordings))]

    def _encode(self, inputs: list[ModelInput]) -> tuple[np.ndarray, np.ndarray]:
        import torch

        x = torch.stack([torch.as_tensor(np.asarray(m.x)) for m in inputs])
        mask = torch.stack([torch.as_tensor(np.asarray(m.mask)) for m in inputs])
        with torch.inference_mode():
            values = self._model.encode(x, mask=mask, chunk=_CHUNK)
            return values.float().numpy(), self._model.valid_tokens(x, mask=mask).numpy()

    def _timed(self, values: np.ndarray, valid: np.ndarray, recording: Recording) -> Tokens:
        if not len(values):
            found = f"{recording.source or 'a recording'} lasts {recording.duration_s:.3g} s"
            raise ShapeError(
                f"{found}; needed at least one token, {self._model.spec.patch} samples of the model's input"
            )
        kept = np.flatnonzero(valid) if valid.any() else np.arange(len(values))  # a dead recording is scored too
        step = self._model.spec.patch / (self._model.spec.rate or recording.rate)
        return Tokens(values[kept], start_s=step * kept, length_s=np.full(len(kept), step))


def shipped_xecg() -> XECGAdapter:
    """The tiny encoder that the package ships."""
    from xecg import load

    return XECGAdapter(load("tiny"), id="xecg-tiny", pretrained_on=_SEEN)


def random_xecg() -> XECGAdapter:
    """The floor of an architecture: the tiny encoder with random weights of another seed, never trained."""
    return XECGAdapter(_untrained("tiny (random)", _RANDOM_SEED), id="xecg-random")


def supervised_xlstm() -> XECGAdapter:
    """A small xLSTM of the tiny encoder's shape with random weights, to be trained on the task alone."""
    return XECGAdapter(_untrained("xLSTM for supervised training", _SUPERVISED_SEED), id="xlstm")


def _untrained(name: str, seed: int) -> XECG:
    from xecg import XECG, XECGConfig, load

    return XECG(XECGConfig.preset("tiny"), spec=load("tiny").spec, seed=seed, name=name, trained=False)
