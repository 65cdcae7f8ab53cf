r"""The uniform expansion of modified Bessel functions in $s = \sqrt{v^2 + x^2}$, down to order zero.

With Debye's polynomials $u_k(t) = t^k p_k(t^2)$, $t = v/s$ and $q = t^2$, the term $u_k(t) / v^k$ of the
expansion for large orders is $p_k(q) / s^k$. In that form it holds down to $v = 0$, where it is Hankel's
expansion for large arguments, so that one expansion covers all of the quadrant outside a disc around zero.

Legend: k term of the expansion, j power of q.

References:
    NIST Digital Library of Mathematical Functions, section 10.41: asymptotic expansions for large order.
"""

from fractions import Fraction

import torch
from jaxtyping import Float64
from torch import Tensor

from lemmata.sketching.special.elementwise import Kernel, by_region

__all__ = ["RADIUS", "TERMS", "around_disc", "debye_sum", "slope_sum"]

TERMS = 13
"""Terms of the expansion."""
RADIUS = 25.0
"""The expansion is accurate to double precision (7e-16 of s) where s is at least this."""


def around_disc(
    v: Float64[Tensor, " n"], x: Float64[Tensor, " n"], inside: Kernel, outside: Kernel
) -> Float64[Tensor, " n"]:
    """Evaluate one kernel in the quarter disc, and one that uses the expansion outside it."""
    return by_region(
        torch.hypot(v, x) < RADIUS,
        v,
        x,
        inside,
        outside,
        safe_inside=(1.0, 1.0),
        safe_outside=(RADIUS, RADIUS),
    )


def debye_sum(
    q: Float64[Tensor, " n"], s: Float64[Tensor, " n"], *, alternating: bool = False
) -> Float64[Tensor, " n"]:
    r"""Return $\sum_{k \ge 1} p_k(q) / s^k$; the second kind has $(-1)^k$ before each term."""
    return _evaluate(_SUMS[alternating], q, s)


def slope_sum(
    q: Float64[Tensor, " n"], s: Float64[Tensor, " n"], *, alternating: bool = False
) -> Float64[Tensor, " n"]:
    r"""Return $(s^2 / x) \partial_x$ of `debye_sum`; $\partial_x s = x/s$, $\partial_x q = -2 q x / s^2$."""
    return _evaluate(_SLOPES[alternating], q, s)


def _evaluate(table_KJ: tuple[tuple[float, ...], ...], q: Tensor, s: Tensor) -> Float64[Tensor, " n"]:
    """Sum the terms: Horner's rule in 1/s over polynomials in q.

    A compiler fuses Horner's rule in q too and keeps everything in registers; without one it would stream a
    hundred times through memory, so there the polynomials are one product of the table with powers of q.
    """
    if torch.compiler.is_compiling():
        terms = [_horner(row, q) for row in table_KJ]
    else:
        powers_JN = torch.stack(_powers(q, len(table_KJ[0])))
        terms = list(torch.tensor(table_KJ, dtype=q.dtype, device=q.device) @ powers_JN)
    inverse = 1 / s
    total = terms[-1] * inverse
    for term in reversed(terms[:-1]):
        total = (total + term) * inverse
    return total


def _horner(coefficients: tuple[float, ...], q: Tensor) -> Tensor:
    total = torch.full_like(q, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * q + coefficient
    return total


def _powers(q: Tensor, count: int) -> list[Tensor]:
    powers = [torch.ones_like(q)]
    while len(powers) < count:
        powers.append(powers[-1] * q)
    return powers


def _debye_polynomials(highest: int) -> list[list[Fraction]]:
    r"""Return the coefficients of $p_0, \ldots$ in powers of q, exactly.

    From $u_{k+1} = \frac12 t^2 (1 - t^2) u_k' + \frac18 \int_0^t (1 - 5 r^2) u_k(r)\, dr$, term by term:
    $c\, t^m$ in $u_k$, $m = k + 2j$, gives $c\,(m/2 + 1/(8(m+1)))\, t^{m+1}$ and
    $-c\,(m/2 + 5/(8(m+3)))\, t^{m+3}$.
    """
    polynomials = [[Fraction(1)]]
    for k in range(highest):
        following = [Fraction(0)] * (k + 2)
        for j, coefficient in enumerate(polynomials[-1]):
            m = k + 2 * j
            following[j] += coefficient * (Fraction(m, 2) + Fraction(1, 8 * (m + 1)))
            following[j + 1] -= coefficient * (Fraction(m, 2) + Fraction(5, 8 * (m + 3)))
        polynomials.append(following)
    return polynomials


def _table(alternating: bool, *, slope: bool) -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of term k = 1 ... TERMS and power j = 0 ... TERMS."""
    rows = _debye_polynomials(TERMS)[1:]
    return tuple(
        tuple(
            float((-(k + 2 * j) if slope else 1) * ((-1) ** k if alternating else 1) * coefficient)
            for j, coefficient in enumerate(row + [Fraction(0)] * (TERMS + 1 - len(row)))
        )
        for k, row in enumerate(rows, start=1)
    )


_SUMS = {alternating: _table(alternating, slope=False) for alternating in (False, True)}
_SLOPES = {alternating: _table(alternating, slope=True) for alternating in (False, True)}
