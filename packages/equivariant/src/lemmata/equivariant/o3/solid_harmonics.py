r"""Real solid harmonics by a recursion on Cartesian coordinates.

With $(X, Y, Z) = (z, x, y)$, because the polar axis of the basis is y, and $c_m + i s_m = \sqrt 2 (X +
iY)^m$,

$$R_{l,m} = \bar Q_l^m c_m, \qquad R_{l,-m} = \bar Q_l^m s_m, \qquad R_{l,0} = \bar Q_l^0,$$

$$\bar Q_m^m = \sqrt{\tfrac{2m+1}{2m}}\, \bar Q_{m-1}^{m-1}, \qquad
\bar Q_l^m = \sqrt{\tfrac{4l^2-1}{l^2-m^2}} \left( Z \bar Q_{l-1}^m -
\sqrt{\tfrac{(l-1)^2-m^2}{4(l-1)^2-1}}\, r^2 \bar Q_{l-2}^m \right).$$

$\bar Q_l^m$ is the associated Legendre function divided by $\sin^m \theta$, normalised as it is built, so
that nothing overflows at high degree. No angle appears, so no point is singular.
"""

import math
from typing import Literal

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
        x: Vectors, used as they are.
        normalization: On the unit sphere `integral` is orthonormal, `component` has squares that sum to `2l
            + 1` within a degree, `norm` squares that sum to 1.
    """
    X, Y, Z = x[..., 2], x[..., 0], x[..., 1]
    radius2 = (x * x).sum(-1)
    components: list[Tensor] = []
    # Row l - 1 and row l - 2 of the functions Q, by m.
    last: list[Tensor] = []
    before: list[Tensor] = []
    diagonal = 1 / math.sqrt(4 * math.pi) if normalization == "integral" else 1.0
    cosines, sines = [torch.ones_like(X)], [torch.zeros_like(X)]
    for l in range(lmax + 1):
        if l == 1:
            cosines.append(X * math.sqrt(2))
            sines.append(Y * math.sqrt(2))
        elif l > 1:
            cosine, sine = cosines[-1], sines[-1]
            cosines.append(X * cosine - Y * sine)
            sines.append(X * sine + Y * cosine)
        if l:
            diagonal *= math.sqrt((2 * l + 1) / (2 * l))
        row = [_inner(l, m, Z, radius2, last, before) for m in range(l)]
        row.append(torch.full_like(X, diagonal))
        degree = [row[m] * sines[m] for m in range(l, 0, -1)]
        degree.append(row[0])
        degree.extend(row[m] * cosines[m] for m in range(1, l + 1))
        if normalization == "norm":
            degree = [component / math.sqrt(2 * l + 1) for component in degree]
        components.extend(degree)
        before, last = last, row
    return torch.stack(components, dim=-1)


def directional_derivative(
    lmax: int, x: Float[Tensor, "*batch 3"], direction: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch dim"]:
    """Return the derivative of every orthonormal solid harmonic at `x` along `direction`.

    Exact to rounding: harmonics are polynomials, so a step of 1e-30 along the imaginary axis has no error of
    truncation and, with no difference taken, none of cancellation.

    Args:
        lmax: The largest degree.
        x: Vectors, float64.
        direction: Directions, of any length.

    Examples:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> directional_derivative(1, x, x)[:, 1:] * (4 * math.pi / 3) ** 0.5  # degree one is linear
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    step = 1e-30
    return solid_harmonics(lmax, torch.complex(x, direction * step)).imag / step


def _inner(
    l: int,
    m: int,
    Z: Tensor,
    radius2: Tensor,
    last: list[Tensor],
    before: list[Tensor],
) -> Tensor:
    """Return the function Q of degree `l` and order `m < l` from the two rows before."""
    outer = math.sqrt((4 * l * l - 1) / (l * l - m * m))
    if m == l - 1:
        return Z * last[m] * outer
    inner = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
    return Z * last[m] * outer - radius2 * before[m] * (outer * inner)
