"""A small WFDB archive of synthetic recordings, and a small model, for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from xecg.io import write_wfdb
from xecg.signal import simulate


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """site-a/r0 … r3 (12 leads, 10 s), site-b/short (0.1 s), site-b/long (2 leads, 61 s), site-b/broken (cut)."""
    root = tmp_path_factory.mktemp("archive")
    (root / "site-a").mkdir()
    (root / "site-b").mkdir()
    for n in range(4):
        write_wfdb(simulate.ecg(seed=n), root / "site-a", f"r{n}")
    write_wfdb(simulate.ecg(seed=10, duration_s=0.1), root / "site-b", "short")
    write_wfdb(simulate.ecg(seed=11, duration_s=61, leads=("II", "V1")), root / "site-b", "long")
    header = write_wfdb(simulate.ecg(seed=12), root / "site-b", "broken")
    samples = header.with_suffix(".dat")
    samples.write_bytes(samples.read_bytes()[:-1000])
    return root
