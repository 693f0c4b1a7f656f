"""`XECG.encode` and `XECG.step_` of one shape as CUDA graphs: recorded once, then replayed without a launch a kernel.

`base` runs some hundreds of kernels an encode; at batch 1 the host needs longer to launch them than the GPU to run them, and a step
of a stream is all launches. A graph replays the same kernels on the same memory, so a call copies its input into place, replays, and
its result lies where the last one's lay. Where the model is not on an NVIDIA GPU, the same objects make plain calls.

Needs a path on which the host never waits for the device: tests/model/test_captured.py holds the encoder to it. Not yet run on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xecg.errors import ShapeError, SpecError
from xecg.model.blocks import State

if TYPE_CHECKING:
    from xecg.model.encoder import XECG

__all__ = ["CapturedEncode", "CapturedStep"]

_WARMING = 3  # calls before the capture: what compiles or allocates at first use has done so
_PRECISIONS = ("float32", "bfloat16")
# How names of dense maps end, ffn_up and ffn_down among them: what autocast rounds at each call is rounded here once.
_DENSE = ("patch.weight", "up", "down", "gate_i.weight", "gate_f.weight", "in_i", "in_f", "in_z", "in_o")


class CapturedEncode:
    """`XECG.encode` of x (batch, leads, samples), with the weights that the model has now. Made by `XECG.captured`."""

    def __init__(self, model: XECG, batch: int, samples: int, *, lengths: bool, precision: str) -> None:
        weight, config = model.mask_token, model.config
        if precision not in _PRECISIONS:
            raise SpecError(f"precision is {precision!r}; needed one of {', '.join(_PRECISIONS)}")
        if batch < 1 or samples < config.patch:
            raise ShapeError(f"x is {batch} records of {samples} samples; needed 1 or more of {config.patch} or more")
        self._x = weight.new_zeros(batch, config.leads, samples, dtype=torch.float32)
        # Full lengths: where no sample is there, warming up would take ways that no call takes.
        self._lengths = self._x.new_full((batch,), samples, dtype=torch.int64) if lengths else None
        half = precision == "bfloat16"
        made = _narrowed(model) if half else model

        def run() -> Tensor:
            # Without autocast's cache: what it holds would lie in the memory of the graph and be used outside.
            with torch.autocast(weight.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
                return made.encode(self._x, lengths=self._lengths)

        self._graph = _Graph(run, made)

    def __call__(self, x: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """x (batch, leads, samples), lengths (batch,) where the graph was made with them, on any device → tokens (batch, T, D).

        The result is overwritten by the next call: `clone` it to keep it. Raises ShapeError for another shape, or lengths amiss.
        """
        _fill(self._x, x, "x")
        if (lengths is None) != (self._lengths is None):
            needed = "none: captured without lengths" if self._lengths is None else "lengths: captured with them"
            raise ShapeError(f"lengths are {'given' if lengths is not None else 'absent'}; needed {needed}")
        if lengths is not None and self._lengths is not None:
            _fill(self._lengths, lengths, "lengths")
        return self._graph()


class CapturedStep:
    """`XECG.step_` of a batch of streams that hold their states here. Made by `XECG.captured_step`.

    state: as `XECG.initial_state`; its tensors may be read and written between calls (in place).
    """

    def __init__(self, model: XECG, batch: int) -> None:
        weight, config = model.mask_token, model.config
        if batch < 1:
            raise ShapeError(f"batch is {batch}; needed 1 stream or more")
        self.state: State = model.initial_state(batch)
        self._x = weight.new_zeros(batch, config.leads, config.patch, dtype=torch.float32)
        self._graph = _Graph(lambda: model.step_(self._x, self.state), model, self.state)

    def __call__(self, x: Tensor) -> Tensor:
        """x (batch, leads, patch), the next patch of each stream → token (batch, D), overwritten by the next call."""
        _fill(self._x, x, "x")
        return self._graph()


class _Graph:
    """A function of tensors that stay where they are, recorded where `model` is on a GPU. held: what it overwrites, left as it was."""

    def __init__(self, run: Callable[[], Tensor], model: nn.Module, held: State | None = None) -> None:
        self._run = torch.no_grad()(run)
        self._recorded: tuple[torch.cuda.CUDAGraph, Tensor] | None = None
        # A replay reads where the weights lay: that memory must stay, whatever becomes of the model.
        self._weights = [p.detach() for p in model.parameters()]
        device = self._weights[0].device
        if device.type == "cuda":
            before = {name: t.clone() for name, t in (held or {}).items()}
            self._recorded = self._record(device)
            for name, t in before.items():
                (held or {})[name].copy_(t)

    def _record(self, device: torch.device) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARMING):
                    self._run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = self._run()
        return graph, out

    def __call__(self) -> Tensor:
        if self._recorded is None:
            return self._run()
        graph, out = self._recorded
        graph.replay()
        return out


def _fill(place: Tensor, given: Tensor, name: str) -> None:
    if tuple(given.shape) != tuple(place.shape):
        raise ShapeError(f"{name} is {tuple(given.shape)}; needed {tuple(place.shape)}, the shape that was captured")
    place.copy_(given)


def _narrowed(model: XECG) -> XECG:
    """A second model that shares all with the first but the weights of its dense maps, which are rounded to bfloat16."""
    twin = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    for name, parameter in list(twin.named_parameters()):
        if name.endswith(_DENSE):
            home, _, own = name.rpartition(".")
            rounded = nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False)
            setattr(twin.get_submodule(home), own, rounded)
    return twin
