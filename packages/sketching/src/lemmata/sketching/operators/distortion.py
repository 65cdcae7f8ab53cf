"""How much a sketch changes lengths within a subspace."""

import torch
from torch import Tensor

from lemmata.sketching.operators.operator import SketchOperator

__all__ = ["subspace_distortion"]


def subspace_distortion(sketch: SketchOperator, a: Tensor, *, rcond: float | None = None) -> float:
    r"""Return $\max_i |\sigma_i(S Q) - 1|$, $Q$ an orthonormal basis of the range of `a`.

    Args:
        sketch: The sketch, with as many columns as `a` has rows.
        a: A dense matrix (n, d).
        rcond: Directions with singular values below `rcond` times the largest are not in the range;
            by default eps max(n, d).

    Returns:
        The distortion; 0 where `a` is zero, and at least 1 where the sketch loses a direction.

    Raises:
        ValueError: Where `a` is not finite or has not as many rows as the sketch has columns.

    Examples:
        >>> from lemmata.sketching.operators.gaussian import GaussianSketch
        >>> A = torch.randn(500, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> subspace_distortion(GaussianSketch(500, 500, seed=0), A) < 0.25
        True
    """
    wide = a.to(torch.float64)
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("`a` must be finite")
    if not wide.numel():
        return 0.0
    q, r = torch.linalg.qr(wide)
    u, sigma, _ = torch.linalg.svd(r, full_matrices=False)
    tolerance = rcond if rcond is not None else max(a.shape) * float(torch.finfo(a.dtype).eps)
    basis = q @ u[:, sigma > tolerance * sigma[0]]
    if not basis.shape[1]:
        return 0.0
    kept = torch.linalg.svdvals(sketch.apply(basis))
    lost = basis.shape[1] > kept.numel()  # fewer rows than directions: some are mapped to zero
    return max(float((kept - 1).abs().max()), 1.0 if lost else 0.0)
