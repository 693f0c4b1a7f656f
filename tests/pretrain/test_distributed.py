"""Promises of runs in several processes: the joined batch's numbers, one order of records, one decision. gloo, file init."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from click.testing import CliRunner

from tests.pretrain.test_corpus import write
from tests.pretrain.test_losses import wave
from tests.pretrain.test_trainer import Broken, weights
from xecg.cli import main
from xecg.errors import CheckpointError, SpecError
from xecg.pretrain import losses
from xecg.pretrain.build import build_corpus
from xecg.pretrain.corpus import Corpus
from xecg.pretrain.distributed import Gradients, Group, current
from xecg.pretrain.objective import SimDINO, backwards, learned
from xecg.pretrain.order import Batches
from xecg.pretrain.state import states
from xecg.pretrain.trainer import Settings, train
from xecg.pretrain.views import ViewSettings
from xecg.signal import PRESETS

TOL_LOSS = 1e-6  # of losses, from one number of processes to another: the rounding of float32 sums
TOL_EXACT = 1e-12  # of float64 sums
SETTINGS = Settings(
    model="tiny-causal", steps=6, batch=6, rate=1e-4, views=ViewSettings(local_views=1, rate=0.03, mask_chance=0.7)
)


def _process(rank: int, size: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size)
    try:
        torch.save(work(*arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def spread(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work` gives in each of `size` processes."""
    folder.mkdir(parents=True)
    mp.start_processes(_process, (size, str(folder), work, arguments), nprocs=size, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "in", "a", seed=1, duration_s=7.0)  # a shorter window: padding differs from process to process
    write(folder / "in", "b", seed=2)
    build_corpus([folder / "in"], folder / "out", PRESETS["causal"], synthetic=22)
    return folder / "out"


def rate_of_halves(scope: str) -> dict[str, torch.Tensor]:
    group = current()
    whole = wave((8, 6), (0.9, 0.4), 0.1)
    z = group.share(whole).clone().requires_grad_()
    rate = losses.coding_rate(z, group=group if scope == "global" else None)
    (rate / group.size).backward()
    return {"rate": rate.detach(), "gradient": z.grad, "term": losses.expansion(z[None], group=group).detach()}


def test_the_global_coding_rate_is_that_of_the_joined_rows(tmp_path: Path) -> None:
    z = wave((8, 6), (0.9, 0.4), 0.1).requires_grad_()
    rate = losses.coding_rate(z)
    rate.backward()
    rate = rate.detach()
    assert float(rate) == pytest.approx(4.082185449905, abs=TOL_EXACT * 10)
    for size in (2, 3):  # 3: parts of 2, 3 and 3 rows
        found = spread(size, tmp_path / str(size), rate_of_halves, "global")
        for one in found:
            assert float(one["rate"]) == pytest.approx(float(rate), abs=TOL_EXACT)
            assert float(one["term"]) == pytest.approx(-0.096218033790, abs=1e-11)
        torch.testing.assert_close(torch.cat([one["gradient"] for one in found]), z.grad, rtol=0, atol=TOL_EXACT)


def test_the_local_coding_rate_is_that_of_the_own_rows(tmp_path: Path) -> None:
    found = spread(2, tmp_path / "run", rate_of_halves, "local")
    halves = wave((8, 6), (0.9, 0.4), 0.1).split(4)
    for one, half in zip(found, halves):
        assert float(one["rate"]) == pytest.approx(float(losses.coding_rate(half)), abs=TOL_EXACT)
        assert abs(float(one["rate"]) - 4.082185449905) > 1e-3


def one_step(place: str, settings: Settings, micro: int) -> dict[str, torch.Tensor]:
    """Parts of the loss and gradients of the first batch."""
    group, corpus = current(), Corpus(place)
    goal = SimDINO(settings, corpus, group.device)
    own = list(group.share(Batches(settings, corpus).of(0)[1]))
    size = micro or len(own)
    pieces = [goal.load(own[i : i + size], 0) for i in range(0, len(own), size)]
    totals = group.sum(torch.stack([goal.counts(piece) for piece in pieces]).sum(0))
    with Gradients(group, backwards(goal)) as gradients:
        gradients.expect(len(pieces))
        found = goal.backward(pieces, totals, group)
        gradients.finish()
    parts = {name: group.sum(value.double()) for name, value in found.parts.items()}
    return parts | {f"gradient.{name}": p.grad for name, p in learned(goal) if p.grad is not None}


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> bool:
    assert one.keys() == two.keys()
    return all(float((one[k] - two[k]).abs().max() / two[k].abs().max().clamp_min(1e-3)) < tolerance for k in one)


@pytest.mark.parametrize("average", ["global", "per-sample"])
def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(place: Path, tmp_path: Path, average: str) -> None:
    settings = replace(SETTINGS, auxiliary=0.5, expansion=3.0, patch_average=average)
    whole = one_step(str(place), settings, 0)
    cuts = {"two processes": (2, 0), "four, unequal": (4, 0), "two, in micro-batches": (2, 2)}
    for name, (size, micro) in cuts.items():
        for found in spread(size, tmp_path / name, one_step, str(place), settings, micro):
            assert close(found, whole, 2e-5), name
    assert close(one_step(str(place), settings, 2), whole, 2e-5)
    assert not close(one_step(str(place), replace(settings, scope="local"), 2), whole, 1e-3)


def summed_two_ways(place: str, micro: int) -> dict[str, torch.Tensor]:
    """The gradients of a batch, summed in buckets during backward and, of the same batch, one by one after it."""
    group, corpus = current(), Corpus(place)
    goal = SimDINO(replace(SETTINGS, auxiliary=0.5), corpus, group.device)
    own = list(group.share(Batches(SETTINGS, corpus).of(0)[1]))
    pieces = [goal.load(own[i : i + (micro or len(own))], 0) for i in range(0, len(own), micro or len(own))]
    totals = group.sum(torch.stack([goal.counts(piece) for piece in pieces]).sum(0))
    found: dict[str, torch.Tensor] = {}
    order = backwards(goal)
    with Gradients(group, order) as gradients:
        for step in range(2):  # counts begin anew
            goal.student.zero_grad()
            goal.heads.zero_grad()
            begun: list[int] = []
            with_last = order[-1 - len(list(goal.heads.parameters()))].register_post_accumulate_grad_hook(
                lambda _, begun=begun: begun.append(gradients.begun)
            )
            gradients.expect(len(pieces))
            goal.backward(pieces, totals, group)
            found[f"begun.{step}"] = torch.tensor([begun[-1], gradients.begun, len(gradients._buckets)])
            gradients.finish()
            with_last.remove()
            found |= {f"{step}.buckets.{k}": p.grad.clone() for k, p in learned(goal) if p.grad is not None}
    for parameter in order:
        parameter.grad = None
    goal.backward(pieces, totals, group)
    for name, parameter in learned(goal):
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            found[f"after.{name}"] = parameter.grad
    return found


@pytest.mark.parametrize("micro", [0, 2])
def test_gradients_are_summed_during_backward_to_the_same_bits(place: Path, tmp_path: Path, micro: int) -> None:
    for one in spread(2, tmp_path / "run", summed_two_ways, str(place), micro):
        names = [key.removeprefix("after.") for key in one if key.startswith("after.")]
        assert len(names) > 20
        for step in range(2):
            at_last, at_end, buckets = one[f"begun.{step}"].tolist()
            assert (
                buckets >= 6 and at_end == buckets and at_last >= buckets - 3
            )  # in front of the first block's last gradient
            assert {k.removeprefix(f"{step}.buckets.") for k in one if k.startswith(f"{step}.buckets")} == set(names)
            assert all(torch.equal(one[f"{step}.buckets.{k}"], one[f"after.{k}"]) for k in names)


def uneven(how: str) -> dict[str, torch.Tensor]:
    """Four parameters, one used by nobody, one by the second process alone, one in one of two micro-batches."""
    group = current()
    p = [torch.nn.Parameter(torch.full((3,), float(i + 1))) for i in range(4)]
    with Gradients(group, p) as gradients:
        gradients.expect(2)
        for piece in range(2):
            loss = p[0].sum() * (group.rank + 1)
            loss = loss + (p[1].sum() if group.rank else 0) + (p[2].sum() * 10 if piece == 1 else 0)
            loss.backward()
        gradients.finish()
    return {str(i): q.grad if q.grad is not None else torch.zeros(0) for i, q in enumerate(p)}


def test_a_gradient_that_is_missing_somewhere_counts_as_zero_and_everywhere_stays_missing(tmp_path: Path) -> None:
    for one in spread(2, tmp_path / "run", uneven, ""):
        assert [one[str(i)].tolist() for i in range(4)] == [[6.0] * 3, [2.0] * 3, [20.0] * 3, []]


def run(place: str, out: str, settings: Settings, until: int, spoiled: tuple[int, ...] = ()) -> dict[str, Any]:
    """Train until a step; every process's share of records, and its weights, come back."""
    corpus = Corpus(place)
    if spoiled and current().rank == 1:
        corpus = Broken(corpus, set(spoiled))
    asked = iter(range(1000))
    goal = SimDINO(settings, corpus, torch.device("cpu"))
    seen: list[int] = []
    load = goal.load
    goal.load = lambda records, epoch: (seen.extend(i for i, _ in records), load(records, epoch))[1]
    start = int(states(Path(out))[-1].stem.split("-")[1]) if states(Path(out)) else 0
    stop = (lambda: next(asked) >= until - start) if current().rank == current().size - 1 else (lambda: False)
    done = train(settings, corpus, out, objective=goal, log_every=1, stop=stop)
    own = len(current().share(range(settings.batch)))
    found: dict[str, Any] = {
        "seen": seen[: (done.step - start) * own],
        "step": done.step,
    }  # a step more may be made ahead
    for side, model in (("student", goal.student), ("teacher", goal.teacher)):
        found |= {f"{side}.{k}": v for k, v in model.state_dict().items()}
    return found


def losses_of(folder: Path) -> list[float]:
    return [json.loads(text)["loss"] for text in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_goes_on_with_any_number_of_processes(place: Path, tmp_path: Path) -> None:
    alone = run(str(place), str(tmp_path / "alone"), SETTINGS, 99)
    seen: list[int] = []
    for size, until in ((2, 2), (1, 4), (4, 99)):
        found = spread(size, tmp_path / str(size), run, str(place), str(tmp_path / "out"), SETTINGS, until)
        assert {one["step"] for one in found} == {min(until, SETTINGS.steps)}
        count = found[0]["step"] - len(seen) // SETTINGS.batch
        shares = [np.array_split(one["seen"], count) for one in found]
        seen += [int(i) for step in range(count) for share in shares for i in share[step]]
        for one in found[1:]:  # student and averaged teacher are the same bits in every process
            assert all(torch.equal(one[k], found[0][k]) for k in one if k.startswith(("student", "teacher")))
    assert seen == alone["seen"]
    np.testing.assert_allclose(losses_of(tmp_path / "out"), losses_of(tmp_path / "alone"), rtol=0, atol=TOL_LOSS)
    ours, theirs = weights(tmp_path / "out"), weights(tmp_path / "alone")
    assert max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < 1e-4


def test_a_bad_record_of_one_process_makes_all_skip_the_step(place: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=2)
    first = [i for i, _ in Batches(settings, Corpus(place)).of(0)[1]]
    found = spread(2, tmp_path / "run", run, str(place), str(tmp_path / "out"), settings, 99, (first[-1],))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0] if k.startswith(("student", "teacher")))
    lines = [json.loads(text) for text in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [1, 1] and lines[0]["loss"] == "nan"
    assert all(bool(torch.isfinite(t).all()) for t in weights(tmp_path / "out").values())


def refused(place: str, out: str) -> dict[str, str]:
    found = {}
    try:  # each process its own folder: what a cluster without a shared file system has
        train(SETTINGS, Corpus(place), f"{out}/{current().rank}")
    except CheckpointError as error:
        found["folder"] = str(error)
    return found


def test_processes_that_do_not_see_one_folder_are_refused(place: Path, tmp_path: Path) -> None:
    train(SETTINGS, Corpus(place), tmp_path / "out" / "0", stop=iter([False, True]).__next__)
    found = spread(2, tmp_path / "run", refused, str(place), str(tmp_path / "out"))
    assert all("shared file system" in one["folder"] for one in found)


def test_local_scope_is_not_gone_on_with_in_another_cut(place: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, scope="local")
    train(settings, Corpus(place), tmp_path, stop=iter([False, True]).__next__)
    with pytest.raises(CheckpointError, match="other cut: was 1 processes, all records at once"):
        train(settings, Corpus(place), tmp_path, micro=2)
    with pytest.raises(SpecError, match="scope"):
        replace(SETTINGS, scope="some")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    write(tmp_path / "in", "r", seed=1)
    asked = ["pretrain", "--data", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cuda"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 1 and "torch finds 0 GPUs here. Use 'cpu'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_shares_follow_the_ranks() -> None:
    for size in (1, 2, 3, 5):
        cut = [Group(rank, size).share(list(range(7))) for rank in range(size)]
        assert [i for part in cut for i in part] == list(range(7)) and max(map(len, cut)) - min(map(len, cut)) <= 1


def test_torchrun_trains_and_a_signal_to_one_process_saves_for_all(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / "in", f"r{i}", seed=i)
    asked = ["pretrain", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "tiny-causal", "--batch", "4"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "xecg"]
    more = ["--steps", "400", "--log-every", "1", "--local-views", "1"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*torchrun, *asked, *more], stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2/400"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        time.sleep(0.1)
        os.kill(int(children[1]), signal.SIGTERM)
        rest = process.stderr.read()
        process.wait(timeout=60)
    assert "Traceback" not in rest.split("torch/distributed")[0]
    done = states(tmp_path / "out")
    assert len(done) == 1 and 2 <= (step := int(done[0].stem.split("-")[1])) < 400
    again = [sys.executable, "-m", "xecg", *asked, "--steps", "400", "--local-views", "1", "--json"]
    # One process goes on with it, under the same settings; it is stopped at once.
    with subprocess.Popen([*again, "--log-every", "1"], stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None and f"step {step + 1}/400" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 130
