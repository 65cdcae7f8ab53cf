"""Time every tensor product on the machine at hand, beside what each can express.

A faster product is as a rule a less expressive one, so a time alone says nothing: each record carries the
number of couplings the product reaches and the number it can set, and the table is ordered by what a settable
coupling costs. `python -m lemmata.equivariant.tensor_product.comparison` prints it.

References:
    Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime
    Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523.
"""

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lemmata.equivariant.expressivity import expressivity, interactability
from lemmata.equivariant.o3 import Irrep, Irreps
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.front import TensorProduct
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct

__all__ = [
    "PRODUCTS",
    "Record",
    "benchmark_tensor_products",
    "comparison_table",
    "growth_exponents",
    "plot_comparison",
]


@dataclass(frozen=True)
class Record:
    """What one product takes and gives.

    Attributes:
        product: Its name, a key of `PRODUCTS`.
        lmax: Largest degree of both inputs and of the output.
        channels: Channels, multiplied one with one.
        batch: Samples.
        backward: Whether the time includes the derivative by both inputs and by weights.
        expressivity: Numbers of a channel that can be set, with one copy of each degree around it.
        interactable: Triples of degrees that are coupled.
        seconds: Median of the repetitions.
    """

    product: str
    lmax: int
    channels: int
    batch: int
    backward: bool
    expressivity: int
    interactable: int
    seconds: float

    @property
    def seconds_per_coupling(self) -> float:
        """Seconds divided by expressivity."""
        return self.seconds / self.expressivity


def benchmark_tensor_products(
    lmaxs: Sequence[int] = (1, 2, 3, 4),
    channels: int | Sequence[int] = 32,
    batch: int = 64,
    backward: bool = False,
    *,
    products: Sequence[str] | None = None,
    rounds: int = 15,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> list[Record]:
    """Time tensor products on the same numbers, in turns, after a warm-up.

    All take natural features of degrees up to `lmax` and give all that they couple up to `lmax`, channel by
    channel. The number of threads is the caller's business: `torch.set_num_threads(1)` compares work, not
    scheduling.

    Args:
        lmaxs: Largest degrees.
        channels: Numbers of channels.
        batch: Number of samples.
        backward: Time the derivatives too; without them no graph is recorded.
        products: Names from `PRODUCTS`; by default all, `"e3nn"` only where it is installed.
        rounds: Repetitions, of which the median counts.
        dtype: Of the numbers.
        device: Of the numbers.

    Raises:
        ValueError: Where a product is unknown or `rounds` is below 1.
        ModuleNotFoundError: Where `"e3nn"` is asked for and not installed.

    Examples:
        >>> records = benchmark_tensor_products([1], 4, 2, products=["gaunt, grid", "complete"], rounds=1)
        >>> [(record.product, record.expressivity, record.interactable) for record in records]
        [('gaunt, grid', 4, 4), ('complete', 5, 5)]
    """
    names = list(PRODUCTS) if products is None else list(products)
    if products is None and importlib.util.find_spec("e3nn") is None:
        names.remove("e3nn")
    unknown = [name for name in names if name not in PRODUCTS]
    if unknown:
        raise ValueError(f"`products` (={unknown}) must be among {', '.join(PRODUCTS)}")
    if rounds < 1:
        raise ValueError(f"`rounds` (={rounds}) must be at least 1")
    counts = [channels] if isinstance(channels, int) else list(channels)
    records = []
    for lmax in lmaxs:
        single = {name: PRODUCTS[name](lmax, 1) for name in names}
        figures = {name: (expressivity(tp), int(interactability(tp).sum())) for name, tp in single.items()}
        for count in counts:
            modules = {name: PRODUCTS[name](lmax, count).to(device=device, dtype=dtype) for name in names}
            seconds = _time(modules, lmax, count, batch, backward, rounds)
            records += [
                Record(name, lmax, count, batch, backward, *figures[name], seconds[name]) for name in names
            ]
    return records


def comparison_table(records: Sequence[Record]) -> str:
    """Return a Markdown table, for each degree and number of channels the cheapest coupling first.

    Args:
        records: From `benchmark_tensor_products`.

    Examples:
        >>> print(comparison_table([Record("complete", 1, 32, 64, False, 5, 5, 2e-3)]))
        | L | C | product | expressivity | triples | ms | us per coupling |
        | --- | --- | --- | --- | --- | --- | --- |
        | 1 | 32 | complete | 5 | 5 | 2.000 | 400.0 |
    """
    header = ("L", "C", "product", "expressivity", "triples", "ms", "us per coupling")
    rows = [header, ("---",) * len(header)]
    for r in sorted(records, key=lambda r: (r.lmax, r.channels, r.seconds_per_coupling)):
        times = (f"{1e3 * r.seconds:.3f}", f"{1e6 * r.seconds_per_coupling:.1f}")
        counts = (str(r.expressivity), str(r.interactable))
        rows.append((str(r.lmax), str(r.channels), r.product, *counts, *times))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def growth_exponents(records: Sequence[Record]) -> dict[tuple[str, int], float]:
    """Return the exponent of each product's time in `lmax + 1`, fitted on logarithms.

    Args:
        records: From `benchmark_tensor_products`, with at least two degrees.

    Returns:
        The exponent by product and number of channels.

    Raises:
        ValueError: Where there is one degree only.

    Examples:
        >>> records = [Record("dense", l, 32, 64, False, 1, 1, (l + 1) ** 4) for l in (1, 2, 3)]
        >>> {key: round(value, 6) for key, value in growth_exponents(records).items()}
        {('dense', 32): 4.0}
    """
    exponents = {}
    for key in dict.fromkeys((record.product, record.channels) for record in records):
        own = [record for record in records if (record.product, record.channels) == key]
        if len({record.lmax for record in own}) < 2:
            raise ValueError(f"`records` of {key[0]!r} with {key[1]} channels must have at least two degrees")
        x = [math.log(record.lmax + 1) for record in own]
        y = [math.log(record.seconds) for record in own]
        x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
        above = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
        exponents[key] = above / sum((a - x_mean) ** 2 for a in x)
    return exponents


def plot_comparison(records: Sequence[Record]) -> Any:
    """Draw times, and times for each settable coupling, against the degree; needs matplotlib.

    Args:
        records: From `benchmark_tensor_products`.

    Returns:
        A `matplotlib.figure.Figure`, a row for each number of channels.
    """
    from matplotlib.figure import Figure

    counts = sorted({record.channels for record in records})
    figure = Figure(figsize=(9.0, 3.6 * len(counts)), layout="constrained")
    axes = figure.subplots(len(counts), 2, squeeze=False)
    for row, count in zip(axes, counts, strict=True):
        for name in dict.fromkeys(record.product for record in records):
            own = sorted(
                (r for r in records if (r.product, r.channels) == (name, count)), key=lambda r: r.lmax
            )
            degrees = [record.lmax for record in own]
            row[0].semilogy(degrees, [1e3 * record.seconds for record in own], marker="o", label=name)
            row[1].semilogy(degrees, [1e6 * r.seconds_per_coupling for r in own], marker="o", label=name)
        what = "forwards and backwards" if records[0].backward else "forwards"
        row[0].set(xlabel="L", ylabel=f"ms, {what}", title=f"{count} channels")
        row[1].set(xlabel="L", ylabel="us for each settable coupling")
        row[1].legend(fontsize="small")
    return figure


def _time(
    modules: dict[str, nn.Module], lmax: int, channels: int, batch: int, backward: bool, rounds: int
) -> dict[str, float]:
    """Return the median seconds of each module."""
    found: dict[str, list[float]] = {name: [] for name in modules}
    parameter = next(value for module in modules.values() for value in module.parameters())
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(batch, channels, (lmax + 1) ** 2, generator=generator).to(parameter) for _ in range(2)
    )
    for number in range(rounds + 2):
        for name, module in modules.items():
            dense = hasattr(module, "lmax1")
            inputs = [(v if dense else v.flatten(-2)).clone().requires_grad_(backward) for v in (x, y)]
            module.zero_grad()
            _finish(parameter)
            start = time.perf_counter()
            with torch.set_grad_enabled(backward):
                out = module(*inputs)
                if backward:
                    total: Tensor = sum(o.sum() for o in out) if isinstance(out, tuple) else out.sum()
                    torch.autograd.backward(total)
            _finish(parameter)
            if number >= 2:
                found[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in found.items()}


def _finish(tensor: Tensor) -> None:
    """Wait for the accelerator, where there is one."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _irreps(lmax: int, channels: int, *, both: bool = False) -> Irreps:
    """Return natural features, or natural and unnatural ones."""
    parities = (1, -1) if both else (1,)
    return Irreps([(channels, Irrep(l, p * (-1) ** l)) for p in parities for l in range(lmax + 1)])


def _with_all_paths(method: str) -> Callable[[int, int], nn.Module]:
    """Return what makes a Clebsch-Gordan product with a weight for each path and channel."""

    def make(lmax: int, channels: int) -> nn.Module:
        inputs = _irreps(lmax, channels)
        out = _irreps(lmax, channels, both=True).filter(
            [ir for l1 in range(lmax + 1) for l2 in range(lmax + 1) for ir in _couples(l1, l2)]
        )
        return TensorProduct(inputs, inputs, out, kind="channelwise", method=method)  # type: ignore[arg-type]

    return make


def _e3nn(lmax: int, channels: int) -> nn.Module:
    """Return e3nn's product with the same paths, one after another."""
    from e3nn import o3

    irreps = [(channels, (l, (-1) ** l)) for l in range(lmax + 1)]
    out = irreps + [(channels, (l, -((-1) ** l))) for l in range(1, lmax + 1)]
    paths = [
        (l1, l2, l3 if (l1 + l2 + l3) % 2 == 0 else lmax + l3, "uuu", True)
        for l1 in range(lmax + 1)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, lmax) + 1)
    ]
    product: nn.Module = o3.TensorProduct(irreps, irreps, out, paths, shared_weights=True)
    return product


def _couples(l1: int, l2: int) -> list[Irrep]:
    """Return the irreps that natural features of two degrees couple to."""
    return list(Irrep(l1, (-1) ** l1) * Irrep(l2, (-1) ** l2))


PRODUCTS: dict[str, Callable[[int, int], nn.Module]] = {
    "dense": _with_all_paths("dense"),
    "sparse": _with_all_paths("sparse"),
    "gaunt, fourier": lambda lmax, channels: GauntTensorProduct(
        lmax, lmax, lmax, channels=channels, method="fourier"
    ),
    "gaunt, grid": lambda lmax, channels: GauntTensorProduct(
        lmax, lmax, lmax, channels=channels, method="grid"
    ),
    "bracket": lambda lmax, channels: VectorSignalTensorProduct(
        lmax, lmax, lmax, channels=channels, degree_weights=True
    ),
    "complete": lambda lmax, channels: CompleteTensorProduct(lmax, lmax, lmax, channels=channels),
    "matrix": lambda lmax, channels: MatrixTensorProduct(
        lmax, lmax, lmax, channels=channels, degree_weights=True
    ),
    "e3nn": _e3nn,
}
"""What is compared: from the largest degree and the number of channels to a module."""


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(comparison_table(benchmark_tensor_products()) + "\n")
