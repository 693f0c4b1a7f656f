"""`make gpu-check` as far as a machine without a GPU can tell: its steps, verdicts and exit status, with a fake of every command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import gpu_check
from bench.gpu_check import Check, Done, Step, pytest_counts, sanitizer_verdict, summary

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"id": "a", "met": True},
    {"id": "b", "met": False},
    {"id": "c", "met": None},
]


class Machine:
    """Answers commands by what they contain; remembers them, and moves the clock by a second each."""

    def __init__(self, answers: dict[str, Done], *, gpu: str = "a fake GPU", rows: list[dict] | None = None) -> None:
        facts = {"torch": "2.11", "cuda": "13.0", "gpu": gpu, "capability": [9, 0] if gpu else []}
        self.answers = {"get_device_name": Done(0, json.dumps(facts)), **answers}
        self.rows, self.now = ROWS if rows is None else rows, 0.0
        self.commands: list[str] = []
        self.environments: list[dict[str, str]] = []
        self.limits: list[float] = []

    def __call__(self, command: Sequence[str], folder: Path, environment: dict[str, str], limit_s: float) -> Done:
        line = " ".join(command)
        self.commands.append(line)
        self.environments.append(environment)
        self.limits.append(limit_s)
        self.now += 1.0
        if "bench run gpu" in line and self.rows:
            Path(command[-1]).write_text(json.dumps({"rows": self.rows}))
        answer = next((done for key, done in self.answers.items() if key in line), None)
        return answer or Done(0, "1 passed in 0.1s" if "pytest" in line else "fine")


def check(tmp_path: Path, machine: Machine, *, limit_s: float = 570.0, **environment: str) -> Check:
    return Check(
        tmp_path / "work",
        tmp_path / "out",
        run=machine,
        clock=lambda: machine.now,
        limit_s=limit_s,
        environment={"PATH": "/nowhere", **environment},
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
    made.install = lambda: ("passed", "")  # type: ignore[method-assign]
    made.all()
    for line, environment in zip(machine.commands, machine.environments):
        assert environment["XECG_SEED"] == "5"
        if "pytest" in line or "bench run" in line:
            assert environment["PYTHONPATH"].startswith(str(tmp_path / "work" / "site"))
        if "--tool" in line:
            assert environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"


@pytest.mark.parametrize(
    ("answers", "rows", "failed"),
    [
        ({"pip install": Done(1, "error: nvcc fatal")}, ROWS, {"install"}),
        ({"-m gpu tests": Done(1, "3 failed, 9 passed in 5s")}, ROWS, {"parity"}),
        ({"-m gpu tests": Done(5, "4 deselected in 5s")}, ROWS, {"parity"}),
        ({"-m gpu tests": Done(None, "half way")}, ROWS, {"parity"}),
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
    assert made.steps[0].told == "missing: cmake, nvcc"


def test_no_command_gets_more_time_than_is_left(tmp_path: Path) -> None:
    machine = Machine({})
    made = check(tmp_path, machine, limit_s=18.0)
    assert made.all() == 0
    assert machine.limits == [3.0, 2.0, 1.0]
    assert [step.told for step in made.steps[2:] if step.state == "not run"][:4] == ["no time left"] * 4


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
