"""What sketches promise: any chunking gives the same, and lengths survive at the sizes the theory names."""

import itertools
import math

import numpy as np
import scipy.linalg
import torch
from matplotlib.figure import Figure

from lemmata.sketching.operators import (
    SRHT,
    BlockSRHT,
    CountSketch,
    GaussianSketch,
    SparseSign,
    subspace_distortion,
)

PAPER = "OSNAP: Faster numerical linear algebra algorithms via sparser subspace embeddings"
N, D = 4096, 32
# Family, default rows of the sketch as a multiple of the columns, and its constructor.
FAMILIES = {
    "Gaussian": (4, GaussianSketch),
    "sparse sign, 8 a column": (4, SparseSign),
    "SRHT": (4, SRHT),
    "block SRHT": (4, lambda m, n, seed: BlockSRHT(m, n, 512, seed=seed)),
    "CountSketch": (8, CountSketch),
}
SPECTRA = {
    "flat": torch.ones(D, dtype=torch.float64),
    "polynomial": torch.arange(1, D + 1, dtype=torch.float64) ** -2,
    "exponential": torch.logspace(0, -10, D, dtype=torch.float64),
    "one gap": torch.cat((torch.ones(D // 2), torch.full((D // 2,), 1e-6))).to(torch.float64),
}


def basis(kind: str, seed: int) -> torch.Tensor:
    """Return orthonormal columns: spread over all rows, or (coherent) nearly unit vectors at D rows."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(N, D, dtype=torch.float64, generator=generator)
    if kind == "coherent":
        a *= 1e-8
        a[torch.randperm(N, generator=generator)[:D], torch.arange(D)] = 1
    return torch.linalg.qr(a).Q


def matrix(spectrum: str, kind: str, seed: int) -> torch.Tensor:
    """Return a matrix with a given spectrum and left singular vectors."""
    generator = torch.Generator().manual_seed(1000 + seed)
    right = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=generator)).Q
    return basis(kind, seed) * SPECTRA[spectrum] @ right


def claim_a_sketch_is_the_same_for_every_chunking(claim) -> None:
    """Cut the rows at random, add the parts in random order, and compare with one call."""
    rng = np.random.default_rng(0)
    a = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    for _, family in FAMILIES.values():
        for seed in range(10):
            sketch = family(4 * D, N, seed=seed)
            whole = sketch @ a
            edges = [0, *sorted(rng.integers(0, N, 12).tolist()), N]
            pieces = list(itertools.pairwise(edges))
            rng.shuffle(pieces)
            total = sum(sketch.partial(a[start:stop], int(start)) for start, stop in pieces)
            worst = max(worst, float((total - whole).abs().max() / whole.abs().max()))
    claim(
        sentence="The sketch is a function of its seed alone: any cut of the rows gives the same",
        paper=PAPER,
        published="a linear sketch can be merged",
        setup=f"{len(FAMILIES)} families, m = {4 * D}, {N} x {D} Gaussian data, 13 pieces cut and ordered at "
        "random, 10 seeds each; largest difference relative to the largest entry",
        baseline="one call on all rows",
        bars=[claim.bar("largest relative difference", ours=worst, baseline=0.0, value=worst, at_most=1e-12)],
        seeds=range(10),
    )


def claim_distortion_is_the_root_of_columns_over_rows(claim) -> None:
    """Measure the distortion of each family at its default size, over spectra, bases and seeds."""
    seeds = range(5)
    found: dict[tuple[str, str], list[float]] = {}
    for name, (multiple, family) in FAMILIES.items():
        for kind in ("incoherent", "coherent"):
            found[name, kind] = [
                subspace_distortion(
                    family(multiple * D, N, seed=seed), matrix(spectrum, kind, seed), rcond=1e-14
                )
                for spectrum in SPECTRA
                for seed in seeds
            ]
    bars = []
    for name, (multiple, _) in FAMILIES.items():
        limit = 1.25 * math.sqrt(1 / multiple) + 0.05
        for kind in ("incoherent", "coherent"):
            if (name, kind) != ("CountSketch", "coherent"):
                largest = max(found[name, kind])
                quantity = f"largest distortion over 1.25 sqrt(d / m) + 0.05, {name}, {kind} basis"
                bars.append(
                    claim.bar(quantity, ours=largest, baseline=limit, value=largest / limit, at_most=1.0)
                )
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("incoherent", "coherent"), strict=True):
        axes.boxplot([found[name, kind] for name in FAMILIES], showfliers=True)
        for i, (multiple, _) in enumerate(FAMILIES.values(), 1):
            axes.plot([i - 0.3, i + 0.3], [1.25 * math.sqrt(1 / multiple) + 0.05] * 2, color="#cc3311")
        axes.set_xticks(range(1, len(FAMILIES) + 1), [name.split(",")[0] for name in FAMILIES], rotation=20)
        axes.set_title(f"{kind} basis (red: the bar)")
    figure.axes[0].set_ylabel("distortion")
    claim(
        sentence="Singular values of S Q lie within sqrt(d / m) of 1 at each family's default size",
        paper=PAPER,
        published="sparse embeddings with a few nonzeros a column keep subspaces; Gaussian ones have "
        "singular values in [1 - sqrt(d/m), 1 + sqrt(d/m)]",
        setup=f"n = {N}, d = {D}, m = 4 d (CountSketch 8 d), 4 spectra, incoherent and coherent bases "
        "(D rows hold all but 1e-8 of the length), 5 seeds of data and sketch",
        baseline="1.25 sqrt(d / m) + 0.05",
        bars=bars,
        seeds=seeds,
        figure=figure,
        notes="Distortion is a matter of the range: the spectra only test how the range is found. "
        "CountSketch promises nothing on a coherent basis at this size; its largest distortion there was "
        f"{max(found['CountSketch', 'coherent']):.2f}. Sizes and seeds were fixed before the first run.",
    )


def claim_sparse_signs_keep_what_one_sign_a_column_loses(claim) -> None:
    """Count seeds at which two directions collide: SciPy's CountSketch beside eight signs a column."""
    seeds = range(20)
    m = 4 * D
    ours, theirs, single = [], [], []
    for seed in seeds:
        q = basis("coherent", seed)
        ours.append(subspace_distortion(SparseSign(m, N, seed=seed), q))
        single.append(subspace_distortion(CountSketch(m, N, seed=seed), q))
        sketched = scipy.linalg.clarkson_woodruff_transform(q.numpy(), m, rng=seed)
        theirs.append(float(np.abs(np.linalg.svd(sketched, compute_uv=False) - 1).max()))
    failures = [sum(value > 0.9 for value in values) for values in (ours, theirs, single)]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for values, label in ((ours, "sparse sign, 8 a column"), (theirs, "SciPy"), (single, "CountSketch")):
        axes.plot(seeds, sorted(values), "o-", markersize=3, label=label)
    axes.axhline(0.9, color="#cc3311", linewidth=0.8)
    axes.set(xlabel="seed, in order of distortion", ylabel="distortion", ylim=(0, None))
    axes.legend()
    claim(
        sentence="Several signs a column lose no direction at m = 4 d, where one sign a column does",
        paper=PAPER,
        published="one nonzero a column needs m of order d^2, several need m of order d log d",
        setup=f"n = {N}, d = {D}, m = {m}, coherent basis, 20 seeds; a failure is a distortion above 0.9",
        baseline="scipy.linalg.clarkson_woodruff_transform, m = 4 d",
        bars=[
            claim.bar(
                "failures of 8 signs a column",
                ours=failures[0],
                baseline=failures[1],
                value=failures[0],
                at_most=0,
            ),
            claim.bar(
                "failures of SciPy's CountSketch",
                ours=failures[0],
                baseline=failures[1],
                value=failures[1],
                at_least=1,
            ),
        ],
        seeds=seeds,
        figure=figure,
        notes=f"Our CountSketch, which is of the same family as SciPy's, failed {failures[2]} times.",
    )
