"""A pytest plugin for machines that are rented for minutes (`-p tests.told`): what a test did is on disk as soon as it has done it.

XECG_TOLD names a file of JSON lines. A test has a line when it starts and one when it ends; one that has both is not run again, one
that only started ended its process: it counts as failed, and the next process goes on after it. An illegal access ends the CUDA
context of a process, so pytest stops there (exit status 7); a test that does not end is ended with its process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BROKEN", "LIMIT_S"]

BROKEN = 7  # exit status: the GPU answers no more
LIMIT_S = 150.0  # of one test, what compiles in it included


def _file() -> Path:
    return Path(os.environ["XECG_TOLD"])


def _tell(**line: Any) -> None:
    with _file().open("a") as file:
        file.write(json.dumps(line) + "\n")


def _told() -> dict[str, dict[str, Any]]:
    """The last line of each test."""
    lines = _file().read_text().splitlines() if _file().exists() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    told = _told()
    for test, line in told.items():
        if line["state"] == "started":
            _tell(test=test, state="failed", reason=f"ended its process, or did not end within {LIMIT_S:.0f} s")
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in told])
    items[:] = [item for item in items if item.nodeid not in told]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    _tell(test=item.nodeid, state="started")
    faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


_reports: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _reports.append(report)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """One line of what set-up, call and tear-down said together."""
    states = {report.outcome: report for report in _reports}
    state = next(name for name in ("failed", "skipped", "passed") if name in states)
    _tell(test=nodeid, state=state, reason=_reason(states[state]), seconds=round(sum(r.duration for r in _reports), 2))
    _reports.clear()
    if state == "failed" and _broken():
        pytest.exit("the GPU answers no more", returncode=BROKEN)


def _reason(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return " ".join(str(text).split())[:240]


def _broken() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
