"""The corpus: preprocessed windows in a store, and the gate before it that no recording of a benchmark passes.

Three walls stand there (`xecg.pretrain.build` puts them up). A folder or record name that belongs to a benchmark set does
not pass (`BENCHMARKS`); nor does a recording whose content hash is on a list, nor one that shares a stretch of samples with
one of the folders to compare with, also when it was cut or renamed. What was named by itself stops the build; what lies under
a folder that was named is left out, counted, and said in the report and in the model's card.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xecg.errors import ReadError, XECGError
from xecg.io import find_records, read
from xecg.io.store import Store
from xecg.pretrain.beats import Beats
from xecg.pretrain.known import BENCHMARK_RECORDINGS
from xecg.signal import Recording

__all__ = [
    "BENCHMARKS",
    "Corpus",
    "Forbidden",
    "Gate",
    "LeftOut",
    "Rule",
    "benchmark_of",
    "content_hash",
    "fingerprints",
]

_RUN = 32  # samples under one fingerprint
_DIGITS = 16  # of a content hash are compared
_ONE_IN = 64  # of the fingerprints that are kept: those that are 0 modulo this
_MANY = 20_000  # recordings above which one in _ONE_IN² runs is kept of each: memory, for copies that share little
_SHARED = 0.05  # share of fingerprints in common above which two recordings hold the same signal


@dataclass(frozen=True)
class Rule:
    """A benchmark set: names of folders (lower case, at any level) and a pattern of record names that give it away.

    below: the folders count only below one with this name; "" = anywhere.
    """

    name: str
    folders: tuple[str, ...]
    record: str = r"(?!)"
    below: str = ""


BENCHMARKS = (
    Rule("MIT-BIH Arrhythmia Database", ("mitdb", "mit-bih", "mit-bih-arrhythmia-database-1.0.0")),
    Rule("PTB-XL", ("ptb-xl", "ptbxl", "records500", "records100"), r"HR\d{5}|\d{5}_[hl]r"),
    Rule("PTB-XL in Challenge 2021", ("hr", "ptb-xl"), below="challenge-2021"),
    Rule("CPSC 2018", ("cpsc2018", "cpsc_2018", "cpsc_2018_extra"), r"[AQ]\d{4}"),
    Rule("CPSC 2018 in Challenge 2021", ("a", "q"), below="challenge-2021"),
    Rule("Apnea-ECG", ("apnea-ecg", "apnea-ecg-database-1.0.0")),
    Rule("MIMIC-IV-ECG", ("mimic-iv-ecg", "mimic-iv", "mimic-iv-ecg-demo")),
    Rule("DeepBeat", ("deepbeat",)),
    Rule("reader samples", ("wfdb-formats",)),  # pieces of MIT-BIH and others
    Rule("reader samples", ("edf", "dicom"), below="formats"),
)


class LeftOut(NamedTuple):
    """So many recordings of a folder that were not taken, and why. folder: below that which was named."""

    folder: str
    reason: str
    recordings: int

    def __str__(self) -> str:
        return f"{self.folder} {self.recordings:,} ({self.reason})"


class Forbidden(XECGError):
    """A recording that may not be trained on. reason: why, in the words of `LeftOut`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def benchmark_of(path: str | os.PathLike[str]) -> str | None:
    """The benchmark set that a recording belongs to by its place or name, or None."""
    resolved = Path(path).resolve()
    parents = [part.lower() for part in resolved.parts[:-1]]
    for rule in BENCHMARKS:
        after = parents.index(rule.below) + 1 if rule.below in parents else len(parents) if rule.below else 0
        if set(parents[after:]) & set(rule.folders) or re.fullmatch(rule.record, resolved.stem):
            return rule.name
    return None


def content_hash(recording: Recording) -> str:
    """SHA-256 of the samples in whole µV, lead by lead in the order of their names: the same in any file format."""
    order = sorted(range(len(recording.leads)), key=lambda i: recording.leads[i])
    samples = np.rint(np.where(recording.mask, recording.signal, 0).astype(np.float64) * 1000)[order]
    return hashlib.sha256(f"{samples.shape}".encode() + samples.astype("<i4").tobytes()).hexdigest()


def fingerprints(recording: Recording) -> frozenset[int]:
    """Hashes of runs of 32 samples, chosen by their own value, so that shifted and cut copies share them.

    Winnowing modulo (Schleimer et al., SIGMOD 2003) on first differences in whole µV; runs without change are left out.
    """
    powers = np.cumprod(np.full(_RUN, 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
    found: set[int] = set()
    for lead, mask in zip(recording.signal, recording.mask):
        steps = np.diff(np.rint(np.where(mask, lead, 0).astype(np.float64) * 1000)).astype(np.int64).astype(np.uint64)
        if len(steps) < _RUN:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(steps, _RUN)
        total = np.zeros(len(runs), np.uint64)
        busy = np.zeros(len(runs), np.int64)
        for k in range(_RUN):
            total += runs[:, k] * powers[k]
            busy += runs[:, k] != 0
        total = (total ^ (total >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        total ^= total >> np.uint64(32)
        found.update(total[(total % np.uint64(_ONE_IN) == 0) & (busy > _RUN // 2)].tolist())
    return frozenset(found)


class Corpus:
    """Preprocessed windows to train on: `len`, `record(i) -> (id, x float32 (leads, n))`, `digest` of their content.

    Samples stay on disk until they are asked for (a memory map).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._store = Store(folder)
        self.spec_hash = self._store.spec_hash
        self.ids = self._store.record_ids
        self.digest = hashlib.sha256("\n".join([self._store.digest, *self.ids]).encode()).hexdigest()[:32]
        self._beats: Beats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def patients(self) -> np.ndarray:
        """int32 (windows,): windows of one patient have one number. Where no patient is known, a recording is one."""
        path = self._store.folder / "patients.npy"
        if path.is_file():
            found: np.ndarray = np.load(path, allow_pickle=False)
            return found
        return np.unique([name.rpartition("@")[0] for name in self.ids], return_inverse=True)[1].astype(np.int32)

    @cached_property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the build did not take, by its report; () where there is none."""
        path = self._store.folder / "report.json"
        said = json.loads(path.read_bytes()).get("left_out", ()) if path.is_file() else ()
        return tuple(LeftOut(*row) for row in said)

    def beats(self, index: int) -> Beats:
        """The beats of a window, in its samples. Raises ReadError where the corpus was built without them."""
        if self._beats is None:
            path = self._store.folder / "beats.npz"
            if not path.is_file():
                raise ReadError(str(path), "beats", "absent", "needed for the auxiliary objective", "Build it again.")
            with np.load(path, allow_pickle=False) as found:
                self._first = found[
                    "first"
                ]  # before the beats: another thread takes those for a sign that all is there
                self._beats = Beats(found["time"], found["kind"], found["waves"])
        part = slice(self._first[index], self._first[index + 1])
        return Beats(*(column[part] for column in self._beats))

    def record(self, index: int) -> tuple[str, np.ndarray]:
        return self.ids[index], self._store[index].signal


class Gate:
    """Lets a recording into the corpus once, and never one that is forbidden.

    forbidden: content hashes. compare: folders of benchmark recordings. expected: how many recordings will ask.
    """

    def __init__(
        self, forbidden: Iterable[str] = (), compare: Sequence[str | os.PathLike[str]] = (), *, expected: int = 0
    ) -> None:
        self._forbidden = {digest[:_DIGITS] for digest in BENCHMARK_RECORDINGS.union(forbidden)}
        self._thin = _ONE_IN**2 if expected > _MANY else 1
        self._known = _Owners(compare)
        self.compared = self._known.recordings
        self._seen: dict[str, str] = {}
        self._corpus: dict[int, str] = {}

    @property
    def digest(self) -> str:
        """Of what it compares with."""
        return hashlib.sha256("\n".join([*sorted(self._forbidden), self._known.digest]).encode()).hexdigest()

    def ask(self, recording: Recording, name: str) -> tuple[str, np.ndarray, str | None]:
        """What `admit` takes, and the recording that this one repeats, if any. Raises Forbidden for one that may not pass."""
        digest = content_hash(recording)
        if digest[:_DIGITS] in self._forbidden:
            raise Forbidden(
                f"{name}: its content ({digest[:_DIGITS]}…) is on the list of recordings that may not be trained on; take it out",
                "content on the list of benchmark recordings",
            )
        marks = np.fromiter(fingerprints(recording), np.uint64)
        twin = self._known.twin(marks)
        if twin is not None:
            raise Forbidden(
                f"{name}: shares samples with {twin}, which may not be trained on; take it out",
                f"samples shared with {Path(twin).resolve().parent.name}, which is compared with",
            )
        marks = marks[marks % np.uint64(self._thin) == 0]
        shared = [self._corpus[mark] for mark in marks.tolist() if mark in self._corpus]
        return digest, marks, self._seen.get(digest) or _most(shared, len(marks))

    def admit(self, name: str, digest: str, marks: np.ndarray) -> None:
        """Remember a recording that is in the corpus."""
        self._seen[digest] = name
        self._corpus.update(dict.fromkeys(marks.tolist(), name))


def _most(shared: list[str], marks: int) -> str | None:
    """The owner of most of the shared marks; None where they are fewer than 3, or than 1 in 20 of all."""
    return max(set(shared), key=shared.count) if len(shared) >= max(3, _SHARED * marks) else None


class _Owners:
    """Fingerprints of recordings to compare with, sorted, 12 bytes each."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self._names: list[str] = []
        found: list[np.ndarray] = []
        for path in (path for folder in folders for path in find_records(folder)):
            try:
                found.append(np.fromiter(fingerprints(read(path)), np.uint64))
            except ReadError:  # what cannot be read here cannot be trained on either
                continue
            self._names.append(str(path))
        self.recordings = len(self._names)
        marks = np.concatenate([np.zeros(0, np.uint64), *found])
        order = marks.argsort()
        self._marks = marks[order]
        self.digest = hashlib.sha256(self._marks.tobytes()).hexdigest()
        self._owner = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])[order]

    def twin(self, marks: np.ndarray) -> str | None:
        if not len(self._marks):
            return None
        place = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        owners = self._owner[place[self._marks[place] == marks]]
        return _most([self._names[i] for i in owners.tolist()], len(marks))
