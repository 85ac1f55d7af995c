"""A low-rank part beside the codes: the best one under the Hessian for what they leave.

Z. Yao et al., "ZeroQuant-V2" (LoRC), AAAI 2024, section 4: a singular value decomposition of the rounding error. H. Guo
et al., "LQ-LoRA", ICLR 2024, section 3.1: rounding and decomposition in turn, weighted; R. Saha et al., "CALDERA",
NeurIPS 2024, section 3: the same under the Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """A product of two thin matrices, as it is stored.

    Attributes:
        left: bfloat16 ``(out, rank)``.
        right: bfloat16 ``(rank, in)``.
    """

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """Float32 ``(out, in)``."""
        return self.left.float() @ self.right.float()


def fit_low_rank(error: Tensor, metric: Tensor, rank: int) -> LowRank:
    """The product of a rank that minimises ``tr((E - L R) H (E - L R)ᵀ)``, but for the rounding to bfloat16.

    With ``H = C Cᵀ`` it is the truncated singular value decomposition of ``E C``: the projection of E on the leading
    eigenvectors of ``E H Eᵀ``, or the same from the other side, whichever is smaller.

    Args:
        error: E ``(out, in)``.
        metric: damped H ``(in, in)``.
        rank: at most the smaller side.
    """
    rank = min(rank, *error.shape)
    if error.shape[0] <= error.shape[1]:
        image = error @ metric
        basis = torch.linalg.eigh(symmetric(image @ error.t())).eigenvectors[:, -rank:]
        left = basis.to(torch.bfloat16)
        thin = left.float()
        right = torch.linalg.lstsq(thin, error).solution  # H drops out: it acts on the other side
        return LowRank(left.contiguous(), right.to(torch.bfloat16).contiguous())
    factor = torch.linalg.cholesky(metric)
    turned = error @ factor
    basis = torch.linalg.eigh(symmetric(turned.t() @ turned)).eigenvectors[:, -rank:]
    wide = torch.linalg.solve_triangular(factor.t(), basis, upper=True).t()
    wide = wide / wide.norm(dim=1, keepdim=True)
    right = wide.to(torch.bfloat16)
    wide = right.float()
    gram = symmetric(wide @ metric @ wide.t())
    left = torch.linalg.solve(gram, wide @ metric @ error.t()).t()
    return LowRank(left.to(torch.bfloat16).contiguous(), right.contiguous())


def symmetric(x: Tensor) -> Tensor:
    """The symmetric part."""
    return (x + x.t()) / 2
