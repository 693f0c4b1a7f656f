"""ECGFounder for the user's downloaded checkpoint: Net1D, written from the description of its authors.

Li et al. 2024 (arXiv 2410.04133): a convolutional network in seven stages. A block is a 1-wide, a 16-wide grouped and a 1-wide
convolution, each after a swish, then squeeze-and-excitation, then the sum with its input, which is max-pooled by 2 where the stage
begins and padded with zero channels on both sides where it widens. The published model runs without batch normalisation and
dropout, although its file holds their weights. Input: 10 s at 500 Hz, 0.5–50 Hz, mV, no z-score. The vector of a recording is the
mean over time of the last stage, which is here the mean of its tokens.

What the paper leaves open (paddings, where the swishes stand, names of weights) are facts of the public code of Net1D
(hsd1503/resnet1d) and of ECGFounder; the code here is our own. The attribute names are those of the weights in the file.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import max_pool1d, pad, silu

from benchecg.models.network import Contract
from benchecg.models.origin import OriginAdapter, read_weights
from xecg.signal import PRESETS, STANDARD_LEADS, SignalSpec

__all__ = ["Net1D", "ecgfounder", "ecgfounder_one_lead"]

_CHANNELS = (64, 160, 160, 400, 400, 1024, 1024)
_BLOCKS = (2, 2, 2, 3, 3, 4, 4)
_KERNEL, _GROUP_WIDTH, _FIRST = 16, 16, 64
_SQUEEZE = 2
_TOKEN = 256  # samples: eight halvings
_WINDOW = 5_000  # samples
_VERSION = 1
_UNUSED = ("dense.", ".bn1.", ".bn2.", ".bn3.", "first_bn.")


class _Conv(nn.Module):
    """A convolution with ceil(n / stride) outputs; of an odd padding the extra zero is at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, n = self.conv.kernel_size[0], self.conv.stride[0], x.shape[-1]
        extra = max(0, (-(-n // stride) - 1) * stride + kernel - n)
        return self.conv(pad(x, (extra // 2, extra - extra // 2)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, halves: bool, opens: bool) -> None:
        super().__init__()
        self._halves, self._opens = halves, opens
        before = (outputs - inputs) // 2
        self._widen = (before, outputs - inputs - before)
        self.conv1 = _Conv(inputs, outputs, 1)
        self.conv2 = _Conv(outputs, outputs, _KERNEL, stride=2 if halves else 1, groups=outputs // _GROUP_WIDTH)
        self.conv3 = _Conv(outputs, outputs, 1)
        self.se_fc1 = nn.Linear(outputs, outputs // _SQUEEZE)
        self.se_fc2 = nn.Linear(outputs // _SQUEEZE, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x if self._opens else silu(x))
        y = self.conv3(silu(self.conv2(silu(y))))
        gate = self.se_fc2(silu(self.se_fc1(y.mean(-1)))).sigmoid()
        shortcut = max_pool1d(pad(x, (0, 1)), 2) if self._halves else x
        return y * gate[..., None] + pad(shortcut, (0, 0, *self._widen))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, *, opens: bool) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(
            _Block(outputs if i else inputs, outputs, halves=i == 0, opens=opens and i == 0) for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    """(B, leads, samples) → tokens (B, ceil(samples / 256), 1024). Token k is what the shortcuts pool, samples 256·k to 256·k + 255;
    its wide kernels, which are padded by one more at the end, see more of what follows than of what went before."""

    def __init__(self, leads: int = 12) -> None:
        super().__init__()
        self.first_conv = _Conv(leads, _FIRST, _KERNEL, stride=2)
        inputs = (_FIRST, *_CHANNELS)
        self.stage_list = nn.ModuleList(
            _Stage(inputs[i], outputs, blocks, opens=i == 0)
            for i, (outputs, blocks) in enumerate(zip(_CHANNELS, _BLOCKS))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = silu(self.first_conv(x))
        for stage in self.stage_list:
            x = stage(x)
        return x.transpose(1, 2)


def ecgfounder(file: str) -> OriginAdapter:
    """The 12-lead model (`12_lead_ECGFounder.pth`). Raises CheckpointError."""
    return _adapter("ecgfounder", Path(file), STANDARD_LEADS)


def ecgfounder_one_lead(file: str) -> OriginAdapter:
    """The model of lead I (`1_lead_ECGFounder.pth`). Raises CheckpointError."""
    return _adapter("ecgfounder-1", Path(file), ("I",))


def _adapter(id: str, file: Path, leads: tuple[str, ...]) -> OriginAdapter:
    network = Net1D(len(leads))
    read_weights(file, "state_dict", network, unused=_UNUSED)
    base = PRESETS["ecgfounder"]
    spec = SignalSpec(rate=base.rate, leads=leads, filters=base.filters, patch=base.patch)
    return OriginAdapter(
        network,
        id=id,
        version=_VERSION,
        contract=Contract(spec, window=_WINDOW, token=_TOKEN, first=_TOKEN / 2),
        about=f"ECGFounder (Li et al. 2024), {len(leads)} lead{'s' * (len(leads) > 1)}, Net1D",
        file=file,
        pretrained_on=("HEEDB",),
    )
