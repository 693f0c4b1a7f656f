"""The objective of SimDINOv2 (arXiv 2502.10385) on tokens and pooled vectors, and two measures of collapse.

total = compression + weight · expansion + patch. A view's vector is z (m, p), m records of a batch, p features. Teacher
arguments are constants: pass them without a graph. The coding rate is computed in float32 at least, whatever the autocast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xecg.errors import SpecError, XECGError
from xecg.pretrain.distributed import Group

__all__ = ["GAMMA_RULES", "coding_rate", "compression", "expansion", "patch_term", "rank_me", "rate_maximum"]

EPSILON = 0.05  # distortion of the coding rate, squared; SimDINO's value
_JITTER = 1e-6  # added once to the Gram matrix when it is not positive definite in the working precision
GAMMA_RULES = ("sqrt", "sum", "root")


def compression(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − mean cosine of every teacher view with every other view of the same record.

    student (V_s, m, p), teacher (V_g, m, p); view a of the teacher is view a of the student, and that pair is left out.
    """
    s, t = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    views = len(t)
    similar = torch.einsum("amp,bmp->ab", t, s) / s.shape[1]
    others = similar.sum() - similar.diagonal().sum()
    return 1 - others / (views * len(s) - views)


def coding_rate(z: Tensor, *, epsilon: float = EPSILON, group: Group | None = None) -> Tensor:
    """R = ½ log det(I + p/(m·ε) ẐᵀẐ) of the rows of z (m, p), each divided by its norm.

    The smaller of the two Gram matrices is factored: the determinant is the same. group: z holds this process's rows, R is
    that of all processes' rows, and equal on all; its gradient is the sum over processes of what each asks for, so each
    should weigh R by 1/size. Not finite where z is not. Raises XECGError when the matrix is finite and cannot be factored.
    """
    with torch.autocast(z.device.type, enabled=False):
        rows = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)
        m, p = rows.shape
        if group is not None and group.size > 1:
            m = int(group.sum(torch.tensor(m, device=z.device)))
            gram = group.sum(rows.mT @ rows)
        else:
            gram = rows.mT @ rows if p <= m else rows @ rows.mT
        one = torch.eye(len(gram), dtype=rows.dtype, device=rows.device)
        matrix = one + p / (m * epsilon) * gram
        if not bool(torch.isfinite(matrix).all()):
            return matrix.sum()  # not finite: the caller's guard on the loss sees it
        factor, info = torch.linalg.cholesky_ex(matrix)
        if bool(info):
            factor, info = torch.linalg.cholesky_ex(matrix + _JITTER * one)
        if bool(info):
            raise XECGError(
                f"coding rate of {m} vectors of {p}: the Gram matrix is not positive definite; lower the rate"
            )
        return factor.diagonal().log().sum()


def expansion(z: Tensor, *, rule: str = "sqrt", epsilon: float = EPSILON, group: Group | None = None) -> Tensor:
    """−γ · mean over the views of z (V, m, p) of `coding_rate`. rule: how γ follows from m, p and ε (`GAMMA_RULES`)."""
    _, m, p = z.shape
    if group is not None:
        m = int(group.sum(torch.tensor(m, device=z.device)))
    if rule not in GAMMA_RULES:
        raise SpecError(f"gamma rule is {rule!r}; needed one of {', '.join(GAMMA_RULES)}")
    gamma = {
        "sqrt": epsilon * math.sqrt(m / (p * min(p, m))),
        "sum": (p + m) / (p * m),
        "root": math.sqrt(epsilon * m) / p,
    }[rule]
    return -gamma * torch.stack([coding_rate(view, epsilon=epsilon, group=group) for view in z]).mean()


def patch_term(student: Tensor, teacher: Tensor, hidden: Tensor, *, average: str = "global") -> Tensor:
    """1 − cosine of student and teacher tokens (B, T, D) at the places that `hidden` (B, T) bool names.

    average: "global", over all hidden tokens of the batch, or "per-sample", over each record's own, then over records
    that have any. Raises SpecError when nothing is hidden.
    """
    if average not in ("global", "per-sample"):
        raise SpecError(f"patch average is {average!r}; needed 'global' or 'per-sample'")
    count = hidden.sum(1)
    if not bool(count.any()):
        raise SpecError("no token is hidden; the patch term needs a mask ratio that hides at least one")
    distance = (1 - F.cosine_similarity(student, teacher, dim=-1)).masked_fill(~hidden, 0)
    if average == "global":
        return distance.sum() / count.sum()
    some = count > 0
    return (distance.sum(1)[some] / count[some]).mean()


def rate_maximum(m: int, p: int, *, epsilon: float = EPSILON) -> float:
    """The largest coding rate of m unit vectors of p features: all min(m, p) eigenvalues equal."""
    rank = min(m, p)
    return rank / 2 * math.log1p(p / (epsilon * rank))


def rank_me(z: Tensor) -> float:
    """exp(entropy of the singular values of z (m, p) over their sum): RankMe, arXiv 2210.02885."""
    singular = torch.linalg.svdvals(z.detach().to(torch.promote_types(z.dtype, torch.float32)))
    share = singular / singular.sum().clamp_min(1e-30)
    return float(torch.special.entr(share).sum().exp())
