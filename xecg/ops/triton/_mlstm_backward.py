"""Exact gradient of mlstm in Triton, all terms of the definition; equations as in xecg.ops.reference.mlstm. Not yet run on a GPU.

Up to 64 steps and without states, one program a stream does everything (single_kernel). Otherwise, in chunks of 64:

    chunk_gates_kernel, walk_kernel    m, C and n before each chunk
    query_kernel, chunks in parallel   from the tables S, U = dh vᵀ and from C, n at the start: r, dden, g of every row, and dq
    walk_kernel BACK                   dC, dn after each chunk, the gradient of the initial state, and λ, the decayed C:dC + n·dn
    passed_on_kernel                   what eps sends through the stabiliser from chunk to chunk
    key_kernel, chunks in parallel     dk, dv, di, df

Rows t, columns j of a chunk, column "init" the state at its start and row "end" the state at its end; G = ∂loss/∂(log weight):

    dS_tj = r_t U_tj + dden_t     G_tj = S_tj dS_tj     G_t,init = s a_t q_t·(r_t C₀ dh_t + dden_t n₀)
    G_end,j = k_j·κ_j,  κ_j = w_j (dC v_j + dn)         G_end,init = λ
    G_t,argmax += g_t                                   G_end,argmax += γ
    di_j = Σ_t G_tj      df_τ = σ(−f_τ) Σ_{t≥τ, j<τ} G_tj

No gradient of a gate is a difference of sums over the sequence, so rounding does not grow with T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xecg.ops.triton import _mlstm_configs as configs
from xecg.ops.triton import _mlstm_states as states_of
from xecg.ops.triton._mlstm_forward import device_of
from xecg.ops.triton._mlstm_gradients import key_kernel, query_kernel, single_kernel
from xecg.ops.triton._mlstm_states import chunk_gates_kernel, passed_on_kernel, scan_kernel, walk_kernel
from xecg.ops.triton._mlstm_tiles import MODES

__all__ = ["backward"]

_STATE_BYTES = 2**30  # states and their gradients before every chunk; a larger batch goes in parts
_WALKS = 256  # programs that fill a device: with fewer, a walk is split into segments
_ROWS = 6  # planes of query_kernel's rows: r, dden, g, G_init, weights of q dhᵀ and of q in the walk back


def _power(x: int) -> int:
    return 1 << (x - 1).bit_length() if x > 1 else 1


def _layout(x: Tensor, *others: Tensor) -> list[int]:
    """Strides of batch, time and head, tensor after tensor."""
    return [step for y in (x, *others) for step in y.stride()[:3]]


@dataclass(frozen=True)
class _Plan:
    """How a call is cut up. Depends on nothing but T, the head's size and the type, so neither do the bits."""

    steps: int
    heads: int
    dk: int
    dv: int
    chunk: int
    chunks: int
    segments: int
    tile_k: int
    tile_v: int
    mode: int
    warps: int
    stages: int

    @classmethod
    def of(cls, q: Tensor, v: Tensor, chunk_size: int | None) -> _Plan:
        _, steps, heads, dk = q.shape
        row = configs.row_of("gradient", q.dtype, max(dk, v.shape[-1]))
        assert row is not None  # the op refuses wider heads
        chunk = min(row.L, max(16, _power(min(steps, chunk_size or steps))))
        chunks = -(-steps // chunk)
        tile_k, tile_v = (min(most, max(16, _power(d))) for most, d in ((row.BK, dk), (row.BV, v.shape[-1])))
        warps = row.warps if chunk == row.L else 4  # of the kernels that hold several (chunk, chunk) tables
        segments = -(-chunks // states_of.SEGMENT)
        mode = MODES[q.dtype]
        return cls(steps, heads, dk, v.shape[-1], chunk, chunks, segments, tile_k, tile_v, mode, warps, row.stages)

    @property
    def tiles(self) -> int:
        """Tiles of a state."""
        return -(-self.dk // self.tile_k) * -(-self.dv // self.tile_v)

    def batch_rows(self) -> int:
        """Batch rows whose states fit into _STATE_BYTES."""
        return max(1, _STATE_BYTES // (8 * self.heads * self.chunks * (self.dv + 1) * self.dk))


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
    """As xecg.ops.reference.mlstm.backward, for float32, bfloat16 and float16; dC0, dn0, dm0 are float32.

    float32 products are IEEE; half-precision inputs are multiplied exactly and float32 terms enter their products in two parts.
    chunk_size is rounded up to 16, 32 or 64. States before each chunk take up to 1 GiB; a larger batch goes in parts.
    """
    (B, T, H, DK), DV = q.shape, v.shape[-1]
    dh = dh.to(v.dtype)
    dh = dh if dh.stride(-1) == 1 else dh.contiguous()
    make = torch.empty if lengths is None else torch.zeros
    grads = [make(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, i, f)]
    first = _floats(C0, n0, m0)
    last: tuple[Tensor | None, ...] = (dC, dn, dm)
    sizes: tuple[tuple[int, ...], ...] = ((B, H, DK, DV), (B, H, DK), (B, H))
    if any(x is not None for x in last):
        zeros = (torch.zeros(size, device=q.device) if x is None else x for x, size in zip(last, sizes))
        last = _floats(*zeros)
    d_first = tuple(None if x is None else torch.empty_like(x) for x in first)
    if T == 0:
        for k_th, (d, x) in enumerate(zip(d_first, last)):
            if d is not None:
                d.zero_() if x is None or (k_th == 2 and gate == "sig") else d.copy_(x)
    elif B * H:
        plan = _Plan.of(q, v, chunk_size)
        stateless = plan.chunks == 1 and first[0] is None and last[0] is None
        rows = B if stateless else plan.batch_rows()
        options = {"EXP": gate == "exp", "REVERSE": reverse, "RAGGED": lengths is not None}
        with device_of(q):
            for b in range(0, B, rows):
                inputs, out, ends, starts, d_starts = (
                    [None if x is None else x[b : b + rows] for x in group]
                    for group in ((dh, q, k, v, i, f, lengths), grads, last, first, d_first)
                )
                if stateless:
                    _single(plan, inputs, out, scale, eps, options)
                else:
                    _chunked(plan, inputs, out, ends, starts, d_starts, scale, eps, options)
    return *grads, *d_first  # type: ignore[return-value]


def _floats(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.float().contiguous() for x in tensors)


_Tensors = list[Any]


def _single(plan: _Plan, inputs: _Tensors, out: _Tensors, scale: float, eps: float, options: dict[str, bool]) -> None:
    streams = inputs[0].shape[0] * plan.heads
    single_kernel[(streams,)](
        *inputs, *out, *_layout(*inputs[:6]), plan.steps, plan.heads, scale, eps, **options, DK=plan.dk, DV=plan.dv,
        BK=plan.tile_k, BV=plan.tile_v, L=plan.chunk, MODE=plan.mode, num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip


def _chunked(
    plan: _Plan, inputs: _Tensors, out: _Tensors, last: _Tensors, first: _Tensors, d_first: _Tensors, scale: float, eps: float,
    options: dict[str, bool],
) -> None:  # fmt: skip
    dh, q, k, v, i, f, lengths = inputs
    dq, *other_grads = out
    p, N, exp = plan, dh.shape[0] * plan.heads, options["EXP"]
    has_first, has_last = first[0] is not None, last[0] is not None

    def floats(*size: int) -> Tensor:
        return torch.empty(size, device=q.device, dtype=torch.float32)

    tiling = {"DK": p.dk, "DV": p.dv, "BK": p.tile_k, "BV": p.tile_v, "L": p.chunk, "MODE": p.mode}
    meta = {**options, **tiling, "num_stages": p.stages}
    counts = (p.steps, p.heads, p.chunks)
    m, gamma = floats(N, p.chunks + 1), floats(N, p.chunks + 1)
    decays, tops, passed = (floats(N, p.chunks) for _ in range(3))
    weights, rows = floats(N, p.chunks * p.chunk), floats(_ROWS, N, p.chunks * p.chunk)
    before, after = ((floats(N, p.chunks, p.dk, p.dv), floats(N, p.chunks, p.dk)) for _ in range(2))
    boundary, ends, starts = floats(N, p.chunks, p.tiles), floats(N, p.tiles), floats(N, p.tiles)

    chunk_gates_kernel[(N,)](
        i, f, first[2], lengths, m, decays, tops, weights, *_layout(i, f), *counts, **options, STATE=has_first, L=p.chunk,
        BLOCK=16, num_warps=4,
    )  # fmt: skip
    _walk(
        p, k, v, weights, weights, decays, m, lengths, first, last, before, None, ends, (None, None), meta, back=False
    )
    layout, plane = _layout(*inputs[:6]), rows.stride(0)
    query_kernel[(N * p.chunks,)](
        *inputs, *before, m, rows, passed, dq, *layout, *counts, plane, scale, eps, STATE=has_first, **meta,
        num_warps=p.warps,
    )  # fmt: skip
    _walk(
        p, q, dh, rows[4], rows[5], decays, m, lengths, last, before, after, boundary, starts, d_first, meta, back=True
    )
    if exp:
        passed_on_kernel[(N,)](
            m, decays, tops, passed, last[2], ends, starts, lengths, gamma, d_first[2], *counts, RAGGED=options["RAGGED"],
            FIRST=has_first, END=has_last, TILES=p.tiles, L=p.chunk, BLOCK=64, num_warps=1,
        )  # fmt: skip
    elif has_first:
        d_first[2].zero_()
    key_kernel[(N * p.chunks,)](
        *inputs, *after, m, tops, decays, weights, rows, boundary, gamma, *other_grads, *layout, *counts, plane, scale,
        END=has_last, **meta, num_warps=p.warps,
    )  # fmt: skip


def _walk(
    plan: _Plan, x: Tensor, y: Tensor, weights: Tensor, weights_n: Tensor, decays: Tensor, m: Tensor, lengths: Tensor | None,
    first: _Tensors, other: Any, found: tuple[Tensor, Tensor], boundary: Tensor | None, ends: Tensor, last: Any,
    meta: dict[str, Any], *, back: bool,
) -> None:  # fmt: skip
    """States before the chunks, or with `back` their gradients after them: `found`. Arguments as walk_kernel's."""
    p, N, G = plan, found[0].shape[0], plan.segments
    has_first, has_last = first[0] is not None, (last if back else other)[0] is not None
    split = G > 1 and N * p.tiles < _WALKS
    segments: list[Tensor | None] = [None, None, None]
    if split:
        segments = [torch.empty((N, G, *s), device=x.device, dtype=torch.float32) for s in ((p.dk, p.dv), (p.dk,), ())]

    def go(programs: int, passes: int) -> None:
        walk_kernel[(programs,)](
            x, y, weights, weights_n, decays, m, lengths, *first[:2], *segments, *found, *other[:2], boundary, ends, *last[:2],
            *_layout(x, y), p.steps, p.heads, p.chunks, G, BACK=back, FIRST=has_first, LAST=has_last, PASS=passes,
            SEGMENT=states_of.SEGMENT, **meta, num_warps=4,
        )  # fmt: skip

    if not split:
        go(N * p.tiles, 0)
        return
    go(N * p.tiles * G, 1)
    block = min(1024, _power(p.dk * p.dv))
    scan_kernel[(N * -(-p.dk * p.dv // block),)](
        *first[:2], m, *segments, p.chunks, G, BACK=back, EXP=meta["EXP"], FIRST=has_first, DK=p.dk, DV=p.dv, BLOCK=block,
        num_warps=4,
    )  # fmt: skip
    go(N * p.tiles * G, 2)
