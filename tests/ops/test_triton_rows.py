"""The Triton kernels of norm, gated and linear (blocks of 4 × 4) without a GPU: parity in Triton's interpreter, in a process of its own
because TRITON_INTERPRET is read at import, and compilation for real targets. Not yet run on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.harness import ROOT, assert_parity, run
from tests.ops.test_norm import FORMS
from tests.ops.test_norm import call as norm_call
from tests.ops.test_norm import made as norm_made
from tests.tolerances import FORWARD, GRADIENT, HALF_RMS_FACTOR, error, rms_error
from xecg import ops
from xecg.errors import BackendError

pytest.importorskip("triton", reason="the package triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="needs TRITON_INTERPRET=1: run by the test of this module's start"
)
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
SHARED_BYTES, SPILL_BYTES = 48 * 1024, 0


def linear_call(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor]:
    return (ops.linear(x, weight, bias),)


def gated_call(a: Tensor, b: Tensor, activation: str = "gelu") -> tuple[Tensor]:
    return (ops.gated(a, b, activation=activation),)


def linear_made(rows: int, groups: int, *, bias: bool = True) -> dict[str, Tensor]:
    made = {"x": torch.randn(rows, groups, 4), "weight": torch.randn(groups, 4, 4), "bias": torch.randn(groups, 4)}
    return made if bias else {n: made[n] for n in ("x", "weight")}


@compiled
def test_parity_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d\d passed", done.stdout)


@compiled
def test_a_call_that_no_kernel_serves_is_refused_with_the_reason() -> None:
    with ops.use_backend("triton"):
        for call in (
            lambda: ops.norm(torch.zeros(2, 2, 3), torch.zeros(6)),
            lambda: ops.gated(torch.zeros(2), torch.zeros(2), activation="silu"),
            lambda: ops.linear(torch.zeros(2, 1, 4), torch.zeros(1, 4, 4)),
        ):
            with pytest.raises(BackendError, match="CUDA tensors"):
                call()


@interpreter
def test_sizes_that_the_kernels_do_not_hold_are_refused() -> None:
    assert "4 × 4 blocks, not 17 × 33" in ops.backends("linear", k=33, n=17)["triton"]
    assert not ops.backends("linear", k=4, n=4)["triton"]
    assert "at most 8192" in ops.backends("norm", d=8193)["triton"] and not ops.backends("norm", d=8192)["triton"]
    assert "not float64" in ops.backends("gated", dtype=torch.float64)["triton"]


@interpreter
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 5), (130, 2, 33), (2, 3, 4, 16), (5, 1, 2100), (0, 2, 4), (4, 2, 0)]
)
def test_norm_equals_the_definition(form: str, shape: tuple[int, ...]) -> None:
    assert_parity(norm_call, norm_made(shape, form), "triton", forward=FORWARD, gradient=GRADIENT)


@interpreter
def test_programs_that_walk_over_many_tiles_lose_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from xecg.ops.triton import _blocks4, _rows

    monkeypatch.setattr(_rows, "processors", lambda device: 1)
    monkeypatch.setattr(_blocks4, "processors", lambda device: 1)
    monkeypatch.setattr(_rows, "_TILE", 64)
    assert_parity(norm_call, norm_made((131, 2, 20), "all"), "triton", forward=FORWARD, gradient=GRADIENT)
    assert_parity(linear_call, linear_made(139, 70), "triton", forward=FORWARD, gradient=GRADIENT)


@interpreter
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("shape", [(1,), (7, 53), (3, 5, 2100), (0, 4), (4, 0)])
def test_gated_equals_the_definition(activation: str, shape: tuple[int, ...]) -> None:
    made = {"a": 3 * torch.randn(shape), "b": torch.randn(shape)}
    assert_parity(lambda a, b: gated_call(a, b, activation), made, "triton", forward=FORWARD, gradient=GRADIENT)


@interpreter
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (17, 64), (140, 65), (3, 130), (0, 3), (3, 0)])
def test_blocks_equal_the_definition(rows: int, groups: int, bias: bool) -> None:
    assert_parity(linear_call, linear_made(rows, groups, bias=bias), "triton", forward=FORWARD, gradient=GRADIENT)


@interpreter
def test_strided_views_need_no_copy() -> None:
    wide, other = torch.randn(18, 90), torch.randn(18, 100)  # no two rows have one stride
    parts = {"skip": wide[:, 5:25], "gate": other[:, 25:45]}
    strided = [
        (
            norm_call,
            {"x": torch.randn(18, 2, 17)[..., :10], "weight": torch.randn(20), "skip_weight": torch.randn(20), **parts},
        ),
        (gated_call, {"a": wide[:, :40], "b": other[:, 45:85]}),
        (linear_call, {"x": torch.randn(18, 7, 6)[..., :4], "weight": torch.randn(7, 4, 4)}),
    ]
    for call, views in strided:
        results = []
        for inputs in (views, {n: t.contiguous() for n, t in views.items()}):
            with ops.use_backend("triton"):
                leaves = {n: t.detach().requires_grad_() for n, t in inputs.items()}
                y = call(**leaves)[0]
                dy = torch.ones(y.shape[::-1]).permute(*range(y.dim() - 1, -1, -1))  # lies the wrong way
                results.append((y, *torch.autograd.grad(y, list(leaves.values()), dy)))
        assert all(torch.equal(a, b) for a, b in zip(*results))


@interpreter
def test_a_nan_stays_in_its_row_and_head() -> None:
    inputs = norm_made((5, 3, 20), "all")
    inputs["x"][2, 1, 7] = torch.nan
    with ops.use_backend("triton"):
        (y,), grads = run(norm_call, inputs, "triton", [torch.ones(5, 60)])
    bad = torch.zeros(5, 3, 20, dtype=torch.bool)
    bad[2, 1] = True
    assert torch.equal(y.isnan(), bad.flatten(1)) and torch.equal(grads["x"].isnan(), bad)


@interpreter
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("what", ["norm", "norm beside float32", "gated", "linear", "linear beside float32"])
def test_short_types_are_as_good_as_rounding(what: str, dtype: torch.dtype) -> None:
    call: Any
    if what.startswith("norm"):
        call, made = norm_call, norm_made((70, 2, 40), "all")
    elif what == "gated":
        call, made = gated_call, {"a": torch.randn(70, 40), "b": torch.randn(70, 40)}
    else:
        call, made = linear_call, linear_made(70, 9)
    keep = ("skip", "weight", "skip_weight", "bias") if "beside" in what else ()
    inputs = {n: t if n in keep else t.to(dtype) for n, t in made.items()}
    kind = torch.float32 if what == "norm beside float32" else dtype
    weights = [torch.randn(y.shape).to(kind).double() for y in call(**inputs)]
    (y,), grads = run(call, inputs, "triton", weights)
    (exact,), wanted = run(call, {n: t.double() for n, t in inputs.items()}, "reference", weights)
    assert y.dtype == kind
    for name, found, expected in [("y", y, exact), *((n, g, wanted[n]) for n, g in grads.items())]:
        assert name == "y" or found.dtype == inputs[name].dtype
        floor, truth = rms_error(expected.to(found.dtype), expected), expected
        if found.dtype == torch.bfloat16 and "weight" not in name and name != "bias":
            # The interpreter cuts where a GPU (and torch, the sums over rows) rounds; what a kernel adds is judged beside that.
            truth = (expected.float().view(torch.int32) & -65536).view(torch.float32)
        assert rms_error(found, truth) <= HALF_RMS_FACTOR * floor + GRADIENT, name


@interpreter
def test_the_gelu_is_the_exact_one_far_out() -> None:
    a = torch.tensor([-30.0, -6.0, -1e-3, 0.0, 1e-3, 6.0, 30.0, 1e4, -1e4])
    with ops.use_backend("triton"):
        for activation in ("gelu", "silu"):
            found = ops.gated(a, torch.ones_like(a), activation=activation)
            with ops.use_backend("reference"):
                expected = ops.gated(a.double(), torch.ones_like(a).double(), activation=activation)
            assert float((found - expected).abs().max()) <= 1e4 * FORWARD and error(found[:7], expected[:7]) <= FORWARD


def _cases() -> list[tuple[str, Any, dict[str, Any]]]:
    """Every kernel with the tiles that the encoder gets: heads of 512 and 256, ffn of 1344, 512 blocks."""
    from xecg.ops.triton import _blocks4, _rows

    made: list[tuple[str, Any, dict[str, Any]]] = []
    for D in (512, 256, 1024):
        forms = {"SKIP": True, "WEIGHTED": D == 512, "GATE": D == 512, "D": D, **_rows._tile(D)}
        made += [(f"norm {D}", _rows.norm_kernel, forms), (f"norm gradient {D}", _rows.norm_gradient_kernel, forms)]
    tile = {"N": 1344, "GELU": True, **_rows._tile(1344)}
    made += [("gated", _rows.gated_kernel, tile), ("gated gradient", _rows.gated_gradient_kernel, tile)]
    for line, step in ((4, 1), (1, 4)):
        sizes = {
            "LINE": line,
            "STEP": step,
            "BIAS": False,
            "bias": None,
            "ROWS": _blocks4._ROWS,
            "GROUPS": _blocks4._GROUPS,
        }
        made.append((f"blocks {line}", _blocks4.blocks4_kernel, sizes))
    sizes = {"G": 512, "ROWS": _blocks4._ROWS_OF_GRADIENT, "GROUPS": _blocks4._GROUPS}
    return [*made, ("blocks weight", _blocks4.blocks4_weight_kernel, sizes)]


_WIDE = ("weight", "skip_weight", "dweight", "dskip_weight", "dbias", "bias")  # float32 beside a short type


def _compile(kernel: Any, constants: dict[str, Any], target: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, values, attributes = {}, {}, {}
    tensors = ("a", "b", "y", "dy", "da", "db", "x", "skip", "gate", "dx", "dskip", "dgate")
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(index,)] = "constexpr", constants[name]
            continue
        signature[name] = (
            "*fp32" if name in _WIDE else "*bf16" if name in tensors else "fp32" if name == "eps" else "i32"
        )
        if signature[name].startswith("*") or name.endswith(("_row", "_head")):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compile(ASTSource(kernel, signature, values, attributes), target=GPUTarget("cuda", target, 32))


@compiled
@pytest.mark.parametrize(
    "target", [90, pytest.param(80, marks=pytest.mark.slow), pytest.param(86, marks=pytest.mark.slow)]
)
def test_the_kernels_compile_without_spills(target: int, tmp_path: Path) -> None:
    from triton.backends.nvidia.compiler import get_ptxas

    wrong = []
    for name, kernel, constants in _cases():
        binary = _compile(kernel, constants, target)
        path = tmp_path / "kernel.ptx"
        path.write_text(binary.asm["ptx"])
        arch = re.search(r"\.target (\w+)", binary.asm["ptx"]).group(1)  # type: ignore[union-attr]
        command = [get_ptxas(target).path, "-v", f"-arch={arch}", str(path), "-o", str(tmp_path / "kernel.cubin")]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        registers, spilled = (
            int(re.search(p, told).group(1)) for p in (r"Used (\d+) reg", r"(\d+) bytes spill stores")
        )  # type: ignore[union-attr]
        wide = len(re.findall(r"ld\.global\S*\.v[24]", binary.asm["ptx"]))  # 8 or 16 bytes a thread
        line = f"sm_{target} {name}: {binary.metadata.shared} B shared, {registers} registers, {spilled} B spilled, {wide} wide loads"
        print(line)
        if binary.metadata.shared > SHARED_BYTES or spilled > SPILL_BYTES or not wide:
            wrong.append(line)
    assert not wrong, "\n".join(wrong)
