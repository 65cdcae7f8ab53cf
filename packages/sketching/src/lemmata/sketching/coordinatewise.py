r"""Least squares by a sketch with a bound on every coefficient, not only on the residual.

Solving $\min_x \lVert S(Ax - b) \rVert$ instead of $\min_x \lVert Ax - b \rVert$ leaves a nearly optimal
residual with any good sketch. Single coefficients are another matter: a sparse sketch spoils the few whose
columns collide with a large residual. Sketches that preserve single inner products, $g^\top S^\top S h
\approx g^\top h$ with Gaussian-like tails (oblivious coordinate-wise embeddings), spread the error evenly:
SRHT and Gaussian ones do.

Axis letters: n rows of the data, d columns, m rows of the sketch, c right-hand sides, k pairs of vectors.

References:
    A nearly-optimal bound for fast regression with l_inf guarantee.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.operators.gaussian import GaussianSketch
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.operators.srht import SRHT, next_power_of_two
from lemmata.sketching.stream import RowBlocks, as_row_blocks

__all__ = [
    "LinfResult",
    "coordinatewise_error",
    "linf_bound",
    "linf_hard_instance",
    "linf_regression",
    "oce_constants",
    "oce_sketch_size",
]

_KINDS = ("srht", "gaussian", "tensor_srht")
_SPARSE = ("count_sketch", "sparse_sign", "row_sampling")
_SLACK = 1.1  # of the bound over the normal law, for what is only approximately normal


@dataclass(frozen=True)
class LinfResult:
    r"""A sketched least squares solution, and how far each of its coefficients may be from the exact one.

    Args:
        x: Solution, (d,) or (d, c), in the dtype of the data.
        standard_errors: Standard deviation that the sketch gives each coefficient, in float64.
        bounds: What all the errors stay below together with probability $1 - \delta$.
        linf_bound: The largest of `bounds`, () or (c,).
        residual_norm: $\lVert A x - b \rVert$ over all rows, () or (c,), in float64.
        m: Rows of the sketch; n where the problem was small enough to be solved as it is, without error.
        kind: Family of the sketch.
        delta: Probability with which `bounds` may fail.
        passes: Times that the data was read.
    """

    x: Tensor
    standard_errors: Tensor
    bounds: Tensor
    linf_bound: Tensor
    residual_norm: Tensor
    m: int
    kind: str
    delta: float
    passes: int


def linf_regression(
    a: Any,
    b: Tensor,
    *,
    eps: float | None = None,
    m: int | None = None,
    delta: float = 0.05,
    kind: str = "srht",
    seed: int = 0,
) -> LinfResult:
    r"""Solve $\min_x \lVert A x - b \rVert$ on a sketch, with a bound on the error of every coefficient.

    The sketch has the `m` rows given, or as many as `oce_sketch_size` gives for `eps`. A second
    pass over the data measures the residual, on which the bounds rest. Where the sketch would have n rows or
    more, the data is solved as it is.

    Args:
        a: Data of full column rank, (n, d): a tensor, dense or sparse CSR, `RowBlocks`, or a SciPy sparse
            matrix.
        b: Right-hand sides, (n,) or (n, c).
        eps: Accuracy of the coefficients; 0.5 to 0.05 are usual.
        m: Rows of the sketch, in place of `eps`.
        delta: Probability with which the bounds may fail, for each right-hand side.
        kind: `"srht"`, the faster, or `"gaussian"`.
        seed: Any integer.

    Returns:
        Solution and bounds. Gradients flow from `x` to dense `a` and to `b`.

    Raises:
        ValueError: Where not exactly one of `eps` and `m` is given, either is out of range, `kind` has no
            such guarantee, the shapes do not match, a row is not finite, or the rank is below d.
        TypeError: Where the data is not real floating point.

    Examples:
        >>> a = torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> b = a @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) + 0.1 * a.prod(1)
        >>> fit = linf_regression(a, b, m=400)
        >>> bool((fit.x - torch.linalg.lstsq(a, b[:, None]).solution[:, 0]).abs().max() <= fit.linf_bound)
        True
    """
    for name, data in (("a", a), ("b", b)):
        if isinstance(data, Tensor) and not data.is_floating_point():
            raise TypeError(f"`{name}` (of {data.dtype}) must be a real floating type")
    blocks = as_row_blocks(a)
    n, d = blocks.shape
    if not 1 <= d <= n:
        raise ValueError(f"`a` (of shape {(n, d)}) must have from 1 to n columns")
    if b.ndim not in {1, 2} or b.shape[0] != n:
        raise ValueError(f"`b` (of shape {tuple(b.shape)}) must have {n} rows")
    m = _sketch_rows(eps, m, d, n, delta, kind)
    targets = b if b.ndim == 2 else b[:, None]
    begun = blocks.passes
    small = _sketched(blocks, targets, _operator(kind, m, n, seed)) if m < n else _whole(blocks, targets)
    x, spread = _solve(small[:, :d], small[:, d:])
    residual = _residual_norms(blocks, targets, x.detach())
    # Given S A, the error is exactly normal where S is Gaussian and independent of the residual.
    errors = spread[:, None] * residual * (1 / math.sqrt(m) if m < n else 0.0)
    bounds = _SLACK * _quantile(d, delta) * errors
    if b.ndim == 1:
        x, errors, bounds, residual = x[:, 0], errors[:, 0], bounds[:, 0], residual[0]
    return LinfResult(
        x=x.to(torch.promote_types(blocks.dtype, b.dtype)),
        standard_errors=errors,
        bounds=bounds,
        linf_bound=bounds.amax(0),
        residual_norm=residual,
        m=m,
        kind=kind,
        delta=delta,
        passes=blocks.passes - begun,
    )


def linf_bound(
    a_or_r: Float[Tensor, "n d"], residual_norm: float, m: int, delta: float, kind: str = "srht"
) -> float:
    r"""Return what the error of every coefficient of a sketched solution stays below.

    With probability about $1 - \delta$ over sketches, every $\lvert x_i - x^*_i \rvert$ is at most $1.1\,
    \lVert A x^* - b \rVert \sigma \sqrt{2 \ln(2 d / \delta) / (m - d)}$ where $\sigma^2$ is the largest
    entry on the diagonal of $(A^\top A)^{-1}$. The errors are very nearly normal, with the standard
    deviation that this is without the logarithm, and a tenth is added for the rest. It is a law of
    practice; what is proved are `oce_constants`.

    Args:
        a_or_r: The data, of full column rank, or the triangular factor R of it, or of a sketch of it.
        residual_norm: Norm of the residual of the solution, or more.
        m: Rows of the sketch.
        delta: Probability of failure.
        kind: `"srht"`, `"gaussian"` or `"tensor_srht"`.

    Raises:
        ValueError: Where `m` is not above d, `delta` is not in (0, 1), `residual_norm` is negative,
            `a_or_r` has fewer than d rows or a rank below d, or `kind` has no such guarantee.

    Examples:
        >>> round(linf_bound(torch.eye(4, dtype=torch.float64), 1.0, 404, 0.05), 4)
        0.1752
    """
    n, d = a_or_r.shape
    _check(kind, delta=delta, m=m, d=d)
    if not 0 <= residual_norm < math.inf:
        raise ValueError(f"`residual_norm` (={residual_norm}) must lie in [0, inf)")
    if not 1 <= d <= n:
        raise ValueError(f"`a_or_r` (of shape {(n, d)}) must have from 1 to n columns")
    wide = a_or_r.to(torch.float64)
    _, spread = _solve(wide, wide[:, :0])
    return _SLACK * float(residual_norm) * float(spread.max()) * _quantile(d, delta) / math.sqrt(m - d)


def oce_sketch_size(d: int, n: int, eps: float, delta: float, kind: str = "srht") -> int:
    r"""Return the rows of a sketch with a wanted accuracy of every coefficient.

    The accuracy $\epsilon$ means
    $\lVert x - x^* \rVert_\infty \le \epsilon / \sqrt d \cdot \lVert A x^* - b \rVert \lVert A^+ \rVert$ with
    probability about $1 - \delta$.

    It is the least $m$ with $m - d \ge 1.1^2 \cdot 2 d \ln(2 d / \delta) / \epsilon^2$. The theorem asks for
    $d \log^3(n / \delta) / \epsilon^2$ up to a constant; this is what suffices in practice. Where it
    reaches n, solve the problem itself.

    Args:
        d: Columns of the data.
        n: Rows of the data.
        eps: Accuracy of the coefficients.
        delta: Probability of failure.
        kind: `"srht"`, `"gaussian"` or `"tensor_srht"`.

    Raises:
        ValueError: Where `eps` or `delta` is not in (0, 1), `d` not in [1, n], or `kind` has no guarantee.

    Examples:
        >>> oce_sketch_size(10, 10**6, 0.1, 0.05)
        14510
    """
    _check(kind, delta=delta)
    if not 0 < eps < 1:
        raise ValueError(f"`eps` (={eps}) must lie in (0, 1)")
    if not 1 <= d <= n:
        raise ValueError(f"`d` (={d}) must lie in [1, n] with n = {n}")
    return d + math.ceil(d * (_SLACK * _quantile(d, delta) / eps) ** 2)


def oce_constants(kind: str, m: int, n: int, delta: float) -> tuple[float, float]:
    r"""Return $\alpha$ and $\beta$ of an oblivious coordinate-wise embedding.

    For any two vectors $g$, $h$ of length n, $E[g^\top S^\top S h] = g^\top h$, $E[(g^\top S^\top S h)^2]
    \le (g^\top h)^2 + \alpha / m \cdot \lVert g \rVert^2 \lVert h \rVert^2$, and with probability $1 -
    \delta$, $\lvert g^\top S^\top S h - g^\top h \rvert \le \beta / \sqrt m \cdot \lVert g \rVert \lVert h
    \rVert$.

    These hold as stated, constants included. With $\ell = \ln(2 / \delta)$ a Gaussian sketch has $\beta =
    2 \sqrt \ell + 2 \ell / \sqrt m$ (Laurent and Massart's bound for chi-square variables). For an SRHT,
    Hoeffding's inequality bounds the transform's entries by $t$ and Bernstein's the mean of a sample of
    their products: $\beta = t \sqrt{2 \ell} + 2 (t^2 + 1) \ell / (3 \sqrt m)$ with $t^2 = 2 \ln(8 p /
    \delta)$ for the power of two $p$ and $\ell = \ln(4 / \delta)$, hence of order $\log(n / \delta)$ once
    $m$ exceeds its square. A tensor SRHT has $t = 2 \ln(16 p / \delta)$. In practice $\beta$ is near
    $\sqrt{2 \ell}$ for all of them.

    Args:
        kind: `"srht"`, `"gaussian"` or `"tensor_srht"`.
        m: Rows of the sketch.
        n: Length of the vectors; of their Kronecker products, for `"tensor_srht"`.
        delta: Probability of failure, for one pair of vectors.

    Raises:
        ValueError: Where `m` or `n` is not positive, `delta` not in (0, 1), or `kind` has no guarantee.

    Examples:
        >>> alpha, beta = oce_constants("gaussian", 4096, 10**6, 0.05)
        >>> alpha, round(beta, 2)
        (2.0, 3.96)
    """
    kind = _check(kind, delta=delta)
    for name, value in (("m", m), ("n", n)):
        if value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    if kind == "gaussian":
        tail = math.log(2 / delta)
        return 2.0, 2 * math.sqrt(tail) + 2 * tail / math.sqrt(m)
    p, tail = next_power_of_two(n), math.log(4 / delta)
    if kind == "srht":
        alpha, t = 2.0, math.sqrt(2 * math.log(8 * p / delta))
    else:  # either factor may be padded to nearly twice its length
        alpha, t = 9.0, 2 * math.log(16 * 4 * n / delta)
    return alpha, t * math.sqrt(2 * tail) + 2 * (t * t + 1) * tail / (3 * math.sqrt(m))


def coordinatewise_error(operator: SketchOperator, g: Tensor, h: Tensor) -> Tensor:
    r"""Return the error of the inner products of sketches, in units of the vectors' norms.

    This is $(g^\top S^\top S h - g^\top h) / (\lVert g \rVert \lVert h \rVert)$, which `oce_constants`
    bounds by $\beta / \sqrt m$.

    Args:
        operator: The sketch S, with n columns.
        g: Vectors, (n,) or (n, k).
        h: As many vectors.

    Returns:
        The signed error of each pair, () or (k,); 0 where a vector is zero.

    Raises:
        ValueError: Where the shapes differ, or the rows are not n.
        TypeError: Where they are not real floating point.

    Examples:
        >>> g = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> float(coordinatewise_error(SRHT(4, 4), g, g.flip(0)).abs()) < 1e-6
        True
    """
    if g.shape != h.shape:
        raise ValueError(f"`h` (of shape {tuple(h.shape)}) must have the shape of `g`, {tuple(g.shape)}")
    inner = (operator.apply(g) * operator.apply(h)).sum(0) - (g * h).sum(0)
    norms = torch.linalg.vector_norm(g, dim=0) * torch.linalg.vector_norm(h, dim=0)
    return torch.where(norms > 0, inner / norms.where(norms > 0, 1), 0)


def linf_hard_instance(
    d: int,
    m: int,
    nnz_per_col: int,
    *,
    n: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: Any = "cpu",
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " d"]]:
    r"""Return a problem on which a sparse sketch of m rows spoils about three coefficients.

    $A$ is the identity over zeros, and $b$ has $k = \max(1, \operatorname{round}(3 m / (s^2 d)))$ spikes
    of $1 / \sqrt k$ below the identity, for $s$ nonzeros a column: so $x^* = 0$ and the residual has norm
    1. Where a spike's column of the sketch shares a row with one of the first $d$, that coefficient is
    wrong by $1 / (s \sqrt k)$, while the error's norm is the usual $\sqrt{d / m}$. Compare absolute
    errors: $x^*$ is zero.

    Args:
        d: Columns.
        m: Rows of the sketch it is made for.
        nnz_per_col: Nonzeros in a column of that sketch.
        n: Rows; d + k where not given.
        dtype: Type of the tensors.
        device: Device of the tensors.

    Returns:
        A, b and the solution.

    Raises:
        ValueError: Where `d`, `m` or `nnz_per_col` is not positive, or `n` is below d + k.

    Examples:
        >>> A, b, x_star = linf_hard_instance(512, 8192, 4)
        >>> A.shape, int(b.count_nonzero())
        (torch.Size([515, 512]), 3)
    """
    for name, value in (("d", d), ("m", m), ("nnz_per_col", nnz_per_col)):
        if value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    spikes = max(1, round(3 * m / (nnz_per_col**2 * d)))
    rows = d + spikes if n is None else n
    if rows < d + spikes:
        raise ValueError(f"`n` (={n}) must be at least {d + spikes}")
    a = torch.zeros(rows, d, dtype=dtype, device=device)
    a[:d] = torch.eye(d, dtype=dtype, device=device)
    b = torch.zeros(rows, dtype=dtype, device=device)
    b[d : d + spikes] = 1 / math.sqrt(spikes)
    return a, b, torch.zeros(d, dtype=dtype, device=device)


def _check(kind: str, *, delta: float, m: int | None = None, d: int = 0) -> str:
    """Return the family's name, without parameters, after checking what all the functions take."""
    family = kind.partition("(")[0]
    if family in _SPARSE:
        name = family.replace("_", " ")
        raise ValueError(f"{name} has no coordinate-wise guarantee; use srht or gaussian")
    if family not in _KINDS:
        raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(_KINDS)}")
    if not 0 < delta < 1:
        raise ValueError(f"`delta` (={delta}) must lie in (0, 1)")
    if m is not None and m <= d:
        raise ValueError(f"`m` (={m}) must exceed the {d} columns of the data")
    return family


def _sketch_rows(eps: float | None, m: int | None, d: int, n: int, delta: float, kind: str) -> int:
    """Return the rows of the sketch; n stands for none."""
    if _check(kind, delta=delta) == "tensor_srht":
        raise ValueError(f"`kind` (={kind!r}) takes Kronecker products: use srht or gaussian")
    if eps is not None and m is None:
        return min(oce_sketch_size(d, n, eps, delta, kind), n)
    if m is not None and eps is None:
        _check(kind, delta=delta, m=m, d=d)
        return min(m, n)
    raise ValueError("give exactly one of `eps` and `m`")


def _operator(kind: str, m: int, n: int, seed: int) -> SketchOperator:
    return SRHT(m, n, seed=seed) if kind == "srht" else GaussianSketch(m, n, seed=seed)


def _sketched(blocks: RowBlocks, targets: Tensor, operator: SketchOperator) -> Tensor:
    """Return the sketch of data and right-hand sides side by side."""
    parts = (operator.partial(both, offset, check_finite=True) for offset, both in _joined(blocks, targets))
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _whole(blocks: RowBlocks, targets: Tensor) -> Tensor:
    """Return data and right-hand sides side by side."""
    parts = []
    for offset, both in _joined(blocks, targets):
        bad = ~torch.isfinite(both).all(1)
        if bool(bad.any()):
            raise ValueError(f"row {offset + int(bad.nonzero()[0, 0])} is not finite")
        parts.append((offset, both))
    return torch.cat([both for _, both in sorted(parts, key=lambda part: part[0])])


def _joined(blocks: RowBlocks, targets: Tensor) -> Iterator[tuple[int, Tensor]]:
    for offset, block in blocks:
        dense = block.to_dense() if block.layout == torch.sparse_csr else block
        beside = targets[offset : offset + len(dense)].to(device=dense.device)
        yield offset, torch.cat((dense.to(torch.float64), beside.to(torch.float64)), 1)


def _solve(a: Float[Tensor, "m d"], b: Float[Tensor, "m c"]) -> tuple[Tensor, Tensor]:
    r"""Return the least squares solution, and $\sqrt{[(A^\top A)^{-1}]_{ii}}$."""
    scale = torch.linalg.vector_norm(a, dim=0).detach()
    q, r = torch.linalg.qr(a / scale.where(scale > 0, 1))
    values = torch.linalg.svdvals(r.detach())
    rank = int((values > values[0] * max(a.shape) * torch.finfo(a.dtype).eps).sum())
    if rank < a.shape[1]:
        raise ValueError(
            f"the data has rank {rank}, below its {a.shape[1]} columns: drop what depends on others"
        )
    inverse = torch.linalg.solve_triangular(r, torch.eye(len(r), dtype=r.dtype, device=r.device), upper=True)
    x = torch.linalg.solve_triangular(r, q.T @ b, upper=True) / scale[:, None]
    return x, torch.linalg.vector_norm(inverse.detach(), dim=1) / scale


def _residual_norms(blocks: RowBlocks, targets: Tensor, x: Tensor) -> Float[Tensor, " c"]:
    """Return the norm of each residual, by another pass over the data."""
    squares = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
    with torch.no_grad():
        for _, both in _joined(blocks, targets):
            squares += (both[:, : len(x)] @ x - both[:, len(x) :]).square().sum(0)
    return squares.sqrt()


def _quantile(d: int, delta: float) -> float:
    """Return what d standard normal numbers stay below in size, together, with probability 1 - delta."""
    return math.sqrt(2 * math.log(2 * d / delta))
