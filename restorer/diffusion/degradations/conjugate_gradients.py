"""Conjugate gradients for the systems of proximal points that have no closed form.

Source: Hestenes and Stiefel 1952, "Methods of Conjugate Gradients for Solving Linear Systems", Journal of Research of
the National Bureau of Standards 49(6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradients"]

STEPS = 100

Map = Callable[[Tensor], Tensor]


def conjugate_gradients(
    system: Map, b: Tensor, precondition: Map | None = None, *, tolerance: float | None = None
) -> Tensor:
    """Solve system(u) = b.

    Each image of the batch has its own step sizes and its own end. The residual is reduced to the tolerance times the
    norm of b, or, if b is small, to the tolerance times that of an image on [-1, 1], to which u is added.

    Args:
        system: A symmetric positive definite linear map of tensors shaped like b.
        b: The right-hand side, (B, C, h, w).
        precondition: Another such map, near the inverse of the system; None for the identity.
        tolerance: The relative size of the residual; None for the rounding of b.

    Returns:
        The solution u, shaped like b.
    """
    if tolerance is None:
        tolerance = 1e-12 if b.dtype == torch.float64 else 1e-7

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).sum((1, 2, 3), keepdim=True)

    u, r, rr = torch.zeros_like(b), b.clone(), dot(b, b)
    p, previous = torch.zeros_like(b), torch.ones_like(rr)
    goal = tolerance**2 * rr.clamp(min=b[0].numel())
    for _ in range(STEPS):
        active = rr > goal
        if not active.any():
            break
        z = r if precondition is None else precondition(r)
        rz = rr if precondition is None else dot(r, z)
        p.mul_(torch.where(active, rz / previous, 0.0)).add_(z)
        q = system(p)
        step = torch.where(active, rz / dot(p, q), 0.0)
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        rr, previous = dot(r, r), rz
    return u
