r"""Regression in the $l_p$ norm, $1 \le p < \infty$, with a certificate of how good the answer is.

Minimises $\sum_i w_i |a_i x - b_i|^p$: p = 1 is median regression, which gross errors in $b$ hardly move;
p = 2 is least squares; large p approaches the smallest largest residual. Every answer carries its duality
gap, the distance to a bound that no coefficients get below: with $1/p + 1/q = 1$,

$$\min_x \|A x - b\|_p = \max \{ b^\top y : A^\top y = 0, \; \|y\|_q \le 1 \} .$$

For p = 1 the solver is an interior point method that ends on a vertex, for p = 2 an orthogonal factorisation,
else Newton's method, smoothed below 2.

Axis letters: n rows, d columns, c right-hand sides.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.bound import log_size
from lemmata.sketching.lp.interior_point import Iterate, interior_point, land_on_vertex
from lemmata.sketching.lp.losses import HuberLoss, PowerLoss
from lemmata.sketching.lp.newton import newton_above_two, newton_below_two
from lemmata.sketching.lp.problem import Problem, pose

__all__ = ["LpResult", "check_stops", "finish", "lp_regression"]

CONVERGED, STOPPED = "converged", "not converged"

Solver = Callable[[Tensor, Tensor, Tensor, Tensor], list[Iterate]]


@dataclass(frozen=True, eq=False)
class LpResult:
    """A regression and its certificate.

    Args:
        x: Coefficients, (d,) or (d, c), in the type of the data.
        cost: The sum of weighted losses at this `x`, () or (c,), float64.
        gap: `cost` less a lower bound of what any coefficients cost, () or (c,), float64. Rounding is part of
            it: the bound holds for the data as they are stored.
        iterations: Steps taken, of the slowest right-hand side.
        status: "converged" where every right-hand side's gap is at most the tolerance times its cost, or its
            residuals are zero to rounding; else "not converged".
        rank: Rank of the matrix.
    """

    x: Float[Tensor, "..."]
    cost: Float[Tensor, "..."]
    gap: Float[Tensor, "..."]
    iterations: int
    status: str
    rank: int

    @property
    def converged(self) -> bool:
        """Whether the answer is as good as was asked for."""
        return self.status == CONVERGED


def lp_regression(
    A: Tensor,
    b: Tensor,
    p: float,
    weights: Tensor | None = None,
    method: str = "auto",
    *,
    tol: float = 1e-10,
    max_iter: int = 200,
    x0: Tensor | None = None,
    rcond: float | None = None,
) -> LpResult:
    r"""Minimise $\sum_i w_i |a_i x - b_i|^p$.

    For p = 1 equals `scipy.optimize.linprog` on the programme of least absolute values, scikit-learn's
    `QuantileRegressor(quantile=0.5, alpha=0)`.

    Where `A` has not full rank, of all best x that of least Euclidean norm with the fit found.
    Computes in float64, whatever the type of the data.

    Args:
        A: Matrix, (n, d), float32 or float64, dense, n >= d.
        b: Right-hand sides, (n,) or (n, c); columns are solved one by one on one factorisation.
        p: Exponent, in [1, inf). Beyond a few hundred floating point numbers run out of range, which
            `status` then tells.
        weights: Weights of the losses, (n,), not negative: 2 is the row twice.
        method: "auto", or for p = 1 "interior_point" (as auto) or "highs", SciPy's simplex and interior point
            methods on the dual programme, on the CPU.
        tol: Gap relative to the cost at which to stop.
        max_iter: Most steps.
        x0: Initial coefficients; those of least squares by default.
        rcond: Singular values of `A`, with columns scaled to one length, that count as zero, relative to the
            largest. Machine epsilon of the data's type times n by default.

    Raises:
        TypeError: Where an argument is not a tensor of floats.
        ValueError: Where `p`, `method` or a tolerance is out of range, shapes do not fit, `A` has more
            columns than rows, a weight is negative or an entry not finite.

    Examples:
        >>> A = torch.stack((torch.ones(5), torch.arange(5.0)), 1)
        >>> fit = lp_regression(A, torch.tensor([1.0, 3.0, 5.0, 7.0, 900.0]), p=1)  # one gross error
        >>> fit.x
        tensor([1., 2.])
        >>> fit.status, bool(fit.gap <= 1e-10 * fit.cost)
        ('converged', True)
    """
    loss = PowerLoss(float(p))
    if method not in ("auto", "interior_point", "highs"):
        raise ValueError(f'`method` (="{method}") must be one of "auto", "interior_point" and "highs"')
    if method != "auto" and p != 1:
        raise ValueError(f'`method` (="{method}") is for p = 1, not p = {p}: use "auto"')
    check_stops(tol, max_iter)
    problem = pose(A, b, weights, 1 / loss.p, rcond, x0)

    def solve(Q: Tensor, right: Tensor, z: Tensor, box: Tensor) -> list[Iterate]:
        if loss.p == 1:
            inside = (
                _highs(Q, right, z)
                if method == "highs"
                else interior_point(Q, right, box, z, kappa=0.0, tol=tol, max_iter=max_iter)
            )
            return [inside, land_on_vertex(Q, right, box, inside)]
        newton = newton_below_two if loss.p < 2 else newton_above_two
        return [newton(Q, right, z, loss.p, tol=tol, max_iter=max_iter)]

    return finish(problem, loss, solve, tol=tol, like=b, x0=x0)


def finish(
    problem: Problem,
    loss: PowerLoss | HuberLoss,
    solve: Solver,
    *,
    tol: float,
    like: Tensor,
    x0: Tensor | None,
) -> LpResult:
    """Solve every right-hand side, and keep of each the coefficients of least cost and the largest bound."""
    start = None if x0 is None else x0.double().reshape(len(x0), -1)
    solved = [
        _solve_column(problem, loss, solve, problem.b[:, j], tol, None if start is None else start[:, j])
        for j in range(problem.b.shape[1])
    ]
    columns = torch.stack([column.x for column in solved], 1) if solved else problem.back[:, :0]
    x = columns.to(like.dtype)
    # Costs and bounds are compared in the unit of a column's largest residual: high powers leave the range.
    unit = columns.new_tensor([column.unit for column in solved])
    bound = columns.new_tensor([column.bound for column in solved])
    residual = (problem.b - problem.A @ x.double()) / unit
    losses = [
        problem.weights @ loss.relative_to(column.unit).value(residual[:, j])
        for j, column in enumerate(solved)
    ]
    cost = torch.stack(losses) if solved else unit
    gap = (cost - bound).clamp(min=0)
    factor = problem.mean_weight * unit ** (2 if isinstance(loss, HuberLoss) else loss.p)
    shape = like.shape[1:]
    return LpResult(
        x=x.reshape(len(x), *shape),
        cost=torch.where(cost > 0, cost * factor, 0.0).reshape(shape),
        gap=torch.where(gap > 0, gap * factor, 0.0).reshape(shape),
        iterations=max((column.iterations for column in solved), default=0),
        status=CONVERGED if all(column.converged for column in solved) else STOPPED,
        rank=problem.rank,
    )


def check_stops(tol: float, max_iter: int) -> None:
    """Raise where a stopping rule is out of range."""
    if not 0 < tol < 1:
        raise ValueError(f"`tol` (={tol}) must lie in (0, 1)")
    if max_iter < 1:
        raise ValueError(f"`max_iter` (={max_iter}) must be at least 1")


@dataclass(frozen=True, eq=False)
class _Column:
    """The answer for one right-hand side; `bound` is in powers of `unit`."""

    x: Tensor
    unit: float
    bound: float
    iterations: int
    converged: bool


def _solve_column(
    problem: Problem,
    loss: PowerLoss | HuberLoss,
    solve: Solver,
    b: Tensor,
    tol: float,
    x0: Tensor | None,
) -> _Column:
    Q, right = problem.Q, problem.scale * b
    z = Q.mT @ right
    z = z + Q.mT @ (right - Q @ z)
    r = right - Q @ z
    # What is left of an exact fit is rounding, row by row.
    noise = right.abs() + torch.linalg.vector_norm(Q, dim=1) * torch.linalg.vector_norm(z)
    exact = bool((r.abs() <= 64 * torch.finfo(r.dtype).eps * noise).all())
    unit = r.abs().amax().item() or 1.0
    right, z, r, loss = right / unit, z / unit, r / unit, loss.relative_to(unit)
    box = problem.scale * loss.delta if isinstance(loss, HuberLoss) else torch.ones_like(right)
    found = [Iterate(z, _slope(loss, r, box), 0)]
    costs, bounds = _judge(problem, loss, right, box, found)
    if not exact and not costs[0] - bounds[0] <= tol * costs[0]:
        begin = z if x0 is None else Q.mT @ (problem.scale * (problem.A @ x0)) / unit
        found += [iterate for iterate in solve(Q, right, begin, box) if bool(torch.isfinite(iterate.z).all())]
        costs, bounds = _judge(problem, loss, right, box, found)
    # Among equals up to rounding the last, which is a vertex where there are several.
    least = max(i for i, cost in enumerate(costs) if cost <= min(costs) * (1 + 1e-14))
    return _Column(
        x=unit * (problem.back @ found[least].z),
        unit=unit,
        bound=max(bounds),
        iterations=max(iterate.iterations for iterate in found),
        converged=exact or costs[least] - max(bounds) <= tol * costs[least],
    )


def _slope(loss: PowerLoss | HuberLoss, r: Tensor, box: Tensor) -> Tensor:
    """Return the derivative of the loss of scaled rows, which is dual feasible at the minimum."""
    if isinstance(loss, HuberLoss):
        return torch.maximum(torch.minimum(r, box), -box)
    return torch.sign(r) * r.abs() ** (loss.p - 1)


def _judge(
    problem: Problem, loss: PowerLoss | HuberLoss, right: Tensor, box: Tensor, iterates: list[Iterate]
) -> tuple[list[float], list[float]]:
    """Return costs and lower bounds of iterates, rounding of the dual vectors' orthogonality paid for."""
    Q = problem.Q
    costs, bounds = [], []
    for iterate in iterates:
        r = right - Q @ iterate.z
        cost = (problem.weights * loss.value(r / problem.scale)).sum()
        y = iterate.y - Q @ (Q.mT @ iterate.y)
        linear = (r * y).sum() - _rest(problem, loss, Q.mT @ y) * loss.radius(cost, len(r))
        peak = (y / box).abs().amax() * loss.delta if isinstance(loss, HuberLoss) else y.abs().amax()
        size = log_size(y[None], torch.ones_like(y), loss.dual_exponent)[0]
        bound = loss.dual_value(linear, size, peak)
        costs.append(cost.item() if bool(torch.isfinite(cost)) else torch.inf)
        bounds.append(bound.item() if bool(torch.isfinite(bound)) else 0.0)
    return costs, bounds


def _rest(problem: Problem, loss: PowerLoss | HuberLoss, slack: Tensor) -> Tensor:
    """Return the length of what orthogonality lacks, in the norm dual to that of the loss's radius."""
    if isinstance(loss, PowerLoss):
        length: Tensor = torch.linalg.vector_norm(slack)
        return length
    # The radius is stated in the weights min(w, w^2); the basis has w in it already.
    gram = problem.Q.mT @ (problem.weights.clamp(max=1)[:, None] * problem.Q)
    square: Tensor = slack @ torch.linalg.solve(gram, slack)
    return square.clamp(min=0).sqrt()


def _highs(Q: Tensor, b: Tensor, z: Tensor) -> Iterate:
    """Solve the dual programme of least absolute values with HiGHS."""
    from scipy.optimize import linprog

    columns = Q.shape[1]
    found = linprog(
        -b.cpu().numpy(), A_eq=Q.mT.cpu().numpy(), b_eq=[0.0] * columns, bounds=(-1, 1), method="highs"
    )
    if found.x is None:
        return Iterate(z, torch.zeros_like(b), 0)
    dual = torch.as_tensor(found.x, dtype=b.dtype, device=b.device)
    primal = -torch.as_tensor(found.eqlin.marginals, dtype=b.dtype, device=b.device)
    return Iterate(primal, dual, int(found.nit))
