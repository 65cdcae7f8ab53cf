"""Robust regression beside scikit-learn and SciPy on the same data."""

import numpy as np
import pytest
import scipy
import scipy.optimize
import scipy.sparse
import sklearn
import torch
from sklearn.linear_model import HuberRegressor, QuantileRegressor

from lemmata.sketching.lp import huber_regression, lp_regression

SMALL, LARGE = (5_000, 8), (20_000, 20)


def problem(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a design, Student-t(2.5) noise and one gross error in a hundred rows."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, d))
    b = A @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    b[: n // 100] += 1000 * rng.standard_normal(n // 100)
    return torch.tensor(A), torch.tensor(b)


def absolute(A: torch.Tensor, b: torch.Tensor, x: np.ndarray) -> float:
    """Return the cost of coefficients."""
    return float(np.abs(b.numpy() - A.numpy() @ x).sum())


def race_absolute(benchmark, side: str, size: tuple[int, int], theirs) -> None:
    """Time one side of least absolute values."""
    A, b = problem(*size)
    if side == "lemmata":
        fit = benchmark.pedantic(lambda: lp_regression(A, b, 1), rounds=5, warmup_rounds=1)
        benchmark.extra_info["bar"] = 0.2
        benchmark.extra_info["relative gap"] = float(fit.gap / fit.cost)
        return
    x = benchmark.pedantic(lambda: theirs(A.numpy(), b.numpy()), rounds=2, warmup_rounds=0)
    benchmark.extra_info["cost over ours"] = absolute(A, b, x) / float(lp_regression(A, b, 1).cost)


def by_quantile_regressor(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fit a median without a penalty."""
    return QuantileRegressor(quantile=0.5, alpha=0.0, fit_intercept=False, solver="highs").fit(A, b).coef_


def by_linprog(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solve the dual programme, the smaller one, and read the coefficients off its multipliers."""
    found = scipy.optimize.linprog(-b, A_eq=A.T, b_eq=np.zeros(A.shape[1]), bounds=(-1, 1), method="highs")
    return -found.eqlin.marginals


@pytest.mark.parametrize("side", ["lemmata", f"scikit-learn {sklearn.__version__} QuantileRegressor"])
@pytest.mark.benchmark(group="least absolute values, 5,000 rows and 8 columns, beside a quantile regressor")
def bench_median_small(benchmark, side):
    """Time median regression."""
    race_absolute(benchmark, side, SMALL, by_quantile_regressor)


@pytest.mark.parametrize("side", ["lemmata", f"scikit-learn {sklearn.__version__} QuantileRegressor"])
@pytest.mark.benchmark(group="least absolute values, 20,000 rows and 20 columns, beside a quantile regressor")
def bench_median_large(benchmark, side):
    """Time median regression."""
    race_absolute(benchmark, side, LARGE, by_quantile_regressor)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} linprog"])
@pytest.mark.benchmark(group="least absolute values, 20,000 rows and 20 columns, beside a linear programme")
def bench_linear_programme(benchmark, side):
    """Time median regression as a linear programme, posed as its dual."""
    race_absolute(benchmark, side, LARGE, by_linprog)


@pytest.mark.parametrize("side", ["lemmata", f"scipy {scipy.__version__} least_squares"])
@pytest.mark.benchmark(group="Huber's loss, 20,000 rows and 20 columns, beside a minimiser of the same cost")
def bench_huber(benchmark, side):
    """Time Huber regression with a given threshold."""
    A, b = problem(*LARGE)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
        fit = benchmark.pedantic(lambda: huber_regression(A, b, 1.35), rounds=5, warmup_rounds=1)
        benchmark.extra_info["relative gap"] = float(fit.gap / fit.cost)
        return
    rows, right, zero = A.numpy(), b.numpy(), np.zeros(A.shape[1])
    found = benchmark.pedantic(
        lambda: scipy.optimize.least_squares(
            lambda x: right - rows @ x, zero, jac=lambda _: -rows, loss="huber", f_scale=1.35
        ),
        rounds=2,
        warmup_rounds=0,
    )
    benchmark.extra_info["cost over ours"] = found.cost / float(huber_regression(A, b, 1.35).cost)


@pytest.mark.parametrize("side", ["lemmata", f"scikit-learn {sklearn.__version__} HuberRegressor"])
@pytest.mark.benchmark(group="Huber's loss, 20,000 rows and 20 columns, beside scikit-learn")
def bench_huber_regressor(benchmark, side):
    """Time Huber regression; the peer fits a scale along with the coefficients, we are given its own."""
    A, b = problem(*LARGE)
    peer = HuberRegressor(epsilon=1.35, alpha=0.0, fit_intercept=False, max_iter=1000, tol=1e-8)
    fitted = peer.fit(A.numpy(), b.numpy())
    delta = 1.35 * float(fitted.scale_)
    ours = huber_regression(A, b, delta)
    if side == "lemmata":
        benchmark.extra_info["bar"] = 1.0
        benchmark.pedantic(lambda: huber_regression(A, b, delta), rounds=5, warmup_rounds=1)
        return
    benchmark.pedantic(lambda: peer.fit(A.numpy(), b.numpy()), rounds=3, warmup_rounds=0)
    residual = b.numpy() - A.numpy() @ fitted.coef_
    cost = float(scipy.special.huber(delta, residual).sum())
    benchmark.extra_info["cost over ours"] = cost / float(ours.cost)
