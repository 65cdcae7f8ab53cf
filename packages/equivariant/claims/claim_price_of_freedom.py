"""Fast tensor products express less: what each can express and costs, and how to get back what is lost."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lemmata.equivariant.expressivity import coupling_strengths
from lemmata.equivariant.nn import BesselBasis, ChannelLinear
from lemmata.equivariant.o3 import Irrep, Irreps, rand_rotation, spherical_harmonics
from lemmata.equivariant.tensor_product import (
    CompleteTensorProduct,
    GauntTensorProduct,
    TensorProduct,
    VectorSignalTensorProduct,
)
from lemmata.equivariant.tensor_product.comparison import (
    Record,
    benchmark_tensor_products,
    comparison_table,
    growth_exponents,
    plot_comparison,
)

PAPER = (
    "Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime"
    " Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523"
)
BATCH, CHANNELS, ROUNDS = 64, 32, 11
SIZES = f"float32, one thread, batches of {BATCH} with {CHANNELS} channels, all degrees up to L"
SEEDS = (0, 1, 2, 3, 4)
SHAPES = {
    "chiral, one hand": [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0]],
    "chiral, other hand": [[1, 1, 1], [1, 1, 2], [2, 1, 1], [2, 0, 1]],
    "square": [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]],
    "line": [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]],
    "corner": [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]],
    "L": [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]],
    "T": [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 1]],
    "zigzag": [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0]],
}

Call = Callable[[], Any]


def claim_the_sphere_grid_is_five_times_faster_than_the_fourier_basis_at_equal_output(claim: Any) -> None:
    """Compute the same map both ways, for every degree up to eight."""
    degrees = range(1, 9)
    ratios, errors, both = [], [], []
    for lmax in degrees:
        x, y = torch.randn(2, BATCH, CHANNELS, (lmax + 1) ** 2, generator=torch.Generator().manual_seed(lmax))
        grid, fourier = (
            GauntTensorProduct(lmax, lmax, lmax, channels=CHANNELS, method=method)  # type: ignore[arg-type]
            for method in ("grid", "fourier")
        )
        with torch.no_grad():
            exact = [product.double()(x.double(), y.double()) for product in (grid, fourier)]
        errors.append((exact[0] - exact[1]).abs().max().item())
        grid.float()
        fourier.float()
        calls = {"grid": lambda: grid(x, y), "fourier": lambda: fourier(x, y)}  # noqa: B023 - called below
        with one_thread(), torch.no_grad():
            times = alternate(calls)
        ratios.append(times["fourier"] / times["grid"])
        both.append(times)
    claim(
        sentence="A grid on the sphere computes the Gaunt product many times faster than the two-dimensional"
        " Fourier basis",
        paper=PAPER,
        published="the sphere grid in place of the Fourier basis trains MACE 30 % faster, at equal asymptotic"
        " cost",
        setup=f"{SIZES} = 1..8, forwards without gradients, medians of {ROUNDS} runs in turns",
        bars=[
            claim.bar(
                "Fourier's time / the grid's, least of L = 1..8",
                ours=1.0,
                baseline=min(ratios),
                value=min(ratios),
                at_least=5.0,
            ),
            claim.bar(
                "largest difference of the outputs, float64",
                ours=max(errors),
                baseline=0.0,
                value=max(errors),
                at_most=1e-10,
            ),
        ],
        baseline="our own Fourier path: changes of basis order by order, FFTs of the smallest size without"
        " aliasing",
        figure=draw_times(list(degrees), both),
        notes=f"Ratios at L = 1..8: {listed(ratios)}.",
    )


def claim_all_couplings_come_three_times_faster_than_e3nns_path_by_path(claim: Any) -> None:
    """Reach every coupling by the Gaunt product and the bracket, beside e3nn, one path after another."""
    degrees = (2, 3, 4, 5, 6)
    names = ["complete", "e3nn"]
    with one_thread():
        forward, backward = (
            benchmark_tensor_products(degrees, CHANNELS, BATCH, flag, products=names, rounds=ROUNDS)
            for flag in (False, True)
        )
    ratios, both = (ratio(records, "e3nn", "complete") for records in (forward, backward))
    claim(
        sentence="The Gaunt product and the Poisson bracket on one grid reach every coupling of a"
        " Clebsch-Gordan product in a third of the time",
        paper=PAPER,
        published="faster products are different, less expressive operations; no times of this product",
        setup=f"{SIZES} = 2..6 in both inputs and both output blocks, forwards without gradients, medians of"
        f" {ROUNDS} runs in turns",
        bars=[
            claim.bar(
                "e3nn's time / ours, forwards, least of L = 2..6",
                ours=1.0,
                baseline=min(ratios),
                value=min(ratios),
                at_least=3.0,
            )
        ],
        baseline="e3nn.o3.TensorProduct with all 'uuu' paths, natural inputs, outputs of both parities",
        figure=plot_comparison(forward),
        notes=f"Ratios at L = 2..6: forwards {listed(ratios)}; forwards and backwards {listed(both)}. Both"
        " reach the same triples. e3nn sets each of them by a weight of its own,"
        f" {listed(figures(forward, 'e3nn'))} a channel; the complete product sets"
        f" {listed(figures(forward, 'complete'))} numbers and mixes the rest in fixed proportion.",
    )


def claim_gaunt_product_and_bracket_reach_every_coupling(claim: Any) -> None:
    """Project both maps on the 3j symbols of all triples up to degree six."""
    lmax = 6
    options = {"degree_weights": False, "normalization": "none", "dtype": torch.float64}
    gaunt = coupling_strengths(GauntTensorProduct(lmax, lmax, lmax, method="grid", **options)).abs()  # type: ignore[arg-type]
    bracket = coupling_strengths(VectorSignalTensorProduct(lmax, lmax, lmax, **options)).abs()  # type: ignore[arg-type]
    triples = [
        t for t in itertools.product(range(lmax + 1), repeat=3) if abs(t[0] - t[1]) <= t[2] <= t[0] + t[1]
    ]
    even = [t for t in triples if sum(t) % 2 == 0]
    odd = [t for t in triples if sum(t) % 2]
    weakest = {"even": min(gaunt[t].item() for t in even), "odd": min(bracket[t].item() for t in odd)}
    reached = sum(gaunt[t].item() > 1e-6 for t in even) + sum(bracket[t].item() > 1e-6 for t in odd)
    wrong = max(*(gaunt[t].item() for t in odd), *(bracket[t].item() for t in even))
    claim(
        sentence="Every coupling of degrees is one of the Gaunt product or one of the Poisson bracket",
        paper=PAPER,
        published="products of vector signals reach the couplings that products of scalar signals do not",
        setup=f"all {len(triples)} triples of degrees up to {lmax} that satisfy the triangle inequality,"
        f" float64: {len(even)} with an even sum, {len(odd)} with an odd one",
        bars=[
            claim.bar(
                "triples reached / triples",
                ours=reached,
                baseline=len(triples),
                value=reached / len(triples),
                at_least=1.0,
            ),
            claim.bar(
                "strongest coupling of the other parity", ours=wrong, baseline=0.0, value=wrong, at_most=1e-10
            ),
        ],
        baseline="the Clebsch-Gordan product, which has all of them by construction",
        figure=draw_strengths(gaunt, bracket, even, odd),
        notes="Weakest strengths along 3j symbols of norm 1: Gaunt"
        f" {weakest['even']:.3g}, bracket {weakest['odd']:.3g}.",
    )


def claim_handedness_is_seen_with_the_bracket_and_not_without(claim: Any) -> None:
    """Tell eight shapes of four cubes apart under rotations; two are mirror images."""
    found = {
        name: [accuracy_after_training(chiral, seed) for seed in SEEDS]
        for name, chiral in (("Gaunt", False), ("Gaunt and bracket", True))
    }
    claim(
        sentence="A network of Gaunt products cannot tell mirror images apart; with the bracket it can",
        paper=PAPER,
        published="Gaunt products lack all antisymmetric couplings",
        setup="eight shapes of four unit cubes, rotated at random; 16 channels, degrees to 2, products of"
        " three sums over neighbours, 200 steps of Adam at learning rate 0.01, one rotation of all shapes a"
        " step; judged on 100 new rotations of each. Both networks are the same but for the product",
        bars=[
            claim.bar(
                "accuracy with Gaunt and bracket, least of 5 seeds",
                ours=min(found["Gaunt and bracket"]),
                baseline=max(found["Gaunt"]),
                value=min(found["Gaunt and bracket"]),
                at_least=1.0,
            ),
            claim.bar(
                "accuracy with Gaunt alone, largest of 5 seeds (7/8 is all that mirrors allow)",
                ours=max(found["Gaunt"]),
                baseline=7 / 8,
                value=max(found["Gaunt"]),
                at_most=0.9,
            ),
        ],
        baseline="the same network with GauntTensorProduct in place of CompleteTensorProduct",
        seeds=SEEDS,
        notes="By seed: " + "; ".join(f"{name} {listed(values)}" for name, values in found.items()) + ".",
    )


@pytest.mark.long
def claim_no_speed_without_expressivity_and_auto_near_the_best(claim: Any) -> None:
    """Time all products at all sizes; then the front's methods that compute the same map, and its choice."""
    degrees, channels = (1, 2, 3, 4, 5, 6), (32, 128)
    with one_thread():
        records = benchmark_tensor_products(degrees, channels, BATCH, rounds=5)
        choices = [
            choice(kind, lmax, count)
            for kind, lmax, count in itertools.product(("channelwise", "complete"), degrees, channels)
        ]
    exponents = growth_exponents(records)
    worst = max(choices, key=lambda found: found["ratio"])
    claim(
        sentence="Products that are faster express less; the front chooses the fastest way to compute the map"
        " that is asked for",
        paper=PAPER,
        published="expressivity O(L^3) of Clebsch-Gordan products beside O(L) of Gaunt products; asymptotic"
        " and measured cost differ",
        setup=f"float32, one thread, batches of {BATCH}, L = 1..6, C = 32 and 128, forwards without"
        " gradients. For `auto`: kinds channelwise and complete, every method that computes the kind's map,"
        " medians of 7 runs in turns",
        bars=[
            claim.bar(
                "time of the method that `auto` chose / the best method's, largest of all sizes and kinds",
                ours=worst["chosen"],
                baseline=worst["best"],
                value=worst["ratio"],
                at_most=1.3,
            )
        ],
        baseline="the fastest of the methods, measured",
        figure=plot_comparison(records),
        notes="Chosen and ratio to the best, by kind, L, C: "
        + "; ".join(f"{f['name']}: {f['method']} {f['ratio']:.2f}" for f in choices)
        + ". Exponents of times in L + 1: "
        + ", ".join(f"{name} (C = {count}) {value:.2f}" for (name, count), value in exponents.items())
        + ".\n\n"
        + comparison_table(records),
    )


class ShapeNet(nn.Module):
    """Classifies points by features of three bodies, with or without the bracket."""

    def __init__(self, *, chiral: bool, channels: int = 16, lmax: int = 2) -> None:
        super().__init__()
        self.chiral = chiral
        self.lmax = lmax
        self.radial = nn.Sequential(BesselBasis(8, 4.0), nn.Linear(8, channels))
        self.mix = nn.ModuleList([ChannelLinear(channels, channels, lmax) for _ in range(3)])
        sizes = (lmax, lmax, lmax)
        if chiral:
            self.two: nn.Module = CompleteTensorProduct(*sizes, channels=channels)
            self.three: nn.Module = CompleteTensorProduct(*sizes, unnatural1=True, channels=channels)
        else:
            self.two = GauntTensorProduct(*sizes, channels=channels)
            self.three = GauntTensorProduct(*sizes, channels=channels)
        width = channels * (2 if chiral else 1)
        self.readout = nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, len(SHAPES)))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the logits of shapes `(B, 4, 3)`."""
        vectors = positions[:, None] - positions[:, :, None]
        apart = ~torch.eye(positions.shape[1], dtype=torch.bool)
        radial = self.radial(vectors.norm(dim=-1).clamp(min=0.1)) * apart[..., None]
        harmonics = spherical_harmonics(range(self.lmax + 1), vectors, True, "component")
        one = torch.einsum("bijc,bijm->bicm", radial, harmonics) / 3**0.5
        three = self.three(self.two(self.mix[0](one), self.mix[1](one)), self.mix[2](one))
        blocks = three if self.chiral else (three,)
        return self.readout(torch.cat([block[..., 0].mean(1) for block in blocks], dim=-1))


def accuracy_after_training(chiral: bool, seed: int) -> float:
    """Train on rotated shapes, and return the share of new rotations that are recognised."""
    torch.manual_seed(seed)
    shapes = torch.tensor(list(SHAPES.values()), dtype=torch.float32)
    labels = torch.arange(len(shapes))
    model = ShapeNet(chiral=chiral)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(shapes @ rand_rotation().mT), labels).backward()
        optimizer.step()
    with torch.no_grad():
        right = [(model(shapes @ rand_rotation().mT).argmax(-1) == labels).float().mean() for _ in range(100)]
    return float(torch.stack(right).mean())


def choice(kind: str, lmax: int, channels: int) -> dict[str, Any]:
    """Time the methods that compute one map, and tell which of them `auto` takes."""
    natural = Irreps([(channels, Irrep(l, (-1) ** l)) for l in range(lmax + 1)])
    unnatural = Irreps([(channels, Irrep(l, -((-1) ** l))) for l in range(1, lmax + 1)])
    arguments: Any = (natural, natural, natural + unnatural)
    methods = ("dense", "sparse") if kind == "channelwise" else ("dense", "sparse", "grid")
    products = {
        method: TensorProduct(*arguments, kind=kind, method=method, batch=BATCH)  # type: ignore[arg-type]
        for method in methods
    }
    chosen = TensorProduct(*arguments, kind=kind, batch=BATCH).method  # type: ignore[arg-type]
    x, y = torch.randn(2, BATCH, natural.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        times = alternate({m: lambda p=p: p(x, y) for m, p in products.items()}, rounds=7)  # type: ignore[misc]
    best = min(times.values())
    return {
        "name": f"{kind}, {lmax}, {channels}",
        "method": chosen,
        "chosen": times[chosen],
        "best": best,
        "ratio": times[chosen] / best,
    }


def alternate(calls: Mapping[str, Call], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median seconds of each call, after two rounds of warm-up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: median(seconds[2:]) for name, seconds in found.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ratio(records: Sequence[Record], above: str, below: str) -> list[float]:
    """Return one product's times divided by another's, by degree."""
    times = {(record.product, record.lmax): record.seconds for record in records}
    return [times[above, lmax] / times[below, lmax] for lmax in sorted({record.lmax for record in records})]


def figures(records: Sequence[Record], product: str) -> list[int]:
    """Return a product's expressivity by degree."""
    return [record.expressivity for record in records if record.product == product]


def draw_times(degrees: list[int], times: Sequence[Mapping[str, float]]) -> Figure:
    """Draw times against the degree."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for name in times[0]:
        axes.semilogy(degrees, [1e3 * found[name] for found in times], marker="o", label=name)
    axes.set(xlabel="L", ylabel="ms, forwards")
    axes.legend()
    plt.close(figure)
    return figure


def draw_strengths(
    gaunt: Tensor, bracket: Tensor, even: Sequence[tuple[int, ...]], odd: Sequence[tuple[int, ...]]
) -> Figure:
    """Draw the strengths of both products, sorted."""
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for name, strengths, triples in (("Gaunt, even sums", gaunt, even), ("bracket, odd sums", bracket, odd)):
        axes.semilogy(sorted(strengths[t].item() for t in triples), marker=".", linestyle="", label=name)
    axes.set(xlabel="triples of degrees, by strength", ylabel="strength along the 3j symbol")
    axes.legend()
    plt.close(figure)
    return figure


def listed(values: Sequence[float]) -> str:
    """Write values with three digits."""
    return ", ".join(f"{value:.3g}" for value in values)
