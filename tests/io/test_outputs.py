"""Outputs are refused before the work begins, and system errors come as sentences that say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from xecg.errors import SpecError
from xecg.io.atomic import replacing, write_text
from xecg.io.outputs import check_output, explain


def test_a_free_name_and_a_file_to_replace_are_taken_untouched(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    assert check_output(tmp_path / "new") == tmp_path / "new"
    assert check_output(str(tmp_path / "old")).read_text() == "old"
    assert check_output(tmp_path / "a" / "b", folder=True) == tmp_path / "a" / "b"
    assert check_output(tmp_path, folder=True) == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for path, folder, message in (
        (tmp_path, False, "is a folder; needed the name of a file"),
        (tmp_path / "no" / "x", False, rf"{tmp_path / 'no'} does not exist; make it"),
        (tmp_path / "file" / "x", False, "which is no folder"),
        (tmp_path / "file", True, "is a file; needed a folder"),
        (tmp_path / "file" / "x", True, "which is no folder"),
        (Path("/dev/null"), False, "is no plain file"),
        (tmp_path / ("n" * 300), False, "too long"),
        (tmp_path / "loop" / "x", True, "which is no folder"),
    ):
        with pytest.raises(SpecError, match=message):
            check_output(path, folder=folder)


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)  # whoever the child becomes has to get there
    child = os.fork()
    if not child:  # root may write anywhere: ask as nobody
        told = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            check_output(closed / "x")
        except SpecError as error:
            told = 0 if "permission is denied" in str(error) and str(closed / "x") in str(error) else 2
        finally:
            os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ENOENT, errno.EMFILE])
def test_a_system_error_says_file_reason_need_and_remedy(number: int, tmp_path: Path) -> None:
    text = explain(OSError(number, os.strerror(number), str(tmp_path / "x")))
    assert text.startswith(f"{tmp_path / 'x'} cannot be used: ")
    assert "; needed " in text and "Errno" not in text


def test_a_missing_folder_is_told_from_a_missing_file(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "a" / "b", f"the folder {tmp_path / 'a'} does not exist"),
        (tmp_path / "b", "it does not"),
    ):
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert message in explain(caught.value)


def test_unknown_numbers_keep_their_words() -> None:
    assert explain(OSError("surprise")) == "surprise"


def test_errors_of_a_write_name_the_target_not_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write_text(tmp_path / "no" / "x", "")
    with pytest.raises(OSError) as full:
        _fill(tmp_path / "x")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    assert missing.value.filename == str(tmp_path / "no" / "x")
    with pytest.raises(FileNotFoundError) as other, replacing(tmp_path / "x"):
        (tmp_path / "input").read_bytes()
    assert other.value.filename == str(tmp_path / "input")
    assert not list(tmp_path.iterdir())


def _fill(path: Path) -> None:
    """A write that finds the disk full."""
    with replacing(path) as temporary, open("/dev/full", "wb", buffering=0) as disk:
        temporary.touch()
        disk.write(b"x")
