r"""The trace of a matrix that can only be multiplied with vectors.

Hutch++ spends a third of the products on a basis of the dominant range, where the trace is exact, a third
on that trace, and the rest on Hutchinson's estimator of what remains. For matrices whose spectrum falls,
its variance is that of a random estimate of a small remainder; for flat ones it is no worse than
Hutchinson's with a third of the products.

Axis letters: n order of the matrix, c vectors at a time.

References:
    R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, Hutch++: Optimal stochastic trace estimation, 2021,
    arXiv:2010.09649.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.lowrank.products import as_products

__all__ = ["TraceEstimate", "hutchpp"]


@dataclass(frozen=True)
class TraceEstimate:
    """A trace with its standard error; unpacks into both.

    Args:
        estimate: Unbiased.
        stderr: Standard error, from the spread of the probes; zero where the trace is exact.
        exact_part: What of the estimate is not random given the basis.
        probes: Random vectors that the remainder was estimated with.
        matvecs: Products made.
    """

    estimate: float
    stderr: float
    exact_part: float
    probes: int
    matvecs: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.estimate, self.stderr))


def hutchpp(
    matvec: Callable[[Tensor], Tensor] | Any,
    n: int | None = None,
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: Any = "cpu",
) -> TraceEstimate:
    """Estimate the trace of a square matrix, symmetric or not.

    Args:
        matvec: A function that multiplies a block (n, c) of vectors, or a matrix in any form that
            `randomized_svd` takes.
        n: The matrix's order; needed for a function.
        matvecs: Products to spend, at least 4: with n or more the trace is computed exactly.
        generator: Draws random signs.
        dtype: Of the vectors that a function is given.
        device: Of the vectors that a function is given.

    Raises:
        ValueError: Where `n` is missing or not positive, the matrix not square, `matvecs` below 4, or the
            function returns another shape or something that is not finite.

    Examples:
        >>> a = torch.diag(1 / torch.arange(1, 301, dtype=torch.float64) ** 2)
        >>> estimate, stderr = hutchpp(lambda x: a @ x, 300, generator=torch.Generator().manual_seed(0))
        >>> abs(estimate - a.trace().item()) < 4 * stderr < 0.02
        True
    """
    multiply, order, place = _function(matvec, n, dtype, torch.device(device))
    if matvecs < 4:
        raise ValueError(f"`matvecs` (={matvecs}) must be at least 4")
    if matvecs >= order:
        exact = float(multiply(torch.eye(order, dtype=torch.float64, device=place)).diagonal().sum())
        return TraceEstimate(exact, 0.0, exact, 0, order)
    columns = matvecs // 3
    probes = matvecs - 2 * columns
    q = torch.linalg.qr(multiply(_signs(order, columns, place, generator))).Q
    exact = float((q * multiply(q)).sum())
    g = _signs(order, probes, place, generator)
    g = g - q @ (q.mT @ g)
    samples = (g * multiply(g)).sum(0)
    stderr = float(samples.std() / probes**0.5)
    return TraceEstimate(exact + float(samples.mean()), stderr, exact, probes, matvecs)


def _function(
    matvec: Any, n: int | None, dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int, torch.device]:
    """Return a checked product in float64, the order and the device."""
    if hasattr(matvec, "shape"):
        a = as_products(matvec)
        if a.shape[0] != a.shape[1] or n not in {None, a.shape[0]}:
            raise ValueError(f"the matrix (of shape {a.shape}) must be square, of the order `n` (={n})")
        product, order, device = a.times, a.shape[0], a.device
    elif n is None or n < 1:
        raise ValueError(f"`n` (={n}) must be a positive integer")
    else:
        order = n

        def product(x: Tensor) -> Tensor:
            out: Tensor = matvec(x.to(dtype))
            return out.to(torch.float64)

    def multiply(x: Tensor) -> Tensor:
        y = product(x)
        if y.shape != x.shape:
            raise ValueError(f"`matvec` returned shape {tuple(y.shape)} for a block of {tuple(x.shape)}")
        if not bool(torch.isfinite(y).all()):
            raise ValueError("`matvec` returned numbers that are not finite")
        return y

    return multiply, order, device


def _signs(n: int, columns: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    place = device if generator is None else generator.device
    drawn = torch.randint(2, (n, columns), generator=generator, device=place).to(device)
    return (2 * drawn - 1).to(torch.float64)
