"""Promises of `xecg store build`: killed builds go on to the same bytes, any lead set, patients linked, the trainer reads it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.pretrain.faults import killed_at
from tests.pretrain.test_corpus import write
from xecg.cli import main
from xecg.errors import XECGError
from xecg.io import read, write_wfdb
from xecg.io.store import Store, StoreItem, join_stores, write_store
from xecg.pretrain.build import build_corpus, read_patients, read_report
from xecg.pretrain.corpus import Corpus, Gate
from xecg.signal import PRESETS, Recording

SPEC = PRESETS["causal"]
FILES = ("beats.npz", "counts.bin", "index.parquet", "manifest.json", "patients.npy", "report.json")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for i in range(5):
        write(tmp_path / "in", f"r{i}", seed=i, duration_s=5.0 + 4 * i)
    write(tmp_path / "in", "copy", seed=1, duration_s=9.0)
    (tmp_path / "in" / "broken.hea").write_text("broken 12 500\n")
    return tmp_path / "in"


def same_store(one: Path, two: Path) -> None:
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir()) == sorted(FILES)
    for name in ("counts.bin", "index.parquet", "manifest.json", "patients.npy"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for key in ("first", "time", "kind", "waves"):
        a, b = (np.load(folder / "beats.npz")[key] for folder in (one, two))
        np.testing.assert_array_equal(a, b)
    assert read_report(one) == read_report(two)


def test_a_killed_build_goes_on_to_the_same_bytes_and_reads_nothing_twice(source: Path, tmp_path: Path) -> None:
    whole = build_corpus([source], tmp_path / "whole", SPEC, synthetic=3, part=2)
    assert (whole.recordings, whole.synthetic, len(whole.refused), len(whole.duplicates)) == (5, 3, 1, 1)
    asked: list[Path] = []
    stop = 0

    def reading(path: Path) -> Recording:
        asked.append(path)
        if len(asked) == stop:
            raise KeyboardInterrupt
        return read(path)

    for at in range(2, 7):
        asked.clear()
        out, stop = tmp_path / f"cut-{at}", at
        with pytest.raises(KeyboardInterrupt):
            build_corpus([source], out, SPEC, synthetic=3, part=2, reading=reading)
        assert not (out / "manifest.json").exists()
        before, stop = list(asked), 0
        build_corpus([source], out, SPEC, synthetic=3, part=2, reading=reading)
        again = [path for path in asked[len(before) :] if path in before]
        assert len(again) <= 2  # those of the part that was cut
        same_store(tmp_path / "whole", out)


def test_the_size_of_parts_changes_nothing(source: Path, tmp_path: Path) -> None:
    for part in (1, 3, 256):
        build_corpus([source], tmp_path / str(part), SPEC, synthetic=3, part=part)
        same_store(tmp_path / "1", tmp_path / str(part))


def test_a_build_killed_at_any_write_goes_on(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / "in", f"r{i}", seed=i)
    build_corpus([tmp_path / "in"], tmp_path / "whole", SPEC, part=1)
    points = 0
    for at in itertools.count(1):
        out = tmp_path / str(at)
        if not killed_at(at, lambda: build_corpus([tmp_path / "in"], out, SPEC, part=1)):  # noqa: B023
            break
        points += 1
        build_corpus([tmp_path / "in"], out, SPEC, part=1)
        same_store(tmp_path / "whole", out)
    assert points == 2 * 6 + 6  # six files a part, six of the store


def test_a_changed_file_is_read_again(source: Path, tmp_path: Path) -> None:
    def stopped(path: Path) -> Recording:
        if path.stem == "r4":
            raise KeyboardInterrupt
        return read(path)

    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], tmp_path / "out", SPEC, part=1, reading=stopped)
    write(source, "r0", seed=77, duration_s=5.5)
    build_corpus([source], tmp_path / "out", SPEC, part=1)
    build_corpus([source], tmp_path / "fresh", SPEC, part=1)
    assert Corpus(tmp_path / "out").digest == Corpus(tmp_path / "fresh").digest


def test_any_lead_set_enters_and_no_known_lead_is_refused(tmp_path: Path) -> None:
    full = write(tmp_path / "in", "full", seed=1)
    for name, leads in (("two", ("II", "V5")), ("one", ("I",))):
        rows = [full.leads.index(lead) for lead in leads]
        part = full.with_(signal=full.signal[rows] * 0.9, mask=full.mask[rows], leads=leads)
        write_wfdb(part, tmp_path / "in", name)
    other = full.with_(signal=full.signal[:1] * 0.8, mask=full.mask[:1], leads=("pleth",))
    write_wfdb(other, tmp_path / "in", "none")
    built = build_corpus([tmp_path / "in"], tmp_path / "out", SPEC)
    store = Store(tmp_path / "out")
    there = {name.split("/")[1].split("@")[0]: store[i].mask.any(1) for i, name in enumerate(store.record_ids)}
    assert there.keys() == {"full", "two", "one"}
    assert [int(there[k].sum()) for k in ("full", "two", "one")] == [12, 2, 1] and there["one"][0]
    assert len(built.refused) == 1 and "none.hea" in built.refused[0]


def test_windows_and_recordings_of_a_patient_are_linked_and_no_name_is_written(source: Path, tmp_path: Path) -> None:
    table = source / "people.csv"
    table.write_text("record,patient\nr0,Secretname\nr3.hea,Secretname\nr1,Other\nr2,\n")
    built = build_corpus([source], tmp_path / "out", SPEC, synthetic=1, patients=read_patients(table))
    corpus = Corpus(tmp_path / "out")
    owner = {name: int(number) for name, number in zip(corpus.ids, corpus.patients)}
    assert owner["0-in/r0@0"] == owner["0-in/r3@0"] == owner["0-in/r3@12"]
    assert len({owner[f"0-in/{r}@0"] for r in ("r0", "copy", "r2", "r4")} | {owner["synthetic/0-000000@0"]}) == 5
    assert built.patients == 5
    for path in (tmp_path / "out").rglob("*"):
        assert b"Secretname" not in path.read_bytes()
    (tmp_path / "out" / "patients.npy").unlink()  # as in a store of an earlier version: recordings stand for patients
    assert len(set(Corpus(tmp_path / "out").patients.tolist())) == 6
    table.write_text("record,person\nr0,a\n")
    with pytest.raises(XECGError, match="needed record and patient"):
        read_patients(table)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(XECGError, match="is no table"):
        read_patients(table)
    table.write_bytes(b"\xef\xbb\xbfrecord,patient\r\n,b\r\nr0\r\nr1,a\r\n")
    assert list(read_patients(table).values()) == ["a"]


def test_patients_of_headers_are_linked_over_a_kill(source: Path, tmp_path: Path) -> None:
    """Keyed hashes of another process are other hashes: they are read again, not kept."""

    def reader(key: str, stop: str = "") -> object:
        def reading(path: Path) -> Recording:
            if path.stem == stop:
                raise KeyboardInterrupt
            found = read(path)
            return (
                found.with_(meta={**found.meta, "exam_group": key + str(int(path.stem[-1:]) % 2)})
                if path.stem[0] == "r"
                else found
            )

        return reading

    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], tmp_path / "out", SPEC, part=2, reading=reader("first", "r3"))
    assert b"first0" not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    build_corpus([source], tmp_path / "out", SPEC, part=2, reading=reader("second"))
    corpus = Corpus(tmp_path / "out")
    owner = {name.split("/")[1]: int(number) for name, number in zip(corpus.ids, corpus.patients)}
    assert owner["r0@0"] == owner["r2@0"] == owner["r4@12"] != owner["r3@0"] and owner["copy@0"] not in (
        owner["r0@0"],
        owner["r3@0"],
    )


def test_a_build_that_goes_on_leaves_out_what_the_whole_one_does(source: Path, tmp_path: Path) -> None:
    """Parts made before a benchmark was compared with are made anew; parts that left something out still say so."""
    write(tmp_path / "bench", "b", seed=1, duration_s=9.0)
    write(source / "mitdb", "m", seed=8)
    stop = ""

    def reading(path: Path) -> Recording:
        if path.stem == stop:
            raise KeyboardInterrupt
        return read(path)

    whole = build_corpus([source], tmp_path / "whole", SPEC, part=1, compare=[tmp_path / "bench"])
    assert [(out.folder, out.recordings) for out in whole.left_out] == [("mitdb", 1), ("in", 2)]  # r1 and its copy
    assert not any(name.startswith(("0-in/r1", "0-in/copy")) for name in Corpus(tmp_path / "whole").ids)
    for out, before in (("late", []), ("same", [tmp_path / "bench"])):
        stop = "r4"
        with pytest.raises(KeyboardInterrupt):
            build_corpus([source], tmp_path / out, SPEC, part=1, compare=before, reading=reading)
        parts = sorted(path.parent for path in (tmp_path / out / "parts").glob("*/manifest.json"))
        made = [name for part in parts for name in Store(part).record_ids]
        assert any(name.startswith(("0-in/r1", "0-in/copy")) for name in made) == (not before)
        stop = ""
        build_corpus([source], tmp_path / out, SPEC, part=1, compare=[tmp_path / "bench"], reading=reading)
        same_store(tmp_path / "whole", tmp_path / out)


def test_large_archives_still_find_a_cut_copy(tmp_path: Path) -> None:
    long = write(tmp_path, "long", seed=1, duration_s=120)
    gate = Gate(expected=1_000_000)
    gate.admit("long", *gate.ask(long, "long")[:2])
    cut = long.with_(signal=long.signal[:, 5000:20000], mask=long.mask[:, 5000:20000])
    assert gate.ask(cut, "cut")[2] == "long"
    assert gate.ask(write(tmp_path, "other", seed=2, duration_s=120), "other")[2] is None


def test_stores_are_joined_count_for_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = [
        StoreItem(str(i), rng.normal(size=(2, 50 + i)).astype("f4"), np.ones((2, 50 + i), bool), 100.0)
        for i in range(5)
    ]
    write_store(tmp_path / "whole", items)
    for name, some in (("a", items[:2]), ("b", []), ("c", items[2:])):
        write_store(tmp_path / name, some)
    assert join_stores(tmp_path / "joined", [tmp_path / name for name in "abc"]) == 5
    for name in ("counts.bin", "index.parquet", "manifest.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(XECGError, match="comes twice"):
        join_stores(tmp_path / "twice", [tmp_path / "a", tmp_path / "a"])


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_command_builds_a_store_that_pretrain_takes(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = invoke("store", "build", source, "-o", store, "--model", "tiny-causal", "--synthetic", 3, "--json")
    assert done.exit_code == 3, done.stderr  # one file is broken
    said = json.loads(done.stdout)
    assert (said["windows"], said["recordings"], said["patients"]) == (len(Corpus(store)), 5, 8)
    asked = ["--model", "tiny-causal", "--steps", 1, "--batch", 4]
    trained = invoke("pretrain", "--data", store, "-o", tmp_path / "run", *asked)
    assert trained.exit_code == 3, trained.stderr
    assert not (tmp_path / "run" / "corpus").exists() and (tmp_path / "run" / "teacher" / "card.md").exists()
    wrong = invoke("pretrain", "--data", store, "-o", tmp_path / "other", "--steps", 1, "--batch", 4, "--model", "tiny")
    assert wrong.exit_code == 1 and "corpus was made for signal spec" in wrong.stderr
    both = invoke("pretrain", "--data", store, "--data", source, "-o", tmp_path / "other", *asked)
    assert both.exit_code == 1 and "is a store, given beside other folders" in both.stderr
    more = invoke("pretrain", "--data", store, "-o", tmp_path / "other", *asked, "--synthetic", 2)
    assert more.exit_code == 1 and "taken as it is" in more.stderr
    assert invoke("pretrain", "-o", tmp_path / "other").exit_code == 2
    assert invoke("store", "build", "-o", tmp_path / "other").exit_code == 2
    write(source / "mitdb", "m1", seed=9)
    bad = invoke("store", "build", source / "mitdb", "-o", tmp_path / "bad")
    assert bad.exit_code == 1 and "belongs to MIT-BIH" in bad.stderr and not (tmp_path / "bad").exists()
    more = invoke("store", "build", source, "-o", tmp_path / "more")
    assert more.exit_code == 3 and "mitdb 1 (MIT-BIH Arrhythmia Database, a benchmark set)" in more.stdout
    rows = json.loads(invoke("store", "build", source, "-o", tmp_path / "rows", "--json").stdout)["left_out"]
    assert rows == [{"folder": "mitdb", "reason": "MIT-BIH Arrhythmia Database, a benchmark set", "recordings": 1}]


def test_parts_of_another_front_end_are_made_anew(source: Path, tmp_path: Path) -> None:
    def stopped(path: Path) -> Recording:
        if path.stem == "r4":
            raise KeyboardInterrupt
        return read(path)

    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], tmp_path / "out", PRESETS["poly"], part=2, reading=stopped)
    build_corpus([source], tmp_path / "out", SPEC, part=2)
    build_corpus([source], tmp_path / "fresh", SPEC, part=2)
    same_store(tmp_path / "fresh", tmp_path / "out")


@pytest.mark.parametrize("out", ["", "store"])
def test_a_build_into_a_folder_that_is_read_is_refused_and_writes_nothing(source: Path, out: str) -> None:
    before = sorted(source.rglob("*"))
    with pytest.raises(XECGError, match="needed a folder outside of it"):
        build_corpus([source], source / out, SPEC)
    assert sorted(source.rglob("*")) == before


@pytest.mark.parametrize("theirs", ["parts/day1.hea", "notes.txt"])
def test_a_build_leaves_a_folder_alone_that_holds_what_no_build_wrote(
    source: Path, tmp_path: Path, theirs: str
) -> None:
    kept = tmp_path / "out" / theirs
    kept.parent.mkdir(parents=True)
    kept.write_text("theirs")
    (tmp_path / "out" / "manifest.json").write_text("theirs too")
    with pytest.raises(XECGError, match="which no build wrote"):
        build_corpus([source], tmp_path / "out", SPEC)
    assert kept.read_text() == "theirs"
    assert (tmp_path / "out" / "manifest.json").read_text() == "theirs too"


def test_a_store_survives_a_build_over_it_that_finds_nothing(source: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "out", tmp_path / "short"
    build_corpus([source], out, SPEC)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "empty").mkdir()
    write(short, "r", seed=1, duration_s=2.0)
    for nothing in (tmp_path / "empty", short):
        with pytest.raises(XECGError, match="needed recordings to train on"):
            build_corpus([nothing], out, SPEC)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_damaged_report_is_said_before_the_training_not_after_it(source: Path, tmp_path: Path) -> None:
    build_corpus([source], tmp_path / "store", SPEC)
    (tmp_path / "store" / "report.json").write_text("{")
    asked = ("--model", "tiny-causal", "--steps", 1, "--batch", 4)
    result = invoke("pretrain", "--data", tmp_path / "store", "-o", tmp_path / "run", *asked)
    assert result.exit_code == 1 and "report.json: report is damaged" in result.stderr
    assert not (tmp_path / "run" / "teacher").exists()
