"""`Stepper`: single tokens of many streams, their states kept by slot and advanced where they lie.

`XECG.step_` takes the states of a batch; a live service would copy every patient's state (77 kB in `tiny-causal`) out and back for each
token, which costs twice the arithmetic. Here the states stand in one array per name, first dimension the slot. Dense layers run over
the rows of a block; recurrences run over each stretch of neighbouring slots, at its address. Buffers are made once, and the kernels of
`xecg._cpu` are called with fixed addresses: the checks of the public ops are made here, at the beginning. Same kernels, same order of
operations, same bits as `step_`. Where the compiled kernels do not serve (another backend, device or type), rows are gathered,
stepped by `step_` and put back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xecg.model.blocks import MLSTMBlock, SLSTMBlock, State
from xecg.model.config import CONV_TAPS
from xecg.model.encoder import XECG
from xecg.ops import _dispatch
from xecg.ops.cpu import DTYPES, native

__all__ = ["BLOCK_ROWS", "Stepper"]

BLOCK_ROWS = 128  # streams stepped together: their buffers stay in the second-level cache
_EPS = 1e-5  # of every norm, as in blocks.py
_MLSTM_EPS = 1e-6  # default of `ops.mlstm`

Runs = list[tuple[int, int, int]]  # (first row, rows, first slot): neighbouring slots of a block
_Step = Callable[[int, Tensor, Runs], None]


class Stepper:
    """Steps of up to `capacity` streams of a causal model, with the weights that it has now.

    state: as `XECG.initial_state(capacity)`; rows may be read and written between steps. Raises XECGError for a model with reverse
    blocks.
    """

    def __init__(self, model: XECG, capacity: int) -> None:
        self.model = model
        self.state: State = model.initial_state(capacity)
        self._first = model.initial_state(1)
        self._steps: list[_Step] | None = None
        if _compiled(model):
            self._kernels = _Kernels(model, self.state)
            self._steps = self._kernels.steps

    @property
    def compiled(self) -> bool:
        """Whether states are advanced in place by the compiled kernels."""
        return self._steps is not None

    @property
    def state_bytes(self) -> int:
        """Bytes of state per stream."""
        return sum(t[0].numel() * t.element_size() for t in self.state.values())

    def reset(self, slot: int) -> None:
        """The slot's state before its first token."""
        for name, t in self.state.items():
            t[slot] = self._first[name][0]

    def get(self, slot: int) -> dict[str, np.ndarray]:
        """A copy of one slot's state: name → array."""
        return {name: t[slot].cpu().numpy().copy() for name, t in self.state.items()}

    def put(self, slot: int, state: dict[str, np.ndarray]) -> None:
        """Overwrite one slot's state with what `get` gave."""
        for name, t in self.state.items():
            t[slot] = torch.from_numpy(state[name])

    @torch.no_grad()
    def step_(self, x: np.ndarray, slots: np.ndarray) -> Tensor:
        """One token of some streams: x float32 (n, leads, patch), contiguous; slots int64 (n,), ascending, each once; n at most
        `BLOCK_ROWS` → tokens (n, D), valid until the next call. A row's bits do not depend on n, on the other rows, or on the slot."""
        if self._steps is not None:
            return self._kernels.step(x, slots)
        index = torch.from_numpy(slots)
        device = next(iter(self.state.values())).device
        state = {name: t.index_select(0, index.to(device)) for name, t in self.state.items()}
        y = self.model.step_(torch.from_numpy(x).to(device), state)
        for name, t in self.state.items():
            t.index_copy_(0, index.to(device), state[name])
        return y.cpu()


def _compiled(model: XECG) -> bool:
    """Whether every kernel of the step path serves this model's shape, type and device, and nobody forces another backend."""
    weight, config = model.mask_token, model.config
    inner, unit = config.inner // config.heads, config.dim // config.heads
    sizes: dict[str, dict[str, int]] = {
        "mlstm": {"dk": inner, "dv": inner},
        "slstm": {"d": unit},
        "causal_conv1d": {"taps": CONV_TAPS},
        "linear": {},
        "gated": {},
        "norm": {},
    }
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    served = (_dispatch.pick(op, weight.device, weight.dtype, **s) for op, s in sizes.items())
    return all(module.__name__.startswith("xecg.ops.cpu.") for module in served)


_F4 = 4  # bytes
_TYPE = DTYPES[torch.float32]


def _frozen(t: Tensor) -> Tensor:
    """A contiguous float32 copy: its address stays, whatever is done to the model."""
    return t.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return torch.layer_norm(x, x.shape[-1:], weight, None, _EPS, False)


class _Linear:
    """`ops.linear` of fixed weights into fixed addresses. weight (N, K) or (G, N, K)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._keep = weight, bias = _frozen(weight), None if bias is None else _frozen(bias)
        G, N, K = weight.shape if weight.dim() == 3 else (1, *weight.shape)
        self._sizes, self._run = (G, N, K, _TYPE, _TYPE), native().linear
        self._weights = weight.data_ptr(), 0 if bias is None else bias.data_ptr()

    def __call__(self, rows: int, x: int, x_row: int, y: int, y_row: int, x_group: int = 0, y_group: int = 0) -> None:
        """Addresses of x and y, and their strides in floats from row to row and group to group."""
        self._run(rows, *self._sizes, x, x_row, x_group, *self._weights, y, y_row, y_group)


class _Place:
    """Where a slot's part of one state tensor lies."""

    def __init__(self, t: Tensor) -> None:
        self.first, self.step = t.data_ptr(), t.stride(0) * t.element_size()

    def __call__(self, slot: int) -> int:
        return self.first + slot * self.step


class _Kernels:
    """The whole model as calls into `xecg._cpu` on buffers of `BLOCK_ROWS` rows."""

    def __init__(self, model: XECG, state: State) -> None:
        config = model.config
        self._width = config.leads * config.patch
        self._patch = _Linear(model.patch.weight.flatten(1))
        self._y = torch.zeros(BLOCK_ROWS, config.dim)
        kinds: dict[type, Any] = {MLSTMBlock: _MLSTMSteps, SLSTMBlock: _SLSTMSteps}
        self.steps: list[_Step] = []
        for i, block in enumerate(model.blocks):
            own = {name.partition(".")[2]: _Place(t) for name, t in state.items() if name.startswith(f"{i}.")}
            self.steps.append(kinds[type(block)](block, own))

    def step(self, x: np.ndarray, slots: np.ndarray) -> Tensor:
        n = len(slots)
        y = self._y[:n]
        self._patch(n, x.ctypes.data, self._width, y.data_ptr(), y.shape[1])
        runs = _runs(slots)
        for step in self.steps:
            step(n, y, runs)
        return y


def _runs(slots: np.ndarray) -> Runs:
    """Stretches of neighbouring slots."""
    n = len(slots)
    if int(slots[-1]) - int(slots[0]) == n - 1:
        return [(0, n, int(slots[0]))]
    starts = [0, *(np.flatnonzero(np.diff(slots) != 1) + 1).tolist()]
    return [(a, b - a, int(slots[a])) for a, b in zip(starts, [*starts[1:], n])]


class _Conv:
    """One step of the causal convolution with SiLU; the state's rows are overwritten."""

    def __init__(self, conv: Any, state: _Place) -> None:
        self._keep = weight, bias = _frozen(conv.weight), _frozen(conv.bias)
        self._C, self._K = weight.shape
        self._weight, self._bias, self._state, self._run = (
            weight.data_ptr(),
            bias.data_ptr(),
            state,
            native().conv1d_forward,
        )

    def __call__(self, runs: Runs, x: int, x_row: int, out: int) -> None:
        C = self._C
        for row, rows, slot in runs:
            state = self._state(slot)
            self._run(
                rows, 1, C, self._K, 0, False, True, _TYPE, x + row * x_row * _F4, x_row, 0, self._weight, self._bias, state,
                out + row * C * _F4, C, 0, state,
            )  # fmt: skip


class _SLSTMSteps:
    """`SLSTMBlock.step_`."""

    def __init__(self, block: SLSTMBlock, state: dict[str, _Place]) -> None:
        H, D = block.bias.shape[1:]
        d, ffn = H * D, block.ffn_down.shape[1]
        self._sizes, self._ffn = (H, D), ffn
        self._norm, self._ffn_norm = (_frozen(1 + n.weight) for n in (block.norm, block.ffn_norm))
        self._headnorm = _frozen(block.headnorm.weight)
        self._conv = _Conv(block.conv, state["conv"])
        self._gates = [_Linear(w) for w in (block.in_i, block.in_f, block.in_z, block.in_o)]
        self._R, self._bias = _frozen(block.R), _frozen(block.bias)
        self._panels = torch.zeros(0)
        if not native().slstm_reads_plain(D):
            self._panels = torch.empty(native().slstm_packed_size(H, D))
            native().slstm_pack(self._R.data_ptr(), H, D, False, self._panels.data_ptr())
        self._cell = [state[name] for name in "hcnm"]
        self._up, self._down = _Linear(block.ffn_up), _Linear(block.ffn_down)
        self._a, self._h = torch.zeros(BLOCK_ROWS, d), torch.zeros(BLOCK_ROWS, H, D)
        self._pre, self._wide = torch.zeros(BLOCK_ROWS, 4 * d), torch.zeros(BLOCK_ROWS, 2 * ffn)
        self._hidden, self._out = torch.zeros(BLOCK_ROWS, ffn), torch.zeros(BLOCK_ROWS, d)

    def __call__(self, n: int, y: Tensor, runs: Runs) -> None:
        H, D = self._sizes
        d = H * D
        x = _norm(y, self._norm)
        a, pre = self._a.data_ptr(), self._pre.data_ptr()
        self._conv(runs, x.data_ptr(), d, a)
        for gate, (source, linear) in enumerate(zip((a, a, x.data_ptr(), x.data_ptr()), self._gates)):
            linear(n, source, d, pre + gate * d * _F4, 4 * d, D, D)
        R, bias, panels, h = self._R.data_ptr(), self._bias.data_ptr(), self._panels.data_ptr(), self._h.data_ptr()
        for row, rows, slot in runs:
            native().slstm_step(
                rows, H, D, _TYPE, pre + row * 4 * d * _F4, 4 * d, d, D, R, bias, panels, *(s(slot) for s in self._cell),
                h + row * d * _F4,
            )  # fmt: skip
        native().norm_forward(
            n, H, D, _EPS, _TYPE, _TYPE, h, d, D, self._headnorm.data_ptr(), y.data_ptr(), d, 0, 0, 0, y.data_ptr()
        )  # fmt: skip
        x, wide, ffn = _norm(y, self._ffn_norm), self._wide.data_ptr(), self._ffn
        self._up(n, x.data_ptr(), d, wide, 2 * ffn)
        hidden, out = self._hidden.data_ptr(), self._out.data_ptr()
        native().gated_forward(n, ffn, True, _TYPE, wide, 2 * ffn, wide + ffn * _F4, 2 * ffn, hidden)
        self._down(n, hidden, ffn, out, d)
        y.add_(self._out[:n])


class _MLSTMSteps:
    """`MLSTMBlock.step_`."""

    def __init__(self, block: MLSTMBlock, state: dict[str, _Place]) -> None:
        p, H, d = block.skip.shape[0], block.heads, block.down.shape[0]
        self._sizes = (d, p, H, p // H)
        self._norm, self._headnorm = _frozen(1 + block.norm.weight), _frozen(block.headnorm.weight)
        self._skip = _frozen(block.skip)
        self._conv = _Conv(block.conv, state["conv"])
        self._up, self._down = _Linear(block.up), _Linear(block.down)
        self._qkv, self._group = [_Linear(w) for w in (block.q, block.k, block.v)], block.q.shape[-1]
        weight = torch.cat((block.gate_i.weight, block.gate_f.weight)).unflatten(1, (3, -1)).unbind(1)
        bias = torch.cat((block.gate_i.bias, block.gate_f.bias))
        self._gates = [_Linear(w, b) for w, b in zip(weight, (bias, None, None))]
        self._cell = [state[name] for name in "Cnm"]
        self._uz, self._a = torch.zeros(BLOCK_ROWS, 2 * p), torch.zeros(BLOCK_ROWS, p)
        self._parts = torch.zeros(3, BLOCK_ROWS, p)  # q, k, v
        self._pre = torch.zeros(3, BLOCK_ROWS, 2 * H)
        self._h, self._hidden = torch.zeros(BLOCK_ROWS, H, p // H), torch.zeros(BLOCK_ROWS, p)
        self._out = torch.zeros(BLOCK_ROWS, d)

    def __call__(self, n: int, y: Tensor, runs: Runs) -> None:
        d, p, H, D = self._sizes
        x, u, a = _norm(y, self._norm), self._uz.data_ptr(), self._a.data_ptr()
        self._up(n, x.data_ptr(), d, u, 2 * p)
        self._conv(runs, u, 2 * p, a)
        q, pre, g = self._parts.data_ptr(), self._pre.data_ptr(), self._group
        part, gate = BLOCK_ROWS * p * _F4, BLOCK_ROWS * 2 * H * _F4
        for i, (source, row, linear) in enumerate(zip((a, a, u), (p, p, 2 * p), self._qkv)):
            linear(n, source, row, q + i * part, p, g, g)
        for i, linear in enumerate(self._gates):
            linear(n, q + i * part, p, pre + i * gate, 2 * H)
        self._pre[0, :n].add_(self._pre[1, :n]).add_(self._pre[2, :n])
        h = self._h.data_ptr()
        for row, rows, slot in runs:
            at, i = q + row * p * _F4, pre + row * 2 * H * _F4
            native().mlstm_step(
                rows, H, D, D, False, D**-0.5, _MLSTM_EPS, _TYPE, at, p, D, at + part, p, D, at + 2 * part, p, D, i, 2 * H, 1,
                i + H * _F4, 2 * H, 1, *(s(slot) for s in self._cell), h + row * p * _F4,
            )  # fmt: skip
        hidden, out = self._hidden.data_ptr(), self._out.data_ptr()
        native().norm_forward(
            n, H, D, _EPS, _TYPE, _TYPE, h, p, D, self._headnorm.data_ptr(), a, p, self._skip.data_ptr(), u + p * _F4, 2 * p, hidden
        )  # fmt: skip
        self._down(n, hidden, p, out, d)
        y.add_(self._out[:n])
