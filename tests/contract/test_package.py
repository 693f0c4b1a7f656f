"""Names of the package and its errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xecg
from xecg import errors

ROOT = Path(__file__).resolve().parents[2]


def test_public_names_are_these_and_resolve() -> None:
    assert set(xecg.__all__) == {
        "ECGFrontend", "Recording", "SignalSpec", "Stream", "XECG", "XECGConfig", "errors", "io", "load", "model", "ops",
        "preprocess", "pretrain", "read", "signal", "stream",
    }  # fmt: skip
    for name in xecg.__all__:
        assert getattr(xecg, name) is not None


def test_errors_are_one_family() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.XECGError)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = xecg.nothing


def test_a_source_tree_without_built_modules_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['xecg._cpu'] = None\n"
        "import torch; from xecg import ops\n"
        "print(ops.backends('causal_conv1d')['cpu'])\n"
        "ops.causal_conv1d(torch.randn(1, 4, 3), torch.randn(3, 4))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "not built" in done.stdout and "pip install" in done.stdout and "reference" in done.stdout
