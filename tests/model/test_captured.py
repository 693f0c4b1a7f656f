"""`XECG.captured`, `captured_step`: plain calls without a GPU, a graph with one; and nothing on the way waits for the device.

A model of meta tensors stands in for one on a GPU: whatever a host could look at is not there, so looking raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tolerances import STREAM, error
from xecg.errors import ShapeError, SpecError, XECGError
from xecg.model import XECG, XECGConfig, blocks
from xecg.model.captured import _Graph
from xecg.ops.reference import conv1d, gated, linear, mlstm, norm, slstm

PATCH = 25
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")


def _model(kinds: str = "sms", **options: Any) -> XECG:
    return XECG(XECGConfig(blocks=kinds, dim=32, heads=2, **options)).eval()


class Unseen(TorchDispatchMode):
    """Raises where the host would wait for a device: a number read, a shape that depends on numbers, tensors that change places."""

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = f(*args, **(kwargs or {}))
        places = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
        assert places <= {"meta"}, f"{f} on {places}"
        assert f.name().split("::")[1].split(".")[0] not in (
            "_local_scalar_dense",
            "nonzero",
            "unique",
            "masked_select",
        ), f
        return out


def there(model: XECG) -> XECG:
    return model.to("meta")


@pytest.mark.parametrize("kinds", ["sms", "m"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("given", ["nothing", "lengths", "mask", "hide", "all"])
def test_encode_never_waits_for_the_device(kinds: str, grad: bool, given: str) -> None:
    model = there(_model(kinds))
    x = torch.empty(3, 12, 10 * PATCH, device="meta")
    some = {
        "lengths": torch.empty(3, dtype=torch.int64, device="meta"),
        "mask": torch.empty(3, 10 * PATCH, dtype=torch.bool, device="meta"),
        "hide": torch.empty(3, 10, dtype=torch.bool, device="meta"),
    }
    with torch.set_grad_enabled(grad), Unseen():
        tokens = model.encode(x, **{name: t for name, t in some.items() if given in (name, "all")})
        assert tokens.shape == (3, 10, 32)
        if grad:
            tokens.sum().backward()


def test_steps_never_wait_for_the_device() -> None:
    model = there(_model(alternate=False))
    state = model.initial_state(3)
    with Unseen():
        assert model.step_(torch.empty(3, 12, PATCH, device="meta"), state).shape == (3, 32)


def test_what_stands_in_for_a_gpu_sees_a_host_that_looks() -> None:
    x = torch.empty(3, device="meta")
    for look in (
        lambda: x.sum().item(),
        lambda: x[x > 0],
        lambda: x.tolist(),
        lambda: x + torch.zeros(3),
        lambda: x.cpu(),
    ):
        with Unseen(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
            look()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_definitions_never_wait_for_the_device(reverse: bool, ragged: bool) -> None:
    """They serve a GPU where no kernel does; registration hides them from the tests above."""

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, device="meta", dtype=dtype)

    B, T, H, D = 3, 9, 2, 4
    lengths = new(B, dtype=torch.int64) if ragged else None
    way: dict[str, Any] = {"reverse": reverse}
    cell: dict[str, Any] = {"gate": "exp", "scale": 0.5, "eps": 1e-6}
    q, i, rows = new(B, T, H, D), new(B, T, H), new(B, H * D)
    gates, R, b = new(B, T, 4, H, D), new(4, H, D, D), new(4, H, D)
    with torch.no_grad(), Unseen():
        conv1d.forward(new(B, T, D), new(D, 4), new(D), None, lengths, silu=True, **way)
        mlstm.forward(q, q, q, i, i, None, None, None, lengths, chunk_size=None, want_state=False, **cell, **way)
        slstm.forward(gates, R, b, None, None, None, None, lengths, **way)
        norm.forward(new(B, H, D), new(H * D), rows, new(H * D), rows, eps=1e-5)
        gated.forward(rows, rows, gelu=True)
        linear.forward(new(B, H, D), new(H, D, D), None)
        conv1d.step_(new(B, D), new(D, 4), new(D), new(B, 3, D), new(B, D), silu=True)
        mlstm.step_(
            *(new(B, H, D) for _ in range(3)),
            new(B, H),
            new(B, H),
            new(B, H, D, D),
            new(B, H, D),
            new(B, H),
            new(B, H, D),
            **cell,
        )
        slstm.step_(new(B, 4, H, D), R, b, *(new(B, H, D) for _ in range(5)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_a_gpu_a_captured_encode_is_a_plain_one(precision: str) -> None:
    model = _model()
    x, lengths = torch.randn(2, 12, 7 * PATCH + 3), torch.tensor([7 * PATCH, 3 * PATCH + 1])
    plain, ragged = (
        model.captured(2, x.shape[2], precision=precision),
        model.captured(2, x.shape[2], lengths=True, precision=precision),
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        expected, shorter = model.encode(x), model.encode(x, lengths=lengths)
    assert torch.equal(plain(x), expected) and not plain(x).requires_grad
    assert torch.equal(ragged(x, lengths=lengths), shorter)
    assert torch.equal(plain(2 * x), plain(2 * x)) and not torch.equal(plain(2 * x), expected)


def test_bfloat16_rounds_every_dense_map_once_and_leaves_the_model_alone() -> None:
    from xecg.model.captured import _narrowed

    model = _model()
    before = {name: p for name, p in model.named_parameters()}
    twin = _narrowed(model)
    narrow = {name for name, p in twin.named_parameters() if p.dtype == torch.bfloat16}
    used: list[Tensor] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if f is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
                used.append(args[0])
            return f(*args, **(kwargs or {}))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False), Seen():
        twin.encode(torch.randn(1, 12, 2 * PATCH))
    matrices = {p.data_ptr(): name for name, p in before.items() if p.dim() > 1}
    assert not [matrices[t.data_ptr()] for t in used if t.data_ptr() in matrices], "rounded at each call"
    assert narrow == {n for n in before if n.split(".")[-1] in ("up", "down", "ffn_up", "ffn_down", "in_i", "in_f", "in_z", "in_o")} | {
        "patch.weight", "blocks.1.gate_i.weight", "blocks.1.gate_f.weight",
    }  # fmt: skip
    assert all(p is before[name] for name, p in twin.named_parameters() if name not in narrow)
    assert all(p is before[name] and p.dtype == torch.float32 for name, p in model.named_parameters())


def test_without_a_gpu_captured_steps_are_plain_ones_with_a_state_of_their_own() -> None:
    model = _model(alternate=False)
    made, state = model.captured_step(2), model.initial_state(2)
    for x in torch.randn(4, 2, 12, PATCH):
        assert torch.equal(made(x), model.step_(x, state))
    assert all(torch.equal(made.state[name], t) for name, t in state.items())


def test_another_shape_than_the_captured_one_is_refused() -> None:
    model = _model(alternate=False)
    encode, step = model.captured(2, 3 * PATCH), model.captured_step(2)
    for call, fact in (
        (lambda: encode(torch.zeros(1, 12, 3 * PATCH)), r"x is \(1, 12, 75\); needed \(2, 12, 75\)"),
        (lambda: encode(torch.zeros(2, 12, 3 * PATCH), lengths=torch.tensor([1, 2])), "captured without lengths"),
        (lambda: model.captured(2, 75, lengths=True)(torch.zeros(2, 12, 75)), "captured with them"),
        (lambda: step(torch.zeros(2, 12, 24)), r"needed \(2, 12, 25\)"),
        (lambda: model.captured(0, 75), "x is 0 records"),
        (lambda: model.captured(1, 24), "24 samples; needed 1 or more of 25"),
        (lambda: model.captured_step(0), "batch is 0"),
    ):
        with pytest.raises(ShapeError, match=fact):
            call()
    with pytest.raises(SpecError, match="precision is 'int8'"):
        model.captured(1, 75, precision="int8")
    with pytest.raises(XECGError, match="backward in time"):
        _model().captured_step(1)


class _Recorder:
    """Stands in for torch.cuda: remembers what is done in which order; a replay runs what was recorded into the same memory."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        self.told.append(name)
        yield
        self.told.append(f"end of {name}")

    def wait_stream(self, other: object) -> None:
        self.told.append("wait")

    def replay(self) -> None:
        self.told.append("replay")


def test_with_a_gpu_it_is_warmed_up_aside_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Recorder()
    monkeypatch.setattr(torch.cuda, "device", lambda d: fake.inside("device"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: fake)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: fake.inside("stream"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: fake)
    monkeypatch.setattr(torch.cuda, "graph", lambda g: fake.inside("capture"))
    state = {"h": torch.tensor([3.0])}

    def run() -> Tensor:
        fake.told.append("run")
        assert not torch.is_grad_enabled()
        return state["h"].add_(1)

    on_a_gpu = torch.nn.Linear(1, 1)
    monkeypatch.setattr(
        torch.nn.Parameter, "detach", lambda p: SimpleNamespace(device=torch.device("cuda")), raising=False
    )
    graph = _Graph(run, on_a_gpu, state)
    assert fake.told == [
        "device", "wait", "stream", "run", "run", "run", "end of stream", "wait", "capture", "run", "end of capture", "end of device",
    ]  # fmt: skip
    assert state["h"] == 3, "warming up is no step"
    fake.told.clear()
    assert graph() is state["h"] and fake.told == ["replay"]


def test_the_weights_of_a_graph_outlive_what_is_done_to_the_model() -> None:
    model = _model()
    made, places = model.captured(1, 75), [p.data_ptr() for p in model.parameters()]
    model.double()
    assert [t.data_ptr() for t in made._graph._weights] == places
    assert all(t.dtype == torch.float32 for t in made._graph._weights)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grad", [False, True])
def test_a_product_over_all_heads_is_that_of_each_head(kind: torch.dtype, grad: bool) -> None:
    """What a GPU does in `_by_head`, here on a CPU."""
    x, y = (torch.randn(3, 7, 2, 5).to(kind) for _ in range(2))
    pairs = [(t, torch.randn(2, 6, 5)) for t in (x, x, y)]
    if grad or kind == torch.float32:
        pairs = [(t, w.to(kind)) for t, w in pairs]
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        found = blocks._behind_each_other(blocks._batched(pairs), pairs)
        expected = blocks._by_head(pairs)
    assert found.dtype == kind and found.shape == (3, 7, 3, 2, 6)
    assert error(found, expected) <= (2**-7 if kind == torch.bfloat16 else STREAM)


def test_products_have_the_type_that_autocast_gives_them() -> None:
    x = torch.zeros(2)
    assert blocks._product_type(x) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert blocks._product_type(x) == torch.bfloat16 and blocks._product_type(x.double()) == torch.float64
        assert blocks._product_type(x.to("meta")) == torch.float32


def test_what_only_a_gpu_takes_can_be_compiled_as_a_whole() -> None:
    x, w = torch.randn(3, 7, 2, 5), torch.randn(2, 6, 5)

    def half(x: Tensor, w: Tensor) -> Tensor:
        y = x.to(blocks._product_type(x))
        return blocks._behind_each_other(blocks._batched([(y, w), (y, w)]), [(y, w), (y, w)])

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(torch.compile(half, fullgraph=True, backend="eager")(x, w), half(x, w))


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ragged", [False, True])
def test_on_a_gpu_a_replay_gives_the_bits_of_the_plain_call(precision: str, ragged: bool) -> None:
    model = _model("smsm").cuda()
    made = model.captured(2, 10 * PATCH, lengths=ragged, precision=precision)
    for lengths in ([10 * PATCH, 4 * PATCH], [3 * PATCH, 0]):
        x, given = torch.randn(2, 12, 10 * PATCH), torch.tensor(lengths) if ragged else None
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            expected = model.encode(x.cuda(), lengths=None if given is None else given.cuda())
        assert torch.equal(made(x, lengths=given), expected)


@pytest.mark.gpu
@gpu
def test_on_a_gpu_replayed_steps_give_the_bits_of_plain_ones() -> None:
    model = _model(alternate=False).cuda()
    made, state = model.captured_step(3), model.initial_state(3)
    for x in torch.randn(5, 3, 12, PATCH):
        assert torch.equal(made(x), model.step_(x.cuda(), state))
    assert all(torch.equal(made.state[name], t) for name, t in state.items())


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_encoder_points_where_the_cpu_one_does(precision: torch.dtype) -> None:
    model, x = _model("smsm"), torch.randn(3, 12, 40 * PATCH)
    lengths = torch.tensor([40, 17, 1]) * PATCH
    expected = model.embed(x, lengths=lengths)
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = model.cuda().embed(x.cuda(), lengths=lengths.cuda())
    if precision == torch.float32:
        assert error(found.cpu(), expected) <= 10 * STREAM
    assert float(torch.cosine_similarity(found.float().cpu(), expected).min()) > 0.999
