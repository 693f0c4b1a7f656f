"""Shared set-up: one thread a worker, the same random numbers each run."""

from __future__ import annotations

import os

os.environ.setdefault("XECG_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import numpy as np
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
