"""`xecg finetune` and `xecg predict`: from a table to a head, from a head to answers."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchecg.finetuning import fit_head
from benchecg.user_table import beats_task, peaks_task, table_task
from xecg import load, read
from xecg.cli import main
from xecg.errors import ReadError, SpecError
from xecg.model import Head, HeadSpec, load_head, save_head
from xecg.model.predict import predict
from xecg.signal import peaks, simulate


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
    errors = load_head(tmp_path / "b.safetensors").errors
    assert {"macro_f1", "f1/N", "f1/S", "f1/V"} <= set(errors["metrics"]) and errors["each"].startswith(
        "share of beats"
    )
    record = archive.parent / f"{next(csv.DictReader(archive.open()))['record']}.hea"
    done = _run("predict", tmp_path / "b.safetensors", record)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    times = [line["time_s"] for line in lines]
    assert len(lines) >= 5 and times == sorted(times)
    assert all(abs(sum(line["answer"].values()) - 1) < 1e-4 for line in lines)
    told = json.loads(_run("predict", tmp_path / "b.safetensors", record, "--summary").stdout)
    assert told["sensitivity"] > 0.8 and told["classes"]["N"]["annotated"] > 0


def test_a_head_of_peaks_prints_their_times_and_states_its_error(archive, tmp_path):
    made = _run("finetune", archive, "-o", tmp_path / "p.safetensors", "--peaks", "--json")
    assert made.exit_code == 0 and json.loads(made.stdout)["kind"] == "peaks"
    head = load_head(tmp_path / "p.safetensors", load("tiny"))
    assert head.spec.classes == ("R",) and head.spec.heights == 25 and head.weight.shape == (25, head.width)
    tested = list(head.errors["by_record"])
    assert tested and "| record | beats | found | F1 R at ±75 ms |" in head.card
    record = archive.parent / f"{tested[0]}.hea"
    done = _run("predict", tmp_path / "p.safetensors", record)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    times = np.array([line["time_s"] for line in lines])
    truth = np.array(read(record).annotations.sample) / 250
    f1 = peaks.match(truth, times, 0.075).f1
    assert f1 > 0.7 and abs(f1 - head.errors["by_record"][tested[0]]) < 1e-4  # what the card says of that record
    assert all(set(line["answer"]) == {"height"} and line["by"] == "head:peaks" for line in lines)
    value = head.errors["metrics"]["f1_75ms"][0]
    assert (
        f"p: error of this head on test records of labels.csv: {len(truth) and head.errors['on'].split(': ')[1]}"
        in done.stderr
    )
    assert f"f1_75ms {value:.3f} [" in done.stderr
    assert f"F1 at ±75 ms, by record: {tested[0]} {f1:.3f}, " in done.stderr


def test_a_causal_heads_answers_are_of_the_time_that_they_speak_of(archive, tmp_path):
    """Read a token later, the same peaks are at the same times: a head of `after` 1 is no quarter of a second late."""
    task, data = peaks_task(archive)
    fitted = fit_head(task, data, load("tiny-causal"), after=1)
    name = fitted.scored["per_record"][0]["record"]
    recording = read(archive.parent / f"{name}.hea")
    found = predict(recording, load("tiny-causal"), fitted.head).time_s
    truth = np.array(recording.annotations.sample) / 250
    errors = peaks.match(truth, found, 0.075)
    assert errors.f1 == pytest.approx(fitted.scored["per_record"][0]["macro_f1"], abs=1e-6)
    assert errors.f1 > 0.5 and abs(np.median(errors.errors_s)) < 0.02


def test_a_head_without_figures_says_that_its_card_has_them(archive, tmp_path):
    head = Head(
        HeadSpec("binary", ("a", "b"), encoder="tiny", fingerprint=load("tiny").fingerprint), load("tiny").config.dim
    )
    save_head(head, tmp_path / "old.safetensors")
    done = _run("predict", tmp_path / "old.safetensors", sorted(archive.parent.glob("*.hea"))[0])
    assert done.exit_code == 0 and "old: error of this head: see its card" in done.stderr


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
    assert _run("finetune", archive, "-o", tmp_path / "h.safetensors", "--beats", "--peaks").exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("record,y,y\na,1,0\n", "needed each name once"),
        ("record,y\na\n", "row 1 is 1 cells; the first row names 2 columns"),
        ("record,y\na,1\nb,1,0\n", "row 2 is 3 cells; the first row names 2 columns"),
        ('record,y\n"a,1\n', "row 1 is 1 cells"),
        ("record;y\na;1\n", "needed a column 'record'"),
        ("", "needed a column 'record'"),
    ],
)
def test_a_table_whose_cells_do_not_fit_its_columns_is_refused(tmp_path, text, says):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ReadError, match=says):
        table_task(tmp_path / "t.csv", ["y"])
