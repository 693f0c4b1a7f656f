"""How often the throughput harness runs what it times."""

from __future__ import annotations

import pytest
import torch

from bench import harness, peers


def test_a_slow_function_has_two_turns_and_a_quick_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that only the timed functions move: the slow one by 9 s, the quick one by 1 s.
    now = 0.0
    calls = {"slow": 0, "quick": 0}

    def work(name: str, seconds: float) -> None:
        nonlocal now
        calls[name] += 1
        now += seconds

    monkeypatch.setattr(harness.time, "perf_counter", lambda: now)
    monkeypatch.setattr(harness.time, "process_time", lambda: 2 * now)
    best = harness.minima({"slow": lambda: work("slow", 9.0), "quick": lambda: work("quick", 1.0)}, 6.0)
    assert calls["slow"] == 2
    assert calls["quick"] >= 2 + 5
    assert best == {"slow": (9.0, 18.0), "quick": (1.0, 2.0)}


def test_the_other_network_has_the_published_size() -> None:
    net = peers.Net1D().requires_grad_(False)
    assert net(torch.randn(1, 12, 5000)).shape == (1, 1024)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 30.6
