"""Every configuration of the mLSTM kernels in Triton compiles for real GPUs, without one: shared memory and spills in bounds.

Not yet run on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="the package triton is not installed")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")

SHARED_BYTES = 99 * 1024  # what a block may have on sm_86 and sm_89, the least of the GPUs served
# A thread. Measured with triton 3.6 and 3.9: 0 nearly everywhere, up to 24 for walks on sm_90 and float32, 40 for float16 (512, 512) on
# sm_80; heads that are no multiple of 16 are read entry by entry and masked, which costs up to 144.
SPILL_BYTES, SPILL_BYTES_ODD = 48, 160
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
STATES = ("C0", "n0", "m0", "C", "n", "m", "tops", "last_C", "last_n", "last_m")
SEQUENCES = ("q", "k", "v", "i", "f", "h", "out")


def compiled(kernel, dtype: torch.dtype, constants: dict, target: int, tile):
    """The kernel as a launch would specialise it: aligned pointers and strides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, values, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(index,)] = "constexpr", constants[name]
            continue
        if name in SEQUENCES:
            signature[name] = TYPES[dtype]
        elif name in STATES:
            signature[name] = "*fp32"
        else:
            signature[name] = {"lengths": "*i64", "decays": "*fp64", "scale": "fp32", "eps": "fp32"}.get(name, "i32")
        if signature[name].startswith("*") or re.fullmatch(r"[qkvh]_[bth]", name):
            attributes[(index,)] = [["tt.divisibility", 16]]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return triton.compile(
        ASTSource(kernel, signature, values, attributes), target=GPUTarget("cuda", target, 32), options=options
    )


def resources(binary, target: int, folder: Path) -> tuple[int, int, int]:
    """Bytes of shared memory, registers a thread, bytes spilled."""
    from triton.backends.nvidia.compiler import get_ptxas

    path = folder / "kernel.ptx"
    path.write_text(binary.asm["ptx"])
    arch = re.search(r"\.target (\w+)", binary.asm["ptx"]).group(1)
    command = [get_ptxas(target).path, "-v", f"-arch={arch}", str(path), "-o", str(folder / "kernel.cubin")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", told).group(1))
    return binary.metadata.shared, registers, int(re.search(r"(\d+) bytes spill stores", told).group(1))


def cases(dtype: torch.dtype, DK: int, DV: int):
    """Name, kernel, constants and tile of every launch for one head size."""
    from xecg.ops.triton import _mlstm_configs as configs
    from xecg.ops.triton._mlstm_forward import chunk_kernel
    from xecg.ops.triton._mlstm_step import memory_kernel, normal_kernel
    from xecg.ops.triton._mlstm_tiles import MODES
    from xecg.ops.triton._mlstm_walk import scan_kernel, states_kernel, walk_kernel

    common = {
        "EXP": True,
        "REVERSE": False,
        "MODE": MODES[dtype],
        "DK": DK,
        "DV": DV,
        "SEGMENT": configs.segment_of(DK, DV),
    }
    nothing = dict.fromkeys(("C0", "n0", "m0", "lengths")) | {"RAGGED": False, "STATE": False}
    everything = {"RAGGED": True, "STATE": True, "END": True}
    unwritten = {"END": False, "C": None, "n": None, "m": None}
    short, long = (configs.plan(2048, T, DK, DV, dtype, 132) for T in (32 if dtype == torch.float32 else 40, 2500))
    assert short.way == "chunk"
    one = {"chunks": 1, "origin": 0}
    yield "chunk alone", chunk_kernel, {**common, **one, **nothing, **unwritten}, short.alone
    yield "chunk", chunk_kernel, {**common, **everything}, short.out
    if long.way == "tiles":
        yield "states", states_kernel, {**common, **everything}, long.states
    else:
        one = {"slots": 1, "origin": 0, "OUT": True, "decays": None}
        yield "walk alone", walk_kernel, {**common, **one, **nothing, **unwritten, "START": True}, long.out
        yield "walk", walk_kernel, {**common, **one, **everything, "START": True}, long.out
        empty = dict.fromkeys(("C0", "n0", "m0")) | {"RAGGED": True, "STATE": False, "START": False}
        yield "sums", walk_kernel, {**common, **empty, "OUT": False, "END": True}, long.out
        small = configs.Tile({"BLOCK": configs.SCAN_BLOCK}, 4, 3, 1)
        yield "scan", scan_kernel, {**common, "STATE": True, "END": True}, small
    step = configs.step_tile(DK, DV)
    yield "step", memory_kernel, common, step
    yield "step of n", normal_kernel, common, configs.Tile({"BK": step.sizes["BK"]}, 4, 3, 1)


def test_the_kernels_of_one_way_agree_on_the_steps_of_a_chunk() -> None:
    from xecg.ops.triton import _mlstm_configs as configs

    for dtype in TYPES:
        rows = [configs.row_of(kernel, dtype, 512) for kernel in ("alone", "chunk", "states", "gradient")]
        assert all(rows) and len({row.L for row in rows[:3]}) == 1
    assert configs.segment_of(1, 1) % max(row.L for row in configs.TABLE.values()) == 0


def check(target: int, dtype: torch.dtype, head: tuple[int, int], folder: Path, only: str = "") -> None:
    wrong = []
    for name, kernel, constants, tile in cases(dtype, *head):
        if not name.startswith(only):
            continue
        constants = {key: value for key, value in {**constants, **tile.sizes}.items() if key in kernel.arg_names}
        shared, registers, spilled = resources(compiled(kernel, dtype, constants, target, tile), target, folder)
        line = f"sm_{target} {str(dtype)[6:]} {head} {name} {tile.sizes} {tile.warps} warps: "
        line += f"{shared} B shared, {registers} registers, {spilled} B spilled"
        print(line)
        if shared > SHARED_BYTES or spilled > (SPILL_BYTES_ODD if any(d % 16 for d in head) else SPILL_BYTES):
            wrong.append(line)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("head", [(512, 512), (128, 128)], ids=str)
def test_the_kernels_that_xecg_uses_compile(target: int, head: tuple[int, int], tmp_path: Path) -> None:
    check(target, torch.bfloat16, head, tmp_path, only="chunk alone" if head == (512, 512) else "walk")


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("head", [(64, 64), (128, 128), (128, 256), (512, 512), (20, 37)], ids=str)
def test_every_configuration_compiles_within_bounds(
    target: int, dtype: torch.dtype, head: tuple[int, int], tmp_path: Path
) -> None:
    check(target, dtype, head, tmp_path)


def sums(binary) -> set[tuple[str, ...]]:
    """Of a compiled walk: how the sums that make the state are laid out over threads, which is the order of their terms."""
    text = binary.asm["ttgir"]
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.MULTILINE))
    found = set()
    for kind, axis, shape, layout in re.findall(
        r'"tt\.(reduce|scan)"\(.*?axis = (\d)(?:.*\n)*?\s*\}\) : \(tensor<(\w+), (#\w+)>', text
    ):
        if axis == "0" and shape.endswith(("f32", "f64")):
            found.add((kind, shape, layouts[layout]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda t: str(t)[6:])
def test_a_split_adds_in_the_order_of_a_walk(target: int, dtype: torch.dtype) -> None:
    launches = {name: given for name, *given in cases(dtype, 128, 128)}
    found = {}
    for name in ("walk", "sums"):
        kernel, constants, tile = launches[name]
        constants = {key: value for key, value in {**constants, **tile.sizes}.items() if key in kernel.arg_names}
        found[name] = sums(compiled(kernel, dtype, constants, target, tile))
    L, BK = tile.sizes["L"], tile.sizes["BK"]
    assert {(kind, shape) for kind, shape, _ in found["sums"]} >= {("scan", f"{L}xf64"), ("reduce", f"{L}x{BK}xf32")}
    assert found["sums"] <= found["walk"]
