"""Loaders on generated files in the original layouts, splits, hashes, and the counts of the real data."""

import hashlib
from dataclasses import fields

import numpy as np
import pytest
from bench_data import write_record

from benchecg.running import load_data
from benchecg.tasks import SUITE, load_task, task_ids
from benchecg.tasks._mitdb import _DS1, _DS2
from benchecg.tasks.base import Record, Task, data_root, hash_fraction, split_hash
from xecg.errors import DataMissing, ReadError, SpecError

MITBIH_SPLIT = "e7eec3c6e3ed003b747d467a557feff4d73755a6f420b853688b831a998e0c20"
CODE15_283_SPLIT = "35ea89de65f59e79b978118fb06e145541deb04a8081a69a392488650082ce37"


def test_split_hash_is_sha256_of_sorted_lines(tmp_path):
    records = [Record("b", "p2", "test", tmp_path), Record("a", "p1", "train", tmp_path)]
    assert split_hash(records) == hashlib.sha256(b"a,p1,train\nb,p2,test\n").hexdigest()
    assert split_hash(records) == split_hash(records[::-1])


def test_hash_fraction_is_the_same_on_every_machine():
    assert hash_fraction("code-15", "48705") == pytest.approx(
        0.7847916877, abs=1e-9
    )  # printf "code-15|48705" | b2sum -l 64
    values = [hash_fraction("code-15", str(i)) for i in range(4000)]
    assert np.mean(np.array(values) < 0.2) == pytest.approx(0.2, abs=0.02)


def test_mitbih_lists_are_those_of_de_chazal():
    assert len(_DS1) == len(_DS2) == 22 and not set(_DS1) & set(_DS2)
    assert not {"102", "104", "107", "217"} & set(_DS1 + _DS2)


def test_mitbih_loader_reads_the_release_layout(small_mitdb):
    loaded = load_data(load_task("mitbih-beats"), small_mitdb)
    data = loaded.data
    assert loaded.split_sha256 == MITBIH_SPLIT == loaded.task.split_sha256
    assert len(data.record) == 44 * 9  # the rhythm mark is not a beat
    assert data.time_s[:2] == pytest.approx([300 / 360, 640 / 360])
    split = {r.id: r.split for r in data.records}
    assert split["114"] == split["203"] == "val" and split["201"] == "dropped" and split["202"] == "test"
    assert "201" in data.notes[0]


def test_mitbih_says_which_record_is_missing(small_mitdb, tmp_path):
    folder = tmp_path / "mitdb"
    folder.mkdir()
    for path in (small_mitdb / "mitdb").iterdir():
        if path.name != "231.atr":
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataMissing, match=r"231\.atr is missing.*104 MB.*ODC-By.*physionet"):
        load_data(load_task("mitbih-beats"), tmp_path)


def test_ptbxl_labels_ignore_likelihood_and_drop_records_without_a_superclass(small_ptbxl):
    data = load_data(load_task("ptbxl-superclass"), small_ptbxl).data
    rows = {r.id: data.label[i].tolist() for i, r in enumerate(data.records)}
    assert "2" not in rows and len(rows) == 23
    assert rows["1"] == [1, 0, 0, 0, 0] and rows["3"] == [0, 1, 0, 1, 0] and rows["4"] == [0, 0, 1, 0, 0]
    assert data.notes == ("1 records without a superclass are left out",) and not data.complete
    split = {r.id: r.split for r in data.records}
    assert split["1"] == "train" and split["17"] == "val" and split["20"] == "test"


def test_ptbxl_variants_take_their_statements_and_leave_records_without_one_out(small_ptbxl):
    rows = {}
    for name in ("all", "diag", "subdiag", "form", "rhythm"):
        task = load_task(f"ptbxl-{name}")
        data = task.load(small_ptbxl)
        rows[name] = {
            r.id: {c for c, mark in zip(task.classes, data.label[i]) if mark} for i, r in enumerate(data.records)
        }
    assert rows["all"]["1"] == {"NORM", "SR"} and rows["all"]["2"] == {"LVOLT", "SR"} and len(rows["all"]) == 24
    assert rows["diag"]["3"] == {"IMI", "CLBBB"} and "2" not in rows["diag"]
    assert rows["subdiag"]["4"] == {"STTC"} and rows["subdiag"]["3"] == {"IMI", "CLBBB"}  # not the superclass
    assert rows["form"] == {"2": {"LVOLT"}, "4": {"NDT"}} and rows["rhythm"] == {"1": {"SR"}, "2": {"SR"}}


def test_ptbxl_label_sets_have_their_published_sizes():
    sizes = {name: len(load_task(f"ptbxl-{name}").classes) for name in ("all", "diag", "subdiag", "form", "rhythm")}
    assert sizes == {"all": 71, "diag": 44, "subdiag": 23, "form": 19, "rhythm": 12}
    assert all(len(set(load_task(f"ptbxl-{name}").classes)) == n for name, n in sizes.items())


def test_a_statement_of_another_release_is_refused(small_ptbxl, tmp_path):
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    for name, old, new in (("scp_statements.csv", "SR,,,1.0", "NEW,,,1.0"), ("ptbxl_database.csv", "", "")):
        (folder / name).write_text((small_ptbxl / "ptb-xl" / name).read_text().replace(old, new))
    with pytest.raises(ReadError, match="class of statement NEW is 'NEW'; needed one of the 12 classes"):
        load_task("ptbxl-rhythm").load(tmp_path)


@pytest.fixture(scope="module")
def small_cpsc(tmp_path_factory):
    """Seven records over the folders of the release: two classes at once, a code of none, a late first class."""
    from xecg.signal import STANDARD_LEADS

    root = tmp_path_factory.mktemp("cpsc")
    codes = {
        "g1/A0001": "59118001", "g1/A0002": "164889003,164909002", "g2/A1000": "426783006", "g3/A2001": "999",
        "g6/A5000": "284470004", "g7/A6000": "164931005, 429622005", "g7/A6877": "164884008",
    }  # fmt: skip
    for name, dx in codes.items():
        group, record = name.split("/")
        comments = ["Age: 60", "Sex: Male", f"Dx: {dx}", "Rx: Unknown"]
        signal = np.tile(np.linspace(-0.5, 0.5, 3000), (12, 1))
        folder = root / "challenge-2021" / "training" / "cpsc_2018" / group
        write_record(folder, record, signal, rate=500, leads=list(STANDARD_LEADS), comments=comments)
    return root


def test_cpsc_classes_come_from_the_codes_and_the_split_from_the_folder(small_cpsc):
    task = load_task("cpsc2018")
    data = load_data(task, small_cpsc).data
    rows = {
        r.id: (r.split, {c for c, mark in zip(task.classes, data.label[i]) if mark}) for i, r in enumerate(data.records)
    }
    assert rows == {
        "A0001": ("train", {"RBBB"}), "A0002": ("train", {"AF", "LBBB"}), "A1000": ("train", {"NSR"}),
        "A5000": ("val", {"PAC"}), "A6000": ("test", {"STE", "STD"}), "A6877": ("test", {"PVC"}),
    }  # fmt: skip
    assert data.notes == ("1 records without one of the nine classes are left out",) and not data.complete


def test_cpsc_without_folders_is_split_by_number_the_same(small_cpsc, tmp_path):
    flat = tmp_path / "challenge-2021" / "A"
    flat.mkdir(parents=True)
    for path in (small_cpsc / "challenge-2021").rglob("A*.*"):
        (flat / path.name).write_bytes(path.read_bytes())
    assert (
        load_data(load_task("cpsc2018"), tmp_path).split_sha256
        == load_data(load_task("cpsc2018"), small_cpsc).split_sha256
    )


def test_cpsc_refuses_a_header_without_codes(small_cpsc, tmp_path):
    flat = tmp_path / "challenge-2021" / "A"
    flat.mkdir(parents=True)
    header = next((small_cpsc / "challenge-2021").rglob("A0001.hea")).read_text()
    (flat / "A0001.hea").write_text(header.replace("Dx", "Rx"))
    with pytest.raises(ReadError, match="Dx is 0 lines; needed one"):
        load_task("cpsc2018").load(tmp_path)


def test_real_cpsc_subset_is_read_and_too_small(real_data):
    loaded = load_data(load_task("cpsc2018"), real_data)
    if len(loaded.data.records) == 14:
        counts = dict(zip(loaded.task.classes, loaded.data.label.sum(0).tolist()))
        assert counts == {"PVC": 1, "AF": 7, "LBBB": 1, "STE": 0, "IAVB": 0, "PAC": 1, "NSR": 1, "STD": 1, "RBBB": 4}
        assert "too few records for a score" in loaded.refusal()


def test_ptbxl_refuses_a_broken_label_cell(small_ptbxl, tmp_path):
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    (folder / "scp_statements.csv").write_bytes((small_ptbxl / "ptb-xl" / "scp_statements.csv").read_bytes())
    table = (small_ptbxl / "ptb-xl" / "ptbxl_database.csv").read_text().replace("{'NDT': 100.0}", "NDT")
    (folder / "ptbxl_database.csv").write_text(table)
    with pytest.raises(ReadError, match="scp_codes of ecg_id 4 is 'NDT'"):
        load_task("ptbxl-superclass").load(tmp_path)


def test_too_few_records_give_no_score(small_ptbxl):
    assert "too few records for a score" in load_data(load_task("ptbxl-superclass"), small_ptbxl).refusal()


def test_code15_keeps_exams_of_a_patient_together(small_code15):
    data = load_data(load_task("open-sex"), small_code15).data
    split_of = {}
    for record in data.records:
        split_of.setdefault(record.patient, set()).add(record.split)
    assert len(split_of) == 160 and all(len(s) == 1 for s in split_of.values())
    assert set().union(*split_of.values()) == {"train", "val", "test"}


def test_code15_labels_come_from_the_header(small_code15):
    age, sex = (load_data(load_task(t), small_code15).data for t in ("open-age", "open-sex"))
    assert [r.id for r in age.records][:2] == ["1000", "1001"]
    assert age.label[:2].tolist() == [20 + 35000 % 65, 20 + 35007 % 65]
    assert sex.label[:4].tolist() == [0, 1, 0, 1]


def test_code15_counts_exams_without_a_label(small_code15, tmp_path):
    write_record(tmp_path / "challenge-2025", "1", np.ones((1, 800)) * np.linspace(0, 1, 800), rate=400, leads=["I"])
    for path in list((small_code15 / "challenge-2025").iterdir())[:20]:
        (tmp_path / "challenge-2025" / path.name).write_bytes(path.read_bytes())
    data = load_task("open-age").load(tmp_path)
    assert "1 exams without a label or a patient are left out" in data.notes


def test_absent_data_name_size_licence_and_source(tmp_path):
    for task_id in task_ids():
        with pytest.raises(DataMissing) as caught:
            load_task(task_id).load(tmp_path)
        dataset = load_task(task_id).dataset
        for fact in (dataset.name, dataset.size, dataset.licence, dataset.url):
            assert fact in str(caught.value)


def test_no_data_folder_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv("ECG_DATA", raising=False)
    with pytest.raises(DataMissing, match="--data DIR or set ECG_DATA"):
        data_root()


def test_a_patient_in_two_splits_is_refused(small_ptbxl, tmp_path):
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    (folder / "records500").symlink_to(small_ptbxl / "ptb-xl" / "records500")
    (folder / "scp_statements.csv").write_bytes((small_ptbxl / "ptb-xl" / "scp_statements.csv").read_bytes())
    table = (small_ptbxl / "ptb-xl" / "ptbxl_database.csv").read_text()
    (folder / "ptbxl_database.csv").write_text(table.replace('3,1.0,60.0,1,"', '3,9.0,60.0,1,"'))
    with pytest.raises(SpecError, match="needed every patient in one split only"):
        load_data(load_task("ptbxl-superclass"), tmp_path)


def test_another_release_is_refused_when_the_split_is_pinned(small_mitdb):
    task = load_task("mitbih-beats")
    other = Task(**{f.name: getattr(task, f.name) for f in fields(Task)} | {"split_sha256": "0" * 64})
    with pytest.raises(SpecError, match="pinned is 0000"):
        load_data(other, small_mitdb)


def test_every_task_says_its_facts():
    for task_id in task_ids():
        task = load_task(task_id)
        assert task.id == task_id and task.dataset.licence and task.split_rule and task.label_rule
        assert task.suite is None or task.suite in SUITE
    assert len(SUITE) == 10


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(SpecError, match="no task 'ptbxl'; the tasks are ptbxl-superclass"):
        load_task("ptbxl")


def test_real_mitbih_has_the_published_label_counts(real_data):
    task = load_task("mitbih-beats")
    loaded = load_data(task, real_data)
    for part in task.expected:
        assert task.counts(loaded.data, *part.splits) == dict(part.counts)
    assert loaded.split_sha256 == MITBIH_SPLIT


def test_real_exams_are_split_by_patient_as_pinned(real_data):
    loaded = load_data(load_task("open-age"), real_data)
    assert not loaded.data.complete
    if len(loaded.data.records) == 283:
        assert loaded.split_sha256 == CODE15_283_SPLIT


def test_real_ptbxl_subset_has_the_rows_it_should(real_data):
    task = load_task("ptbxl-superclass")
    loaded = load_data(task, real_data)
    if len(loaded.data.records) == 9:
        assert [r.split for r in loaded.data.records] == ["train"] * 7 + ["test", "val"]
        assert loaded.data.label.sum(0).tolist() == [9, 0, 0, 0, 0]
        assert "too few records for a score" in loaded.refusal()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"", "records is none"),
        (b"record,patient,rhythm\n", "records is none"),
        (b"\xff\xfe\x00", "layout is not readable"),
        (b"record;patient;rhythm\na;b;sinus\n", "layout is not readable"),
        (b"record,patient,rhythm\na\n", "rhythm is None"),
    ],
)
def test_files_that_are_not_laid_out_as_the_release_are_refused_as_such(tmp_path, table, says):
    (tmp_path / "demo-synthetic").mkdir()
    (tmp_path / "demo-synthetic" / "labels.csv").write_bytes(table)
    with pytest.raises(ReadError, match=says):
        load_data(load_task("demo-synthetic"), tmp_path)


def test_a_result_that_is_nested_without_end_is_refused(tmp_path):
    from benchecg.results import read_result

    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(ReadError, match="result is unreadable"):
        read_result(tmp_path)
