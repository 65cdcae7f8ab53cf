"""What the paper on logarithms of Bessel functions promises: values where libraries give none."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import scipy.special
import scipy.stats
import torch
from matplotlib.figure import Figure

from lemmata.sketching import VonMisesFisher, fit_vmf, iv_ratio, log_iv, log_kv

PAPER = "Accurate computation of the logarithm of modified Bessel functions"
EPS = float(np.finfo(float).eps)


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw orders and arguments: nine in ten evenly in logarithms over [1e-6, 1e6], the rest from [0, 40]."""
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(-6, 6, (2, count - count // 10))
    near = rng.uniform(0, 40, (2, count // 10))
    v, x = np.concatenate([spread, near], 1)
    return v, x


def debye(v: mpmath.mpf, x: mpmath.mpf, sign: int, terms: int = 40) -> mpmath.mpf:
    """Return log I (sign 1) or log K (sign -1) by the uniform expansion with many terms."""
    s, t = mpmath.hypot(v, x), v / mpmath.hypot(v, x)
    coefficients, total = {0: mpmath.mpf(1)}, mpmath.mpf(1)
    for k in range(1, terms):
        following: dict[int, mpmath.mpf] = {}
        for m, c in coefficients.items():
            rise, fall = (
                mpmath.mpf(m) / 2 + mpmath.mpf(1) / (8 * (m + 1)),
                mpmath.mpf(m) / 2 + mpmath.mpf(5) / (8 * (m + 3)),
            )
            following[m + 1] = following.get(m + 1, 0) + c * rise
            following[m + 3] = following.get(m + 3, 0) - c * fall
        coefficients = following
        # t^m / v^k = t^(m - k) / s^k stays finite where the order is tiny.
        total += sign**k * sum(c * t ** (m - k) for m, c in coefficients.items()) / s**k
    front = mpmath.log(mpmath.pi / (2 * s)) if sign < 0 else -mpmath.log(2 * mpmath.pi * s)
    return sign * (s - v * mpmath.asinh(v / x)) + front / 2 + mpmath.log(total)


def reference(v: float, x: float, sign: int) -> float:
    """Return the exact logarithm of I (sign 1) or K (sign -1)."""
    with mpmath.workdps(60):
        order, argument = mpmath.mpf(v), mpmath.mpf(x)
        if mpmath.hypot(order, argument) >= 60:
            return float(debye(order, argument, sign))
        return float(mpmath.log((mpmath.besseli if sign > 0 else mpmath.besselk)(order, argument)))


def share_mpmath_gives_up(v: np.ndarray, x: np.ndarray, function: Callable[..., mpmath.mpf]) -> float:
    """Return the share of points where mpmath, at its default precision, raises instead of answering."""
    failed = 0
    for order, argument in zip(v, x, strict=True):
        try:
            function(order, argument)
        except (mpmath.libmp.NoConvergence, ValueError):
            failed += 1
    return failed / len(v)


def claim_log_bessel_is_exact_to_a_few_roundings_where_scipy_fails(claim) -> None:
    """Compare with 60 digits over the quadrant, and count where SciPy gives a number at all."""
    v, x = points(1000, seed=0)
    worst, errors, ours, scipy_failed = {}, {}, {}, {}
    for sign, function, theirs in ((1, log_iv, scipy.special.ive), (-1, log_kv, scipy.special.kve)):
        value = function(torch.as_tensor(v), torch.as_tensor(x)).numpy()
        exact = np.array([reference(a, b, sign) for a, b in zip(v, x, strict=True)])
        scale = np.maximum(np.maximum(np.hypot(v, x), np.abs(exact)), 1)
        errors[sign] = np.abs(value - exact) / scale / EPS
        worst[sign] = float(errors[sign].max())
        ours[sign] = float(np.mean(~np.isfinite(value)))
        with np.errstate(all="ignore"):
            scipy_failed[sign] = ~np.isfinite(np.log(theirs(v, x)))
    gave_up = {
        sign: share_mpmath_gives_up(v[::5], x[::5], function)
        for sign, function in ((1, mpmath.besseli), (-1, mpmath.besselk))
    }
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, sign, name in zip(figure.subplots(1, 2, sharey=True), (1, -1), ("log I", "log K"), strict=True):
        drawn = axes.scatter(x, v, c=errors[sign], s=6, vmin=0, vmax=4, cmap="viridis")
        failed = scipy_failed[sign]
        axes.scatter(x[failed], v[failed], s=14, facecolors="none", edgecolors="#cc3311", linewidths=0.4)
        axes.set(xscale="log", yscale="log", xlabel="argument", title=f"{name}: error in units of rounding")
    axes.figure.axes[0].set_ylabel("order (red ring: SciPy gives no number)")
    figure.colorbar(drawn, ax=figure.axes)
    claim(
        sentence="Logarithms of modified Bessel functions are accurate over orders and arguments where "
        "libraries overflow, underflow or give up",
        paper=PAPER,
        published="robust where SciPy and mpmath fail, up to orders and arguments in the ten thousands",
        setup="1000 points, nine in ten even in logarithms over [1e-6, 1e6]^2; error over max(s, |value|, 1) "
        "against 60 digits: mpmath's functions for s < 60, the uniform expansion with 40 terms beyond",
        baseline="scipy.special.ive and kve, scaled, then the logarithm",
        bars=[
            claim.bar(
                "share without a number, log I",
                ours=ours[1],
                baseline=float(scipy_failed[1].mean()),
                value=ours[1],
                at_most=0.0,
            ),
            claim.bar(
                "share without a number, log K",
                ours=ours[-1],
                baseline=float(scipy_failed[-1].mean()),
                value=ours[-1],
                at_most=0.0,
            ),
            claim.bar(
                "largest error in units of rounding, log I",
                ours=worst[1],
                baseline=1.0,
                value=worst[1],
                at_most=8.0,
            ),
            claim.bar(
                "largest error in units of rounding, log K",
                ours=worst[-1],
                baseline=1.0,
                value=worst[-1],
                at_most=8.0,
            ),
        ],
        seeds=[0],
        notes=f"mpmath at its default precision gives up on {gave_up[1]:.1%} (I) and {gave_up[-1]:.1%} (K) "
        "of every fifth point.",
        figure=figure,
    )


def claim_von_mises_fisher_fits_at_32768_dimensions(claim) -> None:
    """Fit samples at growing dimension, where SciPy's fit returns a concentration of zero."""
    errors, residuals, steps, theirs = [], [], [], []
    dimensions = [64, 512, 2048, 8192, 32768]
    for p in dimensions:
        generator = torch.Generator().manual_seed(p)
        mu = torch.nn.functional.normalize(torch.randn(p, dtype=torch.float64, generator=generator), dim=0)
        kappa = 0.8 * p
        x = VonMisesFisher(mu, kappa).rsample((400,), generator=generator)
        fit = fit_vmf(x)
        length = x.mean(0).norm()
        errors.append(abs(fit.concentration.item() / kappa - 1))
        residuals.append(abs((iv_ratio(p / 2 - 1, fit.concentration) - length).item()))
        steps.append(fit.iterations)
        with np.errstate(all="ignore"):  # its Bessel functions underflow
            found = scipy.stats.vonmises_fisher.fit(x.numpy())[1] if p <= 8192 else math.nan
        theirs.append(abs(float(found) / kappa - 1))
    claim(
        sentence="A von Mises-Fisher distribution is fitted in dimensions where the Bessel function itself "
        "has no value",
        paper=PAPER,
        published="fits 2048-, 8192- and 32768-dimensional features where SciPy and mpmath fail",
        setup="400 samples of concentration 0.8 p in p = 64, 512, 2048, 8192 and 32768 dimensions, drawn by "
        "our sampler, one seed each",
        baseline="scipy.stats.vonmises_fisher.fit on the same samples, p up to 8192",
        bars=[
            claim.bar(
                "largest relative error of the concentration",
                ours=max(errors),
                baseline=float(np.nanmax(theirs)),
                value=max(errors),
                at_most=0.05,
            ),
            claim.bar(
                "largest residual of the likelihood equation",
                ours=max(residuals),
                baseline=0.0,
                value=max(residuals),
                at_most=1e-12,
            ),
            claim.bar("most Newton steps", ours=max(steps), baseline=25, value=max(steps), at_most=5),
        ],
        seeds=dimensions,
        notes="SciPy's relative error by dimension: "
        + ", ".join(
            f"{p}: {error:.2g}" for p, error in zip(dimensions, theirs, strict=True) if not math.isnan(error)
        )
        + ".",
    )
