"""A window stream's tokens are those of its windows encoded alone, however the signal came, and no later than it says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import xecg
from xecg.errors import SpecError, StreamError
from xecg.model import XECG, XECGConfig
from xecg.signal import PRESETS, preprocess, simulate
from xecg.stream import Event, Stream, Token, WindowStream, measure_parity

LEADS = ("I", "II", "V2")
SECONDS: dict[str, Any] = {"context_s": 3.0, "hop_s": 1.0, "look_ahead_s": 0.5}
# Of the worst token, with ten seconds of look-ahead and context in place of a minute: far from equal, and far from unrelated.
TOL_NEAR = 0.9


@pytest.fixture(scope="module")
def model() -> XECG:
    return xecg.load("tiny")


def recording(seconds: float = 12.0, rate: float = 250.0, seed: int = 2) -> xecg.Recording:
    made = simulate.ecg(seed=seed, rate_hz=rate, duration_s=seconds)
    rows = [made.leads.index(lead) for lead in LEADS]
    return made.with_(signal=made.signal[rows], mask=made.mask[rows], leads=LEADS, annotations=None)


def tokens(found: list[Token | Event]) -> list[Token]:
    return [item for item in found if isinstance(item, Token)]


def played(model: XECG, r: xecg.Recording, sizes: list[int] | None = None) -> list[Token | Event]:
    """The record in one push, or in pushes of these sizes in turn; then the flush."""
    stream = WindowStream(model, r.rate, r.leads, **SECONDS)
    x = np.where(r.mask, r.signal, np.float32(np.nan))
    found, at, turn = [], 0, 0
    while at < x.shape[1]:
        n = x.shape[1] if sizes is None else sizes[turn % len(sizes)]
        found += stream.push(x[:, at : at + n])
        at, turn = at + n, turn + 1
    return found + stream.flush()


def assert_same(found: list[Token], expected: list[Token]) -> None:
    assert [(t.id, t.index, t.start, t.stop, t.valid) for t in found] == [
        (t.id, t.index, t.start, t.stop, t.valid) for t in expected
    ]
    assert all(np.array_equal(f.embedding, e.embedding) for f, e in zip(found, expected))


@pytest.mark.parametrize("rate", [250.0, 360.0, 333.0])
def test_output_ignores_chunking_to_the_bit(model: XECG, rate: float) -> None:
    r = recording(8.0, rate)
    expected = played(model, r)
    assert len(tokens(expected)) == 32
    for sizes in ([1, 700, 13], [90], [250, 0, 3]):
        found = played(model, r, sizes)
        assert_same(tokens(found), tokens(expected))
        assert [e for e in found if isinstance(e, Event)] == [e for e in expected if isinstance(e, Event)]


def test_a_token_is_that_of_its_window_alone(model: XECG) -> None:
    r = recording()
    found = tokens(played(model, r))
    assert [t.index for t in found] == list(range(48))
    for first, begin, end in ((0, 0.0, 1.5), (8, 0.0, 3.5), (24, 3.0, 7.5)):  # of the hop; of the window, s
        part = slice(round(begin * r.rate), round(end * r.rate))
        alone = preprocess(r.with_(signal=r.signal[:, part], mask=r.mask[:, part]), model.spec)
        with torch.inference_mode():
            y = model.encode(torch.from_numpy(alone.x)[None], mask=torch.from_numpy(alone.mask)[None])[0].numpy()
        skip = first - round(begin * 4)
        assert np.array_equal(np.stack([t.embedding for t in found[first : first + 4]]), y[skip : skip + 4])


def test_a_window_begins_on_a_whole_sample(model: XECG) -> None:
    r = recording(6.0)  # 62.5 samples a token: every other token begins on one
    stream = WindowStream(model, r.rate, LEADS, context_s=3, hop_s=0.25, look_ahead_s=0.5)
    token = next(
        t for t in tokens(stream.push(r.signal)) if t.index == 15
    )  # its context would begin at token 3, at 187.5
    part = slice(125, 18 * 125 // 2)
    alone = preprocess(r.with_(signal=r.signal[:, part], mask=r.mask[:, part]), model.spec)
    with torch.inference_mode():
        y = model.encode(torch.from_numpy(alone.x)[None], mask=torch.from_numpy(alone.mask)[None])[0].numpy()
    assert np.array_equal(token.embedding, y[13])


def test_tokens_cover_the_signal_without_hole_or_overlap(model: XECG) -> None:
    for rate in (250.0, 360.0, 333.0):
        found = tokens(played(model, recording(8.0, rate)))
        assert found[0].start == 0 and found[-1].stop == 8 * rate
        assert all(a.stop == b.start for a, b in pairwise(found))


@pytest.mark.parametrize(("rate", "spec"), [(250.0, "poly"), (360.0, "poly"), (333.0, "poly"), (250.0, "causal")])
def test_the_latency_is_the_one_stated(rate: float, spec: str) -> None:
    model = XECG(XECGConfig(blocks="sm", dim=16, heads=2), spec=PRESETS[spec]).eval()
    r, waited, positions = recording(6.0, rate), [], []
    stream = WindowStream(model, rate, LEADS, context_s=1, hop_s=0.75, look_ahead_s=0.5, beats=False)
    for at in range(r.signal.shape[1]):
        for token in tokens(stream.push(r.signal[:, at : at + 1])):
            waited.append((at + 1 - token.start) / rate)
            positions.append(token.index)
    assert positions == list(range(len(positions))) and len(positions) >= 18
    stated = stream.latency_s - stream._frontend.filter_delay_s  # a filter's delay is no matter of sample indices
    assert max(waited) == pytest.approx(stated, abs=1.5 / rate)
    assert min(waited[4:]) == pytest.approx(stated - stream.hop_s + 0.25, abs=1.5 / rate)
    assert stream.latency_s >= 1.25


def test_durations_are_rounded_up_to_tokens_and_kept(model: XECG) -> None:
    stream = WindowStream(model, 250, LEADS, context_s=2.6, hop_s=0.01, look_ahead_s=0)
    assert (stream.context_s, stream.hop_s, stream.look_ahead_s) == (2.75, 0.25, 0.0)
    assert stream.latency_s == 0.25
    before = stream.buffer_bytes
    for _ in range(20):
        stream.push(np.zeros((3, 250), np.float32))
    assert stream.buffer_bytes == before < 4 * 3 * 250 * 4


def test_flush_gives_what_waits_and_the_stream_begins_anew(model: XECG) -> None:
    r = recording(6.0)
    stream = WindowStream(model, r.rate, LEADS, **SECONDS)
    first = tokens(stream.push(r.signal) + stream.flush())
    second = tokens(stream.push(r.signal) + stream.flush())
    assert len(first) == 24 and stream.flush() == []
    assert stream.position == second[-1].stop == 2 * r.signal.shape[1]
    assert [t.start - r.signal.shape[1] for t in second] == [t.start for t in first]
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(first, second))


def test_missing_samples_make_invalid_tokens_and_nothing_else(model: XECG) -> None:
    r = recording()
    signal = r.signal.copy()
    signal[:, 1000:1600] = np.nan  # 4.0 to 6.4 s
    stream = WindowStream(model, r.rate, LEADS, **SECONDS)
    found = tokens(stream.push(signal) + stream.flush())
    assert [t.index for t in found] == list(range(48)) and np.isfinite([t.embedding for t in found]).all()
    assert {t.index for t in found if not t.valid} >= set(range(17, 25)) and all(
        t.valid for t in found[:15] + found[27:]
    )
    one = signal.copy()
    one[0], one[2] = np.nan, np.inf  # leads that are off
    stream = WindowStream(model, r.rate, LEADS, **SECONDS)
    assert np.isfinite([t.embedding for t in tokens(stream.push(one) + stream.flush())]).all()


def test_too_little_signal_gives_no_token(model: XECG) -> None:
    stream = WindowStream(model, 250, LEADS, **SECONDS)
    assert stream.push(np.zeros((3, 0), np.float32)) == [] and stream.flush() == []
    assert stream.push(np.zeros((3, 60), np.float32)) == [] and stream.flush() == []
    with pytest.raises(StreamError, match="no token to compare"):
        measure_parity(model, recording(0.2), **SECONDS)


def test_beats_are_those_of_a_causal_stream(model: XECG) -> None:
    r = recording()
    causal = Stream(xecg.load("tiny-causal"), r.rate, LEADS)
    causal.open("window")
    expected = [e for e in causal.push("window", r.signal) + causal.flush("window") if isinstance(e, Event)]
    assert [e for e in played(model, r) if isinstance(e, Event)] == expected and len(expected) > 8


def test_parity_is_exact_where_the_window_holds_the_record(model: XECG) -> None:
    r = recording()
    found = measure_parity(model, r, context_s=12, hop_s=1, look_ahead_s=12)
    assert (found.tokens, found.largest_relative) == (48, 0.0)
    assert found.worst_cosine == pytest.approx(1) and found.latency_s == 13
    missing = r.with_(mask=r.mask & (np.arange(r.mask.shape[1]) > 700))
    assert measure_parity(model, missing, context_s=12, hop_s=3, look_ahead_s=12).largest_relative == 0


def test_parity_grows_with_the_window_and_is_measured_not_assumed(model: XECG) -> None:
    r = recording(40.0)
    short, long = (measure_parity(model, r, context_s=c, hop_s=1, look_ahead_s=a) for c, a in ((1, 0), (16, 4)))
    assert short.tokens == long.tokens == 160
    assert long.largest_relative > 0 and long.median_cosine > max(short.median_cosine, TOL_NEAR)


def test_any_weights_run_in_windows() -> None:
    model = xecg.load("tiny-causal")
    r = recording()
    found = tokens(played(model, r))
    assert len(found) == 48 and np.isfinite([t.embedding for t in found]).all()
    assert measure_parity(model, r, context_s=12, hop_s=1, look_ahead_s=1).median_cosine > TOL_NEAR


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_s": 0}, "hop_s is 0; needed more than 0"),
        ({"context_s": -1.0}, "context_s is -1.0; needed at least 0"),
        ({"look_ahead_s": float("nan")}, "look_ahead_s is nan"),
        ({"context_s": 1e9}, "at most 86,400 s"),
    ],
)
def test_durations_out_of_range_are_refused(model: XECG, change: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamError, match=message):
        WindowStream(model, 250, LEADS, **{**SECONDS, **change})


def test_wrong_samples_change_nothing(model: XECG) -> None:
    r = recording(6.0)
    stream = WindowStream(model, r.rate, LEADS, **SECONDS)
    found = stream.push(r.signal[:, :400])
    for wrong in (r.signal[:2], r.signal[0], (r.signal[:, :5] * 1000).astype(np.int16)):
        with pytest.raises(StreamError, match=r"needed float mV \(3, n\)"):
            stream.push(wrong)
    assert_same(tokens(found + stream.push(r.signal[:, 400:]) + stream.flush()), tokens(played(model, r)))
    with pytest.raises(SpecError):
        WindowStream(model, 250, ("nonsense",), **SECONDS)
