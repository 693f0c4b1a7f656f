"""The same recurrences by others on a GPU. Each function here makes one peer: it imports, lays the inputs out as the peer wants
them, and returns the call to be timed; whatever it raises is why the peer did not run. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["Call", "cudnn_lstm", "flashrnn", "gradients", "simple_gla", "tfla", "xlstm_cuda"]

Call = Callable[[], object]
_AGREES = 0.05  # root-mean-square difference of a peer that is said to compute the same


def gradients(f: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    """Forward and backward of f: gradients of every input for one fixed gradient of the output."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    given = torch.randn_like(f(*leaves))
    return lambda: torch.autograd.grad(f(*leaves), leaves, given)


def _quiet(f: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    def run() -> Tensor:
        with torch.no_grad():
            return f(*inputs)

    return run


def _call(f: Callable[..., Tensor], inputs: list[Tensor], train: bool) -> Call:
    return gradients(f, inputs) if train else _quiet(f, inputs)


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Zeros after the last step: a kernel that takes whole chunks only must be given them."""
    missing = -x.shape[1] % multiple
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1) if missing else x


def _same(found: Tensor, expected: Tensor) -> None:
    difference = float((found.float() - expected.float()).norm() / expected.float().norm())
    if not difference <= _AGREES:
        raise AssertionError(f"its result differs from ours by {difference:.3g} of the norm: not timed")


def tfla(inputs: list[Tensor], expected: Tensor | None, *, gate: str, chunk: int, train: bool = False) -> Call:
    """mlstm_kernels, tiled flash linear attention (arXiv 2503.14376), heads before time; its gradients are not exact."""
    folder, name = {
        "exp": ("triton_xl_chunk", "mlstm_chunkwise__xl_chunk"),
        "sig": ("triton_xl_chunk_siging", "mlstm_siging_chunkwise__xl_chunk"),
    }[gate]
    kernel = getattr(import_module(f"mlstm_kernels.torch.chunkwise.{folder}"), name)
    turned = [_padded(t, chunk).transpose(1, 2).contiguous() for t in inputs]

    def forward(*a: Tensor) -> Tensor:
        return kernel(*a, chunk_size=chunk, autocast_kernel_dtype=inputs[0].dtype)

    if expected is not None:
        with torch.no_grad():
            _same(forward(*turned).transpose(1, 2)[:, : expected.shape[1]], expected)
    return _call(forward, turned, train)


def simple_gla(inputs: list[Tensor], *, train: bool = False) -> Call:
    """flash-linear-attention's scalar decay: no input gate, no normaliser, no stabiliser, so less work than an mLSTM."""
    kernel = import_module("fla.ops.simple_gla").chunk_simple_gla
    q, k, v, _, f = inputs
    decay = torch.nn.functional.logsigmoid(f.float())
    return _call(lambda *a: kernel(*a)[0], [q, k, v, decay], train)


def flashrnn(inputs: list[Tensor], *, backend: str, train: bool = False) -> Call:
    """flashrnn's sLSTM (arXiv 2412.07752), backend "cuda_fused" or "triton_fused": all in x's type."""
    kernel = import_module("flashrnn").flashrnn
    x = inputs[0]
    name = str(x.dtype).removeprefix("torch.")

    def forward(*a: Tensor) -> Tensor:
        return kernel(*a, function="slstm", backend=backend, dtype=name)[0][0]

    return _call(forward, [t.to(x.dtype).contiguous() for t in inputs], train)


def xlstm_cuda(inputs: list[Tensor], *, train: bool = False) -> Call:
    """xlstm's sLSTM cell, compiled at first use for one batch size; its own weights of the same size."""
    cell = import_module("xlstm.blocks.slstm.cell")
    x = inputs[0]
    B, T, G, H, D = x.shape
    name = str(x.dtype).removeprefix("torch.")
    config = cell.sLSTMCellConfig(hidden_size=H * D, num_heads=H, backend="cuda", batch_size=B, dtype=name)
    made = cell.sLSTMCell(config).to(x.device)
    return _call(lambda y: made(y)[0], [x.reshape(B, T, G * H * D)], train)


def cudnn_lstm(inputs: list[Tensor], *, train: bool = False) -> Call:
    """cuDNN's LSTM with the heads in the batch, one set of weights for all: it also does the product with the input."""
    x = inputs[0]
    B, T, _, H, D = x.shape
    layer = torch.nn.LSTM(D, D, batch_first=True, device=x.device, dtype=x.dtype)
    given = x[:, :, 0].transpose(1, 2).reshape(B * H, T, D).contiguous()
    parameters: list[Any] = list(layer.parameters())
    if not train:
        return _quiet(lambda y: layer(y)[0], [given])
    given.requires_grad_()
    out = torch.randn_like(layer(given)[0])
    return lambda: torch.autograd.grad(layer(given)[0], [given, *parameters], out)
