"""T6: atrial fibrillation in the wrist pulse wave (DeepBeat, Torres-Soto and Ashley 2020), 25 s windows.

The release's `parameters` are a pickled array, which can run code when it is opened: it is never opened here. The one column that is
needed, the subject, is asked for as a plain array. Windows that occur twice, or hold NaN, are left out and counted.
"""

from __future__ import annotations

import hashlib
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchecg.tasks.base import Dataset, Record, Task, TaskData, hash_fraction
from xecg.errors import ReadError
from xecg.signal import Recording

__all__ = ["TASK"]

_DATASET = Dataset(
    name="DeepBeat",
    version="as the authors share it",
    folder="deepbeat",
    licence="the authors' terms (to be checked)",
    size="train.npz, validate.npz, test.npz of several GB, and *_subject.npy: the subject column of `parameters` of each, saved "
    "once as a plain array in a place where opening a pickle does no harm",
    url="https://github.com/AshleyLab/deepbeat",
    access="from the authors",
)
_FILES = {"train": "train", "val": "validate", "test": "test"}  # split → stem of the release's file
_RATE_HZ, _SAMPLES = 32.0, 800
_MOST_TRAIN = 100_000  # windows; the published probe trains on a twentieth of 2.8 million
_TEST, _VAL = 0.20, 0.30  # of the subjects, where the release's own files share some


@lru_cache(maxsize=6)
def _array(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ReadError(str(path), name, f"unreadable ({error})", "needed a plain array of that name") from None


def _part(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal (N, 800), AF 0/1 (N,), subject text (N,) of one file."""
    path, beside = folder / f"{stem}.npz", folder / f"{stem}_subject.npy"
    signal, rhythm = _array(path, "signal"), _array(path, "rhythm")
    try:
        subject = np.load(beside, allow_pickle=False)
    except ValueError as error:
        raise ReadError(str(beside), "array", f"unreadable ({error})", "needed plain numbers or text") from None
    if (
        signal.shape != (len(signal), _SAMPLES, 1)
        or rhythm.shape != (len(signal), 2)
        or subject.shape != (len(signal),)
    ):
        found = f"signal {signal.shape}, rhythm {rhythm.shape}, subject {subject.shape}"
        raise ReadError(str(path), "shapes", found, f"needed (N, {_SAMPLES}, 1), (N, 2) and (N,)")
    return signal[..., 0], rhythm.argmax(1), subject.astype(str)


def _own_split(subject: str) -> str:
    fraction = hash_fraction("deepbeat", subject)
    return "test" if fraction < _TEST else "val" if fraction < _VAL else "train"


def _load(root: Path) -> TaskData:
    needed = [f"{stem}{end}" for stem in _FILES.values() for end in (".npz", "_subject.npy")]
    folder = _DATASET.find(root, *needed)
    parts = {split: _part(folder, stem) for split, stem in _FILES.items()}
    subjects = {split: set(subject.tolist()) for split, (_, _, subject) in parts.items()}
    shared = set.union(*(subjects[a] & subjects[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test"))))
    records, label, seen, broken, twice = [], [], set(), 0, 0
    for split, (signal, af, subject) in parts.items():
        step = max(1, len(signal) // _MOST_TRAIN) if split == "train" else 1
        for row in range(0, len(signal), step):
            digest = hashlib.sha1(signal[row].tobytes(), usedforsecurity=False).digest()
            lost = bool(np.isnan(signal[row]).any())
            broken += lost
            twice += not lost and digest in seen
            if lost or digest in seen:
                continue
            seen.add(digest)
            into = _own_split(subject[row]) if shared else split
            records.append(
                Record(f"{_FILES[split]}-{row:07d}", str(subject[row]), into, folder / f"{_FILES[split]}.npz")
            )
            label.append(int(af[row]))
    notes = [f"{broken} windows with NaN are left out"] if broken else []
    notes += [f"{twice} windows that occur twice are left out"] if twice else []
    notes += (
        [f"{len(shared)} subjects are in several files: subjects are split anew, 70/10/20 by hash"] if shared else []
    )
    return TaskData(
        records=tuple(records),
        record=np.arange(len(records)),
        time_s=np.full(len(records), np.nan),
        label=np.array(label, dtype=int),
        complete=False,  # the release states no number of windows to check against
        files=tuple(folder / name for name in needed),
        notes=tuple(notes),
        read=_read,
    )


def _read(record: Record) -> Recording:
    """The pulse wave in the place of lead II, in the release's own arbitrary unit."""
    row = int(record.id.rpartition("-")[2])
    signal = _array(record.path, "signal")[row, :, 0].astype(np.float32)[None]
    return Recording(signal, _RATE_HZ, ("II",), np.ones(signal.shape, bool), source=record.path.as_posix())


TASK = Task(
    id="deepbeat-af",
    version="1",
    title="Atrial fibrillation in the wrist pulse wave",
    dataset=_DATASET,
    kind="binary",
    classes=("other", "AF"),
    metric="auroc",
    load=_load,
    unit="25 s window",
    leads="a pulse wave in the place of II, arbitrary unit",
    rate_hz=_RATE_HZ,
    split_rule="the release's files where they share no subject; else 70/10/20 by hash of the subject; of a training file beyond "
    "100,000 windows every n-th is used",
    label_rule="the second column of rhythm",
    suite="T6",
)
