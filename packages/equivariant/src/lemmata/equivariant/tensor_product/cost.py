r"""What a product costs by each method: counts of operations times rates that were measured.

The time of a forward pass is predicted as

$$t = t_{\text{call}} n_{\text{calls}} + \frac{n_{\text{dense}}}{r_{\text{dense}}} +
\frac{n_{\text{sparse}}}{r_{\text{sparse}}} + \frac{n_{\text{moved}}}{r_{\text{moved}}} +
\frac{n_{\text{stored}}}{r_{\text{stored}}},$$

with the number of tensor operations, of multiply-adds in matrix products and in sparse sums, of numbers read
and written by everything else, and of numbers in temporaries too large for the cache. `RATES` holds the five
rates of a class of machine. They start from least squares on measured times of the methods themselves, were
rounded, and those of sparse sums and of temporaries were then set by hand, so that mostly the fastest
measured method is the one chosen: trust the order of the methods more than the seconds.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lemmata.equivariant.o3.irreps import Irrep, Irreps
from lemmata.equivariant.o3.wigner import wigner_3j
from lemmata.equivariant.tensor_product.channelwise import BLOCK_ELEMENTS
from lemmata.equivariant.tensor_product.grid_product import grid_size
from lemmata.equivariant.tensor_product.mixture import dense_features
from lemmata.equivariant.tensor_product.paths import PathTable, channelwise_paths, path_table
from lemmata.equivariant.tensor_product.sparse import BLOCK_COLUMNS

__all__ = ["RATES", "Counts", "Rates", "mixture_counts", "path_counts", "predicted_costs"]


@dataclass(frozen=True)
class Counts:
    """Operations of a forward pass.

    Attributes:
        calls: Tensor operations.
        dense: Multiply-adds in matrix products.
        sparse: Multiply-adds in sparse sums.
        moved: Numbers read and written besides.
        stored: Numbers in temporaries too large for the cache.
    """

    calls: float = 0.0
    dense: float = 0.0
    sparse: float = 0.0
    moved: float = 0.0
    stored: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.calls + other.calls,
            self.dense + other.dense,
            self.sparse + other.sparse,
            self.moved + other.moved,
            self.stored + other.stored,
        )


@dataclass(frozen=True)
class Rates:
    """Speed of a machine, float32.

    Attributes:
        call: Seconds for each tensor operation.
        dense: Multiply-adds a second in matrix products.
        sparse: Multiply-adds a second in sparse sums.
        moved: Numbers a second read and written.
        stored: Numbers a second written to and read from memory.
    """

    call: float
    dense: float
    sparse: float
    moved: float
    stored: float

    def seconds(self, counts: Counts) -> float:
        """Return the predicted time."""
        return (
            self.call * counts.calls
            + counts.dense / self.dense
            + counts.sparse / self.sparse
            + counts.moved / self.moved
            + counts.stored / self.stored
        )


RATES = {"cpu": Rates(call=3.6e-6, dense=2.5e10, sparse=2.0e10, moved=5.0e9, stored=5.0e8)}
"""One core of a server CPU with 512-bit vectors, float32. Measured on a machine that others used as well."""


CACHE_ELEMENTS = 1 << 20
"""Temporaries of more numbers than this (4 MiB of float32) are taken to leave the cache."""


def predicted_costs(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    irreps_out: Irreps | str | None = None,
    *,
    kind: str = "full",
    keep: Iterable[Irrep | str] | None = None,
    degree_rank: int | None = None,
    batch: int = 256,
    machine: str = "cpu",
) -> dict[str, float]:
    """Return the predicted seconds of one forward pass by each method among which `"auto"` chooses.

    All compute the same map: for the kinds with independent weights on all paths `dense` and `sparse`, for
    `complete` `grid` too.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output.
        kind: As `TensorProduct`.
        keep: As `TensorProduct`.
        degree_rank: As `TensorProduct`.
        batch: Number of samples: edges, or nodes.
        machine: A key of `RATES`.

    Raises:
        ValueError: Where the product does not exist, or the machine is not in `RATES`.

    Examples:
        >>> few = predicted_costs("32x0e + 32x1o", "32x0e + 32x1o", "32x0e + 32x1o", kind="complete")
        >>> sorted(few)
        ['dense', 'grid', 'sparse']
    """
    if machine not in RATES:
        raise ValueError(f"`machine` (={machine!r}) must be one of {', '.join(RATES)}")
    if kind == "complete":
        counts = mixture_counts(
            Irreps(irreps1), Irreps(irreps2), Irreps(irreps_out or ""), rank=degree_rank, batch=batch
        )
    else:
        counts = path_counts(path_table(irreps1, irreps2, irreps_out, kind=kind, keep=keep), batch=batch)
    return {method: RATES[machine].seconds(count) for method, count in counts.items()}


def path_counts(table: PathTable, *, batch: int) -> dict[str, Counts]:
    """Return the operations of a product along paths, by method.

    Args:
        table: The paths.
        batch: Number of samples.
    """
    dense, sparse = Counts(calls=10), Counts(calls=10)
    for (mode, mul1, mul2), places in _parts(table).items():
        paths = [table.paths[n] for n in places]
        i = sum(table.irreps1[n].ir.dim for n in {path.i1 for path in paths})
        j = sum(table.irreps2[n].ir.dim for n in {path.i2 for path in paths})
        dims = [table.irreps_out[path.i_out].ir.dim for path in paths]
        rows, nonzeros, pairs = sum(dims), _nonzeros(table, places), _pairs(table, places)
        outputs = len({path.i_out for path in paths})
        copies = mul1 if mode in ("uvu", "uuu") else mul1 * mul2
        sparse += _nonzero_rows(nonzeros, pairs, rows, copies, batch)
        if mode in ("uvu", "uuu"):
            dense += _channelwise_rows(i, j, rows, mul1, mul2, batch)
            continue
        rest = Counts(calls=4 * outputs)
        if mode == "uvw":
            mixed = sum(dim * table.irreps_out[path.i_out].mul for dim, path in zip(dims, paths, strict=True))
            rest += Counts(dense=batch * mul1 * mul2 * mixed, moved=table.weight_numel)
        sparse += rest + Counts(moved=batch * copies * (i + j if mul2 > 1 else 0))
        first = Counts(dense=batch * j * rows * i) if mul2 == 1 else Counts(dense=batch * mul1 * i * rows * j)
        second = batch * rows * (i * mul1 if mul2 == 1 else j * mul1 * mul2)
        # Matrices of the samples, which are stored twice where they are turned, and their products.
        matrices, held = batch * rows * (i if mul2 == 1 else j * mul1), batch * rows * copies
        turned = 0 if mul2 == 1 else 3 * matrices
        stored = _beyond_cache(held) + (1 if mul2 == 1 else 2) * _beyond_cache(matrices)
        dense += rest + first + Counts(dense=second, moved=turned + 2 * held, stored=stored)
        sparse += Counts(stored=_beyond_cache(held))
    return {"dense": dense, "sparse": sparse}


def mixture_counts(
    irreps1: Irreps, irreps2: Irreps, irreps_out: Irreps, *, rank: int | None, batch: int
) -> dict[str, Counts]:
    """Return the operations of a product of functions on the sphere, by method.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output.
        rank: Number of terms with weights by degree.
        batch: Number of samples.

    Raises:
        ValueError: As `dense_features`.
    """
    sizes = dense_features(irreps1, irreps2, irreps_out)
    channels = sizes.channels1 * (rank or 1)
    mul2 = channels if sizes.channels2 > 1 or (rank or 1) > 1 else 1
    i, j = (sizes.lmax1 + 1) ** 2, (sizes.lmax2 + 1) ** 2
    rows = sum(entry.ir.dim for entry in irreps_out)
    table = channelwise_paths(irreps1, irreps2, irreps_out)
    places = list(range(len(table.paths)))
    nonzeros = _nonzeros(table, places)
    points = grid_size(sizes.lmax1 + sizes.lmax2 + sizes.lmax_out)
    fields = 1 if not any(sizes.odd) else 2 if all(sizes.odd) else 3
    k = (sizes.lmax_out + 1) ** 2 * (2 if fields == 3 else 1)
    turned = 2 * batch * (channels * i + mul2 * j + channels * rows)
    grid = Counts(
        calls=12 + 2 * fields + len(irreps_out),
        dense=batch * points * (fields * (i * channels + j * mul2) + k * channels),
        moved=turned + batch * points * (2 * fields + 3) * channels,
        stored=_beyond_cache(batch * points * (fields * (channels + mul2) + channels)),
    )
    once = Counts(calls=12 + len(irreps_out), moved=turned)
    return {
        "dense": once + _channelwise_rows(i, j, rows, channels, mul2, batch),
        "sparse": once + _nonzero_rows(nonzeros, _pairs(table, places), rows, channels, batch),
        "grid": grid,
    }


def _channelwise_rows(i: int, j: int, rows: int, mul1: int, mul2: int, batch: int) -> Counts:
    """Return the operations of rows channel by channel by matrix products, with the weights that follow."""
    if mul2 == 1:
        held = rows * (mul1 + i)
        dense, moved = rows * i * (j + mul1), held + 2 * rows * mul1
    else:
        held = (i * j + rows) * mul1
        dense, moved = i * j * rows * mul1, (2 * i * j + 3 * rows) * mul1
    blocks = math.ceil(batch * held / BLOCK_ELEMENTS)
    return Counts(calls=10 * blocks, dense=batch * dense, moved=batch * moved)


def _nonzero_rows(nonzeros: int, pairs: int, rows: int, copies: int, batch: int) -> Counts:
    """Return the operations of rows from nonzero couplings, with the weights that follow."""
    blocks = math.ceil(batch / max(BLOCK_COLUMNS // max(copies, 1), 1))
    return Counts(
        calls=18 * blocks + nonzeros * blocks * 0.01,
        sparse=batch * nonzeros * copies,
        moved=batch * copies * (3 * pairs + 3 * rows),
    )


def _beyond_cache(numbers: int) -> int:
    """Return how many of the numbers of a temporary do not fit the cache."""
    return max(numbers - CACHE_ELEMENTS, 0)


def _parts(table: PathTable) -> dict[tuple[str, int, int], list[int]]:
    """Return the paths of each mode between inputs of each multiplicity."""
    parts: dict[tuple[str, int, int], list[int]] = {}
    for n, path in enumerate(table.paths):
        key = (path.mode, table.irreps1[path.i1].mul, table.irreps2[path.i2].mul)
        parts.setdefault(key, []).append(n)
    return parts


def _nonzeros(table: PathTable, places: list[int]) -> int:
    """Return how many couplings of some paths are not zero."""
    symbols = (wigner_3j(*table.degrees(table.paths[n])) for n in places)
    return sum(int((symbol.abs() > 1e-12).sum()) for symbol in symbols)


def _pairs(table: PathTable, places: list[int]) -> int:
    """Return how many pairs of components of the inputs couple to something."""
    pairs = {(table.paths[n].i1, table.paths[n].i2) for n in places}
    return sum(table.irreps1[a].ir.dim * table.irreps2[b].ir.dim for a, b in pairs)
