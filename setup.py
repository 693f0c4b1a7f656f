"""Builds the native modules of xecg with CMake. Metadata lives in pyproject.toml.

XECG_BUILD = auto (default: CPU always, CUDA when nvcc is found) | cpu | cuda (fail without nvcc) | none (no compiler: pure PyTorch).
XECG_CUDA_ARCHS overrides the GPU architectures, in CMake's notation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent


def _stop(found: str, todo: str) -> None:
    raise SystemExit(f"xecg build: {found}. {todo}")


def _mode() -> str:
    mode = os.environ.get("XECG_BUILD", "auto").lower()
    if mode not in ("auto", "cpu", "cuda", "none"):
        _stop(f"XECG_BUILD is {mode!r}; needed auto, cpu, cuda or none", "Correct or unset it.")
    return mode


def _check_tools(mode: str) -> None:
    if int(setuptools.__version__.split(".")[0]) < 77:
        _stop(
            f"setuptools {setuptools.__version__} is too old; needed 77 or newer",
            "Run `pip install -U 'setuptools>=77' wheel 'pybind11>=2.13' 'cmake>=3.25' ninja`, "
            "or install without --no-build-isolation.",
        )
    if mode == "none":
        return
    if not (os.environ.get("CXX") or any(shutil.which(name) for name in ("c++", "g++", "clang++"))):
        _stop(
            "no C++ compiler was found (looked at CXX, c++, g++, clang++)",
            "Install one (Debian: `apt install g++`), or build the slower pure-PyTorch package with "
            "`XECG_BUILD=none pip install .`",
        )
    if mode == "cuda" and not _nvcc():
        _stop(
            "XECG_BUILD=cuda, but nvcc was not found on PATH, in CUDACXX or under CUDA_HOME",
            "Install the CUDA toolkit.",
        )


def _nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [os.environ.get("CUDACXX"), shutil.which("nvcc"), home and str(Path(home) / "bin" / "nvcc")]
    return next((c for c in candidates if c and shutil.which(c)), None)


class CMakeBuild(build_ext):
    """One configure and one build produce every module; `ext` only carries the module's name."""

    def run(self) -> None:
        if self.extensions:
            self._build_all()

    def _build_all(self) -> None:
        try:
            import pybind11
        except ImportError:
            _stop(
                "pybind11 is missing",
                "Run `pip install 'pybind11>=2.13' 'cmake>=3.25' ninja`, or drop --no-build-isolation.",
            )
        if not shutil.which("cmake"):
            _stop("cmake is missing", "Run `pip install 'cmake>=3.25' ninja`.")
        pybind11_dir = pybind11.get_cmake_dir()
        # A build folder outlives an isolated environment; its cache would name tools that no longer exist.
        key = hashlib.sha256(f"{sys.executable}|{pybind11_dir}|{shutil.which('cmake')}".encode()).hexdigest()[:12]
        build = HERE / "build" / f"cmake-{key}"
        build.mkdir(parents=True, exist_ok=True)
        with_cuda = any(ext.name == "xecg._cuda" for ext in self.extensions)
        configure = [
            "cmake", "-S", str(HERE), "-B", str(build),
            f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11_dir}",
            f"-DXECG_WITH_CUDA={'ON' if with_cuda else 'OFF'}", "-DCMAKE_BUILD_TYPE=Release",
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        if with_cuda:
            configure += [f"-DCMAKE_CUDA_COMPILER={_nvcc()}"]
            if os.environ.get("XECG_CUDA_ARCHS"):
                configure += [f"-DCMAKE_CUDA_ARCHITECTURES={os.environ['XECG_CUDA_ARCHS']}"]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], check=True)
        for ext in self.extensions:
            target = Path(self.get_ext_fullpath(ext.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            built = next(build.glob(f"{ext.name.rpartition('.')[2]}.*.so"), None) or next(
                build.glob(f"{ext.name.rpartition('.')[2]}*.so")
            )
            shutil.copy2(built, target)


# cmake and ninja that pip installed beside this Python serve also where its folder is not on PATH.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
mode = _mode()
_check_tools(mode)
modules = [] if mode == "none" else ["xecg._cpu"]
if mode == "cuda" or (mode == "auto" and _nvcc()):
    modules.append("xecg._cuda")
setup(ext_modules=[Extension(name, sources=[]) for name in modules], cmdclass={"build_ext": CMakeBuild})
