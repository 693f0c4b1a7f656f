"""The gradient of mlstm in Triton against the float64 reference, in Triton's interpreter, and compiled for GPUs without one.

The interpreter must be chosen before triton is imported, so one test runs this file again in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.gpu_cases import poisoned
from tests.ops.harness import ROOT, why_no_interpreter
from tests.tolerances import GRADIENT, error
from xecg.ops.reference import mlstm as reference

triton = pytest.importorskip("triton")
backend = pytest.importorskip("xecg.ops.triton._mlstm_backward")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter's process")
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
LOWEST = torch.finfo(torch.float32).min
ENDS, SEQUENCE, STATE = ("dC", "dn", "dm"), ("q", "k", "v", "i", "f"), ("C", "n", "m")
ARGUMENTS = ("dh", *ENDS, *SEQUENCE, *STATE, "lengths")
Call = dict[str, Any]  # a tensor, or None, for each of ARGUMENTS


def inputs(
    B: int,
    T: int,
    H: int,
    DK: int,
    DV: int,
    *,
    gates: float = 3.0,
    state: bool = True,
    ends: bool = True,
    lengths: list[int] | None = None,
) -> Call:
    """Random call. q and k lean to one side so that the normaliser stays away from 0, where h itself is ill-conditioned."""
    made: Call = dict.fromkeys(ARGUMENTS)
    made |= {"q": 1 + torch.randn(B, T, H, DK), "k": 1 + torch.randn(B, T, H, DK), "v": torch.randn(B, T, H, DV)}
    made |= {"i": gates * torch.randn(B, T, H), "f": 3 + gates * torch.randn(B, T, H), "dh": torch.randn(B, T, H, DV)}
    if state:
        made |= {"C": torch.randn(B, H, DK, DV), "n": 1 + torch.randn(B, H, DK), "m": torch.randn(B, H)}
    if ends:
        made |= {"dC": torch.randn(B, H, DK, DV), "dn": torch.randn(B, H, DK), "dm": torch.randn(B, H)}
    return made | {"lengths": None if lengths is None else torch.tensor(lengths)}


def gradients(module: Any, call: Call, **options: Any) -> dict[str, Tensor]:
    settings = {"reverse": False, "gate": "exp", "scale": call["q"].shape[-1] ** -0.5, "eps": 1e-6} | options
    found = module.backward(*(call[name] for name in ARGUMENTS), **settings)
    return {name: d for name, d in zip((*SEQUENCE, *STATE), found) if d is not None}


def assert_parity(call: Call, *, tolerance: float = GRADIENT, **options: Any) -> dict[str, Tensor]:
    wide = {n: x.double() if x is not None and x.is_floating_point() else x for n, x in call.items()}
    expected = gradients(reference, wide, **{n: x for n, x in options.items() if n != "chunk_size"})
    found = gradients(backend, call, **options)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert x.dtype == call[name].dtype and x.shape == call[name].shape
        assert error(x, expected[name]) <= tolerance, f"gradient of {name}: {error(x, expected[name]):.2e}"
    return found


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What is read without being written is NaN."""
    with poisoned():
        yield


@compiled
def test_everything_passes_in_the_interpreter() -> None:
    if why_no_interpreter():
        pytest.skip(why_no_interpreter())
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and re.search(r"\d\d passed", done.stdout), done.stdout[-3000:] + done.stderr[-1000:]


@interpreted
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("T", [1, 2, 7, 33, 65, 130])
def test_every_gradient_with_states_at_both_ends(T: int, gate: str) -> None:
    assert_parity(inputs(1, T, 2, 20, 18), gate=gate)


@interpreted
@pytest.mark.parametrize("gate", ["exp", "sig"])
@pytest.mark.parametrize("T", [2, 13, 40, 64, 100])
def test_every_gradient_from_the_empty_state(T: int, gate: str) -> None:
    assert_parity(inputs(1, T, 2, 20, 18, state=False, ends=False, gates=1.0), gate=gate, scale=0.3, eps=1e-3)


@interpreted
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_and_reversed_time(reverse: bool, ends: bool, state: bool) -> None:
    call = inputs(4, 40, 1, 16, 16, lengths=[40, 0, 16, 21], state=state, ends=ends)
    for size in (16, 64):
        found = assert_parity(call, reverse=reverse, chunk_size=size)
        for name in SEQUENCE:
            assert not any(found[name][b, n:].any() for b, n in enumerate((40, 0, 16, 21)))


@interpreted
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("shape", [(70, 40), (3, 5), (33, 130), (128, 16)])
def test_head_sizes_that_fill_no_tile(shape: tuple[int, int], state: bool) -> None:
    assert_parity(inputs(1, 20, 1, *shape, state=state, ends=state), chunk_size=16 if state else None)


@interpreted
@pytest.mark.parametrize("gate", ["exp", "sig"])
def test_extreme_gates(gate: str) -> None:
    assert_parity(inputs(1, 130, 2, 16, 18, gates=15.0), gate=gate)


@interpreted
def test_gradient_through_eps_where_it_matters() -> None:
    """Large m makes exp(−m) as small as eps: the stabiliser's own gradient is no longer a rounding error."""
    for size in (16, 64):
        call = inputs(1, 40, 1, 16, 16, gates=1.0)
        for name, scale in (("q", 1e-3), ("k", 1e-3), ("n", 1e-3)):
            call[name] *= scale
        call["i"] += 13.0
        call["m"] += 13.0
        assert_parity(call, chunk_size=size)
        call["dh"] *= 0  # the final state's m alone
        call["dC"], call["dn"] = None, None
        assert_parity(call, chunk_size=size)


@interpreted
def test_infinite_gates_and_an_empty_state() -> None:
    call = inputs(2, 36, 2, 16, 16, lengths=[36, 20])
    call["i"][0, :4], call["i"][0, 30:32] = -torch.inf, -torch.inf
    call["f"][0, 10], call["f"][0, 16], call["f"][1, 5:9] = -torch.inf, -torch.inf, torch.inf
    call["m"][:, 1], call["C"][:, 1], call["n"][:, 1] = LOWEST, torch.nan, torch.inf  # never looked at
    for size in (16, 64):
        assert_parity(call, chunk_size=size)
    call["i"][:] = -torch.inf
    assert_parity(call, chunk_size=16)


@interpreted
@pytest.mark.parametrize("reverse", [False, True])
def test_many_segments_and_the_same_bits_however_they_are_walked(
    monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr(backend.states_of, "SEGMENT", 2)
    call = inputs(2, 100, 1, 16, 16, lengths=[100, 35])
    split = assert_parity(call, chunk_size=16, reverse=reverse)
    monkeypatch.setattr(backend, "_WALKS", 0)
    walked = gradients(backend, call, chunk_size=16, reverse=reverse)
    assert all(torch.equal(split[name], x) for name, x in walked.items())


@interpreted
def test_bits_ignore_batch_companions_and_the_size_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    call = inputs(3, 30, 1, 16, 18, lengths=[30, 9, 23])
    together = gradients(backend, call, chunk_size=16)
    monkeypatch.setattr(backend, "_STATE_BYTES", 1)
    for name, x in gradients(backend, call, chunk_size=16).items():
        assert torch.equal(x, together[name])
    alone = gradients(backend, {name: x[2:3] for name, x in call.items()}, chunk_size=16)
    assert all(torch.equal(x, together[name][2:3]) for name, x in alone.items())


@interpreted
def test_strided_views_of_every_input() -> None:
    fused = torch.randn(2, 20, 2, 60)
    call = inputs(2, 20, 2, 20, 20)
    views: Call = {"q": fused[..., :20], "k": fused[..., 20:40], "v": fused[..., 40:]}
    views |= {"i": torch.randn(2, 20, 5)[..., :2], "f": torch.randn(20, 2, 2).transpose(0, 1)}
    views |= {"dh": torch.randn(20, 2, 2, 20).transpose(0, 1), "dC": torch.randn(2, 2, 20, 20).mT}
    packed = {name: x.contiguous() for name, x in views.items()}
    for size in (16, 64):
        expected = gradients(backend, call | packed, chunk_size=size)
        for name, x in gradients(backend, call | views, chunk_size=size).items():
            assert torch.equal(x, expected[name])
    ones = torch.ones(()).expand(2, 20, 2, 20)  # what the gradient of a sum looks like
    assert_parity(call | {"dh": ones})


@interpreted
def test_a_nan_stays_in_its_stream() -> None:
    call = inputs(2, 20, 2, 16, 16)
    clean = gradients(backend, call, chunk_size=16)
    for argument in (*SEQUENCE, "dh"):
        broken = call | {argument: call[argument].clone()}
        broken[argument][1, 9, 0] = torch.nan
        found = gradients(backend, broken, chunk_size=16)
        assert found["q"][1, :, 0].isnan().any()
        for name, x in found.items():
            assert torch.equal(x[0], clean[name][0])
            head = (slice(None), 1) if name in SEQUENCE else 1
            assert torch.equal(x[1][head], clean[name][1][head])


@interpreted
def test_padding_never_enters_a_gradient() -> None:
    call = inputs(2, 30, 1, 16, 16, lengths=[23, 0])
    garbage: Call = {n: x.clone() if x is not None else x for n, x in call.items()}
    for name in (*SEQUENCE, "dh"):
        garbage[name][0, 23:], garbage[name][1] = torch.nan, torch.nan
    for reverse in (False, True):
        for size in (16, 64):
            expected = gradients(backend, call, reverse=reverse, chunk_size=size)
            for name, x in gradients(backend, garbage, reverse=reverse, chunk_size=size).items():
                assert torch.equal(x, expected[name])


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide_gates", [False, True])
def test_half_precision_inputs_are_read_and_written_as_such(dtype: torch.dtype, wide_gates: bool) -> None:
    """Loads, stores and types only: the interpreter multiplies in float32 what a GPU multiplies in half precision."""
    for state in (False, True):
        call = inputs(1, 40, 2, 16, 18, gates=1.0, state=state, ends=state)
        for name in ("q", "k", "v", "dh", *(() if wide_gates else ("i", "f"))):
            call[name] = call[name].to(dtype)
        assert_parity(call, chunk_size=16 if state else None, tolerance=2 * torch.finfo(dtype).eps)


@interpreted
def test_rows_beyond_two_thousand_million_elements() -> None:
    call = inputs(2, 3, 1, 16, 16)
    far = 2**31 + 64
    try:
        room = torch.empty(far + 3 * 16, dtype=torch.float16)  # pages that nobody touches cost nothing
    except RuntimeError:
        pytest.skip("no 4 GiB of addresses")
    for name in ("q", "k", "v", "dh"):
        call[name] = call[name].half()
    expected = gradients(backend, call)
    for name in ("q", "k", "v", "dh"):
        view = room.as_strided((2, 3, 1, 16), (far, 16, 16, 1))
        view.copy_(call[name])
        for other, x in gradients(backend, call | {name: view}).items():
            assert torch.equal(x, expected[other])


@interpreted
def test_nothing_to_do() -> None:
    for gate in ("exp", "sig"):
        assert_parity(inputs(2, 0, 1, 16, 16), gate=gate)
        assert_parity(inputs(2, 0, 1, 16, 16, ends=False), gate=gate)
        assert_parity(inputs(0, 3, 1, 16, 16), gate=gate)


class _Launches:
    """Stands in for a kernel and notes what it is called with."""

    def __init__(self, kernel: Any, found: list[tuple[Any, dict[str, Any]]]) -> None:
        self._kernel, self._found = kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **keywords: Any) -> None:
            self._found.append((self._kernel, dict(zip(self._kernel.arg_names, args)) | keywords))

        return launch


KERNELS = (
    "single_kernel",
    "query_kernel",
    "key_kernel",
    "walk_kernel",
    "scan_kernel",
    "chunk_gates_kernel",
    "passed_on_kernel",
)
_TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}


def _compile(kernel: Any, arguments: dict[str, Any], capability: int) -> Any:
    """Compile as a launch with these arguments would: types, sizes of 1 and multiples of 16 are part of the code."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {name: arguments.pop(name) for name in ("num_warps", "num_stages") if name in arguments}
    signature, constants, attributes = {}, {}, {}
    for place, (name, x) in enumerate((name, arguments[name]) for name in kernel.arg_names):
        if isinstance(x, Tensor):
            signature[name] = _TYPES[x.dtype]
        elif isinstance(x, bool) or x is None or x == 1 or (name.isupper() and name not in ("T", "H", "NC", "G")):
            signature[name], constants[name] = "constexpr", x
        elif isinstance(x, int):
            signature[name] = "i32" if x < 2**31 else "i64"
        else:
            signature[name] = "fp32"
        if signature[name] != "constexpr" and not isinstance(x, float) and (isinstance(x, Tensor) or x % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _launches(monkeypatch: pytest.MonkeyPatch, call: Call, **options: Any) -> list[tuple[Any, dict[str, Any]]]:
    found: list[tuple[Any, dict[str, Any]]] = []
    with monkeypatch.context() as patch:
        for name in KERNELS:
            patch.setattr(backend, name, _Launches(getattr(backend, name), found))
        gradients(backend, {n: None if x is None else x.to("meta") for n, x in call.items()}, **options)
    return found


def _half(call: Call, dtype: torch.dtype) -> Call:
    return {n: x.to(dtype) if n in ("q", "k", "v", "i", "f", "dh") else x for n, x in call.items()}


SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}  # CUDA C++ programming guide: of one block


def _stack_bytes(made: Any, folder: Path) -> int:
    """Registers that did not fit, a thread."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    told = subprocess.run([tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", told).group(1))  # type: ignore[union-attr]


def assert_compiles(
    monkeypatch: pytest.MonkeyPatch, folder: Path, call: Call, capability: int, *, stack: int = 0, **options: Any
) -> set[str]:
    names = set()
    for kernel, arguments in _launches(monkeypatch, call, **options):
        made = _compile(kernel, arguments, capability)
        assert made.metadata.shared <= SHARED_BYTES[capability]
        spilled = _stack_bytes(made, folder)
        assert spilled <= stack, f"{kernel.__name__} spills {spilled} bytes a thread"
        names.add(kernel.__name__)
    return names


CHUNKED = set(KERNELS) - {"single_kernel", "scan_kernel"}


@compiled
def test_short_streams_compile_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call = _half(inputs(2, 12, 4, 64, 64, state=False, ends=False), torch.bfloat16)
    assert assert_compiles(monkeypatch, tmp_path, call, 90) == {"single_kernel"}


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 86, 90])
@pytest.mark.parametrize(("dtype", "stack"), [(torch.bfloat16, 64), (torch.float16, 512), (torch.float32, 1024)])
def test_all_kernels_compile_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: torch.dtype, stack: int, capability: int
) -> None:
    """The model's shape, long streams of few heads and of many, each with room for its tiles and few registers spilled."""
    encoder = inputs(1, 40, 4, 512, 512, state=False, ends=False)
    assert assert_compiles(monkeypatch, tmp_path, _half(encoder, dtype), capability, stack=stack) == {"single_kernel"}
    long = inputs(1, 2500, 4, 128, 128)
    assert assert_compiles(monkeypatch, tmp_path, _half(long, dtype), capability, stack=stack) == CHUNKED | {
        "scan_kernel"
    }


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"gate": "sig"}, {"reverse": True, "lengths": [300, 3]}, {"state": False, "ends": False}, {"head": (20, 33)},
                {"head": (512, 256)}],
)  # fmt: skip
def test_every_variant_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]) -> None:
    made = {n: options.pop(n) for n in ("state", "ends", "lengths") if n in options}
    call = _half(inputs(2, 300, 64, *options.pop("head", (64, 64)), **made), torch.bfloat16)
    expected = CHUNKED - ({"passed_on_kernel"} if options.get("gate") == "sig" else set())
    assert assert_compiles(monkeypatch, tmp_path, call, 90, stack=256, **options) == expected
