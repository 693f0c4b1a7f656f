"""The style that tools can hold: ruff, mypy, clang-format. Each is skipped with a reason where the tool is not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ["xecg", "benchecg", "tests", "bench", "examples", "setup.py"]
NATIVE = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")
)


def run(tool: str, *arguments: str) -> None:
    beside = Path(sys.executable).parent / tool
    program = str(beside) if beside.exists() else shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not installed (pip install xecg[dev])")
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", *PYTHON)


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--check", "--no-cache", *PYTHON)


def test_clang_format_would_change_nothing() -> None:
    run("clang-format", "--dry-run", "--Werror", *NATIVE)


def test_mypy_finds_nothing() -> None:
    run("mypy", "--no-error-summary", "-p", "xecg", "-p", "benchecg")
