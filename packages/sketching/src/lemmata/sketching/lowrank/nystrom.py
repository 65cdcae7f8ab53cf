r"""Nystrom approximation of positive semidefinite matrices, and the preconditioner made of it.

A kernel or Gauss-Newton matrix $A$ that is dominated by a few directions is replaced by $\hat A = (A
\Omega) (\Omega^\top A \Omega)^+ (A \Omega)^\top = U \Lambda U^\top$ from one product with a thin random
matrix. $\hat A$ never exceeds $A$. With it a regularised system $(A + \mu I) x = b$ is solved in a number
of conjugate gradient steps that depends on the effective dimension alone.

Axis letters: n order of the matrix, l sketch columns, r rank, c right-hand sides.

References:
    J. A. Tropp, A. Yurtsever, M. Udell, V. Cevher, Fixed-rank approximation of a positive-semidefinite matrix
    from streaming data, 2017, arXiv:1706.05736.
    Z. Frangella, J. A. Tropp, M. Udell, Randomized Nystrom preconditioning, 2021, arXiv:2110.02820.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lowrank.products import as_products, gaussian

__all__ = ["NystromPreconditioner", "NystromResult", "nystrom", "nystrom_factor"]


@dataclass(frozen=True)
class NystromResult:
    r"""$\hat A = U \operatorname{diag}(\lambda) U^\top$, which is below $A$; unpacks into `U` and `lam`.

    Args:
        U: Orthonormal columns (n, r).
        lam: Non-negative, falling, (r,).
        shift: What was added to the diagonal for the factorisation, and taken off again.
        error: Frobenius norm of $A - \hat A$ as random probes estimate it, within a factor of two or so; nan
            without probes.
        products: Vectors that A was multiplied with.
    """

    U: Tensor
    lam: Tensor
    shift: float
    error: float
    products: int

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.U, self.lam))


def nystrom(
    A_psd: Any,
    rank: int,
    *,
    oversample: int = 10,
    probes: int = 10,
    generator: torch.Generator | None = None,
) -> NystromResult:
    r"""Approximate a symmetric positive semidefinite matrix through one block of products.

    Args:
        A_psd: (n, n), in any form that has products: a dense or sparse tensor, a SciPy matrix or
            `LinearOperator`, `RowBlocks`, an object with `.shape`, `@` and `.T`.
        rank: r.
        oversample: Further columns of the sketch, dropped at the end.
        probes: Products spent on the error estimate and the test of symmetry.
        generator: Draws.

    Raises:
        ValueError: Where A is not square, not finite, clearly not symmetric, or indefinite: the message names
            the most negative Rayleigh quotient that was met.
        TypeError: Where A is not of a real floating type.

    Examples:
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)
        >>> U, lam = nystrom(torch.exp(-8 * (x[:, None] - x) ** 2), 12)
        >>> U.shape, bool(lam[0] > 100), bool(lam[-1] < 1e-5)
        (torch.Size([200, 12]), True, True)
    """
    a = as_products(A_psd)
    n = a.shape[0]
    if a.shape[1] != n:
        raise ValueError(f"`A_psd` (of shape {a.shape}) must be square")
    a.check_rank(rank)
    if oversample < 0 or probes < 0:
        raise ValueError(f"`oversample` (={oversample}) and `probes` (={probes}) must not be negative")
    columns = min(n, rank + oversample)
    omega = torch.linalg.qr(gaussian((n, columns), a.device, generator)).Q
    test = gaussian((n, probes), a.device, generator)
    # The probes go along in the same product: one pass over what is on a disk.
    product = a.times(torch.cat((omega, test), 1))
    a.check_finite(product)
    product, tested = product[:, :columns], product[:, columns:]
    eps = torch.finfo(a.dtype).eps
    _check_symmetric(torch.cat((omega, test), 1), torch.cat((product, tested), 1), eps)
    vectors, values, shift = nystrom_factor(product, omega, eps=eps)
    vectors, values = vectors[:, :rank], values[:rank]
    missed = tested - vectors @ (values[:, None] * (vectors.mT @ test))
    error = float((missed.square().sum() / probes).sqrt()) if probes else float("nan")
    return NystromResult(vectors.to(a.dtype), values.to(a.dtype), shift, error, columns + probes)


def nystrom_factor(
    product: Float[Tensor, "n l"],
    omega: Float[Tensor, "n l"],
    *,
    eps: float = torch.finfo(torch.float64).eps,
) -> tuple[Float[Tensor, "n l"], Float[Tensor, " l"], float]:
    r"""Return U, $\lambda$ and the shift of the approximation from $A \Omega$ and an orthonormal $\Omega$.

    Args:
        product: $A \Omega$.
        omega: $\Omega$.
        eps: Rounding of the products that `product` came from.

    Raises:
        ValueError: Where $\Omega^\top A \Omega$ has an eigenvalue below what rounding explains.
    """
    scale = float(product.abs().max()) or 1.0
    product = product / scale  # so that squares stay in range
    nu = product.shape[0] ** 0.5 * eps * float(torch.linalg.vector_norm(product))
    core = omega.mT @ product
    core = (core + core.mT) / 2
    lowest = float(torch.linalg.eigvalsh(core)[0])
    if lowest < -10 * nu:
        raise ValueError(
            f"`A_psd` must be positive semidefinite: a Rayleigh quotient of {lowest * scale:.6g} was met"
        )
    # The shift covers what rounding makes negative, so that the Cholesky factor exists.
    nu = max(nu, -2 * lowest, torch.finfo(torch.float64).tiny)
    shifted = core + nu * torch.eye(core.shape[0], dtype=core.dtype, device=core.device)
    factor = torch.linalg.solve_triangular(
        torch.linalg.cholesky(shifted, upper=True), product + nu * omega, upper=True, left=False
    )
    u, s, _ = torch.linalg.svd(factor, full_matrices=False)
    return u, (s.square() - nu).clamp(min=0) * scale, nu * scale


class NystromPreconditioner:
    r"""A preconditioner of $(A + \mu I) x = b$ from a Nystrom approximation of A.

    $$P^{-1} v = (\lambda_r + \mu) U (\Lambda + \mu)^{-1} U^\top v + (v - U U^\top v)$$

    Callable on vectors (n,) and blocks (n, c); `@` does the same.

    Args:
        U: Orthonormal columns (n, r), as `nystrom` gives them.
        lam: Their eigenvalues (r,), falling.
        mu: The regularisation, positive.

    Raises:
        ValueError: Where shapes do not match or `mu` is not positive.

    Examples:
        >>> U, lam = torch.eye(4, dtype=torch.float64)[:, :2], torch.tensor([9.0, 1.0], dtype=torch.float64)
        >>> NystromPreconditioner(U, lam, mu=1.0)(torch.ones(4, dtype=torch.float64))
        tensor([0.2000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, U: Tensor, lam: Tensor, mu: float) -> None:
        if U.ndim != 2 or lam.shape != U.shape[1:]:
            raise ValueError(
                f"`U` (of shape {tuple(U.shape)}) and `lam` (of {tuple(lam.shape)}) do not match"
            )
        if not mu > 0:
            raise ValueError(f"`mu` (={mu}) must be positive")
        self.U, self.lam, self.mu = U, lam, float(mu)
        self.shape = (U.shape[0], U.shape[0])
        smallest = lam[-1] if lam.numel() else lam.new_zeros(())
        self._damping = (smallest + mu) / (lam + mu) - 1

    def __call__(self, v: Tensor) -> Tensor:
        """Return $P^{-1} v$ for v of shape (n,) or (n, c)."""
        return v + self.U @ (self._damping.reshape(-1, *(1,) * (v.ndim - 1)) * (self.U.mT @ v))

    def __matmul__(self, v: Tensor) -> Tensor:
        return self(v)

    @property
    def T(self) -> "NystromPreconditioner":  # noqa: N802
        """The preconditioner itself: it is symmetric."""
        return self

    def as_linear_operator(self) -> Any:
        """Return a `scipy.sparse.linalg.LinearOperator`, for the `M` of `scipy.sparse.linalg.cg`."""
        from scipy.sparse.linalg import LinearOperator

        def apply(v: Any) -> Any:
            return self(torch.as_tensor(np.asarray(v)).to(self.U)).cpu().numpy()

        dtype = self.U.new_empty(0).cpu().numpy().dtype
        return LinearOperator(
            self.shape, matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply, dtype=dtype
        )


def _check_symmetric(x: Tensor, product: Tensor, eps: float) -> None:
    """Raise where the products tell that A is not symmetric beyond rounding."""
    form = x.mT @ product
    skew = float((form - form.mT).abs().max())
    scale = float(torch.linalg.vector_norm(x, dim=0).max() * torch.linalg.vector_norm(product, dim=0).max())
    if skew > 100 * max(eps, torch.finfo(torch.float64).eps) * x.shape[0] ** 0.5 * scale:
        raise ValueError(f"`A_psd` must be symmetric: x^T A y and y^T A x differ by {skew:.6g}")
