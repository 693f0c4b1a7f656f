"""Which files of a folder are recordings, and what `read` says to those it cannot read."""

from __future__ import annotations

import numpy as np
import pytest

from xecg.errors import DataMissing, ReadError
from xecg.io import find_records, read


def test_records_are_listed_once_and_sorted(broken):
    broken.write()
    root = broken.folder
    (root / "sub").mkdir()
    (root / "sub" / "q.hea").write_text(broken.header())
    (root / "sub" / "q.dat").write_bytes(broken.data)
    for name in ("r.atr", "RECORDS", "LICENSE.txt", ".hidden.hea", "sub/x_layout.hea", "sub/x_0001.hea"):
        (root / name).write_text("x")
    np.save(root / "a.npy", np.zeros(3))
    (root / "b.csv").write_text("I (mV)\n0.1\n")
    (root / "labels.csv").write_text("record,af\nr,1\n")
    (root / "c.EDF").write_text("0")
    names = [path.relative_to(root).as_posix() for path in find_records(root)]
    assert names == ["a.npy", "b.csv", "c.EDF", "r.hea", "sub/q.hea"]


def test_a_file_gives_itself_and_nothing_is_missing_data(broken):
    path = broken.write()
    assert find_records(path) == [path]
    with pytest.raises(DataMissing, match="does not exist"):
        find_records(broken.folder / "none")


def test_numbered_records_are_not_taken_for_segments(broken):
    for name in ("1", "11", "111", "1111004"):
        (broken.folder / f"{name}.hea").write_text(broken.header(record=f"{name} 2 500 1000"))
    assert len(find_records(broken.folder)) == 4


def test_data_files_without_any_header_are_listed_so_that_they_are_refused(tmp_path):
    (tmp_path / "r.dat").write_bytes(bytes(100))
    assert find_records(tmp_path) == [tmp_path / "r.dat"]
    with pytest.raises(ReadError, match=r"WFDB data; .*\.hea"):
        read(tmp_path / "r.dat")


def test_a_record_is_found_without_its_suffix(broken):
    broken.write()
    assert read(broken.folder / "r").leads == ("I", "V1")


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("r.bdf", b"\xffBIOSEMI", "BDF"),
        ("r.dcm", bytes(128) + b"DICM", "DICOM"),
        ("r.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("r.xml", b"<?xml version='1.0'?>", "XML"),
        ("r.csv", b"<html>", "XML"),
        ("r.mat", b"MATLAB 5.0 MAT-file, x", "MATLAB 5"),
        ("r.bin", b"\1\2\3", "unknown"),
        ("r.hea", b"%PDF-1.4", "PDF"),
    ],
)
def test_other_formats_are_named_and_never_guessed(tmp_path, name, head, kind):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(ReadError) as caught:
        read(tmp_path / name, rate=500)
    assert caught.value.field == "format" and kind in caught.value.found and "WFDB" in caught.value.rule


def test_addresses_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ReadError, match="local file"):
        read("https://example.org/r.hea")
    with pytest.raises(ReadError, match="No such file"):
        read(tmp_path / "none.hea")
