"""One thread: several of these tests fork, and threads do not outlive a fork."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with suppress(ImportError):
        from xecg import _cpu

        _cpu.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    with suppress(ImportError):
        from xecg import _cpu

        _cpu.set_num_threads(0)
