"""Writes the arrays of this folder with the peers: `python -m tests.golden.make` in the environment of `make test-oracles`.

Outputs, final states and gradients (autograd through the peers' own formulas) in float64; eps = 0.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tests.golden import cases
from tests.oracles import peers

MLSTM_OUTPUTS, SLSTM_OUTPUTS = ("h", "C", "n", "m"), ("h", "hT", "cT", "nT", "mT")


def main() -> None:
    for state in (False, True):
        suffix = "with_state" if state else "zero_state"
        x = cases.mlstm_inputs(state=state)
        _write(f"mlstm_{suffix}", MLSTM_OUTPUTS, peers.mlstm_kernels_chunkwise, x, cases.mlstm_weights())
        x = cases.slstm_inputs(state=state)
        _write(f"slstm_{suffix}", SLSTM_OUTPUTS, peers.xlstm_slstm, x, cases.slstm_weights())
    np.savez_compressed(
        cases.FOLDER / "mlstm_sig_zero_state.npz", h=peers.mlstm_kernels_siging(cases.mlstm_inputs(state=False)).numpy()
    )


def _write(name: str, outputs: tuple[str, ...], peer, x: cases.Inputs, weights: tuple[Tensor, ...]) -> None:
    arrays = dict(zip(outputs, (t.numpy() for t in peer(x))))
    arrays |= {f"d{n}": g.numpy() for n, g in peers.gradients(peer, x, weights).items() if g is not None}
    np.savez_compressed(cases.FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
