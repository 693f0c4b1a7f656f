"""`xecg stream --mode window`: the library's tokens, the latency in the first line, and refusals that say which mode serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import xecg
from xecg.cli import main
from xecg.io import write_wfdb
from xecg.signal import simulate
from xecg.stream import Token, WindowStream, measure_parity

SECONDS: dict[str, Any] = {"context_s": 4.0, "hop_s": 2.0, "look_ahead_s": 0.5}
FLAGS = ("--mode", "window", "--context", 4, "--hop", 2, "--look-ahead", 0.5)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of synthetic ECG."""
    folder = tmp_path_factory.mktemp("records")
    write_wfdb(simulate.ecg(seed=3, rate_hz=250.0, duration_s=20.0, leads=("II", "V1")), folder, "short")
    return folder / "short"


def run(*args: object, data: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["stream", *(str(a) for a in args)], input=data)


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def expected(leads: tuple[str, ...], x: np.ndarray) -> list[Token]:
    stream = WindowStream(xecg.load("tiny"), 250.0, leads, **SECONDS)
    return [item for item in stream.push(x) + stream.flush() if isinstance(item, Token)]


def assert_tokens(found: list[dict[str, Any]], truth: list[Token]) -> None:
    told = [line for line in found if line["kind"] == "token"]
    assert [(t["index"], t["start"], t["stop"]) for t in told] == [(t.index, t.start, t.stop) for t in truth]
    assert np.array_equal(np.array([t["embedding"] for t in told], np.float32), np.stack([t.embedding for t in truth]))


def test_a_file_gives_the_tokens_of_the_library_and_states_its_latency(record: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = lines(run(record, *FLAGS, "--chunk", 0.7, "--parquet", tmp_path / "t.parquet"))
    assert found[0]["model"] == "tiny" and found[0]["latency_s"] == 2.5
    assert {name: found[0][name] for name in SECONDS} == SECONDS
    assert_tokens(found, expected(("II", "V1"), xecg.read(record).signal))
    assert found[-1]["tokens"] == 80 == pq.read_metadata(tmp_path / "t.parquet").num_rows
    assert found[-1]["found_beats"] == sum(line["kind"] == "beat" for line in found) > 15
    assert "parity" not in found[-1]


def test_parity_is_in_the_summary_where_asked_for(record: Path) -> None:
    found = lines(run(record, *FLAGS, "-q", "--measure-parity"))[-1]["parity"]
    measured = asdict(measure_parity(xecg.load("tiny"), xecg.read(record), **SECONDS))
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in measured.items()}
    assert found["tokens"] == 80 and found["largest_relative"] > 0
    whole = lines(run(record, "-q", "--mode", "window", "--context", 20, "--look-ahead", 20, "--measure-parity"))
    assert whole[-1]["parity"]["largest_relative"] == 0


def test_raw_samples_from_standard_input(record: Path) -> None:
    counts = np.round(xecg.read(record).signal * 800).astype("<i2")
    options = ("-", "--raw-gain", 800, "--rate", 250, "--leads", "II,V1", *FLAGS)
    found = lines(run(*options, data=counts.T.tobytes()))
    assert_tokens(found, expected(("II", "V1"), counts / np.float32(800)))
    cut = run(*options, data=counts.T.tobytes() + b"abc")
    assert cut.exit_code == 1 and "ends inside a sample: 3 bytes are left over" in cut.stderr
    assert cut.stdout == run(*options, data=counts.T.tobytes()).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--context", 0), "--context is for --mode window"),
        (("--look-ahead", 1), "--look-ahead is for --mode window"),
        (("--measure-parity",), "--measure-parity is for --mode window"),
        (("--mode", "window", "--state", "s"), "--state is for --mode causal"),
        (("--mode", "window", "--hop", 0), "not in the range"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(
    record: Path, args: tuple[object, ...], message: str
) -> None:
    refused = run(record, *args)
    assert refused.exit_code == 2 and message in " ".join(refused.stderr.split())


def test_a_model_of_the_other_mode_is_refused_with_the_mode_that_takes_it(record: Path) -> None:
    for args, message in (
        (("--mode", "window", "-m", "tiny-causal"), "use --mode causal"),
        (("-m", "tiny"), "use --mode window"),
    ):
        refused = run(record, *args)
        assert refused.exit_code == 1 and message in refused.stderr


def test_live_windows_are_raw_samples_of_one_patient() -> None:
    live = ("--rate", 250, "--leads", "II", *FLAGS)
    for args, message in (
        (("-",), "--raw-gain"),
        (("-", "--raw-gain", 1000, "--measure-parity"), "needs FILE"),
        (("--listen", "127.0.0.1:0"), "--listen is for --mode causal"),
    ):
        refused = run(*args, *live, data=b"")
        assert refused.exit_code == 2 and message in " ".join(refused.stderr.split())


def test_a_head_tells_where_its_labels_begin_whatever_the_chunk(record: Path, tmp_path: Path) -> None:
    import torch

    from xecg.model import Head, HeadSpec, save_head

    torch.manual_seed(0)
    encoder = xecg.load("tiny")
    spec = HeadSpec("multilabel", ("a", "b"), of="token", encoder=encoder.name, fingerprint=encoder.fingerprint)
    head = Head(spec, 128)
    with torch.no_grad():
        head.weight.normal_(0, 0.1)
    save_head(head, tmp_path / "h.safetensors")
    flags = (*FLAGS, "--head", tmp_path / "h.safetensors")
    found = lines(run(record, *flags))
    vectors = np.stack([t.embedding for t in expected(("II", "V1"), xecg.read(record).signal)])
    on = vectors @ head.weight.detach().numpy().T + head.bias.detach().numpy() >= 0
    begun = on & ~np.vstack([np.zeros((1, 2), bool), on[:-1]])
    tokens = [line for line in found if line["kind"] == "token"]
    told = [(line["start"], line["event"], line["by"]) for line in found if line["kind"] == "event"]
    assert told == [(tokens[t]["start"], "ab"[k], "head:h") for t, k in zip(*np.nonzero(begun))] and len(told) > 3
    again = lines(run(record, *flags, "--chunk", 0.3))
    assert [x for x in again[1:-1] if x["kind"] != "beat"] == [x for x in found[1:-1] if x["kind"] != "beat"]
    other = run(record, *FLAGS, "--head", "tiny-beats")
    assert other.exit_code == 1 and "a stream needs one of every token" in other.stderr
