"""CODE-15 % in its own release's HDF5: survival and age learned on it; the Cox head and the concordance beside their arbiters."""

import gzip

import numpy as np
import pytest
from bench_data import MeanAdapter, write_record

from benchecg.metrics import concordance_many, statistic
from benchecg.predictions import read_predictions
from benchecg.protocols.cox import CoxRidge, efron
from benchecg.protocols.features import recording_of
from benchecg.running import load_data, run
from benchecg.scoring import score
from benchecg.tasks import load_task
from xecg.errors import DataMissing, ReadError
from xecg.signal import STANDARD_LEADS

h5py = pytest.importorskip("h5py", reason="CODE-15 % comes as HDF5 and h5py is an extra")

_COLUMNS = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"


@pytest.fixture(scope="module")
def small_code15_hdf5(tmp_path_factory):
    """200 exams of 150 patients in two parts that end with exam 0; zeros on both sides; the third part is not there.

    The amplitude grows with age, and the louder die earlier.
    """
    root = tmp_path_factory.mktemp("code15h")
    folder = root / "code-15"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = [_COLUMNS]
    for part in range(2):
        ids, tracings = [], np.zeros((101, 600, 12), np.float32)
        for n in range(100):
            exam = 1000 + 100 * part + n
            patient = 7000 + exam % 150
            age = 20 + patient * 7 % 65
            tracings[n, 50:550] = rng.normal(0, 0.1 + age / 100, (500, 12))
            tracings[n, 300] += np.arange(12)
            ids.append(exam)
            death, years = ("True" if age > 40 else "False"), 9 - age / 12
            if exam % 20 == 3:
                death = years = ""
            lines.append(f"{exam},{age},True,50.0,,,,,,,{patient},{death},{years},False,exams_part{part}.hdf5")
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"], file["tracings"] = np.array([*ids, 0]), tracings
    lines.append("9999,50,True,50.0,,,,,,,8999,True,3.0,False,exams_part2.hdf5")
    (folder / "exams.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def survival(small_code15_hdf5):
    return load_data(load_task("open-survival"), small_code15_hdf5)


def test_survival_takes_the_first_exam_with_an_outcome_of_each_patient(survival):
    data = survival.data
    ids = [r.id for r in data.records]
    assert len(ids) == len({r.patient for r in data.records}) and "9999" not in ids and "0" not in ids
    assert "1003" not in ids and "1153" in ids  # the same patient's later exam states the outcome
    assert ids[0] == "1000" and data.label[0].tolist() == [pytest.approx(9 - (20 + 7100 * 7 % 65) / 12), 1.0]
    assert "exams are left out" in data.notes[0] and not data.complete
    assert survival.task.counts(data, "train", "val", "test")["death"] == data.label[:, 1].sum()


def test_a_tracing_is_read_without_its_padding_and_with_its_leads(survival):
    recording = recording_of(survival.task, survival.data, survival.data.records[5])
    assert recording.signal.shape == (12, 500) and recording.leads == STANDARD_LEADS and recording.rate == 400
    assert recording.signal[11, 250] - recording.signal[0, 250] > 5  # the twelfth column is V6


def test_a_feature_that_tells_the_outcome_orders_the_test_patients(survival, tmp_path):
    result = run(survival, MeanAdapter(), out=tmp_path)
    assert (
        result.metrics["c_index"]["value"] > 0.9
        and result.metrics["c_index"]["low"] <= result.metrics["c_index"]["value"]
    )
    assert result.support["classes"]["death"]["units"] > 10
    again = score(read_predictions(tmp_path / "predictions.parquet"))
    assert all(again[name] == getattr(result, name) for name in again)
    refused = run(survival, MeanAdapter(), out=tmp_path / "k", protocol="knn")
    assert refused.headline is None and "no hazard" in refused.reason
    assert run(survival, MeanAdapter(), out=tmp_path / "f", protocol="few-10").headline["value"] > 0.8


def test_exams_without_a_needed_column_or_without_any_part_are_refused(small_code15_hdf5, tmp_path):
    folder = tmp_path / "code-15"
    folder.mkdir()
    table = (small_code15_hdf5 / "code-15" / "exams.csv").read_text()
    (folder / "exams.csv").write_text(table)
    with pytest.raises(DataMissing, match=r"exams_part0\.hdf5 is missing"):
        load_task("open-survival").load(tmp_path)
    (folder / "exams.csv").write_text(table.replace("timey", "years"))
    with pytest.raises(ReadError, match="needed timey"):
        load_task("open-survival").load(tmp_path)


def test_age_on_ptbxl_leaves_out_unknown_and_coded_ages(small_code15_hdf5, small_ptbxl, tmp_path):
    (tmp_path / "code-15").symlink_to(small_code15_hdf5 / "code-15")
    folder = tmp_path / "ptb-xl"
    folder.mkdir()
    (folder / "records500").symlink_to(small_ptbxl / "ptb-xl" / "records500")
    table = (small_ptbxl / "ptb-xl" / "ptbxl_database.csv").read_text()
    table = table.replace("1,0.0,60.0", "1,0.0,300.0").replace("2,0.0,60.0", "2,0.0,")
    (folder / "ptbxl_database.csv").write_text(table)
    loaded = load_data(load_task("age-ptbxl"), tmp_path)
    tested = [r.id for r in loaded.data.records if r.split == "test"]
    assert len(tested) == 22 and "ptb-xl/1" not in tested and "ptb-xl/3" in tested
    assert "2 records of PTB-XL without a usable age" in loaded.data.notes[0]
    assert recording_of(loaded.task, loaded.data, loaded.data.records[0]).rate == 400
    assert recording_of(loaded.task, loaded.data, loaded.data.records[-1]).rate == 500


def test_age_on_cpsc_is_scored_after_training_on_the_exams(small_code15_hdf5, tmp_path):
    (tmp_path / "code-15").symlink_to(small_code15_hdf5 / "code-15")
    rng = np.random.default_rng(1)
    for i in range(40):
        age = "NaN" if i == 7 else 25 + i
        signal = rng.normal(0, 0.1 + (25 + i) / 100, (12, 1500))
        comments = [f"Age: {age}", "Sex: Male", "Dx: 426783006"]
        folder = tmp_path / "challenge-2021" / "A"
        write_record(folder, f"A{i + 1:04d}", signal, rate=500, leads=list(STANDARD_LEADS), comments=comments)
    result = run(load_data(load_task("age-cpsc"), tmp_path), MeanAdapter(), out=tmp_path / "run")
    assert result.support["units"] == 39 and result.metrics["pearson_r"]["value"] > 0.9
    assert result.data["patient_known"] is False


@pytest.fixture
def small_mimic(small_code15_hdf5, tmp_path):
    """Five patients: one dead, one alive and discharged, one never admitted, one of another fold, one without time."""
    (tmp_path / "code-15").symlink_to(small_code15_hdf5 / "code-15")
    folder = tmp_path / "mimic-iv-ecg"
    rng = np.random.default_rng(0)
    exams = [
        (1, 11, "2150-03-02 12:00:00", 19), (1, 10, "2150-01-01 00:00:00", 19), (2, 20, "2150-01-01 00:00:00", 19),
        (3, 30, "2150-01-01 00:00:00", 19), (3, 31, "2152-01-01 00:00:00", 19), (4, 40, "2150-01-01 00:00:00", 3),
        (5, 50, "2150-01-01 00:00:00", 19),
    ]  # fmt: skip
    lines = ["file_name,study_id,subject_id,ecg_time,age,fold"]
    for subject, study, at, fold in exams:
        name = f"files/p{subject}/s{study}/{study}"
        where = folder / "files" / f"p{subject}" / f"s{study}"
        write_record(where, str(study), rng.normal(0, 0.3, (12, 1000)), rate=500, leads=list(STANDARD_LEADS))
        lines.append(f"mimic-iv-ecg/1.0/{name},{study},{subject},{at},60,{fold}")
    (folder / "records_w_diag_icd10.csv").write_text("\n".join(lines) + "\n")
    dead = "subject_id,gender,dod\n1,F,2151-01-01\n2,M,\n3,M,\n4,F,2151-01-01\n5,F,\n"
    stays = "subject_id,hadm_id,dischtime\n2,1,2149-06-01 00:00:00\n2,2,2150-01-01 12:00:00\n1,3,2150-02-01 00:00:00\n"
    for name, text in (("patients.csv.gz", dead), ("admissions.csv.gz", stays)):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    return tmp_path


def test_mimic_outcomes_are_death_discharge_and_a_year_or_the_last_exam(small_mimic):
    loaded = load_data(load_task("survival"), small_mimic)
    data = loaded.data
    test = data.in_split("test")
    rows = {r.id: y.tolist() for r, y, t in zip(data.records, data.label, test) if t}
    assert set(rows) == {
        "mimic/10",
        "mimic/20",
        "mimic/30",
    }  # the first exam of each patient of fold 19 that has time after it
    assert rows["mimic/10"] == [pytest.approx(1.0), 1.0]
    assert rows["mimic/20"] == [pytest.approx(365.5 / 365), 0.0]
    assert rows["mimic/30"] == [pytest.approx(2.0), 0.0]
    assert data.notes == ("1 patients of the test fold have no time after their first exam and are left out",)
    assert recording_of(loaded.task, data, data.records[-1]).rate == 500
    assert recording_of(loaded.task, data, data.records[0]).rate == 400
    assert {r.split for r in data.records} == {"train", "val", "test"} and not data.complete


def test_age_on_mimic_tests_every_aged_exam(small_mimic):
    data = load_data(load_task("age-mimic"), small_mimic).data
    test = data.in_split("test")
    assert test.sum() == 7 and set(data.label[test]) == {60.0} and not data.complete
    assert {r.patient for r, t in zip(data.records, test) if t} == {f"mimic {i}" for i in range(1, 6)}


def test_mimic_says_which_credentialed_file_is_missing_and_what_is_no_date(small_mimic):
    folder = small_mimic / "mimic-iv-ecg"
    text = gzip.decompress((folder / "patients.csv.gz").read_bytes()).decode()
    (folder / "patients.csv.gz").write_bytes(gzip.compress(text.replace("2151-01-01", "soon").encode()))
    with pytest.raises(ReadError, match="date is 'soon'"):
        load_task("survival").load(small_mimic)
    (folder / "patients.csv.gz").unlink()
    with pytest.raises(DataMissing, match=r"patients\.csv\.gz is missing.*credentialed"):
        load_task("survival").load(small_mimic)


def test_efron_equals_its_worked_value_and_lifelines():
    import pandas as pd
    from lifelines import CoxPHFitter

    t, e, r = np.array([5.0, 3, 3, 1, 4]), np.array([1, 1, 1, 0, 0]), np.array([0.5, -0.2, 0.3, 1.0, -1.0])
    assert efron(r, t, e) == pytest.approx(2.4632431065, abs=1e-9)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    time = np.ceil(rng.exponential(1, 300) * np.exp(-x @ [0.8, -0.4, 0]) * 6)
    event = rng.integers(0, 2, 300)
    model = CoxRidge(1e-9).fit(x, np.column_stack([time, event]))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "t": time, "e": event})
    other = CoxPHFitter().fit(frame, "t", "e")
    np.testing.assert_allclose(model.weights, other.params_.to_numpy(), atol=1e-4)
    assert efron(model.predict(x), time, event) == pytest.approx(-other.log_likelihood_, abs=1e-6)


def test_the_cox_gradient_and_hessian_are_those_of_its_value():
    from benchecg.protocols.cox import _Likelihood

    rng = np.random.default_rng(2)
    time = np.sort(rng.integers(1, 8, 40))[::-1].astype(float)
    likelihood = _Likelihood(rng.normal(size=(40, 3)), time, rng.integers(0, 2, 40).astype(bool))
    b, h = np.array([0.3, -0.2, 0.5]), 1e-5
    _, gradient, hessian = likelihood.at(likelihood.x @ b)
    for i in range(3):
        up, down = (likelihood.at(likelihood.x @ (b + s * h * np.eye(3)[i])) for s in (1, -1))
        assert gradient[i] == pytest.approx((up[0] - down[0]) / (2 * h), abs=1e-6)
        np.testing.assert_allclose(hessian[i], (up[1] - down[1]) / (2 * h), atol=1e-6)


def test_cox_without_an_event_is_flat_and_far_risks_stay_finite():
    x = np.arange(4.0)[:, None]
    assert (CoxRidge(1.0).fit(x, np.column_stack([np.arange(4.0), np.zeros(4)])).predict(x) == 0).all()
    assert np.isfinite(efron(np.array([800.0, 0, -800]), np.arange(3.0), np.ones(3)))


def test_weighted_concordance_equals_all_pairs_and_repeated_rows():
    rng = np.random.default_rng(4)
    time, event = rng.integers(1, 9, 60).astype(float), rng.integers(0, 2, 60)
    risk, w = np.round(rng.normal(size=60), 1), rng.integers(0, 4, (5, 60)).astype(float)
    good = total = 0.0
    for i in np.flatnonzero(event):
        pair = w[:, i, None] * w * ((time[i] < time) | ((time[i] == time) & (event == 0)))
        good, total = good + (pair * ((risk[i] > risk) + 0.5 * (risk[i] == risk))).sum(1), total + pair.sum(1)
    np.testing.assert_allclose(concordance_many(time, event, risk, w), good / total, atol=1e-12)


def test_chance_and_constant_risks_have_a_concordance_of_a_half():
    rng = np.random.default_rng(0)
    y = np.column_stack([rng.exponential(1, 2000), rng.integers(0, 2, 2000)])
    facts = {"truth": y, "valid": np.ones(2000, bool), "cluster": np.arange(2000), "classes": ("years", "death")}
    assert statistic("survival", score=np.zeros(2000), **facts).point()["c_index"] == 0.5
    assert statistic("survival", score=rng.normal(size=2000), **facts).point()["c_index"] == pytest.approx(
        0.5, abs=0.03
    )
