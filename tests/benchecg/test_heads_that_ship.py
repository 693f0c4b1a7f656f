"""The command that makes the heads that ship: what they are fitted on, what their files say, one command for all four."""

import csv
import json

import numpy as np
import pytest
from bench_data import write_record
from click.testing import CliRunner

from bench.proof import heads
from benchecg.tasks._mitdb import _DS1, _DS2
from benchecg.user_table import peaks_task
from xecg import load
from xecg.errors import CheckpointError
from xecg.model import load_head, save
from xecg.signal import simulate


@pytest.fixture(scope="module")
def mitdb(tmp_path_factory):
    """The 44 records, 14 s each, simulated: two leads with beats that are marked."""
    root = tmp_path_factory.mktemp("mit")
    rng = np.random.default_rng(0)
    for i, name in enumerate((*_DS1, *_DS2)):
        made = simulate.ecg(seed=i, rate_hz=360.0, duration_s=14.0, leads=("II", "V1"), ectopy=0.3)
        leads = ["V5", "MLII"] if name == "114" else ["MLII", "V1"]
        symbols = rng.choice(["N", "N", "N", "A", "V"], len(made.annotations)).tolist()
        write_record(root / "mitdb", name, made.signal, rate=360, leads=leads, marks=(made.annotations.sample, symbols))
    return root


def test_ds1_without_201_teaches_and_ds2_tests(mitdb, tmp_path):
    rows = {r["record"].rpartition("/")[2]: r for r in csv.DictReader(heads.table_of(mitdb, tmp_path).open())}
    split = {name: row["split"] for name, row in rows.items()}
    assert {n for n, s in split.items() if s == "test"} == set(_DS2) and "201" not in split
    assert {n for n, s in split.items() if s != "test"} == set(_DS1) - {"201"}
    assert {n for n, s in split.items() if s == "val"} == {"114", "115", "203", "208", "220"}
    assert peaks_task(heads.table_of(mitdb, tmp_path))[1].in_split("test").any()


def test_one_command_makes_all_heads_of_given_weights(mitdb, tmp_path):
    for name in ("tiny", "tiny-causal"):
        save(load(name), tmp_path / "runs" / name)
    asked = ["--data", mitdb, "-o", tmp_path / "out", "--json", tmp_path / "heads.json"]
    asked += ["tiny", f"tiny-causal={tmp_path / 'runs' / 'tiny-causal'}"]
    done = CliRunner().invoke(heads.main, [str(a) for a in asked], catch_exceptions=False)
    assert done.exit_code == 0
    names = [f"{m}-{k}" for m in ("tiny", "tiny-causal") for k in ("beats", "rpeaks")]
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted(names)
    said = json.loads((tmp_path / "heads.json").read_text())
    for name in names:
        path, model = tmp_path / "out" / f"{name}.safetensors", name.rpartition("-")[0]
        head = load_head(path, load(model))
        assert path.stat().st_size <= heads.MOST_BYTES and head.spec.encoder == model
        assert head.spec.after == (model == "tiny-causal") and head.spec.of == "token"
        assert head.spec.classes == (("R",) if "rpeaks" in name else ("N", "S", "V", "other"))
        assert sorted(head.errors["by_record"]) == sorted(_DS2) == sorted(said[name]["by_record"])
        assert "DS2 of the MIT-BIH" in head.errors["on"] and said[name]["fingerprint"] == load(model).fingerprint
        assert f"\n| {_DS2[0]} | " in head.card and str(mitdb) not in head.card
        assert ("rarely" in head.card) == ("beats" in name)  # the marks of S and V are drawn
    with pytest.raises(CheckpointError, match="fitted on encoder 'tiny'"):
        load_head(tmp_path / "out" / "tiny-rpeaks.safetensors", load("tiny-causal"))
    assert said["tiny-rpeaks"]["metrics"]["f1_75ms"][0] > 0.8
