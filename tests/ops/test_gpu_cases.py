"""The tests for GPUs, tried on the CPU: what they call runs, what they judge can fail, their poison is there."""

from __future__ import annotations

import pytest
import torch

from tests.ops import gpu_cases
from tests.ops.harness import fast_backends
from xecg import ops
from xecg.ops._dispatch import OPS


def test_every_op_has_cases() -> None:
    assert set(gpu_cases.SHAPES) == set(OPS)


@pytest.mark.parametrize("op", gpu_cases.SHAPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
def test_float32_cases_run_and_the_cpu_kernels_pass_them(op: str, reverse: bool, lengths: bool) -> None:
    for backend in fast_backends(op) or ["reference"]:
        gpu_cases.judge_float32(gpu_cases.case(op, reverse=reverse, lengths=lengths), backend, "cpu")


@pytest.mark.parametrize("op", gpu_cases.SHAPES)
def test_half_cases_run_and_the_definition_passes_them(op: str) -> None:
    gpu_cases.judge_half(gpu_cases.case(op), "reference", "cpu", torch.bfloat16)


def test_the_other_gate_runs() -> None:
    for backend in ("reference", *fast_backends("mlstm")):
        gpu_cases.judge_float32(gpu_cases.case("mlstm", gate="sig"), backend, "cpu")


@pytest.mark.parametrize("op", gpu_cases.SHAPES)
def test_a_result_that_is_off_is_seen(op: str) -> None:
    call, inputs = gpu_cases.case(op)
    plain = iter([False, False, True])  # the first two calls are the judge's own

    def wrong(**given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = call(**given)
        return (out[0] * 1.001, *out[1:]) if next(plain) else out

    with pytest.raises(AssertionError, match="output 0"):
        gpu_cases.judge_float32((wrong, inputs), "reference", "cpu")
    plain = iter([False, False, False, True])
    wrong_half = (lambda **given: (call(**given)[0] * (1.03 if next(plain) else 1.0), *call(**given)[1:]), inputs)
    with pytest.raises(AssertionError, match="output"):
        gpu_cases.judge_half(wrong_half, "reference", "cpu", torch.bfloat16)


def test_a_kernel_that_does_not_run_is_told_with_its_backend() -> None:
    call, inputs = gpu_cases.case("norm")
    plain = iter([True, True, False])  # the first two calls are the judge's own

    def breaks(**given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if next(plain):
            return call(**given)
        raise RuntimeError("CUDA error: an illegal memory access")

    with pytest.raises(AssertionError, match="reference does not run: RuntimeError: CUDA error"):
        gpu_cases.judge_float32((breaks, inputs), "reference", "cpu")


def test_memory_that_was_not_written_is_not_a_number() -> None:
    x = torch.zeros(3)
    with gpu_cases.poisoned():
        assert torch.empty(1000).isnan().all() and x.new_empty(1000).isnan().all()
        assert torch.empty_like(x).isnan().all() and torch.empty(4, dtype=torch.int64).min() > 1 << 60
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_seed_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XECG_SEED", "17")
    assert gpu_cases.seed() == 17
    monkeypatch.delenv("XECG_SEED")
    assert gpu_cases.seed() > 1_700_000_000


def test_backends_of_a_gpu_are_asked_without_one() -> None:
    for op in gpu_cases.SHAPES:
        assert not ops.backends(op, "cuda")["reference"]
