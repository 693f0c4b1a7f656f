"""The C++ tests (csrc/tests), built once with CMake and run case by case: elementary functions, thread pool, kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = ("linear", "mlstm")
KERNELS = (
    "math_exp",
    "math_tanh",
    "math_sigmoid",
    "math_log_sigmoid",
    "math_log1p",
    "conv1d",
    "norm",
    "slstm",
    "frontend",
    "frontend_stream",
    "quality",
    *PRODUCTS,
)
POOL = ("pool_every_index", "pool_nested", "pool_concurrent", "pool_forked")
QRS = ("qrs_anything", "qrs_beats", "qrs_chunks", "qrs_altered_states", "reversal")
CASES = [*(f"{name}.{isa}" for isa in ("base", "avx2", "avx512") for name in KERNELS), *POOL, *QRS]
CASES += [f"{name}.amx" for name in PRODUCTS]  # all else is avx512's
CASES += ["cuda_frontend", "cuda_slstm"]  # the CUDA kernels' bodies, emulated

pytestmark = pytest.mark.slow


def built(build: Path, *options: str) -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(build), "-DXECG_TESTS=ON", *generator, *options],
        ["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return build / "xecg_tests"


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake") or not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("cmake or a C++ compiler is missing")
    return built(tmp_path_factory.mktemp("native"))


def test_every_case_of_the_executable_is_run_here(executable: Path) -> None:
    listed = subprocess.run([executable], capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) <= set(CASES)
    assert {*POOL, *QRS} <= set(listed) and {f"{name}.base" for name in KERNELS} <= set(listed)


@pytest.mark.parametrize("case", CASES)
def test_case(executable: Path, case: str) -> None:
    listed = subprocess.run([executable], capture_output=True, text=True, check=True).stdout.split()
    if case not in listed:
        pytest.skip(f"this machine has no {case.rpartition('.')[2]}")
    done = subprocess.run([executable, case], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


ARM64 = ("aarch64-linux-gnu-g++", "qemu-aarch64-static")


@pytest.mark.skipif(not all(map(shutil.which, ("cmake", *ARM64))), reason=f"needs cmake, {' and '.join(ARM64)}")
def test_the_base_level_runs_on_arm64(tmp_path: Path) -> None:
    compiler, emulator = ARM64
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}")
    tests = [emulator, str(built(tmp_path, *target, "-DCMAKE_EXE_LINKER_FLAGS=-static"))]
    listed = subprocess.run(tests, capture_output=True, text=True, check=True).stdout.split()
    assert {f"{name}.base" for name in KERNELS} <= set(listed) and not any("avx" in case for case in listed)
    for case in listed:
        done = subprocess.run([*tests, case], capture_output=True, text=True, timeout=600)
        assert done.returncode in (0, 77), f"{case}: {done.stdout}{done.stderr}"
