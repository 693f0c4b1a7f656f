"""`xecg similar`: the nearest rows of an embedding table."""

from __future__ import annotations

from pathlib import Path

import click

from xecg.cli._common import Finite, print_json, printable

__all__ = ["command"]


@click.command("similar")
@click.argument("table", type=click.Path(exists=True, path_type=Path))
@click.argument("record_id")
@click.option(
    "--window-start",
    "window_start_s",
    type=Finite(),
    default=0.0,
    show_default=True,
    help="Which window of the record.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), default=10, show_default=True, help="Rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(*, table: Path, record_id: str, window_start_s: float, count: int, as_json: bool) -> None:
    """Show the rows of TABLE (made by xecg embed) whose embeddings are nearest to RECORD_ID's by cosine similarity."""
    from xecg.model.similar import nearest

    found = nearest(table, record_id, window_start_s=window_start_s, count=count)
    if as_json:
        print_json([{"record_id": r, "window_start_s": s, "similarity": c} for r, s, c in found])
    else:
        for name, start_s, similarity in found:
            click.echo(f"{similarity:7.4f}  {start_s:10.1f} s  {printable(name)}")
