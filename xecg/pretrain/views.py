"""Views of a record: crops, augmentations and masks, each from its own counter-based random numbers.

What view v of a record is depends on (seed, epoch, record id, v) and nothing else: not on the order of records, the
batch, the number of workers or what was drawn before, so a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xecg.errors import SpecError

__all__ = [
    "MASK_RULES",
    "Batch",
    "ViewSettings",
    "block_mask",
    "draw",
    "make_batch",
    "placed",
    "reference_mask",
    "stretch_of",
    "view",
]

MASK_RULES = ("exact", "reference")


@dataclass(frozen=True)
class ViewSettings:
    """How views are made. Fractions are of the record; gain, rate: largest relative change, either way.

    lead_drop: chance of each lead but II to be 0. few_leads: chance that II and at most one other lead are all that stays.
    jitter: chance of x ← x + jitter_gain·x·N(0, jitter_sd²) for every sample. mask_ratio of the tokens of a global view
    are hidden in blocks of mask_block, by `MASK_RULES`. mask_chance: of a global view to have any hidden.
    """

    global_views: int = 2
    local_views: int = 4
    global_fraction: float = 0.8
    local_fraction: float = 0.4
    mask_ratio: float = 0.3
    mask_block: int = 4
    mask_rule: str = "exact"
    mask_chance: float = 1.0
    lead_drop: float = 0.2
    few_leads: float = 0.0
    gain: float = 0.1
    jitter: float = 0.1
    jitter_gain: float = 0.6
    jitter_sd: float = 0.2
    rate: float = 0.0

    def __post_init__(self) -> None:
        if self.global_views < 2 or self.local_views < 0:
            raise SpecError(
                f"views are {self.global_views} global, {self.local_views} local; needed 2 or more, 0 or more"
            )
        if self.mask_rule not in MASK_RULES or self.mask_block < 1:
            raise SpecError(f"mask rule is {self.mask_rule!r}, block {self.mask_block}; needed {MASK_RULES}, 1 or more")
        if not 0 < self.local_fraction <= 1 or not 0 < self.global_fraction <= 1 or not 0 < self.mask_ratio < 1:
            raise SpecError("view fractions must lie in (0, 1], the mask ratio in (0, 1)")
        for name in ("lead_drop", "few_leads", "jitter", "mask_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} is {getattr(self, name)}; needed a chance in 0..1")
        if not 0 <= self.gain < 1 or not 0 <= self.rate < 0.5:
            raise SpecError(f"gain is {self.gain}, rate {self.rate}; needed 0 ≤ gain < 1 and 0 ≤ rate < 0.5")


class Batch(NamedTuple):
    """Views of m records as arrays, view after view: row v·m + i is view v of record i.

    x float32 (V·m, leads, samples), 0 after each view's end · lengths int64 (V·m,), whole patches ·
    hidden bool (V_g·m, tokens) for the global views, None for local ones · places float64 (V·m, 2): start and stretch of each,
    in samples of its record.
    """

    x: np.ndarray
    lengths: np.ndarray
    hidden: np.ndarray | None
    places: np.ndarray


def draw(seed: int, epoch: int, *key: object) -> np.random.Generator:
    """Random numbers named by (seed, epoch, key…): Philox, whose key is a BLAKE2b hash of the names."""
    text = "\x1f".join(str(part) for part in (seed, epoch, *key))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


def block_mask(rng: np.random.Generator, tokens: int, *, ratio: float, block: int) -> np.ndarray:
    """bool (tokens,): exactly round(ratio·tokens), at least 1, hidden, in blocks that do not wrap round the ends.

    Blocks are `block` long but for one with the rest; every arrangement of them is equally likely, neighbours may touch.
    """
    count = max(1, round(ratio * tokens))
    sizes = [block] * (count // block) + ([count % block] if count % block else [])
    rng.shuffle(sizes)
    slots = np.sort(rng.choice(tokens - count + len(sizes), len(sizes), replace=False))
    hidden = np.zeros(tokens, dtype=bool)
    before = 0  # tokens of earlier blocks, each of which took one slot
    for index, (slot, size) in enumerate(zip(slots.tolist(), sizes)):
        start = slot - index + before
        hidden[start : start + size] = True
        before += size
    return hidden


def reference_mask(rng: np.random.Generator, tokens: int, *, ratio: float, block: int) -> np.ndarray:
    """bool (tokens,): the published rule. Starts where u < ratio/block, joined with block − 1 left rolls that wrap.

    Its expected share is 1 − (1 − ratio/block)^block, and it may hide nothing.
    """
    start = rng.random(tokens) < ratio / block
    return np.logical_or.reduce([np.roll(start, -k) for k in range(block)])


def view(
    x: np.ndarray, rng: np.random.Generator, settings: ViewSettings, *, fraction: float, patch: int, second: int = 1
) -> np.ndarray:
    """One augmented crop of x float32 (leads, n): `fraction` of it, cut to whole patches of `patch` samples.

    second: the row of lead II, which is never dropped. The numbers drawn do not depend on the content of x.
    """
    return placed(x, rng, settings, fraction=fraction, patch=patch, second=second)[0]


def placed(
    x: np.ndarray, rng: np.random.Generator, settings: ViewSettings, *, fraction: float, patch: int, second: int
) -> tuple[np.ndarray, float, float]:
    """`view`, and where it lies: its sample i is sample start + i·stretch of x."""
    leads, n = x.shape
    stretch = 1 + settings.rate * rng.uniform(-1, 1)
    size = max(patch, int(fraction * n) // patch * patch)
    start = rng.uniform() * max(0.0, n - 1 - stretch * (size - 1))
    start = start if settings.rate else round(start)
    out = stretch_of(x, start, stretch, size, exact=not settings.rate)
    out *= rng.uniform(1 - settings.gain, 1 + settings.gain, (leads, 1)).astype(np.float32)
    dropped = np.less(rng.uniform(size=leads), settings.lead_drop)
    few, kept = rng.uniform() < settings.few_leads, int(rng.integers(leads))
    if few:
        dropped = np.arange(leads) != kept
    dropped[second] = False
    out[dropped] = 0
    if rng.uniform() < settings.jitter:
        out *= 1 + settings.jitter_gain * settings.jitter_sd * rng.standard_normal(out.shape, dtype=np.float32)
    return out, start, stretch


def stretch_of(x: np.ndarray, start: float, stretch: float, size: int, *, exact: bool) -> np.ndarray:
    """`size` samples of x (leads, n) from `start` on, `stretch` apart, between neighbours along straight lines.

    exact: as they are, from the sample nearest to `start`; then what x ends before is 0.
    """
    if exact:
        first = round(start)
        part = x[:, first : first + size]
        return part.copy() if part.shape[1] == size else np.pad(part, ((0, 0), (0, size - part.shape[1])))
    at = np.minimum(start + stretch * np.arange(size), x.shape[1] - 1)
    low = np.minimum(at.astype(np.int64), x.shape[1] - 2)
    share = (at - low).astype(np.float32)
    return x[:, low] * (1 - share) + x[:, low + 1] * share


def make_batch(
    records: list[tuple[str, np.ndarray]],
    settings: ViewSettings,
    *,
    seed: int,
    epoch: int,
    patch: int,
    second: int = 1,
    partners: list[np.ndarray] | None = None,
) -> tuple[Batch, Batch | None]:
    """The global and the local views of records (id, x); None where settings want no local ones.

    partners: for each record the x that its odd views are of, default its own.
    """
    total = settings.global_views + settings.local_views
    crops: list[np.ndarray] = []
    hidden: list[np.ndarray] = []
    places: list[tuple[float, float]] = []
    rule = block_mask if settings.mask_rule == "exact" else reference_mask
    for v in range(total):
        wide = v < settings.global_views
        fraction = settings.global_fraction if wide else settings.local_fraction
        for i, (name, own) in enumerate(records):
            x = partners[i] if partners is not None and v % 2 else own
            rng = draw(seed, epoch, name, v)
            crop, *place = placed(x, rng, settings, fraction=fraction, patch=patch, second=second)
            crops.append(crop)
            places.append((place[0], place[1]))
            if wide:
                mask = rule(rng, crop.shape[1] // patch, ratio=settings.mask_ratio, block=settings.mask_block)
                hidden.append(mask & (rng.uniform() < settings.mask_chance))
    first = settings.global_views * len(records)
    wide_batch = _padded(crops[:first], hidden, patch, places[:first])
    return wide_batch, _padded(crops[first:], None, patch, places[first:]) if total > settings.global_views else None


def _padded(
    crops: list[np.ndarray], hidden: list[np.ndarray] | None, patch: int, places: list[tuple[float, float]]
) -> Batch:
    lengths = np.array([crop.shape[1] for crop in crops], np.int64)
    x = np.zeros((len(crops), crops[0].shape[0], lengths.max()), np.float32)
    for row, crop in zip(x, crops):
        row[:, : crop.shape[1]] = crop
    if hidden is None:
        return Batch(x, lengths, None, np.array(places))
    mask = np.zeros((len(crops), x.shape[2] // patch), dtype=bool)
    for line, part in zip(mask, hidden):
        line[: len(part)] = part
    return Batch(x, lengths, mask, np.array(places))
