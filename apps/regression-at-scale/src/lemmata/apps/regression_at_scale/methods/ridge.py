r"""Ridge regression for every penalty from one decomposition, and its choice by cross-validation.

With $B = A R^{-1}$, $G = B^\top B$ and $\beta = R^{-1} z$, the penalised problem

$$\min_z\ \lVert B z - b \rVert^2 + \lambda \lVert P^{1/2} R^{-1} z \rVert^2$$

is diagonal in the singular vectors of $P^{1/2} R^{-1} G^{-1/2}$: with its squared singular values $\kappa$,
the component $i$ of the least-squares solution shrinks by $1 / (1 + \lambda \kappa_i)$. $P$ is diagonal: 0
for the intercept, 1 for a feature, or its variance where features count as standardised. Directions that the
rows do not see take the values of least penalty. Leaving a fold out subtracts its Gram matrix, so
cross-validation over all penalties needs no further pass over the rows.

Axis letters: d features, c targets, r rank, k folds, l penalties.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.apps.regression_at_scale.methods.least_squares import GramSums
from lemmata.sketching.least_squares import Preconditioner

__all__ = ["RidgeCurve", "RidgePath", "cross_validate", "ridge_path"]

_PER_DECADE = 6
_MOST = 200
_SINGULAR = 1e-12  # eigenvalues of a Gram matrix that is about the identity; below it a direction is unseen


@dataclass(frozen=True)
class RidgePath:
    r"""Solutions for every penalty.

    Args:
        preconditioner: What the coordinates belong to.
        to_coordinates: From shrunken components to $z$, shape (r, r').
        components: Least-squares solution in these components, shape (r', c).
        kappa: How strongly each is penalised, shape (r',).
        least: From coefficients to the part that can be had without changing a fitted value, by the penalty;
            shape (d, d), None where there is no such part.
    """

    preconditioner: Preconditioner
    to_coordinates: Float[Tensor, "r s"]
    components: Float[Tensor, "s c"]
    kappa: Float[Tensor, " s"]
    least: Float[Tensor, "d d"] | None = None

    def coordinates(self, ridge: float) -> Float[Tensor, "r c"]:
        """Return the solution in preconditioned coordinates.

        Args:
            ridge: Penalty.

        Returns:
            The coordinates z.
        """
        return self.to_coordinates @ (self._shrinkage(ridge)[:, None] * self.components)

    def coefficients(self, ridge: float) -> Float[Tensor, "d c"]:
        """Return the solution.

        Args:
            ridge: Penalty.

        Returns:
            Coefficients of the features.
        """
        return self._lift(self.coordinates(ridge), ridge)

    def covariance_factor(self, ridge: float) -> Float[Tensor, "d s"]:
        r"""Return T such that the coefficients' covariance is $T T^\top$ times the residuals' variance.

        Args:
            ridge: Penalty.

        Returns:
            The factor T.
        """
        return self._lift(self.to_coordinates * self._shrinkage(ridge), ridge)

    def degrees_of_freedom(self, ridge: float) -> float:
        """Return the trace of the matrix that takes targets to fitted values.

        Args:
            ridge: Penalty.

        Returns:
            The rank where there is no penalty, less where there is.
        """
        return float(self._shrinkage(ridge).sum())

    def grid(self) -> Float[Tensor, " l"]:
        """Return 0, and penalties from where nothing shrinks to where all does, even on a log scale."""
        seen = self.kappa[self.kappa > 1e-20 * self.kappa.max()] if len(self.kappa) else self.kappa
        if not len(seen) or not float(seen.max()) > 0:
            return self.kappa.new_zeros(1)
        low, high = -2 - math.log10(float(seen.max())), 2 - math.log10(float(seen.min()))
        count = min(_MOST, math.ceil((high - low) * _PER_DECADE) + 1)
        return torch.cat(
            (seen.new_zeros(1), torch.logspace(low, high, count, dtype=seen.dtype, device=seen.device))
        )

    def _shrinkage(self, ridge: float) -> Tensor:
        return 1 / (1 + ridge * self.kappa)

    def _lift(self, coordinates: Tensor, ridge: float) -> Tensor:
        coefficients = self.preconditioner.solve(coordinates)
        if self.least is None or not ridge:
            return coefficients
        return coefficients - self.least @ coefficients


def ridge_path(
    preconditioner: Preconditioner,
    gram: Float[Tensor, "r r"],
    cross: Float[Tensor, "r c"],
    penalty: Float[Tensor, " d"],
) -> RidgePath:
    """Decompose a penalised problem.

    Args:
        preconditioner: What the sums were made with.
        gram: Gram matrix of the rows in preconditioned coordinates.
        cross: Products of the rows with the targets.
        penalty: Weight of each squared coefficient, not negative.

    Returns:
        The solutions for every penalty.

    Examples:
        >>> a = torch.eye(2, dtype=torch.float64)
        >>> basis = Preconditioner.from_sketch(a, n=2)
        >>> b = basis.right(a)
        >>> path = ridge_path(basis, b.T @ b, b.T @ a[:, :1], torch.ones(2, dtype=torch.float64))
        >>> path.coefficients(1.0).T
        tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    seen = eigenvalues > _SINGULAR * eigenvalues.max() if len(eigenvalues) else eigenvalues > 0
    scale = eigenvalues[seen].rsqrt()
    inside, outside = vectors[:, seen], vectors[:, ~seen]
    root = penalty.sqrt()[:, None]
    unseen = torch.cat((preconditioner.solve(outside), preconditioner.null), 1)
    penalised = root * preconditioner.solve(inside)
    if unseen.shape[1]:
        inverse = torch.linalg.pinv(root * unseen)
        inside = inside - outside @ (inverse[: outside.shape[1]] @ penalised)
        penalised = penalised - (root * unseen) @ (inverse @ penalised)
    _, sigma, vh = torch.linalg.svd(penalised * scale, full_matrices=False)
    rotated = vh @ (scale[:, None] * (vectors[:, seen].T @ cross))
    null, least = preconditioner.null, None
    if null.shape[1]:
        least = null @ (torch.linalg.pinv(root * null) * root.T)
    return RidgePath(preconditioner, (inside * scale) @ vh.T, rotated, sigma.square(), least)


@dataclass(frozen=True)
class RidgeCurve:
    """What cross-validation found.

    Args:
        ridges: Penalties, rising, the first 0.
        errors: Mean squared error on left-out rows over the target's variance, averaged over targets and
            folds.
        standard_errors: Of these averages over folds.
        best: Place of the least error.
        chosen: Place of the penalty chosen.
    """

    ridges: Float[Tensor, " l"]
    errors: Float[Tensor, " l"]
    standard_errors: Float[Tensor, " l"]
    best: int
    chosen: int

    @property
    def ridge(self) -> float:
        """The penalty chosen."""
        return float(self.ridges[self.chosen])


def cross_validate(
    preconditioner: Preconditioner,
    sums: GramSums,
    penalty: Float[Tensor, " d"],
    variance: Float[Tensor, " c"],
    *,
    one_standard_error: bool = False,
) -> RidgeCurve:
    """Choose the penalty that predicts left-out folds best.

    Args:
        preconditioner: What the sums were made with.
        sums: Sums over each fold.
        penalty: Weight of each squared coefficient.
        variance: Variance of each target.
        one_standard_error: Take the largest penalty whose error is within one standard error of the least.

    Returns:
        The curve and the choice.

    Raises:
        ValueError: Where there are fewer than two folds, or one without rows.
    """
    folds = len(sums.grams)
    if folds < 2 or not bool((sums.weights > 0).all()):
        raise ValueError(f"`folds` (={folds}) must be at least 2, each with rows of positive weight")
    gram = sums.gram
    ridges = ridge_path(preconditioner, gram, sums.cross(), penalty).grid()
    errors = torch.empty((folds, len(ridges)), dtype=gram.dtype)
    for fold in range(folds):
        path = ridge_path(preconditioner, gram - sums.grams[fold], sums.cross(fold), penalty)
        for place, ridge in enumerate(ridges.tolist()):
            squares = sums.squares(path.coordinates(ridge), fold)
            errors[fold, place] = (squares / sums.weights[fold] / variance).mean()
    mean, spread = errors.mean(0), errors.std(0) / math.sqrt(folds)
    best = chosen = int(mean.argmin())
    if one_standard_error:
        chosen = int((mean <= mean[best] + spread[best]).nonzero().max())
    return RidgeCurve(ridges, mean, spread, best, chosen)
