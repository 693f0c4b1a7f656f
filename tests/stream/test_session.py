"""A stream's output is a function of its own samples: chunking, companions, slot, interruption and disorder change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xecg
from tests.tolerances import STREAM
from xecg import ops
from xecg.errors import StreamError, XECGError
from xecg.stream import Event, Stream, Token

LEADS = ("I", "II", "V2")
# Across companions the promise is to the bit on the cpu backend, and to rounding without it.
EXACT = not any(ops.backends(op, "cpu")["cpu"] for op in ("mlstm", "slstm", "linear", "causal_conv1d"))
RATE = 360.0


@pytest.fixture(scope="module")
def model() -> xecg.XECG:
    return xecg.load("tiny-causal")


def signals(n: int, seconds: float = 6.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.cumsum(rng.normal(0, 0.05, (3, int(seconds * RATE))), 1).astype(np.float32) for _ in range(n)]


def opened(model: xecg.XECG, ids: list[str], capacity: int = 8) -> Stream:
    stream = Stream(model, RATE, LEADS, capacity)
    for name in ids:
        stream.open(name)
    return stream


def whole(model: xecg.XECG, x: np.ndarray) -> list[Token]:
    stream = opened(model, ["a"])
    return tokens(stream.push("a", x) + stream.flush("a"))


def tokens(events: list[Token | Event]) -> list[Token]:
    return [e for e in events if isinstance(e, Token)]


def assert_same(found: list[Token], expected: list[Token], *, exact: bool = True) -> None:
    assert [(t.index, t.start, t.stop, t.valid) for t in found] == [
        (t.index, t.start, t.stop, t.valid) for t in expected
    ]
    for f, e in zip(found, expected):
        if exact:
            assert np.array_equal(f.embedding, e.embedding)
        assert np.abs(f.embedding - e.embedding).max() <= STREAM * np.abs(e.embedding).max()


def test_stream_equals_the_offline_causal_result(model: xecg.XECG) -> None:
    x = signals(1)[0]
    ready = xecg.ECGFrontend(model.spec, in_rate=RATE, leads=LEADS).apply(x)
    with torch.no_grad():
        offline = model.encode(torch.from_numpy(ready.x)[None])[0].numpy()
    found = whole(model, x)
    assert len(found) == len(offline) == 24
    assert max(np.abs(t.embedding - o).max() for t, o in zip(found, offline)) <= STREAM * np.abs(offline).max()


def test_stream_output_ignores_chunking(model: xecg.XECG) -> None:
    x = signals(1)[0]
    expected = whole(model, x)
    for seed in range(4):
        rng, stream, found, at = np.random.default_rng(seed), opened(model, ["a"]), [], 0
        while at < x.shape[1]:
            n = int(rng.integers(1, 200))
            found += stream.push("a", x[:, at : at + n], start=at)
            at += n
        assert_same(tokens(found + stream.flush("a")), expected)


def test_stream_output_ignores_companions_and_slot(model: xecg.XECG) -> None:
    xs = signals(7)
    alone = [whole(model, x) for x in xs]
    names = [f"p{k}" for k in range(7)]
    stream, found = opened(model, names), {name: [] for name in names}
    rng = np.random.default_rng(1)
    at = dict.fromkeys(names, 0)
    while True:
        some = [n for n in rng.permutation(names).tolist() if at[n] < xs[0].shape[1]][: int(rng.integers(1, 8))]
        if not some:
            break
        sizes = [int(rng.integers(1, 300)) for _ in some]
        chunks = [xs[names.index(n)][:, at[n] : at[n] + size] for n, size in zip(some, sizes)]
        for token in tokens(stream.push(some, chunks)):
            found[token.id].append(token)
        for n, c in zip(some, chunks):
            at[n] += c.shape[1]
    for name, expected in zip(names, alone):
        assert_same(found[name] + tokens(stream.flush(name)), expected, exact=EXACT)


def test_save_and_restore_continue_to_the_bit(model: xecg.XECG) -> None:
    x = signals(1)[0]
    expected = whole(model, x)
    first = opened(model, ["a", "b"])
    found = tokens(first.push("a", x[:, :777]))
    blob = first.save("a")
    second = opened(model, ["c", "d"])
    assert second.restore(blob) == "a"
    assert_same(found + tokens(second.push("a", x[:, 777:]) + second.flush("a")), expected)


def test_every_flipped_byte_of_a_saved_stream_is_refused(model: xecg.XECG) -> None:
    stream = opened(model, ["a"])
    stream.push("a", signals(1)[0][:, :500])
    blob = stream.save("a")
    other = opened(model, [])
    for at in {*range(0, len(blob), 997), 0, 9, 12, 30, 45, len(blob) - 1}:
        bad = bytearray(blob)
        bad[at] ^= 4
        with pytest.raises(StreamError):
            other.restore(bytes(bad))
    for cut in (0, 10, len(blob) - 1):
        with pytest.raises(StreamError):
            other.restore(blob[:cut])
    assert other.ids == ()
    with pytest.raises(StreamError, match="rate and leads"):
        Stream(model, 250.0, LEADS).restore(blob)


def test_a_bridged_gap_is_marked_and_keeps_the_state(model: xecg.XECG) -> None:
    x = signals(1)[0]
    stream = opened(model, ["a"])
    stream.push("a", x[:, :720], start=100)
    events = stream.push("a", x[:, 1440:], start=100 + 1440)
    assert events[0] == Event("a", "gap", 820, 720)
    found = tokens(events) + tokens(stream.flush("a"))
    assert any(not t.valid for t in found) and found[-1].index == 23


def test_a_long_gap_resets_the_state(model: xecg.XECG) -> None:
    x = signals(1)[0]
    expected = whole(model, x)
    stream = opened(model, ["a"])
    stream.push("a", x)
    far = 10_000_000
    events = stream.push("a", x, start=far)
    assert events[0] == Event("a", "reset", x.shape[1], far - x.shape[1])
    found = tokens(events) + tokens(stream.flush("a"))
    assert [t.index for t in found] == [t.index for t in expected]
    assert found[3].start == expected[3].start + far
    assert all(np.array_equal(f.embedding, e.embedding) for f, e in zip(found, expected))


def test_late_and_repeated_samples_are_dropped_and_counted_for_that_stream_only(model: xecg.XECG) -> None:
    xs = signals(2)
    expected = [whole(model, x) for x in xs]
    stream = opened(model, ["a", "b"])
    found = stream.push(["a", "b"], [xs[0][:, :1000], xs[1][:, :1000]])
    again = stream.push(["a", "b"], [xs[0][:, 500:1500], xs[1][:, 1000:1500]], start=[500, 1000])
    assert again[0] == Event("a", "late", 500, 500)
    twice = stream.push("a", xs[0][:, :400], start=0)
    assert twice == [Event("a", "late", 0, 400)]
    assert (stream.late("a"), stream.late("b")) == (900, 0)
    rest = stream.push(["a", "b"], [x[:, 1500:] for x in xs])
    for k, name in enumerate("ab"):
        mine = [t for t in tokens(found + again + rest) if t.id == name] + tokens(stream.flush(name))
        assert_same(mine, expected[k], exact=EXACT)


def test_nan_in_one_stream_leaves_the_others_bits(model: xecg.XECG) -> None:
    xs = signals(2)
    expected = whole(model, xs[1])
    bad = xs[0].copy()
    bad[:, 300:900] = np.nan
    stream = opened(model, ["a", "b"])
    found = stream.push(["a", "b"], [bad, xs[1]])
    assert_same([t for t in tokens(found) if t.id == "b"] + tokens(stream.flush("b")), expected, exact=EXACT)
    assert all(np.isfinite(t.embedding).all() for t in tokens(found))


def test_a_slot_is_clean_for_its_next_patient(model: xecg.XECG) -> None:
    xs = signals(2)
    stream = Stream(model, RATE, LEADS, 1)
    stream.open("a")
    stream.push("a", xs[0])
    stream.close("a")
    stream.open("b")
    assert_same(tokens(stream.push("b", xs[1]) + stream.flush("b")), whole(model, xs[1]))


def test_misuse_is_refused_by_name_and_changes_nothing(model: xecg.XECG) -> None:
    x = signals(1)[0]
    stream = opened(model, ["a", "b"], capacity=2)
    for use, facts in (
        (lambda: stream.open("a"), "already open"),
        (lambda: stream.open("c"), "full, 2 of 2"),
        (lambda: stream.push("z", x), "not open"),
        (lambda: stream.push(["a", "a"], [x, x]), "twice"),
        (lambda: stream.push(["a", "b"], [x]), "2 ids, 1 chunks"),
        (lambda: stream.push(["a", "b"], [x, x[:2]]), r"'b' has shape \(2, 2160\)"),
        (lambda: stream.push("a", x, start=-5), "at least 0"),
    ):
        with pytest.raises(StreamError, match=facts):
            use()
    assert_same(tokens(stream.push("a", x) + stream.flush("a")), whole(model, x))


def test_a_model_with_reverse_blocks_is_refused() -> None:
    with pytest.raises(XECGError, match="tiny-causal"):
        Stream(xecg.load("tiny"), RATE, LEADS)


def test_memory_per_patient_is_constant_and_small(model: xecg.XECG) -> None:
    stream = opened(model, ["a"])
    assert stream.state_bytes == 76_816
    sizes = set()
    for _ in range(5):
        stream.push("a", signals(1)[0][:, :1800])
        sizes.add(len(stream.save("a")))
    # what varies: a half-filled patch, the detector's history and pieces of it, the digits of its numbers
    assert max(sizes) - min(sizes) < 12 * 25 * 4 + 10_000 and max(sizes) < 100_000
