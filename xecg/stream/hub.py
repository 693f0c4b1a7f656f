"""`Hub`: what clients say, line by line, to one `Stream`, and what they are told. No sockets here: `xecg.stream.server` has them.

A message is one JSON object a line, UTF-8:

    {"open": ID, "rate": Hz, "unit": "mV" | "uV", "leads": [NAME, …]}     → opened, with the next sample and whether a state was found
    {"push": ID, "samples": [[…], …], "start": N}                         → token, beat and event lines; null is a missing sample
    {"close": ID}                                                         → what still waited, then closed

Whatever is wrong with a message is told to its client alone, {"kind": "error", "message": its number, "text": …}, and counted; the
third error ends the client. Streams of a client that goes away without closing are put aside with their state: whoever opens the same
id goes on from there, and what was missed is a gap by its `start`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xecg.errors import StreamError, XECGError
from xecg.model import _strict_json
from xecg.stream.events import Event, Token
from xecg.stream.results import as_line
from xecg.stream.session import Stream

__all__ = ["Client", "Hub"]

_UNITS = {"mV": 1.0, "uV": 1e-3}  # mV a unit
_LARGEST_MV = 1e4  # no ECG and no electrode offset is larger: the unit is wrong
_LONGEST_ID = 256
_FIELDS = {
    "open": {"open", "rate", "unit", "leads"},
    "push": {"push", "samples", "start"},
    "close": {"close"},
}
MOST_ERRORS = 3


@dataclass(eq=False)
class Client:
    """One connection: what it opened, and the lines that wait to be sent to it."""

    out: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, float] = field(default_factory=dict)  # of each stream that it opened
    messages: int = 0
    errors: int = 0

    @property
    def failed(self) -> bool:
        """Whether it made so many errors that it has to go."""
        return self.errors >= MOST_ERRORS


class Hub:
    """Clients' messages to a stream. vectors: tell embeddings. aside: most states kept of streams whose client went away."""

    def __init__(self, stream: Stream, *, vectors: bool = True, aside: int = 4096) -> None:
        self.stream, self._vectors, self._most_aside = stream, vectors, aside
        self._aside: OrderedDict[str, bytes] = OrderedDict()
        self._owner: dict[str, Client] = {}
        self._waiting: dict[str, tuple[np.ndarray, int | None]] = {}
        self.counts: Counter[str] = Counter()

    def take(self, client: Client, line: bytes) -> None:
        """One message. Pushes are collected until `work`, or until the same stream has another message."""
        client.messages += 1
        self.counts["messages"] += 1
        try:
            message = _strict_json.parse(line, "message")
            verb = next((v for v in _FIELDS if v in message), None)
            if verb is None or not set(message) <= _FIELDS[verb]:
                raise StreamError(
                    f"message has the fields {', '.join(map(repr, message)) or 'none'}; needed open, push or close, and theirs"
                )
            name = message[verb]
            if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID or not name.isprintable():
                raise StreamError(f"{verb} needs an id: 1 to {_LONGEST_ID} characters that can be printed")
            if name in self._waiting:
                self.work()
            {"open": self._open, "push": self._push, "close": self._close}[verb](client, name, message)
        except XECGError as error:
            self._refuse(client, str(error).split(" Fetch or write")[0])  # the hint of a file

    def work(self) -> None:
        """Push all that was collected, together; the answers stand in each client's `out`."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        found = self.stream.push(
            {name: chunk for name, (chunk, _) in waiting.items()},
            start={name: start for name, (_, start) in waiting.items()},
        )
        for item in found:
            self._tell(item)

    def leave(self, client: Client) -> None:
        """The client is gone: its streams are put aside with their state."""
        if any(name in self._waiting for name in client.units):
            self.work()
        for name in list(client.units):
            self._aside[name] = self.stream.save(name)
            self._release(client, name)
        while len(self._aside) > self._most_aside:
            self._aside.popitem(last=False)
            self.counts["states dropped"] += 1

    def states(self) -> list[bytes]:
        """The state of every stream, open or put aside."""
        self.work()
        return [*self._aside.values(), *(self.stream.save(name) for name in self.stream.ids)]

    def put_aside(self, blobs: list[bytes]) -> int:
        """States of a former process; returns how many. Raises StreamError for one of another model, rate or set of leads."""
        for blob in blobs:
            name = self.stream.restore(blob)
            self.stream.close(name)
            self._aside[name] = blob
        return len(blobs)

    def _open(self, client: Client, name: str, message: dict[str, Any]) -> None:
        stream = self.stream
        for key, needed in (("rate", stream.rate), ("leads", list(stream.leads))):
            if message.get(key) != needed:
                raise StreamError(f"{key} of stream {name!r} is {message.get(key)!r}; this service takes {needed!r}")
        unit = message.get("unit")
        if not isinstance(unit, str) or unit not in _UNITS:
            raise StreamError(f"unit of stream {name!r} is {unit!r}; needed one of {', '.join(_UNITS)}")
        resumed = name in self._aside
        if resumed and name not in self._owner:
            stream.restore(self._aside[name])
            del self._aside[name]
        else:
            stream.open(name)  # refuses one that is open, whoever has it, and one too many
        client.units[name] = _UNITS[unit]
        self._owner[name] = client
        client.out.append(
            {
                "kind": "opened",
                "id": name,
                "position": stream.position(name),
                "resumed": resumed,
                "trained": stream.model.trained,
            }
        )

    def _push(self, client: Client, name: str, message: dict[str, Any]) -> None:
        scale = client.units.get(name)
        if scale is None:
            raise StreamError(f"stream {name!r} is not open on this connection; open it first")
        rows, start = message.get("samples"), message.get("start")
        if start is not None and (type(start) is not int or not 0 <= start < 1 << 62):
            raise StreamError(f"start of stream {name!r} is {start!r}; needed a whole number of samples, at least 0")
        n = len(self.stream.leads)
        if not isinstance(rows, list) or len(rows) != n or not all(isinstance(r, list) for r in rows):
            raise StreamError(
                f"samples of stream {name!r} are not {n} lists, one a lead: {', '.join(self.stream.leads)}"
            )
        if len({len(r) for r in rows}) != 1:
            raise StreamError(
                f"samples of stream {name!r} have {sorted({len(r) for r in rows})} values a lead; needed as many"
            )
        if not all(v is None or type(v) is int or type(v) is float for r in rows for v in r):
            raise StreamError(f"samples of stream {name!r} are not all numbers; write null for a missing one")
        try:
            chunk = np.array(rows, np.float64).reshape(n, -1) * scale
        except OverflowError:
            raise StreamError(f"samples of stream {name!r} hold a number that no float holds") from None
        if (np.abs(chunk) > _LARGEST_MV).any():
            raise StreamError(
                f"samples of stream {name!r} reach {np.nanmax(np.abs(chunk)):.3g} mV; at most {_LARGEST_MV:g} is an ECG. "
                "Is the unit right?"
            )
        if not chunk.shape[1]:
            self.counts["empty chunks"] += 1
        self._waiting[name] = chunk.astype(np.float32), start

    def _close(self, client: Client, name: str, message: dict[str, Any]) -> None:
        if name not in client.units:
            raise StreamError(f"stream {name!r} is not open on this connection")
        for item in self.stream.flush(name):
            self._tell(item)
        client.out.append({"kind": "closed", "id": name, "position": self.stream.position(name)})
        self._release(client, name)

    def _release(self, client: Client, name: str) -> None:
        self.stream.close(name)
        del client.units[name], self._owner[name]

    def _refuse(self, client: Client, text: str) -> None:
        client.errors += 1
        self.counts["errors"] += 1
        client.out.append({"kind": "error", "message": client.messages, "text": text})

    def _tell(self, item: Token | Event) -> None:
        line = as_line(item, self.stream.rate, vectors=self._vectors)
        if isinstance(item, Event) and item.kind == "beat":
            line = {"kind": "beat", "id": item.id, "sample": item.start, "time_s": line["time_s"], "by": item.by}
        self.counts[line["kind"] + "s"] += 1
        self._owner[item.id].out.append(line)
