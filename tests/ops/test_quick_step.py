"""In-place steps that check and run in one compiled call: same bits, same errors, same news to autograd as the general way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xecg import ops
from xecg.errors import ShapeError
from xecg.ops import _dispatch

pytestmark = pytest.mark.skipif(
    not _dispatch._find_quick(), reason="this torch does not describe its tensors to C code"
)

B, H, D = 3, 2, 16
Call = Callable[..., Tensor]


def _mlstm() -> tuple[Call, dict[str, Any]]:
    q, k, v = torch.randn(3, B, H, D)
    i, f = torch.randn(2, B, H)
    state = ops.MLSTMState(torch.randn(B, H, D, D), torch.randn(B, H, D), torch.randn(B, H))
    return ops.mlstm_step_, {"q": q, "k": k, "v": v, "i": i, "f": f, "state": state, "out": torch.empty(B, H, D)}


def _slstm() -> tuple[Call, dict[str, Any]]:
    state = ops.SLSTMState(torch.randn(B, H, D), torch.randn(B, H, D), 1 + torch.rand(B, H, D), torch.randn(B, H, D))
    x, R, b = torch.randn(B, 4, H, D), torch.randn(4, H, D, D) / 8, torch.randn(4, H, D)
    return ops.slstm_step_, {"x": x, "R": R, "b": b, "state": state, "out": torch.empty(B, H, D)}


def _conv() -> tuple[Call, dict[str, Any]]:
    x, weight, bias, state = torch.randn(B, D), torch.randn(D, 4), torch.randn(D), torch.randn(B, 3, D)
    return ops.causal_conv1d_step_, {"x": x, "weight": weight, "bias": bias, "state": state, "out": torch.empty(B, D)}


CASES = {"mlstm": _mlstm, "slstm": _slstm, "causal_conv1d": _conv}
each_op = pytest.mark.parametrize("op", CASES)


def _copy(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: type(t)(*(s.clone() for s in t)) if isinstance(t, tuple) else t.clone() for name, t in arguments.items()
    }


def _tensors(arguments: dict[str, Any]) -> list[Tensor]:
    """The tensors that the step writes."""
    state = arguments["state"]
    return [*(state if isinstance(state, tuple) else (state,)), arguments["out"]]


def _refuse_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_quick", {})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What every quick step answered."""
    answers: list[bool] = []

    def watch(step: Callable[..., bool]) -> Callable[..., bool]:
        def call(*arguments: object) -> bool:
            answers.append(step(*arguments))
            return answers[-1]

        return call

    monkeypatch.setattr(_dispatch, "_quick", {op: watch(step) for op, step in _dispatch._find_quick().items()})
    return answers


@each_op
def test_quick_step_gives_the_bits_of_the_general_step(
    op: str, served: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, arguments = CASES[op]()
    again = _copy(arguments)
    assert step(**arguments) is arguments["out"]
    assert served == [True]
    _refuse_quick(monkeypatch)
    step(**again)
    for quick, general in zip(_tensors(arguments), _tensors(again)):
        assert torch.equal(quick, general)


@each_op
def test_quick_step_takes_views_of_a_wider_projection(
    op: str, served: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, arguments = CASES[op]()
    for name in ("q", "k", "v", "x"):
        if name in arguments:
            wide = torch.cat((arguments[name], torch.full_like(arguments[name], torch.nan)), -1)
            arguments[name] = wide[..., :D]
    again = _copy(arguments)
    step(**arguments)
    assert served == [True]
    _refuse_quick(monkeypatch)
    step(**again)
    for quick, general in zip(_tensors(arguments), _tensors(again)):
        assert torch.equal(quick, general)


@each_op
def test_every_wrong_argument_is_refused_as_without_quick_steps_and_nothing_is_written(op: str) -> None:
    step, good = CASES[op]()
    before = _copy(good)
    for name, t in good.items():
        parts = t if isinstance(t, tuple) else (t,)
        for n, part in enumerate(parts):
            for wrong in (part[..., :-1], part[None], part.double(), part.numpy(), part.to(torch.int32)):
                value = type(t)(*(wrong if m == n else p for m, p in enumerate(parts))) if parts is t else wrong
                with pytest.raises(ShapeError):
                    step(**good | {name: value})
    for tensor, untouched in zip(_tensors(good), _tensors(before)):
        assert torch.equal(tensor, untouched) or tensor is good["out"]


@each_op
@pytest.mark.parametrize("quick", [True, False])
def test_autograd_hears_that_every_tensor_was_overwritten(
    op: str, quick: bool, served: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, arguments = CASES[op]()
    for place in range(len(_tensors(arguments))):
        again = _copy(arguments)
        kept = _tensors(again)[place]
        weight = torch.ones_like(kept, requires_grad=True)
        product = (weight * kept).sum()
        with monkeypatch.context() as patch:
            if not quick:
                _refuse_quick(patch)
            step(**again)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()
    assert served == [True] * len(_tensors(arguments)) * quick


@each_op
@pytest.mark.parametrize("wrong", [1.0, [0.0]])
def test_an_output_that_is_no_tensor_is_refused_in_words(op: str, wrong: object) -> None:
    step, arguments = CASES[op]()
    with pytest.raises(ShapeError, match=r"out is .*needed a tensor"):
        step(**arguments | {"out": wrong})


@each_op
def test_other_types_subclasses_and_backends_take_the_general_way(op: str, served: list[bool]) -> None:
    class Own(Tensor):
        pass

    step, arguments = CASES[op]()
    first = next(iter(arguments))
    step(**_copy(arguments) | {first: arguments[first].as_subclass(Own)})
    half = {n: t.bfloat16() if n in ("q", "k", "v", "i", "f", "x", "out") else t for n, t in _copy(arguments).items()}
    step(**half)
    assert served == [False, False]
    with ops.use_backend("reference"):
        step(**_copy(arguments))
    assert served == [False, False]


@each_op
def test_a_dispatch_mode_sees_the_step(op: str) -> None:
    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    step, arguments = CASES[op]()
    with Watch():
        step(**arguments)
    assert any(f"xecg.{op}_step_" in name for name in seen)


@each_op
def test_no_stream_and_an_absent_bias_are_legal(op: str) -> None:
    step, arguments = CASES[op]()
    shared = ("R", "b", "weight", "bias")
    none = {
        n: t
        if n in shared
        else type(t)(*(s[:0].contiguous() for s in t))
        if isinstance(t, tuple)
        else t[:0].contiguous()
        for n, t in arguments.items()
    }
    assert step(**none).shape[0] == 0
    if op == "causal_conv1d":
        again = _copy(arguments)
        plain = step(**arguments | {"bias": None}).clone()
        torch.testing.assert_close(plain + again["bias"], step(**again))


@each_op
@pytest.mark.parametrize("quick", [True, False])
def test_written_tensors_that_share_memory_are_refused(op: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quick:
        _refuse_quick(monkeypatch)
    step, good = CASES[op]()
    state = good["state"]
    small = state if isinstance(state, Tensor) else state[1]
    shared = small.flatten()[: good["out"].numel()].view(good["out"].shape)
    with pytest.raises(ShapeError, match="in the memory of"):
        step(**good | {"out": shared})
    source = next(name for name in ("v", "x") if name in good)
    twin = good[source] if op != "slstm" else good[source].flatten()[: good["out"].numel()].view(good["out"].shape)
    before = good[source].clone()
    with pytest.raises(ShapeError, match="in the memory of"):
        step(**good | {"out": twin})
    assert torch.equal(good[source], before)


@each_op
def test_negated_views_give_their_values_and_are_refused_where_they_are_written(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_quick(monkeypatch)  # which asks for contiguous dimensions, as no part of complex numbers has
    step, arguments = CASES[op]()
    expected = _copy(arguments)
    step(**expected)
    for name, t in arguments.items():
        if name in ("state", "out"):
            continue
        again = _copy(arguments) | {name: torch._neg_view(-t)}
        step(**again)
        assert again[name].is_neg()
        for found, truth in zip(_tensors(again), _tensors(expected)):
            assert torch.equal(found, truth), name
    for n, t in enumerate(_tensors(arguments)):
        again = _copy(arguments)
        written = _tensors(again)
        written[n] = torch._neg_view(-t)
        state = again["state"]
        again["state"] = type(state)(*written[:-1]) if isinstance(state, tuple) else written[0]
        with pytest.raises(ShapeError, match=r"negates what is in memory.*resolve_neg"):
            step(**again | {"out": written[-1]})


def test_the_imaginary_part_of_a_conjugate_is_read_as_what_it_means() -> None:
    step, arguments = _mlstm()
    plain, out = _copy(arguments), torch.empty(B, H, 1)
    narrow = torch.randn(B, H, 1, dtype=torch.cfloat).conj().imag  # of one value a head: contiguous as it is
    assert narrow.is_neg()
    state = ops.MLSTMState(torch.zeros(B, H, D, 1), torch.zeros(B, H, D), torch.zeros(B, H))
    step(**arguments | {"v": narrow, "state": state, "out": out})
    again = ops.MLSTMState(torch.zeros(B, H, D, 1), torch.zeros(B, H, D), torch.zeros(B, H))
    truth = step(**plain | {"v": narrow.resolve_neg().contiguous(), "state": again, "out": torch.empty(B, H, 1)})
    assert torch.equal(out, truth)
