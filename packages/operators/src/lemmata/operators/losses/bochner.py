"""Norms of trajectories: functions of time with values in a space of fields."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lemmata.operators.losses.errors import check_exponent, real_field, root

__all__ = ["BochnerNorm", "bochner_norm"]


def bochner_norm(
    u: Shaped[Tensor, "..."],
    space_norm: Callable[[Tensor], Tensor],
    dt: float | Shaped[Tensor, "..."],
    p: float = 2.0,
    *,
    time_axis: int = 2,
) -> Float[Tensor, " batch"]:
    """Return each trajectory's norm `(int_0^T ||u(t)||^p dt)^(1/p)`, by the trapezoidal rule.

    Args:
        u: Trajectories `(batch, channels, time, *grid)`, functions of time with values in a space `X`.
        space_norm: Norm of `X`: fields `(n, channels, *grid)` to `(n,)`, such as `SobolevNorm`.
        dt: Time between frames, or the `time - 1` times between them.
        p: Exponent, at least 1; `math.inf` is the largest over the frames.
        time_axis: Axis of time.

    Returns:
        One norm a trajectory.

    Raises:
        ValueError: Where `p`, `dt` or the time axis do not fit, or there are fewer than two frames.
        TypeError: Where trajectories are not real.

    Examples:
        >>> from lemmata.operators.losses import lp_norm
        >>> u = torch.ones(1, 1, 5, 4)  # five frames of a constant of L^2 norm 2, over a time of 4 * 0.25
        >>> bochner_norm(u, lp_norm, dt=0.25)
        tensor([2.])
    """
    check_exponent(p)
    u = real_field(u, "u", least=3)
    if not -u.ndim <= time_axis < u.ndim or time_axis % u.ndim < 2:
        raise ValueError(
            f"`time_axis` (={time_axis}) must name an axis after batch and channels of {u.ndim} axes"
        )
    batch, frames = len(u), u.shape[time_axis]
    weights = _time_weights(dt, frames).to(u)
    stacked = u.movedim(time_axis, 1)
    norms = space_norm(stacked.flatten(0, 1)).reshape(batch, frames)
    if p == math.inf:
        return norms.amax(1)
    return root((norms.pow(p) * weights).sum(1), p)


class BochnerNorm(nn.Module):
    """Norm of each trajectory in space and time: `bochner_norm` as a module.

    Args:
        space_norm: Norm of the fields: `(n, channels, *grid)` to `(n,)`.
        dt: Time between frames, or the `time - 1` times between them.
        p: Exponent in time, at least 1, or `math.inf`.
        time_axis: Axis of time.

    Raises:
        ValueError: Where `p` or `dt` does not fit.

    Examples:
        >>> from lemmata.operators.losses import SobolevNorm
        >>> norm = BochnerNorm(SobolevNorm(-1, (1.0, 1.0)), dt=0.1)
        >>> norm(torch.randn(4, 1, 10, 16, 16)).shape
        torch.Size([4])
    """

    dt: float | Tensor

    def __init__(
        self,
        space_norm: Callable[[Tensor], Tensor],
        dt: float | Shaped[Tensor, "..."],
        p: float = 2.0,
        *,
        time_axis: int = 2,
    ) -> None:
        super().__init__()
        check_exponent(p)
        self.space_norm = space_norm
        self.p = p
        self.time_axis = time_axis
        if isinstance(dt, Tensor):
            if dt.ndim != 1 or not bool((dt > 0).all()):
                raise ValueError(
                    f"`dt` must be positive, one step after another, got shape {tuple(dt.shape)}"
                )
            self.register_buffer("dt", dt, persistent=False)
        else:
            self.dt = _positive_step(dt)

    def forward(self, u: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return one norm a trajectory; see `bochner_norm`.

        Args:
            u: Trajectories `(batch, channels, time, *grid)`.

        Returns:
            Norms `(batch,)`.
        """
        return bochner_norm(u, self.space_norm, self.dt, self.p, time_axis=self.time_axis)

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"p={self.p:g}, time_axis={self.time_axis}"


def _time_weights(dt: float | Tensor, frames: int) -> Float[Tensor, " frames"]:
    """Return the trapezoidal weights of frames."""
    if frames < 2:
        raise ValueError(f"a norm over time needs at least 2 frames, got {frames}")
    if not isinstance(dt, Tensor):
        dt = torch.full((frames - 1,), _positive_step(dt), dtype=torch.float64)
    if dt.shape != (frames - 1,):
        expected = f"a number or {frames - 1} steps between {frames} frames"
        raise ValueError(f"`dt` must be {expected}, got shape {tuple(dt.shape)}")
    return 0.5 * (nn.functional.pad(dt, (0, 1)) + nn.functional.pad(dt, (1, 0)))


def _positive_step(dt: float) -> float:
    """Return a time step, or raise `ValueError`."""
    if not 0 < dt < math.inf:
        raise ValueError(f"`dt` (={dt}) must be positive and finite")
    return float(dt)
