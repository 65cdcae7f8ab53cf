r"""An exact step for least absolute values from one pass: rows far from the fit are folded into one.

At coefficients $x$ near the best, most residuals keep their sign on the way there. By the triangle inequality

$$\sum_{i \in F} w_i |r_i - a_i z|
\ge \Big| \sum_{i \in F} w_i |r_i| - \Big( \sum_{i \in F} w_i s_i a_i \Big) z \Big| ,
\quad s_i = \operatorname{sign} r_i ,$$

so the rows of a set F, folded into one row, never cost more than they do, for any step $z$, and just as
much while their signs hold. The rows most likely to change theirs, those with the smallest
$|r_i| / \|a_i\|$, are kept as they are. A regression on the kept rows and the folded one fits in memory; its
duality bound is a lower bound for all rows, and where no sign changes, its answer is the answer, exactly.

This is a finish: it wants `keep` to hold the rows that change sign, a share of all that falls with the
distance to the best coefficients. Farther away Newton's steps (`NewtonSums`) come first, on the same passes.
Where too few rows are kept the bound is still one, but low, and the step may be too long: take it only if the
cost falls.

References:
    S. Portnoy, R. Koenker, "The Gaussian hare and the Laplacian tortoise: computability of squared-error
    versus absolute-error estimators", 1997: rows known by their sign are folded, and checked afterwards.

Axis letters: n rows of a chunk, r columns, k rows kept.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.sketching.lp.regression import LpResult, lp_regression

__all__ = ["FoldedRows", "FoldedStep"]


@dataclass(frozen=True, eq=False)
class FoldedStep:
    """A step to better coefficients, and what all coefficients cost at least.

    Args:
        step: To add to the coefficients, in the coordinates of the rows.
        lower_bound: A number that no coefficients cost less than.
        fit: The regression on the kept rows and the folded one.
    """

    step: Float[Tensor, " r"]
    lower_bound: Float[Tensor, ""]
    fit: LpResult


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """Rows of a regression in absolute values at given coefficients, most of them folded into one.

    Args:
        keep: Most rows to keep as they are.
        rows: The kept rows, times their weights.
        residual: Their residuals, times their weights.
        nearness: |r| / ||a|| of the kept rows, which is what they are chosen by.
        folded: The folded row.
        folded_residual: Its residual.
        cost: Weighted absolute residuals of all rows.

    Examples:
        >>> a, b = torch.ones(1001, 1), torch.arange(1001.0)
        >>> folded = FoldedRows.partial(a[:600], b[:600] - 490, keep=50)  # residuals at x = 490
        >>> folded += FoldedRows.partial(a[600:], b[600:] - 490, keep=50)
        >>> found = folded.solve()
        >>> found.step, found.lower_bound  # the median is 500
        (tensor([10.], dtype=torch.float64), tensor(250500.0000, dtype=torch.float64))
    """

    keep: int
    rows: Float[Tensor, "k r"]
    residual: Float[Tensor, " k"]
    nearness: Float[Tensor, " k"]
    folded: Float[Tensor, " r"]
    folded_residual: Float[Tensor, ""]
    cost: Float[Tensor, ""]

    @classmethod
    def partial(
        cls,
        basis: Float[Tensor, "n r"],
        residual: Float[Tensor, " n"],
        weights: Float[Tensor, " n"] | None = None,
        *,
        keep: int,
    ) -> "FoldedRows":
        """Fold the rows of a chunk.

        Args:
            basis: Rows of the matrix, best in well conditioned coordinates.
            residual: b - A x of these rows.
            weights: Weights of their losses, not negative; 1 by default.
            keep: Most rows to keep, at least 1; the bound is exact if every row is kept whose sign changes
                on the way to the best coefficients.

        Raises:
            ValueError: Where `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"`keep` (={keep}) must be at least 1")
        a, r = basis.double(), residual.double()
        length = torch.linalg.vector_norm(a, dim=1)
        nearness = torch.where(length > 0, r.abs() / length, torch.inf)
        if weights is not None:
            a, r = weights.double()[:, None] * a, weights.double() * r
            nearness = torch.where(weights > 0, nearness, torch.inf)
        nothing = a.new_zeros(())
        return _fold(cls(keep, a, r, nearness, a.new_zeros(a.shape[1]), nothing, r.abs().sum()))

    def __add__(self, other: "FoldedRows") -> "FoldedRows":
        """Return the rows of both sets, folded."""
        if self.keep != other.keep:
            raise ValueError(f"cannot add folded rows with different `keep`: {self.keep} and {other.keep}")
        return _fold(
            FoldedRows(
                self.keep,
                torch.cat((self.rows, other.rows)),
                torch.cat((self.residual, other.residual)),
                torch.cat((self.nearness, other.nearness)),
                self.folded + other.folded,
                self.folded_residual + other.folded_residual,
                self.cost + other.cost,
            )
        )

    def solve(self, *, tol: float = 1e-12, max_iter: int = 200) -> FoldedStep:
        """Solve the regression on the kept rows and the folded one.

        Raises:
            ValueError: Where fewer rows are kept than there are columns.
        """
        A = torch.cat((self.rows, self.folded[None]))
        b = torch.cat((self.residual, self.folded_residual[None]))
        if len(self.rows) < A.shape[1]:
            raise ValueError(
                f"`keep` (={self.keep}): {len(self.rows)} rows for {A.shape[1]} columns are too few"
            )
        fit = lp_regression(A, b, 1.0, tol=tol, max_iter=max_iter)
        return FoldedStep(fit.x, fit.cost - fit.gap, fit)

    def state_dict(self) -> dict[str, object]:
        """Return everything as plain values and tensors, for `torch.save`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, object]) -> "FoldedRows":
        """Return the rows that `state_dict` wrote."""
        return cls(**state)  # type: ignore[arg-type]  # a dictionary of what the fields are


def _fold(all_rows: FoldedRows) -> FoldedRows:
    """Fold all rows but the `keep` nearest."""
    excess = len(all_rows.rows) - all_rows.keep
    if excess <= 0:
        return all_rows
    order = torch.argsort(all_rows.nearness, stable=True)
    near, far = order[: all_rows.keep].sort().values, order[all_rows.keep :]
    return FoldedRows(
        all_rows.keep,
        all_rows.rows[near],
        all_rows.residual[near],
        all_rows.nearness[near],
        all_rows.folded + torch.sign(all_rows.residual[far]) @ all_rows.rows[far],
        all_rows.folded_residual + all_rows.residual[far].abs().sum(),
        all_rows.cost,
    )
