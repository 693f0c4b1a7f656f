"""The front end on tensors: on an NVIDIA GPU where its kernel can run the plan, else on the host. Not yet run on a GPU."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xecg.errors import ShapeError
from xecg.ops.cuda import frontend as gpu
from xecg.signal import kernel
from xecg.signal.plan import FLAT_STD_MV, Plan

if TYPE_CHECKING:
    from xecg.signal.frontend import ECGFrontend

__all__ = ["apply"]


def apply(frontend: ECGFrontend, signal: Tensor, gain: Any, baseline: Any) -> tuple[Tensor, Tensor]:
    """What `ECGFrontend.apply_tensor` promises."""
    if not isinstance(signal, Tensor):
        raise ShapeError(f"signal is {type(signal).__name__}; needed a tensor (ECGFrontend.apply takes arrays)")
    served = signal.device.type == "cuda" and not gpu.refusal() and _fits(frontend, signal, gain, baseline)
    return _on_gpu(frontend, signal, gain, baseline) if served else _on_host(frontend, signal, gain, baseline)


def _fits(frontend: ECGFrontend, signal: Tensor, gain: Any, baseline: Any) -> bool:
    """Whether the kernel runs the call; what it does not take is for `apply` to serve, or to refuse with the reason."""
    counts = gain is not None
    return (
        signal.dim() in (2, 3)
        and signal.shape[-2] == len(frontend.leads)
        and signal.dtype == (torch.int16 if counts else torch.float32)
        and (counts or baseline is None)
        and kernel.fits(frontend._plan, signal.shape[-1])
    )


def _on_host(frontend: ECGFrontend, signal: Tensor, gain: Any, baseline: Any) -> tuple[Tensor, Tensor]:
    done = frontend.apply(signal.detach().cpu().numpy(), gain=gain, baseline=baseline)
    return torch.from_numpy(done.x).to(signal.device), torch.from_numpy(done.mask).to(signal.device)


def _on_gpu(frontend: ECGFrontend, signal: Tensor, gain: Any, baseline: Any) -> tuple[Tensor, Tensor]:
    device, leads, n = signal.device, len(frontend.leads), signal.shape[-1]
    given = signal.detach().reshape(-1, leads, n).contiguous()
    records, wide, m = len(given), len(frontend.spec.leads), frontend.output_length(n)
    outputs, inputs = (torch.tensor(list(side), device=device) for side in zip(*frontend._rows.items()))
    each = torch.arange(records, device=device)[:, None]
    full = len(outputs) == wide
    x = (torch.empty if full else torch.zeros)(records, wide, m, device=device)
    scale = zero = None
    if gain is not None:
        scale, zero = (
            torch.from_numpy(a[list(frontend._rows.values())].astype(np.float32)).to(device).repeat(records)
            for a in _scales(frontend, gain, baseline)
        )
    state = gpu.run(
        _plan(frontend._plan, device),
        given,
        ((each * leads + inputs) * n).flatten(),
        n,
        x,
        ((each * wide + outputs) * m).flatten(),
        scale=scale,
        baseline=zero,
    ).view(records, -1)
    good = torch.zeros(records, wide, dtype=torch.bool, device=device)
    good[:, outputs] = state == kernel.GOOD
    mask = good[:, :, None].repeat(1, 1, m)
    broken = (state == kernel.BROKEN).any(1)
    if broken.any():
        x[broken], mask[broken] = _on_host(frontend, given[broken], gain, baseline)
    shape = (*signal.shape[:-2], wide, m)
    return x.view(shape), mask.view(shape)


def _scales(frontend: ECGFrontend, gain: Any, baseline: Any) -> tuple[np.ndarray, np.ndarray]:
    """mV per count and baseline of each input lead; raises as `apply` does."""
    per_mv, zero = frontend._counts(gain, baseline)
    return 1 / per_mv, zero


@lru_cache(maxsize=64)
def _plan(plan: Plan, device: torch.device) -> gpu.Plan:
    numbers = kernel.numbers(plan)

    def there(a: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(device)

    up, taps = (0, 0) if plan.resample == "none" else (plan.up, numbers.fir.shape[1])
    return gpu.Plan(
        numbers.sections,
        numbers.pads,
        partial(kernel.scan_tables, plan),
        there(numbers.coefficients),
        there(numbers.steady),
        there(numbers.fir),
        there(kernel.row_taps(plan)),
        dc=numbers.dc,
        resampler=(up, plan.down, plan.half, taps),
        zscore=plan.spec.normalise == "zscore",
        flat_std=FLAT_STD_MV,
    )
