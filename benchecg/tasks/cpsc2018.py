"""T2: the nine classes of CPSC 2018 (Liu et al. 2018), from the SNOMED codes of the PhysioNet Challenge 2021 headers.

The whole record of 6 to 144 s is encoded and its tokens are averaged; the reference benchmark gives each model another window. The
class list is fixed: the reference takes the classes that the split happens to hold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Expected, Record, Task, TaskData
from xecg.errors import ReadError

__all__ = ["DATASET", "TASK", "comment", "headers"]

DATASET = Dataset(
    name="CPSC 2018",
    version="as in the PhysioNet Challenge 2021, 1.0.3",
    folder="challenge-2021",
    licence="CC BY 4.0 (Liu et al. 2018; Reyna et al. 2021; PhysioNet)",
    size="6,877 records, about 1.6 GB",
    url="https://physionet.org/content/challenge-2021/1.0.3/ (training/cpsc_2018)",
)
_LAYOUTS = (
    "training/cpsc_2018",
    "cpsc_2018",
    "A",
)  # the release, its inner folder alone, or records gathered by prefix
_FULL_RECORDS = 6_877

_CODES = {  # SNOMED code → class, sorted as text as the reference does
    "164884008": "PVC",
    "164889003": "AF",
    "164909002": "LBBB",
    "164931005": "STE",
    "270492004": "IAVB",
    "284470004": "PAC",
    "426783006": "NSR",
    "429622005": "STD",
    "59118001": "RBBB",
}
_CLASSES = tuple(_CODES.values())


def _split_of(path: Path) -> str:
    """By the release's folder g1…g7; without it by the number, which the folders cut at each thousand."""
    group = path.parent.name
    if not (group.startswith("g") and group[1:].isdigit()):
        group = f"g{int(path.stem[1:]) // 1000 + 1}"
    return {"g7": "test", "g6": "val"}.get(group, "train")


def comment(path: Path, name: str) -> str:
    """What the header's one comment line of that name says. Raises ReadError when there is not exactly one."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line.partition(":")[2].strip() for line in lines if line.lstrip("# ").startswith(f"{name}:")]
    if len(found) != 1:
        raise ReadError(str(path), name, f"{len(found)} lines", f"needed one comment line of {name}")
    return found[0]


def headers(root: Path) -> list[Path]:
    """Headers of the records, by name, in whichever of the known layouts they lie. Raises DataMissing."""
    base = root / DATASET.folder
    folder = next((base / layout for layout in _LAYOUTS if (base / layout).is_dir()), None)
    paths = sorted(folder.rglob("A[0-9]*.hea"), key=lambda p: p.stem) if folder else []
    if not paths:
        DATASET.find(root, f"one of {', '.join(_LAYOUTS)} with records A0001…")
    return paths


def _labels(path: Path) -> list[int]:
    codes = {code.strip() for code in comment(path, "Dx").split(",")}
    return [int(code in codes) for code in _CODES]


def _load(root: Path) -> TaskData:
    paths = headers(root)
    marks = [_labels(path) for path in paths]
    kept = [(path, row) for path, row in zip(paths, marks) if any(row)]
    records = tuple(Record(path.stem, path.stem, _split_of(path), path) for path, _ in kept)
    unlabelled = len(paths) - len(kept)
    return TaskData(
        records=records,
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array([row for _, row in kept], dtype=np.int64).reshape(-1, len(_CLASSES)),
        complete=len(paths) == _FULL_RECORDS,
        files=tuple(f for path, _ in kept for f in (path, path.with_suffix(".mat")) if f.is_file()),
        notes=(f"{unlabelled} records without one of the nine classes are left out",) if unlabelled else (),
    )


TASK = Task(
    id="cpsc2018",
    version="1",
    title="CPSC 2018, nine classes",
    dataset=DATASET,
    kind="multilabel",
    classes=_CLASSES,
    metric="macro_auroc",
    load=_load,
    unit="exam of 6-144 s",
    leads="12",
    rate_hz=500.0,
    split_rule="folders g1-g5 train, g6 validates, g7 tests; without folders by number: below 5000, 5000-5999, from 6000",
    label_rule="a class is positive when its SNOMED code is in the header's Dx line",
    suite="T2",
    patient_known=False,
    full_records=_FULL_RECORDS,
    expected=(
        Expected(
            "all folders",
            ("train", "val", "test"),
            dict(zip(_CLASSES, (700, 1221, 236, 220, 722, 616, 918, 869, 1857))),
            "Liu et al. 2018, carried from memory and not re-counted on the full release here",
        ),
    ),
)
