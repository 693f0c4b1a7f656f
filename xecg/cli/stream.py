"""`xecg stream`: a recording, standard input or local connections through live streams."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import Finite, Output, reading_options

if TYPE_CHECKING:
    from xecg.model import XECG
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


_WINDOW = {
    "context_s": 8.0,
    "hop_s": 1.0,
    "look_ahead_s": 1.0,
}  # together what the weights were trained on: ten seconds


@click.command("stream")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("--listen", help="Serve clients at unix:PATH or 127.0.0.1:PORT instead of reading a file.")
@click.option(
    "--raw-gain",
    type=Finite(min=1e-6, max=1e9),
    help="Standard input is int16, little-endian, all leads of a sample together, so many counts per mV.",
)
@click.option("--capacity", type=click.IntRange(min=1), default=1024, show_default=True, help="Streams at once.")
@click.option("--model", "-m", "model_name", help="Default: tiny-causal; with --mode window tiny.")
@click.option(
    "--mode",
    type=click.Choice(["causal", "window"]),
    default="causal",
    show_default=True,
    help="Token by token; or, for models that look ahead, windows that are encoded anew at every hop.",
)
@click.option("--context", "context_s", type=Finite(min=0), help="Seconds before a window's tokens. Default: 8.")
@click.option("--hop", "hop_s", type=Finite(min=0, min_open=True), help="Seconds of its tokens. Default: 1.")
@click.option("--look-ahead", "look_ahead_s", type=Finite(min=0), help="Seconds after them. Default: 1.")
@click.option("--measure-parity", is_flag=True, help="Compare the windows' tokens with those of the whole record.")
@click.option("--head", "heads", multiple=True, help="A binary or multilabel head of tokens; may be repeated.")
@click.option("--chunk", "chunk_s", type=Finite(min=0.001), default=1.0, help="Seconds a push. Default: 1.")
@click.option("--speed", type=_Speed(), default="max", show_default=True, help="max, or a factor of real time: 1.")
@click.option("--vectors/--no-vectors", default=True, show_default=True, help="Print the tokens' vectors.")
@click.option("--quiet", "-q", is_flag=True, help="Print no tokens and no events, only the first and last line.")
@click.option("--parquet", type=Output(), help="Write the tokens to this Parquet file.")
@click.option("--annotations", type=Output(), help="Write the events here: WFDB, as 203.qrs.")
@click.option("--reference", default="atr", show_default=True, help="Extension of marks to compare the beats with.")
@click.option("--state", type=Output(), help="Keep the stream's state here; go on from it if it exists.")
@click.option("--state-every", type=Finite(min=0), default=10.0, help="Seconds. Default: 10.")
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

    With --mode window a model that looks ahead, such as tiny, runs over FILE or raw standard input in windows of --context, --hop and
    --look-ahead; the first line tells the latency. Its tokens are not those of the whole record: --measure-parity says how far off.
    """
    _check_mode(file, options)
    if (file is None) == (options["listen"] is None) or (options["raw_gain"] is not None and str(file) != "-"):
        raise click.UsageError("name one FILE, or - for standard input (--raw-gain: raw), or --listen ADDRESS")
    if file is None or str(file) == "-":
        unserved = ("parquet", "annotations") if options["raw_gain"] is None else ("parquet", "annotations", "state")
        for name in unserved:
            if options[name] is not None:
                raise click.UsageError(f"--{name} is not written of this live input; leave it out, or name a FILE")
        for name in sorted(reading.keys() - {"rate", "leads"}):
            if reading[name]:
                flag = name.replace("_", "-")
                raise click.UsageError(
                    f"--{flag} is of files; live input says its unit in open, or is raw by --raw-gain"
                )
        _serve(reading["rate"], reading["leads"], chunk_s, options)
    else:
        _play(file, speed, chunk_s, reading, options)


def _serve(rate: float | None, leads: Any, chunk_s: float, options: dict[str, Any]) -> None:
    """Clients of a socket, or standard input as the one client."""
    import sys

    import numpy as np

    import xecg
    from xecg.model import load_head
    from xecg.stream import WindowStream
    from xecg.stream.hub import Client, Hub
    from xecg.stream.saving import read_blobs, write_blobs

    if rate is None or leads is None:
        raise click.UsageError("live streams need --rate and --leads")
    model, state = _model(options), options["state"]
    heads = {Path(name).stem: load_head(name, model) for name in options["heads"]}
    gain, shape, vectors = options["raw_gain"], (len(leads), max(1, round(chunk_s * rate))), options["vectors"]
    if options["mode"] == "window":
        windows = WindowStream(model, rate, leads, id="stdin", heads=heads, **_durations(options))
        return _raw(lambda counts: windows.push(counts / np.float32(gain)), windows.flush, rate, shape, vectors=vectors)
    if gain is not None:
        stream = xecg.Stream(model, rate, leads, heads=heads, gain=gain)
        stream.open("stdin")
        return _raw(partial(stream.push, "stdin"), partial(stream.flush, "stdin"), rate, shape, vectors=vectors)
    hub = Hub(xecg.Stream(model, rate, leads, options["capacity"], heads=heads), vectors=vectors)
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


def _raw(
    push: Callable[..., list[Any]],
    flush: Callable[[], list[Any]],
    rate: float,
    shape: tuple[int, int],
    *,
    vectors: bool,
) -> None:
    """Raw samples from standard input, to their end. shape: leads, and samples a push."""
    import sys

    import numpy as np

    from xecg.errors import StreamError
    from xecg.stream.results import as_line

    leads, step = shape
    frame, data, left = 2 * leads, b"", 0
    while data := sys.stdin.buffer.read(step * frame):
        left = len(data) % frame  # only at the end: a read is short nowhere else
        for item in push(np.frombuffer(data[: len(data) - left], "<i2").reshape(-1, leads).T):
            click.echo(json.dumps(as_line(item, rate, vectors=vectors), allow_nan=False))
    for item in flush():
        click.echo(json.dumps(as_line(item, rate, vectors=vectors), allow_nan=False))
    if left:
        raise StreamError(
            f"standard input ends inside a sample: {left} bytes are left over and a sample of {leads} leads has {frame}; everything "
            "before them was used. If no end was cut off, the lead count is wrong and so is all output: give --leads as they are sent"
        )


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
    from xecg.stream import Event, Token, WindowStream, measure_parity
    from xecg.stream.results import as_line, token_table, write_annotations
    from xecg.stream.saving import write_blobs

    recording = xecg.read(file, **reading)
    model = _model(options)
    facts = {"rate_hz": recording.rate, "leads": list(recording.leads), "model": model.name, "trained": model.trained}
    push: Callable[..., list[Any]]
    flush: Callable[[], list[Any]]
    save: Callable[[], bytes] | None = None
    first = 0
    heads = {Path(name).stem: load_head(name, model) for name in options["heads"]}
    if options["mode"] == "window":
        windows = WindowStream(
            model, recording.rate, recording.leads, id="recording", heads=heads, **_durations(options)
        )
        push, flush = windows.push, windows.flush
        facts |= {name: getattr(windows, name) for name in (*_WINDOW, "latency_s")}
    else:
        stream = xecg.Stream(model, rate=recording.rate, leads=recording.leads, heads=heads)
        first = _begin(stream, options["state"])
        push, flush = partial(stream.push, "recording"), partial(stream.flush, "recording")
        save = None if options["state"] is None else partial(stream.save, "recording")
        facts |= {"token_delay_s": stream.delay_s, "first_sample": first}
    _print_line("recording", facts)
    events: list[Event] = []
    tokens, began, saved = 0, time.monotonic(), first
    with ExitStack() as stack:
        table = None
        if options["parquet"] is not None:
            width = model.config.dim
            table = stack.enter_context(
                token_table(options["parquet"], width=width, model=model.fingerprint, rate=recording.rate)
            )
        for at, found in _played(push, flush, recording, first, chunk_s, speed):
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
            if save is not None and at - saved >= options["state_every"] * recording.rate:
                write_blobs(options["state"], [save()])
                saved = at
    if options["annotations"] is not None:
        write_annotations(options["annotations"], events)
    if options["state"] is not None:
        options["state"].unlink(missing_ok=True)  # the record is through
    seconds, took_s = (recording.signal.shape[1] - first) / recording.rate, time.monotonic() - began
    parity = {}
    if options["measure_parity"]:
        measured = asdict(measure_parity(model, recording, **_durations(options)))
        parity = {"parity": {name: round(value, 6) for name, value in measured.items()}}
    _print_line(
        "summary",
        {
            "seconds": round(seconds, 3),
            "tokens": tokens,
            **_comparison(file, events, recording, first, options["reference"]),
            "times_real_time": round(seconds / max(took_s, 1e-9), 1),
            **parity,
        },
    )


def _check_mode(file: Path | None, options: dict[str, Any]) -> None:
    """Refuses options of the other mode."""
    live = file is None or str(file) == "-"
    if options["mode"] == "causal":
        for name in (*_WINDOW, "measure_parity"):
            if options[name] is not None and options[name] is not False:
                flag = name.removesuffix("_s").replace("_", "-")
                raise click.UsageError(
                    f"--{flag} is for --mode window; a causal stream needs no windows and equals offline"
                )
        return
    for name in ("state", "listen"):
        if options[name]:
            raise click.UsageError(f"--{name} is for --mode causal; windows have no states and serve one patient")
    if live and options["raw_gain"] is None:
        raise click.UsageError("--mode window takes FILE, or raw samples from standard input (--raw-gain)")
    if live and options["measure_parity"]:
        raise click.UsageError("--measure-parity needs FILE: the windows are compared with the whole record")


def _model(options: dict[str, Any]) -> XECG:
    """The model, of the kind that the mode is for."""
    import xecg
    from xecg.errors import StreamError

    window = options["mode"] == "window"
    model = xecg.load(options["model_name"] or ("tiny" if window else "tiny-causal"))
    if window and model.config.causal:
        raise StreamError(
            f"model {model.name} needs no windows: token by token it equals offline, later by no look-ahead and with a fraction of "
            "the work; use --mode causal"
        )
    if not window and not model.config.causal:
        raise StreamError(
            f"model {model.name} looks ahead and cannot go token by token; use --mode window, or a causal model such as tiny-causal"
        )
    return model


def _durations(options: dict[str, Any]) -> dict[str, Any]:
    return {name: default if options[name] is None else options[name] for name, default in _WINDOW.items()}


def _begin(stream: Stream, state: Path | None) -> int:
    """Open the one stream, or go on with the one in `state`; the next sample."""
    from xecg.stream.saving import read_blobs

    for blob in read_blobs(state) if state is not None else ():
        stream.restore(blob)
    if not stream.ids:
        stream.open("recording")
    return stream.position("recording")


def _played(
    push: Callable[..., list[Any]],
    flush: Callable[[], list[Any]],
    recording: Recording,
    first: int,
    chunk_s: float,
    speed: float,
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
        yield min(start + step, n), push(samples)
    yield n, flush()


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
