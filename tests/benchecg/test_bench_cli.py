"""The `benchecg` command: exit codes, one-line errors, JSON, and no torch for --help."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.models import MODELS
from xecg.signal import simulate


@pytest.fixture
def cli():
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(small_code15, tmp_path_factory):
    """Two models on two tasks."""
    out = tmp_path_factory.mktemp("runs")
    arguments = [
        "run",
        "-m",
        "bench_data:MeanAdapter",
        "-m",
        "majority",
        "-t",
        "open-age",
        "-t",
        "open-sex",
    ]
    result = CliRunner().invoke(main, [*arguments, "--data", str(small_code15), "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_help_needs_neither_torch_nor_scipy():
    code = (
        "import sys\nfrom benchecg.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'pyarrow', 'wfdb', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not a medical device" in done.stdout


def test_list_names_models_and_every_task_of_the_suite(cli):
    result = cli("list")
    assert result.exit_code == 0
    assert all(name in result.output for name in (*MODELS, "mitbih-beats", "open-age", "blood-tests"))
    facts = json.loads(cli("list", "--json").output)
    built = {t["suite"] for t in facts["tasks"]} - {None}
    assert built == {f"T{i}" for i in range(1, 11)}


def test_list_says_which_data_are_there(cli, small_mitdb, monkeypatch):
    monkeypatch.delenv("ECG_DATA", raising=False)
    assert {t["state"] for t in json.loads(cli("list", "--json").output)["tasks"]} == {"no --data"}
    tasks = json.loads(cli("list", "--json", "--data", small_mitdb).output)["tasks"]
    there = {t["id"] for t in tasks if t["state"] == "data there"}
    assert there == {"mitbih-beats", "mitbih-rpeaks"}
    assert {t["state"] for t in tasks if t["id"] not in there} == {"data missing"}


def test_run_prints_value_interval_and_support(runs, cli, small_code15, tmp_path):
    result = cli("run", "-m", "majority", "-t", "open-sex", "--data", small_code15, "-o", tmp_path)
    assert result.exit_code == 0
    assert "auroc 0.500 [0.500, 0.500]" in result.output and "SUBSET" in result.output
    assert (tmp_path / "open-sex" / "majority" / "predictions.parquet").is_file()


def test_suite_open_runs_open_sets_and_says_what_the_others_lack(cli, small_code15, tmp_path):
    arguments = ("-m", "majority", "--data", small_code15, "-o", tmp_path)
    result = cli("run", "--suite", "open", *arguments)
    assert "open-sex" in result.stdout and "open-age" in result.stdout
    assert "mitbih-beats: left out." in result.stderr and "apnea-ecg: left out." in result.stderr
    assert not any(task in result.output for task in ("blood-tests", "deepbeat-af", "age-mimic", "demo-synthetic"))
    both = cli("run", "--suite", "open", "-t", "open-sex", *arguments)
    assert both.exit_code == 2 and "needed one of them" in both.output


def test_score_says_whether_it_equals_the_run(runs, cli, tmp_path):
    result = cli("score", runs)
    assert result.exit_code == 0
    assert result.output.count("as in the run") == 4
    assert "BenchECG score of majority: refused (0 of 10 tasks on full data)" in result.output


def test_score_fails_when_the_result_was_edited(runs, cli, tmp_path):
    folder = tmp_path / "open-sex" / "majority"
    folder.mkdir(parents=True)
    source = runs / "open-sex" / "majority"
    (folder / "predictions.parquet").write_bytes((source / "predictions.parquet").read_bytes())
    data = json.loads((source / "result.json").read_text())
    data["metrics"]["auroc"]["value"] = 0.99
    (folder / "result.json").write_text(json.dumps(data))
    result = cli("score", tmp_path)
    assert result.exit_code == 1 and "DIFFERS from the run" in result.output


def test_compare_prints_the_verdict(runs, cli):
    result = cli("compare", runs, "mean", "majority")
    assert result.exit_code == 0 and "mean is better" in result.output
    rows = json.loads(cli("compare", runs, "mean", "majority", "--json").output)
    assert [row["task"] for row in rows] == ["open-age", "open-sex"]


def test_json_is_one_document_with_the_results(cli, small_code15, tmp_path):
    result = cli("run", "-m", "majority", "-t", "open-sex", "--data", small_code15, "-o", tmp_path, "--json")
    assert [r["task"]["id"] for r in json.loads(result.output)] == ["open-sex"]


def test_too_few_records_exit_1_alone_and_3_beside_a_score(cli, small_ptbxl, small_code15, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "ptb-xl").symlink_to(small_ptbxl / "ptb-xl")
    (root / "challenge-2025").symlink_to(small_code15 / "challenge-2025")
    base = (
        "run",
        "-m",
        "majority",
        "--data",
        root,
        "-o",
        tmp_path / "runs",
        "-t",
        "ptbxl-superclass",
    )
    alone = cli(*base)
    assert alone.exit_code == 1 and "no score: too few records for a score" in alone.output
    assert cli(*base, "-t", "open-sex").exit_code == 3


def test_tasks_without_data_are_left_out_unless_asked_for(cli, small_code15, tmp_path):
    some = cli("run", "-m", "majority", "--data", small_code15, "-o", tmp_path)
    assert some.exit_code == 0 and "mitbih-beats: left out. MIT-BIH" in some.stderr
    asked = cli("run", "-m", "majority", "-t", "mitbih-beats", "--data", small_code15, "-o", tmp_path)
    assert asked.exit_code == 1 and asked.stderr.startswith("error: MIT-BIH Arrhythmia Database 1.0.0 is not complete")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "-t", "nope", "-m", "majority"), 1, "there is no task 'nope'"),
        (("run", "-m", "nope"), 1, "there is no model 'nope'"),
        (("run", "--profile", "authors", "-t", "open-age", "-m", "majority"), 1, "no published script does open-age"),
        (("run", "--seed", "-1"), 2, "seed"),
        (("report", "empty"), 1, "Run `benchecg run` first"),
        (("score", "empty"), 1, "Run `benchecg run` first"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(cli, tmp_path, arguments, code, says):
    extra = ("--data", tmp_path) if arguments[0] == "run" else ()
    result = cli(*arguments, *extra)
    assert result.exit_code == code and says in result.stderr and "Traceback" not in result.output


def test_debug_shows_the_error_itself(cli, tmp_path):
    result = cli("--debug", "run", "-m", "nope", "--data", tmp_path)
    assert "no model 'nope'" in str(result.exception)


def test_an_interrupted_run_exits_130_and_goes_on_from_its_features(cli, small_mitdb, tmp_path, monkeypatch):
    import bench_data

    whole = bench_data.MeanAdapter.features
    calls = []

    def stop_at_tenth(self, recordings):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return whole(self, recordings)

    arguments = (
        "run",
        "-m",
        "bench_data:MeanAdapter",
        "-t",
        "mitbih-beats",
        "--data",
        small_mitdb,
        "-o",
        tmp_path,
    )
    monkeypatch.setattr(bench_data.MeanAdapter, "features", stop_at_tenth)
    assert cli(*arguments).exit_code == 130
    monkeypatch.setattr(bench_data.MeanAdapter, "features", whole)
    assert cli(*arguments).exit_code == 0
    cost = json.loads((tmp_path / "mitbih-beats" / "mean" / "result.json").read_text())["cost"]
    assert cost["feature_blocks_cached"] == 8  # the first call asked for the witness of the cache


def test_verify_compares_with_the_published_counts(cli, small_mitdb, real_data):
    wrong = cli("verify", "mitbih-beats", "--data", small_mitdb)
    assert wrong.exit_code == 1 and "DIFFERS: expected N 45,866" in wrong.output
    right = cli("verify", "mitbih-beats", "--data", real_data)
    assert right.exit_code == 0 and right.output.count("equal to de Chazal et al. 2004") == 2


def test_verify_calls_a_subset_a_subset(cli, small_ptbxl):
    result = cli("verify", "ptbxl-superclass", "--data", small_ptbxl)
    assert result.exit_code == 0 and "a subset: 23 of 21,388 records" in result.output


def test_prepare_says_what_to_get_and_simulates_only_the_demonstration(cli, tmp_path, monkeypatch):
    archive = simulate.archive

    def small(folder, *, patients, seed):
        return archive(folder, patients=60, seed=seed, duration_s=4, leads=("I", "II"))

    monkeypatch.setattr(simulate, "archive", small)
    result = cli("prepare", "--data", tmp_path)
    assert result.exit_code == 0
    assert "104 MB" in result.output and "https://physionet.org/content/mitdb/1.0.0/" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["demo-synthetic"]
    run = cli("run", "-t", "demo-synthetic", "-m", "rr", "--data", tmp_path, "-o", tmp_path / "runs")
    assert run.exit_code == 0 and "SYNTHETIC" in run.output
    assert "SYNTHETIC" in (tmp_path / "runs" / "demo-synthetic" / "rr" / "result.json").read_text()


def test_validate_adapter_exits_1_on_a_broken_promise(cli):
    assert cli("validate-adapter", "majority", "--long-s", 5).exit_code == 0
    broken = cli("validate-adapter", "bench_data:Forgetful", "--long-s", 5)
    assert broken.exit_code == 1 and "FAIL the same input twice" in broken.output


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "benchecg", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: benchecg ")
