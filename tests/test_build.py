"""Packaging: what the source distribution holds, the build without a compiler, and what a build says when a tool is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the tree as a user gets it: tracked files only."""
    if not (ROOT / ".git").exists():
        pytest.skip("the list of files comes from git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return tmp_path / "source"


def build(source: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--no-isolation", *arguments, str(source)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


def test_source_distribution_holds_everything_that_a_build_needs(source: Path, tmp_path: Path) -> None:
    done = build(source, "--sdist", "-o", str(tmp_path), XECG_BUILD="none")
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[-1] for name in opened.getnames()}
    native = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()}
    assert names >= native | {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md"}


def test_a_build_without_compiler_gives_a_package_without_modules(source: Path, tmp_path: Path) -> None:
    done = build(source, "--wheel", "-o", str(tmp_path), XECG_BUILD="none", CXX="", CC="")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "xecg/ops/mlstm.py" in names and "benchecg/report/page.css" in names and "xecg/py.typed" in names
    assert not any(name.endswith((".so", ".cpp")) for name in names)


@pytest.mark.parametrize(
    ("environment", "facts"),
    [
        ({"XECG_BUILD": "gpu"}, ("'gpu'", "auto, cpu, cuda or none")),
        ({"XECG_BUILD": "auto", "PATH": "/nowhere", "CXX": ""}, ("no C++ compiler", "XECG_BUILD=none pip install .")),
        (
            {"XECG_BUILD": "cuda", "PATH": "/usr/bin:/bin", "CUDACXX": "", "CUDA_HOME": "", "CUDA_PATH": ""},
            ("nvcc was not found",),
        ),
    ],
)
def test_a_missing_tool_is_named_with_what_to_do(
    source: Path, environment: dict[str, str], facts: tuple[str, ...]
) -> None:
    if "cuda" in environment.values() and (
        shutil.which("nvcc", path="/usr/bin:/bin") or Path(sys.executable).with_name("nvcc").exists()
    ):
        pytest.skip("nvcc stands where it cannot be hidden")
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode != 0
    for fact in facts:
        assert fact in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
