"""The suite `gpu` as far as a machine without a GPU can tell: floors, entries, rows, peers that do not run, failures."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import device, floors, gpu_checks, gpu_peers, gpu_run, harness, readme, registry
from bench.__main__ import main
from bench.gpu import encode, neighbours, step, train
from bench.harness import Bench, Ceilings
from xecg.model import XECGConfig
from xecg.pretrain.settings import Settings
from xecg.pretrain.views import ViewSettings

LIMITS = Ceilings(800e12, 3e12, "bfloat16")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fake GPU")
    monkeypatch.setattr(device, "why_none", lambda: "")
    monkeypatch.setattr(device, "ceilings", lambda: LIMITS)
    monkeypatch.setattr(device, "event_time", clock({}))


def clock(seconds: dict[str, float]) -> harness.Clock:
    """A clock that knows how long each function takes by the name that the function returns."""

    def time(f: Callable[[], object]) -> tuple[float, float]:
        made = f()
        names = made if isinstance(made, list) else [made]
        each = sum(seconds.get(str(name), 1e-3) for name in names)
        return 2 * each, each

    return time


def bench(**changes: object) -> Bench:
    given = {"id": "op.a", "op": "op", "shape": "1", "dtype": "bfloat16", "run": lambda: "ours", "check": lambda: None}
    given |= {"device": "cuda", "backend": "triton", "bound": "floor", "bytes": 3e9, "flops": 400e9}
    return Bench(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("work", "megabytes", "gigaflops"),
    [
        (floors.mlstm(512, 40, 4, 512, 512), 336, 3.4),
        (floors.mlstm(32, 2500, 4, 128, 128), 328, 31),
        (floors.mlstm(8, 8192, 16, 128, 256), 1610, 190),
        (floors.slstm(512, 40, 4, 256), 210, 43),
        (floors.slstm(32, 2500, 4, 128), 410, 42),
    ],
)
def test_floors_are_those_counted_by_hand(work: floors.Work, megabytes: float, gigaflops: float) -> None:
    assert work.bytes / 1e6 == pytest.approx(megabytes, rel=0.01)
    assert work.flops / 1e9 == pytest.approx(gigaflops, rel=0.02)


def test_a_record_of_counts_moves_144_kilobytes() -> None:
    assert floors.frontend(1, 12, 5000, 1000).bytes == 144_000
    assert floors.frontend_moved(1, 12, 5000, 1000) == pytest.approx(1.25 * 144_000, rel=0.01)


def test_backward_moves_two_more_times_what_forward_moves() -> None:
    for count in (floors.mlstm, floors.slstm):
        sizes = (512, 40, 4, 64, 64) if count is floors.mlstm else (512, 4000, 4, 64)
        forward, both = count(*sizes), count(*sizes, backward=True)  # type: ignore[operator]
        assert both.bytes == pytest.approx(3 * forward.bytes, rel=0.01)
        assert both.flops >= 3 * forward.flops


def test_entries_are_made_without_a_gpu_and_each_has_a_bar() -> None:
    made = [entry for make in registry.entries("gpu") for entry in make()]
    names = [entry.id for entry in made]
    assert len(set(names)) == len(names)
    assert {entry.op for entry in made} >= {"mlstm", "slstm", "encode", "frontend", "train", "norm", "gated", "linear"}
    assert {"encode.base.512.plain", "encode.base.512.compiled", "encode.base.1.graph", "encode.base.8.graph"} <= set(
        names
    )
    for entry in made:
        assert isinstance(entry, Bench) and entry.device == "cuda" and entry.bar is not None and entry.aim is not None
        assert entry.bytes or entry.flops
        assert (entry.aim < entry.bar) == (entry.score == "time")
        assert bool(entry.makers) or entry.score != "ratio"


def test_the_longer_of_bytes_and_products_is_the_floor(fake_gpu: None) -> None:
    row = harness.measure(bench(score="ceiling", bar=0.4), LIMITS, seconds=0, clock=clock({"ours": 2e-3}))
    assert (row["ceiling"], row["ceiling_fraction"], row["met"]) == ("copy", pytest.approx(0.5), True)
    row = harness.measure(bench(flops=1.2e12), LIMITS, seconds=0, clock=clock({"ours": 2e-3}))
    assert (row["ceiling"], row["ceiling_fraction"]) == ("gemm", pytest.approx(0.75))
    assert (row["device_s"], row["time_s"], row["machine"]) == (2e-3, 4e-3, "a fake GPU")


def test_a_time_is_judged_as_an_upper_bound(fake_gpu: None) -> None:
    for bar, met in ((2.5e-3, True), (1.5e-3, False)):
        row = harness.measure(bench(score="time", bar=bar), LIMITS, seconds=0, clock=clock({"ours": 2e-3}))
        assert row["met"] is met


def test_peers_that_do_not_run_are_told_and_the_ratio_is_to_the_best_of_the_right_ones(fake_gpu: None) -> None:
    def missing() -> Callable[[], object]:
        raise ModuleNotFoundError("No module named 'nowhere'")

    def fails() -> object:
        raise RuntimeError("out of memory\nand a long trace")

    makers = {
        "TFLA a": lambda: lambda: "slow",
        "TFLA b": lambda: lambda: "slower",
        "another": lambda: lambda: "quick",
        "not there": missing,
        "breaks": lambda: fails,
    }
    entry = bench(makers=makers, against="TFLA", bar=2.0)
    row = harness.measure(
        entry, LIMITS, seconds=0, clock=clock({"ours": 1e-3, "slow": 3e-3, "slower": 5e-3, "quick": 1e-4})
    )
    assert (row["peer"], row["ratio"], row["met"]) == ("TFLA a", pytest.approx(3.0), True)
    assert row["not_run"] == {
        "not there": "ModuleNotFoundError: No module named 'nowhere'",
        "breaks": "RuntimeError: out of memory",
    }
    row = harness.measure(bench(makers={"TFLA a": missing}, bar=2.0), LIMITS, seconds=0, clock=clock({}))
    assert (row["peer"], row["ratio"], row["met"]) == (None, None, None)


def test_a_peer_that_does_not_get_ready_is_stopped() -> None:
    with pytest.raises(TimeoutError, match="not ready after 1 s"), harness._at_most(1):
        signal.pause()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_wrong_result_is_a_failed_row_and_the_others_are_kept(
    fake_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong() -> None:
        raise AssertionError("h is off")

    rows = [bench(id="a", check=wrong, bar=2.0), bench(id="b")]
    monkeypatch.setattr(registry, "entries", lambda suite: iter([lambda: rows]))
    done = CliRunner().invoke(main, ["run", "gpu", "--seconds", "0", "--json", str(tmp_path / "gpu.json")])
    assert done.exit_code == 1, done.output
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["id"], row.get("failed"), row["met"]) for row in result["rows"]] == [
        ("a", "AssertionError: h is off", False),
        ("b", None, None),
    ]
    assert result["ceilings"] == {"gemm_flops": 800e12, "gemm_dtype": "bfloat16", "copy_bytes": 3e12}
    table = readme.gpu_table(result)
    assert "failed: AssertionError: h is off" in table and "a fake GPU" in table and "1000.0 µs" in table
    assert CliRunner().invoke(main, ["check", str(tmp_path / "gpu.json")]).exit_code == 1


def test_a_run_that_goes_on_keeps_rows_and_fails_the_entry_that_ended_its_process(
    fake_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def dies() -> object:
        raise SystemExit(3)

    ran: list[str] = []
    made = [bench(id=name, run=lambda name=name: ran.append(name)) for name in "abc"]
    made[1] = bench(id="b", run=dies, turn=0)
    monkeypatch.setattr(registry, "entries", lambda suite: iter([lambda: made]))

    file, told = tmp_path / "gpu.json", []
    with pytest.raises(SystemExit):
        gpu_run.run(file, "", 0, resume=False, tell=told.append)
    left = json.loads(file.read_text())
    assert [row["id"] for row in left["rows"]] == ["a"] and left["running"] == "b"
    ran.clear()
    assert gpu_run.run(file, "", 0, resume=True, tell=told.append) == 1
    result = json.loads(file.read_text())
    assert "running" not in result and "a" not in ran and "c" in ran
    assert [(row["id"], "ended its process" in row.get("failed", "")) for row in result["rows"]] == [
        ("a", False), ("b", True), ("c", False),
    ]  # fmt: skip


def test_when_the_gpu_answers_no_more_another_process_must_go_on(
    fake_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = [bench(id="a"), bench(id="b")]
    monkeypatch.setattr(registry, "entries", lambda suite: iter([lambda: made]))
    monkeypatch.setattr(device, "broken", lambda: "CUDA error: an illegal memory access was encountered")
    file = tmp_path / "gpu.json"
    assert gpu_run.run(file, "", 0, resume=False, tell=lambda row: None) == gpu_run.BROKEN
    assert [row["id"] for row in json.loads(file.read_text())["rows"]] == ["a"]
    monkeypatch.setattr(device, "broken", lambda: "")
    assert gpu_run.run(file, "", 0, resume=True, tell=lambda row: None) == 0
    assert [row["id"] for row in json.loads(file.read_text())["rows"]] == ["a", "b"]


def test_a_module_whose_needs_are_missing_is_one_failed_row(
    fake_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing() -> list[Bench]:
        raise ModuleNotFoundError("No module named 'safetensors'")

    monkeypatch.setattr(registry, "entries", lambda suite: iter([missing, lambda: [bench(id="b")]]))
    file = tmp_path / "gpu.json"
    assert gpu_run.run(file, "", 0, resume=False, tell=lambda row: None) == 1
    rows = json.loads(file.read_text())["rows"]
    assert [row.get("failed", "") for row in rows] == ["ModuleNotFoundError: No module named 'safetensors'", ""]
    assert "safetensors" in readme.gpu_table(json.loads(file.read_text()))


def test_an_entry_that_hangs_is_ended() -> None:
    import subprocess
    import sys

    code = "import time; from bench import gpu_run; gpu_run._ENTRY_LIMIT_S = 1\nwith gpu_run._watched(): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Timeout" in done.stderr


def test_the_most_telling_entries_run_first(fake_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    made = [
        bench(id=name, turn=turn, check=lambda name=name: order.append(name))
        for name, turn in (("late", 2), ("a", 0), ("b", 0))
    ]
    monkeypatch.setattr(registry, "entries", lambda suite: iter([lambda: made]))
    gpu_run.run(None, "", 0, resume=False, tell=lambda row: None)
    assert order == ["a", "b", "late"]


def test_a_peer_that_did_not_get_ready_is_not_tried_again(fake_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_late", {})
    tries: list[int] = []

    def slow() -> Callable[[], object]:
        tries.append(1)
        raise TimeoutError("not ready after 90 s")

    for _ in range(2):
        row = harness.measure(bench(makers={"slow": slow}), LIMITS, seconds=0, clock=clock({}))
        assert "not ready after 90 s" in row["not_run"]["slow"]
    assert len(tries) == 1


def test_a_result_names_device_driver_and_versions() -> None:
    facts = device.facts()
    assert facts["packages"]["torch"] == torch.__version__  # type: ignore[index]
    assert {"name", "capability", "driver", "cuda", "nvcc", "python", "memory_bytes"} <= set(facts)
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("way", encode.WAYS)
def test_the_encode_rows_run_here_on_a_small_model(way: str) -> None:
    job = encode.Job(XECGConfig(blocks="sm", dim=32, heads=2), 2, 100, "cpu", compiler="eager")
    job.check(way)
    assert job.run(way).shape == (2, 4, 32)
    other = encode.Job(XECGConfig(blocks="sm", dim=32, heads=2), 2, 100, "cpu")
    other.records = lambda: torch.zeros(2, 12, 100)  # type: ignore[assignment, method-assign]
    other.way = lambda name: job.way(way)  # type: ignore[assignment, method-assign]
    with torch.no_grad():
        other.model().patch.weight.neg_()
    other.records = job.records  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="cosine to float32"):
        other.check(way)


def test_the_step_rows_run_here_on_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = step.Streams(XECGConfig(blocks="sm", dim=32, heads=2, alternate=False), 3, "cpu")
    streams.check()
    assert streams.run().shape == streams.plain().shape == (3, 32)
    bytes_ = [entry.bytes for entry in step.entries()]
    assert bytes_ == [2 * 76_816, 2 * 76_816 * 1024]
    plain = streams.model().step_
    monkeypatch.setattr(streams.model(), "step_", lambda x, state: 1.01 * plain(x, state))
    with pytest.raises(AssertionError, match="steps are off"):
        streams.check()


def _small_step() -> train.Step:
    views = ViewSettings(local_views=1)
    return train.Step(Settings(model="tiny", batch=3, precision="bfloat16", views=views), "cpu", samples=500)


def test_the_training_row_runs_here_on_a_small_model() -> None:
    made = _small_step()
    before = {name: p.clone() for name, p in made._objective().student.named_parameters()}
    made.check()
    assert any(not torch.equal(p, before[name]) for name, p in made._objective().student.named_parameters())
    assert len(made._pieces(made.micro)) == 1


def test_a_gradient_that_points_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = _small_step(), train.Step.gradients

    def wrong(self: train.Step, pieces: list) -> dict:
        parts = plain(self, pieces)
        if self.settings.precision == "bfloat16":
            self._objective().student.patch.weight.grad.neg_()
        return parts

    monkeypatch.setattr(train.Step, "gradients", wrong)
    with pytest.raises(AssertionError, match="cosine of the gradient"):
        made.check()


def test_a_batch_that_does_not_fit_goes_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes = _small_step(), []

    def fits_one(pieces: list) -> None:
        sizes.append(len(pieces))
        if len(pieces) < 3:
            raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(made, "_step", fits_one)
    made.run()
    assert sizes == [1, 2, 3] and made.micro == 1
    monkeypatch.setattr(made, "_step", lambda pieces: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        made.run()


def test_operations_of_a_training_step_are_those_counted_by_hand() -> None:
    # 2 global views of 32 and 4 local ones of 16 tokens: (64 + 64)·3 + 64·1.
    assert train.token_forwards(Settings(model="base"), 1000, 25) == 448
    (entry,) = train.entries()
    assert entry.flops == pytest.approx(512 * 448 * 4.609e9 / 40)
    made = _small_step()
    (piece,) = made._pieces(3)
    tokens = piece.wide[1].sum() // 25 * 4 + piece.narrow[1].sum() // 25 * 3  # teacher and student; student alone
    assert train.token_forwards(made.settings, 500, 25) * 3 == int(tokens)


@pytest.mark.parametrize("train", [False, True])
def test_the_neighbours_rows_run_here_on_small_sizes(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in neighbours.neighbours(2, 3, 16, 2, 24):
        row = neighbours.entry(one, 6, train=train, device="cpu")
        row.check()
        row.run()
        with monkeypatch.context() as patch:
            right = getattr(torch.ops.xecg, one.op)
            patch.setattr(torch.ops.xecg, one.op, lambda *a, right=right: _off(right(*a)))
            with pytest.raises(AssertionError, match="y is off"):
                neighbours.entry(one, 6, train=train, device="cpu").check()


def _off(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """1 % off in bfloat16, where what is timed runs; the definition is asked in float64."""
    first, *rest = result if isinstance(result, tuple) else (result,)
    first = first if first.dtype == torch.float64 else first * 1.02
    return (first, *rest) if isinstance(result, tuple) else first


def test_bytes_of_the_neighbours_are_those_counted_by_hand() -> None:
    tail = neighbours.neighbours(512, 40, 1024, 4, 1344)
    moved = {(one.op, one.name): neighbours.entry(one, 512 * 40, train=False, device="cpu").bytes for one in tail}
    assert moved[("norm", "of-mlstm")] == 512 * 40 * 2048 * 8  # h, a, z in, y out
    assert moved[("norm", "of-slstm")] == 512 * 40 * 1024 * 10  # h in bfloat16, x and y in float32
    assert moved[("gated", "gelu")] == 512 * 40 * 1344 * 6 and moved[("linear", "blocks")] == 512 * 40 * 2048 * 4
    both = neighbours.entry(tail[2], 512 * 40, train=True, device="cpu").bytes
    assert both == 512 * 40 * 1344 * (6 + 10)  # dy, a, b in; da, db out


def test_without_a_gpu_the_suite_says_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, ["run", "gpu"])
    assert done.exit_code == 1 and "no GPU" in done.output and "Traceback" not in done.output


def test_results_are_judged_by_what_rounding_costs() -> None:
    exact = torch.randn(1000, dtype=torch.float64)
    gpu_checks.assert_as_good_as_rounding(exact.bfloat16(), exact, "h")
    with pytest.raises(AssertionError, match="h is off"):
        gpu_checks.assert_as_good_as_rounding(exact.bfloat16() * 1.01, exact, "h")
    with pytest.raises(AssertionError, match="h is off"):
        gpu_checks.assert_as_good_as_rounding(torch.full_like(exact, torch.nan).bfloat16(), exact, "h")


def test_peers_get_whole_chunks_and_must_agree() -> None:
    x = torch.randn(2, 40, 3)
    padded = gpu_peers._padded(x, 64)
    assert padded.shape == (2, 64, 3) and torch.equal(padded[:, :40], x) and not padded[:, 40:].any()
    assert gpu_peers._padded(x, 8) is x
    gpu_peers._same(x * 1.01, x)
    with pytest.raises(AssertionError, match="not timed"):
        gpu_peers._same(x * 1.2, x)


def test_a_lstm_peer_runs_forward_and_backward() -> None:
    inputs = [torch.randn(2, 5, 4, 3, 8)]
    out = gpu_peers.cudnn_lstm(inputs)()
    assert isinstance(out, torch.Tensor) and out.shape == (6, 5, 8) and not out.requires_grad
    grads = gpu_peers.cudnn_lstm(inputs, train=True)()
    assert isinstance(grads, tuple) and grads[0].shape == (6, 5, 8) and len(grads) == 5
