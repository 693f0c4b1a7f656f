"""`xecg predict`: what a head says of recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import printable, reading_options, records

if TYPE_CHECKING:
    from xecg.model import Head
    from xecg.model.predict import Prediction
    from xecg.signal import Recording

__all__ = ["command"]

_REFUSED = 3


@click.command("predict")
@click.argument("head_name", metavar="HEAD")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "-m", "name", help="The encoder's checkpoint folder. Default: the shipped one the head names.")
@click.option("--summary", is_flag=True, help="A line a recording instead of a line an answer.")
@reading_options
@click.pass_context
def command(
    context: click.Context,
    *,
    head_name: str,
    paths: tuple[Path, ...],
    name: str | None,
    summary: bool,
    reading: dict[str, Any],
) -> None:
    """Answers of HEAD (a file that xecg finetune wrote, or the name of one that ships) for recordings and folders.

    JSON lines: one an answer, with the time of a beat or a peak. The head's errors on recordings that it was not fitted on are
    stated on stderr; where a recording has annotations, its summary has those on it.
    Research use only, not a medical device.
    """
    from xecg import io
    from xecg.errors import XECGError
    from xecg.model import load, load_head
    from xecg.model.predict import predict

    head = load_head(head_name)
    model = load(name or head.spec.encoder)
    head = load_head(head_name, model)
    for text in _stated(head_name, head):
        click.echo(printable(text), err=True)
    refused = 0
    for path in records(paths):
        try:
            recording = io.read(path, **reading)
            found = predict(recording, model, head)
        except XECGError as error:
            click.echo(f"{printable(path)}: {printable(error)}", err=True)
            refused += 1
            continue
        for line in [_summary(path, recording, head, found)] if summary else _lines(path, head, found):
            click.echo(json.dumps(line, allow_nan=False))
    context.exit(_REFUSED if refused else 0)


def _stated(name: str, head: Head) -> list[str]:
    """The head's own errors in words: over all, and of each recording that it was tested on."""
    errors = head.errors
    if not errors:
        return [f"{Path(name).stem}: error of this head: see its card; the file has no figures"]
    values = ", ".join(f"{n} {_interval(*v)}" for n, v in errors["metrics"].items())
    lines = [f"{Path(name).stem}: error of this head on {errors['on']}: {values}"]
    if errors["by_record"]:
        each = ", ".join(f"{n} {_number(v)}" for n, v in errors["by_record"].items())
        lines.append(f"{errors['each']}, by record: {each}")
    return lines


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _lines(path: Path, head: Head, found: Prediction) -> list[dict[str, Any]]:
    spec, by = head.spec, f"head:{head.spec.kind}"
    names = {"regression": ("value",), "survival": ("log_hazard",), "peaks": ("height",)}.get(spec.kind, spec.classes)
    names = spec.classes[1:] if spec.kind == "binary" else names
    labels = found.labels(head) if spec.kind in ("multiclass", "binary") else [None] * len(found.answers)
    lines = []
    for at, answers, label in zip(found.time_s.tolist(), found.answers.tolist(), labels):
        line: dict[str, Any] = {"record": path.stem, "by": by}
        line |= {} if at != at else {"time_s": round(at, 4)}  # NaN: the record as a whole
        line |= {} if label is None else {"label": label}
        line |= {"unit": spec.unit} if spec.unit else {}
        lines.append({**line, "answer": {n: round(a, 6) for n, a in zip(names, answers)}})
    return lines


def _summary(path: Path, recording: Recording, head: Head, found: Prediction) -> dict[str, Any]:
    """Counts, and the errors against the recording's own annotations where the head is of beats or peaks."""
    from xecg.model.predict import against

    line: dict[str, Any] = {"record": path.stem, "answers": len(found.answers)}
    if head.spec.kind in ("multiclass", "binary"):
        labels = found.labels(head)
        line["labels"] = {name: labels.count(name) for name in head.spec.classes}
    elif head.spec.kind != "peaks":
        line |= {"answer": _lines(path, head, found)[0]["answer"]}
    return {**line, **against(recording, head, found)}
