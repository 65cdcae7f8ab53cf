r"""A regression problem, checked, and moved to coordinates in which it is well conditioned.

Whatever the norm, the fit $A x$ ranges over one subspace; solvers work with an orthonormal basis $Q$ of it,
after rows are scaled by a power of their weights. Where $A$ has lower rank than columns, every fit belongs to
many x: the one of least Euclidean norm is returned.

Axis letters: n rows, d columns, c right-hand sides, r rank.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Problem", "orthonormal_basis", "pose"]


@dataclass(frozen=True, eq=False)
class Problem:
    """What solvers work on.

    Args:
        A: The matrix, float64, without rows of weight 0.
        b: Right-hand sides, float64.
        weights: Weights of the losses, positive, 1 on average.
        scale: Scales of the rows, a power of the weights.
        Q: Orthonormal basis of the columns of `scale * A`.
        back: Takes coordinates in `Q` to coefficients.
        mean_weight: What the weights were on average.
    """

    A: Float[Tensor, "n d"]
    b: Float[Tensor, "n c"]
    weights: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    Q: Float[Tensor, "n r"]
    back: Float[Tensor, "d r"]
    mean_weight: float

    @property
    def rank(self) -> int:
        """Rank of the matrix."""
        return self.Q.shape[1]


def pose(
    A: Tensor, b: Tensor, weights: Tensor | None, power: float, rcond: float | None, x0: Tensor | None = None
) -> Problem:
    """Check a problem and find its basis.

    Args:
        A: Matrix (n, d), float32 or float64, n >= d >= 1.
        b: Right-hand sides, (n,) or (n, c).
        weights: Weights of the losses (n,), not negative, not all 0.
        power: Rows are scaled by this power of their weights.
        rcond: Singular values of `A` with unit columns below `rcond` times the largest count as 0; machine
            epsilon times n by default.
        x0: Initial coefficients, only checked.

    Raises:
        TypeError: Where an argument is not a dense tensor of floats.
        ValueError: Where shapes do not fit, `A` is wide or empty, an entry is not finite or a weight is
            negative.
    """
    given = {"A": A, "b": b, "weights": weights, "x0": x0}
    arguments = {name: value for name, value in given.items() if value is not None}
    _check_types(arguments)
    _check_shapes(A, b, weights, x0)
    _check_entries(arguments)
    n = len(A)
    if rcond is None:
        rcond = torch.finfo(A.dtype).eps * n
    if not 0 <= rcond < 1:
        raise ValueError(f"`rcond` (={rcond}) must lie in [0, 1)")
    wide_b = b.double() if b.ndim == 2 else b.double()[:, None]
    wide_a = A.double()
    weight = wide_a.new_ones(n) if weights is None else weights.double()
    if bool((weight == 0).any()):
        kept = weight > 0
        wide_a, wide_b, weight = wide_a[kept], wide_b[kept], weight[kept]
    mean_weight = weight.mean().item()
    weight = weight / mean_weight
    scale = weight**power
    Q, back = orthonormal_basis(wide_a * scale[:, None], rcond)
    return Problem(wide_a, wide_b, weight, scale, Q, back, mean_weight)


def _check_types(arguments: dict[str, Tensor]) -> None:
    for name, value in arguments.items():
        if value.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"`{name}` must be a float32 or float64 tensor, got {value.dtype}")
        if value.layout != torch.strided:
            raise TypeError(f"`{name}` must be a dense tensor, got the layout {value.layout}")


def _check_shapes(A: Tensor, b: Tensor, weights: Tensor | None, x0: Tensor | None) -> None:
    if A.ndim != 2 or A.shape[1] < 1:
        raise ValueError(f"`A` must be a matrix with at least one column, got shape {tuple(A.shape)}")
    n, d = A.shape
    if n < d:
        raise ValueError(
            f"`A` has {n} rows for {d} columns: every norm's minimum may be 0 there; "
            "take the least-norm solution, `torch.linalg.lstsq(..., driver='gelsd')`"
        )
    if b.ndim not in (1, 2) or len(b) != n:
        raise ValueError(f"`b` must have shape ({n},) or ({n}, c), got {tuple(b.shape)}")
    if x0 is not None and x0.shape != (d, *b.shape[1:]):
        raise ValueError(f"`x0` must have shape {(d, *b.shape[1:])}, got {tuple(x0.shape)}")
    if weights is not None and weights.shape != (n,):
        raise ValueError(f"`weights` must have shape ({n},), got {tuple(weights.shape)}")


def _check_entries(arguments: dict[str, Tensor]) -> None:
    for name, value in arguments.items():
        if not bool(torch.isfinite(value).all()):
            place = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
            raise ValueError(f"`{name}` holds {value[place].item()} at {place}: it must be finite")
    weights = arguments.get("weights")
    if weights is not None and not (bool((weights >= 0).all()) and bool((weights > 0).any())):
        raise ValueError(
            f"`weights` (from {weights.min().item()} to {weights.max().item()}) must be >= 0, one of them > 0"
        )


def orthonormal_basis(A: Tensor, rcond: float) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the columns of `A`, and the matrix from coordinates to least-norm x."""
    length = torch.linalg.vector_norm(A, dim=0)
    unit = torch.where(length > 0, length, 1.0)
    Q, R = torch.linalg.qr(A / unit)
    U, s, Vh = torch.linalg.svd(R, full_matrices=True)
    rank = int((s > rcond * s[0]).sum())  # 0 where all are
    d = A.shape[1]
    if rank == d:
        identity = torch.eye(d, dtype=A.dtype, device=A.device)
        return Q, torch.linalg.solve_triangular(R, identity, upper=True) / unit[:, None]
    back = Vh[:rank].mT / s[:rank] / unit[:, None]
    # Unit columns make the rank a property of the directions, but lengths are to be those of x itself.
    null = torch.linalg.qr(Vh[rank:].mT / unit[:, None])[0]
    return Q @ U[:, :rank], back - null @ (null.mT @ back)
