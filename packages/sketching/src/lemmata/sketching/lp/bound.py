r"""Certified improvement of coefficients from sums over rows, for data that are read in passes.

Coefficients $x$ found on a coreset come without a promise. Two passes over all rows give one, and better
coefficients with it:

1. `NewtonSums` adds up, at $x$, the cost, the gradient $g = \sum_i w_i \rho'(r_i)\, a_i$ and a curvature
   $H = \sum_i w_i h_i\, a_i a_i^\top$. Its `steps()` are $z = H^{-1} g$, Newton's.
2. `DualSums` adds up what the vector $\eta_i = \rho'(r_i) - h_i\, a_i z$ says. By Newton's equation
   $A^\top (w \eta) = g - H z = 0$, so it is dual feasible, and `lower_bound` holds for *every* $x$. The same
   pass adds up the cost at $x$ and on the way along the step.

Here $a_i$ is a row in well conditioned coordinates, a row of $A R^{-1}$ (`basis`). For $p < 2$ the loss is
smoothed at several levels $\mu$ at once, since rows with residuals near 0 carry the correction: the best is
about the size of $|a_i (x - x^*)|$, and the gap found is then a small multiple of the true excess. Nothing
depends on the choice but the tightness. $A^\top (w \eta)$ vanishes up to rounding only: what is left of it is
added up too, and paid for in the bound by Cauchy's inequality and a bound on $|x - x^*|$ from the cost.

Rows may come in any chunks and order. Sums are float64.

Axis letters: n rows of a chunk, r columns of the basis, k levels of smoothing (twice as many for Huber's
loss, with two curvatures each), t places along a step.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.losses import HuberLoss, PowerLoss

__all__ = ["PLACES", "DualSums", "NewtonSums", "log_size"]

PLACES = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class NewtonSums:
    """Cost, gradient and curvature of a regression at given coefficients, summed over rows.

    Args:
        loss: The loss.
        levels: Levels of smoothing, in the unit of the residuals; they count for p < 2 only.
        cost: Sum of weighted losses, not smoothed.
        gradient: For each level.
        curvature: For each level.
        gram: Squares of the basis, in the weights in which `loss.radius` is stated.
        rows: Rows of positive weight.

    Examples:
        >>> basis, residual = torch.ones(4, 1), torch.tensor([-1.0, -1.0, 1.0, 5.0])
        >>> sums = NewtonSums.partial(PowerLoss(1.0), basis[:2], residual[:2], levels=(0.1,))
        >>> sums += NewtonSums.partial(PowerLoss(1.0), basis[2:], residual[2:], levels=(0.1,))
        >>> sums.cost
        tensor(8., dtype=torch.float64)
    """

    loss: PowerLoss | HuberLoss
    levels: tuple[float, ...]
    cost: Float[Tensor, ""]
    gradient: Float[Tensor, "k r"]
    curvature: Float[Tensor, "k r r"]
    gram: Float[Tensor, "r r"]
    rows: int

    @classmethod
    def partial(
        cls,
        loss: PowerLoss | HuberLoss,
        basis: Float[Tensor, "n r"],
        residual: Float[Tensor, " n"],
        weights: Float[Tensor, " n"] | None = None,
        *,
        levels: tuple[float, ...] = (0.0,),
    ) -> "NewtonSums":
        """Sum over the rows of a chunk.

        Args:
            loss: The loss.
            basis: Rows of the matrix in well conditioned coordinates.
            residual: b - A x of these rows.
            weights: Weights of their losses, not negative; 1 by default.
            levels: Levels of smoothing, positive where p < 2; the mean absolute residual times 0.3, 0.03
                and 0.003 serve coefficients from a coreset.

        Raises:
            ValueError: Where a level is negative, or 0 although p < 2.
        """
        smooth = isinstance(loss, PowerLoss) and loss.p < 2
        if not levels or min(levels) < 0 or (smooth and min(levels) == 0):
            raise ValueError(f"`levels` (={levels}) must be {'> 0 where p < 2' if smooth else '>= 0'}")
        a, residual, weight = _double(basis, residual, weights)
        gradient, curvature = [], []
        for mu in levels:
            slope = a.mT @ (weight * loss.weights(residual, mu) * residual)
            for h in loss.curvatures(residual, mu):
                gradient.append(slope)
                curvature.append(a.mT @ ((weight * h)[:, None] * a))
        return cls(
            loss=loss,
            levels=levels,
            cost=(weight * loss.value(residual)).sum(),
            gradient=torch.stack(gradient),
            curvature=torch.stack(curvature),
            gram=a.mT @ (loss.radius_weights(weight)[:, None] * a),
            rows=len(a),
        )

    def __add__(self, other: "NewtonSums") -> "NewtonSums":
        """Return the sums over both sets of rows."""
        _check_alike(self, other)
        return NewtonSums(
            self.loss,
            self.levels,
            self.cost + other.cost,
            self.gradient + other.gradient,
            self.curvature + other.curvature,
            self.gram + other.gram,
            self.rows + other.rows,
        )

    def steps(self) -> Float[Tensor, "k r"]:
        r"""Return Newton's step of each level: `x + R^-1 step` lowers the smoothed cost, if not overdone.

        A curvature that is singular (all residuals of a direction beyond Huber's threshold) is inverted where
        it is not.
        """
        values, vectors = torch.linalg.eigh(self.curvature)
        kept = values > values[:, -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
        inverse = torch.where(kept, torch.where(kept, values, 1.0).reciprocal(), 0.0)
        along = inverse * (vectors.mT @ self.gradient[..., None])[..., 0]
        steps: Tensor = vectors @ along[..., None]
        return steps[..., 0]

    def state_dict(self) -> dict[str, object]:
        """Return everything as plain values and tensors, for `torch.save`."""
        return _state(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, object]) -> "NewtonSums":
        """Return the sums that `state_dict` wrote."""
        return cls(**_arguments(state))  # type: ignore[arg-type]  # a dictionary of what the fields are


@dataclass(frozen=True, eq=False)
class DualSums:
    """What dual feasible vectors say about the best cost, and the cost along steps, summed over rows.

    Args:
        loss: The loss.
        linear: Sum of w r eta, for each level.
        log_size: Logarithm of the sum of w |eta|^q, for each level.
        peak: Largest |eta|, for each level.
        slack: Sum of w eta a, zero up to rounding, for each level.
        costs: Cost at x plus `PLACES` times the step, for each level.

    Examples:
        >>> basis, residual = torch.ones(4, 1), torch.tensor([-1.0, -1.0, 1.0, 5.0])
        >>> sums = NewtonSums.partial(PowerLoss(1.0), basis, residual, levels=(1.0, 0.1, 0.01))
        >>> dual = DualSums.partial(sums, basis, residual)
        >>> bool(7.99 < dual.lower_bound(sums) <= 8)  # no median is better
        True
        >>> dual.best()[2]
        8.0
    """

    loss: PowerLoss | HuberLoss
    linear: Float[Tensor, " k"]
    log_size: Float[Tensor, " k"]
    peak: Float[Tensor, " k"]
    slack: Float[Tensor, "k r"]
    costs: Float[Tensor, "k t"]

    @classmethod
    def partial(
        cls,
        newton: NewtonSums,
        basis: Float[Tensor, "n r"],
        residual: Float[Tensor, " n"],
        weights: Float[Tensor, " n"] | None = None,
    ) -> "DualSums":
        """Sum over the rows of a chunk.

        Args:
            newton: The sums of the first pass over all rows, at the same coefficients.
            basis: Rows of the matrix in the same coordinates as there.
            residual: b - A x of these rows.
            weights: Weights of their losses, as there.
        """
        loss = newton.loss
        a, residual, weight = _double(basis, residual, weights)
        steps = newton.steps().to(a)
        moves = a @ steps.mT
        slopes = [(mu, loss.weights(residual, mu) * residual) for mu in newton.levels]
        plans = [(slope, h) for mu, slope in slopes for h in loss.curvatures(residual, mu)]
        eta = torch.stack([slope - h * move for (slope, h), move in zip(plans, moves.mT, strict=True)])
        costs = [[(weight * loss.value(residual - t * move)).sum() for t in PLACES] for move in moves.mT]
        return cls(
            loss=loss,
            linear=eta @ (weight * residual),
            log_size=log_size(eta, weight, loss.dual_exponent),
            peak=eta.abs().amax(1) if len(a) else eta.new_zeros(len(eta)),
            slack=(weight * eta) @ a,
            costs=torch.stack([torch.stack(row) for row in costs]),
        )

    def __add__(self, other: "DualSums") -> "DualSums":
        """Return the sums over both sets of rows."""
        _check_alike(self, other)
        return DualSums(
            self.loss,
            self.linear + other.linear,
            torch.logaddexp(self.log_size, other.log_size),
            torch.maximum(self.peak, other.peak),
            self.slack + other.slack,
            self.costs + other.costs,
        )

    def lower_bound(self, newton: NewtonSums) -> Float[Tensor, ""]:
        """Return a number that no coefficients cost less than, the best of all levels.

        Args:
            newton: The sums of the first pass.
        """
        values, vectors = torch.linalg.eigh(newton.gram)
        floor = values[-1] * len(values) * torch.finfo(values.dtype).eps
        rest = torch.linalg.vector_norm((self.slack @ vectors) / values.clamp(min=floor).sqrt(), dim=1)
        reach = newton.loss.radius(newton.cost, newton.rows)
        rest = torch.where(rest > 0, rest * reach, 0.0)
        return newton.loss.dual_value(self.linear - rest, self.log_size, self.peak).max()

    def best(self) -> tuple[int, float, float]:
        """Return level, place and cost of the best coefficients met: x + place R^-1 steps()[level]."""
        level, place = divmod(int(self.costs.argmin()), len(PLACES))
        return level, PLACES[place], self.costs[level, place].item()

    def state_dict(self) -> dict[str, object]:
        """Return everything as plain values and tensors, for `torch.save`."""
        return _state(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, object]) -> "DualSums":
        """Return the sums that `state_dict` wrote."""
        return cls(**_arguments(state))  # type: ignore[arg-type]  # a dictionary of what the fields are


def log_size(eta: Tensor, weights: Tensor, exponent: float) -> Tensor:
    """Return the logarithm of the sums of weights |eta|^exponent, rows of `eta` one by one."""
    if exponent == torch.inf:  # p = 1: the largest entry says it
        return eta.new_full((len(eta),), -torch.inf)
    return torch.logsumexp(weights.log() + exponent * eta.abs().log(), 1)


def _double(basis: Tensor, residual: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return float64 rows of positive weight."""
    a, residual = basis.double(), residual.double()
    if weights is None:
        return a, residual, a.new_ones(len(a))
    weight = weights.double()
    if bool((weight == 0).any()):
        kept = weight > 0
        return a[kept], residual[kept], weight[kept]
    return a, residual, weight


def _check_alike(a: NewtonSums | DualSums, b: NewtonSums | DualSums) -> None:
    if a.loss != b.loss or getattr(a, "levels", ()) != getattr(b, "levels", ()):
        raise ValueError(f"cannot add sums of different losses or levels: {a.loss} and {b.loss}")


def _state(sums: NewtonSums | DualSums) -> dict[str, object]:
    state = {field.name: getattr(sums, field.name) for field in fields(sums)}
    loss = state.pop("loss")
    return state | {"huber": loss.delta} if isinstance(loss, HuberLoss) else state | {"power": loss.p}


def _arguments(state: dict[str, object]) -> dict[str, object]:
    rest = {name: value for name, value in state.items() if name not in ("huber", "power")}
    if "huber" in state:
        return rest | {"loss": HuberLoss(float(state["huber"]))}  # type: ignore[arg-type]  # written so
    return rest | {"loss": PowerLoss(float(state["power"]))}  # type: ignore[arg-type]  # written so
