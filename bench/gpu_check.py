"""`make gpu-check`: everything that a machine with an NVIDIA GPU can say about this tree, in one command and under ten minutes.

Installs the tree as a user would, without network (`--no-build-isolation --no-deps`), into a folder of its own; then the parity tests,
the bench suite `gpu` beside the peers that are there, compute-sanitizer on small calls, a table and a roofline. Peers, and tools that
the machine lacks, come from the wheels in XECG_PEER_WHEELS, when it is set. A part that fails costs itself: without nvcc, or where the
build fails, the Triton kernels are still tested; parity runs in processes of its own by op, and a test or an entry that ends its
process, or hangs, is one failure. All that is known is in gpu_check.json and gpu.json after every step. Without a GPU it says so and
does what needs none: the build with nvcc, the import, the tests of the host. Exit status 0 only when nothing failed; a bar that is
missed is listed, it is no failure. Needs only the standard library to start. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["PARTS", "Check", "Step", "main", "pytest_counts", "sanitizer_verdict", "summary"]

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 570.0
_KEPT_S = 15.0  # for the table, the roofline and the summary
_INSTALL_S, _PARITY_S, _CHECKERS_S = 240.0, 240.0, 60.0  # at most: the build; all parity tests; each memory checker
_TOOLS = ("torch", "pybind11", "setuptools", "wheel", "pytest", "numpy", "scipy", "click")
_BROKEN = 7  # exit status of tests.told and bench.gpu_run: another process must go on
STEPS = ("parity", "bench", "memcheck", "racecheck")
# Ops whose kernels the benches of the encoder can do without: one that does not run there would take the encoder's rows with it.
_SPARE = ("norm", "gated", "linear", "causal_conv1d")
# Parity, in processes that run beside each other: most of their time goes into compiling. Together every test marked gpu, each once,
# by the names of their files: those of other tests may need packages that the machine lacks.
_GPU = "tests/ops/test_gpu.py"
PARTS: dict[str, tuple[str, ...]] = {
    "mlstm float32": (_GPU, "-k", "mlstm and (every_serving or every_shape)"),
    "mlstm short types": (_GPU, "-k", "mlstm and short_types"),
    "mlstm steps and bits": (_GPU, "-k", "mlstm and not (every_serving or every_shape or short_types)"),
    "slstm": (_GPU, "tests/ops/test_cuda_slstm_gpu.py", "-k", "slstm"),
    "other ops": (_GPU, "-k", "not mlstm and not slstm"),
    "encoder and front end": ("tests/model/test_captured.py", "tests/signal/test_frontend_device.py"),
}
_HOST_TESTS = (
    "tests/ops",
    "tests/model/test_captured.py",
    "tests/signal/test_frontend_device.py",
    "tests/test_bench_gpu.py",
    "tests/test_gpu_check.py",
)
_FACTS = """
import json, platform, torch
gpu = torch.cuda.is_available()
facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name() if gpu else ""}
facts["capability"] = list(torch.cuda.get_device_capability()) if gpu else []
facts["python"] = platform.python_version()
try:
    import triton
    facts["triton"] = triton.__version__
except Exception as error:
    facts["triton"] = f"does not import: {error}"
print(json.dumps(facts))
"""
_IMPORT = """
import xecg, {modules}
from pathlib import Path
assert Path(xecg.__file__).is_relative_to({site!r}), xecg.__file__
print(Path(xecg.__file__).parent, {said})
"""

_SERVING = """
import json, torch
from xecg import ops
from xecg.ops._dispatch import OPS
print(json.dumps({op: ops.backends(op, "cuda", torch.bfloat16) for op in OPS}))
"""
_WANTED = {
    "mlstm": "triton",
    "slstm": "cuda",
    "causal_conv1d": "cuda",
    "linear": "triton",
    "gated": "triton",
    "norm": "triton",
}

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
    """The steps, one after the other, with what is left of the time. `run` is `execute`, or a fake of it in the tests.

    only: which of `STEPS` to take, where one machine is rented several times.
    """

    def __init__(
        self,
        work: Path,
        out: Path,
        *,
        run: Run = execute,
        clock: Callable[[], float] = time.monotonic,
        limit_s: float = LIMIT_S,
        environment: dict[str, str] | None = None,
        only: Sequence[str] = STEPS,
    ) -> None:
        self.work, self.out, self.run, self.clock, self.only = work, out, run, clock, only
        self.site, self.peers, self.tree = work / "site", work / "peers", work / "tree"
        self.end = clock() + limit_s
        self.environment = dict(os.environ if environment is None else environment)
        self.environment.setdefault("XECG_SEED", str(int(time.time())))
        self.environment.setdefault("TRITON_CACHE_DIR", str(work / "triton"))
        # Tools that a carried wheel or pip put beside this Python serve also where their folder is not on PATH.
        # The toolkit's programs, too, where it is installed and not on PATH.
        homes = [self.environment.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
        beside = [str(self.peers / "bin"), str(Path(sys.executable).parent), self.environment.get("PATH", "")]
        self.environment["PATH"] = os.pathsep.join([*beside, *(f"{home}/bin" for home in homes if home)])
        self.environment["XECG_UNPROVEN"] = "1"
        self.known: dict = {"gpu": "", "torch": "?", "cuda": None, "capability": []}
        self.steps: list[Step] = []
        self.failures: list[dict[str, str]] = []

    def left(self) -> float:
        """Seconds for the next command."""
        return self.end - _KEPT_S - self.clock()

    def add(self, name: str, work: Callable[[], tuple[str, str]]) -> bool:
        """Run one step, unless the time is up or it was not asked for; whether it passed."""
        begin = self.clock()
        if name in STEPS and name not in self.only:
            state, told = "not run", "not asked for"
        elif self.left() <= 0:
            state, told = "not run", "no time left"
        else:
            try:
                state, told = work()
            except Exception as error:  # of this program itself: the other steps are worth having
                state, told = "failed", f"{type(error).__name__}: {error}"
        self.steps.append(Step(name, state, told, self.clock() - begin))
        self.keep()
        return state == "passed"

    def keep(self) -> None:
        """What is known so far, beside the other results."""
        self.out.mkdir(parents=True, exist_ok=True)
        told = {
            "machine": self.known,
            "seed": self.environment["XECG_SEED"],
            "commit": self.environment.get("XECG_COMMIT", "unknown"),
        }
        told |= {"steps": [asdict(step) for step in self.steps], "failures": self.failures}
        (self.out / "gpu_check.json").write_text(json.dumps(told, indent=1) + "\n")

    def python(self, *arguments: str, limit_s: float = 1e9, **environment: str) -> Done:
        """This interpreter in the copied tree, with the installed package and the peers before everything else."""
        path = os.pathsep.join(str(p) for p in (self.site, self.peers) if p.exists())
        given = {**self.environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return self.run([sys.executable, *arguments], self.tree, given, min(limit_s, self.left()))

    def tools(self) -> tuple[str, str]:
        """What must be there before anything is built. nvcc is no such thing: without it the Triton kernels remain."""
        path = [str(self.peers), *sys.path]
        missing = [name for name in _TOOLS if PathFinder.find_spec(name, path) is None]
        missing += [name for name in ("cmake",) if not shutil.which(name, path=self.environment["PATH"])]
        return (
            ("failed", f"missing: {', '.join(missing)}") if missing else ("passed", f"Python {sys.version.split()[0]}")
        )

    def copied(self) -> None:
        """What the tests need, where no source shadows what is installed."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        for name in ("tests", "bench", "csrc"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, self.tree / name)

    def install(self, build: str) -> tuple[str, str]:
        """`pip install --no-build-isolation --no-deps --target`; build: as XECG_BUILD. CUDA code for the GPU that is here alone."""
        if build == "cuda" and not shutil.which("nvcc", path=self.environment["PATH"]):
            return "failed", "nvcc is not on PATH"
        shutil.rmtree(self.site, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
        environment = {**self.environment, "XECG_BUILD": build, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if self.peers.exists():
            environment["PYTHONPATH"] = str(self.peers)
        if self.known["capability"]:
            environment.setdefault("XECG_CUDA_ARCHS", "{}{}-real".format(*self.known["capability"]))
        limit = min(_INSTALL_S, self.left())
        done = self.run([*command, "--target", str(self.site), str(ROOT)], ROOT, environment, limit)
        if done.status is None:
            return "failed", f"pip: not done after {limit:.0f} s"
        if done.status != 0:
            return "failed", "pip: " + (_last(done.output) or f"exit status {done.status}")
        modules = "xecg._cpu, xecg._cuda" if build == "cuda" else "xecg._cpu"
        said = "xecg._cuda.device_count(), 'CUDA devices'" if build == "cuda" else "'without CUDA'"
        done = self.python("-c", _IMPORT.format(site=str(self.site), modules=modules, said=said))
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
        pip = [
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
        for wheel in wheels:
            if self.run([*pip, str(wheel)], ROOT, self.environment, min(60.0, self.left())).status != 0:
                failed.append(wheel.name)
        told = f"{len(wheels) - len(failed)} of {len(wheels)} wheels installed"
        return "passed", told + (f"; refused: {', '.join(failed)}" if failed else "")

    def pytest(self, *arguments: str) -> tuple[str, str]:
        """Tests of the host, in one process."""
        done = self.python("-m", "pytest", "-p", "no:cacheprovider", *arguments)
        counts = pytest_counts(done.output)
        if done.status is None:
            return "failed", f"stopped at its time limit; XECG_SEED={self.environment['XECG_SEED']}"
        good = done.status == 0 and counts.get("passed", 0) > 0
        return ("passed" if good else "failed"), f"{_counted(counts)}; XECG_SEED={self.environment['XECG_SEED']}"

    def parity(self) -> tuple[str, str]:
        """Every part of `PARTS`, beside each other; a step of the summary each."""
        end = self.clock() + min(_PARITY_S, self.left())

        def timed(name: str) -> Step:
            begin = self.clock()
            try:
                state, told = self.part(name, end)
            except Exception as error:
                state, told = "failed", f"{type(error).__name__}: {error}"
            return Step(f"parity: {name}", state, told, self.clock() - begin)

        with ThreadPoolExecutor(max(1, min(len(PARTS), (os.cpu_count() or 1) // 2))) as pool:
            found = list(pool.map(timed, PARTS))
        self.steps += found
        failed = [step.name for step in found if step.state != "passed"]
        told = f"{len(found) - len(failed)} of {len(found)} parts passed; XECG_SEED={self.environment['XECG_SEED']}"
        return ("failed" if failed else "passed"), told

    def part(self, name: str, end: float) -> tuple[str, str]:
        """One part, in as many processes as its tests end. What they said is in a file as they go (tests/told.py)."""
        file = self.work / f"told {name}.jsonl"
        file.unlink(missing_ok=True)
        options = ("-p", "no:cacheprovider", "-p", "tests.told", "-m", "gpu", "--continue-on-collection-errors")
        while True:
            done = self.python("-m", "pytest", *options, *PARTS[name], limit_s=end - self.clock(), XECG_TOLD=str(file))
            told = _told(file)
            started = [test for test, line in told.items() if line["state"] == "started"]
            if done.status is None or not (started or done.status == _BROKEN) or self.clock() >= end:
                break
        counts = {
            state: sum(line["state"] == state for line in told.values()) for state in ("passed", "failed", "skipped")
        }
        self.failures += [
            {"part": name, "test": test, "reason": line.get("reason", "") or "ran when the time was up"}
            for test, line in told.items()
            if line["state"] in ("failed", "started")
        ]
        said = _counted({state: n for state, n in counts.items() if n})
        if done.status is None:
            return "failed", f"{said}; stopped at its time limit"
        if not told and done.status != 0:
            return "failed", f"no test ran: {_last(done.output)}"
        good = not counts["failed"] and not started and counts["passed"] and done.status == 0
        return ("passed" if good else "failed"), said

    def sanitize(self, tool: str) -> tuple[str, str]:
        """compute-sanitizer over one small test; every allocation is the driver's own, so that its ends are known."""
        program = shutil.which("compute-sanitizer", path=self.environment["PATH"])
        if not program:
            return "not run", "compute-sanitizer is not on PATH"
        path = os.pathsep.join(str(p) for p in (self.site, self.peers) if p.exists())
        environment = {**self.environment, "PYTHONPATH": path, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-m", "gpu"]
        command += ["-p", "no:cacheprovider", "tests/ops/test_gpu.py", "-k", "memory_checkers"]
        return sanitizer_verdict(self.run(command, self.tree, environment, min(_CHECKERS_S, self.left())))

    def serving(self) -> tuple[str, str]:
        """Which kernels there are at all: a parity test of one that does not serve would pass without having asked it."""
        done = self.python("-c", _SERVING)
        if done.status != 0:
            return "failed", _last(done.output)
        told = _json(done.output)
        reasons = {f"{op}: {backend}": told[op][backend] for op, backend in _WANTED.items()}
        absent = [f"{name} ({reason})" for name, reason in reasons.items() if reason]
        return ("failed", "; ".join(absent)) if absent else ("passed", ", ".join(reasons))

    def broken(self) -> list[str]:
        """Kernels of `_SPARE` that did not run in the parity tests, as "backend/op"."""
        found = set()
        for failure in self.failures:
            match = re.search(r"(\w+) does not run: ", failure["reason"])
            op = next((op for op in _SPARE if re.search(rf"\[.*\b{op}\b.*\]", failure["test"])), None)
            if match and op:
                found.add(f"{match[1]}/{op}")
        return sorted(found)

    def bench(self) -> tuple[str, str]:
        """The suite, in as many processes as its entries end; what it wrote counts even when it was stopped."""
        file = self.out / "gpu.json"
        file.unlink(missing_ok=True)
        later = sum(_CHECKERS_S for tool in ("memcheck", "racecheck") if tool in self.only) / 2
        broken = self.broken()
        end, resume, result = self.clock() + self.left() - later, [], {"rows": []}
        while True:
            command = ["-m", "bench", "run", "gpu", "--seconds", "0.3", *resume, "--json", str(file)]
            done = self.python(*command, limit_s=end - self.clock(), XECG_UNPROVEN=",-".join(["1", *broken]))
            if not file.exists():
                return "failed", _last(done.output) or "nothing was measured"
            before, result = len(result["rows"]), json.loads(file.read_text())
            again = done.status == _BROKEN or "running" in result
            stuck = bool(resume) and len(result["rows"]) == before
            if done.status is None or not again or stuck or self.clock() >= end:
                break
            resume = ["--resume"]
        rows = result["rows"]
        self.failures += [{"part": "bench", "test": r["id"], "reason": r["failed"]} for r in rows if "failed" in r]
        failed = [row["id"] for row in rows if "failed" in row]
        barred = [row for row in rows if row["met"] is not None]
        told = f"{len(rows)} rows, {sum(row['met'] for row in barred)} of {len(barred)} judged bars met"
        told += f"; failed: {', '.join(failed)}" if failed else ""
        told += f"; without {', '.join(broken)}, which did not run" if broken else ""
        if done.status is None:
            return "failed", f"{told}; stopped at its time limit in {result.get('running', 'the last entry')}"
        return ("failed" if failed or done.status else "passed"), told

    def tables(self) -> tuple[str, str]:
        """gpu.md and gpu.svg beside gpu.json."""
        file = self.out / "gpu.json"
        if "bench" not in self.only or not file.exists():
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
        self.environment.setdefault("XECG_COMMIT", _commit())
        self.add("peers", self.carried)
        if self.add("tools", self.tools):
            facts = self.run([sys.executable, "-c", _FACTS], self.work, self.environment, self.left())
            self.known |= _json(facts.output) if facts.status == 0 else {}
            self.copied()
            if self.add("install", lambda: self.install("cuda")) or self.add(
                "install without CUDA", lambda: self.install("cpu")
            ):
                (self._with_gpu if self.known["gpu"] else self._without_gpu)()
        self.keep()
        for failure in self.failures:
            print("FAILED {part}: {test}\n    {reason}".format(**failure), flush=True)
        print(f"\n{summary(self.steps)}", flush=True)
        return 1 if any(step.state == "failed" for step in self.steps) else 0

    def _with_gpu(self) -> None:
        print("{gpu}, compute capability {capability}, torch {torch}".format(**self.known), flush=True)
        self.add("kernels", self.serving)
        self.add("parity", self.parity)
        self.add("bench", self.bench)
        for tool in ("memcheck", "racecheck"):
            self.add(tool, lambda tool=tool: self.sanitize(tool))  # type: ignore[misc]
        self.end += _KEPT_S
        self.add("table and roofline", self.tables)

    def _without_gpu(self) -> None:
        why = "has no CUDA" if not self.known["cuda"] else "finds no NVIDIA GPU"
        print(
            f"No GPU here (torch {self.known['torch']} {why}): built, imported and tested as far as the host can.",
            flush=True,
        )
        self.add("host tests", lambda: self.pytest(*_HOST_TESTS))
        for name in STEPS:
            self.steps.append(Step(name, "not run", "no GPU"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description="Build, test and measure on a GPU.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results", help="Folder of gpu.json, gpu.md, gpu.svg."
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-check", help="Folder to install into.")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="Time for everything.")
    parser.add_argument("--only", default=",".join(STEPS), help="Of parity,bench,memcheck,racecheck, with commas.")
    given = parser.parse_args(arguments)
    only = given.only.split(",")
    if set(only) - set(STEPS):
        parser.error(f"--only is {given.only}; needed some of {','.join(STEPS)}")
    return Check(given.work.resolve(), given.out.resolve(), limit_s=given.seconds, only=only).all()


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _told(file: Path) -> dict[str, dict]:
    """The last line of each test; the very last line of the file may be cut."""
    found = {}
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["test"]] = line
    return found


def _json(output: str) -> dict:
    """The last line that is an object: warnings may stand before and after it."""
    for line in reversed(output.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _last(output: str) -> str:
    return next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
