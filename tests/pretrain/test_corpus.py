"""What may enter the corpus: never a benchmark recording, by place, name, content or shared samples; nothing twice.

Under a folder they are left out and counted; named themselves they are refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from xecg.errors import ReadError, XECGError
from xecg.io import read, write_wfdb
from xecg.pretrain.build import _admitted, build_corpus, read_report
from xecg.pretrain.corpus import Corpus, benchmark_of, content_hash, fingerprints
from xecg.pretrain.known import BENCHMARK_RECORDINGS
from xecg.pretrain.run import read_hashes
from xecg.signal import PRESETS, Recording, preprocess, simulate

SPEC = PRESETS["poly"]


def write(folder: Path, name: str, *, seed: int, duration_s: float = 10.0, first: int = 0) -> Recording:
    made = simulate.ecg(seed=seed, duration_s=duration_s, rate_hz=250.0)
    part = made.with_(signal=made.signal[:, first:], mask=made.mask[:, first:], annotations=None)
    folder.mkdir(parents=True, exist_ok=True)
    write_wfdb(part, folder, name)
    return part


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/mitdb/100.hea", "MIT-BIH Arrhythmia Database"),
        ("ptb-xl/records500/00000/00001_hr.hea", "PTB-XL"),
        ("elsewhere/00001_lr.hea", "PTB-XL"),
        ("renamed/HR00001.hea", "PTB-XL"),
        ("challenge-2021/HR/g1/x.hea", "PTB-XL in Challenge 2021"),
        ("challenge-2021/A/x.hea", "CPSC 2018 in Challenge 2021"),
        ("challenge-2021/Q/x.hea", "CPSC 2018 in Challenge 2021"),
        ("renamed/A0001.hea", "CPSC 2018"),
        ("renamed/Q0001.hea", "CPSC 2018"),
        ("challenge-2021/E/E00001.hea", None),
        ("challenge-2021/JS/JS00001.hea", None),
        ("challenge-2025/1111.hea", None),
        ("cpsc2021/data_8_2.hea", None),
        ("a/hr/ward-3/100.hea", None),  # folders of these names mean nothing outside the Challenge
    ],
)
def test_benchmark_sets_are_known_by_place_and_name(path: str, name: str | None, tmp_path: Path) -> None:
    assert benchmark_of(tmp_path / path) == name


def entered(folder: Path) -> set[str]:
    """The recordings that have windows in a store."""
    return {name.rpartition("@")[0] for name in Corpus(folder).ids}


def test_benchmarks_under_a_folder_are_left_out_and_counted(tmp_path: Path) -> None:
    """None of their samples enters, whatever gives them away: the control is the same recording without the tell-tale."""
    write(tmp_path / "in" / "own", "r1", seed=1)
    for i, place in enumerate(("mitdb", "mitdb/x", "challenge-2021/HR/g1", "own", "formats/edf")):
        write(tmp_path / "in" / place, f"HR0000{i}" if place == "own" else f"r{i}", seed=2 + i)
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    assert entered(tmp_path / "out") == {"0-in/own/r1"} and (report.recordings, report.windows) == (1, 1)
    assert set(map(str, report.left_out)) == {
        "mitdb 2 (MIT-BIH Arrhythmia Database, a benchmark set)",
        "challenge-2021/HR 1 (PTB-XL in Challenge 2021, a benchmark set)",
        "own 1 (PTB-XL, a benchmark set)",
        "formats/edf 1 (reader samples, a benchmark set)",
    }
    assert read_report(tmp_path / "out") == report and Corpus(tmp_path / "out").left_out == report.left_out
    (tmp_path / "in" / "mitdb").rename(tmp_path / "in" / "ward")
    assert build_corpus([tmp_path / "in"], tmp_path / "other", SPEC).recordings == 3


def test_a_folder_of_nothing_but_benchmarks_is_an_error_that_says_so(tmp_path: Path) -> None:
    write(tmp_path / "in" / "mitdb", "r2", seed=2)
    with pytest.raises(XECGError, match=r"no recording in .*Left out: mitdb 1 \(MIT-BIH"):
        build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("named", ["mitdb", "mitdb/r2.hea", "mitdb/x", "renamed/HR00001.hea", "link"])
def test_a_benchmark_that_is_named_itself_is_refused_and_nothing_is_written(tmp_path: Path, named: str) -> None:
    write(tmp_path / "own", "r1", seed=1)
    for place, name in (("mitdb", "r2"), ("mitdb/x", "r3"), ("renamed", "HR00001")):
        write(tmp_path / place, name, seed=2)
    (tmp_path / "link").symlink_to(tmp_path / "mitdb")
    with pytest.raises(XECGError, match=r"belongs to (MIT-BIH|PTB-XL).*Leave it out"):
        build_corpus([tmp_path / "own", tmp_path / named], tmp_path / "out", SPEC)
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_benchmark_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "mitdb", "r2", seed=2)
    write(tmp_path / "in", "r1", seed=1)
    for end in ("hea", "dat"):
        (tmp_path / "in" / f"r2.{end}").symlink_to(tmp_path / "mitdb" / f"r2.{end}")
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    assert entered(tmp_path / "out") == {"0-in/r1"} and report.left_out[0].recordings == 1


def test_a_renamed_copy_is_left_out_by_its_content(tmp_path: Path) -> None:
    write(tmp_path / "in", "r1", seed=1)
    write(tmp_path / "in" / "sub", "r2", seed=2)
    digest = content_hash(read(tmp_path / "in" / "sub" / "r2.hea"))
    for i, listed in enumerate((digest, digest[:16])):
        report = build_corpus([tmp_path / "in"], tmp_path / str(i), SPEC, forbidden=[listed])
        assert entered(tmp_path / str(i)) == {"0-in/r1"}
        assert list(map(str, report.left_out)) == ["sub 1 (content on the list of benchmark recordings)"]
    with pytest.raises(XECGError, match=r"r2.*not be trained on"):
        build_corpus([tmp_path / "in" / "sub" / "r2.hea"], tmp_path / "file", SPEC, forbidden=[digest])
    assert build_corpus([tmp_path / "in"], tmp_path / "all", SPEC, forbidden=["0" * 16]).recordings == 2


def test_a_cut_and_renamed_copy_is_left_out_by_its_samples(tmp_path: Path) -> None:
    write(tmp_path / "bench", "b", seed=1, duration_s=60)
    write(tmp_path / "in", "r1", seed=1, duration_s=60, first=7_777)
    write(tmp_path / "in", "r2", seed=2)
    assert content_hash(read(tmp_path / "bench/b.hea")) != content_hash(read(tmp_path / "in/r1.hea"))
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC, compare=[tmp_path / "bench"])
    assert entered(tmp_path / "out") == {"0-in/r2"} and report.compared == 1
    assert list(map(str, report.left_out)) == ["in 1 (samples shared with bench, which is compared with)"]
    with pytest.raises(XECGError, match=r"r1.*shares samples with .*bench/b"):
        build_corpus([tmp_path / "in/r1.hea"], tmp_path / "file", SPEC, compare=[tmp_path / "bench"])
    assert build_corpus([tmp_path / "in"], tmp_path / "all", SPEC).recordings == 2


def test_different_recordings_share_no_fingerprint() -> None:
    one, two = (fingerprints(simulate.ecg(seed=s)) for s in (1, 2))
    assert len(one) > 300 and not one & two


def test_a_flat_recording_has_no_fingerprint() -> None:
    flat = simulate.ecg(seed=1)
    assert not fingerprints(flat.with_(signal=np.zeros_like(flat.signal)))


def test_duplicates_are_left_out_and_listed(tmp_path: Path) -> None:
    write(tmp_path / "in", "a", seed=1)
    write(tmp_path / "in", "b", seed=1)
    write(tmp_path / "in", "c", seed=1, first=900)
    write(tmp_path / "in", "d", seed=2)
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    assert report.recordings == 2 and [text.split("/")[-1] for text in report.duplicates] == ["a.hea", "a.hea"]
    assert read_report(tmp_path / "out") == report


def test_windows_are_what_the_model_sees(tmp_path: Path) -> None:
    write(tmp_path / "in", "long", seed=1, duration_s=39)  # 12 + 12 + 12 s, and 3 s that are too short
    (tmp_path / "in" / "broken.hea").write_text("broken 12 500\n")
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC, synthetic=2)
    corpus = Corpus(tmp_path / "out")
    assert (len(corpus), report.windows, report.recordings) == (5, 5, 1) and len(report.refused) == 1
    assert corpus.ids[:3] == ("0-in/long@0", "0-in/long@12", "0-in/long@24") and corpus.ids[3].startswith("synthetic/")
    name, x = corpus.record(1)
    whole = preprocess(read(tmp_path / "in" / "long.hea"), SPEC).x
    assert name == "0-in/long@12" and x.dtype == np.float32 and x.shape == (12, 1200)
    assert np.abs(x - whole[:, 1200:2400]).max() <= np.abs(whole).max() / 32_000
    again = tmp_path / "again"
    build_corpus([tmp_path / "in"], again, SPEC, synthetic=2)
    assert Corpus(again).digest == corpus.digest


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "in", "short", seed=1, duration_s=2)
    with pytest.raises(XECGError, match="no window of 4 s"):
        build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)


def test_a_list_of_hashes_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# ours\n" + "A" * 64 + "  r1\n\n" + "0" * 16 + "\n")
    assert read_hashes(path) == ("a" * 64, "0" * 16)
    path.write_text("r1\n")
    with pytest.raises(XECGError, match="line 1 starts with 'r1'"):
        read_hashes(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(XECGError, match="is no text"):
        read_hashes(path)


def test_mitbih_is_refused_under_any_name(tmp_path: Path) -> None:
    data = os.environ.get("ECG_DATA")
    if not data or not (Path(data) / "mitdb" / "100.dat").exists():
        pytest.skip("ECG_DATA has no mitdb")
    for end in ("hea", "dat"):
        shutil.copy(Path(data) / "mitdb" / f"100.{end}", tmp_path / f"100.{end}")
    assert content_hash(read(tmp_path / "100.hea"))[:16] in BENCHMARK_RECORDINGS
    with pytest.raises(XECGError, match="content on the list of benchmark recordings"):
        build_corpus([tmp_path], tmp_path.with_suffix(".out"), SPEC)
    with pytest.raises(XECGError, match="not be trained on"):
        build_corpus([tmp_path / "100.hea"], tmp_path / "out", SPEC)


def test_of_the_development_data_only_the_sets_that_may_be_trained_on_enter(tmp_path: Path) -> None:
    """By a list of its own, not by the rules under test."""
    data = os.environ.get("ECG_DATA")
    if not data or not (Path(data) / "challenge-2021" / "E").is_dir():
        pytest.skip("ECG_DATA has no challenge-2021")
    files, left_out = _admitted([data])
    allowed = ("challenge-2021/E/", "challenge-2021/JS/", "challenge-2025/", "cpsc2021/")
    within = [path.relative_to(data).as_posix() for _, path in files]
    assert within and all(name.startswith(allowed) for name in within)
    folders = {folder for folder, _ in left_out}
    assert {"mitdb", "ptb-xl", "challenge-2021/HR", "challenge-2021/A", "challenge-2021/Q", "wfdb-formats"} <= folders


def test_an_unreadable_recording_is_listed_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path / "in", "good", seed=1)
    (tmp_path / "in" / "bad.edf").write_bytes(b"nothing of the kind")
    with pytest.raises(ReadError):
        read(tmp_path / "in" / "bad.edf")
    report = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    assert report.recordings == 1 and "bad.edf" in report.refused[0]
