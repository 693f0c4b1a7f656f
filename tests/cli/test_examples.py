"""Every example runs as it is and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISED = {
    "01_embed_one.py": "embedding (1, 128)",
    "02_archive_to_table.py": "unseen synthetic patients: AUROC",
    "03_stream.py": "bed-2: 80 tokens of 20 s",
    "04_ops_in_your_network.py": "right 100%",
}


def test_every_numbered_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("[0-9]*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_example_runs_as_it_is(name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert PROMISED[name] in done.stdout
