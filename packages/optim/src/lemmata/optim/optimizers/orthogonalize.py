r"""Bring the singular values of matrices to one, exactly or nearly: the factor of the polar decomposition.

For $X = U S V^T$ the nearest matrix with orthonormal rows or columns is $U V^T$. It maximises
$\langle X, O \rangle$ over all $O$ of spectral norm at most 1. A Newton-Schulz iteration comes close with
matrix products alone:

$$A = X X^T, \qquad X \leftarrow a X + (b A + c A^2) X,$$

which maps every singular value by $p(s) = a s + b s^3 + c s^5$ and leaves the singular vectors alone.

References:
    - K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    - N. Amsel, D. Persson, C. Musco, R. M. Gower, The Polar Express: Optimal Matrix Sign Methods and Their
      Application to the Muon Algorithm, 2025, arXiv:2505.16932.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.optim.optimizers.base import check_range

__all__ = [
    "POLAR_EXPRESS",
    "STANDARD",
    "Coefficients",
    "Method",
    "check_coefficients",
    "check_steps",
    "factors",
    "iteration_dtype",
    "newton_schulz",
    "orthogonalize",
    "polar",
]

Coefficients = tuple[float, float, float]
Method = Literal["newton_schulz", "polar_express", "svd"]

STANDARD: Coefficients = (3.4445, -4.7750, 2.0315)
"""Coefficients with the steepest slope at zero: five steps take [0.002, 1] into [0.68, 1.21]."""

POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.205160, -22.901935, 16.460725),
    (4.066395, -2.861154, 0.518400),
    (3.909595, -2.823352, 0.525037),
    (3.285564, -2.415302, 0.485294),
    (2.277873, -1.619822, 0.398481),
)
"""Minimax coefficients for the first steps, with a margin for rounding in bfloat16."""

CUBIC: Coefficients = (15 / 8, -10 / 8, 3 / 8)
"""The odd polynomial of degree 5 whose fixed point 1 attracts cubically."""

LARGE_ELEMENTS = 256 * 256
"""Number of elements above which a CPU iterates on the matrices of a batch one after another."""

CACHE_BYTES = 1024**2
"""Size in bytes of the smaller matrices on which a CPU iterates together."""

SYMMETRIC_BLOCK = 192
"""Columns of a symmetric product that are computed, below the diagonal only, at a time."""


def orthogonalize(
    x: Float[Tensor, "*batch m n"],
    *,
    method: Method = "newton_schulz",
    steps: int = 5,
    coefficients: Coefficients = STANDARD,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*batch m n"]:
    r"""Bring the singular values of matrices close to one.

    Each matrix is divided by $\max(\lVert X \rVert_F, \epsilon)$, in float32 or better, before it is cast. A
    matrix of zeros stays zero.

    Args:
        x: Matrices.
        method: `newton_schulz` iterates with the same coefficients each step, by default to within 32 % of
            one from singular values of 0.002 of the norm on; it doesn't converge. `polar_express` has
            coefficients of its own for every step and converges to `polar`, which `svd` computes.
        steps: Steps of the iteration.
        coefficients: $a$, $b$ and $c$ of `newton_schulz`.
        eps: The smallest norm to divide by.
        dtype: Data type to iterate in; see `iteration_dtype` for the default.

    Returns:
        The matrices in the data type of `x`.

    Raises:
        ValueError: Where the method is unknown, or `steps`, `coefficients` or `eps` are out of range.

    Examples:
        >>> x = torch.diag(torch.tensor([3.0, 0.5], dtype=torch.float64))
        >>> orthogonalize(x, method="polar_express", steps=8).round(decimals=6)
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
        >>> torch.linalg.svdvals(orthogonalize(x)).round(decimals=2)
        tensor([1.0400, 0.7100], dtype=torch.float64)
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` (={method!r}) must be one of {', '.join(get_args(Method))}")
    check_steps(steps)
    check_range("eps", eps, 0.0)
    triple = check_coefficients(coefficients)
    return factors(x, method, steps, triple, eps, dtype).to(x.dtype)


def factors(
    x: Float[Tensor, "*batch m n"],
    method: Method,
    steps: int,
    coefficients: Coefficients,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*batch m n"]:
    """Do the work of `orthogonalize`, without its checks and the cast back to the data type of `x`.

    Args:
        x: Matrices.
        method: See `orthogonalize`, as for all that follows.
        steps: Steps.
        coefficients: Three numbers.
        eps: The smallest norm to divide by.
        dtype: Data type to iterate in.

    Returns:
        The matrices in the data type of the iteration.
    """
    if method == "svd":
        return polar(x)
    schedule = [coefficients] * steps
    if method == "polar_express":
        schedule = [*POLAR_EXPRESS[:steps], *[CUBIC] * (steps - len(POLAR_EXPRESS))]
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    norm = torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True).clamp_min(eps)
    unit = (wide / norm).to(iteration_dtype(x) if dtype is None else dtype)
    return newton_schulz(unit, schedule)


def newton_schulz(
    x: Float[Tensor, "*batch m n"], coefficients: Sequence[Coefficients]
) -> Float[Tensor, "*batch m n"]:
    """Iterate on matrices whose singular values are at most one, in their own data type.

    Args:
        x: Matrices.
        coefficients: A triple for every step.

    Returns:
        The matrices after the last step.

    Examples:
        >>> x = torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.8, 0.0]])
        >>> newton_schulz(x, [(1.5, -0.5, 0.0)]).round(decimals=3)
        tensor([[0.7920, 0.0000, 0.0000],
                [0.0000, 0.9440, 0.0000]])
    """
    if not x.numel() or not coefficients:
        return x.clone()
    batch = x.reshape(-1, *x.shape[-2:])
    traced = torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())
    if x.device.type != "cpu" or traced:
        return _iterate(batch, coefficients).reshape(x.shape)
    elements = x.shape[-2] * x.shape[-1]
    if elements > LARGE_ELEMENTS:
        return _iterate_large(batch, coefficients).reshape(x.shape)
    chunks = torch.split(batch, max(1, CACHE_BYTES // (elements * x.element_size())))
    done = [_iterate(chunk, coefficients) for chunk in chunks]
    return (done[0] if len(done) == 1 else torch.cat(done)).reshape(x.shape)


def _iterate(x: Float[Tensor, "b m n"], coefficients: Sequence[Coefficients]) -> Float[Tensor, "b m n"]:
    """Iterate on a batch by batched products. A Gram matrix is that of the shorter side."""
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in coefficients:
        gram = x.mT @ x if tall else x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _iterate_large(x: Float[Tensor, "b m n"], coefficients: Sequence[Coefficients]) -> Float[Tensor, "b m n"]:
    """Iterate on one matrix after another in the same memory; of symmetric products compute one half."""
    tall, short = x.shape[-2] > x.shape[-1], min(x.shape[-2:])
    gram, polynomial = x.new_empty(2, short, short)
    result, spare = x.new_empty(x.shape), x.new_empty(x.shape[-2:])
    for matrix, target in zip(x.unbind(), result.unbind(), strict=True):
        current = matrix
        for step, (a, b, c) in enumerate(coefficients):
            following = target if (len(coefficients) - step) % 2 else spare
            wide = current.mT if tall else current
            for low, high in _column_blocks(short, wide.shape[1]):
                torch.mm(wide[low:], wide[low:high].mT, out=gram[low:, low:high])
                gram[low:high, high:].copy_(gram[high:, low:high].mT)
            for low, high in _column_blocks(short, short):
                part = polynomial[low:, low:high]
                torch.addmm(gram[low:, low:high], gram[low:], gram[:, low:high], beta=b, alpha=c, out=part)
                polynomial[low:high, high:].copy_(polynomial[high:, low:high].mT)
            first, second = (current, polynomial) if tall else (polynomial, current)
            torch.addmm(current, first, second, beta=a, out=following)
            current = following
    return result


def _column_blocks(size: int, inner: int) -> list[tuple[int, int]]:
    """Return the columns to compute of a symmetric product at a time: all of them where that is quick."""
    step = size if size < 2 * SYMMETRIC_BLOCK or inner < 512 else SYMMETRIC_BLOCK
    return [(low, min(low + step, size)) for low in range(0, size, step)]


def polar(x: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    r"""Return $U V^T$ of matrices by singular value decomposition, the oracle of the iterations.

    Singular values that are zero to rounding stay zero, so that a matrix of zeros gives zeros.

    Args:
        x: Matrices.

    Returns:
        The orthogonal factors, in the data type of `x`.

    Examples:
        >>> polar(torch.tensor([[0.0, -2.0], [3.0, 0.0]])).round(decimals=6) + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    tolerance = s[..., :1] * max(x.shape[-2:]) * torch.finfo(wide.dtype).eps
    factor: Tensor = (u * (s > tolerance)[..., None, :]) @ vh
    return factor.to(x.dtype)


def iteration_dtype(x: Tensor) -> torch.dtype:
    """Return the data type in which to iterate on a matrix: bfloat16 where that is multiplied natively.

    That is on CUDA from compute capability 8.0 on, and on a CPU with bfloat16 dot products. Elsewhere it is
    that of the matrix, or float32 for half precision. float64 stays float64 everywhere.

    Args:
        x: A matrix.

    Returns:
        The data type.

    Examples:
        >>> iteration_dtype(torch.zeros(2, 2, dtype=torch.float64))
        torch.float64
    """
    if x.dtype == torch.float64:
        return x.dtype
    if x.device.type == "cpu":
        return torch.bfloat16 if CPU_BFLOAT16 else torch.float32
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) >= (8, 0):
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 products, as far as this build of torch tells."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch has no types here
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    # Releases before that function know of x86 alone.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


CPU_BFLOAT16 = _cpu_multiplies_bfloat16()
"""Whether this CPU multiplies bfloat16 matrices natively."""


def check_steps(steps: float) -> None:
    """Raise ValueError unless the number of steps is an integer in [1, 100)."""
    check_range("steps", steps, 1, 100)
    if steps != int(steps):
        raise ValueError(f"`steps` (={steps}) must be an integer")


def check_coefficients(coefficients: Sequence[Any]) -> Coefficients:
    """Return three finite coefficients as a tuple of floats.

    Raises:
        ValueError: Where there are not three, or one is not finite.
    """
    values = tuple(coefficients)
    if len(values) != 3 or not all(isinstance(value, Real) and math.isfinite(value) for value in values):
        raise ValueError(f"`coefficients` (={coefficients!r}) must be three finite numbers")
    return float(values[0]), float(values[1]), float(values[2])
