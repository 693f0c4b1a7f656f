"""`make gpu-check` as far as a machine without a GPU can tell: its steps, verdicts and exit status, with a fake of every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from bench import gpu_check
from bench.gpu_check import PARTS, Check, Done, Step, pytest_counts, sanitizer_verdict, summary
from xecg.ops._dispatch import OPS

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"id": "a", "met": True},
    {"id": "b", "met": False},
    {"id": "c", "met": None},
]


class Machine:
    """Answers commands by what they contain; remembers them, and moves the clock by a second each.

    tests: what each parity process tells of its tests, one entry a process of a part; default: one that passes.
    """

    def __init__(
        self,
        answers: dict[str, Done],
        *,
        gpu: str = "a fake GPU",
        rows: list[dict] | None = None,
        tests: dict[str, list[tuple[int | None, list[dict]]]] | None = None,
    ) -> None:
        facts = {"torch": "2.11", "cuda": "13.0", "gpu": gpu, "capability": [9, 0] if gpu else []}
        every = {op: dict.fromkeys(("cuda", "triton", "reference"), "") for op in OPS}
        known = {"get_device_name": Done(0, json.dumps(facts)), "ops.backends": Done(0, json.dumps(every))}
        self.answers = {**known, **answers}
        self.rows, self.now = ROWS if rows is None else rows, 0.0
        self.commands: list[str] = []
        self.environments: list[dict[str, str]] = []
        self.limits: list[float] = []
        self.tests = tests or {}
        self.lock = threading.Lock()

    def parity(self, told: Path) -> Done:
        part = told.stem.removeprefix("told ")
        left = self.tests.get(part)
        status, lines = left.pop(0) if left else (0, [{"test": f"{part}::a", "state": "passed"}])
        with told.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        return Done(status, "1 passed in 0.1s")

    def __call__(self, command: Sequence[str], folder: Path, environment: dict[str, str], limit_s: float) -> Done:
        line = " ".join(command)
        with self.lock:
            self.commands.append(line)
            self.environments.append(environment)
            self.limits.append(limit_s)
            self.now += 1.0
        if "XECG_TOLD" in environment and not any(key in line for key in self.answers):
            return self.parity(Path(environment["XECG_TOLD"]))
        if "bench run gpu" in line and self.rows:
            Path(command[-1]).write_text(json.dumps({"rows": self.rows}))
        answer = next((done for key, done in self.answers.items() if key in line), None)
        return answer or Done(0, "1 passed in 0.1s" if "pytest" in line else "fine")


def check(
    tmp_path: Path,
    machine: Machine,
    *,
    limit_s: float = 570.0,
    only: Sequence[str] = gpu_check.STEPS,
    **environment: str,
) -> Check:
    return Check(
        tmp_path / "work",
        tmp_path / "out",
        run=machine,
        clock=lambda: machine.now,
        limit_s=limit_s,
        environment={"PATH": "/nowhere", **environment},
        only=only,
    )


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name, path=None: f"/bin/{name}")


def states(made: Check) -> dict[str, str]:
    return {step.name: step.state for step in made.steps}


def test_with_a_gpu_every_step_runs_and_missed_bars_are_no_failure(tmp_path: Path) -> None:
    machine = Machine({"--tool": Done(0, "1 passed in 2s\n========= ERROR SUMMARY: 0 errors")})
    made = check(tmp_path, machine)
    assert made.all() == 0
    assert set(states(made).values()) == {"passed", "not run"}
    assert [name for name, state in states(made).items() if state == "not run"] == ["peers"]
    assert "1 of 2 judged bars met" in next(step.told for step in made.steps if step.name == "bench")
    install = next(line for line in machine.commands if "pip install" in line)
    for word in ("--no-build-isolation", "--no-deps", "--no-index", "--target"):
        assert word in install
    assert "tests" in {p.name for p in (tmp_path / "work" / "tree").iterdir()}
    assert not (tmp_path / "work" / "tree" / "xecg").exists(), "the sources would shadow what was installed"


def test_the_parts_see_the_installed_package_and_one_seed(tmp_path: Path) -> None:
    machine = Machine({"--tool": Done(0, "1 passed in 2s\n========= ERROR SUMMARY: 0 errors")})
    (tmp_path / "work" / "site").mkdir(parents=True)
    made = check(tmp_path, machine, XECG_SEED="5")
    made.install = lambda build: ("passed", "")  # type: ignore[method-assign]
    made.all()
    for line, environment in zip(machine.commands, machine.environments):
        assert environment["XECG_SEED"] == "5"
        if "-p tests.told" in line or "bench run" in line:
            assert environment["PYTHONPATH"].startswith(str(tmp_path / "work" / "site"))
        if "--tool" in line:
            assert environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"


@pytest.mark.parametrize(
    ("answers", "rows", "failed"),
    [
        ({"pip install": Done(1, "error: nvcc fatal")}, ROWS, {"install", "install without CUDA"}),
        ({"-k slstm": Done(1, "ERROR: not found: tests/ops")}, ROWS, {"parity", "parity: slstm"}),
        ({"-k slstm": Done(5, "4 deselected in 5s")}, ROWS, {"parity", "parity: slstm"}),
        ({"-k slstm": Done(None, "half way")}, ROWS, {"parity", "parity: slstm"}),
        ({"bench run": Done(1, "")}, [*ROWS, {"id": "d", "met": False, "failed": "wrong"}], {"bench"}),
        ({"bench run": Done(None, "")}, ROWS, {"bench"}),
        ({"bench run": Done(1, "Error: out of memory")}, [], {"bench"}),
        ({"roofline": Done(1, "no matplotlib")}, ROWS, {"table and roofline"}),
        ({"memcheck": Done(9, "1 failed in 2s\n========= ERROR SUMMARY: 2 errors")}, ROWS, {"memcheck"}),
    ],
)
def test_what_fails_makes_the_exit_status_1_and_is_told(
    tmp_path: Path, answers: dict[str, Done], rows: list[dict], failed: set[str]
) -> None:
    made = check(tmp_path, Machine(answers, rows=rows))
    assert made.all() == 1
    assert {name for name, state in states(made).items() if state == "failed"} == failed
    assert all(step.told for step in made.steps)


def test_without_a_gpu_it_builds_and_tests_the_host_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine({}, gpu="")
    assert check(tmp_path, machine).all() == 0
    out = capsys.readouterr().out
    assert "No GPU here (torch 2.11 finds no NVIDIA GPU)" in out and "not run  bench" in out
    assert any("tests/ops" in line for line in machine.commands)
    assert not any("bench run" in line or "-m gpu" in line for line in machine.commands)
    build = next(e for line, e in zip(machine.commands, machine.environments) if "pip install" in line)
    assert build["XECG_BUILD"] == "cuda"
    assert check(tmp_path, Machine({"tests/ops": Done(1, "1 failed in 1s")}, gpu="")).all() == 1


def test_a_missing_tool_is_named_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name, path=None: None)
    machine = Machine({})
    made = check(tmp_path, machine)
    assert made.all() == 1 and not machine.commands
    assert made.steps[1].told == "missing: cmake"


def test_without_nvcc_or_where_the_build_fails_the_rest_is_still_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name, path=None: None if name == "nvcc" else f"/bin/{name}")
    machine = Machine({})
    made = check(tmp_path, machine)
    assert made.all() == 1
    assert states(made)["install"] == "failed" and states(made)["install without CUDA"] == "passed"
    assert states(made)["parity"] == states(made)["bench"] == "passed"
    builds = [e["XECG_BUILD"] for line, e in zip(machine.commands, machine.environments) if "pip install" in line]
    assert builds == ["cpu"] and not any("xecg._cuda" in line for line in machine.commands)


def test_a_kernel_that_is_not_there_is_told_and_not_taken_for_tested(tmp_path: Path) -> None:
    reasons = {op: {"cuda": "", "triton": "the package triton is not installed", "reference": ""} for op in OPS}
    made = check(tmp_path, Machine({"ops.backends": Done(0, json.dumps(reasons))}))
    assert made.all() == 1
    step = next(step for step in made.steps if step.name == "kernels")
    assert step.state == "failed" and "mlstm: triton (the package triton is not installed)" in step.told
    assert "slstm" not in step.told and states(made)["parity"] == "passed"
    assert set(gpu_check._WANTED) == set(OPS)


def test_only_the_device_that_is_there_is_built_for(tmp_path: Path) -> None:
    for given, wanted in (({}, "90-real"), ({"XECG_CUDA_ARCHS": "80"}, "80")):
        machine = Machine({})
        check(tmp_path, machine, **given).all()
        build = next(e for line, e in zip(machine.commands, machine.environments) if "pip install" in line)
        assert build["XECG_CUDA_ARCHS"] == wanted


def test_a_test_that_breaks_the_gpu_costs_itself_and_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(test: str, state: str, reason: str = "") -> dict:
        return {"test": test, "state": state, "reason": reason}

    tests = {
        "slstm": [
            (
                7,
                [
                    line("a", "passed"),
                    line("b", "started"),
                    line("b", "failed", "CUDA error: an illegal memory access"),
                ],
            ),
            (1, [line("c", "started")]),  # a hang: the process was ended
            (0, [line("c", "failed", "did not end"), line("d", "passed")]),
        ],
        "other ops": [(1, [line("e", "failed", "off by 2e-3"), line("f", "passed")])],
        "mlstm float32": [(None, [line("g", "passed"), line("h", "started")])],
        "mlstm short types": [(0, [line("i", "skipped", "no NVIDIA GPU")])],
        "mlstm steps and bits": [(2, [line("j", "passed")])],  # a file of the part could not be collected
    }
    machine = Machine({}, tests=tests)
    made = check(tmp_path, machine)
    assert made.all() == 1
    told = {step.name: (step.state, step.told) for step in made.steps}
    assert told["parity: slstm"] == ("failed", "2 passed, 2 failed")
    assert told["parity: other ops"] == ("failed", "1 passed, 1 failed")
    assert told["parity: mlstm float32"] == ("failed", "1 passed; stopped at its time limit")
    assert told["parity: mlstm short types"] == ("failed", "1 skipped")
    assert told["parity: mlstm steps and bits"] == ("failed", "1 passed")
    assert told["parity: encoder and front end"][0] == told["bench"][0] == "passed"
    assert told["parity"][1].startswith("1 of 6 parts passed")
    kept = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    failures = {(f["part"], f["test"]): f["reason"] for f in kept["failures"]}
    assert failures[("slstm", "b")] == "CUDA error: an illegal memory access" and ("slstm", "c") in failures
    assert failures[("mlstm float32", "h")] == "ran when the time was up"
    out = capsys.readouterr().out
    assert "FAILED other ops: e\n    off by 2e-3" in out


def test_the_bench_goes_on_after_an_entry_that_ended_its_process(tmp_path: Path) -> None:
    machine = Machine({})
    left = [(7, {"rows": ROWS[:1]}), (1, {"rows": ROWS[:2], "running": "c"}), (0, {"rows": ROWS})]

    def run(command: Sequence[str], folder: Path, environment: dict[str, str], limit_s: float) -> Done:
        done = machine(command, folder, environment, limit_s)
        if "bench run gpu" not in " ".join(command):
            return done
        status, result = left.pop(0)
        Path(command[-1]).write_text(json.dumps(result))
        return Done(status, "")

    made = check(tmp_path, machine)
    made.run = run
    made.all()
    benches = [line for line in machine.commands if "bench run gpu" in line]
    assert ["--resume" in line for line in benches] == [False, True, True] and states(made)["bench"] == "passed"


def test_a_neighbour_that_does_not_run_does_not_take_the_encoder_with_it(tmp_path: Path) -> None:
    def line(op: str, reason: str) -> dict:
        return {"test": f"t.py::test_x[{op}-False]", "state": "failed", "reason": reason}

    lines = [
        line("norm-wide", "AssertionError: triton does not run: CompilationError: at 3:4"),
        line("gated-odd", "AssertionError: triton: output 0: 2e-3"),
        line("mlstm-long", "AssertionError: triton does not run: OutOfResources"),
    ]
    machine = Machine({}, tests={"other ops": [(1, lines)]})
    made = check(tmp_path, machine)
    made.all()
    bench = next(e for line, e in zip(machine.commands, machine.environments) if "bench run gpu" in line)
    assert bench["XECG_UNPROVEN"] == "1,-triton/norm"
    assert "without triton/norm" in next(step.told for step in made.steps if step.name == "bench")
    parity = next(e for e in machine.environments if "XECG_TOLD" in e)
    assert parity["XECG_UNPROVEN"] == "1"


def test_a_bench_that_does_not_get_on_is_left(tmp_path: Path) -> None:
    machine = Machine({"bench run": Done(7, "")})
    assert check(tmp_path, machine).all() == 1
    assert sum("bench run gpu" in line for line in machine.commands) == 2


def test_what_is_known_is_kept_after_every_step(tmp_path: Path) -> None:
    made = check(tmp_path, Machine({}), XECG_COMMIT="abc")
    file = tmp_path / "out" / "gpu_check.json"
    seen: list[list[str]] = []

    def bench() -> tuple[str, str]:
        seen.append([step["name"] for step in json.loads(file.read_text())["steps"]])
        raise RuntimeError("a fault of the check itself")

    made.bench = bench  # type: ignore[method-assign]
    assert made.all() == 1
    assert "parity: slstm" in seen[0] and "install" in seen[0]
    kept = json.loads(file.read_text())
    assert kept["machine"]["gpu"] == "a fake GPU" and kept["machine"]["torch"] == "2.11" and kept["commit"] == "abc"
    states_ = {step["name"]: (step["state"], step["told"]) for step in kept["steps"]}
    assert states_["bench"] == ("failed", "RuntimeError: a fault of the check itself") and "memcheck" in states_


def test_some_steps_can_be_asked_for(tmp_path: Path) -> None:
    made = check(tmp_path, Machine({}), only=["parity"])
    assert made.all() == 0
    assert states(made)["parity"] == "passed"
    assert [states(made)[name] for name in ("bench", "memcheck", "racecheck", "table and roofline")] == ["not run"] * 4
    with pytest.raises(SystemExit):
        gpu_check.main(["--only", "parities"])


def _collected(*arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider", *arguments]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    return set(re.findall(r"^(tests/\S+::.+)$", out, re.MULTILINE))


def _takes(arguments: Sequence[str], test: str) -> bool:
    """Whether a part's files and its -k take a test: words of -k are looked for in its file's name and its own."""
    files = [word for word in arguments if word.endswith(".py")]
    words = arguments[arguments.index("-k") + 1] if "-k" in arguments else "test"
    names = test.rpartition("/")[2]
    return any(test.startswith(f"{file}::") for file in files) and Expression.compile(words).evaluate(
        lambda word, **_: word in names
    )


@pytest.mark.slow
def test_the_parts_together_are_every_test_of_a_gpu_once() -> None:
    every = _collected("tests")
    taken = {test: [name for name, arguments in PARTS.items() if _takes(arguments, test)] for test in every}
    assert not {test: parts for test, parts in taken.items() if len(parts) != 1}
    assert {parts[0] for parts in taken.values()} == set(PARTS)


_SUITE = """
import os, time
import pytest

def test_good(): pass

@pytest.mark.parametrize("n", [1, 2])
def test_bad(n): assert n == 1, "two is\\nnot one"

def test_skipped(): pytest.skip("no reason")

def test_ends_its_process(): os._exit(11)

def test_hangs(): time.sleep(60)

def test_after(): pass
"""


def test_the_plugin_tells_every_test_and_goes_on_after_one_that_ends_its_process(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(_SUITE)
    (tmp_path / "quick.py").write_text("from tests import told\ntold.LIMIT_S = 1.5\n")
    file = tmp_path / "told.jsonl"
    environment = {**os.environ, "XECG_TOLD": str(file), "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.told",
        "-p",
        "quick",
        "test_suite.py",
    ]
    statuses = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode for _ in range(3)
    ]
    assert statuses == [11, 1, 0]
    told = gpu_check._told(file)
    names = {test.partition("::")[2]: (line["state"], line.get("reason")) for test, line in told.items()}
    assert names["test_good"] == ("passed", "") and names["test_after"][0] == "passed"
    assert names["test_bad[2]"][0] == "failed" and names["test_bad[2]"][1].startswith("AssertionError: two is not one")
    assert names["test_skipped"] == ("skipped", "Skipped: no reason")
    for ended in ("test_ends_its_process", "test_hangs"):
        assert names[ended][0] == "failed" and "ended its process" in names[ended][1]


def test_the_plugin_stops_where_the_gpu_answers_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests import told

    def gone() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    monkeypatch.setenv("XECG_TOLD", str(tmp_path / "told"))
    report = pytest.TestReport("t", ("f", 1, "t"), {}, "failed", "boom", "call", duration=0.1)
    monkeypatch.setattr(told, "_reports", [report])
    with pytest.raises(pytest.exit.Exception) as stopped:
        told.pytest_runtest_logfinish("t")
    assert stopped.value.returncode == told.BROKEN
    assert gpu_check._told(tmp_path / "told")["t"]["state"] == "failed"


def test_no_command_gets_more_time_than_is_left(tmp_path: Path) -> None:
    machine = Machine({})
    made = check(tmp_path, machine, limit_s=18.0)
    assert made.all() == 0
    assert machine.limits == [3.0, 2.0, 1.0]
    assert [step.told for step in made.steps[3:] if step.state == "not run"][:4] == ["no time left"] * 4


def test_each_wheel_of_a_peer_is_installed_apart(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("a-1-py3-none-any.whl", "b-1-py3-none-any.whl"):
        (wheels / name).touch()
    machine = Machine({"a-1-py3": Done(1, "not a wheel")})
    made = check(tmp_path, machine, XECG_PEER_WHEELS=str(wheels))
    assert made.carried() == ("passed", "1 of 2 wheels installed; refused: a-1-py3-none-any.whl")
    assert check(tmp_path, machine, XECG_PEER_WHEELS=str(tmp_path)).carried() == ("not run", f"no wheel in {tmp_path}")


@pytest.mark.parametrize(
    ("status", "output", "state", "told"),
    [
        (0, "1 passed in 9s\n========= ERROR SUMMARY: 0 errors", "passed", "0 errors, 1 passed"),
        (9, "1 failed in 9s\n========= ERROR SUMMARY: 1 error", "failed", "1 errors, 1 failed"),
        (0, "1 passed in 9s\n========= RACECHECK SUMMARY: 3 hazards displayed (3 errors)", "failed", "3 errors, 1 passed"),
        (1, "========= Device not supported. Please refer to the manual", "not run", "Device not supported"),
        (0, "1 skipped in 1s\n========= ERROR SUMMARY: 0 errors", "not run", "no verdict"),
        (None, "", "not run", "time limit"),
        (1, "", "not run", "exit status 1"),
    ],
)  # fmt: skip
def test_a_memory_checker_that_saw_nothing_did_not_pass(status: int | None, output: str, state: str, told: str) -> None:
    found = sanitizer_verdict(Done(status, output))
    assert found[0] == state and told in found[1]


def test_closing_lines_of_pytest_are_read() -> None:
    assert pytest_counts("x 3 passed\n2 failed, 14 passed, 1 skipped in 3.20s\n") == {
        "failed": 2, "passed": 14, "skipped": 1,
    }  # fmt: skip
    assert pytest_counts("Traceback") == {}


def test_the_summary_has_a_line_a_step() -> None:
    lines = summary([Step("install", "passed", "fine", 61.0), Step("bench", "not run", "no GPU")]).splitlines()
    assert lines == ["passed   install   61.0 s  fine", "not run  bench      0.0 s  no GPU"]


def test_a_command_is_ended_at_its_limit_and_its_output_kept(tmp_path: Path) -> None:
    code = "import time; print('begun', flush=True); time.sleep(60)"
    done = gpu_check.execute([sys.executable, "-c", code], tmp_path, {}, 2.0)
    assert done == Done(None, "begun\n")


def test_it_starts_without_any_installed_package() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bench.gpu_check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
