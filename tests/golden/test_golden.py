"""The references against arrays that the peers computed: what `make test-oracles` compares, without the peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden import cases
from tests.tolerances import FLOAT64, error
from xecg.ops.reference import mlstm, slstm


def assert_equals_stored(name: str, arrays: dict[str, torch.Tensor | None]) -> None:
    with np.load(cases.FOLDER / f"{name}.npz") as stored:
        assert set(stored) <= set(arrays)
        for key, expected in stored.items():
            assert error(arrays[key], torch.from_numpy(expected)) < FLOAT64, key


@pytest.mark.parametrize("state", [False, True])
def test_mlstm_equals_the_peers_arrays(state):
    x, weights = cases.mlstm_inputs(state=state), cases.mlstm_weights()
    options = {"reverse": False, "gate": "exp", "scale": cases.DK**-0.5, "eps": 0.0, "chunk_size": 24}
    arrays = dict(zip(("h", "C", "n", "m"), mlstm.forward(*x.values(), None, **options)))
    arrays |= zip((f"d{name}" for name in x), mlstm.backward(*weights, *x.values(), None, **options))
    assert_equals_stored("mlstm_with_state" if state else "mlstm_zero_state", arrays)
    if not state:
        h = mlstm.forward(*x.values(), None, **options | {"gate": "sig"})[0]
        assert_equals_stored("mlstm_sig_zero_state", {"h": h})


@pytest.mark.parametrize("state", [False, True])
def test_slstm_equals_the_peers_arrays(state):
    x, weights = cases.slstm_inputs(state=state), cases.slstm_weights()
    arrays = dict(zip(("h", "hT", "cT", "nT", "mT"), slstm.forward(*x.values(), None, reverse=False)))
    arrays |= zip((f"d{name}" for name in x), slstm.backward(*weights, *x.values(), None, reverse=False))
    assert_equals_stored("slstm_with_state" if state else "slstm_zero_state", arrays)
