"""`python -m bench.training --json FILE`: what a training step on the CPU waits for, and how much of it is the encoder.

Simulated records; the default settings, and those of the weights that ship. Three runs take turns in one process: as `train` is;
with views made when they are asked for; and with the encoder taken out (tokens are given, their gradients end there), which
leaves everything else of a step. Of each, the quickest step, and the share of waiting over all steps but the first of a turn.
Then one run of a small batch over many steps, for memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from xecg.io.atomic import write_json
from xecg.pretrain import Corpus, Settings, build_corpus, trainer
from xecg.pretrain.ahead import Ahead
from xecg.pretrain.objective import SimDINO
from xecg.pretrain.run import spec_of
from xecg.pretrain.views import ViewSettings

__all__ = ["measure", "memory"]

WAIT, ENCODER = 0.05, 0.70  # bars: at most, at least
_STEPS = 6  # of a turn; the first is not counted
_RECORDS = 96


class _AsAsked(Ahead[Any]):
    """Views of a step are made when it is asked for."""

    def of(self, step: int) -> Any:
        return self._make(step)


def _as_shipped(settings: Settings) -> Settings:
    """Two views without short ones, and heads that are asked about beats (docs/PRETRAINING_LOG.md)."""
    views = ViewSettings(local_views=0, few_leads=0.5, rate=0.03, mask_chance=0.3)
    return replace(settings, auxiliary=1.0, views=views)


def _without_encoder(goal: SimDINO) -> None:
    """Tokens that do not depend on the signal; every parameter still gets a gradient, of zeros, for the optimiser."""
    patch, dim = goal.student.config.patch, goal.student.config.dim

    def encode(x: Tensor, **_: object) -> Tensor:
        shape = (len(x), x.shape[-1] // patch, dim)
        tokens = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        learn = [p.reshape(-1)[0] for p in goal.student.parameters()]
        return tokens.requires_grad_() + 0 * torch.stack(learn).sum()

    goal.student.encode = encode  # type: ignore[method-assign,assignment]
    assert goal.teacher is not None
    goal.teacher.encode = encode  # type: ignore[method-assign,assignment]


@contextmanager
def _as_asked() -> Iterator[None]:
    before = trainer.Ahead
    trainer.Ahead = _AsAsked  # type: ignore[misc]
    try:
        yield
    finally:
        trainer.Ahead = before  # type: ignore[misc]


def _turn(
    settings: Settings, corpus: Corpus, out: Path, change: Callable[[SimDINO], None] = lambda goal: None
) -> list[tuple[float, float]]:
    """Seconds of every step but the first, and those of them that were waiting."""
    goal = SimDINO(settings, corpus, torch.device("cpu"))
    change(goal)
    lines: list[dict[str, Any]] = []
    trainer.train(settings, corpus, out, objective=goal, log_every=1, save_every=10**6, report=lines.append)
    took = [settings.batch / line["records_per_s"] for line in lines[1:]]
    return [(second, second * line["loading_share"]) for second, line in zip(took, lines[1:])]


def measure(settings: Settings, corpus: Corpus, out: Path, turns: int) -> dict[str, Any]:
    """Milliseconds a step, records a second, shares of waiting and of the encoder."""
    found: dict[str, list[tuple[float, float]]] = {"ahead": [], "as asked": [], "no encoder": []}
    for turn in range(turns):
        found["ahead"] += _turn(settings, corpus, out / f"{turn}-ahead")
        with _as_asked():
            found["as asked"] += _turn(settings, corpus, out / f"{turn}-asked")
            found["no encoder"] += _turn(settings, corpus, out / f"{turn}-bare", _without_encoder)
    quickest = {name: min(second for second, _ in steps) for name, steps in found.items()}
    wait = {name: sum(w for _, w in steps) / sum(second for second, _ in steps) for name, steps in found.items()}
    computed = {name: min(second - w for second, w in steps) for name, steps in found.items()}
    return {
        "step_ms": round(1000 * quickest["ahead"], 1), "records_per_s": round(settings.batch / quickest["ahead"], 1),
        "wait_share": round(wait["ahead"], 4), "wait_bar": WAIT,
        "as_asked": {"step_ms": round(1000 * quickest["as asked"], 1), "wait_share": round(wait["as asked"], 4)},
        "encoder_share": round((computed["as asked"] - computed["no encoder"]) / quickest["as asked"], 4),
        "encoder_bar": ENCODER,
    }  # fmt: skip


def memory(settings: Settings, corpus: Corpus, out: Path) -> dict[str, Any]:
    """Largest resident memory after a tenth of the steps and after all."""
    lines: list[dict[str, Any]] = []
    trainer.train(settings, corpus, out, log_every=max(1, settings.steps // 10), report=lines.append)
    return {"steps": settings.steps, "mb_at_a_tenth": lines[0]["memory_mb"], "mb_at_the_end": lines[-1]["memory_mb"]}


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--model", default="tiny", show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--memory-steps", default=1000, show_default=True, help="0 = do not measure memory.")
def main(out: Path | None, model: str, batch: int, turns: int, memory_steps: int) -> None:
    """Measure on this machine, with as many threads as torch takes."""
    settings = Settings(model=model, batch=batch, steps=_STEPS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_corpus([], folder / "corpus", spec_of(model), synthetic=max(_RECORDS, batch))
        corpus = Corpus(folder / "corpus")
        found = {"model": model, "batch": batch, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        for name, asked in (("default", settings), ("as shipped", _as_shipped(settings))):
            found[name] = measure(asked, corpus, folder / name, turns)
        if memory_steps:
            found["memory"] = memory(replace(settings, batch=4, steps=memory_steps), corpus, folder / "memory")
    click.echo(found)
    if out is not None:
        write_json(out, found)


if __name__ == "__main__":
    main()
