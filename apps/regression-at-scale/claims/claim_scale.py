"""What regression-at-scale promises: QR's accuracy in bounded memory, and robust fits from a few rows."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import QuantileRegressor, SGDRegressor
from sklearn.preprocessing import StandardScaler

from lemmata.apps.regression_at_scale import RegressionModel, fit, generate
from lemmata.sketching import lp_regression

LIBRARY = (
    "lemmata.apps.regression_at_scale; no paper: sketch-and-precondition (Rokhlin and Tygert 2008) at scale"
)
CORESETS = "Sharper bounds for l_p sensitivity sampling"

# Each side runs in a process of its own, which tells its peak memory after imports and at the end, in MB.
MEASURED = """
import json, sys, time
def peak():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) / 1024
{imports}
before, started = peak(), time.perf_counter()
{work}
print(json.dumps({{"before": before, "peak": peak(), "seconds": time.perf_counter() - started}}))
"""
OURS = MEASURED.format(
    imports="from lemmata.apps.regression_at_scale import fit\n"
    "import lemmata.apps.regression_at_scale.methods.job, pyarrow.parquet",
    work="fit([sys.argv[1]], target='y', out=sys.argv[2], workers=2, quiet=True)",
)
THEIRS = MEASURED.format(
    imports="import pathlib, numpy as np, pyarrow.parquet as pq\n"
    "from sklearn.linear_model import LinearRegression",
    work="table = pq.read_table(sorted(pathlib.Path(sys.argv[1]).glob('*.parquet')))\n"
    "names = [name for name in table.column_names if name != 'y']\n"
    "x = np.column_stack([table[name].to_numpy() for name in names])\n"
    "LinearRegression().fit(x, table['y'].to_numpy())",
)


def measured(program: str, *arguments: Path) -> dict[str, float]:
    """Run one side in a process of its own, and return its memory and time."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(told.stdout)


def read(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return features with a column of ones, and the target, as float64."""
    columns = pq.read_table(sorted(table.glob("*.parquet")))
    names = [name for name in columns.column_names if name != "y"]
    x = np.column_stack([columns[name].to_numpy() for name in names] + [np.ones(columns.num_rows)])
    return x.astype(np.float64), columns["y"].to_numpy().astype(np.float64)


def claim_two_million_rows_are_fitted_in_bounded_memory(claim, tmp_path) -> None:
    """Fit 2e6 x 60 in float32 beside scikit-learn's LinearRegression on the whole table."""
    table = generate(tmp_path / "table", rows=2_000_000, columns=60)
    size = sum(path.stat().st_size for path in table.glob("*.parquet")) / 1e6
    ours = measured(OURS, table, tmp_path / "run")
    theirs = measured(THEIRS, table)
    run, model = tmp_path / "run", RegressionModel.load(tmp_path / "run")
    certificate = json.loads((run / "certificate.json").read_text())
    x, y = read(table)
    exact = np.linalg.lstsq(x, y)[0]
    spread = np.linalg.norm(y - y.mean())
    excess = np.linalg.norm(x @ (model.coefficients[:, 0].numpy() - exact)) / spread
    bound = certificate["relative_bound"]
    claim(
        sentence="A regression on two million rows is solved to the accuracy of QR in a fraction of the "
        "memory that the table takes",
        paper=LIBRARY,
        published="no figure",
        setup=f"2,000,000 rows of 60 columns in float32, condition 1e4, {size:.0f} MB of Parquet; 2 workers "
        "and 2 threads; peak resident memory of a process above what it held after its imports",
        baseline="pyarrow.parquet and sklearn.linear_model.LinearRegression on the whole table in memory",
        bars=[
            claim.bar(
                "peak memory above imports (MB)",
                ours=ours["peak"] - ours["before"],
                baseline=theirs["peak"] - theirs["before"],
                value=ours["peak"] - ours["before"],
                at_most=400,
            ),
            claim.bar(
                "passes over the rows",
                ours=certificate["passes"],
                baseline=1,
                value=certificate["passes"],
                at_most=3,
            ),
            claim.bar(
                "distance from LAPACK's fitted values, relative to the target's deviations",
                ours=excess,
                baseline=bound,
                value=excess,
                at_most=1e-6,
            ),
            claim.bar(
                "wall time, ours / scikit-learn, with reading",
                ours=ours["seconds"],
                baseline=theirs["seconds"],
                value=ours["seconds"] / theirs["seconds"],
                at_most=0.7,
            ),
        ],
        notes=f"The certificate's bound on that distance is {bound:.2g}; LAPACK's own rounding is in what is "
        "compared with it. The ratio of times is near its bar: another run on the same machine missed it.",
    )


@pytest.mark.long
def claim_memory_is_the_same_for_one_and_for_ten_gigabytes(claim, tmp_path) -> None:
    """Fit tables of 0.25 to 10 GB and measure the memory each takes."""
    sizes, peaks, rates = [0.25, 1.0, 10.0], [], []
    for size in sizes:
        rows = int(size * 1e9 / (8 * 61))
        table = generate(tmp_path / f"{size:g}", rows=rows, columns=60, dtype="float64", files=8)
        found = measured(OURS, table, tmp_path / f"run-{size:g}")
        peaks.append(found["peak"])
        rates.append(size / found["seconds"])
        for part in table.glob("*.parquet"):
            part.unlink()
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(sizes, peaks, "o-", label="peak resident memory")
    axes.loglog(sizes, [1000 * size for size in sizes], "--", color="#888888", label="the table")
    axes.set(xlabel="table (GB)", ylabel="MB")
    axes.legend()
    claim(
        sentence="Peak memory is set by chunks and sketch, not by the rows",
        paper=LIBRARY,
        published="no figure",
        setup="60 columns of float64 in 8 Parquet files of 0.25, 1 and 10 GB; 2 workers, chunks of 65,536 "
        "rows; peak resident memory of the whole process, Python and libraries included",
        baseline="the size of the table, which a fit in memory holds at least once (MB)",
        bars=[
            claim.bar(
                "peak memory at 10 GB / at 1 GB",
                ours=peaks[2],
                baseline=peaks[1],
                value=peaks[2] / peaks[1],
                at_most=1.1,
            ),
            claim.bar(
                "peak memory at 10 GB (MB)", ours=peaks[2], baseline=10_000, value=peaks[2], at_most=1000
            ),
        ],
        figure=figure,
        notes="MB by size: "
        + ", ".join(f"{s:g} GB: {p:.0f}" for s, p in zip(sizes, peaks, strict=True))
        + f". Three passes at {rates[2] / rates[1]:.2f} times the rate of 1 GB.",
    )


def claim_ill_conditioned_columns_are_solved_where_gradients_and_normal_equations_fail(
    claim, tmp_path
) -> None:
    """Compare with the known answer of a consistent system of condition 1e8."""
    table = generate(tmp_path / "table", rows=200_000, columns=20, condition=1e8, noise=0.0, dtype="float64")
    truth = json.loads((table / "truth.json").read_text())
    x, y = read(table)
    exact = np.array([*truth["coefficients"].values(), truth["intercept"]])
    model = RegressionModel.load(fit([str(table)], target="y", out=tmp_path / "run", quiet=True))

    def error(found: np.ndarray) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    scaler = StandardScaler().fit(x[:, :-1])
    best = np.inf
    for eta in (0.001, 0.01, 0.1):
        sgd = SGDRegressor(alpha=0.0, eta0=eta, max_iter=20, tol=None, random_state=0)
        sgd.fit(scaler.transform(x[:, :-1]), y)
        slopes = sgd.coef_ / scaler.scale_
        best = min(best, error(np.append(slopes, sgd.intercept_ - slopes @ scaler.mean_)))
    try:
        normal = error(np.linalg.solve(x.T @ x, x.T @ y))
    except np.linalg.LinAlgError:
        normal = np.inf
    lapack, ours = error(np.linalg.lstsq(x, y, rcond=None)[0]), error(model.coefficients[:, 0].numpy())
    claim(
        sentence="Columns of condition 1e8 are fitted as by LAPACK, where stochastic gradients and normal "
        "equations are thousands of times further from the answer",
        paper=LIBRARY,
        published="no figure",
        setup="200,000 rows of 20 columns in float64, singular values from 1 to 1e-8, no noise, so that the "
        "answer is known; relative error of the coefficients",
        baseline="scikit-learn's SGDRegressor on standardised columns (20 epochs, the best of three rates by "
        "the error itself), numpy's solution of the normal equations, numpy.linalg.lstsq",
        bars=[
            claim.bar(
                "SGDRegressor's error / ours", ours=ours, baseline=best, value=best / ours, at_least=1e3
            ),
            claim.bar(
                "normal equations' error / ours",
                ours=ours,
                baseline=normal,
                value=normal / ours,
                at_least=1e3,
            ),
            claim.bar("our error / LAPACK's", ours=ours, baseline=lapack, value=ours / lapack, at_most=5.0),
        ],
        seeds=[0],
    )


def claim_least_absolute_residuals_need_two_rows_in_a_hundred(claim, tmp_path) -> None:
    """Fit by a coreset of 2 % of the rows beside scikit-learn's linear program on all of them."""
    excess, certified, seconds, theirs, agreement = [], [], [], 0.0, 0.0
    for seed in range(3):
        table = generate(
            tmp_path / f"table-{seed}",
            rows=50_000,
            columns=10,
            condition=100.0,
            outliers=0.01,
            dtype="float64",
            seed=seed,
        )
        x, y = read(table)
        optimum = lp_regression(torch.from_numpy(x), torch.from_numpy(y), 1.0)
        least = float(optimum.cost)
        if seed == 0:  # it takes more than a minute
            started = time.perf_counter()
            peer = QuantileRegressor(quantile=0.5, alpha=0.0, fit_intercept=False, solver="highs").fit(x, y)
            theirs = time.perf_counter() - started
            agreement = np.abs(y - x @ peer.coef_).sum() / least - 1
        started = time.perf_counter()
        run = fit(
            [str(table)],
            target="y",
            loss="l1",
            coreset_size=1000,
            diagnostics=False,
            out=tmp_path / f"run-{seed}",
            workers=1,
            quiet=True,
        )
        seconds.append(time.perf_counter() - started)
        model = RegressionModel.load(run)
        cost = float((torch.from_numpy(y) - torch.from_numpy(x) @ model.coefficients[:, 0]).abs().sum())
        certificate = json.loads((run / "certificate.json").read_text())
        excess.append(certificate["coreset_cost"] / least)
        certified.append(cost / least)
    claim(
        sentence="A coreset of 2 % of the rows gives least absolute residuals at nearly the least cost, "
        "several times faster than a linear program on all rows",
        paper=CORESETS,
        published="sizes of coresets; no experiment",
        setup="50,000 rows of 10 columns, one in a hundred with a gross error of a hundred times the signal; "
        "a coreset of 1000 rows; three seeds; time with reading the file, one worker",
        baseline="scikit-learn's QuantileRegressor (HiGHS) on the whole table, reading not counted",
        bars=[
            claim.bar(
                "cost of the coreset's answer on all rows / least, worst of three",
                ours=max(excess),
                baseline=1.0,
                value=max(excess),
                at_most=1.02,
            ),
            claim.bar(
                "time of scikit-learn / ours, median of three",
                ours=1.0,
                baseline=theirs / float(np.median(seconds)),
                value=theirs / float(np.median(seconds)),
                at_least=5.0,
            ),
        ],
        seeds=[0, 1, 2],
        notes="After the one Newton step that the certifying passes take, the cost is at most "
        f"{max(certified) - 1:.1e} above the least, relatively. The least cost is that of `lp_regression` on "
        "all rows, certified by its duality gap; scikit-learn's, at the first seed, is "
        f"{agreement:.1e} above it.",
    )
