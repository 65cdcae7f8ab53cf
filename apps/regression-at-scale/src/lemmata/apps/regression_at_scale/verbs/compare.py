"""Compare a fit with scikit-learn and SciPy on a sample of the rows, side by side.

All solve the same rows, half of the sample; the other half, and the fit to all rows, say what that is worth.

Axis letters: s rows of a half, d features.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lemmata.apps.kit.files import new_output
from lemmata.apps.kit.tables import Table
from lemmata.apps.regression_at_scale.encoding.dataset import Dataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.engine.scheduler import one_thread
from lemmata.apps.regression_at_scale.methods.sampling import SamplePass, parts
from lemmata.apps.regression_at_scale.model import Loss, RegressionModel
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.sketching.least_squares import lstsq
from lemmata.sketching.lp import HuberLoss, PowerLoss, huber_regression, lp_regression

__all__ = ["compare"]

Floats = npt.NDArray[np.float64]

_REPEATS = 3
OURS = "lemmata, on the sample"
WHOLE = "lemmata, on all rows"


@dataclass(frozen=True)
class Half:
    """One half of a sample: features, one target, and how often each row counts."""

    x: Tensor
    y: Tensor
    weights: Tensor


def compare(
    model: Path,
    data: list[str],
    *,
    rows: int = 20_000,
    out: Path | None = None,
    seed: int = 0,
    chunk_rows: int = 65536,
    scheduler: str = "local",
    workers: int | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Table:
    """Compare with scikit-learn and SciPy on a uniform sample of rows.

    Each method solves one half of the sample, on one thread, the best of three times. `cost / least` is its
    loss on that half over the least one found, `held out` its mean loss on the other half, and `time / ours`
    its time over that of this package on the same rows.

    Args:
        model: A run's folder, or its `model.pt`; its loss and penalty are what is compared.
        data: Files, folders or patterns of the table it was fitted to, or another with the same columns.
        rows: Rows of the sample, both halves together.
        out: Stem of the files to write, `.csv` and `.md`.
        seed: Seed of the sample.
        chunk_rows: Rows that a worker holds at a time.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        force: Replace the files where they exist.
        quiet: Show neither progress nor table.

    Returns:
        The table, a row a method.

    Raises:
        ValueError: Where the model has several targets, or the sample fewer than four rows a feature.
        FileExistsError: Where files exist and `force` is not given.
    """
    fitted = RegressionModel.load(model)
    if len(fitted.target_names) != 1:
        raise ValueError(f"`model` ({model}) has {len(fitted.target_names)} targets; compare takes one")
    dataset = Dataset(open_table(data, chunk_rows=chunk_rows), Encoder.from_state_dict(fitted.encoder))
    d = dataset.shape[1]
    if min(rows, dataset.rows) < 4 * d:
        raise ValueError(f"`rows` (={rows}, of {dataset.rows}) must be at least {4 * d}, four a feature")
    for suffix in () if out is None else (".csv", ".md"):
        new_output(f"{out}{suffix}", force=force)
    with open_progress(quiet=quiet) as progress:
        engine = Engine(dataset, scheduler=scheduler, workers=workers, progress=progress, passes=1)
        task = SamplePass(None, min(rows, dataset.rows), seed)
        x, y, weights = parts(task.coreset(engine.run(task)), d)
    even, odd = (Half(x[k::2], y[k::2, 0], weights[k::2]) for k in (0, 1))
    table = _table(fitted, even, odd)
    if out is not None:
        table.save(out)
    if not quiet:
        table.print()
    return table


def _table(model: RegressionModel, train: Half, test: Half) -> Table:
    """Solve the sample with every method, and score."""
    loss = Loss.parse(model.loss)
    intercept = torch.tensor([name == "(intercept)" for name in model.feature_names])
    found: dict[str, tuple[Tensor, float]] = {}
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a solver that ends early is told by its cost
        for name, solve in _solvers(loss, model.ridge, intercept).items():
            found[name] = _timed(solve, train)
    costs = {name: _cost(loss, model.ridge, train, x, intercept) for name, (x, _) in found.items()}
    least, ours = min(costs.values()), found[OURS][1]
    records: list[dict[str, Any]] = [
        {
            "method": name,
            "cost / least": costs[name] / least if least > 0 else None,
            "held out": _mean_loss(loss, test, x),
            "time / ours": seconds / ours,
        }
        for name, (x, seconds) in found.items()
    ]
    records.append({"method": WHOLE, "held out": _mean_loss(loss, test, model.coefficients[:, 0])})
    title = f"loss {loss}, {len(train.y):,} rows to fit and {len(test.y):,} held out"
    return Table.from_records(records, title=title)


def _timed(solve: Callable[[Half], Tensor], half: Half) -> tuple[Tensor, float]:
    """Return the answer and the shortest of a few times."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        answer = solve(half)
        seconds.append(time.perf_counter() - started)
    return answer, min(seconds)


def _solvers(loss: Loss, ridge: float, intercept: Tensor) -> Mapping[str, Callable[[Half], Tensor]]:
    """Return what a user could take for a loss: ours, and the libraries'."""
    if loss.kind == "l2":
        return _least_squares(ridge, intercept)
    if loss.kind == "huber" and loss.delta is not None:
        delta = loss.delta
        return {
            OURS: lambda half: huber_regression(half.x, half.y, delta, half.weights).x,
            "scipy minimize, L-BFGS": lambda half: _minimise(HuberLoss(delta), half),
        }
    p = loss.p or 1.0
    others: dict[str, Callable[[Half], Tensor]] = {
        OURS: lambda half: lp_regression(half.x, half.y, p, half.weights).x
    }
    if p == 1:
        return {**others, "scikit-learn QuantileRegressor": _median}
    return {**others, "scipy minimize, L-BFGS": lambda half: _minimise(PowerLoss(p), half)}


def _least_squares(ridge: float, intercept: Tensor) -> Mapping[str, Callable[[Half], Tensor]]:
    """Return solvers of least squares; with a penalty, which the intercept does not bear, each takes it."""
    import scipy.linalg
    from sklearn.linear_model import Ridge, SGDRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def with_penalty(half: Half) -> tuple[Tensor, Tensor]:
        root = half.weights.sqrt()
        if not ridge:
            return half.x * root[:, None], half.y * root
        penalty = torch.diag((~intercept).double() * ridge**0.5)
        return torch.cat((half.x * root[:, None], penalty)), torch.cat(
            (half.y * root, half.y.new_zeros(len(penalty)))
        )

    def ours(half: Half) -> Tensor:
        x: Tensor = lstsq(*with_penalty(half)).x
        return x

    def scipy_lstsq(half: Half) -> Tensor:
        a, b = with_penalty(half)
        return torch.from_numpy(scipy.linalg.lstsq(a.numpy(), b.numpy(), lapack_driver="gelsd")[0])

    def sklearn_ridge(half: Half) -> Tensor:
        columns = half.x[:, ~intercept].numpy()
        fit = Ridge(alpha=ridge, fit_intercept=bool(intercept.any()), solver="svd")
        fit.fit(columns, half.y.numpy(), sample_weight=half.weights.numpy())
        return _with_intercept(fit.coef_, fit.intercept_, intercept)

    def sgd(half: Half) -> Tensor:
        columns = half.x[:, ~intercept].numpy()
        centred = bool(intercept.any())
        scaler = StandardScaler(with_mean=centred)
        fit = SGDRegressor(
            alpha=ridge / len(half.y), fit_intercept=centred, max_iter=100, tol=1e-6, random_state=0
        )
        make_pipeline(scaler, fit).fit(
            columns, half.y.numpy(), sgdregressor__sample_weight=half.weights.numpy()
        )
        slopes = fit.coef_ / scaler.scale_
        shift = float(np.dot(slopes, scaler.mean_)) if centred else 0.0
        return _with_intercept(slopes, float(np.ravel(fit.intercept_)[0]) - shift, intercept)

    return {
        OURS: ours,
        "scipy.linalg.lstsq": scipy_lstsq,
        "scikit-learn Ridge": sklearn_ridge,
        "scikit-learn SGDRegressor": sgd,
    }


def _median(half: Half) -> Tensor:
    """Solve for least absolute residuals by scikit-learn's linear program."""
    from sklearn.linear_model import QuantileRegressor

    fit = QuantileRegressor(quantile=0.5, alpha=0.0, fit_intercept=False, solver="highs")
    fit.fit(half.x.numpy(), half.y.numpy(), sample_weight=half.weights.numpy())
    return torch.from_numpy(fit.coef_)


def _minimise(rho: PowerLoss | HuberLoss, half: Half) -> Tensor:
    """Minimise a loss by SciPy, from zero, in columns of unit length."""
    import scipy.optimize

    scale = torch.linalg.vector_norm(half.x, dim=0).clamp(min=1e-300)
    a = half.x / scale
    power = rho.p if isinstance(rho, PowerLoss) else 1.0

    def cost(z: Floats) -> tuple[float, Floats]:
        residual = half.y - a @ torch.from_numpy(z)
        force = half.weights * rho.weights(residual, 1e-12) * residual
        gradient: Floats = (-power * (a.T @ force)).numpy()
        return float((half.weights * rho.value(residual)).sum()), gradient

    options = {"maxiter": 1000, "maxfun": 2000}
    minimize: Any = scipy.optimize.minimize  # its stubs do not know a cost that brings its gradient
    found: Floats = minimize(cost, np.zeros(a.shape[1]), jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found).div(scale)


def _with_intercept(slopes: Any, intercept: float, place: Tensor) -> Tensor:
    """Return slopes and intercept as one vector, the intercept where the features have it."""
    x = torch.zeros(len(place), dtype=torch.float64)
    x[~place] = torch.as_tensor(slopes, dtype=torch.float64)
    x[place] = float(intercept)
    return x


def _cost(loss: Loss, ridge: float, half: Half, x: Tensor, intercept: Tensor) -> float:
    """Return what a method minimises: the loss, and the penalty."""
    return _mean_loss(loss, half, x) * float(half.weights.sum()) + ridge * float(x[~intercept].square().sum())


def _mean_loss(loss: Loss, half: Half, x: Tensor) -> float:
    """Return the weighted mean of the loss."""
    rho = HuberLoss(loss.delta) if loss.delta is not None else PowerLoss(loss.p or 1.0)
    values = rho.value(half.y - half.x @ x)
    return float((half.weights * values).sum() / half.weights.sum())
