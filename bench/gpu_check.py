"""`make gpu-check`: everything that a machine with an NVIDIA GPU can say about this tree, in one command and under ten minutes.

Installs the tree as a user would, without network (`--no-build-isolation --no-deps`), into a folder of its own; then the parity tests,
compute-sanitizer on small calls, the bench suite `gpu` beside the peers that are there, a table and a roofline. Peers come from the
wheels in XECG_PEER_WHEELS, when it is set. Without a GPU it says so and does what needs none: the build with nvcc, the import, the
tests of the host. Exit status 0 only when nothing failed; a bar that is missed is listed, it is no failure. Needs only the standard
library to start. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Check", "Step", "main", "pytest_counts", "sanitizer_verdict", "summary"]

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 570.0
_KEPT_S = 15.0  # for the table, the roofline and the summary
_TOOLS = ("torch", "pybind11", "setuptools", "wheel", "pytest", "numpy", "scipy", "click")
_PROGRAMS = ("cmake", "nvcc")
_HOST_TESTS = (
    "tests/ops",
    "tests/signal/test_frontend_device.py",
    "tests/test_bench_gpu.py",
    "tests/test_gpu_check.py",
)
_FACTS = """
import json, torch
gpu = torch.cuda.is_available()
facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name() if gpu else ""}
facts["capability"] = list(torch.cuda.get_device_capability()) if gpu else []
print(json.dumps(facts))
"""
_IMPORT = """
import xecg, xecg._cpu, xecg._cuda
from pathlib import Path
assert Path(xecg.__file__).is_relative_to({site!r}), xecg.__file__
print(f"{{Path(xecg.__file__).parent}}: {{xecg._cuda.device_count()}} CUDA devices")
"""

Run = Callable[[Sequence[str], Path, dict[str, str], float], "Done"]


@dataclass(frozen=True)
class Done:
    """A finished command: exit status (None: stopped at its limit) and what it printed."""

    status: int | None
    output: str


@dataclass(frozen=True)
class Step:
    """One line of the summary. state: "passed", "failed" or "not run"; told: figures or the reason."""

    name: str
    state: str
    told: str
    seconds: float = 0.0


def execute(command: Sequence[str], folder: Path, environment: dict[str, str], limit_s: float) -> Done:
    """Run a command with its output shown and kept; it and its children are ended at the limit."""
    print(f"\n$ {' '.join(command)}", flush=True)
    started = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=max(limit_s, 1.0))
        status: int | None = started.returncode
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, 9)
        output, _ = started.communicate()
        status = None
    print(output[-6000:], flush=True)
    return Done(status, output)


def pytest_counts(output: str) -> dict[str, int]:
    """Numbers of pytest's closing line: {"passed": 12, "skipped": 1}; empty when there is none."""
    for line in reversed(output.splitlines()):
        found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped|deselected)", line)}
        if found and " in " in line:
            return found
    return {}


def sanitizer_verdict(done: Done) -> tuple[str, str]:
    """(state, told) of a compute-sanitizer run: it ran only when it printed its summary and the tests under it ended."""
    summary = re.search(r"(?:ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: (\d+) hazards? displayed.*)", done.output)
    counts = pytest_counts(done.output)
    if done.status is None:
        return "not run", "stopped at its time limit"
    if not summary or not (counts.get("passed") or counts.get("failed")):
        said = next(
            (line for line in reversed(done.output.splitlines()) if "====" in line and "SUMMARY" not in line), ""
        )
        return "not run", said.strip("= ").strip() or f"no verdict, exit status {done.status}"
    errors = int(summary[1] or summary[2])
    return ("failed" if errors or done.status else "passed"), f"{errors} errors, {_counted(counts)}"


def summary(steps: Sequence[Step]) -> str:
    """The steps as aligned lines."""
    width = max((len(step.name) for step in steps), default=0)
    lines = [f"{step.state:8s} {step.name:{width}s} {step.seconds:6.1f} s  {step.told}" for step in steps]
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts.items()) or "no test ran"


class Check:
    """The steps, one after the other, with what is left of the time. `run` is `execute`, or a fake of it in the tests."""

    def __init__(
        self,
        work: Path,
        out: Path,
        *,
        run: Run = execute,
        clock: Callable[[], float] = time.monotonic,
        limit_s: float = LIMIT_S,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.work, self.out, self.run, self.clock = work, out, run, clock
        self.site, self.peers, self.tree = work / "site", work / "peers", work / "tree"
        self.end = clock() + limit_s
        self.environment = dict(os.environ if environment is None else environment)
        self.environment.setdefault("XECG_SEED", str(int(time.time())))
        self.environment["XECG_UNPROVEN"] = "1"
        self.steps: list[Step] = []

    def left(self) -> float:
        """Seconds for the next command."""
        return self.end - _KEPT_S - self.clock()

    def add(self, name: str, work: Callable[[], tuple[str, str]]) -> bool:
        """Run one step, unless the time is up; whether it passed."""
        begin = self.clock()
        state, told = ("not run", "no time left") if self.left() <= 0 else work()
        self.steps.append(Step(name, state, told, self.clock() - begin))
        return state == "passed"

    def python(self, *arguments: str, limit_s: float = 1e9, **environment: str) -> Done:
        """This interpreter in the copied tree, with the installed package and the peers before everything else."""
        path = os.pathsep.join(str(p) for p in (self.site, self.peers) if p.exists())
        given = {**self.environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return self.run([sys.executable, *arguments], self.tree, given, min(limit_s, self.left()))

    def tools(self) -> tuple[str, str]:
        """What must be there before anything is built."""
        missing = [name for name in _TOOLS if importlib.util.find_spec(name) is None]
        # cmake and ninja that pip installed stand beside this Python (setup.py looks there too).
        beside = f"{Path(sys.executable).parent}{os.pathsep}{self.environment.get('PATH', '')}"
        missing += [name for name in _PROGRAMS if not shutil.which(name, path=beside)]
        return (
            ("failed", f"missing: {', '.join(missing)}") if missing else ("passed", f"Python {sys.version.split()[0]}")
        )

    def install(self) -> tuple[str, str]:
        """`pip install --no-build-isolation --no-deps --target`; what tests need is copied to where no source shadows it."""
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        for name in ("tests", "bench", "csrc"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, self.tree / name)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
        environment = {**self.environment, "XECG_BUILD": "cuda", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        done = self.run([*command, "--target", str(self.site), str(ROOT)], ROOT, environment, self.left())
        if done.status != 0:
            return "failed", "pip: " + (_last(done.output) or f"exit status {done.status}")
        done = self.python("-c", _IMPORT.format(site=str(self.site)))
        return ("passed" if done.status == 0 else "failed"), _last(done.output)

    def carried(self) -> tuple[str, str]:
        """Every wheel of XECG_PEER_WHEELS apart, so that one that does not fit costs only itself."""
        folder = self.environment.get("XECG_PEER_WHEELS")
        wheels = sorted(Path(folder).glob("*.whl")) if folder else []
        if not wheels:
            return (
                "not run",
                f"no wheel in {folder}" if folder else "XECG_PEER_WHEELS is not set: peers are those installed",
            )
        shutil.rmtree(self.peers, ignore_errors=True)
        failed = []
        for wheel in wheels:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-index",
                "--no-deps",
                "--target",
                str(self.peers),
            ]
            if self.run([*command, str(wheel)], ROOT, self.environment, self.left()).status != 0:
                failed.append(wheel.name)
        told = f"{len(wheels) - len(failed)} of {len(wheels)} wheels installed"
        return "passed", told + (f"; refused: {', '.join(failed)}" if failed else "")

    def pytest(self, *arguments: str, limit_s: float = 1e9) -> tuple[str, str]:
        """pytest without a cache and, where pytest-xdist is there, six at a time."""
        spread = (
            ["-n", "6", "--dist", "load"] if importlib.util.find_spec("xdist") and (os.cpu_count() or 1) > 6 else []
        )
        done = self.python("-m", "pytest", "-p", "no:cacheprovider", *spread, *arguments, limit_s=limit_s)
        counts = pytest_counts(done.output)
        if done.status is None:
            return "failed", f"stopped at its time limit; XECG_SEED={self.environment['XECG_SEED']}"
        good = done.status == 0 and counts.get("passed", 0) > 0
        return ("passed" if good else "failed"), f"{_counted(counts)}; XECG_SEED={self.environment['XECG_SEED']}"

    def sanitize(self, tool: str) -> tuple[str, str]:
        """compute-sanitizer over one small test; every allocation is the driver's own, so that its ends are known."""
        program = shutil.which("compute-sanitizer")
        if not program:
            return "not run", "compute-sanitizer is not on PATH"
        path = os.pathsep.join(str(p) for p in (self.site, self.peers) if p.exists())
        environment = {**self.environment, "PYTHONPATH": path, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-m", "gpu"]
        command += ["-p", "no:cacheprovider", "tests/ops/test_gpu.py", "-k", "memory_checkers"]
        return sanitizer_verdict(self.run(command, self.tree, environment, min(90.0, self.left())))

    def bench(self) -> tuple[str, str]:
        """The suite; what it wrote counts even when it was stopped."""
        file = self.out / "gpu.json"
        file.unlink(missing_ok=True)
        done = self.python("-m", "bench", "run", "gpu", "--seconds", "0.3", "--json", str(file))
        if not file.exists():
            return "failed", _last(done.output) or "nothing was measured"
        rows = json.loads(file.read_text())["rows"]
        failed = [row["id"] for row in rows if "failed" in row]
        barred = [row for row in rows if row["met"] is not None]
        told = f"{len(rows)} rows, {sum(row['met'] for row in barred)} of {len(barred)} judged bars met"
        told += f"; failed: {', '.join(failed)}" if failed else ""
        if done.status is None:
            return "failed", told + "; stopped at its time limit, later entries not measured"
        return ("failed" if failed or done.status else "passed"), told

    def tables(self) -> tuple[str, str]:
        """gpu.md and gpu.svg beside gpu.json."""
        file = self.out / "gpu.json"
        if not file.exists():
            return "not run", "no rows"
        code = "import json, sys; from bench.readme import gpu_table; print(gpu_table(json.load(open(sys.argv[1]))))"
        table = self.python("-c", code, str(file), limit_s=60)
        (self.out / "gpu.md").write_text(table.output)
        drawn = self.python("-m", "bench", "roofline", str(file), "-o", str(self.out / "gpu.svg"), limit_s=60)
        good = table.status == 0 and drawn.status == 0
        return ("passed" if good else "failed"), f"{self.out / 'gpu.md'}, {self.out / 'gpu.svg'}"

    def all(self) -> int:
        """Every step that this machine can do, the summary, and the exit status."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.add("tools", self.tools):
            facts = self.run([sys.executable, "-c", _FACTS], self.work, self.environment, self.left())
            known = json.loads(_last(facts.output)) if facts.status == 0 else {"gpu": "", "torch": "?", "cuda": None}
            if self.add("install", self.install):
                (self._with_gpu if known["gpu"] else self._without_gpu)(known)
        print(f"\n{summary(self.steps)}", flush=True)
        return 1 if any(step.state == "failed" for step in self.steps) else 0

    def _with_gpu(self, known: dict) -> None:
        print(f"{known['gpu']}, compute capability {known['capability']}, torch {known['torch']}", flush=True)
        self.add("peers", self.carried)
        self.add("parity", lambda: self.pytest("-m", "gpu", "tests", limit_s=240))
        for tool in ("memcheck", "racecheck"):
            self.add(tool, lambda tool=tool: self.sanitize(tool))  # type: ignore[misc]
        self.add("bench", self.bench)
        self.end += _KEPT_S
        self.add("table and roofline", self.tables)

    def _without_gpu(self, known: dict) -> None:
        why = "has no CUDA" if not known["cuda"] else "finds no NVIDIA GPU"
        print(
            f"No GPU here (torch {known['torch']} {why}): built, imported and tested as far as the host can.",
            flush=True,
        )
        self.add("host tests", lambda: self.pytest(*_HOST_TESTS))
        for name in ("parity", "memcheck", "racecheck", "bench"):
            self.steps.append(Step(name, "not run", "no GPU"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description="Build, test and measure on a GPU.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results", help="Folder of gpu.json, gpu.md, gpu.svg."
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-check", help="Folder to install into.")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="Time for everything.")
    given = parser.parse_args(arguments)
    return Check(given.work.resolve(), given.out.resolve(), limit_s=given.seconds).all()


def _last(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
