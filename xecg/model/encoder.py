"""`XECG`: patches of a multi-lead ECG → tokens → one vector, by a stack of xLSTM blocks of alternating direction."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xecg import ops
from xecg.errors import ShapeError, SpecError, XECGError
from xecg.model.blocks import MLSTMBlock, SLSTMBlock, State
from xecg.model.config import XECGConfig
from xecg.model.init import initialise_
from xecg.model.long import Track, piece_tokens, spilled, sweep
from xecg.model.padding import Prepared, pool, prepare
from xecg.signal.spec import PRESETS, SignalSpec

if TYPE_CHECKING:
    from xecg.model.captured import CapturedEncode, CapturedStep

__all__ = ["XECG"]

_UNTRAINED = """# {name}

**Untrained**: random initial weights (seed {seed}). The outputs carry no learned meaning: good for trying the software.

Research use only, not a medical device.
"""


class _Patch(nn.Module):
    """One linear map of a patch, without bias. The weight is a convolution's, (D, leads, patch)."""

    def __init__(self, config: XECGConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.dim, config.leads, config.patch))

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unflatten(-1, (-1, self.weight.shape[-1])).transpose(1, 2)  # (B, T, leads, patch)
        return F.linear(patches.flatten(-2), self.weight.flatten(1))  # (B, T, D)

    def step(self, x: Tensor) -> Tensor:
        return ops.linear(x.flatten(-2), self.weight.flatten(1))  # (B, leads, patch) → (B, D)


class XECG(nn.Module):
    """The encoder. Research use only, not a medical device.

    config: the shape. spec: the input contract, whose leads and patch must be the configuration's; default: that of the
    published model (12 leads, 100 Hz, raw mV). seed: of the random initial weights. `xecg.load` gives a checkpoint's.

    Attributes: config · spec · name · card (text about origin and limits) · trained (False: the weights are random).
    Raises SpecError when spec and config disagree.
    """

    def __init__(
        self,
        config: XECGConfig,
        *,
        spec: SignalSpec | None = None,
        seed: int = 0,
        name: str = "unnamed",
        card: str | None = None,
        trained: bool = False,
    ) -> None:
        super().__init__()
        spec = PRESETS["xecg"] if spec is None else spec
        for what, ours, theirs in (("leads", config.leads, len(spec.leads)), ("patch", config.patch, spec.patch)):
            if ours != theirs:
                raise SpecError(f"model {what} is {ours}, its signal spec says {theirs}; pass a spec with {ours}")
        self.config, self.spec, self.name, self.trained = config, spec, name, trained
        self.card = _UNTRAINED.format(name=name, seed=seed) if card is None else card
        self.patch = _Patch(config)
        self.mask_token = nn.Parameter(torch.empty(config.dim))
        kinds = {"m": MLSTMBlock, "s": SLSTMBlock}
        self.blocks = nn.ModuleList(
            kinds[kind](config, reverse=config.reverse(i)) for i, kind in enumerate(config.blocks)
        )
        if not self.mask_token.is_meta:
            initialise_(self, seed=seed)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name weights, shape and input contract (not the card). Computed at each use: keep it."""
        from xecg.model.checkpoint import fingerprint

        return fingerprint(self)

    def encode(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        pad_rule: str | None = None,
        hide: Tensor | None = None,
        chunk: int | None = None,
        spill: str | os.PathLike[str] | None = None,
    ) -> Tensor:
        """Tokens in time order, (B, T, D), T = samples // patch (a last, incomplete patch is left out).

        x (B, leads, samples) is the front end's output. lengths (B,) int: valid samples of each record, of which whole
        patches count. mask bool, (B, leads, samples) or (B, samples): False = missing; such samples are taken as 0.
        A token is valid when any of its samples is, in any lead. Tokens after the last valid one are padding: they
        enter no recurrence and come out as 0. Other invalid tokens stay in the sequence; only `embed` leaves them out.

        pad_rule="first-sample": the rule of the published code, for parity: every token enters the recurrences, and
        `embed` leaves out those whose first sample is exactly 0 in all leads. Not together with lengths or mask.
        hide (B, T) bool: True = the mask token takes the patch's place (pretraining).
        chunk: go over the records in pieces of so many tokens, forward and back, handing states on: memory for one piece of each
        record and for the tokens, and the same result up to rounding. spill: a folder; the tokens are kept in a file of it (without
        a name, gone with the tensor), in the type of the weights, on the CPU, where x may be, too; chunk is then chosen unless given.
        Raises ShapeError on a wrong shape, type, device or range, OSError where `spill` has no room. On a GPU the host waits for
        nothing unless `chunk` or `spill` is given: there a wrong length is a CUDA error that comes later.
        """
        return self._encode(prepare(x, self.config, lengths=lengths, mask=mask, pad_rule=pad_rule), hide, chunk, spill)

    def embed(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        pad_rule: str | None = None,
        chunk: int | None = None,
        spill: str | os.PathLike[str] | None = None,
    ) -> Tensor:
        """One vector a record, (B, D): mean (or max, `config.pooling`) of its valid tokens. Arguments as `encode`.

        Raises ShapeError also when a record has no valid token.
        """
        ready = prepare(x, self.config, lengths=lengths, mask=mask, pad_rule=pad_rule)
        return pool(self._encode(ready, None, chunk, spill), ready.valid, self.config.pooling)

    def valid_tokens(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        pad_rule: str | None = None,
    ) -> Tensor:
        """Which tokens `embed` pools, bool (B, T). Arguments and errors as `encode`."""
        ready = prepare(x, self.config, lengths=lengths, mask=mask, pad_rule=pad_rule)
        if ready.valid is not None:
            return ready.valid
        return x.new_ones(x.shape[0], x.shape[-1] // self.config.patch, dtype=torch.bool)

    def captured(
        self, batch: int, samples: int, *, lengths: bool = False, precision: str = "float32"
    ) -> CapturedEncode:
        """`encode` of x (batch, leads, samples) as a CUDA graph: for small batches, whose launches take longer than their work.

        lengths: whether calls give them. precision: "float32" or "bfloat16" (autocast, the dense maps' weights rounded once). On a
        CPU a plain call. Raises ShapeError on sizes that `encode` refuses, SpecError on another precision.
        """
        from xecg.model.captured import CapturedEncode

        return CapturedEncode(self, batch, samples, lengths=lengths, precision=precision)

    def captured_step(self, batch: int) -> CapturedStep:
        """`step_` of `batch` streams as a CUDA graph that holds their states. Raises ShapeError on none, else as `initial_state`."""
        from xecg.model.captured import CapturedStep

        return CapturedStep(self, batch)

    def initial_state(self, batch: int) -> State:
        """The state before the first token of `batch` streams: a flat dict of tensors, first dimension `batch`.

        Raises XECGError when the model has blocks that run backward in time.
        """
        self._needs_causal()
        return {f"{i}.{key}": t for i, block in enumerate(self._stack) for key, t in block.initial_state(batch).items()}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One token of each stream: x (B, leads, patch) and the state before it → token (B, D), the state after it.

        T steps equal one `encode` up to rounding. No gradient. Raises ShapeError on a wrong shape, XECGError when the
        model has blocks that run backward in time.
        """
        state = {key: t.clone() for key, t in state.items()}
        return self.step_(x, state), state

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """`step` that overwrites the tensors of `state`."""
        self._needs_causal()
        shape = (self.config.leads, self.config.patch)
        if x.dim() != 3 or tuple(x.shape[1:]) != shape:
            raise ShapeError(f"x is {tuple(x.shape)}; needed (batch, {shape[0]}, {shape[1]}), one patch a stream")
        y = self.patch.step(x.to(self.mask_token.dtype))
        for i, block in enumerate(self._stack):
            y = block.step_(y, {key.partition(".")[2]: t for key, t in state.items() if key.startswith(f"{i}.")})
        return y

    @property
    def _stack(self) -> list[MLSTMBlock | SLSTMBlock]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _needs_causal(self) -> None:
        if not self.config.causal:
            raise XECGError(
                f"model {self.name!r} ({self.config.blocks}, alternate=true) runs odd blocks backward in time, so it "
                "cannot go token by token; needed one without such blocks, as xecg.load('tiny-causal')"
            )

    def _encode(
        self, ready: Prepared, hide: Tensor | None, chunk: int | None, spill: str | os.PathLike[str] | None
    ) -> Tensor:
        like, B, T = self.mask_token, len(ready.x), ready.tokens
        if spill is None and ready.x.device != like.device:
            raise ShapeError(f"x is on {ready.x.device}; needed on {like.device}, the model's device")
        if hide is not None and (tuple(hide.shape) != (B, T) or hide.dtype != torch.bool):
            raise ShapeError(f"hide is {tuple(hide.shape)} {hide.dtype}; needed {(B, T)} torch.bool")
        if chunk is not None and chunk < 1:
            raise ShapeError(f"chunk is {chunk}; needed at least 1 token, or None")
        if spill is None and (chunk is None or chunk >= T):
            y = self._patches(ready, hide, 0, T)
            for block in self._stack:
                y = block(y, lengths=ready.steps)
        else:
            y = like.new_empty(B, T, len(like)) if spill is None else spilled(spill, (B, T, len(like)), like.dtype)
            sweep(self._stack, self._tracks(ready, hide, y), chunk or piece_tokens(B))
        if ready.steps is None:
            return y
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or y.device.type != "cpu":
            return y.masked_fill((torch.arange(T, device=y.device) >= ready.steps[:, None])[..., None], 0)
        for row, steps in zip(y, ready.steps.tolist()):
            row[steps:] = 0
        return y

    def _tracks(self, ready: Prepared, hide: Tensor | None, tokens: Tensor) -> list[Track]:
        """One for each record; tokens (B, T, D)."""
        steps = [ready.tokens] * len(ready.x) if ready.steps is None else ready.steps.tolist()

        def reader(b: int) -> Callable[[int, int], Tensor]:
            row, hidden = ready.record(b), None if hide is None else hide[b : b + 1]
            return lambda first, last: self._patches(row, hidden, first, last)[0]

        return [Track(reader(b), steps[b], tokens[b]) for b in range(len(ready.x))]

    def _patches(self, ready: Prepared, hide: Tensor | None, first: int, last: int) -> Tensor:
        """What enters the first block at tokens first..last, (B, last − first, D)."""
        # Under autocast the residual stream keeps the weights' type.
        y = self.patch(ready.patches(first, last).to(self.mask_token)).to(self.mask_token)
        return y if hide is None else torch.where(hide[:, first:last, None], self.mask_token, y)
