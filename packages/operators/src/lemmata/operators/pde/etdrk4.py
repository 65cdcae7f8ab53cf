r"""ETDRK4, the fourth-order exponential Runge-Kutta scheme for stiff equations with a diagonal linear part.

For $\hat u' = L \hat u + N(\hat u)$ with a diagonal $L$ (a Fourier symbol) the scheme treats
$L$ exactly and $N$ by four evaluations a step. It has no step-size limit from diffusion or
dispersion, and costs four evaluations of $N$. Its coefficients lose all digits to cancellation near
$hL = 0$ when computed from their closed formulas; they are computed as contour means instead.

Letters used below: `h` step, `L` symbol, `a b c` stages, `z` points of the contour around `hL`.

References:
    S. M. Cox and P. C. Matthews, Exponential Time Differencing for Stiff Systems, 2002, J. Comput. Phys. 176.
    A.-K. Kassam and L. N. Trefethen, Fourth-Order Time-Stepping for Stiff PDEs, 2005, SIAM J. Sci. Comput.
    26(4), doi:10.1137/S1064827502410633.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Inexact
from torch import Tensor

__all__ = ["etdrk4"]


def etdrk4(
    u_hat: Inexact[Tensor, "*batch_modes"],
    linear: Inexact[Tensor, "*modes"],
    nonlinear: Callable[[Tensor], Tensor],
    dt: float,
    steps: int,
    save_every: int | None = None,
) -> Inexact[Tensor, "*saves_batch_modes"]:
    r"""Advance $\hat u' = L \hat u + N(\hat u)$ by `steps` steps of ETDRK4.

    With $E = e^{hL}$, $E_2 = e^{hL/2}$ and coefficients $Q, f_1, f_2, f_3$,

    $$\begin{aligned}
    a &= E_2 u + Q N(u), \quad b = E_2 u + Q N(a), \quad c = E_2 a + Q (2 N(b) - N(u)), \\
    u' &= E u + f_1 N(u) + 2 f_2 (N(a) + N(b)) + f_3 N(c).
    \end{aligned}$$

    Coefficients are means over 32 points of a circle around each $hL$ that keeps clear of zero, in
    float64; they are kept for the next call with the same `linear` and `dt`.

    Args:
        u_hat: Initial state; its last axes are those of `linear`, all before are batch.
        linear: Diagonal `L`, real or complex, of a shape that broadcasts against the state's last axes. It
            may have eigenvalues of either sign.
        nonlinear: `N`, from a state to a new tensor of the same shape. It is called four times a step.
        dt: Step `h`, in units of time; negative steps go back.
        steps: Number of steps.
        save_every: Keep every `save_every`-th state; only the last where `None`.

    Returns:
        The last state, or kept states `(steps // save_every, *u_hat.shape)`, the last one included and the
        initial one left out.

    Raises:
        TypeError: Where `linear` is complex and the state is real.
        ValueError: Where `dt` is zero or not finite, `steps` is not positive or not a multiple of
            `save_every`, or `linear` does not broadcast.
        FloatingPointError: Where the state ceases to be finite; the error names a step at which it was found.

    Examples:
        >>> decay = torch.tensor([-1000.0, -1.0], dtype=torch.float64)  # u' = L u - u^3, stiff in one entry
        >>> u = etdrk4(torch.ones(2, dtype=torch.float64), decay, lambda u: -(u**3), dt=0.1, steps=10)
        >>> exact = (2 * math.exp(2.0) - 1) ** -0.5  # solves the second entry's equation at time 1
        >>> bool(abs(u[1] - exact) < 1e-5)
        True

    References:
        A.-K. Kassam and L. N. Trefethen, Fourth-Order Time-Stepping for Stiff PDEs, 2005.
    """
    if not (math.isfinite(dt) and dt != 0):
        raise ValueError(f"`dt` (={dt}) must be finite and not zero")
    if steps < 1:
        raise ValueError(f"`steps` (={steps}) must be a positive integer")
    if save_every is not None and (save_every < 1 or steps % save_every):
        raise ValueError(f"`save_every` (={save_every}) must be positive and divide `steps` (={steps})")
    if linear.is_complex() and not u_hat.is_complex():
        raise TypeError(
            f"`linear` is {linear.dtype} but `u_hat` is {u_hat.dtype}; a real state needs a real one"
        )
    if not _broadcasts(linear.shape, u_hat.shape):
        raise ValueError(f"`linear` {tuple(linear.shape)} must broadcast to `u_hat` {tuple(u_hat.shape)}")
    E, E2, Q, f1, f2, f3 = (c.to(u_hat) for c in _coefficients_of(linear, dt))
    Q2 = 2.0 * Q
    saved: list[Tensor] = []
    u = u_hat
    for step in range(1, steps + 1):
        n_u = nonlinear(u)
        half = E2 * u
        a = torch.addcmul(half, Q, n_u)
        n_a = nonlinear(a)
        b = torch.addcmul(half, Q, n_a)
        n_b = nonlinear(b)
        c = torch.addcmul(E2 * a, Q2, torch.sub(n_b, n_u, alpha=0.5))
        n_c = nonlinear(c)
        u = torch.addcmul(E * u, f1, n_u)
        u = torch.addcmul(torch.addcmul(u, f2, n_a + n_b), f3, n_c)  # f2 carries its factor 2
        if step % _CHECKED_EVERY == 0 or step == steps:
            _check_finite(u, step, steps, dt)
        if save_every is not None and step % save_every == 0:
            saved.append(u)
    return u if save_every is None else torch.stack(saved)


def _broadcasts(shape: torch.Size, onto: torch.Size) -> bool:
    """Tell whether a shape broadcasts onto the last axes of another without enlarging it."""
    pairs = zip(reversed(shape), reversed(onto), strict=False)
    return len(shape) <= len(onto) and all(size in {1, other} for size, other in pairs)


_CHECKED_EVERY = 32  # steps; a check reads every entry once and waits for the device


def _check_finite(u: Inexact[Tensor, "..."], step: int, steps: int, dt: float) -> None:
    """Raise where a state is not finite."""
    if not bool(torch.isfinite(u).all()):
        raise FloatingPointError(
            f"the solution blew up: not finite at step {step} of {steps} (dt={dt:.3g}); "
            "a smaller time step or a finer grid is needed"
        )


def _coefficients_of(linear: Inexact[Tensor, "*modes"], dt: float) -> tuple[Inexact[Tensor, "*modes"], ...]:
    """Return `E, E2, Q, f1, 2 f2, f3`, from the cache where the symbol and step were seen before."""
    symbol = linear.detach().cpu().numpy()
    symbol = symbol.astype(np.complex128 if linear.is_complex() else np.float64)
    return _coefficients(symbol.tobytes(), symbol.shape, linear.is_complex(), dt)


@lru_cache(maxsize=32)
def _coefficients(
    symbol: bytes, shape: tuple[int, ...], is_complex: bool, dt: float
) -> tuple[Inexact[Tensor, "*modes"], ...]:
    """Compute `E, E2, Q, f1, 2 f2, f3` by means over a circle around each entry of `hL`.

    The mean over a circle is the value at its centre for an entire function; 32 points leave an error far
    below rounding. Points near zero would bring the cancellation back, so the circle has radius 2 where
    `|hL| < 1.5` and 1 elsewhere: its points are at least 1/2 from zero.
    """
    hL = dt * np.frombuffer(symbol, dtype=np.complex128 if is_complex else np.float64)
    angles = 2.0j * np.pi * (np.arange(32) + 0.5) / 32.0
    radius = np.where(np.abs(hL) < 1.5, 2.0, 1.0)
    z = hL[:, None] + radius[:, None] * np.exp(angles)
    ez = np.exp(z)
    means = [
        dt * ((np.exp(z / 2.0) - 1.0) / z).mean(axis=1),
        dt * ((-4.0 - z + ez * (4.0 - 3.0 * z + z**2)) / z**3).mean(axis=1),
        2.0 * dt * ((2.0 + z + ez * (z - 2.0)) / z**3).mean(axis=1),
        dt * ((-4.0 - 3.0 * z - z**2 + ez * (4.0 - z)) / z**3).mean(axis=1),
    ]
    every: list[npt.NDArray[np.complex128]] = [np.exp(hL), np.exp(hL / 2.0), *means]
    return tuple(torch.from_numpy((c if is_complex else c.real).reshape(shape)) for c in every)
