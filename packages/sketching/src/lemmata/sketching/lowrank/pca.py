r"""Principal components of tables larger than memory, in as few passes as wanted, from mergeable sums.

A pass multiplies the scatter matrix $G = (A - 1 \mu^\top)^\top (A - 1 \mu^\top)$ by a thin matrix $W$
without forming it: every block of rows gives its mean, its columns' sums of squares and $G_{block} W$, and
two such states merge into that of both. Means never enter as a difference of large sums, and a sparse block
stays sparse. After one pass $G W$ gives a Nystrom approximation of $G$; each further pass is a step of
subspace iteration with a shift. Scaling columns to unit variance is done on these small matrices too, and
costs no pass.

What a scheduler distributes: `pca_basis` makes $W$, `PCASums.partial` and `+` are a pass, `pca_step` makes
the next $W$, `pca_finish` the answer. `pca` runs them over `RowBlocks` in one process.

Axis letters: n rows, d columns, l columns of W (rank and oversampling), r components.

References:
    N. Halko, P.-G. Martinsson, J. A. Tropp, Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions, 2011, arXiv:0909.4061.
    T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.
    X. Feng, W. Yu, Y. Xie, J. Tang, Faster randomized SVD with dynamic shifts, 2024.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lowrank.nystrom import nystrom_factor
from lemmata.sketching.lowrank.products import transposed_csr
from lemmata.sketching.operators.counter import normals
from lemmata.sketching.stream import as_row_blocks

__all__ = ["PCACertificate", "PCAResult", "PCASums", "pca", "pca_basis", "pca_finish", "pca_step"]


@dataclass(frozen=True)
class PCASums:
    r"""What a pass knows of some rows; sums of disjoint sets of rows add up with `+`.

    Everything is in float64. Not centred, `mean` and `projected_mean` are zero.

    Args:
        rows: How many, a scalar tensor of int64.
        mean: Of each column, (d,).
        scatter: Of each column the sum of squares about `mean`, (d,).
        product: $G W$, (d, l).
        projected_mean: $W^\top$ `mean`, (l,).

    Examples:
        >>> a, w = torch.randn(9, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
        >>> both = PCASums.partial(a[:5], w) + PCASums.partial(a[5:], w)
        >>> torch.allclose(both.product, (9 - 1) * torch.cov(a.T) @ w)
        True
    """

    rows: Tensor
    mean: Tensor
    scatter: Tensor
    product: Tensor
    projected_mean: Tensor

    @classmethod
    def partial(cls, block: Tensor, basis: Float[Tensor, "d l"], *, center: bool = True) -> "PCASums":
        """Return the sums of a dense or sparse CSR block (rows, d).

        Raises:
            ValueError: Where the block has not as many columns as the basis has rows.
            TypeError: Where the block is not of a real floating type.
        """
        if block.ndim != 2 or block.shape[1] != basis.shape[0]:
            raise ValueError(f"`block` (of shape {tuple(block.shape)}) must have {basis.shape[0]} columns")
        if not block.dtype.is_floating_point:
            raise TypeError(f"`block` (of {block.dtype}) must be of a real floating type")
        wide, w = block.to(torch.float64), basis.to(torch.float64)
        rows = torch.tensor(block.shape[0], device=basis.device)
        if block.layout == torch.sparse_csr:
            return cls(rows, *_sparse_sums(wide, w, center=center))
        mean = wide.mean(0) if center and block.shape[0] else wide.new_zeros(block.shape[1])
        offsets = wide - mean if center else wide
        return cls(rows, mean, offsets.square().sum(0), offsets.mT @ (offsets @ w), mean @ w)

    @classmethod
    def zeros(cls, basis: Float[Tensor, "d l"]) -> "PCASums":
        """Return the sums of no rows."""
        columns, projected = basis.new_zeros((2, *basis.shape), dtype=torch.float64)
        return cls(torch.tensor(0, device=basis.device), columns[:, 0], columns[:, 0], columns, projected[0])

    def __add__(self, other: "PCASums") -> "PCASums":
        """Merge the sums of two sets of rows that have none in common."""
        rows = self.rows + other.rows
        share = other.rows.to(torch.float64) / rows.clamp(min=1)
        step, projected = other.mean - self.mean, other.projected_mean - self.projected_mean
        # Chan, Golub and LeVeque's update, for a column of squares and for the scatter matrix times W.
        weight = self.rows * share
        return PCASums(
            rows,
            self.mean + share * step,
            self.scatter + other.scatter + weight * step.square(),
            self.product + other.product + weight * torch.outer(step, projected),
            self.projected_mean + share * projected,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "PCASums":
        """Take over what `state_dict` returned."""
        return cls(**{field.name: state[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class PCACertificate:
    """What is known of the components without another pass.

    Args:
        captured: A lower bound on the share of the total variance that the components capture, in [0, 1].
        missed: An upper bound on what the best components of this number capture beyond that, as a share.
        residual: The largest residual of an eigenpair in the last subspace, relative to the largest
            variance: each of its variances is that close to one of the true ones.
        passes: Over the rows.
        rows: In the table.
    """

    captured: float
    missed: float
    residual: float
    passes: int
    rows: int


@dataclass(frozen=True)
class PCAResult:
    """Principal components of a table; unpacks into components, variances and mean.

    Args:
        components: Orthonormal rows (r, d), by falling variance; the entry of largest size is positive.
        explained_variance: Along each component, with n - 1 in the denominator (n where not centred), (r,);
            never above the true one beyond rounding.
        explained_variance_ratio: The same as shares of the total variance, (r,).
        mean: Of the columns (d,); zeros where not centred.
        scale: What columns were divided by (d,); ones where not standardised.
        certificate: What was checked.
    """

    components: Tensor
    explained_variance: Tensor
    explained_variance_ratio: Tensor
    mean: Tensor
    scale: Tensor
    certificate: PCACertificate

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.components, self.explained_variance, self.mean))

    def transform(self, rows: Tensor) -> Tensor:
        """Return the scores (rows, r) of dense or sparse CSR rows (rows, d)."""
        loadings = (self.components / self.scale).mT.to(rows.dtype)
        return rows @ loadings - self.mean.to(rows.dtype) @ loadings

    def inverse_transform(self, scores: Tensor) -> Tensor:
        """Return the rows (rows, d) that scores (rows, r) stand for."""
        return scores @ (self.components * self.scale).to(scores.dtype) + self.mean.to(scores.dtype)


def pca(
    blocks: Any,
    rank: int,
    *,
    passes: int = 3,
    center: bool = True,
    standardize: bool = False,
    oversample: int = 10,
    seed: int = 0,
) -> PCAResult:
    """Return the leading principal components of a table that is read `passes` times.

    Equals scikit-learn's `PCA` up to the error of a subspace iteration, which the certificate bounds.

    Args:
        blocks: `RowBlocks`, or what `as_row_blocks` takes: a tensor, a SciPy sparse matrix.
        rank: Number of components, r.
        passes: Over the rows; one is enough for variances that fall fast, three for most tables.
        center: Subtract the mean of every column.
        standardize: Divide columns by their standard deviation; a constant column stays as it is.
        oversample: Further columns of the random matrix.
        seed: Of the random matrix.

    Raises:
        ValueError: Where a number is out of its range, the blocks do not make the table, or an entry is not
            finite.
        TypeError: Where the entries are not of a real floating type.

    Examples:
        >>> table = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 8, dtype=torch.float64) + 7
        >>> result = pca(table, 3, passes=1)
        >>> torch.allclose(result.explained_variance.sum(), table.var(0).sum())
        True
    """
    a = as_row_blocks(blocks)
    if not a.dtype.is_floating_point:
        raise TypeError(f"`blocks` (of {a.dtype}) must be of a real floating type")
    if not 1 <= rank <= min(a.shape):
        raise ValueError(f"`rank` (={rank}) must lie in [1, {min(a.shape)}], the table being {a.shape}")
    if passes < 1:
        raise ValueError(f"`passes` (={passes}) must be at least 1")
    basis, shift = pca_basis(a.shape[1], rank, oversample=oversample, seed=seed, device=a.device), 0.0
    sums = PCASums.zeros(basis)
    for done in range(passes):
        if done:
            basis, shift = pca_step(sums, basis, standardize=standardize, shift=shift)
        sums = PCASums.zeros(basis)
        for _, block in a:
            sums = sums + PCASums.partial(block, basis, center=center)
        if int(sums.rows) != a.shape[0]:
            raise ValueError(f"the blocks have {int(sums.rows)} rows, the table {a.shape[0]}")
    return pca_finish(sums, basis, rank, center=center, standardize=standardize, passes=passes, dtype=a.dtype)


def pca_basis(
    columns: int, rank: int, *, oversample: int = 10, seed: int = 0, device: Any = "cpu"
) -> Float[Tensor, "d l"]:
    """Return the random W that the first pass multiplies with, a function of its arguments alone.

    Raises:
        ValueError: Where the rank is not in [1, columns], or `oversample` is negative.

    Examples:
        >>> pca_basis(100, 3).shape
        torch.Size([100, 13])
    """
    if not 1 <= rank <= columns:
        raise ValueError(f"`rank` (={rank}) must lie in [1, {columns}]")
    if oversample < 0:
        raise ValueError(f"`oversample` (={oversample}) must not be negative")
    index = torch.arange(columns, device=device)
    return normals(seed, index, min(columns, rank + oversample)).mT.contiguous()


def pca_step(
    sums: PCASums, basis: Float[Tensor, "d l"], *, standardize: bool = False, shift: float = 0.0
) -> tuple[Float[Tensor, "d l"], float]:
    """Return the next pass's W and shift from a finished pass.

    Args:
        sums: Of all rows.
        basis: The W they were made with.
        standardize: As in `pca`.
        shift: What the call before returned; zero first.

    Raises:
        ValueError: Where a sum is not finite.
    """
    w, product, scale = _scaled(sums, basis, standardize=standardize)
    following, r = torch.linalg.qr(product - shift * w)
    # At most half of the l-th eigenvalue, so that the order of the leading ones stays.
    shift = max(shift, (shift + float(torch.linalg.svdvals(r)[-1])) / 2)
    return following / scale[:, None], shift


def pca_finish(
    sums: PCASums,
    basis: Float[Tensor, "d l"],
    rank: int,
    *,
    center: bool = True,
    standardize: bool = False,
    passes: int = 1,
    dtype: torch.dtype = torch.float64,
) -> PCAResult:
    """Return the components from the last pass.

    Args:
        sums: Of all rows.
        basis: The W they were made with.
        rank: Number of components; at most the columns of `basis`.
        center: Whether the sums are centred.
        standardize: As in `pca`.
        passes: How many were made, for the certificate.
        dtype: Of the result.

    Raises:
        ValueError: Where the rank is not in [1, l], there are no rows, or a sum is not finite.
    """
    rows = int(sums.rows)
    if not 1 <= rank <= basis.shape[1]:
        raise ValueError(f"`rank` (={rank}) must lie in [1, {basis.shape[1]}], the columns of `basis`")
    if rows < 1:
        raise ValueError("`sums` holds no rows")
    w, product, scale = _scaled(sums, basis, standardize=standardize)
    factor, spectrum, _ = nystrom_factor(product, w)
    total = float((sums.scatter / scale.square()).sum())
    vectors, values = factor[:, :rank], spectrum[:rank]
    freedom = max(1, rows - 1) if center else rows
    everything = max(total, torch.finfo(torch.float64).tiny)
    certificate = PCACertificate(
        captured=min(1.0, float(values.sum()) / everything),
        # G minus its approximation is positive semidefinite: its trace bounds any sum of its eigenvalues.
        missed=max(0.0, total - float(spectrum.sum())) / everything,
        residual=_residual(w, product),
        passes=passes,
        rows=rows,
    )
    sign = torch.gather(vectors, 0, vectors.abs().argmax(0, keepdim=True)).sign()
    return PCAResult(
        (vectors * sign).mT.to(dtype).contiguous(),
        (values / freedom).to(dtype),
        (values / everything).to(dtype),
        sums.mean.to(dtype),
        scale.to(dtype),
        certificate,
    )


def _sparse_sums(block: Tensor, w: Tensor, *, center: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, scatter, product and projected mean of a sparse block, centred by rank-one corrections."""
    rows, flipped = block.shape[0], transposed_csr(block)
    squares = w.new_zeros(block.shape[1]).index_add_(0, block.col_indices(), block.values().square())
    product = flipped @ (block @ w)
    if not center or not rows:
        zeros = w.new_zeros(block.shape[1])
        return zeros, squares, product, zeros @ w
    mean = w.new_zeros(block.shape[1]).index_add_(0, block.col_indices(), block.values()) / rows
    projected = mean @ w
    return (
        mean,
        (squares - rows * mean.square()).clamp(min=0),
        product - rows * torch.outer(mean, projected),
        projected,
    )


def _scaled(sums: PCASums, basis: Tensor, *, standardize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return an orthonormal W, G W and the columns' scale, all those of the scaled table.

    With D the scale, $D^{-1} G D^{-1} (D W) = D^{-1} (G W)$: the same pass serves the table as it is and the
    standardised one.
    """
    if not bool(torch.isfinite(sums.product).all() and torch.isfinite(sums.scatter).all()):
        raise ValueError("the table has entries that are not finite, or so large that their squares are not")
    scale = torch.ones_like(sums.scatter)
    if standardize:
        deviation = (sums.scatter / max(1, int(sums.rows) - 1)).sqrt()
        scale = torch.where(deviation > 0, deviation, scale)
    w, r = torch.linalg.qr(basis.to(torch.float64) * scale[:, None])
    return w, torch.linalg.solve_triangular(r, sums.product / scale[:, None], upper=True, left=False), scale


def _residual(w: Tensor, product: Tensor) -> float:
    """Return the largest residual of the Rayleigh-Ritz pairs of G in the range of W, over its norm."""
    core = w.mT @ product
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)
    residuals = torch.linalg.vector_norm(product @ vectors - w @ vectors * values, dim=0)
    return float(residuals.max() / values[-1].clamp(min=torch.finfo(torch.float64).tiny))
