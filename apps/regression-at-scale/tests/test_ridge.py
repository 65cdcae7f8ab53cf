import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from lemmata.apps.regression_at_scale.encoding.dataset import Rows
from lemmata.apps.regression_at_scale.methods.least_squares import (
    GramPass,
    GramSums,
    Sketched,
    SketchPass,
    default_sketch_rows,
)
from lemmata.apps.regression_at_scale.methods.ridge import cross_validate, ridge_path


def problem(n=300, d=5, c=1, *, seed=0, weights=False, intercept=True, condition=1.0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=g) * torch.logspace(
        0, -math.log10(condition), d, dtype=torch.float64
    )
    x = x + 0.5
    y = (
        x @ torch.randn(d, c, dtype=torch.float64, generator=g)
        + torch.randn(n, c, dtype=torch.float64, generator=g)
        + 3
    )
    w = torch.rand(n, dtype=torch.float64, generator=g) * 2 if weights else None
    if intercept:
        x = torch.cat((x, torch.ones(n, 1, dtype=torch.float64)), 1)
    return x, y, w


def sums_of(x, y, w=None, *, folds=1, seed=0, chunk=64):
    n, d = x.shape
    rows = [
        Rows(i, x[i : i + chunk], y[i : i + chunk], None if w is None else w[i : i + chunk])
        for i in range(0, n, chunk)
    ]

    def fold(task):
        total = task.partial(rows[0])
        for part in rows[1:]:
            total = task.add(total, task.partial(part))
        return total

    sketched = Sketched.from_state(fold(SketchPass(n, default_sketch_rows(d), seed)), rows=n, features=d)
    task = GramPass(sketched.preconditioner, sketched.start, folds, seed)
    return sketched, task, GramSums.from_state(fold(task), sketched)


def path_of(x, y, w=None, penalty=None):
    sketched, _, sums = sums_of(x, y, w)
    if penalty is None:
        penalty = torch.ones(x.shape[1], dtype=torch.float64)
        penalty[-1] = 0
    return ridge_path(sketched.preconditioner, sums.gram, sums.cross(), penalty), sketched, sums


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 10.0, 1e6])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("c", [1, 3])
def test_equals_scikit_learn(alpha, weights, c):
    x, y, w = problem(c=c, weights=weights)
    path, _, _ = path_of(x, y, w)
    found = path.coefficients(alpha)
    oracle = Ridge(alpha=alpha, solver="cholesky").fit(
        x[:, :-1].numpy(), y.numpy(), None if w is None else w.numpy()
    )
    np.testing.assert_allclose(
        found[:-1].T.numpy(), oracle.coef_.reshape(c, -1), rtol=1e-9, atol=1e-11 * np.abs(oracle.coef_).max()
    )
    np.testing.assert_allclose(found[-1].numpy(), np.ravel(oracle.intercept_), rtol=1e-9)


def test_no_penalty_is_least_squares():
    x, y, _ = problem(condition=1e8)
    path, _, _ = path_of(x, y)
    oracle = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    error = np.linalg.norm(x.numpy() @ (path.coefficients(0.0).numpy() - oracle))
    residual = np.linalg.norm(y.numpy() - x.numpy() @ oracle)
    # What rounding of the data alone can do.
    assert error < 2.2e-16 * np.linalg.cond(x.numpy()) * residual
    assert np.linalg.cond(x.numpy()) > 1e8


def test_penalty_by_variance_is_standardising():
    x, y, _ = problem(condition=1e3)
    scale = x[:, :-1].std(0, correction=0)
    penalty = torch.cat((scale.square(), torch.zeros(1, dtype=torch.float64)))
    path, _, _ = path_of(x, y, penalty=penalty)
    oracle = Ridge(alpha=7.0, solver="cholesky").fit((x[:, :-1] / scale).numpy(), y.numpy())
    np.testing.assert_allclose(
        path.coefficients(7.0)[:-1, 0].numpy(), oracle.coef_.ravel() / scale.numpy(), rtol=1e-9
    )


def augmented(x, y, penalty, ridge):
    """Solve the penalised problem by appending its rows."""
    a = np.concatenate((x.numpy(), np.diag(np.sqrt(ridge * penalty.numpy()))))
    b = np.concatenate((y.numpy(), np.zeros((x.shape[1], y.shape[1]))))
    return np.linalg.lstsq(a, b, rcond=None)[0]


@pytest.mark.parametrize("n", [4, 9, 300])
def test_more_columns_than_rows_and_collinear_ones(n):
    x, y, _ = problem(n=n, d=12)
    x = torch.cat((x[:, :-1], x[:, :1], x[:, 1:2] - 2 * x[:, :1], torch.zeros(n, 1), x[:, -1:]), 1).double()
    penalty = torch.ones(x.shape[1], dtype=torch.float64)
    penalty[-1] = 0
    path, sketched, _ = path_of(x, y, penalty=penalty)
    assert sketched.preconditioner.rank == min(n, 13)
    np.testing.assert_allclose(
        path.coefficients(0.5).numpy(), augmented(x, y, penalty, 0.5), rtol=1e-8, atol=1e-9
    )


def test_degrees_of_freedom_and_covariance():
    x, y, _ = problem()
    path, _, _ = path_of(x, y)
    a, p = x.numpy(), np.diag([1.0] * 5 + [0.0])
    inverse = np.linalg.inv(a.T @ a + 4.0 * p)
    assert path.degrees_of_freedom(4.0) == pytest.approx(np.trace(a @ inverse @ a.T), rel=1e-12)
    assert path.degrees_of_freedom(0.0) == pytest.approx(6, rel=1e-12)
    factor = path.covariance_factor(4.0).numpy()
    np.testing.assert_allclose(factor @ factor.T, inverse @ a.T @ a @ inverse, rtol=1e-9, atol=1e-14)


def test_the_grid_reaches_from_nothing_to_everything():
    x, y, _ = problem(condition=1e4)
    path, _, _ = path_of(x, y)
    grid = path.grid().tolist()
    assert grid[0] == 0
    assert grid == sorted(grid)
    assert path.degrees_of_freedom(grid[1]) > 0.99 * 6
    assert path.degrees_of_freedom(grid[-1]) < 1 + 0.1 * 5


def test_squares_are_those_of_the_rows():
    x, y, w = problem(c=2, weights=True)
    y = y + 1e7  # far from zero: the sums must not cancel
    sketched, task, sums = sums_of(x, y, w, folds=3)
    fold = task.fold(0, len(x))
    for beta in (sketched.start, sketched.start * 0.99):
        z = sketched.preconditioner.forward() @ beta
        squares = w[:, None] * (y - x @ beta).square()
        torch.testing.assert_close(sums.squares(z), squares.sum(0), rtol=1e-6, atol=0)
        for number in range(3):
            torch.testing.assert_close(
                sums.squares(z, number), squares[fold == number].sum(0), rtol=1e-6, atol=0
            )


def test_folds_are_balanced_and_the_same_for_every_chunking():
    _, task, _ = sums_of(*problem(), folds=5, seed=3)
    whole = task.fold(0, 1003)
    assert torch.equal(torch.cat((task.fold(0, 17), task.fold(17, 986))), whole)
    assert whole.bincount().tolist() == [201, 201, 201, 200, 200] or whole.bincount().min() >= 200
    assert not torch.equal(whole[:5], whole[5:10]) or not torch.equal(whole[:5], whole[10:15])


@pytest.mark.parametrize("c", [1, 2])
@pytest.mark.parametrize("weights", [False, True])
def test_cross_validation_is_that_of_fitting_every_fold(c, weights):
    x, y, w = problem(n=80, d=20, c=c, weights=weights)
    sketched, task, sums = sums_of(x, y, w, folds=4)
    penalty = torch.cat((torch.ones(20), torch.zeros(1))).double()
    variance = sketched.variance[21:]
    curve = cross_validate(sketched.preconditioner, sums, penalty, variance)
    fold = task.fold(0, len(x))
    w = torch.ones(len(x), dtype=torch.float64) if w is None else w
    for place in range(0, len(curve.ridges), 7):
        ridge, errors = float(curve.ridges[place]), []
        for number in range(4):
            train, left = fold != number, fold == number
            model = LinearRegression() if ridge == 0 else Ridge(alpha=ridge, solver="svd")
            model.fit(x[train, :-1].numpy(), y[train].numpy(), w[train].numpy())
            residual = y[left].numpy() - model.predict(x[left, :-1].numpy()).reshape(-1, c)
            error = w[left].numpy() @ residual**2 / float(w[left].sum()) / variance.numpy()
            errors.append(error.mean())
        assert float(curve.errors[place]) == pytest.approx(np.mean(errors), rel=1e-7)
        assert float(curve.standard_errors[place]) == pytest.approx(np.std(errors, ddof=1) / 2, rel=1e-6)
    assert curve.ridge > 0
    assert float(curve.errors[curve.chosen]) == float(curve.errors.min())


def test_a_level_that_a_fold_holds_alone():
    x, y, _ = problem(n=60, d=3)
    sketched, task, _ = sums_of(x, y, folds=3)
    lonely = torch.zeros(60, 1, dtype=torch.float64)
    lonely[int((task.fold(0, 60) == 1).nonzero()[0])] = 1
    x = torch.cat((lonely, x), 1)
    sketched, task, sums = sums_of(x, y, folds=3)
    penalty = torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64)
    train = task.fold(0, 60) != 1
    path = ridge_path(sketched.preconditioner, sums.gram - sums.grams[1], sums.cross(1), penalty)
    np.testing.assert_allclose(
        path.coefficients(0.7).numpy(), augmented(x[train], y[train], penalty, 0.7), rtol=1e-9, atol=1e-11
    )


def test_one_standard_error_takes_a_larger_penalty():
    x, y, _ = problem(n=60, d=30, seed=4)
    sketched, _, sums = sums_of(x, y, folds=5)
    penalty = torch.cat((torch.ones(30), torch.zeros(1))).double()
    arguments = (sketched.preconditioner, sums, penalty, sketched.variance[31:])
    least = cross_validate(*arguments)
    one = cross_validate(*arguments, one_standard_error=True)
    assert one.best == least.best == least.chosen
    assert one.ridge > least.ridge
    assert one.errors[one.chosen] <= least.errors[least.best] + least.standard_errors[least.best]


def test_a_fold_without_rows_is_refused():
    x, y, _ = problem()
    sketched, _, sums = sums_of(x, y, folds=1)
    with pytest.raises(ValueError, match="`folds` "):
        cross_validate(sketched.preconditioner, sums, torch.ones(6).double(), torch.ones(1).double())
