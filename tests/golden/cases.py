"""The inputs behind the arrays in this folder: waves, so that nothing but the peers' results is stored."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tests.ops.waves import wave

FOLDER = Path(__file__).parent
B, T, H, DK, DV, D = 2, 64, 2, 6, 4, 5

Inputs = dict[str, Tensor | None]


def mlstm_inputs(*, state: bool) -> Inputs:
    q, k = wave((B, T, H, DK), (0.7, 0.31, 0.5, 0.9), 0.1), wave((B, T, H, DK), (0.4, 0.63, 0.2, 0.8), 0.2)
    v = wave((B, T, H, DV), (0.5, 0.23, 0.9, 0.3), 0.3)
    i, f = 3 * wave((B, T, H), (0.3, 0.81, 0.4), 0.4), 2 + 3 * wave((B, T, H), (0.6, 0.53, 0.7), 0.5)
    C, n = wave((B, H, DK, DV), (0.3, 0.5, 0.7, 0.2), 0.6), wave((B, H, DK), (0.2, 0.4, 0.6), 0.7)
    states = (C, n, wave((B, H), (0.9, 0.3), 0.8)) if state else (None, None, None)
    return dict(zip(("q", "k", "v", "i", "f", "C0", "n0", "m0"), (q, k, v, i, f, *states)))


def mlstm_weights() -> tuple[Tensor, ...]:
    """What h and the final C, n, m are multiplied with in the loss behind the gradients."""
    C, n = wave((B, H, DK, DV), (0.7, 0.1, 0.3, 0.2), 0.5), wave((B, H, DK), (0.5, 0.7, 0.2), 0.3)
    return wave((B, T, H, DV), (0.3, 0.41, 0.5, 0.6), 0.9), C, n, wave((B, H), (0.3, 0.9), 0.4)


def slstm_inputs(*, state: bool) -> Inputs:
    x = 2 * wave((B, T, 4, H, D), (0.7, 0.33, 1.1, 0.5, 0.9), 0.1)
    R, b = wave((4, H, D, D), (0.4, 0.6, 0.2, 0.8), 0.2) / 2, wave((4, H, D), (0.5, 0.2, 0.9), 0.3)
    places = ((0.1, 0), (0.2, 0), (0.3, 2), (0.4, 0))
    states = [wave((B, H, D), (0.3, 0.5, 0.7), phase) + offset if state else None for phase, offset in places]
    return dict(zip(("x", "R", "b", "h0", "c0", "n0", "m0"), (x, R, b, *states)))


def slstm_weights() -> tuple[Tensor, ...]:
    """What h and the final h, c, n, m are multiplied with in the loss behind the gradients."""
    ends = (wave((B, H, D), (0.7, 0.1, 0.3), phase) for phase in (0.5, 0.3, 0.4, 1.1))
    return wave((B, T, H, D), (0.3, 0.41, 0.5, 0.6), 0.9), *ends
