"""Elliptic problems as sparse systems: Poisson, Darcy flow and Helmholtz on boxes in one to three dimensions.

Each function discretises one boundary value problem to second order and returns a `System` with a matrix in
CSR form, a right-hand side and the grid its unknowns live on. Nothing loops over cells: a problem is first a
`Stencil`, the diagonal and the coupling across every face, and the sparsity pattern of a shape is made once
and then filled. Rows are divided by the cell's volume, so the matrix is the differential operator in physical
units, not an integral over cells.

Axis letters used below: `N` unknowns, `S` entries of a row (`2 dim + 1`).

References:
    Patankar, Numerical Heat Transfer and Fluid Flow, 1980, section 4.2-3 (harmonic face means).
    Engquist and Majda, Absorbing boundary conditions for the numerical simulation of waves, 1977 (first
    order).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from lemmata.operators.grids import Grid, Layout, box_lengths

__all__ = ["Stencil", "System", "checked_coefficient", "darcy", "darcy_stencil", "helmholtz", "poisson"]

Forcing = float | complex | NDArray[Any] | Tensor


@dataclass(frozen=True)
class System:
    """A sparse linear system `A x = b` whose unknowns are a field on a grid, flattened in C order.

    Args:
        A: Matrix `(N, N)` with sorted column indices.
        b: Right-hand side `(N,)`.
        grid: Grid of the unknowns, `N = prod(grid.shape)`.
    """

    A: csr_array
    b: NDArray[Any]
    grid: Grid


@dataclass(frozen=True)
class Stencil:
    """A symmetric nearest-neighbour operator: `(A u)_i = diagonal_i u_i - sum_j coupling_ij u_j`.

    Args:
        diagonal: Field `(*batch, *grid)`.
        couplings: For each axis the coupling across the faces between neighbours, one shorter along that
            axis.
    """

    diagonal: NDArray[Any]
    couplings: tuple[NDArray[Any], ...]

    def apply(self, u: NDArray[Any]) -> NDArray[Any]:
        """Return `A u` for fields `(*batch, *grid)` without forming the matrix."""
        product: NDArray[Any] = self.diagonal * u
        for axis, coupling in enumerate(self.couplings):
            before, after = _neighbours(axis, len(self.couplings))
            product[before] -= coupling * u[after]
            product[after] -= coupling * u[before]
        return product

    def matrix(self) -> csr_array:
        """Return the matrix of one operator (no batch axes), its rows in C order and its columns sorted."""
        shape = self.diagonal.shape
        dim = len(shape)
        present, indices, starts = _pattern(shape)
        entries_NS = np.zeros((*shape, 2 * dim + 1), dtype=np.result_type(self.diagonal, *self.couplings))
        entries_NS[..., dim] = self.diagonal
        for axis, coupling in enumerate(self.couplings):
            before, after = _neighbours(axis, dim)
            np.negative(coupling, out=entries_NS[(*after, axis)])
            np.negative(coupling, out=entries_NS[(*before, 2 * dim - axis)])
        unknowns = math.prod(shape)
        # Index arrays are copied: scipy may sort or prune a matrix in place, and the pattern is shared.
        return csr_array((entries_NS[present], indices.copy(), starts.copy()), shape=(unknowns, unknowns))


def poisson(
    shape: int | Sequence[int],
    length: float | Sequence[float] = 1.0,
    *,
    forcing: Forcing = 1.0,
) -> System:
    """Assemble `-Lap u = f` with `u = 0` on the boundary, by central differences on interior points.

    The eigenvalues are the sums over axes of `4 / h^2 sin^2(pi i h / (2 L))`; times `h^2` the matrix is
    that of `pyamg.gallery.poisson`.

    Args:
        shape: Interior points along each axis; a single integer `n` means `(n, n)`.
        length: Length of the box along each axis, or of every axis.
        forcing: `f`, a number or a field of that shape.

    Returns:
        The system; its grid has layout `"interior"`.

    Raises:
        ValueError: Where an axis has fewer than two points, there are more than three axes, or the forcing
            has another shape or is not finite.

    Examples:
        >>> system = poisson((2, 2), 3.0)
        >>> system.A.toarray()[0].tolist()
        [4.0, -1.0, -1.0, 0.0]
    """
    grid = _grid((shape, shape) if isinstance(shape, int) else shape, length, "interior")
    diagonal = np.full(grid.shape, sum(2.0 / h**2 for h in grid.spacing))
    couplings = tuple(np.full(_faces(grid.shape, axis), h**-2) for axis, h in enumerate(grid.spacing))
    return System(Stencil(diagonal, couplings).matrix(), _source(forcing, grid.shape).ravel(), grid)


def darcy(
    a: NDArray[Any] | Tensor,
    length: float | Sequence[float] = 1.0,
    *,
    forcing: Forcing = 1.0,
) -> System:
    """Assemble `-div(a grad u) = f` with `u = 0` on the boundary, by cell-centred finite volumes.

    The flux between cells i and j sees two half cells in series, so the face carries the harmonic mean
    `2 a_i a_j / (a_i + a_j)`; on the boundary half a cell is left, `2 a_i`. The matrix is a symmetric
    positive definite M-matrix, and in one dimension with piecewise constant `a` the flux is exact.

    Args:
        a: Positive coefficient `(n,)`, `(h, w)` or `(d, h, w)` at cell centres; computed in float64.
        length: Length of the box along each axis, or of every axis.
        forcing: `f`, a number or a field of the coefficient's shape.

    Returns:
        The system; its grid has layout `"cells"`.

    Raises:
        TypeError: Where the coefficient is complex.
        ValueError: Where the coefficient is not positive or not finite, an axis has fewer than two cells,
            there are more than three axes, or the forcing has another shape or is not finite.

    Examples:
        >>> system = darcy(np.array([1.0, 3.0]), 2.0)
        >>> system.A.toarray().tolist()
        [[3.5, -1.5], [-1.5, 7.5]]
    """
    grid = _grid(tuple(a.shape), length, "cells")
    coefficient = checked_coefficient(a, "a")
    stencil = darcy_stencil(coefficient, grid.spacing)
    return System(stencil.matrix(), _source(forcing, grid.shape).ravel(), grid)


def darcy_stencil(a: NDArray[np.float64], spacing: Sequence[float]) -> Stencil:
    """Return the finite-volume stencil of `-div(a grad u)` for fields `(*batch, *grid)`; see `darcy`.

    Args:
        a: Positive coefficients `(*batch, *grid)`.
        spacing: Cell size along each of the last `len(spacing)` axes.

    Returns:
        The stencil, with the batch axes of `a`.
    """
    dim = len(spacing)
    diagonal = np.zeros_like(a)
    couplings = []
    for axis, h in enumerate(spacing):
        before, after = _neighbours(axis, dim)
        lower, upper = a[before], a[after]
        face = (2.0 / h**2) * lower * upper / (lower + upper)
        diagonal[before] += face
        diagonal[after] += face
        for end in _ends(axis, dim):
            diagonal[end] += (2.0 / h**2) * a[end]
        couplings.append(face)
    return Stencil(diagonal, tuple(couplings))


def helmholtz(
    k: float | NDArray[Any] | Tensor,
    shape: int | Sequence[int] | None = None,
    length: float | Sequence[float] = 1.0,
    *,
    forcing: Forcing = 1.0,
    boundary: Literal["dirichlet", "absorbing"] = "dirichlet",
) -> System:
    """Assemble `-Lap u - k^2 u = f` by central differences.

    `boundary="dirichlet"` sets `u = 0` and keeps interior points; the matrix is real and, for `k` above
    the first eigenvalue, indefinite. `boundary="absorbing"` keeps all nodes and sets the first-order
    condition `du/dn + i k u = 0`, which waves `exp(-i k r)` (time dependence `exp(+i omega t)`) leave
    without reflection at normal incidence; at angle `t` a plane wave is reflected with amplitude `(1 - cos
    t) / (1 + cos t)`.

    The absorbing rows follow from the balance over the half cell (quarter at a corner) of a boundary node,
    divided by the volume of a whole cell: the flux through the boundary is `i k u` times the face.
    Equivalently, a ghost node one step outside is eliminated through the centred condition, so the scheme
    keeps second order; and with the weights 1/2 and 1/4 of those rows, in the right-hand side too, the matrix
    is complex symmetric.

    Args:
        k: Positive wavenumber in radians per unit length, a number or a field on the grid.
        shape: Points along each axis, needed where `k` is a number; a single integer `n` means `(n,
            n)`.
        length: Length of the box along each axis, or of every axis.
        forcing: `f`, a number or a field on the grid.
        boundary: `"dirichlet"` (grid layout `"interior"`) or `"absorbing"` (layout `"nodes"`).

    Returns:
        The system; `A` is complex128 where the boundary absorbs, else float64.

    Raises:
        TypeError: Where `k` is complex.
        ValueError: Where `k` is not positive or not finite, the boundary is unknown, the shape is missing
            or is not that of `k`, an axis has fewer than two points, or the forcing has another shape or is
            not finite.

    Examples:
        >>> system = helmholtz(2.0, (3,), 2.0, boundary="absorbing")
        >>> system.A.toarray()[0].tolist()
        [(-1+2j), (-1+0j), 0j]
        >>> system.b.tolist()
        [(0.5+0j), (1+0j), (0.5+0j)]
    """
    if boundary not in {"dirichlet", "absorbing"}:
        raise ValueError(f"`boundary` (={boundary!r}) must be 'dirichlet' or 'absorbing'")
    wavenumber = checked_coefficient(np.float64(k) if isinstance(k, (int, float)) else k, "k")
    if shape is None and wavenumber.ndim == 0:
        raise ValueError("`shape` is needed where `k` is a number")
    if shape is None:
        shape = wavenumber.shape
    grid = _grid((shape, shape) if isinstance(shape, int) else shape, length, _HELMHOLTZ_LAYOUT[boundary])
    if wavenumber.shape not in {(), grid.shape}:
        raise ValueError(f"`k` has shape {wavenumber.shape}, not that of the grid, {grid.shape}")
    wavenumber = np.broadcast_to(wavenumber, grid.shape)
    source = _source(forcing, grid.shape)
    if boundary == "dirichlet":
        diagonal = sum(2.0 / h**2 for h in grid.spacing) - wavenumber**2
        couplings = tuple(np.full(_faces(grid.shape, axis), h**-2) for axis, h in enumerate(grid.spacing))
        return System(Stencil(diagonal, couplings).matrix(), source.ravel(), grid)
    weights = node_weights(grid.shape)
    stencil = _absorbing_stencil(wavenumber, grid.spacing)
    return System(stencil.matrix(), (weights * source).astype(np.complex128).ravel(), grid)


def node_weights(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the part of a whole cell that belongs to each node: 1 inside, 1/2 on a side, 1/4 on a corner."""
    weights = np.ones(tuple(shape))
    for axis in range(len(shape)):
        for end in _ends(axis, len(shape)):
            weights[end] *= 0.5
    return weights


def checked_coefficient(a: NDArray[Any] | np.floating[Any] | Tensor, name: str) -> NDArray[np.float64]:
    """Return a coefficient in float64; raise `ValueError` with the count of entries not positive."""
    if isinstance(a, Tensor):
        a = a.detach().cpu().numpy()
    if np.iscomplexobj(a):
        raise TypeError(f"`{name}` must be of a floating type, got {a.dtype}")
    coefficient = np.asarray(a, dtype=np.float64)
    finite = np.isfinite(coefficient)
    if not finite.all():
        raise ValueError(f"`{name}` has {coefficient.size - int(finite.sum())} entries that are not finite")
    if coefficient.size and (least := float(coefficient.min())) <= 0:
        count = int((coefficient <= 0).sum())
        raise ValueError(
            f"`{name}` must be positive everywhere, but {count} entries are not; the minimum is {least:g}"
        )
    return coefficient


_HELMHOLTZ_LAYOUT: dict[str, Layout] = {"dirichlet": "interior", "absorbing": "nodes"}

Index = tuple[Any, ...]


def _absorbing_stencil(k: NDArray[np.float64], spacing: Sequence[float]) -> Stencil:
    """Balance `-Lap u - k^2 u` over whole, half and quarter cells, with flux `i k u` outwards."""
    weights = node_weights(k.shape)
    diagonal = (-(k**2) * weights).astype(np.complex128)
    couplings = []
    for axis, h in enumerate(spacing):
        before, after = _neighbours(axis, k.ndim)
        across = weights.copy()  # the part of a face that belongs to a node: weights of the other axes
        for end in _ends(axis, k.ndim):
            across[end] *= 2.0
        face = across[before] / h**2
        diagonal[before] += face
        diagonal[after] += face
        for end in _ends(axis, k.ndim):
            diagonal[end] += 1j * k[end] * across[end] / h
        couplings.append(face)
    return Stencil(diagonal, tuple(couplings))


def _grid(shape: Sequence[int], length: float | Sequence[float], layout: Layout) -> Grid:
    """Return the grid of a problem, or say why there is none."""
    shape = tuple(int(n) for n in shape)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"a problem has one to three axes; the shape is {shape}")
    if min(shape) < 2:
        raise ValueError(f"the shape (={shape}) must be at least 2 along every axis")
    return Grid(shape, box_lengths(length, len(shape)), layout)


def _source(forcing: Forcing, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the forcing as a field of a given shape in float64 or complex128."""
    if isinstance(forcing, Tensor):
        forcing = forcing.detach().cpu().numpy()
    field = np.asarray(forcing)
    field = field.astype(np.complex128 if np.iscomplexobj(field) else np.float64)
    if field.shape not in {(), shape}:
        raise ValueError(f"`forcing` has shape {field.shape}, not that of the grid, {shape}")
    if not np.isfinite(field).all():
        raise ValueError(f"`forcing` has {int((~np.isfinite(field)).sum())} entries that are not finite")
    return np.broadcast_to(field, shape).copy()


def _neighbours(axis: int, dim: int) -> tuple[Index, Index]:
    """Index the two sides of the faces across an axis, counted among the last `dim` axes."""
    rest = (slice(None),) * (dim - axis - 1)
    return (..., slice(None, -1), *rest), (..., slice(1, None), *rest)


def _ends(axis: int, dim: int) -> tuple[Index, Index]:
    """Index the first and the last layer along an axis, counted among the last `dim` axes."""
    rest = (slice(None),) * (dim - axis - 1)
    return (..., 0, *rest), (..., -1, *rest)


def _faces(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of the faces between neighbours along an axis."""
    return (*shape[:axis], shape[axis] - 1, *shape[axis + 1 :])


@lru_cache(maxsize=32)
def _pattern(shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.int32]]:
    """Return which of the `S` candidates of a row exist, the column of each, and where rows start.

    Candidates are ordered by column: back along axis 0, ..., back along the last axis, the unknown itself, on
    along the last axis, ..., on along axis 0.
    """
    dim = len(shape)
    number = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    columns_NS = np.full((*shape, 2 * dim + 1), -1, dtype=np.int32)
    columns_NS[..., dim] = number
    for axis in range(dim):
        before, after = _neighbours(axis, dim)
        columns_NS[(*after, axis)] = number[before]
        columns_NS[(*before, 2 * dim - axis)] = number[after]
    present = columns_NS >= 0
    starts = np.concatenate([[0], np.cumsum(present.reshape(-1, 2 * dim + 1).sum(axis=1))]).astype(np.int32)
    return present, columns_NS[present], starts
