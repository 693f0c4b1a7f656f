"""The length bench: what a context sees, what norms are taken of, which context is called useful, and its table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import length
from bench.readme import length_table
from benchecg.models.xecg import XECGAdapter
from benchecg.tasks import mitbih_beats
from benchecg.tasks.base import Record, TaskData
from xecg import XECG, XECGConfig
from xecg.io import write_wfdb
from xecg.signal import PRESETS, preprocess, simulate


def small(name: str, *, causal: bool = False) -> XECG:
    config = XECGConfig(blocks="sms", dim=16, heads=2, alternate=not causal)
    return XECG(config, spec=PRESETS["causal" if causal else "poly"], name=name).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_a_beat_is_read_in_the_context_that_holds_it(causal: bool) -> None:
    model, recording = (
        small("a", causal=causal),
        simulate.ecg(seed=1, rate_hz=250.0, duration_s=25.0, leads=("II", "V1")),
    )
    beats_s = np.array([0.3, 9.99, 10.01, 14.0, 24.9])
    late = int(causal)
    found = length.beat_features(model, recording, beats_s, 10.0)
    for row, (begin, end, token) in zip(
        found, [(0, 10, 1 + late), (0, 10, 39), (10, 20, late), (10, 20, 16 + late), (20, 25, 19)]
    ):
        part = slice(begin * 250, end * 250)
        alone = recording.with_(signal=recording.signal[:, part], mask=recording.mask[:, part])
        (tokens,) = XECGAdapter(model, id="x").features([alone])
        at = np.flatnonzero(np.isclose(tokens.start_s, token * 0.25))
        assert np.allclose(row, tokens.values[at[0]], rtol=1e-4, atol=1e-5)
    (whole,) = XECGAdapter(model, id="x").features([recording])
    rows = length.beat_features(model, recording, beats_s, None)
    at = np.searchsorted(whole.start_s, beats_s + 0.25 * late, side="right") - 1
    assert np.array_equal(rows, whole.values[at])


def test_norms_are_of_the_tokens_and_states_of_a_whole_record() -> None:
    model, recording = small("a"), simulate.ecg(seed=1, rate_hz=250.0, duration_s=90.0, leads=("II", "V1"))
    found = length.norms(model, recording)
    ready = preprocess(recording, model.spec)
    with torch.inference_mode():
        y = model.encode(torch.from_numpy(ready.x)[None], mask=torch.from_numpy(ready.mask)[None])[0].double()
        first, state = model.blocks[0], model.blocks[0].initial_state(1)
        _, state = first.resume(model.patch(torch.from_numpy(ready.x[None, :, :1000])), state)
    rms = {"10 s": y[:40], "1 min": y[200:240], "10 min": y[320:], "record": y[320:]}
    assert found["tokens"] == {
        name: pytest.approx(float(part.pow(2).mean().sqrt()), rel=1e-4) for name, part in rms.items()
    }
    assert list(found["states"]) == ["0 s forward", "1 m backward", "2 s forward"]
    assert found["states"]["0 s forward"]["c"]["10 s"] == pytest.approx(
        float(state["c"].pow(2).mean().sqrt()), rel=1e-5
    )
    assert set(found["states"]["1 m backward"]) == {"C", "n", "m"}


def test_useful_stops_at_the_first_context_that_loses() -> None:
    def of(*scores: float) -> str:
        return length.useful([{"context": c, "macro_f1": s} for c, s in zip(length.CONTEXTS, scores)])

    assert of(0.5, 0.6, 0.5, 0.55) == "record"
    assert of(0.5, 0.6, 0.49, 0.9) == "1 min"
    assert of(0.5, 0.4, 0.6, 0.6) == "10 s"


def made_task(folder: Path) -> TaskData:
    """Six short synthetic records with beats N and V; only their layout is that of the task."""
    records, record, time_s, label = [], [], [], []
    for i, split in enumerate(("train", "train", "val", "test", "test", "dropped")):
        made = simulate.ecg(seed=i, rate_hz=250.0, duration_s=70.0, leads=("II", "V1"), ectopy={"V": 0.2, "A": 0.2})
        path = write_wfdb(made, folder, f"r{i}")
        records.append(Record(f"r{i}", f"p{i}", split, path))
        assert made.annotations is not None
        for sample, symbol in zip(made.annotations.sample.tolist(), made.annotations.symbol):
            record.append(i)
            time_s.append(sample / made.rate)
            label.append({"N": 0, "A": 1, "V": 2}[symbol])
    return TaskData(tuple(records), np.array(record), np.array(time_s), np.array(label), True, ())


def test_result_has_a_row_a_context_and_its_table_quotes_it(tmp_path: Path) -> None:
    result = length.evaluate(made_task(tmp_path), [small("a"), small("b", causal=True)])
    assert [(row["model"], row["context"]) for row in result["rows"]] == [(m, c) for m in "ab" for c in length.CONTEXTS]
    assert all(0 <= row["interval"][0] <= row["macro_f1"] <= row["interval"][1] <= 1 for row in result["rows"])
    assert [row["minus_first"] is None for row in result["rows"]] == [True, False, False, False] * 2
    first, last = result["rows"][0], result["rows"][3]
    assert last["minus_first"]["value"] == pytest.approx(last["macro_f1"] - first["macro_f1"])
    assert result["beats"]["train"] > 0 and set(result["beats"]) == {"train", "val", "test"}
    table = length_table(result)
    assert table.count("\n| a |") == table.count("\n| b |") == 4 and f"{last['macro_f1']:.3f}" in table


@pytest.mark.skipif("ECG_DATA" not in os.environ, reason="ECG_DATA is not set")
def test_contexts_of_a_real_record_differ_but_little_at_their_middle() -> None:
    from xecg import load, read

    data: Any = mitbih_beats.TASK.load(Path(os.environ["ECG_DATA"]))
    model, beats_s = load("tiny"), data.time_s[data.record == 0]
    recording = read(data.records[0].path).with_(annotations=None)
    ten, minute = (length.beat_features(model, recording, beats_s, s) for s in (10.0, 60.0))
    middle = np.abs(beats_s % 10 - 5) < 1
    cosine = (ten * minute).sum(1) / np.linalg.norm(ten, axis=1) / np.linalg.norm(minute, axis=1)
    assert np.median(cosine[middle]) > 0.9 and not np.array_equal(ten, minute)
