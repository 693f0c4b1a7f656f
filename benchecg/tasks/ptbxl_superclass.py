"""T1: the five diagnostic superclasses of PTB-XL (Wagner et al. 2020), folds 1-8 train, 9 validates, 10 tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchecg.tasks import _ptbxl
from benchecg.tasks.base import Expected, Published, Task, TaskData

__all__ = ["TASK", "superclass"]

_CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


def superclass(code: str, row: Mapping[str, str]) -> str | None:
    """The superclass of a statement's row; None where it is not diagnostic."""
    return row["diagnostic_class"] if row["diagnostic"] and float(row["diagnostic"]) == 1 else None


def _load(root: Path) -> TaskData:
    return _ptbxl.load(root, _CLASSES, superclass, "superclass")


TASK = Task(
    id="ptbxl-superclass",
    version="1",
    title="PTB-XL, five diagnostic superclasses",
    dataset=_ptbxl.DATASET,
    kind="multilabel",
    classes=_CLASSES,
    metric="macro_auroc",
    load=_load,
    unit="10 s exam",
    leads="12",
    rate_hz=500.0,
    split_rule=_ptbxl.SPLIT_RULE,
    label_rule="a superclass is positive when any diagnostic statement of it is listed, whatever its likelihood",
    suite="T1",
    full_records=21_388,  # of 21,799: those with at least one superclass
    expected=(
        Expected(
            "all folds",
            ("train", "val", "test"),
            {"NORM": 9514, "MI": 5469, "STTC": 5235, "CD": 4898, "HYP": 2649},
            "Wagner et al. 2020, carried from memory and not re-counted on the full release here",
        ),
    ),
    published=(
        Published(_ptbxl.HELME, "xresnet1d101", "macro_auroc", 0.928, "largest deviation of the interval 0.005"),
        Published(_ptbxl.HELME, "resnet1d_wang", "macro_auroc", 0.930, "largest deviation of the interval 0.005"),
        Published(_ptbxl.HELME, "inception1d", "macro_auroc", 0.921, "largest deviation of the interval 0.006"),
        Published(_ptbxl.HELME, "Wavelet+NN", "macro_auroc", 0.874, "largest deviation of the interval 0.007"),
    ),
)
