"""`Server`: a `Hub` behind a local socket, for clients that may be slow, wrong, silent or gone. The one module of xecg with sockets.

Local only: a Unix socket, or a port of 127.0.0.1. One thread; what came from all clients in one turn is pushed together. Every buffer
is bounded and every wait has an end, so no client holds up another one: a client that sends a line longer than `longest_line`, does not
read its output, says nothing for `idle_s` or makes three errors is closed, and its streams are put aside with their state.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xecg.errors import StreamError
from xecg.stream.hub import Client, Hub
from xecg.stream.saving import write_blobs

__all__ = ["Limits", "Server", "local_address"]

_READ = 1 << 16  # bytes taken from a client in one turn


@dataclass(frozen=True)
class Limits:
    """clients: at once. longest_line: bytes of a message. output: bytes that may wait for a client to read them. first_s, idle_s:
    seconds to the first message, and between messages. state_s: seconds between states on disk."""

    clients: int = 1024
    longest_line: int = 1 << 18
    output: int = 1 << 20
    first_s: float = 10.0
    idle_s: float = 60.0
    state_s: float = 5.0


@dataclass(eq=False)
class _Connection(Client):
    socket: Any = None
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    heard: float = 0.0  # when its last whole message came
    last: str = ""  # why it is closed once its output is sent


def local_address(text: str) -> str | tuple[str, int]:
    """ "unix:PATH" → the path, "127.0.0.1:PORT" → host and port. Raises StreamError for anything else: nothing else is served."""
    if text.startswith("unix:") and len(text) > 5:
        return text[5:]
    host, _, port = text.rpartition(":")
    if host == "127.0.0.1" and port.isdigit() and int(port) < 65536:
        return host, int(port)
    raise StreamError(f"address is {text!r}; needed unix:PATH or 127.0.0.1:PORT, as only this machine is served")


def _remove_dead(path: Path) -> None:
    """A socket that a killed process left; one that somebody serves stays, and is refused by bind."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()


class Server:
    """Serve `hub` at a local address until `stop`. state: file of all states, replaced every `limits.state_s` seconds and at the end.

    Raises StreamError for an address that is not local or is in use."""

    def __init__(
        self,
        hub: Hub,
        address: str,
        *,
        limits: Limits | None = None,
        state: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub, self.limits = hub, limits or Limits()
        self._state, self._clock = state, clock
        self._saved = clock()
        self._stopped = False
        self._open: set[_Connection] = set()
        place = local_address(address)
        self._path = Path(place) if isinstance(place, str) else None
        self._listener = socket.socket(socket.AF_UNIX if self._path else socket.AF_INET, socket.SOCK_STREAM)
        if self._path is None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _remove_dead(self._path)
        try:
            self._listener.bind(place)
        except OSError as error:
            self._listener.close()
            raise StreamError(f"{address} cannot be served ({error.strerror}); choose another address") from None
        if self._path is not None:
            self._path.chmod(0o600)
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    @property
    def address(self) -> str:
        """Where it listens, with the port that was given for port 0."""
        if self._path is not None:
            return f"unix:{self._path}"
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def stop(self) -> None:
        """End `run` after its present turn; safe in a signal handler."""
        self._stopped = True

    def run(self) -> None:
        """Turns until `stop`; then states are saved and all is closed."""
        try:
            while not self._stopped:
                self.turn(0.25)
        finally:
            for c in list(self._open):
                self._drop(c, "the service ends")
            self._save(now=True)
            self._selector.close()
            self._listener.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    def turn(self, timeout_s: float) -> None:
        """Take what came, push it together, send what can be sent, and look for those who are too late."""
        for key, mask in self._selector.select(timeout_s):
            if key.data is None:
                self._accept()
            else:
                if mask & selectors.EVENT_READ:
                    self._receive(key.data)
                if mask & selectors.EVENT_WRITE and key.data in self._open:
                    self._send(key.data)
        self.hub.work()
        for c in list(self._open):
            self._answer(c)
        self._save()

    def _accept(self) -> None:
        try:
            other, _ = self._listener.accept()
        except OSError:
            return
        other.setblocking(False)
        c = _Connection(socket=other, heard=self._clock())
        self._open.add(c)
        self._selector.register(other, selectors.EVENT_READ, c)
        self.hub.counts["clients"] += 1
        if len(self._open) > self.limits.clients:
            self._last_word(
                c, f"{self.limits.clients:,} of {self.limits.clients:,} clients are connected; come back later"
            )

    def _receive(self, c: _Connection) -> None:
        try:
            data = c.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._drop(c, "gone")
        if c.last:
            return None  # on its way out: what it still says is not heard
        c.received += data
        *lines, rest = c.received.split(b"\n")
        c.received = bytearray(rest)
        for line in lines:
            if len(line) > self.limits.longest_line:
                break
            if line.strip():
                c.heard = self._clock()
                self.hub.take(c, bytes(line))
            if c.failed:
                return self._last_word(c, "")
        if max(map(len, [*lines, rest])) > self.limits.longest_line:
            self._last_word(c, f"a message is longer than {self.limits.longest_line:,} bytes; push smaller chunks")
        return None

    def _answer(self, c: _Connection) -> None:
        if c.out:
            lines, c.out = c.out, []
            c.unsent += b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        if c.unsent:
            self._send(c)
        if c not in self._open:
            return
        if len(c.unsent) > self.limits.output:
            return self._drop(c, "reads too slowly")
        quiet, allowed = self._clock() - c.heard, self.limits.idle_s if c.messages else self.limits.first_s
        if c.last and (not c.unsent or quiet > allowed):
            self._drop(c, c.last)
        elif quiet > allowed and not c.last:
            self._last_word(c, f"no message for {allowed:g} s; what was open is kept, open it again to go on")

    def _last_word(self, c: _Connection, text: str) -> None:
        """Put its streams aside, tell it why, and close it once it has read that."""
        self.hub.leave(c)
        if text:
            self.hub.counts["errors"] += 1
            c.out.append({"kind": "error", "message": c.messages, "text": text})
        c.out.append({"kind": "bye"})
        c.last, c.heard = text or "errors", self._clock()

    def _send(self, c: _Connection) -> None:
        try:
            sent = c.socket.send(c.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self._drop(c, "gone")
        del c.unsent[:sent]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if c.unsent else 0)
        if self._selector.get_key(c.socket).events != wanted:
            self._selector.modify(c.socket, wanted, c)
        return None

    def _drop(self, c: _Connection, why: str) -> None:
        self.hub.leave(c)
        self.hub.counts[f"closed: {why if why in ('gone', 'reads too slowly') else 'told'}"] += 1
        self._selector.unregister(c.socket)
        c.socket.close()
        self._open.discard(c)

    def _save(self, *, now: bool = False) -> None:
        if self._state is None or not (now or self._clock() - self._saved >= self.limits.state_s):
            return
        write_blobs(self._state, self.hub.states())
        self._saved = self._clock()
