"""The search for faster rows of the kernels' table, with a clock that only knows the row."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

pytest.importorskip("triton", reason="the package triton is not installed")
from bench import gpu_tune
from bench.gpu_tune import Key, better, differences, line_of, neighbours, using
from xecg.ops.triton import _mlstm_configs as configs
from xecg.ops.triton._mlstm_configs import Row

KEY: Key = ("walk", "bfloat16", 128)
START = Row(L=32, BK=32, BV=64, warps=8, stages=2)


class Clock:
    """Seconds grow with the distance, in steps of the search, from the fastest row; some rows are refused."""

    def __init__(self, fastest: Row, refused: tuple[Row, ...] = ()) -> None:
        self.fastest, self.refused, self.asked = fastest, refused, []

    def __call__(self, row: Row) -> float | None:
        self.asked.append(row)
        if row in self.refused:
            return None
        steps = sum(
            abs(getattr(row, n).bit_length() - getattr(self.fastest, n).bit_length()) for n in ("L", "BK", "BV")
        )
        steps += abs(row.warps.bit_length() - self.fastest.warps.bit_length()) + abs(row.stages - self.fastest.stages)
        return 1e-3 * (1 + 0.1 * steps)


@pytest.mark.parametrize("fastest", [START, Row(16, 64, 16, 4, 3), Row(64, 16, 128, 2, 1)])
def test_the_search_finds_the_fastest_row_and_asks_for_none_twice(fastest: Row) -> None:
    clock = Clock(fastest)
    row, best, first = better(KEY, START, clock, trials=200)
    assert row == fastest and best == pytest.approx(1e-3) and first == Clock(fastest)(START)
    assert len(clock.asked) == len(set(clock.asked))


def test_the_search_stops_at_its_bound() -> None:
    for trials in (0, 1, 7):
        clock = Clock(Row(16, 64, 16, 4, 3))
        better(KEY, START, clock, trials=trials)
        assert len(clock.asked) == trials + 1


def test_a_row_that_gives_no_right_result_is_never_chosen() -> None:
    fastest = Row(32, 32, 128, 8, 2)
    clock = Clock(fastest, refused=(fastest,))
    row, _, _ = better(KEY, START, clock, trials=200)
    assert fastest in clock.asked and row == START
    with pytest.raises(ValueError, match="gives no right result"):
        better(KEY, START, Clock(fastest, refused=(START,)), trials=200)


def test_noise_changes_no_row() -> None:
    def seconds(row: Row) -> float:
        return 1.0 if row == START else 0.98

    assert better(KEY, START, seconds, trials=200)[0] == START


def test_neighbours_are_rows_that_the_kernels_take() -> None:
    for key, row in configs.TABLE.items():
        found = list(neighbours(key, row))
        assert found and row not in found
        for other in found:
            assert min(other.L, other.BK, other.BV) >= 16 and other.warps in (1, 2, 4, 8) and other.stages >= 1
            assert key[0] in ("walk", "gradient") or other.L == row.L  # kernels of one way share the steps of a chunk
            assert configs.segment_of(1, 1) % other.L == 0


def test_the_diff_names_the_rows_that_change_and_no_other() -> None:
    new = Row(64, 32, 64, 4, 3)
    lines = differences({KEY: new}).splitlines(keepends=True)
    assert lines[3:] == ["-" + line_of(KEY, configs.TABLE[KEY]), "+" + line_of(KEY, new)]
    assert differences({}) == ""
    for key, row in configs.TABLE.items():
        assert differences({key: new if row != new else START})


def test_a_row_is_used_and_put_back() -> None:
    import torch

    def tile() -> int:
        return configs.plan(128, 2500, 128, 128, torch.bfloat16, 132).out.warps

    before = tile()
    with using(KEY, Row(32, 32, 64, 4, 2)):
        assert tile() == 4 != before
    assert tile() == before


def test_without_a_gpu_it_says_so() -> None:
    done = CliRunner().invoke(gpu_tune.main, [])
    if gpu_tune.device.why_none():
        assert done.exit_code == 1 and "no GPU" in done.output
