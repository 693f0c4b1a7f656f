"""How a figure is made: correctness first, both sides interleaved in one process, minima, ceilings of the same run.

Time is the CPU's, on a GPU that between two events of its stream (`bench.device`).
"""

from __future__ import annotations

import datetime
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "ROOT", "Bench", "Ceilings", "Clock", "Measure", "ceilings", "failed_row", "measure", "set_threads", "speedup", "value_row",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
_SLOW_S = 2.0
_SHORT_S = 0.02
_TURN_CALLS = 4
_PEER_LIMIT_S = 90  # of compiling and a first call: a peer that needs longer does not run

Clock = Callable[[Callable[[], object]], tuple[float, float]]  # (wall, working) seconds of one call


@dataclass(frozen=True)
class Bench:
    """One row of a table.

    run: ours. check: raises when ours is wrong. peers: name → the same work by somebody else; against: how the names of those
    begin whose fastest is the peer of the ratio, where not every peer does the whole work. makers: peers that may not run here,
    name → makes such a function; what one raises is kept as the reason. flops, bytes: of the work itself. bound: "gemm" or
    "copy", the ceiling that it is set against, or "floor", the one of the two that needs longer. bar, aim: what `score` must
    reach; score is "ratio" (peer's time over ours), "ceiling" (part of the ceiling) or "time" (s, at most). device: "cpu" or
    "cuda"; backend: what serves `run`. turn: lower ones run first on a machine that is rented for minutes.
    """

    id: str
    op: str
    shape: str
    dtype: str
    run: Callable[[], object]
    check: Callable[[], None]
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    flops: float = 0.0
    bytes: float = 0.0
    bound: str = "copy"
    score: str = "ratio"
    bar: float | None = None
    aim: float | None = None
    threads: int = 1
    against: str = ""
    makers: dict[str, Callable[[], Callable[[], object]]] = field(default_factory=dict)
    device: str = "cpu"
    backend: str = "cpu"
    turn: int = 0


@dataclass(frozen=True)
class Measure:
    """One row that is a value and not a ratio of times: a memory peak, a latency percentile, a sensitivity.

    run: the value, in `unit`; it raises where the work was wrong. bar, aim: a lower bound, or an upper one with `at_most`.
    peers: name → the same figure of somebody else's work, shown beside it.
    """

    id: str
    op: str
    shape: str
    unit: str
    run: Callable[[], float]
    peers: dict[str, Callable[[], float]] = field(default_factory=dict)
    bar: float | None = None
    aim: float | None = None
    at_most: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Ceilings:
    """What this machine does in this run: matrix products (flop/s) in `gemm_dtype` and large copies (bytes moved per second)."""

    gemm: float
    copy: float
    gemm_dtype: str = "float32"


def _cpu_time(f: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    return time.perf_counter() - wall, time.process_time() - cpu


def minima(
    functions: dict[str, Callable[[], object]], seconds: float, clock: Clock = _cpu_time
) -> dict[str, tuple[float, float]]:
    """(wall, working) minima of each function, run in turns until each had its share of `seconds` and five turns.

    A turn of a short function is `_TURN_CALLS` measurements, so that each side finds its own data where its previous call left them,
    as in a loop, and not what the other side left; the shortest functions are repeated inside a measurement. A function that takes
    longer than `_SLOW_S` has two turns in all.
    """
    repeats, turns, best = {}, {}, {}
    for name, f in functions.items():
        best[name] = clock(f)
        turns[name] = 1
        if best[name][0] < _SLOW_S:  # the first call was warming up
            best[name] = clock(f)
            turns[name] = 5
        repeats[name] = max(1, int(2e-3 / max(best[name][0], 1e-9)))
    end = time.perf_counter() + seconds * len(functions)
    rounds = 0
    while rounds < max(turns.values()) or time.perf_counter() < end:
        for name, f in functions.items():
            if rounds >= turns[name] and best[name][0] >= _SLOW_S:
                continue
            n = repeats[name]
            for _ in range(_TURN_CALLS if best[name][0] < _SHORT_S else 1):
                wall, working = clock(lambda f=f, n=n: [f() for _ in range(n)])  # type: ignore[misc]
                best[name] = (min(best[name][0], wall / n), min(best[name][1], working / n))
        rounds += 1
    return best


def speedup(run: Callable[[], object], threads: int, *, seconds: float = 2.0) -> float:
    """Wall time of `run` on one thread over that on `threads`."""

    def on(n: int) -> Callable[[], None]:
        def turn() -> None:
            set_threads(n)
            run()

        return turn

    best = minima({"one": on(1), "many": on(threads)}, seconds)
    return best["one"][0] / best["many"][0]


def ceilings(threads: int) -> Ceilings:
    """Measured with PyTorch's own matrix product and copy on this many threads; wall time, so that threads count."""
    torch.set_num_threads(threads)
    a, b = torch.randn(1280, 1024), torch.randn(1024, 4096)
    c, d = torch.randn(2048, 2048), torch.randn(2048, 2048)
    source = torch.randn(1 << 24)
    target = torch.empty_like(source)
    best = minima({"wide": lambda: a @ b, "square": lambda: c @ d, "copy": lambda: target.copy_(source)}, 1.0)
    gemm = max(2 * 1280 * 1024 * 4096 / best["wide"][0], 2 * 2048**3 / best["square"][0])
    return Ceilings(gemm, 2 * source.numel() * 4 / best["copy"][0])


def machine() -> str:
    """Processor model, as the operating system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the source tree's commit, of a copy without git what XECG_COMMIT says, or "unknown"."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or os.environ.get("XECG_COMMIT", "unknown")


def measure(bench: Bench, limits: Ceilings, *, seconds: float = 1.0, clock: Clock = _cpu_time) -> dict[str, Any]:
    """Check, time and score one entry; the row's fields are those of every result file."""
    if bench.device == "cpu":
        set_threads(bench.threads)
    bench.check()
    made, not_run = _made(bench.makers)
    best = minima({"xecg": bench.run, **bench.peers, **made}, seconds, clock)
    working = 1 if bench.threads == 1 else 0  # CPU time is the work of all threads: with several, wall time decides
    ours = best.pop("xecg")
    others = [name for name in best if not name.startswith("xecg")] or list(best)  # our own definition is no peer
    others = [name for name in others if name.startswith(bench.against)]
    peer = min(others, key=lambda name: best[name][working], default=None)
    ratio = best[peer][working] / ours[working] if peer else None
    ceiling, limit = _limit(bench, limits)
    fraction = limit / ours[working] if limit else None
    value = {"ratio": ratio, "ceiling": fraction, "time": ours[working]}[bench.score]
    met = None
    if bench.bar is not None and value is not None:
        met = bool(value <= bench.bar if bench.score == "time" else value >= bench.bar)
    return {
        **_head(bench),
        "time_s": ours[0],
        "cpu_s" if bench.device == "cpu" else "device_s": ours[1],
        "peer": peer,
        "peer_time_s": best[peer][working] if peer else None,
        "peers": {name: t[working] for name, t in best.items()},
        "not_run": not_run,
        "ratio": ratio,
        "score": bench.score,
        "bar": bench.bar,
        "aim": bench.aim,
        "met": met,
        "ceiling": ceiling,
        "ceiling_fraction": fraction,
        "flops": bench.flops,
        "bytes": bench.bytes,
        **_provenance(bench.device),
    }


def failed_row(bench: Bench, error: BaseException) -> dict[str, Any]:
    """The row of an entry whose work was wrong or did not run: no figures, the reason in `failed`, no bar met."""
    empty = dict.fromkeys(("time_s", "peer", "peer_time_s", "ratio", "ceiling_fraction"))
    return {
        **_head(bench),
        **empty,
        "peers": {},
        "not_run": {},
        "score": bench.score,
        "bar": bench.bar,
        "aim": bench.aim,
        "met": None if bench.bar is None else False,
        "ceiling": bench.bound,
        "flops": bench.flops,
        "bytes": bench.bytes,
        "failed": _reason(error),
        **_provenance(bench.device),
    }


def _head(bench: Bench) -> dict[str, Any]:
    return {name: getattr(bench, name) for name in ("id", "op", "shape", "dtype", "threads", "backend")}


def _limit(bench: Bench, limits: Ceilings) -> tuple[str, float]:
    """Which ceiling the work is set against, and the time that it needs there, s (0: not known)."""
    times = {"gemm": bench.flops / limits.gemm, "copy": bench.bytes / limits.copy}
    name = bench.bound if bench.bound != "floor" else max(times, key=lambda key: times[key])
    return name, times[name]


_late: dict[str, str] = {}  # peers that did not get ready in time: they would not for another entry


def _made(
    makers: dict[str, Callable[[], Callable[[], object]]],
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """The peers that could be made and ran once, and why the others did not."""
    made, not_run = {}, {}
    for name, make in makers.items():
        if name in _late:
            not_run[name] = _late[name]
            continue
        try:
            with _at_most(_PEER_LIMIT_S):
                run = make()
                run()
            made[name] = run
        except Exception as error:
            not_run[name] = _reason(error)
            if isinstance(error, TimeoutError):
                _late[name] = f"{not_run[name]} for another entry"
    return made, not_run


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block after so long: peers that compile at first use may take many minutes."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not ready after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def value_row(measured: Measure) -> dict[str, Any]:
    """Take one value and score it; the fields are those of a timed row that have a meaning here, with `value` and `unit`."""
    set_threads(measured.threads)
    value = measured.run()
    met = None
    if measured.bar is not None:
        met = value <= measured.bar if measured.at_most else value >= measured.bar
    return {
        "id": measured.id,
        "op": measured.op,
        "shape": measured.shape,
        "threads": measured.threads,
        "value": value,
        "unit": measured.unit,
        "peers": {name: run() for name, run in measured.peers.items()},
        "score": "at most" if measured.at_most else "at least",
        "bar": measured.bar,
        "aim": measured.aim,
        "met": met,
        **_provenance(),
    }


def _provenance(device: str = "cpu") -> dict[str, str]:
    return {
        "machine": machine() if device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": commit(),
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def set_threads(n: int) -> None:
    """For torch and for our own kernels."""
    torch.set_num_threads(n)
    os.environ["XECG_NUM_THREADS"] = str(n)
    try:
        from xecg import _cpu
    except ImportError:
        return
    _cpu.set_num_threads(n)
