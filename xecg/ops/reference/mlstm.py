"""mLSTM in plain PyTorch: the definition, and the chunkwise form that serves where no faster backend does.

Per batch and head (xLSTM, arXiv 2405.04517; chunkwise form after TFLA, arXiv 2503.14376), with lf = logσ(f), s = scale:

    exp gate   m_t = max(lf_t + m_{t−1}, i_t)   F = exp(lf_t + m_{t−1} − m_t)   I = exp(i_t − m_t)   lo_t = exp(−m_t)
    sig gate   m = 0                            F = σ(f_t)                      I = σ(i_t)           lo_t = 1
    C_t = F C_{t−1} + I k_t v_tᵀ      n_t = F n_{t−1} + I k_t
    num_t = s C_tᵀ q_t     den_t = s q_t·n_t     h_t = num_t / (max(|den_t|, lo_t) + eps)

Both gates are one computation: "sig" is "exp" with i replaced by logσ(i) and m held at 0. Inside a chunk of L steps all
h come from one L×(L+1) table of log weights, column 0 the state at the chunk's start, column j+1 the input of step j:

    D_tj = Σ_{j<τ≤t} lf_τ + i_j,  D_t,init = Σ_{τ≤t} lf_τ + m_0,  m_t = max_j D_tj,  W = exp(D − m) = [a | A]
    S = A ∘ (s q kᵀ)     num = S v + a s q C_0     den = rowsum(S) + a s q·n_0

The sums over τ are running sums per column, never differences of prefix sums: they stay exact to rounding for any gate,
and −∞ (f = −∞ forgets all, i = −∞ is no input, m_0 = −∞ is the empty state) never meets −∞ in a subtraction.

Shapes: q, k (B,T,H,DK), v (B,T,H,DV), i, f (B,T,H), C (B,H,DK,DV), n (B,H,DK), m (B,H). Inside, N = B·H streams.
Arithmetic is float32, or float64 for float64 inputs. m = −∞ leaves as the most negative float32 and is accepted back;
"sig" ignores m.
Arguments are not checked here: that is the public op's work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from xecg.ops.reference._timeline import Timeline

__all__ = ["backward", "forward", "recurrent", "step", "step_"]

_CHUNK = 64  # steps: the L×L tables stay in cache, and products are large enough for BLAS
_EMPTY_M = torch.finfo(torch.float32).min  # stands for m = −∞ outside this file

_State = tuple[Tensor, Tensor, Tensor]  # C (N, DK, DV), n (N, DK), m (N) with m = −∞ when empty


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    gate: str,
    scale: float,
    eps: float,
    chunk_size: int | None = None,
    want_state: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chunkwise mLSTM: h (B,T,H,DV) in v's type, and the final C, n, m (float32 or float64; empty without want_state)."""
    seq = _Sequence.of(q, k, v, i, f, lengths, reverse=reverse, gate=gate, scale=scale)
    state = seq.load_state(C0, n0, m0)
    h = torch.empty_like(seq.v)
    for part, span in seq.chunks(chunk_size):
        out = _outputs(part, state)
        h[:, span] = out.num / (torch.maximum(out.den.abs(), out.low) + eps)[..., None]
        state = _advance(part, state)
    if not want_state:
        none = seq.v.new_empty(0)
        return seq.unfold(h).to(v.dtype), none, none.clone(), none.clone()
    return seq.unfold(h).to(v.dtype), *seq.store_state(state)


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    gate: str,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition, one step after the other; returns what `forward` returns."""
    seq = _Sequence.of(q, k, v, i, f, lengths, reverse=reverse, gate=gate, scale=scale)
    state = seq.load_state(C0, n0, m0)
    h = torch.empty_like(seq.v)
    for t in range(q.shape[1]):
        h[:, t], state = _step(seq.q[:, t], seq.k[:, t], seq.v[:, t], seq.li[:, t], seq.lf[:, t], state, seq.exp, eps)
    return seq.unfold(h).to(v.dtype), *seq.store_state(state)


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    *,
    gate: str,
    scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of the definition: q, k (B,H,DK), v (B,H,DV), i, f (B,H) and the state → h (B,H,DV), C, n, m."""
    q, k, v, i, f = (x[:, None] for x in (q, k, v, i, f))
    h, C, n, m = recurrent(q, k, v, i, f, C, n, m, None, reverse=False, gate=gate, scale=scale, eps=eps)
    return h[:, 0], C, n, m


def step_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C: Tensor,
    n: Tensor,
    m: Tensor,
    out: Tensor,
    *,
    gate: str,
    scale: float,
    eps: float,
) -> None:
    """`step` that overwrites C, n, m and writes the output into `out`."""
    h, *new = step(q, k, v, i, f, C, n, m, gate=gate, scale=scale, eps=eps)
    out.copy_(h)
    for old, value in zip((C, n, m), new):
        old.copy_(value)


def backward(
    dh: Tensor,
    dC: Tensor | None,
    dn: Tensor | None,
    dm: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    C0: Tensor | None,
    n0: Tensor | None,
    m0: Tensor | None,
    lengths: Tensor | None,
    *,
    reverse: bool,
    gate: str,
    scale: float,
    eps: float,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Exact gradients dq, dk, dv, di, df, dC0, dn0, dm0 (the last three None without an initial state).

    dh (B,T,H,DV); dC, dn, dm belong to the final state, None for zero. Chunk states are recomputed: memory is O(T).
    """
    seq = _Sequence.of(q, k, v, i, f, lengths, reverse=reverse, gate=gate, scale=scale)
    parts = list(seq.chunks(chunk_size))
    states = [seq.load_state(C0, n0, m0)]
    for part, _ in parts[:-1]:
        states.append(_advance(part, states[-1]))
    d_out = seq.fold(dh)
    d_state = seq.load_state_gradient(dC, dn, dm)
    dq, dk, dv = (torch.empty_like(x) for x in (seq.q, seq.k, seq.v))
    dli, dlf = (torch.empty_like(x) for x in (seq.li, seq.lf))
    for (part, span), state in zip(reversed(parts), reversed(states)):
        grads, d_state = _chunk_backward(part, state, d_out[:, span], d_state, eps)
        dq[:, span], dk[:, span], dv[:, span], dli[:, span], dlf[:, span] = grads
    di = dli if seq.exp else dli * -seq.li.expm1()  # ∂logσ(x)/∂x = 1 − σ(x)
    df = dlf * -seq.lf.expm1()
    dq, dk, dv, di, df = (seq.unfold(d).to(x.dtype) for d, x in zip((scale * dq, dk, dv, di, df), (q, k, v, i, f)))
    if C0 is None or n0 is None or m0 is None:
        return dq, dk, dv, di, df, None, None, None
    dC0, dn0, dm0 = (d.view(x.shape).to(x.dtype) for d, x in zip(d_state, (C0, n0, m0)))
    return dq, dk, dv, di, df, dC0, dn0, dm0


@dataclass(frozen=True)
class _Sequence:
    """Inputs in processing order, padding removed: q (scaled), k (N,T,DK), v (N,T,DV), li, lf log gates (N,T)."""

    q: Tensor
    k: Tensor
    v: Tensor
    li: Tensor
    lf: Tensor
    timeline: Timeline
    leads: tuple[int, int]  # B, H
    exp: bool

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        i: Tensor,
        f: Tensor,
        lengths: Tensor | None,
        *,
        reverse: bool,
        gate: str,
        scale: float,
    ) -> _Sequence:
        batch, steps, heads = i.shape
        timeline = Timeline.of(batch, steps, lengths, reverse=reverse, device=v.device)
        dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
        q, k, v = (_fold(timeline.take(x), dtype) for x in (q, k, v))
        # Padding neither writes (i = −∞) nor forgets (f = +∞), so the state passes through it untouched.
        i, f = _fold(timeline.take(i, padding=-torch.inf), dtype), _fold(timeline.take(f, padding=torch.inf), dtype)
        exp = gate == "exp"
        return cls(q * scale, k, v, i if exp else logsigmoid(i), logsigmoid(f), timeline, (batch, heads), exp)

    def chunks(self, size: int | None) -> Iterator[tuple[_Sequence, slice]]:
        """The sequence cut into pieces of `size` steps (the last may be shorter), each with its place."""
        size = size or _CHUNK
        for start in range(0, self.li.shape[1], size):
            span = slice(start, start + size)
            q, k, v, li, lf = (x[:, span] for x in (self.q, self.k, self.v, self.li, self.lf))
            yield replace(self, q=q, k=k, v=v, li=li, lf=lf), span

    def fold(self, x: Tensor) -> Tensor:
        """(B,T,H,…) of the caller → (N,T,…) in processing order, 0 on padding."""
        return _fold(self.timeline.take(x), self.v.dtype)

    def unfold(self, x: Tensor) -> Tensor:
        """(N,T,…) in processing order → (B,T,H,…) of the caller, contiguous, 0 on padding."""
        return self.timeline.put(x.unflatten(0, self.leads).transpose(1, 2)).contiguous()

    def load_state(self, C0: Tensor | None, n0: Tensor | None, m0: Tensor | None) -> _State:
        """State for the first step; an empty one holds nothing, whatever its C and n say."""
        if C0 is None or n0 is None or m0 is None:
            C, n, m = self._no_state()
            return C, n, m.fill_(-torch.inf) if self.exp else m
        C, n, m = (x.to(self.v.dtype, copy=True).flatten(0, 1) for x in (C0, n0, m0))
        if not self.exp:
            return C, n, torch.zeros_like(m)
        empty = m <= _EMPTY_M
        C, n = C.masked_fill(empty[:, None, None], 0.0), n.masked_fill(empty[:, None], 0.0)
        return C, n, m.masked_fill(empty, -torch.inf)

    def store_state(self, state: _State) -> _State:
        """The state in the caller's shapes, m = −∞ made finite."""
        C, n, m = (x.unflatten(0, self.leads) for x in state)
        return C, n, m.clamp(min=_EMPTY_M)

    def load_state_gradient(self, dC: Tensor | None, dn: Tensor | None, dm: Tensor | None) -> _State:
        zero = self._no_state()
        dC, dn, dm = (z if d is None else d.to(z.dtype, copy=True).flatten(0, 1) for d, z in zip((dC, dn, dm), zero))
        return dC, dn, dm if self.exp else zero[2]

    def _no_state(self) -> _State:
        streams, _, dk = self.k.shape
        zeros = self.v.new_zeros
        return zeros(streams, dk, self.v.shape[2]), zeros(streams, dk), zeros(streams)


def _fold(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B,T,H,…) → (B·H,T,…), converted."""
    return x.to(dtype).transpose(1, 2).flatten(0, 1)


def _finite(m: Tensor) -> Tensor:
    """m to subtract: 0 in place of −∞, where every weight is exp(−∞) = 0 anyway."""
    return m.masked_fill(m == -torch.inf, 0.0)


def _step(
    q: Tensor, k: Tensor, v: Tensor, li: Tensor, lf: Tensor, state: _State, exp: bool, eps: float
) -> tuple[Tensor, _State]:
    """The definition for one step of N streams: q, k (N,DK), v (N,DV), li, lf (N)."""
    C, n, m = state
    m_new = torch.maximum(lf + m, li) if exp else m
    top = _finite(m_new)
    F, I = (lf + m - top).exp(), (li - top).exp()
    C = F[:, None, None] * C + (I[:, None] * k)[:, :, None] * v[:, None, :]
    n = F[:, None] * n + I[:, None] * k
    num = (q[:, None, :] @ C)[:, 0]
    den = (q * n).sum(-1)
    return num / (torch.maximum(den.abs(), (-m_new).exp()) + eps)[:, None], (C, n, m_new)


def _advance(part: _Sequence, state: _State) -> _State:
    """State after a chunk: every input decays by the forget gates that follow it."""
    C, n, m = state
    decay = part.lf.flip(1).cumsum(1).flip(1)  # from before step t to the end
    log_w = torch.cat([decay[:, :1] + m[:, None], decay[:, 1:] + part.li[:, :-1], part.li[:, -1:]], 1)  # (N, L+1)
    m = log_w.amax(1) if part.exp else m
    w = (log_w - _finite(m)[:, None]).exp()
    wk = w[:, 1:, None] * part.k
    return torch.baddbmm(w[:, :1, None] * C, wk.mT, part.v), w[:, :1] * n + wk.sum(1), m


class _Outputs(NamedTuple):
    """What a chunk's outputs are made of; W = [a | A] (N,L,L+1), S (N,L,L), num (N,L,DV), den and low (N,L)."""

    W: Tensor
    S: Tensor
    num: Tensor
    den: Tensor
    low: Tensor


def _outputs(part: _Sequence, state: _State) -> _Outputs:
    C, n, m0 = state
    W, m = _weights(part, m0)
    S = (W[..., 1:] * (part.q @ part.k.mT)).tril()  # not 0·x: a later NaN must not reach an earlier row
    aq = W[..., :1] * part.q
    # A zero weight does not stop a later NaN or ∞ of v inside a product: v goes in finite, its NaN is added behind.
    num = torch.baddbmm(S @ part.v.nan_to_num(0.0, 0.0, 0.0), aq, C) + (part.v - part.v).cumsum(1)
    den = S.sum(-1) + (aq @ n[..., None])[..., 0]
    return _Outputs(W, S, num, den, (-m).exp())


def _weights(part: _Sequence, m0: Tensor) -> tuple[Tensor, Tensor]:
    """W (N,L,L+1) and m (N,L): column 0 weighs the initial state, column j+1 step j; 0 where j > t."""
    steps = part.lf.shape[1]
    t = torch.arange(steps, device=part.lf.device)[:, None]
    column = torch.arange(steps + 1, device=part.lf.device)
    D = part.lf[..., None].masked_fill(column > t, 0.0).cumsum(1)
    D = (D + torch.cat([m0[:, None], part.li], 1)[:, None]).masked_fill(column > t + 1, -torch.inf)
    m = D.amax(-1) if part.exp else torch.zeros_like(part.lf)
    return (D - _finite(m)[..., None]).exp(), m


def _chunk_backward(
    part: _Sequence, state: _State, dh: Tensor, d_end: _State, eps: float
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], _State]:
    """Gradients of one chunk (dq for the scaled q, dk, dv, dli, dlf) and of the state at its start.

    G = ∂loss/∂D collects every path into the log weights; the gates' gradients are sums over regions of it, which keeps
    them free of cancellation. h depends on m by eps alone: g_t = −eps (dh_t·h_t) / (N_t + eps), N = max(|den|, lo).
    """
    C, n, m0 = state
    dC, dn, dm = d_end
    W, S, num, den, low = _outputs(part, state)
    a, A = W[..., :1], W[..., 1:]
    w0, w = W[:, -1, :1], W[:, -1, 1:, None]  # the state at the end is the last row's sum
    r = 1 / (torch.maximum(den.abs(), low) + eps)
    dnum = r[..., None] * dh
    r_dh_h = r * (dnum * num).sum(-1)
    dden = torch.where(den.abs() > low, -r_dh_h * den.sign(), 0.0)

    dS = dnum @ part.v.mT + dden[..., None]
    dP = (A * dS).tril()
    from_start = dnum @ C.mT + dden[..., None] * n[:, None]
    to_end = w * (part.v @ dC.mT + dn[:, None])
    dq = torch.baddbmm(a * from_start, dP, part.k)
    dk = torch.baddbmm(to_end, dP.mT, part.q)
    dv = torch.baddbmm(w * (part.k @ dC), S.mT, dnum)

    aq = a * part.q
    dC0 = torch.baddbmm(w0[..., None] * dC, aq.mT, dnum)
    dn0 = w0 * dn + (aq.mT @ dden[..., None])[..., 0]

    G = torch.cat([(aq * from_start).sum(-1, keepdim=True), S * dS], -1)
    G_end = torch.cat([w0 * ((C * dC).sum((1, 2)) + (n * dn).sum(1))[:, None], (part.k * to_end).sum(-1)], 1)
    G[:, -1] += G_end
    if part.exp:
        g = -eps * r_dh_h
        g[:, -1] += dm - G_end.sum(1)
        G.scatter_add_(-1, W.argmax(-1, keepdim=True), g[..., None])  # W = 1 where D reaches m
    dlf = G[..., :-1].cumsum(-1).tril().sum(1)  # lf_τ is in D_tj for j < τ ≤ t
    dm0 = G[..., 0].sum(1) if part.exp else torch.zeros_like(m0)
    return (dq, dk, dv, G[..., 1:].sum(1), dlf), (dC0, dn0, dm0)
