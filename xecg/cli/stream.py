"""`xecg stream`: a recording, standard input or local connections through live streams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import reading_options

if TYPE_CHECKING:
    from xecg.signal import Recording
    from xecg.stream import Stream

__all__ = ["command"]


class _Speed(click.ParamType):
    name = "max|FACTOR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """ "max" → 0, else a factor above 0."""
        if value == "max":
            return 0.0
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = 0.0
        if not 0 < factor < float("inf"):
            self.fail(f"{value!r} is neither max nor a factor of real time above 0", param, ctx)
        return factor


@click.command("stream")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("--listen", help="Serve clients at unix:PATH or 127.0.0.1:PORT instead of reading a file.")
@click.option(
    "--raw-gain",
    type=click.FloatRange(min=0, min_open=True),
    help="Standard input is int16, little-endian, all leads of a sample together, so many counts per mV.",
)
@click.option("--capacity", type=click.IntRange(min=1), default=1024, show_default=True, help="Streams at once.")
@click.option("--model", "-m", "model_name", default="tiny-causal", show_default=True, help="A model that can stream.")
@click.option("--head", "heads", multiple=True, help="A binary or multilabel head of tokens; may be repeated.")
@click.option("--chunk", "chunk_s", type=click.FloatRange(min=0.001), default=1.0, help="Seconds a push. Default: 1.")
@click.option("--speed", type=_Speed(), default="max", show_default=True, help="max, or a factor of real time: 1.")
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Print the tokens' vectors.")
@click.option("--quiet", "-q", is_flag=True, help="Print no tokens and no events, only the first and last line.")
@click.option("--parquet", type=click.Path(path_type=Path), help="Write the tokens to this Parquet file.")
@click.option("--annotations", type=click.Path(path_type=Path), help="Write the events here: WFDB, as 203.qrs.")
@click.option("--reference", default="atr", show_default=True, help="Extension of marks to compare the beats with.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="Keep the stream's state here; go on from it if it exists."
)
@click.option("--state-every", type=click.FloatRange(min=0), default=10.0, help="Seconds. Default: 10.")
@reading_options
def command(*, file: Path | None, speed: float, chunk_s: float, reading: dict[str, Any], **options: Any) -> None:
    """Play FILE chunk by chunk through a stream; print tokens, events and beats as JSON lines, then a summary.

    Tokens, events and beats are the same whatever --chunk, each kind in time order. Beats come from the classical detector on lead II,
    or on the first lead where there is none; with marks beside the record the summary compares them. With --state a killed run goes on
    from its last state, and its files (--parquet, --annotations) and summary hold what came after it.

    With - as FILE, or with --listen, streams come live, as JSON lines from standard input or from clients of a local socket; --rate and
    --leads say what is taken. Messages, one a line: {"open": ID, "rate": HZ, "unit": "mV" or "uV", "leads": [...]}, then {"push": ID,
    "samples": [[...], ...], "start": N} (one list a lead, null where a sample is missing), then {"close": ID}. Each client is told its
    tokens, beats, events and errors. With --state every stream goes on after a restart where its last state was.
    """
    if (file is None) == (options["listen"] is None) or (options["raw_gain"] is not None and str(file) != "-"):
        raise click.UsageError("name one FILE, or - for standard input (--raw-gain: raw), or --listen ADDRESS")
    if file is None or str(file) == "-":
        _serve(reading["rate"], reading["leads"], chunk_s, options)
    else:
        _play(file, speed, chunk_s, reading, options)


def _serve(rate: float | None, leads: Any, chunk_s: float, options: dict[str, Any]) -> None:
    """Clients of a socket, or standard input as the one client."""
    import sys

    import xecg
    from xecg.model import load_head
    from xecg.stream.hub import Client, Hub
    from xecg.stream.saving import read_blobs, write_blobs

    if rate is None or leads is None:
        raise click.UsageError("live streams need --rate and --leads")
    model, state = xecg.load(options["model_name"]), options["state"]
    heads = {Path(name).stem: load_head(name, model) for name in options["heads"]}
    if options["raw_gain"] is not None:
        stream = xecg.Stream(model, rate, leads, heads=heads, gain=options["raw_gain"])
        return _raw(stream, max(1, round(chunk_s * rate)), options["vectors"])
    hub = Hub(xecg.Stream(model, rate, leads, options["capacity"], heads=heads), vectors=options["vectors"])
    found = hub.put_aside(read_blobs(state) if state is not None else [])
    if options["listen"] is not None:
        return _listen(hub, found, options)
    client, saved = Client(), time.monotonic()
    for line in sys.stdin.buffer:
        hub.take(client, line)
        hub.work()
        for told in client.out:
            click.echo(json.dumps(told, allow_nan=False))
        client.out.clear()
        if state is not None and time.monotonic() - saved >= options["state_every"]:
            write_blobs(state, hub.states())
            saved = time.monotonic()
    if state is not None:
        write_blobs(state, hub.states())
    if hub.counts["errors"]:
        raise click.exceptions.Exit(3)
    return None


def _raw(stream: Stream, step: int, vectors: bool) -> None:
    """Raw samples from standard input, to their end."""
    import sys

    import numpy as np

    from xecg.errors import StreamError
    from xecg.stream.results import as_line

    stream.open("stdin")
    frame, data = 2 * len(stream.leads), b""
    while data := sys.stdin.buffer.read(step * frame):
        if len(data) % frame:
            raise StreamError(
                f"standard input ends inside a sample: {len(data) % frame} of {frame} bytes; are --leads right?"
            )
        for item in stream.push("stdin", np.frombuffer(data, "<i2").reshape(-1, len(stream.leads)).T):
            click.echo(json.dumps(as_line(item, stream.rate, vectors=vectors), allow_nan=False))
    for item in stream.flush("stdin"):
        click.echo(json.dumps(as_line(item, stream.rate, vectors=vectors), allow_nan=False))


def _listen(hub: Any, found: int, options: dict[str, Any]) -> None:
    import signal

    from xecg.stream.server import Limits, Server

    limits = Limits(state_s=options["state_every"])
    server = Server(hub, options["listen"], limits=limits, state=options["state"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    stream = hub.stream
    _print_line(
        "listening", {"address": server.address, "rate_hz": stream.rate, "leads": list(stream.leads), "states": found}
    )
    server.run()
    _print_line("summary", dict(sorted(hub.counts.items())))


def _play(file: Path, speed: float, chunk_s: float, reading: dict[str, Any], options: dict[str, Any]) -> None:
    import xecg
    from xecg.model import load_head
    from xecg.stream import Event, Token
    from xecg.stream.results import as_line, token_table, write_annotations
    from xecg.stream.saving import write_blobs

    recording = xecg.read(file, **reading)
    model = xecg.load(options["model_name"])
    heads = {Path(name).stem: load_head(name, model) for name in options["heads"]}
    stream = xecg.Stream(model, rate=recording.rate, leads=recording.leads, heads=heads)
    first = _begin(stream, options["state"])
    facts = {"rate_hz": recording.rate, "leads": list(recording.leads), "model": options["model_name"]}
    _print_line(
        "recording", {**facts, "trained": model.trained, "token_delay_s": stream.delay_s, "first_sample": first}
    )
    events: list[Event] = []
    tokens, began, saved = 0, time.monotonic(), first
    with ExitStack() as stack:
        table = None
        if options["parquet"] is not None:
            width = model.config.dim
            table = stack.enter_context(
                token_table(options["parquet"], width=width, model=model.fingerprint, rate=recording.rate)
            )
        for at, found in _played(stream, recording, first, chunk_s, speed):
            for item in found if not options["quiet"] else ():
                if isinstance(item, Event) and item.kind == "beat":
                    _print_line(
                        "beat", {"sample": item.start, "time_s": round(item.start / recording.rate, 4), "by": item.by}
                    )
                else:
                    line = as_line(item, recording.rate, vectors=options["vectors"])
                    _print_line(line.pop("kind"), line)
            events += [item for item in found if isinstance(item, Event)]
            tokens += sum(isinstance(item, Token) for item in found)
            if table is not None:
                table.add(found)
            if options["state"] is not None and at - saved >= options["state_every"] * recording.rate:
                write_blobs(options["state"], [stream.save("recording")])
                saved = at
    if options["annotations"] is not None:
        write_annotations(options["annotations"], events)
    if options["state"] is not None:
        options["state"].unlink(missing_ok=True)  # the record is through
    seconds = (recording.signal.shape[1] - first) / recording.rate
    _print_line(
        "summary",
        {
            "seconds": round(seconds, 3),
            "tokens": tokens,
            **_comparison(file, events, recording, first, options["reference"]),
            "times_real_time": round(seconds / max(time.monotonic() - began, 1e-9), 1),
        },
    )


def _begin(stream: Stream, state: Path | None) -> int:
    """Open the one stream, or go on with the one in `state`; the next sample."""
    from xecg.stream.saving import read_blobs

    for blob in read_blobs(state) if state is not None else ():
        stream.restore(blob)
    if not stream.ids:
        stream.open("recording")
    return stream.position("recording")


def _played(
    stream: Stream, recording: Recording, first: int, chunk_s: float, speed: float
) -> Iterator[tuple[int, list[Any]]]:
    """(samples gone by, what they gave), chunk by chunk, no faster than `speed` times real time."""
    import numpy as np

    step, n = max(1, round(chunk_s * recording.rate)), recording.signal.shape[1]
    began = time.monotonic()
    for start in range(first, n, step):
        part = slice(start, start + step)
        samples = np.where(recording.mask[:, part], recording.signal[:, part], np.float32(np.nan))
        if speed:
            due = (min(start + step, n) - first) / recording.rate / speed  # a chunk is there when its last sample is
            time.sleep(max(0.0, due - (time.monotonic() - began)))
        yield min(start + step, n), stream.push("recording", samples)
    yield n, stream.flush("recording")


def _comparison(file: Path, events: list[Any], recording: Recording, first: int, extension: str) -> dict[str, Any]:
    """Beats against the marks beside the record, from the first sample on; without marks only their number."""
    import xecg
    from xecg.signal import Annotations
    from xecg.stream.results import beat_summary

    found = [e.start for e in events if e.kind == "beat"]
    beside = file.with_suffix("") if file.suffix == ".hea" else file
    beside = beside.with_name(f"{beside.name}.{extension}")
    if not beside.is_file():
        return {"found_beats": len(found), "reference": None}
    marks = xecg.io.annotations(file, extension)
    late = [i for i, sample in enumerate(marks.sample.tolist()) if sample >= first]
    marks = Annotations(marks.sample[late], tuple(marks.symbol[i] for i in late))
    return {"reference": beside.name, **beat_summary(found, marks, recording.rate)}


def _print_line(kind: str, values: dict[str, Any]) -> None:
    click.echo(json.dumps({"kind": kind, **values}, allow_nan=False))
