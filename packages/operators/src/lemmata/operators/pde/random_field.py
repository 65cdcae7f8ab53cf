r"""Gaussian random fields whose seed is a function, not an array: the same one at every resolution.

A field with covariance operator $\sigma^2 (-\Delta + \tau^2)^{-\alpha}$ on a box is a sum of the
Laplacian's eigenfunctions with independent normal coefficients (Karhunen-Loeve). Coefficients are drawn mode
by mode from low to high frequency, in an order that knows nothing of the grid, so that refining the grid adds
modes and changes none. It is how random inputs of operator-learning data sets are made.

Letters used below: `n` fields, `N` points of an axis of length `L`, `k` integer frequencies, `d`
dimension of the box.

References:
    G. J. Lord, C. E. Powell and T. Shardlow, An Introduction to Computational Stochastic PDEs, 2014,
    chapter 7.
    Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021,
    arXiv:2010.08895, appendix A.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.operators.grids import box_lengths

__all__ = ["Boundary", "GaussianRandomField", "Generators"]

Boundary = Literal["periodic", "neumann", "dirichlet"]
Generators = torch.Generator | Sequence[torch.Generator] | None

_FloatArray = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int64]


class GaussianRandomField:
    r"""Sample zero-mean Gaussian fields with covariance $\sigma^2 (-\Delta + \tau^2)^{-\alpha}$.

    With $\phi_k$ the orthonormal eigenfunctions of the Laplacian under the boundary condition and
    $\mu_k$ their eigenvalues,

    $$u(x) = \sum_{k \ne 0} \sigma (\mu_k + \tau^2)^{-\alpha / 2} \xi_k \phi_k(x),
    \qquad \xi_k \sim N(0, 1).$$

    The constant mode is left out. Points and modes depend on the boundary:

    - `"periodic"`: layout `"periodic"`, `x_j = j L / N`; all Fourier modes below the Nyquist frequency.
      The Nyquist mode of an even `N` is zero: a grid sees only half of that pair.
    - `"neumann"`: layout `"cells"`, `x_j = (j + 1/2) L / N`; cosines `k = 0 ... N - 1` (DCT-II).
    - `"dirichlet"`: layout `"interior"`, `x_j = (j + 1) L / (N + 1)`; sines `k = 1 ... N` (DST-I).

    Noise is drawn on the CPU in float64 by shells of the largest frequency over the axes, a stream of its own
    for each field, seeded from `generator`: a field depends on neither the resolution, the number of fields
    drawn with it, the device nor the dtype. Grids far from cubic draw modes they do not use.

    Args:
        shape: Number of points along each of one, two or three axes; an integer is one axis.
        length: Length of the box along each axis, in physical units; one number stands for all axes.
        alpha: Smoothness; samples have finite variance in the limit where `alpha > d / 2`.
        tau: Inverse correlation length.
        sigma: Scale; `tau ** (alpha - d / 2)` where `None`, which leaves the variance of a point about
            the same for any `tau` that is large against `1 / length`.
        boundary: One of the three above.

    Raises:
        ValueError: Where an argument is out of range.

    Examples:
        >>> field = GaussianRandomField((64, 64), 1.0, alpha=2.5, tau=7.0, sigma=7.0**0.75)
        >>> field.sample(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 64, 64])
        >>> coarse, fine = (GaussianRandomField(n, 1.0, 4.0, 3.0) for n in (64, 128))
        >>> u, v = (f.sample(1, generator=torch.Generator().manual_seed(0)) for f in (coarse, fine))
        >>> bool((u - v[:, ::2]).abs().max() < 1e-4 * u.abs().max())  # one function, up to modes above 31
        True

    References:
        G. J. Lord, C. E. Powell and T. Shardlow, An Introduction to Computational Stochastic PDEs, 2014.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        length: float | Sequence[float],
        alpha: float,
        tau: float,
        sigma: float | None = None,
        boundary: Boundary = "periodic",
    ) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dim = len(self.shape)
        if not 1 <= dim <= 3 or min(self.shape) < 1:
            raise ValueError(f"`shape` (={shape}) must be one to three positive integers")
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"`alpha` (={alpha}) must be non-negative and finite")
        if not (math.isfinite(tau) and tau >= 0):
            raise ValueError(f"`tau` (={tau}) must be non-negative and finite")
        if sigma is None and tau == 0:
            raise ValueError("`tau` (=0) leaves `sigma` without a default; give `sigma`")
        if sigma is not None and not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"`sigma` (={sigma}) must be non-negative and finite")
        if boundary not in get_args(Boundary):
            raise ValueError(f"`boundary` (={boundary!r}) must be one of {', '.join(get_args(Boundary))}")
        self.length = box_lengths(length, dim)
        self.alpha = float(alpha)
        self.tau = float(tau)
        self.sigma = float(tau ** (alpha - dim / 2) if sigma is None else sigma)
        self.boundary: Boundary = boundary

    def sample(
        self,
        n: int,
        *,
        generator: Generators = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Float[Tensor, " n *grid"]:
        """Draw fields.

        Args:
            n: Number of fields.
            generator: Source of randomness. One generator gives each field in turn its seed, so that the
                first fields of a larger draw are those of a smaller one; a sequence of `n` draws field
                `i` from generator `i` alone; `None` is torch's global generator.
            dtype: Floating type of the result. Fields are computed in float64.
            device: Device of the result.

        Returns:
            Fields `(n, *shape)`.

        Raises:
            ValueError: Where `n` is negative, or is not the number of generators.
        """
        streams = [np.random.Generator(np.random.PCG64(seed)) for seed in _seeds(n, generator)]
        synthesise = self._periodic if self.boundary == "periodic" else self._bounded
        fields = torch.from_numpy(synthesise(streams))
        return fields.to(device=device, dtype=dtype)

    def spectrum(self) -> Float[Tensor, "*grid"]:
        r"""Return the standard deviation of every coefficient $\xi_k \phi_k$, in the transform's order.

        Returns:
            For `"periodic"` the order of `torch.fft.fftn` with zero at Nyquist modes; for `"neumann"`
            frequencies `0 ... N - 1`; for `"dirichlet"` frequencies `1 ... N`. Shape `shape`.

        Examples:
            >>> GaussianRandomField(4, 1.0, alpha=1.0, tau=0.0, sigma=2 * math.pi).spectrum()
            tensor([0., 1., 0., 1.], dtype=torch.float64)
        """
        return torch.from_numpy(self._deviation(self._frequencies()))

    def pointwise_std(self) -> float:
        """Return the root mean square over the box of a field's standard deviation on this grid.

        Examples:
            >>> round(GaussianRandomField(128, 1.0, alpha=2.0, tau=5.0, sigma=25.0).pointwise_std(), 3)
            0.594
        """
        return math.sqrt(float(self.spectrum().square().sum()) / math.prod(self.length))

    def _frequencies(self) -> list[_IntArray]:
        """Return the integer frequencies along each axis, in the transform's order."""
        if self.boundary == "periodic":
            return [np.rint(scipy.fft.fftfreq(n) * n).astype(np.int64) for n in self.shape]
        first = 0 if self.boundary == "neumann" else 1
        return [np.arange(first, first + n, dtype=np.int64) for n in self.shape]

    def _deviation(self, frequencies: Sequence[_IntArray]) -> _FloatArray:
        """Return `sigma (mu_k + tau^2)^(-alpha / 2)` on a lattice of frequencies."""
        wave = 2.0 * math.pi if self.boundary == "periodic" else math.pi
        axes = np.meshgrid(*frequencies, indexing="ij", sparse=True)
        mu = sum((wave / size * k) ** 2 for k, size in zip(axes, self.length, strict=True))
        kept = np.asarray(mu > 0)
        if self.boundary == "periodic":
            for k, n in zip(axes, self.shape, strict=True):
                kept = kept & (2 * np.abs(k) < n)
        base = np.where(kept, mu + self.tau**2, 1.0)
        return np.where(kept, self.sigma * base ** (-self.alpha / 2.0), 0.0)

    def _periodic(self, streams: Sequence[np.random.Generator]) -> _FloatArray:
        r"""Synthesise periodic fields from half spectra.

        A pair `k, -k` of modes takes two normal numbers `a, b` as `(a + i b) / sqrt(2)` at `k` and
        the conjugate at `-k`; with `phi_k = e^{2 pi i k x / L} / sqrt(volume)`.
        """
        order = _half_space(self.shape)
        frequencies = self._frequencies()
        half = self.shape[-1] // 2 + 1
        deviation = self._deviation([*frequencies[:-1], frequencies[-1][:half]])
        scale = (deviation / math.sqrt(2.0 * math.prod(self.length))).ravel()
        noise = _normal(streams, 2 * order.drawn)
        spectrum = np.zeros((len(noise), scale.size), dtype=np.complex128)
        spectrum.real[:, order.slots] = noise[:, order.real] * scale[order.slots]
        spectrum.imag[:, order.slots] = noise[:, order.imag] * (order.sign * scale[order.slots])
        return np.asarray(
            scipy.fft.irfftn(
                spectrum.reshape(-1, *deviation.shape),
                s=self.shape,
                axes=range(1, 1 + len(self.shape)),
                norm="forward",
                overwrite_x=True,
            )
        )

    def _bounded(self, streams: Sequence[np.random.Generator]) -> _FloatArray:
        """Synthesise fields on a box with walls by the inverse cosine or sine transform.

        The transforms double every mode but a cosine's constant, so that an axis takes `sqrt(2 / L) / 2`
        from an orthonormal eigenfunction and `sqrt(1 / L)` from the constant one.
        """
        frequencies = self._frequencies()
        scale = self._deviation(frequencies)
        for axis, (k, size) in enumerate(zip(frequencies, self.length, strict=True)):
            factor = np.where(k == 0, math.sqrt(1.0 / size), math.sqrt(0.5 / size))
            scale = scale * np.expand_dims(factor, [other for other in range(scale.ndim) if other != axis])
        order = _quadrant(self.shape)
        noise = _normal(streams, int(order.max()) + 1)
        spectrum = noise[:, order].reshape(-1, *self.shape) * scale
        axes = range(1, 1 + len(self.shape))
        if self.boundary == "neumann":
            return np.asarray(scipy.fft.dctn(spectrum, type=3, axes=axes, overwrite_x=True))
        return np.asarray(scipy.fft.dstn(spectrum, type=1, axes=axes, overwrite_x=True))


def _seeds(n: int, generator: Generators) -> list[int]:
    """Draw a seed for each field, one at a time, so that seed `i` does not depend on `n`."""
    if n < 0:
        raise ValueError(f"`n` (={n}) must not be negative")
    if generator is None or isinstance(generator, torch.Generator):
        generators = [generator] * n
    else:
        generators = list(generator)
        if len(generators) != n:
            raise ValueError(f"`generator` holds {len(generators)} generators, expected `n` (={n})")
    return [
        int(torch.randint(2**63 - 1, (), generator=g, device=g.device if g is not None else "cpu"))
        for g in generators
    ]


def _normal(streams: Sequence[np.random.Generator], count: int) -> _FloatArray:
    """Draw `count` normal numbers from each stream.

    NumPy's ziggurat consumes its stream in sequence: a shorter draw is a prefix of a longer one.
    """
    noise = np.empty((len(streams), count))
    for row, stream in zip(noise, streams, strict=True):
        stream.standard_normal(out=row)
    return noise


@dataclass(frozen=True)
class _HalfSpace:
    """Where a half spectrum's entries find their random numbers."""

    drawn: int  # pairs of numbers drawn for one field
    slots: _IntArray  # flat positions in the half spectrum
    real: _IntArray  # position of each slot's real part in the noise
    imag: _IntArray
    sign: _FloatArray  # -1 where the slot holds the conjugate of a drawn mode


@lru_cache(maxsize=32)
def _half_space(shape: tuple[int, ...]) -> _HalfSpace:
    """Rank the modes of a periodic grid, one of each pair `k, -k`, by shells of the largest `|k_j|`.

    Of a pair the mode is drawn whose last non-zero frequency is positive. The rank sorts by shell, then by
    the frequencies themselves.
    """
    highest = [(n - 1) // 2 for n in shape]
    reach = max(highest)
    axes = [np.arange(-reach, reach + 1)] * (len(shape) - 1) + [np.arange(reach + 1)]
    k = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(len(shape), -1)
    leading = np.zeros(k.shape[1], dtype=np.int64)
    for row in k:
        leading = np.where(row != 0, row, leading)  # the last non-zero frequency stands
    k = k[:, leading > 0]
    k = k[:, np.lexsort([*k[::-1], np.abs(k).max(axis=0)])]
    seen = np.all(np.abs(k) <= np.array(highest)[:, None], axis=0)
    rank = np.flatnonzero(seen)
    mirrored = rank[k[-1, rank] == 0]
    rank_both = np.concatenate([rank, mirrored])
    k_both = np.concatenate([k[:, rank], -k[:, mirrored]], axis=1)
    half_shape = (*shape[:-1], shape[-1] // 2 + 1)
    slots = np.ravel_multi_index(tuple(row % n for row, n in zip(k_both, shape, strict=True)), half_shape)
    sign = np.concatenate([np.ones(len(rank)), -np.ones(len(mirrored))])
    drawn = int(rank[-1]) + 1 if len(rank) else 0
    return _HalfSpace(drawn, slots.astype(np.int64), 2 * rank_both, 2 * rank_both + 1, sign)


@lru_cache(maxsize=32)
def _quadrant(shape: tuple[int, ...]) -> _IntArray:
    """Return each mode's rank by shells of the largest frequency, flat in the order of the transform."""
    cube = np.stack(np.meshgrid(*[np.arange(max(shape))] * len(shape), indexing="ij")).reshape(len(shape), -1)
    order = np.lexsort([*cube[::-1], cube.max(axis=0)])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    inside = np.all(cube < np.array(shape)[:, None], axis=0)
    return rank[inside]
