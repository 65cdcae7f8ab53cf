r"""Products of functions on the sphere in the two-dimensional Fourier basis, in $O(L^3)$.

Continued to $\theta \in [0, 2\pi)$, every spherical harmonic is a trigonometric polynomial on the torus,

$$Y_{l, \pm m}(\theta, \varphi) = \Theta_{l m}(\theta) \begin{Bmatrix} \cos \\ \sin \end{Bmatrix} m\varphi,
\qquad \Theta_{l m}(\theta) = \sum_{|u| \le l} t^{l m}_u e^{i u \theta},$$

with $t$ real for even and imaginary for odd $m$. So a function's Fourier coefficients come from one small
real matrix for each $m$; a product of functions is a convolution of their coefficients, done by FFT; and each
coefficient of the result is, by one small matrix for each $m$ again, a sum of Fourier coefficients against
$\int_0^\pi e^{i u \theta} \Theta_{l m}(\theta) \sin \theta \, d\theta$.

`GridProduct` needs about $3/4$ of the latitudes on half of this torus, and large matrices in place of FFTs
and many small ones: it is quicker at the degrees that networks use. The two compute the same map.

Axis letters used below: `B` rows, `V` longitudinal and `U` latitudinal frequencies, `L` degrees, `K` real and
imaginary parts of each order.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3 import solid_harmonics

__all__ = ["FourierProduct"]


class FourierProduct(ConstantModule):
    """Multiply two functions on the sphere by a convolution of their Fourier coefficients on the torus.

    Args:
        lmax1: Largest degree of the first function.
        lmax2: Largest degree of the second function.
        lmax_out: Largest degree of the product that is kept.
        scale: Factors of the components of the result, `(lmax_out + 1)**2`, float64; ones where None.
        dtype: Of the constants; torch's default where None. FFTs take float32 and float64.
        device: Of the constants.

    Examples:
        >>> one = torch.tensor([(4 * torch.pi) ** 0.5])  # the constant function 1
        >>> torch.round(FourierProduct(1, 0, 1)(torch.arange(4.0), one), decimals=4).abs()
        tensor([0., 1., 2., 3.])
    """

    to_fourier1: Tensor
    to_fourier2: Tensor
    from_fourier: Tensor
    places1: Tensor
    places2: Tensor
    places_out: Tensor

    def __init__(
        self,
        lmax1: int,
        lmax2: int,
        lmax_out: int,
        *,
        scale: Float[Tensor, " dim"] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.lmax1, self.lmax2, self.lmax_out = lmax1, lmax2, lmax_out
        # Every latitudinal frequency of the product contributes to its projection, and must not be aliased;
        # of the longitudinal ones only those up to `lmax_out`.
        self.n_theta = _fast_size(2 * (lmax1 + lmax2) + 1)
        self.n_phi = _fast_size(lmax1 + lmax2 + lmax_out + 1)
        projection = _projection(lmax_out, lmax1 + lmax2, self.n_theta)
        if scale is not None:
            degrees = torch.arange(lmax_out + 1)
            projection = projection * scale[degrees * (degrees + 1)]
        constants = {
            "to_fourier1": _expansion(lmax1, self.n_theta),
            "to_fourier2": _expansion(lmax2, self.n_theta),
            "from_fourier": projection,
        }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)
        for name, lmax in (("places1", lmax1), ("places2", lmax2)):
            self.register_buffer(name, _places(lmax).flatten().to(device), persistent=False)
        self.register_buffer("places_out", _inverse_places(lmax_out).to(device), persistent=False)

    def forward(
        self, x: Float[Tensor, "*#batch dim1"], y: Float[Tensor, "*#batch dim2"]
    ) -> Float[Tensor, "*batch dim_out"]:
        """Return the coefficients of the product.

        Args:
            x: Coefficients of the first function.
            y: Coefficients of the second function; leading axes broadcast.
        """
        product = self._on_torus(x, self.places1, self.to_fourier1) * self._on_torus(
            y, self.places2, self.to_fourier2
        )
        # Longitudes first, for only the orders that are kept go on.
        orders = torch.fft.rfft(product, dim=-1, norm="forward")[..., : self.lmax_out + 1]
        spectrum = torch.fft.fft(orders, dim=-2, norm="forward")
        shape, rows = spectrum.shape[:-2], math.prod(spectrum.shape[:-2])
        spectrum_VBU = spectrum.reshape(rows, *spectrum.shape[-2:]).permute(2, 0, 1)
        parts_KBU = torch.cat([spectrum_VBU.real, spectrum_VBU.imag])
        harmonic_BKL = torch.bmm(parts_KBU, self.from_fourier).movedim(0, 1)
        z = harmonic_BKL.flatten(1).index_select(-1, self.places_out)
        return z.reshape(*shape, self.places_out.shape[0])

    def _on_torus(self, x: Tensor, places: Tensor, expansion_KLU: Tensor) -> Tensor:
        """Return values by leading axes, latitude continued to the full circle, and longitude."""
        shape, (parts, degrees, frequencies) = x.shape[:-1], expansion_KLU.shape
        rows = math.prod(shape)
        gathered = x.reshape(rows, x.shape[-1]).index_select(-1, places)
        x_KBL = gathered.reshape(rows, parts, degrees).transpose(0, 1)
        real, imaginary = torch.bmm(x_KBL, expansion_KLU).chunk(2)
        spectrum_BUV = torch.complex(real, imaginary).permute(1, 2, 0).contiguous()
        # Latitudes first, while there are no orders but those of the function.
        orders_BUV = torch.fft.ifft(spectrum_BUV, dim=-2, norm="forward")
        values: Tensor = torch.fft.irfft(orders_BUV, n=self.n_phi, dim=-1, norm="forward")
        return values.reshape(*shape, frequencies, self.n_phi)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return (
            f"lmax1={self.lmax1}, lmax2={self.lmax2}, lmax_out={self.lmax_out}, n_theta={self.n_theta},"
            f" n_phi={self.n_phi}"
        )


def _fast_size(least: int) -> int:
    """Return the next size that FFTs split into factors 2, 3 and 5."""
    size = least
    while _without(_without(_without(size, 2), 3), 5) != 1:
        size += 1
    return size


def _without(number: int, factor: int) -> int:
    """Return a number with all its factors of one kind divided out."""
    while number % factor == 0:
        number //= factor
    return number


def _latitude_functions(lmax: int, cosine: Tensor, sine: Tensor) -> Float[Tensor, "angle m l"]:
    """Return the functions Theta of every order and degree, zero where `l < m`."""
    values = solid_harmonics(lmax, torch.stack([torch.zeros_like(sine), cosine, sine], dim=-1))
    places = _places(lmax).reshape(2, lmax + 1, lmax + 1)
    m = torch.arange(lmax + 1)
    cosines = torch.where((m % 2 == 0)[:, None], places[0], places[1])  # where component +m is found
    return values[:, cosines] * (m[None, :] >= m[:, None])


def _expansion(lmax: int, n_theta: int) -> Float[Tensor, "km l u"]:
    """Return what takes each order's coefficients to the real, then the imaginary parts in the Fourier basis.

    A function `a(theta) cos(m phi) + b(theta) sin(m phi)` has the coefficient `(a - i b) / 2` at `m > 0`.
    Where m is odd, `a` and `b` are sine series, with imaginary coefficients, so that `b` makes the real part
    and `a` the imaginary one: `_places` puts them in that order.
    """
    theta = 2 * math.pi / n_theta * torch.arange(n_theta, dtype=torch.float64)
    series_UML = torch.fft.fft(_latitude_functions(lmax, theta.cos(), theta.sin()), dim=0, norm="forward")
    m = torch.arange(lmax + 1)
    odd = (m % 2 == 1)[:, None]
    # For odd m the coefficient of Theta is i times `series.imag`: (i a + b) / 2 in all.
    real = torch.where(odd, series_UML.imag, series_UML.real) / 2
    imaginary = torch.where(odd, series_UML.imag, -series_UML.real) / 2
    real[:, 0] *= 2
    imaginary[:, 0] = 0
    return torch.cat([real, imaginary], dim=1).permute(1, 2, 0)


def _projection(lmax: int, degree: int, n_theta: int) -> Float[Tensor, "km u l"]:
    """Return what takes the real, then the imaginary parts in the Fourier basis to each order's coefficients.

    Args:
        lmax: The largest degree kept.
        degree: Of the function: frequencies above are zero, and their columns here too.
        n_theta: Number of latitudinal frequencies, in the order of FFTs.
    """
    # Both factors are polynomials in the cosine times the same power, 0 or 1, of the sine: Gauss-Legendre
    # nodes integrate the product exactly.
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss((lmax + degree) // 2 + 1))
    theta = nodes.acos()
    u = torch.fft.fftfreq(n_theta, 1 / n_theta, dtype=torch.float64)
    band = (u.abs() <= degree)[:, None, None]
    functions = _latitude_functions(lmax, nodes, theta.sin()) * weights[:, None, None]
    even, odd = (
        torch.einsum("gu,gml->uml", trigonometric(theta[:, None] * u), functions) * band * (2 * math.pi)
        for trigonometric in (torch.cos, torch.sin)
    )
    is_odd = (torch.arange(lmax + 1) % 2 == 1)[:, None]
    real = torch.where(is_odd, -odd, even)
    imaginary = torch.where(is_odd, -odd, -even)
    imaginary[:, 0] = 0
    return torch.cat([real, imaginary], dim=1).permute(1, 0, 2)


def _places(lmax: int) -> Tensor:
    """Return where the coefficient of each part, order and degree is found; anywhere where there is none."""
    place = torch.zeros(2, lmax + 1, lmax + 1, dtype=torch.long)
    for m in range(lmax + 1):
        for l in range(m, lmax + 1):
            cosine, sine = l * (l + 1) + m, l * (l + 1) - m
            place[:, m, l] = torch.tensor([sine, cosine] if m % 2 else [cosine, sine])
    return place


def _inverse_places(lmax: int) -> Tensor:
    """Return where among parts, orders and degrees each coefficient is found."""
    size = lmax + 1
    inverse = torch.zeros(size * size, dtype=torch.long)
    places = _places(lmax)
    for m in range(size):
        # At m = 0 there is a cosine only, which is the first part; written last, it stays.
        for part in (1, 0):
            for l in range(m, size):
                inverse[places[part, m, l]] = (part * size + m) * size + l
    return inverse
