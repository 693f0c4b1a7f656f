"""Age and sex beside the features: standardised, counted where missing, refused where they tell the label, recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_data import MeanAdapter
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.covariates import covariates_of, parse_covariates
from benchecg.models.baselines import Constant
from benchecg.results import read_result
from benchecg.running import load_data, run, run_name
from benchecg.tasks import load_task
from xecg.errors import SpecError


@pytest.fixture(scope="module")
def age(small_code15):
    return load_data(load_task("open-age"), small_code15)


@pytest.fixture(scope="module")
def sex(small_code15):
    return load_data(load_task("open-sex"), small_code15)


def _with_people(loaded, people):
    records = tuple(replace(r, age=a, sex=s) for r, (a, s) in zip(loaded.data.records, people))
    return replace(loaded.data, records=records)


def test_columns_are_deviations_from_the_training_mean(sex):
    data = sex.data
    fit = data.in_split("train")
    found = covariates_of(sex.task, data, ("age",), fit=fit, data_sha256="")
    years = found.columns[:, 0]
    assert found.columns.shape == (len(data.record), 1) and found.missing == {"age": 0}
    assert years[fit].mean() == pytest.approx(0, abs=1e-5) and years[fit].std() == pytest.approx(1, abs=1e-5)


def test_unknown_values_are_at_the_mean_marked_and_counted(sex):
    n = len(sex.data.records)
    people = [
        ((None, np.nan, -3.0, 300.0, 999.0)[i] if i < 5 else 40.0 + i % 20, "F" if i % 2 else "M") for i in range(n)
    ]
    data = _with_people(sex, people)
    task = replace(sex.task, hides=())
    fit = np.ones(len(data.record), bool)
    data = replace(
        data, read=lambda record: (_ for _ in ()).throw(AssertionError("asked a file that has nothing to say"))
    )
    with pytest.raises(AssertionError):
        covariates_of(
            task, data, ("age", "sex"), fit=fit, data_sha256=""
        )  # record 0 has no age in the table: its file is asked
    data = _with_people(sex, [(np.nan if a is None else a, s) for a, s in people])
    found = covariates_of(task, data, ("age", "sex"), fit=fit, data_sha256="")
    assert found.columns.shape[1] == 3  # age, age unknown, sex
    first = data.record.searchsorted(np.arange(5))
    assert found.columns[first, 1].tolist() == [1, 1, 1, 0, 1] and found.columns[first[:3], 0].tolist() == [0, 0, 0]
    assert found.columns[first[3], 0] == found.columns[:, 0].max() > 1  # 300 stands for 90 and more
    assert found.missing == {"age": 4, "sex": 0} and set(found.columns[:, 1].tolist()) == {0.0, 1.0}


def test_headers_are_asked_once(age, tmp_path):
    fit = age.data.in_split("train")
    reads = []

    def read(record):
        from xecg import read as real

        reads.append(record.id)
        return real(record.path)

    data = replace(age.data, records=tuple(replace(r, age=None, sex=None) for r in age.data.records), read=read)
    first = covariates_of(age.task, data, ("sex",), fit=fit, data_sha256="x", cache=tmp_path)
    count = len(reads)
    again = covariates_of(age.task, data, ("sex",), fit=fit, data_sha256="x", cache=tmp_path)
    assert count == len(set(reads)) > 0 and len(reads) == count
    np.testing.assert_array_equal(first.columns, again.columns)
    assert first.missing == {"sex": 0} and len(set(first.columns[:, 0].tolist())) == 2


def test_a_covariate_that_tells_the_label_reaches_no_model(age, tmp_path):
    result = run(age, Constant(), out=tmp_path, covariates=("age",))
    assert result.headline is None and "age would tell the label of open-age" in result.reason
    with pytest.raises(SpecError, match="would tell the label"):
        covariates_of(age.task, age.data, ("age",), fit=age.data.in_split("train"), data_sha256="")


def test_a_covariate_nobody_says_is_refused(sex):
    data = _with_people(sex, [(np.nan, "F")] * len(sex.data.records))
    with pytest.raises(SpecError, match="no training unit of open-sex says its age"):
        covariates_of(sex.task, data, ("age",), fit=data.in_split("train"), data_sha256="")


class Blind(MeanAdapter):
    """Sees nothing; only covariates can tell it anything."""

    id = "blind"
    fingerprint = "blind"

    def _one(self, r):
        t = super()._one(r)
        return replace(t, values=np.ones_like(t.values))


@pytest.mark.parametrize("protocol", ["probe", "knn", "few-10"])
def test_covariates_help_where_they_know_something_and_are_recorded(sex, tmp_path, protocol):
    """The label is the sex; with the hiding lifted, sex as a covariate must give it away."""
    open_task = replace(sex, task=replace(sex.task, hides=()))
    blind = run(open_task, Blind(), out=tmp_path / "a", protocol=protocol)
    told = run(open_task, Blind(), out=tmp_path / "b", protocol=protocol, covariates=("age", "sex"))
    assert blind.headline["value"] == 0.5 and told.headline["value"] > 0.99
    stored = read_result(tmp_path / "b")
    assert stored.protocol["covariates"] == "age,sex" and stored.protocol["covariates_missing"] == {"age": 0, "sex": 0}
    assert "with age, sex" in stored.protocol["summary"]
    assert stored.model["id"].endswith("+age+sex") and stored.model["width"] == blind.model["width"] + 2
    assert "covariates" not in blind.protocol


def test_names_of_runs_tell_them_apart():
    assert run_name("m", covariates=("age", "sex")) == "m+age+sex"
    assert run_name("m", "few-1", 2, covariates=("age",)) == "m+few-1.2+age"


@pytest.mark.parametrize(("text", "names"), [("sex, age", ("age", "sex")), ("age", ("age",)), ("", ())])
def test_covariates_are_read_from_the_command_line(text, names):
    assert parse_covariates(text) == names


def test_the_command_gives_covariates(small_code15, tmp_path):
    base = [
        "run",
        "-m",
        "majority",
        "-t",
        "open-age",
        "--data",
        str(small_code15),
        "-o",
        str(tmp_path),
    ]
    done = CliRunner().invoke(main, [*base, "--covariates", "sex"])
    assert done.exit_code == 0, done.output
    assert "majority+sex" in done.output and (tmp_path / "open-age" / "majority+sex" / "result.json").is_file()
    wrong = CliRunner().invoke(main, [*base, "--covariates", "height"])
    assert wrong.exit_code == 1 and "no covariate 'height'; the covariates are age, sex" in wrong.output
