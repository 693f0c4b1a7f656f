"""The live front end: bits do not depend on chunks, companions or slots; saved states come back or are refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xecg.errors import ShapeError, StreamError
from xecg.signal import ECGFrontend, FilterSpec, FrontendStream, ModelInput, SignalSpec, kernel

LEADS = ("I", "II", "V1", "V5")
BAND = (FilterSpec("bandpass", 3, 0.5, 40.0),)
SPECS: dict[str, SignalSpec | str] = {
    "causal": "causal",
    "filter only": SignalSpec(rate=None, filters=BAND, phase="causal", resample="none"),
    "resample only": SignalSpec(phase="causal"),
    "up": SignalSpec(rate=500.0, phase="causal", filters=BAND, normalise="causal-zscore", tau_s=1.0),
    "z first": SignalSpec(phase="causal", filters=BAND, normalise="causal-zscore", normalise_first=True),
    "two filters": SignalSpec(
        rate=125.0, phase="causal", filters=(FilterSpec("highpass", 2, low_hz=0.3), FilterSpec("notch", low_hz=50.0))
    ),
}


@pytest.fixture(params=["compiled", "definition"], autouse=True, scope="module")
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs with the compiled form where it is built, and with the numpy definition."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "definition":
            patch.setattr(kernel, "native", lambda: None)
        yield


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def holed(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with gaps of all kinds: at the start, at the end, short, long, touching, in one lead or in all."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x, mask = noise(seed + 1, len(LEADS), n), np.ones((len(LEADS), n), dtype=bool)
    for _ in range(int(rng.integers(0, 12))):
        begin, length = int(rng.integers(-30, n)), int(rng.choice([1, 5, 24, 25, 26, 36, 37, 49, 50, 51, 120, 400]))
        rows = slice(None) if rng.random() < 0.3 else int(rng.integers(0, len(LEADS)))
        if rng.random() < 0.5:
            mask[rows, max(begin, 0) : max(begin + length, 0)] = False
        else:
            x[rows, max(begin, 0) : max(begin + length, 0)] = np.nan
    return x, mask


def in_chunks(stream: FrontendStream, slot: int, x: np.ndarray, mask: np.ndarray, cuts: list[int]) -> ModelInput:
    edges = [0, *sorted(min(c, x.shape[1]) for c in cuts), x.shape[1]]
    parts = [stream.push(slot, x[:, a:b], mask=mask[:, a:b]) for a, b in pairwise(edges)]
    parts.append(stream.flush(slot))
    return ModelInput(*(np.concatenate(p, axis=-1) for p in zip(*parts)))


def same_bits(a: ModelInput, b: ModelInput) -> None:
    assert a.x.shape == b.x.shape
    np.testing.assert_array_equal(a.x.view(np.int32), b.x.view(np.int32))
    np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("rate", [250, 360, 500])
def test_stream_output_ignores_chunking(name: str, rate: int) -> None:
    front = ECGFrontend(SPECS[name], in_rate=rate, leads=LEADS)
    stream = front.stream(3)
    for seed in range(6):
        rng = np.random.Generator(np.random.PCG64(1000 + seed))
        n = int(rng.integers(1, 1500))
        x, mask = holed(seed, n)
        cuts = [int(c) for c in rng.integers(0, n + 1, int(rng.integers(0, 40)))]
        same_bits(in_chunks(stream, seed % 3, x, mask, cuts), front.apply(x, mask=mask))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 900), cuts=st.lists(st.integers(0, 900), max_size=12))
def test_stream_output_ignores_any_cut(seed: int, n: int, cuts: list[int]) -> None:
    front = ECGFrontend("causal", in_rate=360, leads=LEADS)
    x, mask = holed(seed, n)
    same_bits(in_chunks(front.stream(), 0, x, mask, cuts), front.apply(x, mask=mask))


def test_one_sample_at_a_time_gives_the_same_bits() -> None:
    front = ECGFrontend("causal", in_rate=250, leads=LEADS)
    x, mask = holed(3, 700)
    same_bits(in_chunks(front.stream(), 0, x, mask, list(range(700))), front.apply(x, mask=mask))


def test_stream_output_ignores_companions_and_slot() -> None:
    front = ECGFrontend("causal", in_rate=500, leads=LEADS)
    records = [holed(100 + p, 900) for p in range(5)]
    stream, got = front.stream(9), [[] for _ in records]  # type: ignore[var-annotated]
    for begin in range(0, 900, 90):
        for p, slot in enumerate((8, 0, 4, 2, 7)):
            x, mask = records[p]
            got[p].append(stream.push(slot, x[:, begin : begin + 90], mask=mask[:, begin : begin + 90]))
    for p, slot in enumerate((8, 0, 4, 2, 7)):
        got[p].append(stream.flush(slot))
        whole = ModelInput(*(np.concatenate(parts, axis=-1) for parts in zip(*got[p])))
        same_bits(whole, front.apply(records[p][0], mask=records[p][1]))


def test_gap_rule_is_the_offline_one() -> None:
    x = noise(20, 4, 3000)
    mask = np.ones_like(x, dtype=bool)
    mask[0, 1000:1040], mask[1, 1500:1800] = False, False
    spec = SignalSpec(rate=None, leads=LEADS, filters=BAND, resample="none")
    causal = SignalSpec.from_dict({**spec.to_dict(), "phase": "causal"})
    offline, live = (ECGFrontend(s, in_rate=500, leads=LEADS).apply(x, mask=mask) for s in (spec, causal))
    np.testing.assert_array_equal(live.mask, offline.mask)
    assert live.mask[0].all() and not live.mask[1, 1500:1800].any()


def test_samples_wait_only_while_a_short_gap_is_open() -> None:
    stream = ECGFrontend(SPECS["filter only"], in_rate=500, leads=LEADS).stream()
    x, missing = noise(21, 4, 100), np.zeros((4, 100), dtype=bool)
    assert stream.push(0, x).x.shape[1] == 100
    one = ~missing
    one[2, 60:] = False
    assert stream.push(0, x, mask=one).x.shape[1] == 60
    out = stream.push(0, x, mask=missing)  # now 140 samples in lead V1, but 100 in the others: all decided as long
    assert out.x.shape[1] == 140


@pytest.mark.parametrize("start", [0, 100])
def test_short_gap_cut_by_a_companion_leads_gap_is_one_line(start: int) -> None:
    front = ECGFrontend(SPECS["filter only"], in_rate=500, leads=LEADS)
    x = noise(24, 4, 400)
    mask = np.ones_like(x, dtype=bool)
    mask[0, start : start + 40], mask[1, start + 20 : start + 65] = False, False
    stream = front.stream()
    head = stream.push(0, x[:, : start + 50], mask=mask[:, : start + 50])
    assert head.x.shape[1] == start + 20  # lead II's gap is open, lead I's is decided but half of it has to wait
    tail = [stream.push(0, x[:, start + 50 :], mask=mask[:, start + 50 :]), stream.flush(0)]
    same_bits(ModelInput(*(np.concatenate(p, axis=-1) for p in zip(head, *tail))), front.apply(x, mask=mask))


def test_gap_given_by_start_is_a_masked_gap() -> None:
    front = ECGFrontend("causal", in_rate=500, leads=LEADS)
    x = noise(22, 4, 200_000)
    mask = np.ones_like(x, dtype=bool)
    mask[:, 5000:100_000] = False
    stream = front.stream()
    parts = [stream.push(0, x[:, :5000]), stream.push(0, x[:, 100_000:], start=100_000), stream.flush(0)]
    same_bits(ModelInput(*(np.concatenate(p, axis=-1) for p in zip(*parts))), front.apply(x, mask=mask))


def test_late_samples_are_dropped_and_counted() -> None:
    front = ECGFrontend("causal", in_rate=500, leads=LEADS)
    x = noise(23, 4, 1000)
    stream = front.stream()
    parts = [
        stream.push(0, x[:, :400]),
        stream.push(0, x[:, 100:300], start=100),
        stream.push(0, x[:, 350:], start=350),
    ]
    assert stream.late(0) == 250 and stream.position(0) == 1000
    parts.append(stream.flush(0))
    same_bits(ModelInput(*(np.concatenate(p, axis=-1) for p in zip(*parts))), front.apply(x))


@pytest.mark.parametrize("name", SPECS)
def test_restored_state_goes_on_with_the_same_bits(name: str) -> None:
    front = ECGFrontend(SPECS[name], in_rate=360, leads=LEADS)
    for seed in range(4):
        x, mask = holed(40 + seed, 800)
        cut = 100 + 150 * seed
        a = front.stream(2)
        head = a.push(1, x[:, :cut], mask=mask[:, :cut])
        blob = a.save(1)
        b = ECGFrontend(SPECS[name], in_rate=360, leads=LEADS).stream(7)
        b.restore(5, blob)
        assert b.save(5) == blob and b.position(5) == cut
        tail = [b.push(5, x[:, cut:], mask=mask[:, cut:]), b.flush(5)]
        whole = ModelInput(*(np.concatenate(p, axis=-1) for p in zip(head, *tail)))
        same_bits(whole, front.apply(x, mask=mask))


def test_every_flipped_byte_of_a_saved_state_is_refused() -> None:
    stream = ECGFrontend("causal", in_rate=360, leads=("II",)).stream()
    stream.push(0, noise(50, 1, 333))
    blob = stream.save(0)
    for place in range(0, len(blob), 7):
        with pytest.raises(StreamError):
            stream.restore(0, blob[:place] + bytes([blob[place] ^ 0x10]) + blob[place + 1 :])
    for cut in (0, 10, len(blob) - 1):
        with pytest.raises(StreamError):
            stream.restore(0, blob[:cut])
    with pytest.raises(StreamError):
        stream.restore(0, blob + b"\0")
    assert stream.save(0) == blob


def test_state_of_another_plan_or_version_is_refused() -> None:
    stream = ECGFrontend("causal", in_rate=360, leads=("II",)).stream()
    for other in (
        ECGFrontend("causal", in_rate=500, leads=("II",)),
        ECGFrontend("causal", in_rate=360, leads=("I",)),
        ECGFrontend("causal", in_rate=360, leads=("II",), initial="zero"),
    ):
        with pytest.raises(StreamError, match="plan"):
            stream.restore(0, other.stream().save(0))
    blob = bytearray(stream.save(0))
    blob[8:10] = struct.pack("<H", 3)
    blob[-4:] = struct.pack("<I", zlib.crc32(blob[:-4]))
    with pytest.raises(StreamError, match="version 3"):
        stream.restore(0, bytes(blob))
    blob = bytearray(stream.save(0))
    blob[26:30] = struct.pack("<I", 2**31)
    blob[-4:] = struct.pack("<I", zlib.crc32(blob[:-4]))
    with pytest.raises(StreamError, match="rows"):
        stream.restore(0, bytes(blob))


def test_wrong_use_of_a_stream_is_refused() -> None:
    stream = ECGFrontend("causal", in_rate=500, leads=LEADS).stream(2)
    with pytest.raises(StreamError, match=r"0\.\.1"):
        stream.push(2, noise(60, 4, 10))
    with pytest.raises(ShapeError, match=r"\(3, 10\)"):
        stream.push(0, noise(60, 3, 10))
    with pytest.raises(ShapeError, match="every lead"):
        stream.push(0, [[0.0, 1.0], [0.0], [0.0], [0.0]])  # type: ignore[arg-type]
    with pytest.raises(StreamError, match="reset"):
        stream.push(0, noise(60, 4, 10), start=10**12)
    assert stream.position(0) == 0 and stream.push(0, np.zeros((4, 0))).x.shape == (12, 0)
