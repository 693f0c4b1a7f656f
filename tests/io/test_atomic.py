"""Writing: the old file or the new one, never a part of either."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from xecg.io import atomic


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic.replacing(target) as temporary:
            temporary.write_bytes(b"new, but not all of it")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_half()
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_sync_or_rename_is_reported_and_leaves_the_old_file(tmp_path, monkeypatch, call):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_bytes(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.bin"]


_KILLED = """
import os, sys
from xecg.io import atomic
real = os.replace
os.replace = lambda *a: os._exit(137)
atomic.write_bytes(sys.argv[1], b"new")
"""


def test_a_process_killed_before_the_rename_leaves_the_old_file_and_one_stale_one(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", _KILLED, str(target)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 137 and target.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    removed = atomic.remove_stale(tmp_path)
    assert len(removed) == 1 and removed[0].name.endswith(".tmp") and os.listdir(tmp_path) == ["out.bin"]


def test_temporary_files_of_a_living_process_are_kept(tmp_path):
    with atomic.replacing(tmp_path / "out.bin") as temporary:
        temporary.write_bytes(b"new")
        assert atomic.remove_stale(tmp_path) == [] and temporary.exists()


def test_new_files_have_the_mode_of_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        atomic.write_text(tmp_path / "out.txt", "é\n")
    finally:
        os.umask(old)
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "out.txt").read_bytes() == "é\n".encode()


def test_json_has_no_nan(tmp_path):
    atomic.write_json(tmp_path / "out.json", {"b": 1, "a": "µV"})
    assert json.loads((tmp_path / "out.json").read_text()) == {"b": 1, "a": "µV"}
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "out.json", {"a": float("nan")})
    assert json.loads((tmp_path / "out.json").read_text())["b"] == 1
