"""The public ops keep their names, argument order and defaults."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch

from xecg import ops
from xecg.ops import _dispatch

SIGNATURES = {
    "mlstm": "(q, k, v, i, f, *, initial_state=None, lengths=None, reverse=False, gate='exp', scale=None, eps=1e-06,"
    " return_state=False, chunk_size=None)",
    "slstm": "(x, R, b, *, initial_state=None, lengths=None, reverse=False, return_state=False)",
    "causal_conv1d": "(x, weight, bias=None, *, activation=None, initial_state=None, lengths=None, reverse=False,"
    " return_state=False)",
    "mlstm_step": "(q, k, v, i, f, state, *, gate='exp', scale=None, eps=1e-06)",
    "mlstm_step_": "(q, k, v, i, f, state, *, gate='exp', scale=None, eps=1e-06, out=None)",
    "slstm_step": "(x, R, b, state)",
    "slstm_step_": "(x, R, b, state, *, out=None)",
    "causal_conv1d_step": "(x, weight, bias, state, *, activation=None)",
    "causal_conv1d_step_": "(x, weight, bias, state, *, activation=None, out=None)",
    "linear": "(x, weight, bias=None)",
    "gated": "(a, b, *, activation)",
    "norm": "(x, weight, *, skip=None, skip_weight=None, gate=None, eps=1e-05)",
    "use_backend": "(name)",
}


def _without_types(function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_signature_is_frozen(name: str) -> None:
    assert _without_types(getattr(ops, name)) == SIGNATURES[name]


def test_states_are_named_tuples_of_plain_tensors() -> None:
    assert ops.MLSTMState._fields == ("C", "n", "m")
    assert ops.SLSTMState._fields == ("h", "c", "n", "m")


def test_every_public_name_is_listed_and_resolves() -> None:
    assert set(SIGNATURES) | {"MLSTMState", "SLSTMState", "backends"} == set(ops.__all__)
    for name in ops.__all__:
        assert getattr(ops, name).__doc__


def test_kernels_that_no_gpu_has_run_are_picked_when_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, able = torch.device("cuda"), SimpleNamespace(refusal=lambda *args, **sizes: "")
    reference = SimpleNamespace()
    monkeypatch.setattr(_dispatch, "_module", lambda backend, op: able if backend in ("cuda", "triton") else reference)
    monkeypatch.delenv("XECG_UNPROVEN", raising=False)
    monkeypatch.setattr(_dispatch, "_forced", None)
    assert _dispatch.pick("mlstm", gpu, torch.float32) is reference
    with ops.use_backend("triton"):
        assert _dispatch.pick("mlstm", gpu, torch.float32) is able
    monkeypatch.setenv("XECG_UNPROVEN", "1")
    assert _dispatch.pick("mlstm", gpu, torch.float32) is able
    monkeypatch.setenv("XECG_UNPROVEN", "1,-cuda,-triton/norm")
    assert (
        _dispatch.pick("mlstm", gpu, torch.float32) is able and _dispatch.pick("norm", gpu, torch.float32) is reference
    )


def test_backends_are_listed_with_reasons() -> None:
    for op in ("mlstm", "slstm", "causal_conv1d", "linear"):
        listed = ops.backends(op, "cpu")
        assert set(listed) == {"cpu", "reference", "triton", "cuda"}
        assert listed["reference"] == ""
        assert all(reason == "" or len(reason.split()) > 3 for reason in listed.values())
