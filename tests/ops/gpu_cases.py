"""What the tests on a GPU ask of an op, on any device: fresh random calls, outputs that start as NaN, judged in float64."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests.ops.harness import random_like, run
from tests.tolerances import FORWARD, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops

Case = tuple[Callable[..., tuple[Tensor, ...]], dict[str, Tensor]]

# op → name → sizes; the names say which kernel they are for
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mlstm": {  # B, T, H, DK, DV
        "odd": (2, 130, 2, 24, 40),
        "short": (3, 40, 4, 64, 64),
        "one step": (3, 1, 2, 64, 64),
        "wide": (2, 40, 2, 512, 512),
        "long": (2, 331, 2, 128, 128),
        "uneven": (1, 200, 2, 128, 256),
        "many heads": (40, 70, 8, 32, 32),
    },
    "slstm": {  # B, T, H, D
        "odd": (3, 40, 2, 24),
        "small": (5, 33, 2, 64),
        "middle": (17, 21, 4, 128),
        "wide": (6, 19, 4, 256),
        "widest": (2, 9, 1, 512),
    },
    "causal_conv1d": {"odd": (3, 300, 70), "wide": (2, 40, 2048)},  # B, T, C
    "linear": {"odd": (9, 5, 33, 17), "blocks": (201, 130, 4, 4)},  # rows, groups, K, N
    "gated": {"odd": (9, 53), "wide": (70, 1344)},
    "norm": {"odd": (9, 3, 24), "wide": (70, 4, 512), "one head": (33, 1, 1000)},  # rows, H, D
}
_WIDE = ("state", "C0", "n0", "m0", "h0", "c0", "i", "f", "R", "b")  # float32 beside a short type


def seed() -> int:
    """XECG_SEED, or another one every second: it is told when a test fails, so that the test can be repeated."""
    return int(os.environ.get("XECG_SEED") or time.time())


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that a kernel allocates holds NaN (integers: the largest): what is read without being written is seen."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _lengths(B: int, T: int) -> Tensor:
    """All, none, and anything between."""
    return torch.cat([torch.tensor([T, 0])[:B], torch.randint(0, T + 1, (max(B - 2, 0),))])


def case(op: str, shape: str = "odd", *, reverse: bool = False, lengths: bool = False, gate: str = "exp") -> Case:
    """A call that returns all outputs, states included, and its random inputs in float32."""
    return _CASES[op](SHAPES[op][shape], reverse, lengths, gate)


def _conv(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    B, T, C = sizes
    made = {
        "x": torch.randn(B, T, C),
        "weight": torch.randn(C, 4),
        "bias": torch.randn(C),
        "state": torch.randn(B, 3, C),
    }
    if lengths:
        made["lengths"] = _lengths(B, T)

    def call(
        x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return ops.causal_conv1d(
            x, weight, bias, activation="silu", initial_state=state, lengths=lengths, reverse=reverse, return_state=True
        )  # type: ignore[return-value]

    return call, made


def _mlstm(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    B, T, H, DK, DV = sizes
    # q and k lean to one side: where the normaliser passes near 0, no short type has digits to compare.
    made = {name: torch.randn(B, T, H, DK).abs() for name in "qk"} | {"v": torch.randn(B, T, H, DV)}
    made |= {"i": torch.randn(B, T, H), "f": 3 + torch.randn(B, T, H)}
    made |= {"C0": torch.randn(B, H, DK, DV), "n0": torch.randn(B, H, DK).abs(), "m0": torch.randn(B, H)}
    if gate == "sig":
        made["m0"] = torch.zeros(B, H)
    if lengths:
        made["lengths"] = _lengths(B, T)

    def call(
        q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, C0: Tensor, n0: Tensor, m0: Tensor,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        h, state = ops.mlstm(
            q, k, v, i, f, initial_state=(C0, n0, m0), lengths=lengths, reverse=reverse, gate=gate, return_state=True
        )
        return (h, *state) if gate == "exp" else (h, state[0], state[1])  # type: ignore[misc, index]

    return call, made


def _slstm(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    B, T, H, D = sizes
    made = {"x": torch.randn(B, T, 4, H, D), "R": torch.randn(4, H, D, D) / D**0.5, "b": torch.randn(4, H, D)}
    made |= {name: torch.randn(B, H, D) for name in ("h0", "c0", "m0")} | {"n0": 0.5 + torch.rand(B, H, D)}
    if lengths:
        made["lengths"] = _lengths(B, T)

    def call(
        x: Tensor, R: Tensor, b: Tensor, h0: Tensor, c0: Tensor, m0: Tensor, n0: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        h, state = ops.slstm(
            x, R, b, initial_state=(h0, c0, n0, m0), lengths=lengths, reverse=reverse, return_state=True
        )
        return h, *state  # type: ignore[misc]

    return call, made


def _linear(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    N, G, K, M = sizes
    made = {"x": torch.randn(N, G, K), "weight": torch.randn(G, M, K), "bias": torch.randn(G, M)}
    return lambda x, weight, bias: (ops.linear(x, weight, bias),), made


def _gated(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    made = {"a": torch.randn(sizes), "other": torch.randn(sizes)}
    return lambda a, other: (ops.gated(a, other, activation="gelu"),), made


def _norm(sizes: tuple[int, ...], reverse: bool, lengths: bool, gate: str) -> Case:
    N, H, D = sizes
    made = {"x": torch.randn(N, H, D), "weight": torch.randn(H * D), "skip": torch.randn(N, H * D)}
    if H > 1:  # as in an mLSTM block; one head: the residual alone
        made |= {"skip_weight": torch.randn(H * D), "gate": torch.randn(N, H * D)}
    return lambda x, weight, **rest: (ops.norm(x, weight, **rest),), made


_CASES: dict[str, Callable[[tuple[int, ...], bool, bool, str], Case]] = {
    "causal_conv1d": _conv,
    "mlstm": _mlstm,
    "slstm": _slstm,
    "linear": _linear,
    "gated": _gated,
    "norm": _norm,
}


def _wide(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}


def on(device: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.to(device) for n, t in inputs.items()}


@contextmanager
def _named(backend: str) -> Iterator[None]:
    """What does not run (a kernel that does not compile, an illegal access) is told with the backend's name: bench/gpu_check.py."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{backend} does not run: {type(error).__name__}: {error}") from error


def judge_float32(made: Case, backend: str, device: str) -> None:
    """Outputs, states and all gradients in float32 against the definition in float64."""
    call, inputs = made
    weights = random_like(call, inputs)
    expected, expected_grads = run(call, _wide(inputs), "reference", weights)
    with poisoned(), _named(backend):
        found, grads = run(call, on(device, inputs), backend, [w.to(device) for w in weights])
    for k, (f, e) in enumerate(zip(found, expected)):
        assert error(f.cpu(), e) <= FORWARD, f"{backend}: output {k}: {error(f.cpu(), e):.2e}"
    assert grads.keys() == expected_grads.keys()
    for name, gradient in grads.items():
        e = error(gradient.cpu(), expected_grads[name])
        assert e <= GRADIENT, f"{backend}: gradient of {name}: {e:.2e}"


def judge_half(made: Case, backend: str, device: str, dtype: torch.dtype) -> None:
    """Outputs and gradients of rounded inputs: their rms error is at most 1.3 times that of exact arithmetic on the same inputs with
    the result rounded once. Truth is the definition on the inputs before rounding.
    """
    call, inputs = made
    half = {n: t.to(dtype) if t.is_floating_point() and n not in _WIDE else t for n, t in inputs.items()}
    weights = random_like(call, inputs)
    weights = [weights[0].to(dtype).double(), *(torch.zeros_like(w) for w in weights[1:])]
    truth, truth_grads = run(call, _wide(inputs), "reference", weights)
    exact, exact_grads = run(call, _wide(half), "reference", weights)
    with poisoned(), _named(backend):
        found, grads = run(call, on(device, half), backend, [w.to(device) for w in weights])
    assert found[0].dtype == dtype

    def assert_near(name: str, f: Tensor, e: Tensor, t: Tensor) -> None:
        least = rms_error(e.to(f.dtype), t)
        assert rms_error(f.cpu(), t) <= HALF_RMS_FACTOR * least + 1e-6, (
            f"{backend}: {name}: {rms_error(f.cpu(), t):.2e} > {least:.2e}"
        )

    assert_near("output", found[0], exact[0], truth[0])
    for name, gradient in grads.items():
        if float(truth_grads[name].abs().max()):
            assert_near(f"gradient of {name}", gradient, exact_grads[name], truth_grads[name])
