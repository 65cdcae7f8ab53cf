r"""Real solid harmonics by a recursion on Cartesian coordinates, and their derivatives by another.

With $(X, Y, Z) = (z, x, y)$, because the polar axis of the basis is y, and $c_m + i s_m = \sqrt 2 (X +
iY)^m$,

$$R_{l,m} = \bar Q_l^m c_m, \qquad R_{l,-m} = \bar Q_l^m s_m, \qquad R_{l,0} = \bar Q_l^0,$$

$$\bar Q_m^m = \sqrt{\tfrac{2m+1}{2m}}\, \bar Q_{m-1}^{m-1}, \qquad
\bar Q_l^m = \sqrt{\tfrac{4l^2-1}{l^2-m^2}} \left( Z \bar Q_{l-1}^m -
\sqrt{\tfrac{(l-1)^2-m^2}{4(l-1)^2-1}}\, r^2 \bar Q_{l-2}^m \right).$$

$\bar Q_l^m$ is the associated Legendre function divided by $\sin^m \theta$, normalised as it is built, so
that nothing overflows at high degree. No angle appears, so no point is singular.

A partial derivative of a solid harmonic is again a sum of at most two solid harmonics, of one degree less.
With $U_l^m = \bar Q_l^m (X + iY)^m$,

$$\partial_Z U_l^m = \sqrt{\tfrac{2l+1}{2l-1} (l-m)(l+m)}\, U_{l-1}^m, \qquad
(\partial_X \pm i \partial_Y) U_l^m = \mp \sqrt{\tfrac{2l+1}{2l-1} (l \mp m)(l \mp m - 1)}\,
U_{l-1}^{m \pm 1},$$

so that derivatives of every order need nothing but the harmonics themselves.

Axis letters used below: `M` components, `N` vectors.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

__all__ = ["Normalization", "directional_derivative", "solid_harmonics"]

Normalization = Literal["integral", "component", "norm"]


def solid_harmonics(
    lmax: int, x: Inexact[Tensor, "*batch 3"], normalization: Normalization = "integral"
) -> Inexact[Tensor, "*batch dim"]:
    """Return $r^l Y_l(x / r)$ for every degree from 0 to `lmax`, `(lmax + 1)**2` components.

    Args:
        lmax: The largest degree.
        x: Vectors, used as they are. Complex ones give the polynomials' values there.
        normalization: On the unit sphere `integral` is orthonormal, `component` has squares that sum to `2l
            + 1` within a degree, `norm` squares that sum to 1.

    Raises:
        ValueError: Where `lmax` is negative.
    """
    if lmax < 0:
        raise ValueError(f"`lmax` (={lmax}) must be at least 0")
    flat_N3 = x.reshape(-1, 3)
    if x.is_complex() or torch.compiler.is_compiling():
        # A compiler differentiates and fuses the recursion by itself.
        harmonics_MN = torch.stack(_recursion(lmax, flat_N3, normalization))
    else:
        harmonics_MN = _SolidHarmonics.apply(flat_N3, lmax, normalization)
    # Stacking components in front and turning once is far cheaper than stacking them behind.
    return harmonics_MN.mT.contiguous().reshape(*x.shape[:-1], (lmax + 1) ** 2)


def directional_derivative(
    lmax: int, x: Float[Tensor, "*batch 3"], direction: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch dim"]:
    """Return the derivative of every orthonormal solid harmonic at `x` along `direction`.

    Args:
        lmax: The largest degree.
        x: Vectors.
        direction: Directions, of any length.

    Examples:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> directional_derivative(1, x, x)[:, 1:] * (4 * math.pi / 3) ** 0.5  # degree one is linear
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    harmonics_MN = torch.stack(_recursion(lmax, x.reshape(-1, 3), "integral"))
    slopes_MN = _along(direction.reshape(-1, 3), harmonics_MN, lmax, "integral")
    return slopes_MN.mT.contiguous().reshape(*x.shape[:-1], (lmax + 1) ** 2)


class _SolidHarmonics(torch.autograd.Function):
    """Harmonics `(M, N)` of vectors `(N, 3)` whose derivatives of all orders reuse the values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, lmax: int, normalization: Normalization) -> Tensor:
        return torch.stack(_recursion(lmax, x, normalization))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, Normalization], output: Tensor) -> None:
        _, ctx.lmax, ctx.normalization = inputs
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor, None, None]:
        (harmonics_MN,) = ctx.saved_tensors
        harmonics, grads = harmonics_MN.unbind(0), grad_MN.contiguous().unbind(0)
        # Along X, Y, Z.
        sums = [torch.zeros_like(grads[0])] * 3
        for l in range(1, ctx.lmax + 1):
            for order in range(-l, l + 1):
                for axis, place, factor in _derivative_terms(l, order, ctx.normalization):
                    grad = grads[l * l + l + order]
                    sums[axis] = torch.addcmul(sums[axis], grad, harmonics[place], value=factor)
        X, Y, Z = sums
        return torch.stack([Y, Z, X], dim=-1), None, None

    @staticmethod
    def jvp(ctx: Any, tangent_N3: Tensor, *_: None) -> Tensor:
        (harmonics_MN,) = ctx.saved_tensors
        return _along(tangent_N3, harmonics_MN, ctx.lmax, ctx.normalization)


def _recursion(lmax: int, x: Tensor, normalization: Normalization) -> list[Tensor]:
    """Return the harmonics of vectors `(N, 3)`, one tensor `(N,)` a component."""
    Y, Z, X = x.mT.contiguous().unbind(0)
    radius2 = X * X + Y * Y + Z * Z
    scale = [1 / math.sqrt(2 * l + 1) if normalization == "norm" else 1.0 for l in range(lmax + 1)]
    # Functions Q with m = l are numbers.
    diagonal = [1 / math.sqrt(4 * math.pi) if normalization == "integral" else 1.0]
    components = [torch.full_like(X, diagonal[0])]
    cosines, sines = [torch.ones_like(X), X * math.sqrt(2)], [torch.zeros_like(X), Y * math.sqrt(2)]
    # Rows l - 1 and l - 2 of the functions Q with m < l, by m.
    last: list[Tensor] = []
    before: list[Tensor] = []
    for l in range(1, lmax + 1):
        if l > 1:
            cosine, sine = cosines[-1], sines[-1]
            cosines.append(torch.addcmul(X * cosine, Y, sine, value=-1))
            sines.append(torch.addcmul(X * sine, Y, cosine))
        diagonal.append(diagonal[-1] * math.sqrt((2 * l + 1) / (2 * l)) * (scale[l] / scale[l - 1]))
        row = []
        for m in range(l):
            outer = math.sqrt((4 * l * l - 1) / (l * l - m * m)) * (scale[l] / scale[l - 1])
            if m == l - 1:
                row.append(Z * (outer * diagonal[m]))
                continue
            inner = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1)) * (scale[l - 1] / scale[l - 2])
            lower = radius2 * diagonal[m] if m == l - 2 else radius2 * before[m]
            row.append(torch.addcmul(lower * (-outer * inner), Z, last[m], value=outer))
        components.append(sines[l] * diagonal[l])
        components.extend(row[m] * sines[m] for m in range(l - 1, 0, -1))
        components.append(row[0])
        components.extend(row[m] * cosines[m] for m in range(1, l))
        components.append(cosines[l] * diagonal[l])
        before, last = last, row
    return components


def _along(direction_N3: Tensor, harmonics_MN: Tensor, lmax: int, normalization: Normalization) -> Tensor:
    """Return the derivatives along directions, shape `(M, N)`."""
    harmonics = harmonics_MN.unbind(0)
    Y, Z, X = direction_N3.unbind(-1)
    slopes = [X * 0]
    for l in range(1, lmax + 1):
        for order in range(-l, l + 1):
            slope = slopes[0]
            for axis, place, factor in _derivative_terms(l, order, normalization):
                slope = torch.addcmul(slope, (X, Y, Z)[axis], harmonics[place], value=factor)
            slopes.append(slope)
    return torch.stack(slopes)


def _derivative_terms(l: int, order: int, normalization: Normalization) -> list[tuple[int, int, float]]:
    """Return the terms of a harmonic's derivatives: axis of X, Y, Z, place of the other harmonic, factor."""
    m, sine = abs(order), order < 0
    scale = 1.0 if normalization == "norm" else math.sqrt((2 * l + 1) / (2 * l - 1))
    # Orders 1 and more carry a factor of sqrt(2) that order 0 does not.
    up = scale * math.sqrt((l - m) * (l - m - 1)) / 2 * (math.sqrt(2) if m == 0 else 1)
    down = scale * math.sqrt((l + m) * (l + m - 1)) / 2 * (math.sqrt(2) if m == 1 else 1)
    sign = 1 if sine else -1
    terms = [
        (0, m + 1, sine, -up),
        (0, m - 1, sine, down),
        (1, m + 1, not sine, sign * up),
        (1, m - 1, not sine, sign * down),
        (2, m, sine, scale * math.sqrt((l - m) * (l + m))),
    ]
    # There is no order above the degree, none below 0, and no sine of order 0.
    return [
        (axis, (l - 1) * l + (-k if of_sine else k), factor)
        for axis, k, of_sine, factor in terms
        if of_sine <= k < l
    ]
