"""Better rows for the table of the mLSTM kernels (xecg/ops/triton/_mlstm_configs.py): `python -m bench.gpu_tune`, on a GPU.

Each row of the table is tried at the shape that it is for, against its neighbours, one field at a time, and a bounded number of them. A
row is timed only when its result is right. What is found is printed as a diff of the table and nothing is written: whoever applies it
runs the tests of the compiled kernels after. Not yet run on a GPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from bench import device
from bench.gpu_checks import assert_as_good_as_rounding
from bench.harness import minima
from xecg import ops
from xecg.ops.triton import _mlstm_configs as configs
from xecg.ops.triton._mlstm_configs import Row

__all__ = ["Key", "better", "differences", "line_of", "main", "neighbours", "using"]

Key = tuple[str, str, int]  # of the table: kernel, type, widest DK
Seconds = Callable[[Row], "float | None"]  # of one call with that row; None where it gives no right result

_GAIN = 0.03  # less than this is noise
_FLOAT32 = 1e-5  # of the norm
_LIMITS = {"L": (16, 64), "BK": (16, 128), "BV": (16, 128), "warps": (2, 8), "stages": (1, 4)}
# B, T, H, DK, DV of the call that runs a kernel; wider heads than the table's "walk" go by tiles.
_SHAPES = {
    "alone": (512, 40, 4, 512, 512),
    "chunk": (4, 2048, 4, 512, 512),
    "states": (4, 2048, 4, 512, 512),
    "walk": (32, 2500, 4, 128, 128),
    "gradient": (32, 2500, 4, 128, 128),
}
_ONE_CHUNK_FLOAT32 = 32  # steps that "alone" takes in float32


def neighbours(key: Key, row: Row) -> Iterator[Row]:
    """Rows that differ in one field: half and double, one stage more and less. L of the kernels that share a chunk stays."""
    for field in fields(Row):
        now = getattr(row, field.name)
        least, most = _LIMITS[field.name]
        if field.name == "L" and key[0] not in ("walk", "gradient"):
            continue
        for new in (now - 1, now + 1) if field.name == "stages" else (now // 2, now * 2):
            if least <= new <= most:
                yield replace(row, **{field.name: new})


def better(key: Key, start: Row, seconds: Seconds, *, trials: int) -> tuple[Row, float, float]:
    """The fastest row found from `start`, its seconds and those of `start`; at most `trials` rows besides `start` are timed.

    Goes to the fastest neighbour while that gains, each row once. Raises ValueError where `start` itself gives no right result.
    """
    first = seconds(start)
    if first is None:
        raise ValueError(f"the row of {key} gives no right result: {start}")
    best, best_s, seen = start, first, {start}
    while True:
        at, at_s = best, best_s
        for row in neighbours(key, at):
            if row in seen:
                continue
            if len(seen) > trials:
                return best, best_s, first
            seen.add(row)
            found = seconds(row)
            if found is not None and found < best_s:
                best, best_s = row, found
        if best_s > at_s * (1 - _GAIN):
            return (best, best_s, first) if best_s <= first * (1 - _GAIN) else (start, first, first)


@contextmanager
def using(key: Key, row: Row) -> Iterator[None]:
    """The table with this row."""
    before = configs.TABLE[key]
    configs.TABLE[key] = row
    configs.plan.cache_clear()
    try:
        yield
    finally:
        configs.TABLE[key] = before
        configs.plan.cache_clear()


def line_of(key: Key, row: Row) -> str:
    """The row as the table has it."""
    kernel, dtype, width = key
    given = ", ".join(f"{field.name}={getattr(row, field.name)}" for field in fields(Row))
    return f'    ("{kernel}", "{dtype}", {width}): Row({given}),\n'


def differences(found: dict[Key, Row]) -> str:
    """A diff of the table's file."""
    path = Path(configs.__file__)
    text = path.read_text(encoding="utf-8")
    changed = text
    for key, row in found.items():
        changed = changed.replace(line_of(key, configs.TABLE[key]), line_of(key, row))
    name = "xecg/ops/triton/" + path.name
    return "".join(difflib.unified_diff(text.splitlines(True), changed.splitlines(True), f"a/{name}", f"b/{name}", n=0))


class _Case:
    """The call that a row is for, and what its first and last stream must give."""

    def __init__(self, key: Key) -> None:
        kernel, dtype, width = key
        self.key, self.dtype = key, getattr(torch, dtype)
        B, T, H, DK, DV = _SHAPES[kernel]
        if kernel == "walk":
            DK = DV = width
        if kernel == "alone" and self.dtype == torch.float32:
            T = _ONE_CHUNK_FLOAT32
        g = torch.Generator("cuda").manual_seed(T)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g, device="cuda")

        # q and k lean to one side: where the normaliser passes near 0, no short type has digits to compare.
        q, k = (normal(B, T, H, DK).abs() for _ in range(2))
        made = [q, k, normal(B, T, H, DV), normal(B, T, H), 3 + normal(B, T, H)]
        self.inputs = [x.to(self.dtype).requires_grad_(kernel == "gradient") for x in made]
        self.given = normal(B, T, H, DV).to(self.dtype)
        rows = [0, B - 1]
        self.rows = rows
        wide = [x.detach()[rows].double().requires_grad_(kernel == "gradient") for x in self.inputs]
        with ops.use_backend("reference"):
            h = ops.mlstm(*wide)
        assert isinstance(h, Tensor)
        self.expected = [h] if kernel != "gradient" else [*torch.autograd.grad(h, wide, self.given[rows].double())]
        if kernel == "gradient":
            with ops.use_backend("triton"):
                self.h = ops.mlstm(*self.inputs)

    def run(self) -> list[Tensor]:
        if self.key[0] == "gradient":
            return list(torch.autograd.grad(self.h, self.inputs, self.given, retain_graph=True))  # type: ignore[arg-type]
        with ops.use_backend("triton"):
            return [ops.mlstm(*self.inputs)]  # type: ignore[list-item]

    def check(self) -> None:
        for found, exact in zip(self.run(), self.expected):
            part = found[self.rows]
            if self.dtype != torch.float32:
                assert_as_good_as_rounding(part, exact, "the result")
            elif not float((part.double() - exact).norm() / exact.norm()) <= _FLOAT32:
                raise AssertionError("the result is wrong")

    def seconds(self, row: Row, budget: float) -> float | None:
        """Device seconds of one call; None where the row does not compile, does not fit or gives a wrong result."""
        with using(self.key, row):
            try:
                self.check()
                return minima({"": self.run}, budget, device.event_time)[""][1]
            except (AssertionError, RuntimeError, ValueError) as e:
                reason = str(e).strip() or type(e).__name__
            except (
                Exception
            ) as e:  # Triton's own errors share no class: out of resources, a refused tile, a failed assembly
                if not type(e).__module__.startswith("triton"):
                    raise
                reason = f"{type(e).__name__}: {e}".strip()
        click.echo(f"  {row}: {reason.splitlines()[0]}")
        return None


@click.command()
@click.option(
    "--only", default="", help="Rows whose kernel, type and width contain this text, as in walk-bfloat16-128."
)
@click.option("--trials", default=24, show_default=True, help="Rows that are tried for each row of the table.")
@click.option("--seconds", default=0.2, show_default=True, help="Time for each row that is tried.")
def main(only: str, trials: int, seconds: float) -> None:
    """Print a diff of the table of the mLSTM kernels with the rows that are faster on this GPU."""
    reason = device.why_none()
    if reason:
        raise click.ClickException(reason)
    found = {}
    for key, start in list(configs.TABLE.items()):
        if only not in "-".join(map(str, key)):
            continue
        made = _Case(key)
        row, best, first = better(key, start, partial(made.seconds, budget=seconds), trials=trials)
        click.echo(f"{'-'.join(map(str, key))}: {first * 1e6:.0f} µs, {best * 1e6:.0f} µs with {row}")
        if row != start:
            found[key] = row
    click.echo(differences(found) or "no row is faster than the table's")


if __name__ == "__main__":
    main()
