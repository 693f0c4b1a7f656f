"""The peak matcher: published table, maximality, order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from xecg.errors import ShapeError
from xecg.signal.peaks import match


@pytest.mark.parametrize(
    ("truth", "found", "tolerance", "counts", "f1"),
    [
        ([1.0], [0.99, 1.00, 1.01], 0.010, (1, 2, 0), 0.5),
        ([1.000, 1.015], [1.0075], 0.010, (1, 0, 1), 0.6667),
        ([1, 2], [], 0.150, (0, 0, 2), 0.0),
        ([], [0.5, 0.7], 0.010, (0, 2, 0), 0.0),
        ([1, 2, 3], [1.009, 2.011, 2.990, 3.009], 0.010, (2, 2, 1), 0.5714),
        ([0.8, 1.0], [0.90, 0.95], 0.150, (2, 0, 0), 1.0),
    ],
)
def test_matches_are_strict(truth: list, found: list, tolerance: float, counts: tuple, f1: float) -> None:
    m = match(truth, found, tolerance)
    assert (m.true_positive, m.false_positive, m.false_negative) == counts
    assert m.f1 == pytest.approx(f1, abs=1e-4)


def test_matching_is_maximal() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    for _ in range(300):
        truth, found = rng.uniform(0, 3, rng.integers(0, 12)), rng.uniform(0, 3, rng.integers(0, 12))
        m = match(truth, found, 0.1)
        close = np.abs(truth[:, None] - found) <= 0.1 + 1e-9
        best = close[linear_sum_assignment(~close)].sum() if close.size else 0
        assert m.true_positive == best
        assert len(set(m.pairs[:, 0])) == len(set(m.pairs[:, 1])) == best
        assert close[m.pairs[:, 0], m.pairs[:, 1]].all()
        np.testing.assert_array_equal(m.errors_s, found[m.pairs[:, 1]] - truth[m.pairs[:, 0]])


def test_bound_is_inclusive() -> None:
    assert match([0.1], [0.1 + 0.2], 0.2).true_positive == 1  # 0.30000000000000004 − 0.1 > 0.2
    assert match([0.0], [0.2 + 1e-8], 0.2).true_positive == 0


def test_wrong_times_are_refused() -> None:
    with pytest.raises(ShapeError, match="1 not finite"):
        match([1.0, np.nan], [], 0.1)
    with pytest.raises(ShapeError, match="tolerance_s is -1"):
        match([], [], -1)
