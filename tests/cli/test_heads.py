"""`xecg finetune` and `xecg predict`: from a table to a head, from a head to answers."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchecg.user_table import beats_task, table_task
from xecg import load
from xecg.cli import main
from xecg.errors import ReadError, SpecError
from xecg.model import load_head
from xecg.signal import simulate


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    labels = simulate.archive(folder, patients=110, seed=3, rate_hz=250, leads=("II", "V1"), noise=0.2)
    rows = list(csv.DictReader(labels.open()))
    with labels.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0], "bpm_band", "number"])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "bpm_band": "af" if row["rhythm"] == "af" else "other", "number": i % 37})
    return labels


def _run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_a_head_of_a_column_is_scored_on_patients_it_has_not_seen_and_then_predicts(archive, tmp_path):
    made = _run(
        "finetune", archive, "-o", tmp_path / "h.safetensors", "--label", "bpm_band", "--covariate", "age", "--json"
    )
    facts = json.loads(made.stdout)
    assert made.exit_code == 0 and facts["classes"] == ["af", "other"] and facts["kind"] == "binary"
    assert facts["value"] > 0.8  # irregular beats are plain to see
    assert f"| auroc | {facts['value']:.3f} |" in load_head(tmp_path / "h.safetensors").card
    head = load_head(tmp_path / "h.safetensors", load("tiny"))
    assert head.spec.of == "record" and head.spec.covariates == ("age",)
    done = _run("predict", tmp_path / "h.safetensors", archive.parent)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    truth = {row["record"]: row["bpm_band"] for row in csv.DictReader(archive.open())}
    assert done.exit_code == 0 and {line["record"] for line in lines} == set(truth)
    right = np.mean([truth[line["record"]] == line["label"] for line in lines])
    assert right > 0.8
    assert all((line["answer"]["other"] >= 0.5) == (line["label"] == "other") for line in lines)


def test_a_head_of_beats_answers_at_each_beat_and_says_its_error(archive, tmp_path):
    made = _run("finetune", archive, "-o", tmp_path / "b.safetensors", "--beats")
    assert made.exit_code == 0 and "patients it has not seen" in made.stdout
    record = archive.parent / f"{next(csv.DictReader(archive.open()))['record']}.hea"
    done = _run("predict", tmp_path / "b.safetensors", record)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    times = [line["time_s"] for line in lines]
    assert len(lines) >= 5 and times == sorted(times)
    assert all(abs(sum(line["answer"].values()) - 1) < 1e-4 for line in lines)
    told = json.loads(_run("predict", tmp_path / "b.safetensors", record, "--summary").stdout)
    assert told["sensitivity"] > 0.8 and told["classes"]["N"]["annotated"] > 0


def test_a_refused_recording_is_named_and_the_others_are_answered(archive, tmp_path):
    _run("finetune", archive, "-o", tmp_path / "h.safetensors", "--label", "bpm_band")
    good = sorted(archive.parent.glob("*.hea"))[0]
    (tmp_path / "bad.hea").write_text("bad 1 250 100\nabsent.dat 16 200 16 0 0 0 0 II\n")
    done = _run("predict", tmp_path / "h.safetensors", good, tmp_path / "bad.hea")
    assert done.exit_code == 3 and len(done.stdout.splitlines()) == 1 and "absent.dat" in done.stderr


def test_the_kind_follows_from_the_column(archive):
    assert table_task(archive, ["bpm_band"])[0].kind == "binary"
    assert table_task(archive, ["rhythm"])[0].kind == "multiclass"
    assert table_task(archive, ["number"])[0].kind == "regression"
    assert table_task(archive, ["number", "n_pvc"])[0].kind == "multilabel"
    task, data = table_task(archive, ["age", "n_pvc"], kind="survival")
    assert task.metric == "c_index" and data.label.shape[1] == 2 and task.synthetic


def test_a_patient_is_on_one_side_of_the_split(archive):
    for data in (table_task(archive, ["rhythm"])[1], beats_task(archive)[1]):
        sides: dict[str, set[str]] = {}
        for r in data.records:
            sides.setdefault(r.patient, set()).add(r.split)
        assert all(len(s) == 1 for s in sides.values()) and len(set.union(*sides.values())) == 3


@pytest.mark.parametrize(
    ("text", "labels", "kind", "says"),
    [
        ("record,x\n", ["x"], None, "rows is none|needed one row"),
        ("path,x\na,1\n", ["x"], None, "needed a column 'record'"),
        ("record,x\nnowhere,1\n", ["x"], "regression", "relative to the table's folder"),
        ("record,x\n{r},soon\n", ["x"], "regression", "x of row 1 is 'soon'"),
        ("record,x,split\n{r},1,test\n{r},2,later\n", ["x"], "regression", "split of row 2 is 'later'"),
        ("record,x\n{r},1\n", ["x"], "binary", "1 classes; a binary task needs 2"),
        ("record,x\n{r},1\n", ["x"], "guess", "kind is 'guess'"),
        ("record,x\n{r},1\n", ["x"], "survival", "two of them"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_row_and_column(archive, text, labels, kind, says):
    path = archive.parent / "wrong.csv"
    path.write_text(text.format(r=next(csv.DictReader(archive.open()))["record"]))
    try:
        with pytest.raises((ReadError, SpecError), match=says):
            table_task(path, labels, kind=kind)
    finally:
        path.unlink()


def test_too_few_patients_for_a_score_are_no_head(archive, tmp_path):
    rows = list(csv.DictReader(archive.open()))[:20]
    path = archive.parent / "few.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = _run("finetune", path, "-o", tmp_path / "h.safetensors", "--label", "bpm_band")
    path.unlink()
    assert done.exit_code == 1 and "too few records" in done.stderr and not (tmp_path / "h.safetensors").exists()
    assert _run("finetune", archive, "-o", tmp_path / "h.safetensors").exit_code == 2
