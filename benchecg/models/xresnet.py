"""xresnet1d: the convolutional baseline of the PTB-XL benchmark, from its description, with random weights to be trained on a task.

Residual network with the changes that He et al. 2019 (arXiv 1812.01187, section 4) call B, C and D: a stem of three small
convolutions; in a block that halves the time axis the stride is in the middle convolution, and the shortcut is an average pool
before its 1-wide convolution; the last normalisation of each block starts at zero, so that it starts as its shortcut. In one
dimension, with kernels of 5 samples and blocks of 64 channels that give 256 at every depth, as Strodthoff et al. 2020 (IEEE J.
Biomed. Health Inform. 25:1519) use it for ECGs at 100 Hz. Without their head: the tokens are its feature map, one each 32 samples.
"""

from __future__ import annotations

from torch import Tensor, nn

from benchecg.models.network import Contract, NetworkAdapter, seeded
from xecg.signal import SignalSpec

__all__ = ["XResNet1d", "xresnet1d"]

_KERNEL = 5
_STEM = (32, 32, 64)
_INNER, _OUTER = 64, 256  # channels inside a block, and after it
_STRIDE = 32  # of all layers together: stem 2, pool 2, three halving stages
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_SEED = 1
_WINDOW = 3_200  # samples: longer recordings go in pieces of 32 s


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv1d:
    conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return conv


class _Block(nn.Module):
    def __init__(self, inputs: int, *, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm1d(_OUTER)
        nn.init.zeros_(last.weight)
        self.path = nn.Sequential(
            _conv(inputs, _INNER, 1), nn.BatchNorm1d(_INNER), nn.ReLU(),
            _conv(_INNER, _INNER, _KERNEL, stride=stride), nn.BatchNorm1d(_INNER), nn.ReLU(),
            _conv(_INNER, _OUTER, 1), last,
        )  # fmt: skip
        shortcut: list[nn.Module] = [nn.AvgPool1d(2, ceil_mode=True)] if stride > 1 else []
        if inputs != _OUTER:
            shortcut += [_conv(inputs, _OUTER, 1), nn.BatchNorm1d(_OUTER)]
        self.shortcut = nn.Sequential(*shortcut)
        self.out = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.path(x) + self.shortcut(x))


class XResNet1d(nn.Module):
    """(B, leads, samples) → tokens (B, ceil(samples / 32), 256). depth: 50 or 101."""

    def __init__(self, *, depth: int = 101, leads: int = 12) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip((leads, *_STEM), _STEM)):
            stem += [_conv(inputs, outputs, _KERNEL, stride=2 if i == 0 else 1), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.stem = nn.Sequential(*stem, nn.MaxPool1d(3, stride=2, padding=1))
        blocks: list[nn.Module] = []
        for stage, count in enumerate(_DEPTHS[depth]):
            for i in range(count):
                inputs = _STEM[-1] if not blocks else _OUTER
                blocks.append(_Block(inputs, stride=2 if stage and i == 0 else 1))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x)).transpose(1, 2)


def xresnet1d(depth: int = 101) -> NetworkAdapter:
    """The baseline at 100 Hz, z-scored by lead, with random weights: for fine-tuning; frozen it is a random projection."""
    with seeded(_SEED):
        network = XResNet1d(depth=depth)
    return NetworkAdapter(
        network,
        id=f"xresnet1d{depth}",
        contract=Contract(
            SignalSpec(normalise="zscore", patch=_STRIDE), window=_WINDOW, fixed=False, token=_STRIDE, first=0.0
        ),
        about=f"xresnet1d{depth} (after Strodthoff et al. 2020), UNTRAINED: random weights, to be trained on the task",
    )
