"""The other label sets of PTB-XL (Strodthoff et al. 2021): all statements, diagnostic ones, their subclasses, form, rhythm.

A label is positive when its statement is listed, whatever its likelihood; records without any label of the set are left out. The
reference benchmark's subclass labels are superclass names by mistake; these are the subclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchecg.tasks import _ptbxl
from benchecg.tasks.base import Published, Task

__all__ = ["TASKS"]

_DIAGNOSTIC = (
    "NDT", "NST_", "DIG", "LNGQT", "NORM", "IMI", "ASMI", "LVH", "LAFB", "ISC_", "IRBBB", "1AVB", "IVCD", "ISCAL",
    "CRBBB", "CLBBB", "ILMI", "LAO/LAE", "AMI", "ALMI", "ISCIN", "INJAS", "LMI", "ISCIL", "LPFB", "ISCAS", "INJAL",
    "ISCLA", "RVH", "ANEUR", "RAO/RAE", "EL", "WPW", "ILBBB", "IPLMI", "ISCAN", "IPMI", "SEHYP", "INJIN", "INJLA",
    "PMI", "3AVB", "INJIL", "2AVB",
)  # fmt: skip
_FORM = (
    "NDT", "NST_", "DIG", "LNGQT", "ABQRS", "PVC", "STD_", "VCLVH", "QWAVE", "LOWT", "NT_", "PAC", "LPR", "INVT",
    "LVOLT", "HVOLT", "TAB_", "STE_", "PRC(S)",
)  # fmt: skip
_RHYTHM = (
    "SR", "AFIB", "STACH", "SARRH", "SBRAD", "PACE", "SVARR", "BIGU", "AFLT", "SVTAC", "PSVT", "TRIGU",
)  # fmt: skip
_SUBCLASS = (
    "AMI", "CLBBB", "CRBBB", "ILBBB", "IMI", "IRBBB", "ISCA", "ISCI", "ISC_", "IVCD", "LAFB/LPFB", "LAO/LAE", "LMI",
    "LVH", "NORM", "NST_", "PMI", "RAO/RAE", "RVH", "SEHYP", "STTC", "WPW", "_AVB",
)  # fmt: skip


def _flagged(*flags: str) -> Callable[[str, Mapping[str, str]], str | None]:
    return lambda code, row: code if any(row[f] and float(row[f]) == 1 for f in flags) else None


def _subclass(code: str, row: Mapping[str, str]) -> str | None:
    return row["diagnostic_subclass"] if row["diagnostic"] and float(row["diagnostic"]) == 1 else None


def _task(
    name: str,
    title: str,
    classes: tuple[str, ...],
    class_of: Callable[[str, Mapping[str, str]], str | None],
    records: int,
    published: dict[str, tuple[float, int]],
) -> Task:
    return Task(
        id=f"ptbxl-{name}",
        version="1",
        title=f"PTB-XL, {title}",
        dataset=_ptbxl.DATASET,
        kind="multilabel",
        classes=classes,
        metric="macro_auroc",
        load=partial(_ptbxl.load, classes=classes, class_of=class_of, what=f"label of {len(classes)}"),
        unit="10 s exam",
        leads="12",
        rate_hz=500.0,
        split_rule=_ptbxl.SPLIT_RULE,
        label_rule=f"one label for each of the {title}, positive when listed, whatever its likelihood",
        full_records=records,
        published=tuple(
            Published(_ptbxl.HELME, model, "macro_auroc", value, f"largest deviation of the interval 0.{spread:03d}")
            for model, (value, spread) in published.items()
        ),
    )


# Values and spreads (in thousandths) of the leaderboard of helme/ecg_ptbxl_benchmarking; records: of release 1.0.3.
_LIST = (
    _task(
        "all", "71 statements", (*_DIAGNOSTIC, *(f for f in _FORM if f not in _DIAGNOSTIC), *_RHYTHM),
        _flagged("diagnostic", "form", "rhythm"), 21_799,
        {"xresnet1d101": (0.925, 7), "inception1d": (0.925, 8), "resnet1d_wang": (0.919, 8), "Wavelet+NN": (0.849, 13)},
    ),
    _task(
        "diag", "44 diagnostic statements", _DIAGNOSTIC, _flagged("diagnostic"), 21_388,
        {"xresnet1d101": (0.937, 8), "inception1d": (0.931, 9), "resnet1d_wang": (0.936, 8), "Wavelet+NN": (0.855, 15)},
    ),
    _task(
        "subdiag", "23 diagnostic subclasses", _SUBCLASS, _subclass, 21_388,
        {"xresnet1d101": (0.929, 14), "inception1d": (0.930, 10), "resnet1d_wang": (0.928, 10), "Wavelet+NN": (0.859, 16)},
    ),
    _task(
        "form", "19 form statements", _FORM, _flagged("form"), 8_978,
        {"xresnet1d101": (0.896, 12), "inception1d": (0.899, 22), "resnet1d_wang": (0.880, 15), "Wavelet+NN": (0.757, 29)},
    ),
    _task(
        "rhythm", "12 rhythm statements", _RHYTHM, _flagged("rhythm"), 21_030,
        {"xresnet1d101": (0.957, 19), "inception1d": (0.953, 13), "lstm": (0.953, 9), "lstm_bidir": (0.949, 11)},
    ),
)  # fmt: skip
TASKS = {task.id: task for task in _LIST}
