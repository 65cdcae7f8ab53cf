r"""Regression with Huber's loss: squares for small residuals, absolute values for large ones.

Minimises $\sum_i w_i \rho_\delta(a_i x - b_i)$ with $\rho_\delta(r) = r^2/2$ for $|r| \le \delta$ and
$\delta |r| - \delta^2/2$ beyond: nearly as precise as least squares on clean data, and no residual pulls
harder than one of size $\delta$. As $\delta$ grows it becomes least squares; as it falls, cost over $\delta$
becomes the sum of absolute values. With a robust estimate of the noise's scale $\sigma$,
$\delta = 1.345\, \sigma$ is 95 % as efficient as least squares under normal noise.

The dual is a quadratic programme over a box, solved by an interior point method; Newton's step on the
quadratic piece that it ends on makes the answer exact.

References:
    P. J. Huber, "Robust estimation of a location parameter", 1964.

Axis letters: n rows, d columns, c right-hand sides.
"""

from torch import Tensor

from lemmata.sketching.lp.interior_point import Iterate, interior_point, land_on_piece
from lemmata.sketching.lp.losses import HuberLoss
from lemmata.sketching.lp.problem import pose
from lemmata.sketching.lp.regression import LpResult, check_stops, finish

__all__ = ["huber_regression"]


def huber_regression(
    A: Tensor,
    b: Tensor,
    delta: float,
    weights: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int = 200,
    x0: Tensor | None = None,
    rcond: float | None = None,
) -> LpResult:
    r"""Minimise $\sum_i w_i \rho_\delta(a_i x - b_i)$.

    Equals `scipy.optimize.least_squares(loss="huber", f_scale=delta)`, whose cost it shares. scikit-learn's
    `HuberRegressor` is another estimator: it fits the scale along with the coefficients.

    Args:
        A: Matrix, (n, d), float32 or float64, dense, n >= d.
        b: Right-hand sides, (n,) or (n, c).
        delta: Where squares end, in the unit of `b`, positive.
        weights: Weights of the losses, (n,), not negative: 2 is the row twice.
        tol: Gap relative to the cost at which to stop.
        max_iter: Most steps.
        x0: Initial coefficients; those of least squares by default.
        rcond: Singular values of `A` that count as zero, as for `lp_regression`.

    Raises:
        TypeError: Where an argument is not a tensor of floats.
        ValueError: Where `delta` or a tolerance is out of range, shapes do not fit, `A` has more columns than
            rows, a weight is negative or an entry not finite.

    Examples:
        >>> import torch
        >>> fit = huber_regression(torch.ones(4, 1), torch.tensor([0.0, 1.0, 2.0, 300.0]), delta=1.5)
        >>> fit.x  # (0 + 1 + 2 + 1.5) / 3: the outlier pulls with 1.5
        tensor([1.5000])
        >>> round(fit.cost.item(), 4)
        448.0
    """
    loss = HuberLoss(float(delta))
    check_stops(tol, max_iter)
    problem = pose(A, b, weights, 0.5, rcond, x0)

    def solve(Q: Tensor, right: Tensor, z: Tensor, box: Tensor) -> list[Iterate]:
        found = [interior_point(Q, right, box, z, kappa=1.0, tol=tol, max_iter=max_iter)]
        found.append(land_on_piece(Q, right, box, found[0]))
        found.append(land_on_piece(Q, right, box, found[1]))
        return found

    return finish(problem, loss, solve, tol=tol, like=b, x0=x0)
