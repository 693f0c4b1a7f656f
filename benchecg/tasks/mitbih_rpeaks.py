"""T4: R peaks of the MIT-BIH Arrhythmia Database, trained on DS1, tested on DS2.

Whole records, times in seconds, one-to-one matching. The reference benchmark scores 72 s tiles, with true peaks rounded to the
model's grid and with several predictions near one peak counted as a single hit, so its numbers are not comparable with these.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchecg.tasks import _mitdb
from benchecg.tasks.base import Expected, Task, TaskData

__all__ = ["TASK"]


def _load(root: Path) -> TaskData:
    data = _mitdb.load(root)
    return replace(data, label=np.ones(len(data.label), np.int64))


TASK = Task(
    id="mitbih-rpeaks",
    version="1",
    title="MIT-BIH R peaks",
    dataset=_mitdb.DATASET,
    kind="peaks",
    classes=("R",),
    metric="f1_10ms",
    load=_load,
    unit="annotated beat",
    leads="2 (MLII and a chest lead; in 114 MLII is the second channel)",
    rate_hz=_mitdb.RATE_HZ,
    split_rule=_mitdb.SPLIT_RULE,
    label_rule="an R peak is any beat mark (N L R e j A a J S V E F / f Q); ±10 ms is near the marks' own jitter, "
    "so read ±75 ms beside it",
    suite="T4",
    full_records=44,
    expected=tuple(Expected(e.part, e.splits, {"R": sum(e.counts.values())}, e.source) for e in _mitdb.EXPECTED),
    split_sha256=_mitdb.SPLIT_SHA256,
    records_per_call=1,
)
