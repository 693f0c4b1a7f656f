"""Long records: pieces, directions, ragged batches and the spill file change memory, not tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.model.test_encoder import PATCH, _model
from tests.tolerances import MODEL_FLOAT32, MODEL_FLOAT64, error
from xecg.errors import ShapeError
from xecg.model import XECG, load
from xecg.model.long import spilled


def _ragged(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, lengths, mask with gaps inside and at the end, of four records up to 60 tokens."""
    torch.manual_seed(seed)
    x, mask = torch.randn(4, 12, 60 * PATCH), torch.ones(4, 60 * PATCH, dtype=torch.bool)
    mask[3, 10 * PATCH : 13 * PATCH + 7] = False
    mask[2, 31 * PATCH - 3 :] = False
    return x, torch.tensor([1 * PATCH, 0, 47 * PATCH + 5, 60 * PATCH]), mask


@pytest.mark.parametrize("alternate", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_equal_one_call_at_random_sizes(tmp_path: Path, seed: int, alternate: bool) -> None:
    model = _model("ssmms", seed=seed, alternate=alternate)
    x, lengths, mask = _ragged(seed)
    hide = torch.rand(4, 60) < 0.2
    exact = model.double().encode(x.double(), lengths=lengths, mask=mask, hide=hide)
    for chunk in torch.randint(1, 60, (3,)).tolist():
        for spill in (None, tmp_path):
            found = model.encode(x.double(), lengths=lengths, mask=mask, hide=hide, chunk=chunk, spill=spill)
            assert error(found, exact) < MODEL_FLOAT64


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_embedding_of_a_spilled_record_is_that_of_one_call(tmp_path: Path, pooling: str) -> None:
    model = _model("sm", pooling=pooling).double()
    x, lengths, mask = _ragged(0)
    keep = torch.tensor([0, 2, 3])
    x, lengths, mask = x[keep].double(), lengths[keep], mask[keep]
    found = model.embed(x, lengths=lengths, mask=mask, chunk=7, spill=tmp_path)
    assert error(found, model.embed(x, lengths=lengths, mask=mask)) < MODEL_FLOAT64


def test_half_precision_spills_in_its_own_type(tmp_path: Path) -> None:
    model, x = _model("sm").bfloat16(), torch.randn(2, 12, 130 * PATCH)
    tokens = model.encode(x, spill=tmp_path)
    assert tokens.dtype == torch.bfloat16
    assert float(torch.cosine_similarity(tokens.float(), model.encode(x).float(), -1).min()) > 0.99  # 8 bits


def test_pieces_have_the_gradient_of_one_call() -> None:
    model, x = _model("sms").double().requires_grad_(True), torch.randn(2, 12, 11 * PATCH, dtype=torch.float64)
    grads = []
    for chunk in (None, 4):
        loss = model.encode(x, lengths=torch.tensor([11, 6]) * PATCH, chunk=chunk).square().sum()
        grads.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    for one, pieces in zip(*grads):
        assert (one is None) == (pieces is None)
        assert one is None or error(pieces, one) < MODEL_FLOAT64


def _mapped(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc")
def test_nothing_is_left_of_the_spill_after_an_error_or_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = _model("sm"), torch.randn(1, 12, 20 * PATCH)
    tokens = model.encode(x, spill=tmp_path)
    assert _mapped(tmp_path) and not list(tmp_path.iterdir())
    del tokens
    assert not _mapped(tmp_path)

    def broken(*args: object, **kwargs: object) -> None:
        assert _mapped(tmp_path)
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(type(model.blocks[1]), "resume", broken)
        with pytest.raises(RuntimeError, match="stop"):
            model.encode(x, spill=tmp_path)
    assert not _mapped(tmp_path) and not list(tmp_path.iterdir())


def test_spill_without_room_or_folder_is_an_error_before_work(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        spilled(tmp_path, (1 << 30, 1 << 30), torch.float32)
    with pytest.raises(OSError):
        _model("s").encode(torch.randn(1, 12, PATCH), spill=tmp_path / "absent")
    with pytest.raises(ShapeError, match="chunk is 0"):
        _model("s").encode(torch.randn(1, 12, PATCH), spill=tmp_path, chunk=0)


_MEMORY = """
import re, sys, torch
from xecg import XECG, XECGConfig
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
model = XECG(XECGConfig(blocks="ssm", dim=256, heads=4)).requires_grad_(False)
x = torch.zeros(1, 12, 25).expand(1, 12, 25).repeat(1, 1, 4096)
with torch.inference_mode():
    model.encode(x[..., : 4096 * 25 // 2], spill=sys.argv[1])
    before = anonymous()
    tokens = model.encode(x.repeat(1, 1, 24), spill=sys.argv[1])
print(anonymous() - before, tokens.numel() * 4 / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_memory_does_not_grow_with_the_record(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XECG_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    grown, tokens = map(float, done.stdout.split())
    assert tokens == 96 and grown < tokens / 2  # MiB


def test_float32_pieces_of_the_default_model_equal_one_call_to_rounding(tmp_path: Path) -> None:
    model: XECG = load("tiny")
    (x, lengths, mask), (more, _, _) = _ragged(0), _ragged(1)
    x, mask = torch.cat((x, more), -1), torch.cat((mask, mask), -1)
    with torch.inference_mode():
        one = model.encode(x, lengths=lengths * 2, mask=mask)
        for chunk in (64, 50, 3):
            assert error(model.encode(x, lengths=lengths * 2, mask=mask, chunk=chunk), one) < MODEL_FLOAT32
        assert error(model.encode(x, lengths=lengths * 2, mask=mask, spill=tmp_path), one) < MODEL_FLOAT32
