"""sLSTM in plain PyTorch: the definition, step by step, and its exact backward; the fallback of every other backend.

Per head (xLSTM, arXiv 2405.04517), gates in the order i, f, z, o, lf = logσ(f), element-wise after the product:

    raw_t = x_t + b + Σ_in h_{t−1,in} R[gate, head, in, out]
    m_t = max(i, lf + m_{t−1})     F = exp(lf + m_{t−1} − m_t)     I = exp(i − m_t)     where n_{t−1} ≠ 0
    m_t = i                        F = 0                           I = 1                where n_{t−1} = 0 (first step)
    c_t = F c_{t−1} + I tanh z     n_t = F n_{t−1} + I             h_t = σ(o) c_t / n_t

Backward: m is held constant in F and I, as h does not depend on it; what the final c, n and m (stabilised as they are)
owe to it is μ = dm_t − dI·I − dF·F, which goes to the branch that won the maximum.

i = −∞ is no input, f = −∞ forgets all; where nothing is left, c = n = h = 0 and the next step is a first step again.

Shapes: x (B,T,4,H,D), R (4,H,D,D), b (4,H,D), h, c, n, m (B,H,D). Inside, heads come first, (H,B,…), so that one
batched product per step serves all gates. Arithmetic is float32, or float64 for float64 inputs; h feeds back unrounded.
Arguments are not checked here: that is the public op's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from xecg.ops.reference._timeline import Timeline

__all__ = ["backward", "forward", "step", "step_"]

_EMPTY_M = torch.finfo(torch.float32).min  # stands for m = −∞

_State = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c, n, m, each (H, B, D)


def forward(
    x: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h (B,T,H,D) in x's type, and the final h, c, n, m (B,H,D) (float32 or float64)."""
    run = _Run.of(x, R, b, lengths, reverse=reverse)
    state = run.load_state(h0, c0, n0, m0)
    h = run.x.new_empty(*run.x.shape[:3], R.shape[-1])
    for t in range(run.x.shape[0]):
        state = run.frozen(t, _step(run.raw(t, state[0]), state), state)
        h[t] = state[0]
    hT, cT, nT, mT = (s.transpose(0, 1).contiguous() for s in state)
    return run.unfold(h).to(x.dtype), hT, cT, nT, mT


def step(
    x: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step: x (B,4,H,D) and the state → the new h, c, n, m (float32 or float64)."""
    return forward(x[:, None], R, b, h, c, n, m, None, reverse=False)[1:]


def step_(x: Tensor, R: Tensor, b: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, out: Tensor) -> None:
    """`step` that overwrites the state and writes h, rounded to x's type, into out (B,H,D)."""
    new = step(x, R, b, h, c, n, m)
    for old, value in zip((h, c, n, m), new):
        old.copy_(value)
    out.copy_(h)


def backward(
    dh: Tensor,
    dhT: Tensor | None,
    dcT: Tensor | None,
    dnT: Tensor | None,
    dmT: Tensor | None,
    x: Tensor,
    R: Tensor,
    b: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Exact gradients dx, dR, db, dh0, dc0, dn0, dm0 (the last four None without an initial state).

    dh (B,T,H,D); dhT … dmT belong to the final state, None for zero. All states are recomputed: O(T) memory.
    """
    run = _Run.of(x, R, b, lengths, reverse=reverse)
    states = [run.load_state(h0, c0, n0, m0)]
    raws = []
    for t in range(run.x.shape[0]):
        raws.append(run.raw(t, states[-1][0]))
        states.append(run.frozen(t, _step(raws[-1], states[-1]), states[-1]))
    carried = run.load_state_gradient((dhT, dcT, dnT, dmT))
    d_out = run.fold(dh)
    draw = torch.empty_like(run.x)  # (T, H, B, 4D)
    for t in reversed(range(len(raws))):
        here = (carried[0] + d_out[t], *carried[1:])
        draw[t], dc, dn, dm = _step_backward(raws[t], states[t], states[t + 1], here)
        if run.padding is not None:
            draw[t].masked_fill_(run.padding[t], 0.0)
        carried = run.frozen(t, (draw[t] @ run.R.mT, dc, dn, dm), carried)

    grads = (run.unfold(draw.unflatten(-1, (4, R.shape[-1]))).transpose(2, 3), *_parameter_gradients(run, states, draw))
    dx, dR, db = (d.to(p.dtype) for d, p in zip(grads, (x, R, b)))
    if h0 is None or c0 is None or n0 is None or m0 is None:
        return dx, dR, db, None, None, None, None
    dh0, dc0, dn0, dm0 = (d.transpose(0, 1).to(s.dtype) for d, s in zip(carried, (h0, c0, n0, m0)))
    return dx, dR, db, dh0, dc0, dn0, dm0


def _parameter_gradients(run: _Run, states: list[_State], draw: Tensor) -> tuple[Tensor, Tensor]:
    """dR (4,H,D,D) by one product over all steps and rows, db (4,H,D)."""
    heads, size = run.R.shape[:2]
    if not len(draw):
        return run.R.new_zeros(4, heads, size, size), run.R.new_zeros(4, heads, size)
    h = torch.stack([s[0] for s in states[:-1]], 1).flatten(1, 2)  # (H, T·B, D)
    per_head = draw.transpose(0, 1).flatten(1, 2)  # (H, T·B, 4D)
    dR = (h.mT @ per_head).unflatten(-1, (4, size)).permute(2, 0, 1, 3)
    return dR, per_head.sum(1).unflatten(-1, (4, size)).transpose(0, 1)


@dataclass(frozen=True)
class _Run:
    """A call in processing order: x + b (T,H,B,4D), R (H,D,4D), padding (T,B,1) True on padded steps or None."""

    x: Tensor
    R: Tensor
    padding: Tensor | None
    timeline: Timeline

    @classmethod
    def of(cls, x: Tensor, R: Tensor, b: Tensor, lengths: Tensor | None, *, reverse: bool) -> _Run:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        timeline = Timeline.of(x.shape[0], x.shape[1], lengths, reverse=reverse, device=x.device)
        biased = timeline.take(x).to(dtype) + b.to(dtype)
        padding = None if timeline.valid is None else ~timeline.valid.T[..., None]
        return cls(
            biased.permute(1, 3, 0, 2, 4).flatten(-2).contiguous(),
            R.to(dtype).permute(1, 2, 0, 3).flatten(-2).contiguous(),
            padding,
            timeline,
        )

    def raw(self, t: int, h: Tensor) -> Tensor:
        """Gate pre-activations (H,B,4D) of step t."""
        return torch.baddbmm(self.x[t], h, self.R)

    def frozen(self, t: int, new: _State, old: _State) -> _State:
        """`new`, but `old` in rows whose step t is padding."""
        if self.padding is None:
            return new
        h, c, n, m = (torch.where(self.padding[t], o, s) for s, o in zip(new, old))
        return h, c, n, m

    def fold(self, x: Tensor) -> Tensor:
        """(B,T,H,D) of the caller → (T,H,B,D) in processing order, 0 on padding."""
        return self.timeline.take(x).to(self.x.dtype).permute(1, 2, 0, 3)

    def unfold(self, x: Tensor) -> Tensor:
        """(T,H,B,…) in processing order → (B,T,H,…) of the caller, 0 on padding."""
        return self.timeline.put(x.movedim(2, 0))

    def load_state(self, h0: Tensor | None, c0: Tensor | None, n0: Tensor | None, m0: Tensor | None) -> _State:
        h, c, n, m = (self._or_zero(s) for s in (h0, c0, n0, m0))
        return h, c, n, m

    def load_state_gradient(self, d_end: tuple[Tensor | None, ...]) -> _State:
        dh, dc, dn, dm = (self._or_zero(d) for d in d_end)
        return dh, dc, dn, dm

    def _or_zero(self, s: Tensor | None) -> Tensor:
        heads, batch, size = self.x.shape[1], self.x.shape[2], self.R.shape[1]
        return self.x.new_zeros(heads, batch, size) if s is None else s.to(self.x.dtype, copy=True).transpose(0, 1)


def _gates(raw: Tensor, state: _State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """i, lf + m_{t−1} (−∞ where that branch is absent), m_t, F and I."""
    _, _, n, m = state
    i, f = raw.chunk(4, -1)[:2]
    kept = (logsigmoid(f) + m).masked_fill(n == 0, -torch.inf)
    m_new = torch.maximum(i, kept)
    top = m_new.masked_fill(m_new == -torch.inf, 0.0)  # no −∞ − (−∞)
    return i, kept, m_new, (kept - top).exp(), (i - top).exp()


def _step(raw: Tensor, state: _State) -> _State:
    _, c, n, _ = state
    z, o = raw.chunk(4, -1)[2:]
    _, _, m, F, I = _gates(raw, state)
    c = F * c + I * z.tanh()
    n = F * n + I
    h = (o.sigmoid() * c / n).masked_fill(n == 0, 0.0)
    return h, c, n, m.clamp(min=_EMPTY_M)


def _step_backward(raw: Tensor, old: _State, new: _State, d_new: _State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """draw (H,B,4D), and dc, dn, dm of the state before the step."""
    _, c_old, n_old, _ = old
    _, c, n, _ = new
    dh, dc, dn, dm = d_new
    _, f, z, o = raw.chunk(4, -1)
    i, kept, _, F, I = _gates(raw, old)
    open_, z = o.sigmoid(), z.tanh()
    inverse = n.reciprocal().masked_fill(n == 0, 0.0)
    do = dh * c * inverse * open_ * (1 - open_)
    dc = dc + dh * open_ * inverse
    dn = dn - dh * open_ * c * inverse * inverse
    dI = (dc * z + dn) * I
    dF = (dc * c_old + dn * n_old) * F
    mu = dm - dI - dF
    input_won = i >= kept
    di = dI + mu.where(input_won, 0.0)
    dkept = dF + mu.where(~input_won, 0.0)  # 0 at a first step: F = 0, and the input has won
    draw = torch.cat([di, dkept * (-f).sigmoid(), dc * I * (1 - z * z), do], -1)
    return draw, dc * F, dn * F, dkept
