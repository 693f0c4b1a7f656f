"""`xecg predict`: what a head says of recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xecg.cli._common import printable, reading_options

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

    JSON lines: one an answer, with the time of a beat or a peak. Where a recording has annotations, its summary has the error.
    Research use only, not a medical device.
    """
    from xecg import io
    from xecg.errors import XECGError
    from xecg.model import load, load_head
    from xecg.model.predict import predict

    head = load_head(head_name)
    model = load(name or head.spec.encoder)
    head = load_head(head_name, model)
    refused = 0
    for path in [p for root in paths for p in io.find_records(root)]:
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
