"""What a bad client does is told to that client alone; the others' lines stay the same to the bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import xecg
from xecg.signal import simulate
from xecg.stream import Stream
from xecg.stream.hub import Client, Hub

LEADS = ("I", "II", "V2")
RATE = 250.0


@pytest.fixture(scope="module")
def model() -> xecg.XECG:
    return xecg.load("tiny-causal")


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    made = simulate.ecg(seed=1, rate_hz=RATE, duration_s=6.0)
    return made.signal[[made.leads.index(lead) for lead in LEADS]]


def opening(name: str, **changes: Any) -> bytes:
    return json.dumps({"open": name, "rate": RATE, "unit": "mV", "leads": LEADS, **changes}).encode()


def pushing(name: str, x: np.ndarray, start: int | None = None) -> bytes:
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in x]
    return json.dumps({"push": name, "samples": rows, **({} if start is None else {"start": start})}).encode()


def told(client: Client, hub: Hub) -> list[dict[str, Any]]:
    hub.work()
    lines, client.out = client.out, []
    return lines


def good(hub: Hub, client: Client, x: np.ndarray, between: Any = lambda: None) -> list[dict[str, Any]]:
    hub.take(client, opening("good"))
    for at in range(0, x.shape[1], 100):
        hub.take(client, pushing("good", x[:, at : at + 100], at))
        between()
        hub.work()
    hub.take(client, json.dumps({"close": "good"}).encode())
    return told(client, hub)


BAD = {
    "garbage": b"\x00\xff\x80 not json",
    "a list": b"[1, 2]",
    "nothing known": b'{"hello": "x"}',
    "one field too many": b'{"close": "bad", "please": 1}',
    "a key twice": b'{"close": "bad", "close": "bad"}',
    "deep": b"[" * 5000,
    "push before open": pushing("bad", np.zeros((3, 5))),
    "push to somebody else's": pushing("good", np.zeros((3, 5))),
    "close somebody else's": b'{"close": "good"}',
    "open somebody else's": opening("good"),
    "unknown rate": opening("bad", rate=500.0),
    "rate as text": opening("bad", rate="250"),
    "unknown unit": opening("bad", unit="counts"),
    "unit as a list": opening("bad", unit=["mV"]),
    "no unit": json.dumps({"open": "bad", "rate": RATE, "leads": LEADS}).encode(),
    "other leads": opening("bad", leads=["II", "I", "V2"]),
    "empty id": opening(""),
    "id that is no text": opening("bad").replace(b'"bad"', b"7"),
    "id that cannot be written": opening("bad").replace(b"bad", b"\\ud800"),
}
BAD_PUSH = {
    "two leads": pushing("bad", np.zeros((2, 5))),
    "unequal leads": b'{"push": "bad", "samples": [[1], [1, 2], [1]]}',
    "NaN": b'{"push": "bad", "samples": [[NaN], [1], [1]]}',
    "infinity": b'{"push": "bad", "samples": [[1e400], [1], [1]]}',
    "text": b'{"push": "bad", "samples": [["1"], [1], [1]]}',
    "bool": b'{"push": "bad", "samples": [[true], [1], [1]]}',
    "no samples": b'{"push": "bad"}',
    "microvolts called millivolts": pushing("bad", np.full((3, 5), 5e4)),
    "a number of 5,000 digits": b'{"push": "bad", "samples": [[' + b"9" * 5000 + b"], [1], [1]]}",
    "a number of 400 digits": b'{"push": "bad", "samples": [[' + b"9" * 400 + b"], [1], [1]]}",
    "negative start": pushing("bad", np.zeros((3, 5)), -1),
    "start that is no number": b'{"push": "bad", "samples": [[1], [1], [1]], "start": 1.5}',
}


@pytest.mark.parametrize("what", [*BAD, *BAD_PUSH])
def test_a_bad_message_is_an_error_of_its_client_alone(model: xecg.XECG, signal: np.ndarray, what: str) -> None:
    expected = good(Hub(Stream(model, RATE, LEADS, 2)), Client(), signal)
    hub, client, bad = Hub(Stream(model, RATE, LEADS, 2)), Client(), Client()

    def interfere() -> None:
        if not bad.messages:
            if what in BAD_PUSH:
                hub.take(bad, opening("bad"))
            hub.take(bad, {**BAD, **BAD_PUSH}[what])

    assert good(hub, client, signal, interfere) == expected
    errors = [line for line in told(bad, hub) if line["kind"] == "error"]
    assert len(errors) == 1 and errors[0]["message"] == bad.messages and bad.errors == hub.counts["errors"] == 1
    assert client.errors == 0 and not bad.failed
    if what in BAD_PUSH:  # its stream lives on
        hub.take(bad, pushing("bad", signal))
        assert any(line["kind"] == "token" for line in told(bad, hub))


@pytest.mark.parametrize("what", ["missing", "saturated", "empty", "far future", "late"])
def test_odd_samples_touch_no_other_stream(model: xecg.XECG, signal: np.ndarray, what: str) -> None:
    expected = good(Hub(Stream(model, RATE, LEADS, 2)), Client(), signal)
    hub, client, odd = Hub(Stream(model, RATE, LEADS, 2)), Client(), Client()
    chunk, starts = np.full((3, 100), {"missing": np.nan, "saturated": 5.0}.get(what, 0.1)), iter(range(0, 10**6, 100))
    if what == "empty":
        chunk = chunk[:, :0]

    def push() -> None:
        start = {"far future": 2**61 + next(starts) * 10**6, "late": 0}.get(what)
        hub.take(odd, pushing("odd", chunk, start))

    hub.take(odd, opening("odd"))
    assert good(hub, client, signal, push) == expected
    lines = told(odd, hub)
    assert not odd.errors and all(np.isfinite(line.get("embedding", 0)).all() for line in lines)
    events = {line["event"] for line in lines if line["kind"] == "event"}
    assert events == {"far future": {"reset"}, "late": {"late"}}.get(what, set())
    assert hub.counts["empty chunks"] == (15 if what == "empty" else 0)


def test_the_third_error_ends_a_client(model: xecg.XECG) -> None:
    hub, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
    for _ in range(3):
        assert not client.failed
        hub.take(client, b"x")
    assert client.failed


def test_one_too_many_is_told_how_many_there_are(model: xecg.XECG) -> None:
    hub, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
    hub.take(client, opening("a"))
    hub.take(client, opening("b"))
    assert "1 of 1" in told(client, hub)[-1]["text"]


def test_microvolts_are_a_thousandth(model: xecg.XECG, signal: np.ndarray) -> None:
    found = []
    for unit, scale in (("mV", 1), ("uV", 1000)):
        hub, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
        hub.take(client, opening("a", unit=unit))
        hub.take(client, pushing("a", (signal * 1024).round() / 1024 * scale))
        found.append([line["embedding"] for line in told(client, hub) if line["kind"] == "token"])
    assert np.allclose(found[0], found[1], atol=1e-3) and len(found[0]) == 24


def test_a_client_that_went_away_is_gone_on_with_and_its_gap_is_marked(model: xecg.XECG, signal: np.ndarray) -> None:
    hub, first, second = Hub(Stream(model, RATE, LEADS, 1)), Client(), Client()
    hub.take(first, opening("a"))
    hub.take(first, pushing("a", signal[:, :500]))
    hub.leave(first)
    assert hub.stream.ids == ()
    hub.take(second, opening("a"))
    hub.take(second, pushing("a", signal[:, 700:], 700))
    lines = told(second, hub)
    assert lines[0] == {"kind": "opened", "id": "a", "position": 500, "resumed": True, "trained": model.trained}
    assert [(e["event"], e["start"], e["samples"]) for e in lines if e["kind"] == "event"] == [("gap", 500, 200)]


def test_states_of_a_hub_go_on_in_another_to_the_bit(model: xecg.XECG, signal: np.ndarray) -> None:
    whole = good(Hub(Stream(model, RATE, LEADS, 1)), Client(), signal)
    hub, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
    hub.take(client, opening("good"))
    hub.take(client, pushing("good", signal[:, :555]))
    lines = told(client, hub)
    later, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
    assert later.put_aside(hub.states()) == 1
    hub.leave(client)
    later.take(client, opening("good"))
    later.take(client, pushing("good", signal[:, 555:], 555))
    later.take(client, b'{"close": "good"}')
    lines += told(client, later)[1:]
    for kind in ("token", "beat"):
        assert [line for line in lines if line["kind"] == kind] == [line for line in whole if line["kind"] == kind]
