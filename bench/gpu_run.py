"""Running the suite `gpu` on a machine that is rented for minutes: the most telling rows first, each kept as soon as it is made.

An illegal access ends the CUDA context of its process, a deadlock the process itself. Both cost one row: the file says which entry
is running, a run that goes on (`resume`) leaves out what the file holds and counts an entry that ended its process as failed.
Not yet run on a GPU.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import device, registry
from bench.harness import Bench, Ceilings, failed_row, measure

__all__ = ["BROKEN", "run"]

BROKEN = 7  # exit status when the GPU answers no more; rows are left
_ENTRY_LIMIT_S = 300  # of one entry with its peers, each of which may take 90 s to compile: then it hangs


def run(out: Path | None, only: str, seconds: float, *, resume: bool, tell: Callable[[dict[str, Any]], None]) -> int:
    """Measure the entries whose id contains `only`; the exit status: 1 with a failed row, `BROKEN` when another process must go on."""
    before = json.loads(out.read_text()) if resume and out is not None and out.exists() else {}
    rows: list[dict[str, Any]] = before.get("rows", [])
    told = before.get("ceilings")
    limits = Ceilings(told["gemm_flops"], told["copy_bytes"], told["gemm_dtype"]) if told else device.ceilings()
    made = sorted((entry for entry in _entries() if only in entry.id), key=_turn)
    if before.get("running"):
        ended = RuntimeError(f"it ended its process, or did not end within {_ENTRY_LIMIT_S} s")
        rows += [failed_row(entry, ended) for entry in made if entry.id == before["running"]]
    done = {row["id"] for row in rows}
    made = [entry for entry in made if entry.id not in done]
    while made:
        entry = made.pop(0)  # and its data goes with it
        _write(out, limits, rows, running=entry.id)
        with _watched():
            rows.append(_row(entry, limits, seconds))
        tell(rows[-1])
        del entry
        reason = device.broken()
        _write(out, limits, rows)
        if reason:
            print(f"The GPU answers no more, {len(made)} entries are left: {reason}", flush=True)
            return BROKEN if made else 1
        device.free()
    return 1 if any("failed" in row for row in rows) else 0


def _entries() -> Iterator[Bench]:
    """Every entry; a module that does not import, or that makes none, is one that fails."""
    for make in registry.entries("gpu"):
        try:
            yield from (entry for entry in make() if isinstance(entry, Bench))
        except Exception as error:
            yield _failing(getattr(make, "__module__", "bench.gpu"), error)


def _failing(name: str, error: Exception) -> Bench:
    def check() -> None:
        raise error

    return Bench(name, name.rpartition(".")[2], "", "", lambda: None, check, device="cuda", backend="")


def _turn(entry: Bench) -> int:
    return entry.turn


def _row(entry: Bench, limits: Ceilings, seconds: float) -> dict[str, Any]:
    try:
        return measure(entry, limits, seconds=seconds, clock=device.event_time)
    except Exception as error:  # one entry less is no reason to lose the others
        return failed_row(entry, error)


@contextmanager
def _watched() -> Iterator[None]:
    """Ends the process, and tells where it was, when the block does not end: a kernel that hangs answers no signal."""
    faulthandler.dump_traceback_later(_ENTRY_LIMIT_S, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _write(out: Path | None, limits: Ceilings, rows: list[dict[str, Any]], running: str = "") -> None:
    if out is None:
        return
    from xecg.io.atomic import write_json

    out.parent.mkdir(parents=True, exist_ok=True)
    told = {"gemm_flops": limits.gemm, "gemm_dtype": limits.gemm_dtype, "copy_bytes": limits.copy}
    result: dict[str, Any] = {"ceilings": told, "device": device.facts(), "rows": rows}
    write_json(out, result | ({"running": running} if running else {}))
