"""Promises of each command: it prints what the library returns, and its exit code tells what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import xecg
from xecg.cli import main
from xecg.model import XECG, XECGConfig, save
from xecg.signal import PRESETS, preprocess


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a model that is small, so that commands are quick."""
    folder = tmp_path_factory.mktemp("models") / "small"
    save(XECG(XECGConfig(blocks="sm", dim=16, heads=2), spec=PRESETS["poly"], name="small"), folder)
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def as_json(result: Result) -> Any:
    return json.loads(result.stdout)


def test_embed_writes_a_table_and_tells_refusals(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    result = run("embed", archive, "--model", checkpoint, "-o", out, "--json")
    assert result.exit_code == 3
    assert as_json(result)["n_refused"] == 2
    assert pq.read_table(out).num_rows == as_json(result)["n_rows"] == 5


def test_embed_without_refusals_is_exit_0(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run("embed", archive / "site-a", "--model", checkpoint, "-o", tmp_path / "e.parquet", "--threads", 1)
    assert result.exit_code == 0
    assert "4 rows of 4 records" in result.stdout


def test_embed_passes_the_reading_policy_on(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    result = run("embed", archive / "site-b" / "broken.hea", "--partial", "--model", checkpoint, "-o", out)
    assert result.exit_code == 0
    assert pq.read_table(out).num_rows == 1


def test_embed_reads_arrays_with_what_they_do_not_declare(checkpoint: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(0, 0.3, (2, 5000)).astype(np.float32))
    common = ["embed", tmp_path / "a.npy", "--model", checkpoint, "-o", tmp_path / "e.parquet"]
    assert run(*common, "--rate", 500, "--unit", "mV", "--leads", "I,II").exit_code == 0
    undeclared = run(*common)
    assert undeclared.exit_code == 3
    assert "rate" in (tmp_path / "e.parquet.errors.jsonl").read_text()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_embed_refuses_a_shard_that_is_none(archive: Path, tmp_path: Path, shard: str) -> None:
    assert run("embed", archive, "-o", tmp_path / "e", "--shard", shard).exit_code == 2


def test_embed_warns_once_that_a_model_is_untrained(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run("embed", archive / "site-a", "--model", checkpoint, "-o", tmp_path / "e.parquet")
    assert result.stderr.count("untrained") == 1
    assert result.stdout.count("untrained") == 0


def test_output_that_cannot_be_written_is_told_before_work(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("embed", archive, "--model", checkpoint, "-o", tmp_path / "file" / "e.parquet")
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.stderr


@pytest.mark.parametrize("path", ["no-such-folder", "no-such-file.hea"])
def test_missing_input_is_one_line(checkpoint: Path, tmp_path: Path, path: str) -> None:
    for args in (["embed", path, "--model", checkpoint, "-o", tmp_path / "e"], ["inspect", path]):
        result = run(*args)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith(f"error: {path}")
    assert not (tmp_path / "e").exists()


def test_unknown_model_is_one_line(archive: Path, tmp_path: Path) -> None:
    result = run("embed", archive, "--model", "no-such-model", "-o", tmp_path / "e")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no-such-model")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_embed_and_the_same_command_goes_on(
    archive: Path, checkpoint: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """The child is stopped from inside its run, after the first of two parts; then it is run again."""
    out = tmp_path / "e.parquet"
    script = (
        "import os, signal, sys, time, xecg.io\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit it ignored
        "from xecg.cli import main\n"
        "from xecg.model import archive_inputs\n"
        "archive_inputs._PART_RECORDS = 2\n"
        "read = xecg.io.read\n"
        "def slow(path, **policy):\n"
        "    if path.stem == 'r2':\n"
        "        print('ready', flush=True); time.sleep(0.5)\n"
        "    return read(path, **policy)\n"
        "xecg.io.read = slow\n"
        f"main(['embed', {str(archive)!r}, '--model', {str(checkpoint)!r}, '-o', {str(out)!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        started = child.stdout.readline()
        assert started == b"ready\n", child.stderr.read().decode()
        time.sleep(0.1)
        child.send_signal(sent)
        errors = child.stderr.read().decode()
        assert child.wait() == code
    assert "Traceback" not in errors
    assert not out.exists()
    assert len(list(Path(f"{out}.partial").glob("*.part"))) == 1
    assert run("embed", archive, "--model", checkpoint, "-o", out).exit_code == 3
    assert sorted(os.listdir(tmp_path)) == ["e.parquet", "e.parquet.errors.jsonl"]


def test_inspect_tells_the_facts_and_the_refusals(archive: Path) -> None:
    result = run("inspect", archive, "--json")
    assert result.exit_code == 3
    facts = {Path(entry["file"]).stem: entry for entry in as_json(result)}
    assert list(facts) == ["r0", "r1", "r2", "r3", "broken", "long", "short"]
    assert facts["long"]["leads"] == ["II", "V1"]
    assert facts["long"]["duration_s"] == pytest.approx(61)
    assert facts["r0"]["rate_hz"] == 500
    assert facts["r0"]["missing_fraction"] == 0
    assert "error" in facts["broken"]
    text = run("inspect", archive)
    assert text.exit_code == 3
    assert "leads     2: II V1" in text.stdout
    assert "refused" in text.stdout


def test_preprocess_stores_what_the_library_returns(archive: Path, tmp_path: Path) -> None:
    file = archive / "site-b" / "long.hea"
    result = run("preprocess", file, "-o", tmp_path / "x.npz", "--preset", "poly", "--json")
    assert result.exit_code == 0
    expected = preprocess(xecg.read(file), PRESETS["poly"])
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["x"], expected.x)
        np.testing.assert_array_equal(stored["mask"], expected.mask)
        assert float(stored["rate"]) == 100.0
        assert tuple(stored["leads"]) == PRESETS["poly"].leads
        assert json.loads(str(stored["spec"])) == PRESETS["poly"].to_dict()
    assert as_json(result)["valid_fraction"] == pytest.approx(2 / 12)


def test_preprocess_names_the_presets_when_one_is_unknown(archive: Path, tmp_path: Path) -> None:
    result = run("preprocess", archive / "site-b" / "long.hea", "-o", tmp_path / "x.npz", "--preset", "nope")
    assert result.exit_code == 1
    assert "poly" in result.stderr


def test_preprocess_draws_before_and_after(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = archive / "site-b" / "long.hea"
    result = run("preprocess", file, "--preset", "monitor", "--plot", tmp_path / "x.png", "--json")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert as_json(result)["plot"] == str(tmp_path / "x.png") and "output" not in as_json(result)
    refused = run("preprocess", file, "--plot", tmp_path / "y.gif", "-o", tmp_path / "y.npz")
    assert refused.exit_code == 1 and ".gif" in refused.stderr
    assert run("preprocess", file).exit_code == 2
    assert os.listdir(tmp_path) == ["x.png"]


def test_plot_draws_a_picture(archive: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "p.png"
    result = run("plot", archive / "site-b" / "long.hea", "-o", out, "--start", 2, "--duration", 5, "--show", "V1")
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_names_the_leads_when_one_is_not_there(archive: Path, tmp_path: Path) -> None:
    result = run("plot", archive / "site-b" / "long.hea", "-o", tmp_path / "p.png", "--show", "V6")
    assert result.exit_code == 1
    assert "II, V1" in result.stderr


def test_plot_without_matplotlib_says_what_to_install(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("plot", archive / "site-b" / "long.hea", "-o", tmp_path / "p.png")
    assert result.exit_code == 1
    assert "pip install" in result.stderr
    assert "xecg[plot]" in result.stderr


def test_doctor_tells_every_part_as_json() -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    facts = as_json(result)
    assert facts["packages"]["torch"].startswith("2.")
    assert set(facts["modules"]) == {"xecg._cpu", "xecg._cuda"}
    assert facts["next"]
    assert run("doctor").exit_code == 0


def test_doctor_works_without_the_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xecg._cpu", "xecg._cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    facts = as_json(run("doctor", "--json"))
    assert not facts["modules"]["xecg._cpu"]["present"]
    assert "xecg._cpu" in facts["modules"]["xecg._cpu"]["reason"]
    assert any("compiled CPU kernels are missing" in text for text in facts["next"])


def test_convert_there_and_back_is_bit_exact(checkpoint: Path, tmp_path: Path) -> None:
    for layout in ("cuda", "vanilla"):
        official, folder, again = (tmp_path / f"{layout}-{n}" for n in ("a.safetensors", "folder", "b.safetensors"))
        assert run("convert", checkpoint, "--to-official", official, "--layout", layout).exit_code == 0
        result = run("convert", official, "-o", folder, "--layout", layout)
        assert result.exit_code == 0, result.stderr
        assert layout in result.stdout
        assert run("convert", folder, "--to-official", again, "--layout", layout).exit_code == 0
        assert official.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("both", [False, True])
def test_convert_needs_one_direction(checkpoint: Path, tmp_path: Path, both: bool) -> None:
    args = ["-o", tmp_path / "a", "--to-official", tmp_path / "b"] if both else []
    assert run("convert", checkpoint, *args).exit_code == 2


def test_similar_finds_the_nearest_rows(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.parquet"
    run("embed", archive / "site-a", "--model", checkpoint, "-o", out)
    found = as_json(run("similar", out, "r1", "--json"))
    table = pq.read_table(out)
    vectors = np.array(table["embedding"].to_pylist(), np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = {name: value for name, value in zip(table["record_id"].to_pylist(), unit @ unit[1]) if name != "r1"}
    assert [entry["record_id"] for entry in found] == sorted(expected, key=lambda name: -expected[name])
    assert {entry["record_id"]: pytest.approx(entry["similarity"]) for entry in found} == expected
    unknown = run("similar", out, "nobody")
    assert unknown.exit_code == 1
    assert "its first ids are r0" in unknown.stderr


@pytest.mark.slow
def test_every_open_set_embeds_twice_to_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    data = os.environ.get("ECG_DATA")
    if data is None:
        pytest.skip("ECG_DATA is not set: no folder of open recordings to embed")
    for folder in sorted(path for path in Path(data).iterdir() if path.is_dir()):
        first, second = (tmp_path / f"{folder.name}-{n}.parquet" for n in (1, 2))
        for out in (first, second):
            assert run("embed", folder, "--model", checkpoint, "-o", out).exit_code in (0, 3)
        assert first.read_bytes() == second.read_bytes()


@pytest.fixture(scope="module")
def live_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "live"
    save(XECG(XECGConfig(blocks="sm", dim=16, heads=2, alternate=False), spec=PRESETS["causal"], name="live"), folder)
    return folder


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_stream_prints_every_token_and_beat_whatever_the_chunk(archive: Path, live_checkpoint: Path) -> None:
    file = archive / "site-b" / "long.hea"
    one, other = (lines(run("stream", file, "--model", live_checkpoint, "--chunk", chunk)) for chunk in (0.13, 7.0))
    tokens, beats = ([line for line in one if line["kind"] == kind] for kind in ("token", "beat"))
    assert len(tokens) == 61 * 4
    assert len(tokens[0]["embedding"]) == 16
    true_beats = (
        xecg.read(file).signal.shape[1] / 500 * 40 / 60
    )  # no rhythm of the simulator is slower than 40 a minute
    assert len(beats) > true_beats
    for kind in ("recording", "token", "beat"):
        assert [line for line in one if line["kind"] == kind] == [line for line in other if line["kind"] == kind]


def test_stream_without_vectors_prints_none(archive: Path, live_checkpoint: Path) -> None:
    found = lines(run("stream", archive / "site-b" / "long.hea", "--model", live_checkpoint, "--no-vectors"))
    assert all("embedding" not in line for line in found)
    assert any(line["kind"] == "token" for line in found)


def test_stream_refuses_a_model_that_looks_ahead(archive: Path, checkpoint: Path) -> None:
    result = run("stream", archive / "site-b" / "long.hea", "--model", checkpoint)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_similar_refuses_what_is_no_whole_table_of_embeddings(archive: Path, checkpoint: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    out, bad = tmp_path / "e.parquet", tmp_path / "bad.parquet"
    run("embed", archive / "site-a", "--model", checkpoint, "-o", out)
    table, data = pq.read_table(out), out.read_bytes()
    for content in (b"", b"no table", data[: len(data) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        bad.write_bytes(content)
        refused = run("similar", bad, "r1")
        assert refused.exit_code == 1
        assert f"error: {bad} is no table of embeddings" in refused.stderr and "xecg embed" in refused.stderr
    vectors = table.column_names.index("embedding")
    lists = pa.array([[1.0], [1.0, 2.0], [1.0], [1.0]], pa.list_(pa.float32()))
    width = table["embedding"].type.list_size
    nan = pa.FixedSizeListArray.from_arrays(pa.array(np.full(4 * width, np.nan, np.float32)), width)
    for altered, message in (
        (table.drop_columns(["model_fingerprint"]), "is no table of embeddings"),
        (table.set_column(vectors, "embedding", lists), "has the columns"),
        (table.set_column(vectors, "embedding", nan), "not finite"),
        (table.slice(0, 0), "it is empty"),
    ):
        pq.write_table(altered, bad)
        refused = run("similar", bad, "r1")
        assert refused.exit_code == 1 and message in refused.stderr, refused.stderr
    late = run("similar", out, "r1", "--window-start", 5)
    assert late.exit_code == 1 and "its windows start at 0 s" in late.stderr
    assert run("similar", out, "r1", "--window-start", "nan").exit_code == 2


def test_more_threads_than_any_machine_has_are_a_usage_error(archive: Path, tmp_path: Path) -> None:
    refused = run("embed", archive / "site-a", "-o", tmp_path / "e.parquet", "--threads", 100_000)
    assert refused.exit_code == 2 and "1<=x<=1024" in refused.stderr
