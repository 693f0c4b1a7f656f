"""`xecg stream`: what it writes, what it compares, and that a killed run goes on where its last state was."""

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
import pytest
from click.testing import CliRunner, Result

import xecg
from xecg.cli import main
from xecg.errors import StreamError
from xecg.io import write_wfdb
from xecg.signal import Annotations, simulate
from xecg.stream.results import beat_summary
from xecg.stream.saving import read_blobs, write_blobs


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of synthetic ECG with its true beats as marks."""
    import wfdb

    folder = tmp_path_factory.mktemp("records")
    made = simulate.ecg(seed=3, rate_hz=250.0, duration_s=60.0, leads=("II", "V1"))
    write_wfdb(made, folder, "minute")
    beats = [s for s, symbol in zip(made.annotations.sample.tolist(), made.annotations.symbol) if symbol == "N"]
    wfdb.wrann("minute", "atr", np.array(beats), symbol=["N"] * len(beats), write_dir=str(folder))
    return folder / "minute"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in found if line["kind"] == kind]


def test_the_summary_compares_beats_with_the_marks_beside_the_record(record: Path) -> None:
    found = lines(run("stream", record, "-q"))
    assert [line["kind"] for line in found] == ["recording", "summary"]
    summary = found[-1]
    assert summary["reference"] == "minute.atr" and summary["tokens"] == 240 and summary["seconds"] == 60
    assert summary["sensitivity"] > 0.95 and summary["ppv"] > 0.95
    assert summary["matched"] + summary["missed"] == summary["reference_beats"]
    assert lines(run("stream", record, "-q", "--reference", "none"))[-1]["reference"] is None


def test_a_summary_counts_one_to_one_and_only_beat_marks() -> None:
    marks = Annotations(np.array([0, 100, 200, 300]), ("+", "N", "V", "~"), ("",) * 4)
    found = beat_summary([101, 102, 500], marks, 100.0)
    assert (found["reference_beats"], found["matched"], found["missed"], found["extra"]) == (2, 1, 1, 2)


def test_parquet_and_annotations_hold_what_is_printed(record: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = lines(
        run(
            "stream",
            record,
            "--parquet",
            tmp_path / "t.parquet",
            "--annotations",
            tmp_path / "minute.qrs",
            "--chunk",
            7,
        )
    )
    table = pq.read_table(tmp_path / "t.parquet")
    tokens = of_kind(found, "token")
    assert table["start"].to_pylist() == [t["start"] for t in tokens]
    assert np.array_equal(
        np.stack(table["embedding"].to_numpy()), np.array([t["embedding"] for t in tokens], np.float32)
    )
    assert table.schema.metadata[b"model_fingerprint"].decode() == xecg.load("tiny-causal").fingerprint
    (tmp_path / "minute.hea").write_bytes(record.with_suffix(".hea").read_bytes())
    marks = xecg.io.annotations(tmp_path / "minute", "qrs")
    assert marks.sample.tolist() == [b["sample"] for b in of_kind(found, "beat")]
    assert set(marks.symbol) == {"Q"}
    refused = run("stream", record, "-q", "--annotations", tmp_path / "no extension")
    assert refused.exit_code == 1 and "RECORD.EXTENSION" in refused.stderr


def test_speed_paces_the_record_and_is_checked(record: Path) -> None:
    began = time.monotonic()
    lines(run("stream", record, "-q", "--speed", "60"))
    assert time.monotonic() - began >= 0.98
    for wrong in ("0", "-1", "fast", "nan"):
        assert run("stream", record, "--speed", wrong).exit_code == 2


def test_a_killed_run_goes_on_from_its_last_state_to_the_bit(record: Path, tmp_path: Path) -> None:
    whole = lines(run("stream", record))
    state = tmp_path / "state"
    command = [sys.executable, "-m", "xecg.cli", "stream", str(record), "--state", str(state)]
    with subprocess.Popen(
        [*command, "--speed", "20", "--chunk", "0.5", "--state-every", "2"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("index", 0) >= 60 and state.exists():
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = lines(run("stream", record, "--state", state))
    first = found[0]["first_sample"]
    assert 0 < first < 15_000 and not state.exists()
    tokens = of_kind(found, "token")
    assert tokens == of_kind(whole, "token")[-len(tokens) :] and 0 < len(tokens) < 240
    beats = of_kind(found, "beat")
    assert beats == of_kind(whole, "beat")[-len(beats) :]


def test_a_damaged_state_file_is_refused(record: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_blobs(state, [b"one", b"two"])
    assert read_blobs(state) == [b"one", b"two"] and read_blobs(tmp_path / "none") == []
    data = state.read_bytes()
    for bad in (
        data[:-1],
        data[:5],
        b"",
        bytes([data[0] ^ 1]) + data[1:],
        data[:20] + bytes([data[20] ^ 1]) + data[21:],
    ):
        state.write_bytes(bad)
        with pytest.raises(StreamError, match="Remove it"):
            read_blobs(state)
    refused = run("stream", record, "--state", state)
    assert refused.exit_code == 1 and "checksum" in refused.stderr


@pytest.mark.parametrize(
    "flags",
    [("--chunk", "nan"), ("--chunk", "inf"), ("--rate", "nan"), ("--rate", "inf"), ("--state-every", "nan"),
     ("--raw-gain", "nan"), ("--raw-gain", "inf"), ("--raw-gain", "1e-300"), ("--context", "nan"), ("--hop", "inf")],
)  # fmt: skip
def test_a_number_that_is_none_is_a_usage_error(flags: tuple[str, str]) -> None:
    result = CliRunner().invoke(main, ["stream", "-", *flags], input=b"")
    assert result.exit_code == 2
    assert flags[0] in result.stderr and ("finite" in result.stderr or "not in the range" in result.stderr)


@pytest.mark.parametrize("option", ["--parquet", "--annotations", "--state"])
def test_a_file_that_live_input_would_not_write_is_a_usage_error(option: str, tmp_path: Path) -> None:
    flags = ("--raw-gain", "1000", "--rate", "250", "--leads", "II", option, str(tmp_path / "x.qrs"))
    result = CliRunner().invoke(main, ["stream", "-", *flags], input=b"")
    assert result.exit_code == 2 and f"{option} is not written" in result.stderr


@pytest.mark.parametrize("chunk", ["1", "0.3", "100"])
def test_raw_input_that_ends_inside_a_sample_loses_no_whole_one_and_counts_the_rest(record: Path, chunk: str) -> None:
    counts = np.round(xecg.read(record).signal[:, :1333] * 1000).astype("<i2").T.tobytes()
    flags = ("stream", "-", "--raw-gain", "1000", "--rate", "250", "--leads", "II,V1", "--chunk", chunk)
    whole = CliRunner().invoke(main, flags, input=counts)
    cut = CliRunner().invoke(main, flags, input=counts + b"abc")
    assert of_kind(lines(whole), "token")[-1]["stop"] > 1250
    assert (cut.exit_code, cut.stdout) == (1, whole.stdout)
    assert "3 bytes are left over and a sample of 2 leads has 4" in cut.stderr


@pytest.mark.parametrize("flags", [("--unit", "uV"), ("--partial",), ("--allow-negative-gain",)])
def test_an_option_of_files_that_live_input_would_pass_over_is_a_usage_error(flags: tuple[str, ...]) -> None:
    result = CliRunner().invoke(
        main, ["stream", "-", "--raw-gain", "1000", "--rate", "250", "--leads", "II", *flags], input=b""
    )
    assert result.exit_code == 2 and f"{flags[0]} is of files" in result.stderr
