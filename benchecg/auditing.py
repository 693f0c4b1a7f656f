"""Which recordings of two folders are the same signal, whatever their names say: a benchmark's leaks, found from the samples.

Three searches. Exact: runs of samples in common (`xecg.pretrain.corpus.fingerprints`), also of cut copies. Altered: pieces of
3 s around a lead's steepest points, scaled to one size and compared at 25 Hz, so that gain, offset, rate and some noise do not
matter; each candidate is then aligned at 100 Hz and must correlate over seconds. The points are chosen by winnowing (Schleimer
et al., SIGMOD 2003), so that a copy cut out of a longer record chooses the same ones. Patients: ids of headers and of PTB-XL's
table, compared in memory and never shown.
"""

from __future__ import annotations

import csv
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from xecg.errors import ReadError
from xecg.pretrain.corpus import content_hash, fingerprints
from xecg.signal import Recording

__all__ = ["KINDS", "Audit", "Pair", "audit"]

KINDS = ("identical", "shared samples", "altered copy", "same patient")

_RATE_HZ = 100
_BAND_HZ, _STEEP_HZ, _PIECE_HZ = (1.0, 30.0), (5.0, 25.0), 12.0
# Points lie so far apart; records longer than _LONG_S keep one or more in each window of _WINDOW_S.
_NEAR_S, _LONG_S, _WINDOW_S = 0.4, 60.0, 4.0
_BEFORE, _AFTER, _STEP = 80, 220, 4  # samples of a piece around its point; one in _STEP is kept
_CANDIDATE = 0.93  # correlation of two pieces from which their records are aligned
_ALIGNED_AT_MOST = 4  # candidates of a pair
_SHIFT = 4  # samples that an alignment may move
_BLOCK = 200  # samples that must correlate by themselves
_BLOCK_R = 0.85
# A match is so long, or the whole of a shorter recording; from _MANY_S on it holds many beats.
_LEAST_S, _WHOLE_S, _MANY_S = 6.0, 4.0, 20.0
# Regular hearts reach 0.97 over 6 s by chance: a short match of one lead must exceed it, or leads of one name agree there.
_COPY_R, _ALONE_R = 0.95, 0.98
_AGREE_R, _AGREE_SHARE, _FEWEST_LEADS = 0.9, 0.7, 3
_FEWEST_MARKS, _LEAST_SHARE = 3, 0.05  # of fingerprints in common, of those of the record with fewer
_PTBXL_TABLE = "ptbxl_database.csv"


@dataclass(frozen=True)
class Pair:
    """Two recordings that share a signal or a patient. kind: one of `KINDS`; what was not measured is None.

    shared: share of fingerprints in common. lead_a, lead_b, offset_s (b's time minus a's), matched_s, correlation: of the best
    aligned lead. gain: of b over a, negative where one is upside down.
    """

    a: str
    b: str
    kind: str
    shared: float | None = None
    lead_a: str | None = None
    lead_b: str | None = None
    offset_s: float | None = None
    matched_s: float | None = None
    correlation: float | None = None
    gain: float | None = None

    def evidence(self) -> str:
        """What was measured, in words."""
        if self.correlation is not None:
            return (
                f"{self.lead_a} and {self.lead_b} correlate {self.correlation:.3f} over {self.matched_s:g} s, "
                f"B later by {self.offset_s:g} s, gain {self.gain:.3g}"
            )
        if self.shared is not None:
            return f"{self.shared:.0%} of the shorter one's runs of samples"
        return "equal ids in the headers or the data set's table"


@dataclass(frozen=True)
class Audit:
    """recordings: read. with_patient: those whose patient is known. refused: files that the reader refused, with reasons."""

    recordings: int
    with_patient: int
    refused: tuple[str, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class _Item:
    """x: float32 (leads, n) at 100 Hz, 1–30 Hz. pieces: float32 (m, 75), unit norm, of `lead[m]` at sample `at[m]`."""

    name: str
    side: int
    digest: str
    marks: frozenset[int]
    patient: str | None
    leads: tuple[str, ...]
    x: np.ndarray
    pieces: np.ndarray
    lead: np.ndarray
    at: np.ndarray


def audit(a: Path, b: Path | None = None, *, progress: Callable[[Iterable], Iterable] = iter) -> Audit:
    """Compare every recording under `a` with every one under `b`, or, without `b`, with every other one under `a`.

    A file that lies under both is compared as one of `a` only with the other files. Raises DataMissing where a folder is absent.
    """
    items, refused = _read_all([a] if b is None else [a, b], progress)
    across = b is not None
    exact = dict(_exact(items, across))
    altered = {key: pair for key, pair in _altered(items, across, progress) if key not in exact}
    pairs = [*exact.values(), *altered.values(), *_patients(items, across)]
    pairs.sort(key=lambda p: (KINDS.index(p.kind), p.a, p.b))
    known = sum(i.patient is not None for i in items)
    return Audit(len(items), known, tuple(refused), tuple(pairs))


def _read_all(folders: list[Path], progress: Callable[[Iterable], Iterable]) -> tuple[list[_Item], list[str]]:
    from xecg import read
    from xecg.io import find_records

    key = secrets.token_bytes(16)  # what tells patients apart dies with the process
    tables: dict[Path, dict[str, str]] = {}
    files: dict[Path, tuple[Path, int]] = {}
    for side, folder in enumerate(folders):
        for path in find_records(folder):
            files.setdefault(path.resolve(), (path, side))
    items, refused = [], []
    for path, side in progress(list(files.values())):
        try:
            recording = read(path, group_key=key)
        except ReadError as error:
            refused.append(str(error))
            continue
        items.append(_item(str(path), side, recording, _patient(path, recording, tables)))
    return items, refused


def _patient(path: Path, recording: Recording, tables: dict[Path, dict[str, str]]) -> str | None:
    group = recording.meta.get("exam_group")
    if group:
        return f"header {group}"
    for folder in path.resolve().parents[:4]:
        if folder not in tables:
            tables[folder] = _ptbxl_patients(folder / _PTBXL_TABLE)
        found = tables[folder].get(path.stem)
        if found is not None:
            return f"{folder} {found}"
    return None


def _ptbxl_patients(table: Path) -> dict[str, str]:
    """Name of a PTB-XL file → its patient."""
    if not table.is_file():
        return {}
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    try:
        return {Path(row[c]).name: row["patient_id"] for row in rows for c in ("filename_lr", "filename_hr")}
    except (KeyError, TypeError):
        return {}  # another table of that name


def _item(name: str, side: int, recording: Recording, patient: str | None) -> _Item:
    x, steep = _prepared(recording)
    parts = [_pieces(row, slope, i) for i, (row, slope) in enumerate(zip(x, steep))]
    pieces, lead, at = (np.concatenate(p) for p in zip(*parts)) if parts else _NOTHING
    marks = fingerprints(recording)
    return _Item(name, side, content_hash(recording), marks, patient, recording.leads, x, pieces, lead, at)


_WIDTH = (_BEFORE + _AFTER) // _STEP
_NOTHING = (np.zeros((0, _WIDTH), np.float32), np.zeros(0, int), np.zeros(0, int))


def _prepared(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """float32 (leads, n) at 100 Hz twice: 1–30 Hz, and how steep the signal is around each sample."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, resample_poly, sosfiltfilt

    signal = np.where(recording.mask & np.isfinite(recording.signal), recording.signal, 0).astype(np.float64)
    ratio = Fraction(_RATE_HZ / recording.rate).limit_denominator(1000)
    if not signal.size or not ratio or recording.rate < 2.2 * _BAND_HZ[1] or recording.duration_s < _WHOLE_S:
        empty = np.zeros((len(signal), 0), np.float32)
        return empty, empty
    signal = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1)
    x, steep = (
        sosfiltfilt(butter(2, b, "bandpass", fs=_RATE_HZ, output="sos"), signal, axis=1) for b in (_BAND_HZ, _STEEP_HZ)
    )
    return x.astype(np.float32), np.sqrt(np.maximum(uniform_filter1d(steep**2, 10, axis=1), 0)).astype(np.float32)


def _pieces(x: np.ndarray, steep: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.ndimage import maximum_filter1d
    from scipy.signal import butter, sosfiltfilt

    if len(x) < _BEFORE + _AFTER:
        return _NOTHING
    near = maximum_filter1d(steep, 2 * int(_NEAR_S * _RATE_HZ) + 1)
    if len(x) > _LONG_S * _RATE_HZ:
        window = np.unique(maximum_filter1d(steep, int(_WINDOW_S * _RATE_HZ)))
        near = np.where(np.isin(steep, window), near, np.inf)
    at = np.flatnonzero((steep == near) & (steep > 1e-4))
    at = at[(at >= _BEFORE) & (at <= len(x) - _AFTER)]
    slow = sosfiltfilt(butter(2, _PIECE_HZ, fs=_RATE_HZ, output="sos"), x)
    pieces = slow[at[:, None] + np.arange(-_BEFORE, _AFTER, _STEP)]
    pieces = pieces - pieces.mean(1, keepdims=True)
    size = np.linalg.norm(pieces, axis=1, keepdims=True)
    kept = size[:, 0] > 1e-3
    return (pieces[kept] / size[kept]).astype(np.float32), np.full(int(kept.sum()), lead), at[kept]


def _asked(items: list[_Item], i: int, j: int, across: bool) -> bool:
    return i != j and (not across or items[i].side != items[j].side)


_Key = tuple[int, int]


def _exact(items: list[_Item], across: bool) -> Iterator[tuple[_Key, Pair]]:
    owners: dict[int, list[int]] = defaultdict(list)
    same: dict[str, list[int]] = defaultdict(list)
    for j, item in enumerate(items):
        common = Counter(i for mark in item.marks for i in owners[mark])
        twins = same[item.digest] if item.x.any() or item.marks else []
        for i in sorted({*common, *twins}):
            share = common[i] / max(1, min(len(item.marks), len(items[i].marks)))
            if not _asked(items, i, j, across):
                continue
            if i in twins:
                yield (i, j), Pair(items[i].name, item.name, "identical", shared=1.0)
            elif common[i] >= _FEWEST_MARKS and share >= _LEAST_SHARE:
                yield (i, j), Pair(items[i].name, item.name, "shared samples", shared=share)
        for mark in item.marks:
            owners[mark].append(j)
        same[item.digest].append(j)


def _altered(items: list[_Item], across: bool, progress: Callable[[Iterable], Iterable]) -> Iterator[tuple[_Key, Pair]]:
    """Each piece of a record against all pieces of the records before it, one matrix product a record."""
    pieces = np.concatenate([i.pieces for i in items]) if items else _NOTHING[0]
    owner = np.repeat(np.arange(len(items)), [len(i.pieces) for i in items])
    within = np.concatenate([np.arange(len(i.pieces)) for i in items]) if items else owner
    ends = np.searchsorted(owner, np.arange(len(items)))
    for j in progress(range(len(items))):
        found: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
        for start in range(0, len(items[j].pieces), 512):
            r = items[j].pieces[start : start + 512] @ pieces[: ends[j]].T
            rows, columns = np.nonzero(np.abs(r) >= _CANDIDATE)
            size = np.abs(r[rows, columns])
            order = np.lexsort((-size, owner[columns]))
            owned = owner[columns[order]]
            rank = np.arange(len(owned)) - np.searchsorted(owned, owned)
            for k in order[rank < _ALIGNED_AT_MOST]:
                found[int(owner[columns[k]])].append((float(size[k]), int(within[columns[k]]), int(start + rows[k])))
        for i, best in found.items():
            if _asked(items, i, j, across):
                matches = [
                    m
                    for _, p, q in sorted(best, reverse=True)[:_ALIGNED_AT_MOST]
                    if (m := _aligned(items[i], items[j], p, q)) is not None
                ]
                if matches:
                    yield (i, j), max(matches, key=lambda m: (m.matched_s or 0.0, m.correlation or 0.0))


def _aligned(a: _Item, b: _Item, piece_a: int, piece_b: int) -> Pair | None:
    """The two leads on one time axis: the stretch around the pieces in which every 2 s correlate, where it is long enough."""
    x, y = a.x[a.lead[piece_a]], b.x[b.lead[piece_b]]
    centre, offset = int(a.at[piece_a]), int(b.at[piece_b]) - int(a.at[piece_a])
    near = _overlap(x, y, offset, centre - 2 * _BLOCK, centre + 2 * _BLOCK, margin=_SHIFT)
    if near is None:
        return None
    shifts = range(-_SHIFT, _SHIFT + 1)
    offset += max(shifts, key=lambda s: abs(_correlation(x[near], y[near.start + offset + s : near.stop + offset + s])))
    whole = _overlap(x, y, offset, 0, len(x))
    if whole is None:
        return None
    p, q = x[whole], y[whole.start + offset : whole.stop + offset]
    first, last = _stretch(p, q, (centre - whole.start) // _BLOCK)
    r = _correlation(p[first:last], q[first:last])
    length_s = (last - first) / _RATE_HZ
    enough = length_s >= _LEAST_S or (length_s >= _WHOLE_S and last - first > min(len(x), len(y)) - _BLOCK)
    if not enough or abs(r) < _COPY_R:
        return None
    if abs(r) < _ALONE_R and length_s < _MANY_S:
        start = whole.start + first
        if not _leads_agree(a, b, slice(start, start + last - first), offset):
            return None
    gain = r * float(q[first:last].std()) / float(p[first:last].std())
    leads = a.leads[a.lead[piece_a]], b.leads[b.lead[piece_b]]
    return Pair(a.name, b.name, "altered copy", None, *leads, offset / _RATE_HZ, length_s, r, gain)


def _leads_agree(a: _Item, b: _Item, part: slice, offset: int) -> bool:
    """Do most leads that both name correlate there?"""
    other = {name: row for name, row in zip(b.leads, b.x)}
    r = [
        abs(_correlation(row[part], other[name][part.start + offset : part.stop + offset]))
        for name, row in zip(a.leads, a.x)
        if name in other
    ]
    return len(r) >= _FEWEST_LEADS and float(np.mean(np.array(r) >= _AGREE_R)) >= _AGREE_SHARE


def _overlap(x: np.ndarray, y: np.ndarray, offset: int, first: int, last: int, margin: int = 0) -> slice | None:
    first, last = max(first, margin - offset, 0), min(last, len(x), len(y) - offset - margin)
    return slice(first, last) if last - first >= _BLOCK else None


def _stretch(p: np.ndarray, q: np.ndarray, block: int) -> tuple[int, int]:
    """First and last sample of the run of correlating blocks that holds `block`; an incomplete last block is left out."""
    n = len(p) // _BLOCK
    block = min(block, n - 1)
    good = [abs(_correlation(*(v[k * _BLOCK : (k + 1) * _BLOCK] for v in (p, q)))) >= _BLOCK_R for k in range(n)]
    if not good[block]:
        return 0, 0
    first, last = block, block + 1
    while first and good[first - 1]:
        first -= 1
    while last < n and good[last]:
        last += 1
    return first * _BLOCK, last * _BLOCK


def _correlation(p: np.ndarray, q: np.ndarray) -> float:
    if len(p) < 2:
        return 0.0
    p, q = p - p.mean(dtype=float), q - q.mean(dtype=float)
    size = float(np.sqrt((p @ p) * (q @ q)))
    return float(p @ q) / size if size > 1e-9 else 0.0


def _patients(items: list[_Item], across: bool) -> Iterator[Pair]:
    before: dict[str, list[int]] = defaultdict(list)
    for j, item in enumerate(items):
        if item.patient is None:
            continue
        for i in before[item.patient]:
            if _asked(items, i, j, across):
                yield Pair(items[i].name, item.name, "same patient")
        before[item.patient].append(j)
