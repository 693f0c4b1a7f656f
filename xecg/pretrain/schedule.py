"""What changes with the step: learning rate, weight decay, the teacher's β; and what changes with depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from xecg.model import XECG

__all__ = ["ema_beta", "layer_factors", "learning_factor", "parameter_groups", "update_teacher_", "weight_decay"]


def learning_factor(step: int, total: int, warmup: int) -> float:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine to 0 at `total`."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def weight_decay(step: int, total: int, first: float = 0.04, last: float = 0.4) -> float:
    """Linear in steps from `first` to `last`."""
    return first + (last - first) * step / total


def ema_beta(step: int, total: int, first: float = 0.99) -> float:
    """The teacher's momentum: linear in steps from `first` to 1."""
    return first + (1 - first) * step / total


def layer_factors(blocks: int, decay: float = 0.9) -> tuple[float, ...]:
    """Factors on the learning rate: the patch embedding's, then one a block, the last block's being `decay`."""
    return tuple(decay ** (blocks + 1 - i) for i in range(blocks + 1))


def parameter_groups(model: XECG, *, decay: float = 0.9) -> list[dict[str, Any]]:
    """AdamW groups with the keys params, names, factor (on the learning rate) and decays (whether weights decay).

    No decay on vectors: norms, biases, skips, the mask token; nor on the gates' bias (4, H, D). The mask token's factor is 1.
    """
    factors = layer_factors(len(model.config.blocks), decay)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        head, _, rest = name.partition(".")
        factor = {"patch": factors[0], "mask_token": 1.0}.get(head)
        if factor is None:
            factor = factors[1 + int(rest.split(".")[0])]
        decays = parameter.dim() > 1 and not name.endswith("bias")
        group = groups.setdefault((factor, decays), {"params": [], "names": [], "factor": factor, "decays": decays})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def update_teacher_(teacher: XECG, student: XECG, beta: float) -> None:
    """teacher ← β·teacher + (1 − β)·student, in place, without a graph."""
    import torch

    with torch.no_grad():
        ours: list[torch.Tensor] = list(teacher.parameters())
        torch._foreach_lerp_(ours, list(student.parameters()), 1 - beta)
