"""Clients of a local socket: each bad one is told, counted and closed, and the others' lines stay the same to the bit."""

from __future__ import annotations

import json
import signal as signals
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xecg
from tests.stream.test_hub import LEADS, RATE, model, opening, pushing, signal
from xecg.errors import StreamError
from xecg.stream import Stream, Token
from xecg.stream.hub import Client, Hub
from xecg.stream.server import Limits, Server, local_address

__all__ = ["model", "signal"]  # fixtures


class Peer:
    """A client that blocks for at most 20 s."""

    def __init__(self, address: str) -> None:
        place = local_address(address)
        self.socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self.socket.settimeout(20)
        self.socket.connect(place)
        self._file = self.socket.makefile("rb")

    def say(self, *lines: bytes) -> None:
        self.socket.sendall(b"".join(line + b"\n" for line in lines))

    def until(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or found[-1]["kind"] != kind:
            line = self._file.readline()
            assert line, f"closed before {kind!r}: {found[-2:]}"
            found.append(json.loads(line))
        return found

    def closed(self) -> bool:
        """Whether the other side ends the connection, whatever it says before."""
        try:
            while self._file.readline():
                pass
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def server(model: xecg.XECG, tmp_path: Path) -> Iterator[Server]:
    limits = Limits(clients=4, longest_line=20_000, output=200_000, first_s=0.6, idle_s=1.5, state_s=0.2)
    made = Server(Hub(Stream(model, RATE, LEADS, 3)), f"unix:{tmp_path}/live", limits=limits, state=tmp_path / "state")
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join(20)
    assert not thread.is_alive()


def talk(address: str, x: np.ndarray) -> list[dict[str, Any]]:
    peer = Peer(address)
    peer.say(opening("good"))
    found = peer.until("opened")
    for at in range(0, x.shape[1], 250):
        peer.say(pushing("good", x[:, at : at + 250], at))
    peer.say(b'{"close": "good"}')
    return found + peer.until("closed")


def by_kind(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {kind: [line for line in lines if line["kind"] == kind] for kind in ("opened", "token", "beat", "closed")}


def expected(model: xecg.XECG, x: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    hub, client = Hub(Stream(model, RATE, LEADS, 1)), Client()
    for line in (opening("good"), pushing("good", x), b'{"close": "good"}'):
        hub.take(client, line)
    return by_kind(client.out)


def misbehave(server: Server, how: str) -> Peer:
    peer = Peer(server.address)
    if how == "garbage":
        peer.socket.sendall(bytes(range(1, 256)) * 40 + b"\n\n\nx\ny\nz\n")
    elif how == "endless line":
        peer.socket.sendall(b"[" * 60_000)
    elif how == "slow first message":
        peer.socket.sendall(b"{")
    elif how == "silence after opening":
        peer.say(opening("bad"))
    elif how == "hung up in the middle":
        peer.say(opening("bad"))
        peer.socket.sendall(b'{"push": "ba')
        peer.socket.shutdown(socket.SHUT_RDWR)
    elif how == "never reads":
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.say(opening("bad"))
        try:
            for _ in range(400):
                peer.say(pushing("bad", np.zeros((3, 500))))
        except (BrokenPipeError, ConnectionResetError):
            pass
    return peer


@pytest.mark.parametrize(
    "how",
    ["garbage", "endless line", "slow first message", "silence after opening", "hung up in the middle", "never reads"],
)
def test_a_bad_client_is_closed_and_the_others_lines_stay(
    server: Server,
    model: xecg.XECG,
    signal: np.ndarray,
    how: str,
) -> None:
    peer = misbehave(server, how)
    assert by_kind(talk(server.address, signal)) == expected(model, signal)
    if how == "endless line":
        assert "longer than 20,000 bytes" in peer.until("error")[-1]["text"]
    elif how == "slow first message":
        assert "no message for 0.6 s" in peer.until("error")[-1]["text"]
    if how != "hung up in the middle":
        assert peer.closed()
    assert server.hub.counts["closed: reads too slowly"] == (how == "never reads")
    again = Peer(server.address)  # what it had open was put aside, and its slot is free
    again.say(opening("bad"), opening("more"), opening("most"))
    assert [again.until("opened")[-1]["id"] for _ in range(3)] == ["bad", "more", "most"]
    again.socket.close()


def test_one_client_too_many_is_told(server: Server) -> None:
    peers = [Peer(server.address) for _ in range(4)]
    for k, peer in enumerate(peers):
        peer.say(b'{"close": "nothing"}')
        assert peer.until("error")[-1]["message"] == 1, k
    assert "4 of 4" in Peer(server.address).until("error")[-1]["text"]


def test_only_this_machine_is_served_and_an_address_once(server: Server, model: xecg.XECG) -> None:
    for wrong in ("0.0.0.0:80", "example.org:80", ":80", "unix:", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(StreamError, match=r"127\.0\.0\.1"):
            local_address(wrong)
    with pytest.raises(StreamError, match="in use"):
        Server(Hub(Stream(model, RATE, LEADS, 1)), server.address)
    free = Server(Hub(Stream(model, RATE, LEADS, 1)), "127.0.0.1:0")
    assert free.address.startswith("127.0.0.1:") and not free.address.endswith(":0")
    free.stop()
    free.run()


def test_a_killed_service_goes_on_with_every_stream(model: xecg.XECG, signal: np.ndarray, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xecg.cli", "stream", "--listen", f"unix:{tmp_path}/live", "--rate", str(RATE)]
    command += ["--leads", ",".join(LEADS), "--state", str(tmp_path / "state"), "--state-every", "0"]
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and json.loads(first.stdout.readline())["states"] == 0
        peer = Peer(f"unix:{tmp_path}/live")
        peer.say(opening("good"), opening("other"), pushing("good", signal[:, :700], 0))
        lines += peer.until("beat")
        peer.say(b'{"close": "none"}')  # its answer comes a turn later: the state of the push is on disk
        lines += peer.until("error")[:-1]
        first.send_signal(signals.SIGKILL)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as second:
        assert second.stdout is not None and json.loads(second.stdout.readline())["states"] == 2
        peer = Peer(f"unix:{tmp_path}/live")
        peer.say(opening("good"))
        assert peer.until("opened")[-1] == {
            "kind": "opened", "id": "good", "position": 700, "resumed": True, "trained": model.trained,
        }  # fmt: skip
        peer.say(pushing("good", signal[:, 700:], 700), b'{"close": "good"}')
        lines += peer.until("closed")
        second.send_signal(signals.SIGTERM)
        assert second.wait(20) == 0
        assert json.loads(second.stdout.readlines()[-1])["kind"] == "summary"
    found = by_kind(lines)
    for kind in ("token", "beat", "closed"):
        assert found[kind] == expected(model, signal)[kind]


def test_standard_input_is_a_client(model: xecg.XECG, signal: np.ndarray) -> None:
    command = [sys.executable, "-m", "xecg.cli", "stream", "-", "--rate", str(RATE), "--leads", ",".join(LEADS)]
    text = b"\n".join([opening("good"), pushing("good", signal), b'{"close": "good"}'])
    done = subprocess.run(command, input=text, capture_output=True, check=True)
    assert by_kind([json.loads(line) for line in done.stdout.splitlines()]) == expected(model, signal)
    done = subprocess.run(command, input=b"nonsense\n" + text, capture_output=True, check=False)
    assert done.returncode == 3 and json.loads(done.stdout.splitlines()[0])["kind"] == "error"
    assert subprocess.run(command[:4], capture_output=True, input=b"", check=False).returncode == 2


def test_raw_samples_from_standard_input_give_what_a_stream_gives(model: xecg.XECG, signal: np.ndarray) -> None:
    counts = np.round(signal * 200).astype("<i2")
    command = [sys.executable, "-m", "xecg.cli", "stream", "-", "--rate", str(RATE), "--leads", ",".join(LEADS)]
    done = subprocess.run([*command, "--raw-gain", "200"], input=counts.T.tobytes(), capture_output=True, check=True)
    stream = Stream(model, RATE, LEADS, gain=200.0)
    stream.open("stdin")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    tokens = [item.embedding.tolist() for item in stream.push("stdin", counts) if isinstance(item, Token)]
    assert [line["embedding"] for line in found if line["kind"] == "token"] == tokens and len(tokens) == 24
    cut = subprocess.run(
        [*command, "--raw-gain", "200"], input=counts.T.tobytes()[:-1], capture_output=True, check=False
    )
    assert cut.returncode == 1 and b"5 bytes are left over and a sample of 3 leads has 6" in cut.stderr
