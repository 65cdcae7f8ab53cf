r"""Truncated Fourier transforms of real fields: only the frequencies that are kept are ever computed.

A spectral layer keeps a few low frequencies, so that along each axis the transform is a thin matrix: the
product with it costs O(N K) per line instead of O(N log N), but runs at the speed of a matrix product, needs
no copy of discarded coefficients, no complex arithmetic and no padded spectrum. Beyond `DENSE_ORDER` the
FFT wins and takes over, axis by axis, with the same result.

Conventions. A field is its trigonometric interpolant

$$f(x) = \sum_{|k_1| \le K_1} \dots \sum_{|k_d| \le K_d} c_k \exp(2 \pi i\, k \cdot x / L),$$

and coefficients are those of this function (`norm="forward"` of an FFT), so that they do not depend on the
number of points. On an even grid the highest frequency `N/2` and its negative are one and the same on the
points: each of the two takes half of it, which keeps the set of frequencies symmetric. Full axes hold
`-K .. K` in ascending order, the last axis `0 .. K`, the rest being the complex conjugate.

Complex numbers are pairs of real ones on the leading axis. Every step moves the axis it transforms from the
end to the front (or back), which turns all of them into plain matrix products without a transposed copy.

Axis letters: `B` batch, `C` channel, `N` points of the axis, `K` frequencies of the axis, `R` all
other axes.
"""

import functools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["DENSE_ORDER", "analyse", "synthesise"]

DENSE_ORDER = 32
"""Highest frequency up to which an axis is transformed by a matrix product, and above which by an FFT.

On one CPU core the two take the same time near 32 on grids of 64 to 256 points along an axis, near 64 on 512.
"""


def analyse(
    x: Float[Tensor, "batch channel *grid"], orders: Sequence[int]
) -> Float[Tensor, "2 *modes batch channel"]:
    """Return the Fourier coefficients of a real field up to a highest frequency along each axis.

    Equals the kept entries of `torch.fft.rfftn(x, norm="forward")`, apart from the highest frequency of an
    even grid, which is halved along each axis that keeps it.

    Args:
        x: Real field in single or double precision.
        orders: Highest frequency kept along each axis, at most half its number of points.

    Returns:
        Real and imaginary parts, frequencies `-K .. K` along each axis but the last, `0 .. K` there.

    Examples:
        >>> x = torch.cos(2 * math.pi * torch.arange(8.0) / 8).reshape(1, 1, 8)
        >>> analyse(x, (1,))[0].flatten().abs().round(decimals=6)
        tensor([0.0000, 0.5000])
    """
    *full, half = orders
    coefficients = _analyse_half(x, half)
    for order in reversed(full):
        coefficients = _analyse_full(coefficients, order)
    return coefficients


def synthesise(
    coefficients: Float[Tensor, "2 *modes batch channel"], shape: Sequence[int]
) -> Float[Tensor, "batch channel *grid"]:
    """Return the real part of a Fourier series at the points of a grid.

    The real part is the projection onto coefficients that fulfil `c(-k) = conj c(k)`: on the plane where
    the last frequency is zero it replaces `c(k)` by `(c(k) + conj c(-k)) / 2`. Inverse real FFTs leave
    undefined what becomes of coefficients that break this symmetry; here the result is the same everywhere.

    Args:
        coefficients: Real and imaginary parts, in the order of `analyse`.
        shape: Number of points along each axis, at least twice its highest frequency.

    Returns:
        The field, contiguous.

    Examples:
        >>> coefficients = torch.zeros(2, 2, 1, 1)
        >>> coefficients[0, 1] = 0.5
        >>> synthesise(coefficients, (4,)).flatten().round()
        tensor([ 1.,  0., -1., -0.])
    """
    *full, half = shape
    for n in full:
        coefficients = _synthesise_full(coefficients, n)
    return _synthesise_half(coefficients, half)


def _analyse_half(x_RN: Float[Tensor, "*rest n"], order: int) -> Float[Tensor, "2 k *rest"]:
    *rest, n = x_RN.shape
    if _is_dense(order, x_RN):
        basis_KN = _basis("analyse half", n, order, x_RN)
        return (basis_KN @ x_RN.reshape(-1, n).t()).view(2, order + 1, *rest)
    x_RK = torch.fft.rfft(x_RN, norm="forward")[..., : order + 1]
    x_2KR = torch.view_as_real(x_RK).permute(-1, -2, *range(len(rest)))
    return x_2KR * _halved(n, torch.arange(order + 1, device=x_RN.device), x_2KR)


def _analyse_full(x_2RN: Float[Tensor, "2 *rest n"], order: int) -> Float[Tensor, "2 k *rest"]:
    _, *rest, n = x_2RN.shape
    if _is_dense(order, x_2RN):
        from_real, from_imaginary = _basis("analyse full", n, order, x_2RN).unbind(0)
        real_RN, imaginary_RN = x_2RN.reshape(2, -1, n).unbind(0)
        x_2KR = torch.addmm(from_real @ real_RN.t(), from_imaginary, imaginary_RN.t())
        return x_2KR.view(2, 2 * order + 1, *rest)
    spectrum_RN = torch.fft.fft(_as_complex(x_2RN), norm="forward")
    x_RK = torch.cat([spectrum_RN[..., n - order :], spectrum_RN[..., : order + 1]], -1)
    x_2KR = torch.view_as_real(x_RK).permute(-1, -2, *range(len(rest)))
    return x_2KR * _halved(n, torch.arange(-order, order + 1, device=x_2RN.device), x_2KR)


def _synthesise_full(c_2KR: Float[Tensor, "2 k *rest"], n: int) -> Float[Tensor, "2 *rest n"]:
    _, k, *rest = c_2KR.shape
    order = k // 2
    if _is_dense(order, c_2KR):
        basis_2KN = _basis("synthesise full", n, order, c_2KR)
        c_RK = c_2KR.reshape(2 * k, -1).t()
        return torch.bmm(c_RK.expand(2, *c_RK.shape), basis_2KN).view(2, *rest, n)
    negative, positive = _as_complex(c_2KR).tensor_split([order])
    if 2 * order < n:
        gap = positive.new_zeros(n - k, *rest)
        spectrum_NR = torch.cat([positive, gap, negative])
    else:  # both ends of the set fall on the one bin N/2
        spectrum_NR = torch.cat([positive[:-1], positive[-1:] + negative[:1], negative[1:]])
    x_NR = torch.fft.ifft(spectrum_NR, dim=0, norm="forward")
    return torch.view_as_real(x_NR).permute(-1, *range(1, len(rest) + 1), 0)


def _synthesise_half(c_2KR: Float[Tensor, "2 k *rest"], n: int) -> Float[Tensor, "*rest n"]:
    _, k, *rest = c_2KR.shape
    if _is_dense(k - 1, c_2KR):
        basis_KN = _basis("synthesise half", n, k - 1, c_2KR)
        return torch.mm(c_2KR.reshape(2 * k, -1).t(), basis_KN).view(*rest, n)
    # An inverse real FFT counts the bin N/2 once, the series counts N/2 and -N/2; the imaginary parts of
    # frequencies 0 and N/2 do not show on the points, and are removed because backends disagree on them.
    frequencies = torch.arange(k, device=c_2KR.device)
    alone = (frequencies == 0) | (2 * frequencies == n)
    scale_2K = torch.stack([1 + (2 * frequencies == n).to(c_2KR), (~alone).to(c_2KR)])
    spectrum_KR = _as_complex(c_2KR * scale_2K.reshape(2, k, *[1] * len(rest)))
    x_NR: Tensor = torch.fft.irfft(spectrum_KR, n=n, dim=0, norm="forward")
    return x_NR.movedim(0, -1).contiguous()


def _is_dense(order: int, x: Tensor) -> bool:
    return order <= DENSE_ORDER or x.numel() == 0  # FFTs have no gradient on an empty batch


def _as_complex(x: Float[Tensor, " 2 *rest"]) -> Complex[Tensor, "*rest"]:
    return torch.complex(*x.unbind(0))


def _halved(n: int, frequencies: Tensor, like: Float[Tensor, "2 k *rest"]) -> Float[Tensor, " k *ones"]:
    weights = torch.where(2 * frequencies.abs() == n, 0.5, 1.0).to(like.dtype)
    return weights.reshape(-1, *[1] * (like.ndim - 2))


def _basis(kind: str, n: int, order: int, like: Tensor) -> Tensor:
    """Return a transform's matrix in the dtype and on the device of `like`, kept for the next call."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _build(kind, n, order, like.dtype, like.device)
    return _kept(kind, n, order, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _kept(kind: str, n: int, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # an inference tensor could not serve a later training step
        return _build(kind, n, order, dtype, device)


def _build(kind: str, n: int, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Build a transform's matrix in float64.

    The half axis maps a real line to `[real; imaginary]`, with `(2K, N)` entries `[cos; -sin]`; its
    synthesis is the same matrix read the other way. The full axis maps real and imaginary parts, each by
    `(2K, N)`: `[cos; -sin]` and `[sin; cos]`. Only the weights differ between the two directions.
    """
    half = kind.endswith("half")
    frequencies = torch.arange(0 if half else -order, order + 1, device=device)
    points = torch.arange(n, device=device)
    # Reduced in integers: cosines of large angles lose digits.
    angle_KN = (frequencies[:, None] * points % n).to(torch.float64) * (2 * math.pi / n)
    weight_K = torch.ones(len(frequencies), dtype=torch.float64, device=device)
    if kind.startswith("analyse"):
        weight_K = torch.where(2 * frequencies.abs() == n, 0.5, 1.0) * weight_K / n
    elif half:
        weight_K = torch.where(frequencies == 0, 1.0, 2.0) * weight_K  # k and -k together
    cos_KN, sin_KN = weight_K[:, None] * angle_KN.cos(), weight_K[:, None] * angle_KN.sin()
    real = torch.cat([cos_KN, -sin_KN])
    return (real if half else torch.stack([real, torch.cat([sin_KN, cos_KN])])).to(dtype)
