"""How a figure is made: correctness first, both sides interleaved in one process, minima of CPU time, ceilings of the same run."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["ROOT", "Bench", "Ceilings", "Measure", "ceilings", "measure", "set_threads", "speedup", "value_row"]

ROOT = Path(__file__).resolve().parents[1]
_SLOW_S = 2.0
_SHORT_S = 0.02
_TURN_CALLS = 4


@dataclass(frozen=True)
class Bench:
    """One row of a table.

    run: ours. check: raises when ours is wrong. peers: name → the same work by somebody else; against: the peer of the ratio, where
    not every peer does the whole work (default: the fastest). flops, bytes: of the work itself. bound: "gemm" or "copy", the
    ceiling that it is set against. bar, aim: what `score` must reach; score is "ratio" (peer's time over ours) or "ceiling" (part
    of the ceiling).
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
    against: str | None = None


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
    """What this machine does in this run: float32 matrix products (flop/s) and copies of 64 MiB (bytes moved per second)."""

    gemm: float
    copy: float


def _cpu_time(f: Callable[[], object], repeats: int = 1) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        f()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def _least(*times: tuple[float, float]) -> tuple[float, float]:
    return min(t[0] for t in times), min(t[1] for t in times)


def minima(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, tuple[float, float]]:
    """(wall, CPU) minima of each function, run in turns until each had its share of `seconds` and five turns.

    A turn of a short function is `_TURN_CALLS` measurements, so that each side finds its own data where its previous call left them,
    as in a loop, and not what the other side left; the shortest functions are repeated inside a measurement. A function that takes
    longer than `_SLOW_S` has two turns in all.
    """
    repeats, turns, best = {}, {}, {}
    for name, f in functions.items():
        best[name] = _cpu_time(f)
        turns[name] = 1
        if best[name][0] < _SLOW_S:  # the first call was warming up
            best[name] = _cpu_time(f)
            turns[name] = 5
        repeats[name] = max(1, int(2e-3 / max(best[name][0], 1e-9)))
    end = time.perf_counter() + seconds * len(functions)
    rounds = 0
    while rounds < max(turns.values()) or time.perf_counter() < end:
        for name, f in functions.items():
            if rounds >= turns[name] and best[name][0] >= _SLOW_S:
                continue
            calls = _TURN_CALLS if best[name][0] < _SHORT_S else 1
            best[name] = _least(best[name], *(_cpu_time(f, repeats[name]) for _ in range(calls)))
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
    """Short hash of the source tree's commit, or "unknown"."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def measure(bench: Bench, limits: Ceilings, *, seconds: float = 1.0) -> dict[str, Any]:
    """Check, time and score one entry; the row's fields are those of every result file."""
    set_threads(bench.threads)
    bench.check()
    best = minima({"xecg": bench.run, **bench.peers}, seconds)
    clock = 1 if bench.threads == 1 else 0  # CPU time is the work of all threads: with several, wall time decides
    ours = best.pop("xecg")
    others = [name for name in best if not name.startswith("xecg")] or list(best)  # our own definition is no peer
    peer = bench.against or min(others, key=lambda name: best[name][clock], default=None)
    ratio = best[peer][clock] / ours[clock] if peer else None
    limit = bench.flops / limits.gemm if bench.bound == "gemm" else bench.bytes / limits.copy
    fraction = limit / ours[clock] if limit else None
    value = ratio if bench.score == "ratio" else fraction
    return {
        "id": bench.id,
        "op": bench.op,
        "shape": bench.shape,
        "dtype": bench.dtype,
        "threads": bench.threads,
        "backend": "cpu",
        "time_s": ours[0],
        "cpu_s": ours[1],
        "peer": peer,
        "peer_time_s": best[peer][clock] if peer else None,
        "peers": {name: t[clock] for name, t in best.items()},
        "ratio": ratio,
        "score": bench.score,
        "bar": bench.bar,
        "aim": bench.aim,
        "met": None if bench.bar is None or value is None else bool(value >= bench.bar),
        "ceiling": bench.bound,
        "ceiling_fraction": fraction,
        "flops": bench.flops,
        "bytes": bench.bytes,
        **_provenance(),
    }


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


def _provenance() -> dict[str, str]:
    return {
        "machine": machine(),
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
