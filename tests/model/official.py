"""The published encoder, written a second time from its description: official names and layouts, explicit flips, loops
over time, no code shared with `xecg`. Slow on purpose; parity tests compare against it.

`flaw` breaks one detail, to show that a parity test would see it.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

FLAWS = (
    "gate names at face value",
    "bias in the other layout",
    "no flips",
    "flip before block 0 too",
    "v from a",
    "gates from k q v",
    "w instead of 1 + w",
    "head norm eps 1e-3",
    "tanh GELU",
    "FFN halves swapped",
    "conv taps reversed",
    "conv sees one sample ahead",
    "no scale",
    "exponential forget gate",
    "no skip",
    "z before u",
)
_STEM = "core.model.blocks"


def random_weights(
    blocks: str, *, dim: int, heads: int, layout: str, leads: int = 12, patch: int = 25
) -> dict[str, Tensor]:
    """Every official tensor of a stack, float32 and random: recurrent kernels std 0.3, vectors 0.5, the rest 1/√fan_in."""
    d, p, D, ffn = dim, 2 * dim, dim // heads, math.ceil(1.3 * dim / 64) * 64
    shapes: dict[str, tuple[int, ...]] = {"patch_embedding.conv.weight": (d, leads, patch), "mask_token": (d,)}
    for n, kind in enumerate(blocks):
        width = d if kind == "s" else p
        mine: dict[str, tuple[int, ...]] = {
            "xlstm_norm.weight": (d,),
            "xlstm.conv1d.conv.weight": (width, 1, 4),
            "xlstm.conv1d.conv.bias": (width,),
        }
        if kind == "s":
            mine |= {f"xlstm.{gate}gate.weight": (heads, D, D) for gate in "fizo"}
            mine["xlstm.slstm_cell._recurrent_kernel_"] = (
                (heads, 4 * D, D) if layout == "vanilla" else (heads, D, 4 * D)
            )
            mine |= {"xlstm.slstm_cell._bias_": (4 * d,), "xlstm.group_norm.weight": (d,), "ffn_norm.weight": (d,)}
            mine |= {"ffn.proj_up.weight": (2 * ffn, d), "ffn.proj_down.weight": (d, ffn)}
        else:
            mine |= {"xlstm.proj_up.weight": (2 * p, d), "xlstm.proj_down.weight": (d, p), "xlstm.learnable_skip": (p,)}
            mine |= {f"xlstm.{name}_proj.weight": (p // 4, 4, 4) for name in "qkv"}
            mine |= {f"xlstm.mlstm_cell.{gate}gate.weight": (heads, 3 * p) for gate in "if"}
            mine |= {f"xlstm.mlstm_cell.{gate}gate.bias": (heads,) for gate in "if"}
            mine["xlstm.mlstm_cell.outnorm.weight"] = (p,)
        shapes |= {f"{_STEM}.{n}.{name}": shape for name, shape in mine.items()}
    return {name: torch.randn(shape) * _std(name, shape) for name, shape in shapes.items()}


def _std(name: str, shape: tuple[int, ...]) -> float:
    if "recurrent_kernel" in name:
        return 0.3
    return 0.5 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))


def encode(weights: dict[str, Tensor], x: Tensor, *, heads: int, layout: str, flaw: str | None = None) -> Tensor:
    """x (B, N, leads) → tokens (B, T, D), in float64; an even number of blocks ends in reversed order, as published."""
    assert flaw is None or flaw in FLAWS
    weights = {name: w.double() for name, w in weights.items()}
    kernel = weights["patch_embedding.conv.weight"]  # (D, leads, 25)
    T = x.shape[1] // kernel.shape[2]
    x = x.double()[:, : T * kernel.shape[2]].reshape(x.shape[0], T, kernel.shape[2], kernel.shape[1])
    y = torch.einsum("btsl,dls->btd", x, kernel)
    count = 1 + max(int(m[1]) for m in (re.match(rf"{_STEM}\.(\d+)\.", name) for name in weights) if m)
    for n in range(count):
        if (n > 0 and flaw != "no flips") or flaw == "flip before block 0 too":
            y = y.flip(1)
        stem = f"{_STEM}.{n}."
        block = {name.removeprefix(stem): w for name, w in weights.items() if name.startswith(stem)}
        run = _slstm_block if "xlstm.slstm_cell._bias_" in block else _mlstm_block
        y = run(block, y, heads, layout, flaw)
    return y


def embed(weights: dict[str, Tensor], x: Tensor, *, heads: int, layout: str) -> Tensor:
    """Mean over the tokens whose first sample is not exactly 0 in all leads; an odd number of blocks."""
    tokens = encode(weights, x, heads=heads, layout=layout)
    patch = weights["patch_embedding.conv.weight"].shape[2]
    rows = []
    for b in range(len(x)):
        kept = [tokens[b, t] for t in range(tokens.shape[1]) if any(float(s) != 0 for s in x[b, t * patch])]
        rows.append(torch.stack(kept).mean(0))
    return torch.stack(rows)


def _layer_norm(x: Tensor, weight: Tensor, flaw: str | None, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return normal * (weight if flaw == "w instead of 1 + w" else 1 + weight)


def _head_norm(h: Tensor, weight: Tensor, flaw: str | None) -> Tensor:
    """h (B, T, H, D)."""
    eps = 1e-3 if flaw == "head norm eps 1e-3" else 1e-5
    return _layer_norm(h, weight.reshape(h.shape[2:]), flaw, eps).reshape(*h.shape[:2], -1)


def _conv_silu(x: Tensor, weight: Tensor, bias: Tensor, flaw: str | None) -> Tensor:
    taps = weight[:, 0].flip(-1) if flaw == "conv taps reversed" else weight[:, 0]
    ahead = 1 if flaw == "conv sees one sample ahead" else 0
    out = torch.zeros_like(x)
    for t in range(x.shape[1]):
        total = bias.expand(x.shape[0], -1)
        for tap in range(4):
            source = t - 3 + tap + ahead
            if 0 <= source < x.shape[1]:
                total = total + taps[:, tap] * x[:, source]
        out[:, t] = total
    return out / (1 + torch.exp(-out))


def _by_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """One small matrix per block of features, weight [block, out, in]."""
    size = weight.shape[2]
    return torch.cat([x[..., n * size : (n + 1) * size] @ weight[n].T for n in range(len(weight))], -1)


def _mlstm_block(w: dict[str, Tensor], x: Tensor, heads: int, layout: str, flaw: str | None) -> Tensor:
    p = w["xlstm.learnable_skip"].shape[0]
    both = _layer_norm(x, w["xlstm_norm.weight"], flaw) @ w["xlstm.proj_up.weight"].T
    u, z = both[..., :p], both[..., p:]
    if flaw == "z before u":
        u, z = z, u
    a = _conv_silu(u, w["xlstm.conv1d.conv.weight"], w["xlstm.conv1d.conv.bias"], flaw)
    q, k = _by_blocks(a, w["xlstm.q_proj.weight"]), _by_blocks(a, w["xlstm.k_proj.weight"])
    v = _by_blocks(a if flaw == "v from a" else u, w["xlstm.v_proj.weight"])
    joined = torch.cat((k, q, v) if flaw == "gates from k q v" else (q, k, v), -1)
    i = joined @ w["xlstm.mlstm_cell.igate.weight"].T + w["xlstm.mlstm_cell.igate.bias"]
    f = joined @ w["xlstm.mlstm_cell.fgate.weight"].T + w["xlstm.mlstm_cell.fgate.bias"]
    h = _mlstm(*(t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v)), i, f, flaw)
    skip = 0 if flaw == "no skip" else w["xlstm.learnable_skip"] * a
    inner = _head_norm(h, w["xlstm.mlstm_cell.outnorm.weight"], flaw) + skip
    return x + (inner * z * torch.sigmoid(z)) @ w["xlstm.proj_down.weight"].T


def _mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, flaw: str | None) -> Tensor:
    B, T, H, D = q.shape
    h = torch.zeros(B, T, H, D, dtype=torch.float64)
    scale = 1.0 if flaw == "no scale" else D**-0.5
    for b in range(B):
        for head in range(H):
            C, n, m = torch.zeros(D, D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64), -math.inf
            for t in range(T):
                i_t, f_t = float(i[b, t, head]), float(f[b, t, head])
                lf = f_t if flaw == "exponential forget gate" else -math.log1p(math.exp(-f_t))
                m_new = max(lf + m, i_t)
                forget, enter = math.exp(lf + m - m_new), math.exp(i_t - m_new)
                C = forget * C + enter * torch.outer(k[b, t, head], v[b, t, head])
                n = forget * n + enter * k[b, t, head]
                m = m_new
                query = scale * q[b, t, head]
                h[b, t, head] = query @ C / (max(abs(float(query @ n)), math.exp(-m)) + 1e-6)
    return h


def _slstm_block(w: dict[str, Tensor], x: Tensor, heads: int, layout: str, flaw: str | None) -> Tensor:
    y = _layer_norm(x, w["xlstm_norm.weight"], flaw)
    a = _conv_silu(y, w["xlstm.conv1d.conv.weight"], w["xlstm.conv1d.conv.bias"], flaw)
    named = {gate: w[f"xlstm.{gate}gate.weight"] for gate in "fizo"}
    into_i, into_f = (named["i"], named["f"]) if flaw == "gate names at face value" else (named["f"], named["i"])
    inputs = [_by_blocks(a, into_i), _by_blocks(a, into_f), _by_blocks(y, named["z"]), _by_blocks(y, named["o"])]
    D = x.shape[2] // heads
    raw = torch.stack([g.reshape(*g.shape[:2], heads, D) for g in inputs], 2)  # (B, T, 4, H, D)
    kernel, bias = w["xlstm.slstm_cell._recurrent_kernel_"], w["xlstm.slstm_cell._bias_"]
    other = {"cuda": "vanilla", "vanilla": "cuda"}[layout]
    h = _slstm(raw, kernel, bias, layout, other if flaw == "bias in the other layout" else layout)
    x = x + _head_norm(h, w["xlstm.group_norm.weight"], flaw)
    both = _layer_norm(x, w["ffn_norm.weight"], flaw) @ w["ffn.proj_up.weight"].T
    g, u = both.chunk(2, -1)
    if flaw == "FFN halves swapped":
        g, u = u, g
    inner = 0.5 * g * (1 + torch.erf(g / math.sqrt(2)))
    if flaw == "tanh GELU":
        inner = 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    return x + (inner * u) @ w["ffn.proj_down.weight"].T


def _slstm(raw: Tensor, kernel: Tensor, bias: Tensor, layout: str, bias_layout: str) -> Tensor:
    B, T, _, H, D = raw.shape
    out = torch.zeros(B, T, H, D, dtype=torch.float64)
    for b in range(B):
        for head in range(H):
            h, c, n, m = (torch.zeros(D, dtype=torch.float64) for _ in range(4))
            for t in range(T):
                pre = []
                for gate in range(4):
                    if layout == "vanilla":  # rows of one head: gate-major outputs
                        recurrent = kernel[head, gate * D : (gate + 1) * D] @ h
                    else:  # columns of one head: gate-major outputs
                        recurrent = h @ kernel[head, :, gate * D : (gate + 1) * D]
                    at = (gate * H + head if bias_layout == "vanilla" else head * 4 + gate) * D
                    pre.append(raw[b, t, gate, head] + recurrent + bias[at : at + D])
                i, f, z, o = pre
                lf = -torch.log1p(torch.exp(-f))
                m_new = i if t == 0 else torch.maximum(i, lf + m)
                forget = torch.zeros_like(i) if t == 0 else torch.exp(lf + m - m_new)
                enter = torch.exp(i - m_new)
                c, n, m = forget * c + enter * torch.tanh(z), forget * n + enter, m_new
                h = torch.sigmoid(o) * c / n
                out[b, t, head] = h
    return out
