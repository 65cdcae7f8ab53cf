"""What the papers on sampling rows by their importance promise: few rows, nearly the cost of all."""

import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lemmata.sketching.lp import (
    leverage_scores,
    lewis_weights,
    lp_distortion,
    lp_regression,
    lp_sensitivities,
    probabilities_from_scores,
    sample_rows,
)

PAPER = "Sharper bounds for l_p sensitivity sampling"
DRAWS = 11
SIZES = (150, 300, 600, 1200, 2400)
SCHEMES = {
    "uniform": "#999999",
    "leverage": "#cc3311",
    "leverage, 5 % uniform": "#ee99aa",
    "root leverage": "#ee9933",
    "lewis": "#0077bb",
}


def heavy_rows(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 20 rows scaled by 100 with gross errors, 40 scaled by 40 in a column, Student-t(2.5) noise."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, d))
    A[:20] *= 100
    A[20:60, 0] *= 40
    b = A @ rng.standard_normal(d) + rng.standard_t(2.5, n)
    b[:20] += 1000 * rng.standard_normal(20)
    return torch.tensor(A), torch.tensor(b)


def chebyshev(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Chebyshev polynomials at even points of [-1, 1], Student-t(2.5) noise."""
    rng = np.random.default_rng(seed)
    A = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, n), d - 1)
    return torch.tensor(A), torch.tensor(A @ rng.standard_normal(d) + rng.standard_t(2.5, n))


def scored(A: torch.Tensor, b: torch.Tensor, p: float, scheme: str) -> tuple[torch.Tensor, float]:
    """Return scores of the rows of [A b], and the part of the mass that is spread evenly.

    The package spreads 5 % for every scheme it offers; sampling by leverage as it is published spreads none.
    """
    rows = torch.cat((A, b[:, None]), 1)
    if scheme == "uniform":
        return torch.ones_like(b), 0.0
    if scheme == "lewis":
        return lewis_weights(rows, p), 0.05
    if scheme == "root leverage":
        return leverage_scores(rows) ** (p / 2), 0.05
    return leverage_scores(rows), 0.05 if scheme == "leverage, 5 % uniform" else 0.0


def excess(
    design: Callable[[int, int, int], tuple[torch.Tensor, torch.Tensor]], p: float
) -> dict[tuple[str, int], float]:
    """Return the median over draws of the relative excess cost of each scheme and size."""
    found: dict[tuple[str, int], list[float]] = {(scheme, size): [] for scheme in SCHEMES for size in SIZES}
    for seed in range(DRAWS):
        A, b = design(20_000, 8, seed)
        full = lp_regression(A, b, p)
        assert full.converged
        for scheme in SCHEMES:
            scores, uniform = scored(A, b, p, scheme)
            for size in SIZES:
                q = probabilities_from_scores(scores, size, uniform=uniform)
                coreset = sample_rows(q, torch.Generator().manual_seed(seed))
                x = lp_regression(coreset.take(A), coreset.take(b), p, coreset.weights).x
                found[scheme, size].append(float(((b - A @ x).abs() ** p).sum() / full.cost) - 1)
    return {key: statistics.median(values) for key, values in found.items()}


def claim_lewis_weights_need_a_fraction_of_the_rows(claim) -> None:
    """Compare schemes at equal size on heavy rows and on polynomials."""
    problems = {
        "heavy rows, p = 1": (heavy_rows, 1.0),
        "heavy rows, p = 1.5": (heavy_rows, 1.5),
        "heavy rows, p = 4": (heavy_rows, 4.0),
        "Chebyshev, p = 4": (chebyshev, 4.0),
    }
    found = {name: excess(*problem) for name, problem in problems.items()}
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, (name, medians) in zip(figure.subplots(1, 4), found.items(), strict=True):
        for scheme, colour in SCHEMES.items():
            values = [medians[scheme, size] for size in SIZES]
            axes.loglog(SIZES, values, "o-", color=colour, label=scheme, ms=3)
        axes.set(title=name, xlabel="rows kept of 20,000")
    figure.axes[0].set_ylabel("excess cost, median of 11 draws")
    figure.axes[0].legend(fontsize=7)

    def against(name: str, scheme: str, other: str, size: int, at_most: float):
        ours, baseline = found[name][scheme, size], found[name][other, size]
        quantity = f"{name}, {size} rows: excess cost, {scheme} over {other}"
        return claim.bar(quantity, ours=ours, baseline=baseline, value=ours / baseline, at_most=at_most)

    one = "heavy rows, p = 1"
    mixed = {s: found[one]["lewis", s] / found[one]["leverage, 5 % uniform", s] for s in (300, 1200)}
    fall = found[one]["lewis", 300] / found[one]["lewis", 1200]
    claim(
        sentence="Rows sampled by Lewis weights preserve l_p regression where uniform and leverage "
        "sampling fail",
        paper=PAPER,
        published="theory: Lewis and sensitivity sampling need about d rows for p < 2, d^(p/2) for p > 2, "
        "whatever the data",
        setup="20,000 rows, 8 columns; heavy rows: normal entries, 20 rows scaled by 100 with errors of "
        "standard deviation 1000 in b, 40 rows scaled by 40 in one column; noise of Student's t with 2.5 "
        "degrees of freedom; Chebyshev: polynomials at even points with that noise. Scores of [A b], rows "
        "kept independently; median over 11 draws, each of data and sample",
        baseline="uniform sampling, and leverage score sampling as published, at equal expected size",
        bars=[
            against(one, "lewis", "uniform", 1200, 0.3),
            against(one, "lewis", "leverage", 1200, 0.25),
            against(one, "root leverage", "uniform", 1200, 0.4),
            against(one, "lewis", "uniform", 300, 0.5),
            against(one, "lewis", "leverage", 300, 0.25),
            against("heavy rows, p = 1.5", "lewis", "uniform", 300, 0.3),
            against("heavy rows, p = 4", "lewis", "uniform", 300, 0.2),
            against("Chebyshev, p = 4", "lewis", "uniform", 300, 0.2),
            claim.bar(
                "heavy rows, p = 1, lewis: excess cost of 300 rows over that of 1200",
                ours=found[one]["lewis", 300],
                baseline=found[one]["lewis", 1200],
                value=fall,
                at_least=2.5,
            ),
        ],
        seeds=list(range(DRAWS)),
        figure=figure,
        notes="The size of the gross errors and the polynomials' points are ours, chosen before any result."
        " Lewis and root leverage spread 5 % of the mass evenly, as the package does for all scores; "
        f"leverage sampling as published spreads none (Lewis over it with 5 %: {mixed[300]:.2g} at 300"
        f" and {mixed[1200]:.2g} at 1200 rows). A first run drew one data set, and samples of it, with"
        " leverage mixed so: lewis over uniform 0.70 at 300 and 0.23 at 1200 rows for p = 1, over "
        "leverage 0.81 and 1.07, and 0.24 for the polynomials. Data were then drawn anew each time, "
        "since one draw of such noise decides an excess at p = 4, and leverage sampling was taken as "
        "published. That leverage sampling is worse than uniform for p = 1 does not reproduce. Looked"
        " for: of 300 rows leverage sampling keeps all 20 of the heaviest, and the leverages of the "
        "19,940 others lie within 0.20 to 3.7 times their median (1 % and 99 %), so that the rest of "
        "its sample is not far from uniform. Errors of standard deviation 10 and 100 instead (7 "
        "draws, explored after these results) give lewis over leverage 0.62 and 1.2 at 300, 0.71 and "
        "0.97 at 1200 rows, over uniform 0.36 and 0.66, 0.17 and 0.40. Why Lewis weights gain nothing"
        " over uniform at 300 rows with errors of 1000 is not established; perhaps because such "
        "errors fix the signs of the heavy rows.",
    )


@pytest.mark.long
def claim_sensitivity_sampling_preserves_every_direction(claim) -> None:
    """Search the distortion of samples of the theorem's size on three families."""
    n, d, draws, allowed = 2000, 8, 40, 0.5
    rng = np.random.default_rng(1)
    families = {
        "Gaussian": torch.tensor(rng.standard_normal((n, d))),
        "heavy": heavy_rows(n, d)[0],
        "Chebyshev": chebyshev(n, d)[0],
    }
    bars, shares, figures = [], [], []
    for p in (1.0, 4.0):
        for name, A in families.items():
            scores = lp_sensitivities(A, p, "exact")
            total = float(scores.sum())
            size = round(60 * max(total, d)) if p == 1 else round(min(n / 4, 4 * total**1.5))
            distortions = {}
            for scheme in ("sensitivity", "uniform"):
                q = probabilities_from_scores(
                    scores if scheme == "sensitivity" else torch.ones_like(scores), size
                )
                found = []
                for seed in range(draws):
                    generator = torch.Generator().manual_seed(seed)
                    found.append(lp_distortion(A, sample_rows(q, generator), p, 500, generator=generator))
                distortions[scheme] = np.array(found)
            ours, theirs = (float((distortions[s] <= allowed).mean()) for s in ("sensitivity", "uniform"))
            bars.append(
                claim.bar(
                    f"p = {p:g}, {name}, {size} rows: share of draws with distortion at most {allowed}",
                    ours=ours,
                    baseline=theirs,
                    value=ours,
                    at_least=0.95,
                )
            )
            if name == "heavy":
                median = float(np.median(distortions["uniform"]))
                bars.append(
                    claim.bar(
                        f"p = {p:g}, {name}, {size} rows: median distortion of uniform sampling",
                        ours=float(np.median(distortions["sensitivity"])),
                        baseline=median,
                        value=median,
                        at_least=allowed,
                    )
                )
            shares.append(f"p = {p:g}, {name}: total sensitivity {total:.2f}")
            figures.append((f"{name}\np = {p:g}", distortions))
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for place, (_, distortions) in enumerate(figures):
        for shift, scheme, colour in ((-0.15, "sensitivity", "#0077bb"), (0.15, "uniform", "#999999")):
            axes.plot(
                np.full(draws, place + shift),
                distortions[scheme],
                ".",
                color=colour,
                alpha=0.6,
                label=scheme if place == 0 else None,
            )
    axes.axhline(allowed, color="#cc3311", lw=0.8)
    axes.set(ylabel="distortion found", xticks=range(len(figures)), xticklabels=[name for name, _ in figures])
    axes.legend()
    claim(
        sentence="As many rows as the total sensitivity asks for, sampled by sensitivity, preserve every "
        "direction",
        paper=PAPER,
        published="S^(2/p) rows suffice for 1 <= p < 2, S^(2 - 2/p) for p > 2, up to logarithms",
        setup="2000 rows, 8 columns, exact sensitivities of A; 60 max(S, d) rows for p = 1, "
        "min(n / 4, 4 S^1.5) for p = 4; distortion over 500 probes that climb for 30 steps, 40 draws",
        baseline="uniform sampling of the same size",
        bars=bars,
        seeds=list(range(draws)),
        figure=figure,
        notes="A search finds a lower bound of the distortion. " + "; ".join(shares) + ".",
    )
