r"""The von Mises-Fisher distribution: the Gaussian of the sphere, in two to many thousand dimensions.

Its density at a unit vector z is $C_p(\kappa)\, e^{\kappa \mu \cdot z}$ with the unit mean direction $\mu$,
the concentration $\kappa \ge 0$ and
$\log C_p(\kappa) = v \log \kappa - \frac p2 \log 2\pi - \log I_v(\kappa)$, $v = p/2 - 1$. The Bessel function
leaves the range of floating point numbers from p of a few hundred on; its logarithm does not.
Equals `scipy.stats.vonmises_fisher` where that works.

Legend: p the dimension of the space around the sphere.

References:
    A. T. A. Wood, "Simulation of the von Mises Fisher distribution", 1994.
    "Accurate computation of the logarithm of modified Bessel functions".
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from lemmata.sketching.special.first_kind import iv_ratio, log_iv_over_power

__all__ = ["VMFFit", "VonMisesFisher", "concentration_from_length", "fit_vmf"]


class VonMisesFisher(Distribution):
    """The von Mises-Fisher distribution on the unit sphere in p dimensions.

    Batches as `torch.distributions` do: the batch shape is that of `loc` without its last axis, broadcast
    against `concentration`.

    Args:
        loc: Mean directions, unit vectors along the last axis.
        concentration: Concentrations, not negative; 0 is the uniform distribution.
        validate_args: Check arguments and values, which waits for an accelerator.

    Raises:
        ValueError: Where `loc` has fewer than two components or is not of unit length, or a concentration
            is negative.

    Examples:
        >>> sphere = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(10.0))
        >>> sphere.log_prob(torch.tensor([0.0, 0.0, 1.0]))
        tensor(0.4647)
        >>> sphere.mean  # coth(10) - 1/10 along the mean direction
        tensor([0.0000, 0.0000, 0.9000])
    """

    arg_constraints = {  # noqa: RUF012  # torch declares it so
        "loc": constraints.real_vector,
        "concentration": constraints.nonnegative,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch p"],
        concentration: Float[Tensor, "..."] | float,
        validate_args: bool | None = None,
    ) -> None:
        if loc.ndim < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"`loc` must have two or more components on its last axis, got {tuple(loc.shape)}"
            )
        kappa = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        batch = torch.broadcast_shapes(loc.shape[:-1], kappa.shape)  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = kappa.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)
        if self._validate_args:
            _check_unit("loc", loc.detach())

    @property
    def mean(self) -> Tensor:
        """The mean vector, shorter than a unit vector."""
        return self.mean_resultant_length[..., None] * self.loc

    @property
    def mode(self) -> Tensor:
        """The mean direction."""
        return self.loc

    @property
    def mean_resultant_length(self) -> Tensor:
        """The length of the mean vector, the mean cosine of the angle to the mean direction."""
        return iv_ratio(self._order, self.concentration, validate=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "VonMisesFisher":
        """Return the distribution with a larger batch shape."""
        return VonMisesFisher(
            self.loc.expand(*batch_shape, self.event_shape[0]),
            self.concentration.expand(batch_shape),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithm of the density with respect to the area of the sphere."""
        if self._validate_args:
            _check_unit("value", value.detach())
        return self.concentration * (self.loc * value).sum(-1) + self._log_normalizer()

    def entropy(self) -> Tensor:
        """Return the differential entropy with respect to the area of the sphere, in nats."""
        return -self._log_normalizer() - self.concentration * self.mean_resultant_length

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Draw unit vectors, differentiable in mean direction and concentration.

        The cosine to the mean direction is drawn by rejection; its derivative in the concentration is the
        implicit one, from the distribution function, and so has no bias.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        loc, kappa = self.loc.expand(shape), self.concentration.expand(shape[:-1])
        with torch.no_grad():
            shortfall = _draw_shortfall(kappa.double(), shape[-1], generator)
            normal = torch.randn(shape, generator=generator, dtype=loc.dtype, device=loc.device)
        if kappa.requires_grad:
            shortfall = _Reparametrized.apply(shortfall, kappa.double(), shape[-1])
        cosine = (1 - shortfall).to(loc.dtype)[..., None]
        sine = (shortfall * (2 - shortfall)).clamp(min=0).sqrt().to(loc.dtype)[..., None]
        tangent = _across(loc, torch.nn.functional.normalize(_across(loc, normal), dim=-1))
        return cosine * loc + sine * torch.nn.functional.normalize(tangent, dim=-1)

    def _log_normalizer(self) -> Tensor:
        p = self.event_shape[0]
        return -log_iv_over_power(self._order, self.concentration, validate=False) - p / 2 * math.log(
            2 * math.pi
        )

    @property
    def _order(self) -> float:
        return self.event_shape[0] / 2 - 1


@register_kl(VonMisesFisher, VonMisesFisher)  # type: ignore[no-untyped-call,untyped-decorator]  # torch does not annotate it
def _kl(first: VonMisesFisher, second: VonMisesFisher) -> Tensor:
    cosine = (first.loc * second.loc).sum(-1)
    return (
        first._log_normalizer()
        - second._log_normalizer()
        + first.mean_resultant_length * (first.concentration - second.concentration * cosine)
    )


@dataclass(frozen=True)
class VMFFit:
    """A von Mises-Fisher distribution fitted to unit vectors, and how well it was fitted.

    Args:
        loc: The mean direction.
        concentration: The concentration.
        loglik: The logarithm of the likelihood of all (weighted) vectors.
        iterations: Newton's steps.
        residual: What is left of the likelihood equation: mean cosine of the model less that of the data.
    """

    loc: Float[Tensor, " p"]
    concentration: Float[Tensor, ""]
    loglik: Float[Tensor, ""]
    iterations: int
    residual: float

    @property
    def distribution(self) -> VonMisesFisher:
        """The fitted distribution."""
        return VonMisesFisher(self.loc, self.concentration)


def fit_vmf(x: Float[Tensor, "n p"], weights: Float[Tensor, " n"] | None = None) -> VMFFit:
    """Fit a von Mises-Fisher distribution by maximum likelihood.

    The mean direction is that of the weighted sum; the concentration solves "mean cosine of the model =
    mean cosine of the data" by Newton's method in double precision, in three or four steps.

    Args:
        x: Unit vectors, one a row.
        weights: Weights, not negative; all equal by default.

    Returns:
        The fit, in the precision of `x`.

    Raises:
        ValueError: Where there are no rows, a row is not of unit length, a weight is negative, all rows are
            the same, or they cancel.

    Examples:
        >>> sphere = VonMisesFisher(torch.nn.functional.normalize(torch.ones(512), dim=0), 300.0)
        >>> x = sphere.rsample((2000,), generator=torch.Generator().manual_seed(0))
        >>> bool(abs(fit_vmf(x).concentration / 300 - 1) < 0.02)
        True
    """
    if not x.shape[0] or x.shape[1] < 2:
        raise ValueError(f"`x` must hold rows of two or more components, got shape {tuple(x.shape)}")
    _check_unit("x", x)
    if weights is None:
        share = x.new_full(x.shape[:1], 1 / x.shape[0], dtype=torch.float64)
        total = float(x.shape[0])
    else:
        if bool((weights < 0).any()) or not bool(weights.sum() > 0):
            raise ValueError("`weights` must not be negative, and not all zero")
        total = float(weights.double().sum())
        share = weights.double() / total
    mean = share @ x.double()
    length = mean.norm()
    if float(length) >= 1 - 1e-15:
        raise ValueError("`x` holds the same row throughout: the concentration is infinite")
    if float(length) == 0:
        raise ValueError("`x` holds rows whose sum is zero: there is no mean direction")
    loc = mean / length
    concentration, iterations = concentration_from_length(length, x.shape[1])
    fitted = VonMisesFisher(loc, concentration, validate_args=False)
    loglik = total * (concentration * length + fitted._log_normalizer())
    residual = float(fitted.mean_resultant_length - length)
    return VMFFit(loc.to(x.dtype), concentration.to(x.dtype), loglik.to(x.dtype), iterations, residual)


def concentration_from_length(length: Float[Tensor, "..."], p: int) -> tuple[Float[Tensor, "..."], int]:
    """Return the concentrations whose mean resultant lengths are given, and Newton's steps taken.

    Args:
        length: Mean resultant lengths, in (0, 1).
        p: Dimension.

    Returns:
        Concentrations, and the number of steps.
    """
    order = p / 2 - 1
    kappa = length * (p - length**2) / (1 - length**2)
    for step in range(1, 26):
        mean = iv_ratio(order, kappa, validate=False)
        slope = 1 - mean**2 - (p - 1) * mean / kappa
        # Cancellation takes even the sign at large concentrations, where this is exact enough.
        slope = torch.where(kappa > 1e6 * p, (p - 1) / (2 * kappa**2), slope)
        following = (kappa - (mean - length) / slope).clamp(min=kappa / 2, max=kappa * 2)
        settled = bool(((following - kappa).abs() <= 1e-14 * kappa).all())
        kappa = following
        if settled or bool(((mean - length).abs() <= 1e-15 * length).all()):
            return kappa, step
    return kappa, step


def _across(loc: Tensor, vectors: Tensor) -> Tensor:
    """Return the part of vectors across a direction; twice, with a normalisation between, it is exact."""
    return vectors - (vectors * loc).sum(-1, keepdim=True) * loc


def _check_unit(name: str, vectors: Tensor) -> None:
    """Raise where a vector is not of unit length, to a millionth (more in low precision)."""
    tolerance = max(1e-6, 8 * torch.finfo(vectors.dtype).eps)
    off = (vectors.double().norm(dim=-1) - 1).abs()
    if off.numel() and not bool((off <= tolerance).all()):
        raise ValueError(f"`{name}` must hold unit vectors; one is off by {off.max().item():.3g}")


def _draw_shortfall(
    kappa: Float[Tensor, "..."], p: int, generator: torch.Generator | None
) -> Float[Tensor, "..."]:
    """Draw one minus the cosine to the mean direction by Wood's rejection, half or more accepted."""
    flat = kappa.reshape(-1)
    shortfall = torch.empty_like(flat)
    left = torch.arange(flat.numel(), device=flat.device)
    b = (p - 1) / (2 * flat + torch.sqrt(4 * flat**2 + (p - 1) ** 2))
    while left.numel():
        concentration, bound = flat[left], b[left]
        half = torch.full((2, left.numel()), (p - 1) / 2, dtype=flat.dtype, device=flat.device)
        first, second = torch._standard_gamma(half, generator=generator)
        beta = first / (first + second)
        uniform = torch.rand(left.shape, generator=generator, dtype=flat.dtype, device=flat.device)
        # w = (1 - (1 + b) z) / (1 - (1 - b) z); the envelope's mode is (1 - b) / (1 + b).
        drawn = 2 * bound * beta / (1 - (1 - bound) * beta)
        mode = 2 * bound / (1 + bound)
        # log(1 - x0 w) - log(1 - x0^2), from shortfalls: 1 - x0 w = mode + drawn - mode drawn.
        excess = torch.log((mode + drawn - mode * drawn) / (mode * (2 - mode)))
        accepted = concentration * (mode - drawn) + (p - 1) * excess >= torch.log(uniform)
        shortfall[left[accepted]] = drawn[accepted]
        left = left[~accepted]
    return shortfall.reshape(kappa.shape)


class _Reparametrized(torch.autograd.Function):
    r"""Passes a shortfall d = 1 - w through, with its implicit derivative in the concentration.

    With the density f of w and its distribution function F, $dw/d\kappa = -\partial_\kappa F / f(w)$ and
    $\partial_\kappa F(w) = \int_{-1}^w (t - A) f(t)\, dt$, A the mean of w.
    """

    @staticmethod
    def forward(ctx: Any, shortfall: Tensor, kappa: Tensor, p: int) -> Tensor:
        ctx.save_for_backward(shortfall, kappa)
        ctx.p = p
        return shortfall.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        shortfall, kappa = ctx.saved_tensors
        return None, gradients[0] * _shortfall_slope(shortfall, kappa, ctx.p), None


def _shortfall_slope(
    shortfall: Float[Tensor, "..."], kappa: Float[Tensor, "..."], p: int
) -> Float[Tensor, "..."]:
    r"""Return the implicit derivative of the shortfall, by the angle, in which no density is singular.

    $\frac{d\theta}{d\kappa} = -\int_0^\theta (\cos t - A)\, e^{g(t) - g(\theta)}\, dt$ with
    $g(t) = (p - 2) \log \sin t + \kappa \cos t$, or the negative of the integral over the other side: the one
    on which the density falls away from $\theta$.
    """
    theta = 2 * torch.asin((shortfall / 2).clamp(1e-300, 1).sqrt())
    sine, mean = theta.sin().clamp(min=1e-150), iv_ratio(p / 2 - 1, kappa, validate=False)
    incline = (p - 2) * theta.cos() / sine - kappa * sine
    # The mode solves (p - 2) cos t = kappa sin^2 t; there -g'' = (p - 2) / sin^2 t + kappa cos t.
    mode_cosine = 2 * kappa / ((p - 2) + torch.sqrt((p - 2) ** 2 + 4 * kappa**2)).clamp(min=1e-300)
    curvature = (p - 2) / (1 - mode_cosine**2).clamp(min=1e-300) + kappa * mode_cosine
    backwards = incline > 0
    side = torch.where(backwards, theta, math.pi - theta)
    window = torch.minimum(side, 40 / incline.abs().clamp(min=1e-300))
    window = torch.minimum(window, 10 / curvature.clamp(min=1e-300).sqrt())
    nodes, weights = _gauss_legendre(64, shortfall.device)
    t = theta[..., None] + torch.where(backwards, -window, window)[..., None] * nodes
    fall = (p - 2) * torch.log(t.sin().clamp(min=1e-300) / sine[..., None])
    # cos t - cos theta = -2 sin((t + theta) / 2) sin((t - theta) / 2)
    half_sum, half_difference = (t + theta[..., None]) / 2, (t - theta[..., None]) / 2
    fall = fall - 2 * kappa[..., None] * half_sum.sin() * half_difference.sin()
    above_mean = 1 - mean[..., None] - 2 * (t / 2).sin() ** 2
    integral = window * (weights * above_mean * fall.exp()).sum(-1)
    return sine * torch.where(backwards, -integral, integral)


def _gauss_legendre(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, 1], from the eigenvectors of the Jacobi matrix (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return ((values + 1) / 2).to(device), (vectors[0] ** 2).to(device)
