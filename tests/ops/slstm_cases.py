"""Inputs, calls and the differentiable definition that the sLSTM tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.ops.waves import wave
from xecg.ops.reference import slstm

NAMES = ("x", "R", "b", "h0", "c0", "n0", "m0")
STATE = NAMES[3:]
B, H, D = 2, 2, 3


def inputs(T: int, *, gates: float = 1.0, seed: int = 0, batch: int = B, size: int = D) -> dict[str, Tensor | None]:
    """n0 ≥ ½, as any state after a step has n > 0."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    parameters = {"R": normal(4, H, size, size) / size**0.5, "b": normal(4, H, size)}
    h, c, n, m = (normal(batch, H, size) for _ in STATE)
    state = dict(zip(STATE, (h, c, n.abs() + 0.5, gates * m)))
    return {"x": gates * normal(batch, T, 4, H, size), **parameters, **state}


def without_state(x: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if name in STATE else value for name, value in x.items()}


def call(function, x, lengths=None, *, reverse=False):
    return function(*(x[name] for name in NAMES), lengths, reverse=reverse)


def call_backward(grads, x, lengths=None, *, reverse=False):
    return slstm.backward(*grads, *(x[name] for name in NAMES), lengths, reverse=reverse)


def cast(x: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Sequences and parameters in `dtype`, states in float32 (float64 for float64)."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    return {n: t if t is None else t.to(state if n in STATE else dtype) for n, t in x.items()}


def definition(x, R, b, h0, c0, n0, m0, lengths, *, reverse):
    """The equations once more, row by row, differentiable, in the caller's time order: the judge of `backward`."""
    rows = []
    for row in range(x.shape[0]):
        steps = range(x.shape[1] if lengths is None else int(lengths[row]))
        zero = torch.zeros_like(x[row, 0, 0])
        h, c, n, m = (zero if s is None else s[row] for s in (h0, c0, n0, m0))
        out = [zero] * x.shape[1]
        for t in reversed(steps) if reverse else steps:
            i, f, z, o = x[row, t] + torch.einsum("hi,ghio->gho", h, R) + b
            log_F = torch.nn.functional.logsigmoid(f)
            first = n == 0
            new = torch.where(first, i, torch.maximum(i, log_F + m))
            F = torch.where(first, 0.0, (log_F + m - new).exp())
            I = (i - new).exp()
            c, n, m = F * c + I * z.tanh(), F * n + I, new
            h = out[t] = o.sigmoid() * c / n
        rows.append((torch.stack(out), h, c, n, m))
    return tuple(torch.stack(parts) for parts in zip(*rows))


def output_weights(T: int) -> tuple[Tensor, ...]:
    """Gradients of h and of the final h, c, n, m."""
    ends = (wave((B, H, D), (0.7, 0.1, 0.3), phase) for phase in (0.5, 0.3, 0.4, 1.1))
    return wave((B, T, H, D), (0.3, 0.4, 0.5, 0.6), 0.9), *ends


def golden_inputs() -> dict[str, Tensor | None]:
    x = 2 * wave((2, 9, 4, 2, 3), (0.7, 0.3, 1.1, 0.5, 0.9), 0.1)
    R = wave((4, 2, 3, 3), (0.4, 0.6, 0.2, 0.8), 0.2) / 2
    b = wave((4, 2, 3), (0.5, 0.2, 0.9), 0.3)
    phases_offsets = ((0.1, 0), (0.2, 0), (0.3, 2), (0.4, 0))
    states = (wave((2, 2, 3), (0.3, 0.5, 0.7), phase) + offset for phase, offset in phases_offsets)
    return dict(zip(NAMES, (x, R, b, *states)))
