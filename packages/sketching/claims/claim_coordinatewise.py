"""What the paper on l_inf guarantees promises: an error small in every coefficient, and a bound on it."""

import math
from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure

from lemmata.sketching.coordinatewise import linf_bound, linf_hard_instance, linf_regression
from lemmata.sketching.operators import SRHT, CountSketch, GaussianSketch, SketchOperator, SparseSign

PAPER = "A nearly-optimal bound for fast regression with l_inf guarantee"
D, M, SEEDS = 512, 8192, range(9)
SPARSE = {"CountSketch": 1, "4 nonzeros a column": 4, "8 nonzeros a column": 8}


def sparse(nnz_per_col: int, columns: int, seed: int) -> SketchOperator:
    """Make a sparse sketch."""
    if nnz_per_col == 1:
        return CountSketch(M, columns, seed=seed)
    return SparseSign(M, columns, nnz_per_col, seed=seed)


def gaussian(columns: int, seed: int) -> SketchOperator:
    """Make a Gaussian sketch."""
    return GaussianSketch(M, columns, seed=seed)


def srht(seed: int) -> SketchOperator:
    """Make an SRHT that samples an eighth of its rows."""
    return SRHT(M, 8 * M, seed=seed)


def errors(a: torch.Tensor, b: torch.Tensor, make: Callable[[int], SketchOperator]) -> torch.Tensor:
    """Return the absolute error of each coefficient under each seed; the solution is zero.

    An operator with more columns than there are rows sketches the data with rows of zeros below. Where the
    sketched data has lost rank, the solution of least norm counts.
    """
    rows = []
    for seed in SEEDS:
        S = make(seed)
        q, r = torch.linalg.qr(S.partial(a, 0))
        target = q.T @ S.partial(b, 0)
        rows.append(torch.linalg.lstsq(r, target[:, None], driver="gelsd").solution[:, 0])
    return torch.stack(rows).abs()


def largest(found: torch.Tensor) -> float:
    """Return the median over seeds of the largest error."""
    return float(found.amax(1).median())


def norm(found: torch.Tensor) -> float:
    """Return the median over seeds of the error's norm."""
    return float(torch.linalg.vector_norm(found, dim=1).median())


def claim_every_coefficient_is_accurate_under_srht_and_gaussian_sketches(claim) -> None:
    """Compare with sparse sketches, each on the instance made for its number of nonzeros."""
    theory = math.sqrt(2 * math.log(D) / M)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    bars, dense = [], {}
    for name, nnz_per_col in SPARSE.items():
        a, b, _ = linf_hard_instance(D, M, nnz_per_col)
        spoiled = errors(a, b, partial(sparse, nnz_per_col, len(a)))
        kept = errors(a, b, srht)
        if nnz_per_col == 1:
            dense["SRHT"] = kept
            dense["Gaussian"] = errors(a, b, partial(gaussian, len(a)))
        ratio = norm(spoiled) / norm(kept)
        bars += [
            claim.bar(
                f"largest error, {name} over SRHT on its instance",
                ours=largest(kept),
                baseline=largest(spoiled),
                value=largest(spoiled) / largest(kept),
                at_least=2.5,
            ),
            claim.bar(
                f"norm of the error, {name} and SRHT, larger over smaller",
                ours=norm(kept),
                baseline=norm(spoiled),
                value=max(ratio, 1 / ratio),
                at_most=1.4,
            ),
        ]
        axes.plot(range(1, D + 1), spoiled.sort(1, descending=True).values.median(0).values, label=name)
    for name, found in dense.items():
        bars.append(
            claim.bar(
                f"largest error, {name}, over sqrt(2 ln d / m)",
                ours=largest(found),
                baseline=theory,
                value=largest(found) / theory,
                at_most=1.5,
            )
        )
        axes.plot(range(1, D + 1), found.sort(1, descending=True).values.median(0).values, label=name)
    axes.set(xscale="log", xlabel="coefficient, from the worst", ylabel="absolute error")
    axes.legend(frameon=False)
    claim(
        sentence="SRHT and Gaussian sketches keep every coefficient of a least squares solution accurate, "
        "where sparse sketches with errors of the same norm spoil a few",
        paper=PAPER,
        published="error eps / sqrt(d) in every coefficient from eps^-2 d log^3(n / delta) rows, for "
        "sketches that preserve inner products one by one; a theorem",
        setup=f"d = {D}, m = {M}, residual of norm 1, solution 0; A the identity over zeros, b a few spikes "
        "below it, their number chosen for the nonzeros of the sparse sketch; medians of 9 seeds; the SRHT "
        "has 8 m columns (the data are followed by zeros), so that it samples an eighth of its rows",
        baseline="CountSketch and sparse sign sketches with 4 and 8 nonzeros a column, of as many rows",
        bars=bars,
        seeds=list(SEEDS),
        figure=figure,
        notes="The figure shows each sparse sketch's errors on its own instance, and SRHT's and the Gaussian "
        "sketch's on the one made for CountSketch. The instances are made to be hard; typical data are not. "
        "CountSketch maps some columns of this data to the same row, so that its problem has many solutions; "
        "the one of least norm is judged, which is the kindest to it.",
    )


def random_problem(coherent: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a problem of 4000 x 20; in a coherent one a row for each column outweighs the rest."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(4000, 20, dtype=torch.float64, generator=generator)
    if coherent:
        a[:20] += 1000 * torch.eye(20, dtype=torch.float64)
    noise = torch.randn(4000, dtype=torch.float64, generator=generator)
    return a, a @ torch.ones(20, dtype=torch.float64) + noise


def claim_the_bound_on_every_coefficient_holds_and_is_near(claim) -> None:
    """Count how often the errors of 200 sketches stay below their bound, and how far below."""
    m, delta, trials = 400, 0.05, 200
    bars = []
    for coherent in (False, True):
        name = "coherent" if coherent else "incoherent"
        for kind in ("srht", "gaussian"):
            bounds, reported, found = [], [], []
            for seed in range(trials):
                a, b = random_problem(coherent, seed)
                x_star = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
                fit = linf_regression(a, b, m=m, delta=delta, kind=kind, seed=seed)
                optimum = float(torch.linalg.vector_norm(a @ x_star - b))
                bounds.append(linf_bound(a, optimum, m, delta, kind))
                reported.append(float(fit.linf_bound))
                found.append(float((fit.x - x_star).abs().max()))
            error, bound, report = map(torch.tensor, (found, bounds, reported))
            for label, limit in (("linf_bound", bound), ("the bound reported", report)):
                held = float((error <= limit).double().mean())
                bars.append(
                    claim.bar(
                        f"{label} holds, {kind}, {name}",
                        ours=held,
                        baseline=1 - delta,
                        value=held,
                        at_least=1 - delta,
                    )
                )
                bars.append(
                    claim.bar(
                        f"{label} over the median error, {kind}, {name}",
                        ours=float(limit.median()),
                        baseline=float(error.median()),
                        value=float(limit.median() / error.median()),
                        at_most=3.0,
                    )
                )
    claim(
        sentence="The bound on every coefficient holds as often as it promises, and is near the errors",
        paper=PAPER,
        published="a high-probability bound on the largest error, up to constants",
        setup=f"{trials} problems of 4000 x 20 each, incoherent (Gaussian) and coherent (20 rows a thousand "
        f"times heavier), {m} rows of sketch, delta = {delta}; `linf_bound` from the data and the optimal "
        "residual, and the bound that `linf_regression` reports from the sketch and its own residual",
        baseline="the errors themselves, from the exact solution",
        bars=bars,
        seeds=list(range(trials)),
    )
