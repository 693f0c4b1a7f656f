"""Tasks whose data are not at hand: their loaders on generated files in the original layout."""

import numpy as np
import pytest
from bench_data import MeanAdapter, write_record

from benchecg.models import Tokens
from benchecg.protocols import unit_features
from benchecg.protocols.features import recording_of
from benchecg.running import load_data, run
from benchecg.tasks import load_task
from benchecg.tasks.apnea_ecg import _validation
from xecg.errors import DataMissing, ReadError

_RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def small_apnea(tmp_path_factory):
    """Twelve nights of five minutes; a01r is respiration; a01 and a02 are one subject, x01 is the subject of b01."""
    import wfdb

    root = tmp_path_factory.mktemp("apnea")
    folder = root / "apnea-ecg"
    names = ["a01", "a02", "a03", "a04", "b01", "b02", "c01", "c02", "c03", "x01", "x02", "x03"]
    lines = ["Record Length Non-apn Apn Hours AI HI AHI Age Sex Height Weight", ""]
    for i, name in enumerate(names):
        symbols = [("A", "N")[(i + k) % 2] for k in range(5)]
        loud = np.repeat([0.6 if s == "A" else 0.2 for s in symbols], 6000)
        write_record(folder, name, (_RNG.normal(0, 1, 30000) * loud)[None], rate=100, leads=["ECG"])
        wfdb.wrann(name, "apn", np.arange(5) * 6000, symbols, write_dir=str(folder))
        person = {"a02": "51 M 175 102", "a01": "51 M 175 102", "x01": "40 F 160 60", "b01": "40 F 160 60"}.get(
            name, f"{30 + i} M 170 80"
        )
        lines.append(f"{name} 490 20 470 9 12.5 57.1 69.6 {person}")
    write_record(folder, "a01r", _RNG.normal(0, 1, (4, 3000)), rate=100, leads=["Resp C", "Resp A", "Resp N", "SpO2"])
    (folder / "additional-information.txt").write_text("\n".join(lines) + "\n")
    return root


def test_apnea_units_are_minutes_of_ecg_records_with_their_mark(small_apnea):
    loaded = load_data(load_task("apnea-ecg"), small_apnea)
    data = loaded.data
    assert [r.id for r in data.records][:2] == ["a01", "a02"] and len(data.records) == 12 and len(data.label) == 60
    assert data.label[:5].tolist() == [1, 0, 1, 0, 1] and data.time_s[:3].tolist() == [0, 60, 120]
    split = {r.id: r.split for r in data.records}
    assert {split[x] for x in ("x01", "x02", "x03")} == {"test"} and split["a01"] == split["a02"]
    val = {r for r, s in split.items() if s == "val"}
    assert {r[0] for r in val} == {"a", "b", "c"} and len(val) >= 2
    assert "shares subjects" in data.notes[0] and not data.complete
    assert recording_of(loaded.task, data, data.records[0]).leads == ("II",)


def test_apnea_validation_is_of_whole_subjects_and_does_not_depend_on_the_order():
    subject = {f"{c}{i:02d}": f"{c}{i // 2}" for c, n in (("a", 20), ("b", 5), ("c", 10)) for i in range(n)}
    names = sorted(subject)
    val = _validation(names, subject)
    assert len(val) >= 7 and {r[0] for r in val} == {"a", "b", "c"}
    assert all((r in val) == (s in val) for r in names for s in names if subject[r] == subject[s])
    assert val == _validation(names[::-1], subject)


def test_a_minute_is_the_mean_of_the_tokens_that_start_in_it(small_apnea):
    loaded = load_data(load_task("apnea-ecg"), small_apnea)

    class Clock(MeanAdapter):
        def _one(self, r):
            start = np.arange(0, 300, 0.25)
            return Tokens(start[:, None].astype(np.float32), start, np.full(len(start), 0.25))

    features = unit_features(loaded.task, loaded.data, Clock(), data_sha256="")
    np.testing.assert_allclose(features.values[:5, 0], [29.875, 89.875, 149.875, 209.875, 269.875])

    class Whole(MeanAdapter):
        def _one(self, r):
            return Tokens(np.ones((1, 1), np.float32), np.zeros(1), np.array([r.duration_s]))

    features = unit_features(loaded.task, loaded.data, Whole(), data_sha256="")
    assert features.valid.all() and (features.values == 1).all()


def test_apnea_is_found_by_a_feature_that_holds_it(small_apnea, tmp_path, monkeypatch):
    loaded = load_data(load_task("apnea-ecg"), small_apnea)
    assert "too few records" in loaded.refusal()  # 15 test minutes
    monkeypatch.setattr("benchecg.running.MIN_UNITS", 15)
    assert run(loaded, MeanAdapter(), out=tmp_path).headline["value"] == 1.0


def test_apnea_refuses_an_information_file_without_subjects(small_apnea, tmp_path):
    folder = tmp_path / "apnea-ecg"
    folder.mkdir()
    for path in (small_apnea / "apnea-ecg").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    text = (folder / "additional-information.txt").read_text()
    (folder / "additional-information.txt").write_text(text.replace("x02 490", "y02 490"))
    with pytest.raises(ReadError, match="needed a line for x02"):
        load_task("apnea-ecg").load(tmp_path)
    (folder / "x03.apn").unlink()
    with pytest.raises(DataMissing, match=r"x03\.apn is missing"):
        load_task("apnea-ecg").load(tmp_path)


@pytest.fixture(scope="module")
def small_exercise(tmp_path_factory):
    """Six subjects, two segments each, 20 s at 250 Hz in microvolts: a bell at each labelled sample."""
    root = tmp_path_factory.mktemp("exercise")
    segments, marks = root / "exercise-ecg" / "ecg_segments", root / "exercise-ecg" / "manual_annotations"
    segments.mkdir(parents=True)
    marks.mkdir()
    for subject in (1, 4, 9, 11, 14, 22):
        for segment in (1, 2):
            peaks = np.arange(60, 4950, 110 + subject)
            signal = 900 * np.exp(-0.5 * ((np.arange(5000)[:, None] - peaks) / 4) ** 2).sum(1)
            stem = f"sub{subject}_vt2_seg{segment}"
            (segments / f"{stem}.csv").write_text("ecg,time\n" + "".join(f"{v:.2f},0\n" for v in signal))
            (marks / f"{stem}_labels.csv").write_text("".join(f"{p}\n" for p in peaks))
    (segments / "sub1_raw_seg1.csv").write_text("1\n")
    return root


def test_exercise_segments_are_read_in_millivolts_and_split_by_subject(small_exercise):
    loaded = load_data(load_task("exercise-rpeaks"), small_exercise)
    data = loaded.data
    assert len(data.records) == 12 and {r.id.split("_")[0]: r.split for r in data.records} == {
        "sub1": "train", "sub4": "train", "sub9": "train", "sub11": "val", "sub14": "test", "sub22": "test",
    }  # fmt: skip
    at = data.time_s[data.record == [r.id for r in data.records].index("sub1_vt2_seg1")]
    assert at[:2] == pytest.approx([60 / 250, 171 / 250])
    recording = recording_of(loaded.task, data, data.records[0])
    assert recording.signal.shape == (1, 5000) and recording.signal.max() == pytest.approx(0.9, abs=0.01)
    assert recording.rate == 250 and recording.leads == ("II",)


class Tops(MeanAdapter):
    """A detector of what stands highest among its neighbours and over half a millivolt."""

    def peaks_s(self, recording):
        x = recording.signal[0]
        return (1 + np.flatnonzero((x[1:-1] > x[:-2]) & (x[1:-1] >= x[2:]) & (x[1:-1] > 0.5))) / recording.rate


def test_exercise_peaks_are_found_where_they_were_put(small_exercise, tmp_path):
    result = run(load_data(load_task("exercise-rpeaks"), small_exercise), Tops(), out=tmp_path)
    assert result.metrics["f1_10ms"]["value"] == 1.0 and result.support["patients"] == 2
    assert any(note.startswith("SUBSET: 12 of 100") for note in result.notes)


def test_exercise_refuses_what_is_no_number_and_names_missing_labels(small_exercise, tmp_path):
    folder = tmp_path / "exercise-ecg"
    for part in ("ecg_segments", "manual_annotations"):
        (folder / part).mkdir(parents=True)
    name = "sub1_vt2_seg1"
    (folder / "ecg_segments" / f"{name}.csv").write_text("1.0\n2.0\n")
    with pytest.raises(DataMissing, match=f"manual_annotations/{name}_labels.csv is missing"):
        load_task("exercise-rpeaks").load(tmp_path)
    (folder / "manual_annotations" / f"{name}_labels.csv").write_text("10\nsoon\n")
    with pytest.raises(ReadError, match="could not convert string to float: 'soon'"):
        load_task("exercise-rpeaks").load(tmp_path)


def _deepbeat(root, subjects):
    """60 windows a file; AF ones are louder. subjects: file → subject of each row."""
    folder = root / "deepbeat"
    folder.mkdir(parents=True)
    for stem, who in subjects.items():
        n = len(who)
        af = np.arange(n) % 2
        signal = _RNG.normal(0, 1, (n, 800, 1)) * (1 + af[:, None, None])
        if stem == "train":
            signal[3, 5] = np.nan
            signal[4] = signal[6]
        np.savez(folder / f"{stem}.npz", signal=signal, rhythm=np.eye(2)[af], qa_label=np.eye(3)[af])
        np.save(folder / f"{stem}_subject.npy", np.array(who))
    return root


@pytest.fixture(scope="module")
def small_deepbeat(tmp_path_factory):
    who = {stem: [f"{stem}{i % 12}" for i in range(60)] for stem in ("train", "validate", "test")}
    return _deepbeat(tmp_path_factory.mktemp("deepbeat"), who)


def test_deepbeat_leaves_out_broken_and_repeated_windows_and_keeps_the_files_splits(small_deepbeat, tmp_path):
    loaded = load_data(load_task("deepbeat-af"), small_deepbeat)
    data = loaded.data
    assert [int((data.in_split(s)).sum()) for s in ("train", "val", "test")] == [58, 60, 60]
    assert data.notes == ("1 windows with NaN are left out", "1 windows that occur twice are left out")
    assert {r.id for r in data.records}.isdisjoint({"train-0000003", "train-0000006"})
    assert data.label[:3].tolist() == [0, 1, 0]
    assert run(loaded, MeanAdapter(), out=tmp_path).headline["value"] == 1.0


def test_deepbeat_splits_anew_when_a_subject_is_in_two_files(tmp_path):
    who = {stem: [f"p{i % 40}" for i in range(60)] for stem in ("train", "validate", "test")}
    loaded = load_data(load_task("deepbeat-af"), _deepbeat(tmp_path, who))  # a subject in two splits would be refused
    assert "40 subjects are in several files" in loaded.data.notes[-1]
    assert {r.split for r in loaded.data.records} == {"train", "val", "test"}


def test_deepbeat_never_opens_a_pickle(tmp_path):
    who = {stem: [f"{stem}{i}" for i in range(4)] for stem in ("train", "validate", "test")}
    root = _deepbeat(tmp_path, {**who, "train": [f"t{i}" for i in range(10)]})
    np.save(root / "deepbeat" / "test_subject.npy", np.array(["a", "b", "c", None], dtype=object), allow_pickle=True)
    with pytest.raises(ReadError, match="needed plain numbers or text"):
        load_task("deepbeat-af").load(root)
