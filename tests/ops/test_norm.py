"""norm: right, differentiable in every argument, and the same bits for a row wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from tests.ops.harness import assert_half_parity, assert_parity, fast_backends, rerun_under_isa, run
from tests.tolerances import FLOAT64, FORWARD, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops
from xecg.errors import BackendError, ShapeError

BACKENDS = fast_backends("norm")
needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU module is not built")
# Which of skip, skip_weight, gate are there.
FORMS = {
    "norm": (),
    "residual": ("skip",),
    "weighted": ("skip", "skip_weight"),
    "gated": ("gate",),
    "residual gated": ("skip", "gate"),
    "all": ("skip", "skip_weight", "gate"),
}
SHAPES = [(1, 1, 1), (3, 2, 5), (5, 1, 64), (2, 3, 4, 16), (130, 2, 33), (3, 1, 200), (0, 2, 4), (4, 2, 0)]


def made(shape: tuple[int, ...], form: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    *lead, H, D = shape
    rows = (*lead, H * D)
    every = {"skip": torch.randn(rows), "skip_weight": torch.randn(H * D), "gate": 3 * torch.randn(rows)}
    found = {"x": 2 + torch.randn(shape), "weight": torch.randn(H * D)} | {k: every[k] for k in FORMS[form]}
    return {k: t.to(dtype) for k, t in found.items()}


def call(x: Tensor, weight: Tensor, **rest: Tensor) -> tuple[Tensor]:
    return (ops.norm(x, weight, **rest),)


def plain(x: Tensor, weight: Tensor, **rest: Tensor) -> Tensor:
    """The same by PyTorch's layers."""
    y = layer_norm(x, x.shape[-1:], eps=1e-5).flatten(-2) * (1 + weight)
    if "skip" in rest:
        y = y + rest["skip"] * rest.get("skip_weight", torch.ones(()))
    return y * silu(rest["gate"]) if "gate" in rest else y


@pytest.mark.parametrize("form", FORMS)
def test_reference_equals_torch_and_passes_gradcheck(form: str) -> None:
    inputs = {k: t.requires_grad_() for k, t in made((4, 2, 5), form, torch.float64).items()}
    assert error(call(**inputs)[0], plain(**inputs)) <= FLOAT64
    assert torch.autograd.gradcheck(lambda *t: call(**dict(zip(inputs, t)))[0], tuple(inputs.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_parity_of_output_and_gradients(backend: str, form: str, shape: tuple[int, ...]) -> None:
    assert_parity(call, made(shape, form), backend, forward=FORWARD, gradient=GRADIENT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_parity_of_bfloat16(backend: str, form: str) -> None:
    assert_half_parity(call, made((9, 2, 40), form), backend, torch.bfloat16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["residual", "all"])
def test_parity_of_bfloat16_beside_a_float32_skip(backend: str, form: str) -> None:
    inputs = made((70, 2, 40), form, torch.bfloat16)
    inputs["skip"], inputs["weight"] = inputs["skip"].float(), inputs["weight"].float()
    weights = [torch.randn(70, 80, dtype=torch.float64)]
    (y,), grads = run(call, inputs, backend, weights)
    (wanted,), exact = run(call, {k: t.double() for k, t in inputs.items()}, "reference", weights)
    assert y.dtype == torch.float32
    assert error(y, wanted) <= FORWARD
    for name, g in grads.items():
        assert g.dtype == inputs[name].dtype
        floor = rms_error(exact[name].to(g.dtype), exact[name])
        assert rms_error(g, exact[name]) <= HALF_RMS_FACTOR * floor + GRADIENT, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_far_from_zero_and_of_constant_rows(backend: str) -> None:
    x, weight = 1000 + torch.randn(3, 1, 100), torch.randn(100)
    x[1] = 7.0
    with ops.use_backend(backend):
        found = ops.norm(x, weight)
    with ops.use_backend("reference"):
        expected = ops.norm(x.double(), weight.double())
    assert error(found[[0, 2]], expected[[0, 2]]) <= 1000 * 2**-24
    assert not found[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_nan_stays_in_its_head(backend: str) -> None:
    inputs = made((5, 3, 20), "all")
    inputs["x"][2, 1, 7] = torch.nan
    with ops.use_backend(backend):
        (y,), grads = run(call, inputs, backend, [torch.ones(5, 60)])
    bad = torch.zeros(5, 3, 20, dtype=torch.bool)
    bad[2, 1] = True
    assert torch.equal(y.isnan(), bad.flatten(1))
    assert torch.equal(grads["x"].isnan(), bad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_of_strided_views(backend: str) -> None:
    x = torch.randn(18, 2, 17)[..., :10]  # neither heads nor rows stand close together
    wide = torch.randn(18, 50)
    views = {"x": x, "weight": torch.randn(20), "skip": wide[:, 5:25], "gate": wide[:, 25:45]}
    packed = {k: t.contiguous() for k, t in views.items()}
    dy = torch.randn(20, 18).T
    with ops.use_backend(backend):
        results = []
        for inputs in (views, packed):
            leaves = {k: t.detach().requires_grad_() for k, t in inputs.items()}
            y = call(**leaves)[0]
            results.append((y, *torch.autograd.grad(y, list(leaves.values()), dy)))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_of_a_row_is_to_the_bit_in_any_batch(dtype: torch.dtype) -> None:
    inputs = made((70, 2, 53), "all", dtype)

    def some(rows: slice) -> dict[str, Tensor]:
        return {k: t if "weight" in k else t[rows] for k, t in inputs.items()}

    with ops.use_backend("cpu"):
        (whole,), grads = run(call, inputs, "cpu", [torch.ones(70, 106)])
        for rows in (slice(0, 1), slice(3, 8), slice(69, 70)):
            (y,), few = run(call, some(rows), "cpu", [torch.ones(rows.stop - rows.start, 106)])
            assert torch.equal(y, whole[rows])
            assert all(torch.equal(few[k], grads[k][rows]) for k in ("x", "skip", "gate"))


@needs_cpu
def test_bits_ignore_threads() -> None:
    from xecg import _cpu

    inputs = made((400, 4, 64), "all")

    def bits() -> Iterator[Tensor]:
        outputs, grads = run(call, inputs, "cpu", [torch.ones(400, 256)])
        yield from outputs
        yield from grads.values()

    one = list(bits())
    _cpu.set_num_threads(3)
    try:
        assert all(torch.equal(a, b) for a, b in zip(one, bits()))
    finally:
        _cpu.set_num_threads(0)


@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_isa_levels_below_the_best_pass_the_same_tests(isa: str) -> None:
    rerun_under_isa(str(Path(__file__)), isa)


@pytest.mark.parametrize("form", ["norm", "all"])
def test_registration_passes_opcheck(form: str) -> None:
    given = made((3, 2, 5), form)
    names = ("x", "weight", "skip", "skip_weight", "gate")
    tensors = [given[k].requires_grad_() if k in given else None for k in names]
    torch.library.opcheck(torch.ops.xecg.norm, (*tensors, 1e-5))


def test_bad_arguments_are_named() -> None:
    x, weight, rows = torch.randn(3, 2, 5), torch.randn(10), torch.randn(3, 10)
    for arguments, options, fact in (
        ((x[0, 0], weight), {}, r"x is torch.float32 of shape \(5,\)"),
        ((x, torch.randn(5)), {}, r"weight is of shape \(5,\); needed \(H·D,\) = \(10,\)"),
        ((x, weight), {"skip": rows[:2]}, r"skip is of shape \(2, 10\)"),
        ((x, weight), {"gate": rows.double()}, "gate is of type torch.float64"),
        ((x, weight), {"skip_weight": weight}, "skip is absent"),
        ((x, weight), {"gate": torch.randn(10, 3).T}, "gate is strided"),
        ((x, weight), {"eps": 0.0}, "eps is 0.0"),
    ):
        with pytest.raises(ShapeError, match=fact):
            ops.norm(*arguments, **options)
    with ops.use_backend("cpu"), pytest.raises(BackendError):
        ops.norm(x.double(), weight.double())
