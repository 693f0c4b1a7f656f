"""Inputs, calls and the differentiable definition that the mLSTM tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.ops.waves import wave
from xecg.ops.reference import mlstm

EMPTY_M = torch.finfo(torch.float32).min
NAMES = ("q", "k", "v", "i", "f", "C0", "n0", "m0")
B, H, DK, DV = 2, 2, 4, 3


def inputs(
    T: int, *, gates: float = 1.0, seed: int = 0, batch: int = B, dk: int = DK, dv: int = DV
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    sequence = {"q": normal(batch, T, H, dk), "k": normal(batch, T, H, dk), "v": normal(batch, T, H, dv)}
    sequence |= {"i": gates * normal(batch, T, H), "f": gates * normal(batch, T, H) + gates}
    return sequence | {"C0": normal(batch, H, dk, dv), "n0": normal(batch, H, dk), "m0": gates * normal(batch, H)}


def without_state(x: dict[str, Tensor]) -> dict[str, Tensor | None]:
    return {name: None if name in ("C0", "n0", "m0") else value for name, value in x.items()}


def call(function, x, lengths=None, **options):
    settings = {"reverse": False, "gate": "exp", "scale": x["q"].shape[-1] ** -0.5, "eps": 1e-6} | options
    return function(*(x[name] for name in NAMES), lengths, **settings)


def call_backward(grads, x, lengths=None, **options):
    return call(lambda *a, **o: mlstm.backward(*grads, *a, **o), x, lengths, **options)


def cast(x: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Sequences in `dtype`, states in float32 (float64 for float64)."""
    state = torch.float64 if dtype == torch.float64 else torch.float32
    return {n: t if t is None else t.to(state if n in ("C0", "n0", "m0") else dtype) for n, t in x.items()}


def definition(q, k, v, i, f, C, n, m, lengths, *, reverse, gate, scale, eps):
    """The equations once more, row by row, differentiable, in the caller's time order: the judge of `backward`."""
    rows = []
    for b in range(q.shape[0]):
        steps = range(q.shape[1] if lengths is None else int(lengths[b]))
        h = [torch.zeros_like(v[b, 0])] * q.shape[1]
        Cb, nb = (C[b], n[b]) if C is not None else (torch.zeros(H, DK, DV).to(v), torch.zeros(H, DK).to(v))
        mb = m[b] if m is not None and gate == "exp" else None if gate == "exp" else torch.zeros(H).to(v)
        for t in reversed(steps) if reverse else steps:
            if gate == "exp":
                log_F = torch.nn.functional.logsigmoid(f[b, t])
                new = i[b, t] if mb is None else torch.maximum(log_F + mb, i[b, t])
                F = torch.zeros_like(new) if mb is None else (log_F + mb - new).exp()
                I, low, mb = (i[b, t] - new).exp(), (-new).exp(), new
            else:
                F, I, low = f[b, t].sigmoid(), i[b, t].sigmoid(), torch.ones(H).to(v)
            Cb = F[:, None, None] * Cb + I[:, None, None] * k[b, t, :, :, None] * v[b, t, :, None, :]
            nb = F[:, None] * nb + I[:, None] * k[b, t]
            den = scale * (q[b, t] * nb).sum(-1)
            num = scale * torch.einsum("hk,hkv->hv", q[b, t], Cb)
            h[t] = num / (torch.maximum(den.abs(), low) + eps)[:, None]
        rows.append((torch.stack(h), Cb, nb, torch.full((H,), EMPTY_M).to(v) if mb is None else mb))
    return tuple(torch.stack(parts) for parts in zip(*rows))


def output_weights(T: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    C, n, m = (
        wave((B, H, DK, DV), (0.7, 0.1, 0.3, 0.2), 0.5),
        wave((B, H, DK), (0.5, 0.7, 0.2), 0.3),
        wave((B, H), (0.3, 0.9), 0.4),
    )
    return wave((B, T, H, DV), (0.3, 0.4, 0.5, 0.6), 0.9), C, n, m


def detached(x: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: t if t is None else t.detach() for name, t in x.items()}


def golden_inputs(*, gates: float = 1.0) -> dict[str, Tensor]:
    q = wave((2, 9, 2, 4), (0.7, 0.3, 0.5, 0.9), 0.1)
    k = wave((2, 9, 2, 4), (0.4, 0.6, 0.2, 0.8), 0.2)
    v = wave((2, 9, 2, 3), (0.5, 0.2, 0.9, 0.3), 0.3)
    i = gates * 3 * wave((2, 9, 2), (0.3, 0.8, 0.4), 0.4)
    f = gates * (2 + 3 * wave((2, 9, 2), (0.6, 0.5, 0.7), 0.5))
    C0 = wave((2, 2, 4, 3), (0.3, 0.5, 0.7, 0.2), 0.6)
    n0, m0 = wave((2, 2, 4), (0.2, 0.4, 0.6), 0.7), wave((2, 2), (0.9, 0.3), 0.8)
    return dict(zip(NAMES, (q, k, v, i, f, C0, n0, m0)))
