r"""Products along paths by a few large matrix products, however many paths there are.

Couplings of all paths are laid out in one matrix. Contracting it with one input gives, for each sample, a
matrix that turns the other input into the products along all paths at once; one more matrix product for each
entry of the output applies the weights that mix copies. Nothing loops over paths when the product runs, so
that compiling it takes about as long as compiling a small multilayer perceptron.

Entries of equal multiplicity are treated together: features whose irreps all have `C` copies take one
contraction, features with two different multiplicities two.

Axis letters used below: `Z` samples, `I` and `J` components of the first and second input, `M` rows of
products, `U`, `V` and `W` copies in the first input, the second and the output, `P` paths, `K` components of
the output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.wigner import wigner_3j
from lemmata.equivariant.tensor_product.blocks import (
    FeatureLayout,
    Group,
    groups_of,
    join_blocks,
    split_groups,
)
from lemmata.equivariant.tensor_product.channelwise import (
    Bilinear,
    Run,
    channelwise_product,
    weighted_sums,
)
from lemmata.equivariant.tensor_product.matrices import (
    FilterMatrices,
    OuterProducts,
    filter_matrices,
    outer_rows,
)
from lemmata.equivariant.tensor_product.paths import PathTable

__all__ = ["DenseProduct", "Segment", "coupling_matrix"]


@dataclass(frozen=True)
class Segment:
    """Consecutive entries of the output that share degree, multiplicity and number of paths.

    Attributes:
        outputs: The entries.
        paths: The paths to each entry, as places in the table.
        dim: Components of an entry.
        mul: Copies of an entry.
    """

    outputs: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    dim: int
    mul: int

    @property
    def rows(self) -> int:
        """Number of products: components of all paths."""
        return len(self.order) * self.dim

    @property
    def order(self) -> tuple[int, ...]:
        """The paths of all entries."""
        return tuple(place for paths in self.paths for place in paths)


class DenseProduct(nn.Module):
    """The product along the paths of a table, on flat features.

    Args:
        table: The paths.
        layout: How copies and components of each entry are stored: copies first (`"mul_ir"`, e3nn's), or
            components first (`"ir_mul"`), in which channelwise products work.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Examples:
        >>> from lemmata.equivariant.tensor_product.paths import full_paths
        >>> product = DenseProduct(full_paths("1o", "1o", keep=["1e"]))
        >>> product(torch.eye(3)[:1], torch.eye(3)[1:2], torch.empty(0)) * 2**0.5
        tensor([[0.0000, 0.0000, 1.0000]])
    """

    weight_order: Tensor | None

    def __init__(
        self,
        table: PathTable,
        *,
        layout: FeatureLayout = "mul_ir",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.table = table
        self.irreps1, self.irreps2, self.irreps_out = table.irreps1, table.irreps2, table.irreps_out
        self.weight_numel = table.weight_numel
        self.layout: FeatureLayout = layout
        live = [n for n, path in enumerate(table.paths) if table.irreps_out[path.i_out].mul * _fan(table, n)]
        self.groups1 = groups_of(table.irreps1, (table.paths[n].i1 for n in live))
        self.groups2 = groups_of(table.irreps2, (table.paths[n].i2 for n in live))
        owners = {n: self._owner(n) for n in live}
        runs = _runs(table, owners)
        parts: list[Part] = []
        self.sources: list[tuple[int, int]] = []
        self.targets: list[list[int]] = []
        for mode, a, b in sorted(set(owners.values())):
            mine = {n for n, owner in owners.items() if owner == (mode, a, b)}
            segments, targets = _segments(table, runs, mine)
            part = self.part_types()[mode](
                table, self.groups1[a], self.groups2[b], segments, dtype=dtype, device=device
            )
            parts.append(part)
            self.sources.append((a, b))
            self.targets.append(targets)
        self.parts = nn.ModuleList(parts)
        self.shapes = [_shape(table, run) for run in runs]
        self.chunk, order = _weight_order(
            table, [n for part in parts for s in part.segments for n in s.order]
        )
        self.register_buffer("weight_order", None if order is None else order.to(device), persistent=False)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the product.

        Args:
            x: First input, shape `(Z, irreps1.dim)`.
            y: Second input, shape `(Z, irreps2.dim)`.
            weight: Of all samples, shape `(weight_numel,)`, or of each, `(Z, weight_numel)`.
        """
        xs = split_groups(self.table.irreps1, self.groups1, x, self.layout)
        ys = split_groups(self.table.irreps2, self.groups2, y, self.layout)
        weights = torch.split(self._ordered(weight), self._weight_sizes(), dim=-1)
        blocks: list[Tensor | None] = [None] * len(self.shapes)
        for part, (a, b), targets, own in zip(self.parts, self.sources, self.targets, weights, strict=True):
            for target, block in zip(targets, part(xs[a], ys[b], own), strict=True):
                before = blocks[target]
                blocks[target] = block if before is None else before + block
        filled = [
            x.new_zeros((x.shape[0], *shape)) if block is None else block
            for block, shape in zip(blocks, self.shapes, strict=True)
        ]
        return join_blocks(filled, self.layout)

    def messages(
        self, x: Tensor, y: Tensor, weight: Tensor, source: Tensor, target: Tensor, size: int
    ) -> Tensor:
        """Return the sums over edges of the products of their sources' features with their filters.

        Args:
            x: Features of the nodes, shape `(N, irreps1.dim)`.
            y: Filters of the edges, shape `(Z, irreps2.dim)`.
            weight: As `forward`.
            source: Node whose features an edge takes, shape `(Z,)`.
            target: Node to which an edge's product is added, shape `(Z,)`.
            size: Number of targets.
        """
        part = self.parts[0] if len(self.parts) == 1 else None
        if isinstance(part, ChannelwisePart) and self.targets[0] == list(range(len(self.shapes))):
            xs = split_groups(self.table.irreps1, self.groups1, x, self.layout)
            ys = split_groups(self.table.irreps2, self.groups2, y, self.layout)
            blocks = part(xs[0], ys[0], self._ordered(weight), source, target, size)
            return join_blocks(blocks, self.layout)
        products: Tensor = self(x.index_select(0, source), y, weight)
        return products.new_zeros((size, products.shape[1])).index_add(0, target, products)

    @staticmethod
    def part_types() -> "dict[str, type[Part]]":
        """Return what computes the paths of each mode."""
        return {
            "uvw": FullyConnectedPart,
            "uvuv": FullPart,
            "uvu": ChannelwisePart,
            "uuu": ChannelwisePart,
        }

    def _owner(self, place: int) -> tuple[str, int, int]:
        """Return a path's mode and the groups of its inputs."""
        path = self.table.paths[place]
        a = next(n for n, group in enumerate(self.groups1) if path.i1 in group.entries)
        b = next(n for n, group in enumerate(self.groups2) if path.i2 in group.entries)
        return path.mode, a, b

    def _weight_sizes(self) -> list[int]:
        """Return the number of weights of each part."""
        return [
            sum(self.table.paths[n].weight_numel for s in part.segments for n in s.order)
            for part in self._all()
        ]

    def _all(self) -> "list[Part]":
        """Return the parts."""
        return [part for part in self.parts if isinstance(part, Part)]

    def _ordered(self, weight: Tensor) -> Tensor:
        """Return the weights in the order in which the parts take them."""
        if self.weight_order is None:
            return weight
        chunks = weight.reshape(*weight.shape[:-1], weight.shape[-1] // self.chunk, self.chunk)
        ordered: Tensor = chunks.index_select(-2, self.weight_order).flatten(-2)
        return ordered


class Part(ConstantModule):
    """The paths of one mode between one group of each input; `forward` returns a block for each segment."""

    def __init__(
        self,
        table: PathTable,
        group1: Group,
        group2: Group,
        segments: Sequence[Segment],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.segments = tuple(segments)
        self.runs = tuple(Run(len(s.outputs), len(s.paths[0]), s.dim) for s in segments)
        self.rows = [segment.rows for segment in segments]
        self.mul1, self.mul2 = group1.mul, group2.mul
        coupling_IMJ = coupling_matrix(table, group1, group2, segments, paths_last=self.paths_last)
        self.components = coupling_IMJ.shape[::2]
        for name, value in self.constants(coupling_IMJ).items():
            self.register_constant(name, value.contiguous(), dtype=dtype, device=device)
        if device is not None:
            self.to(device=device)

    paths_last = False
    """Whether, among an entry's rows, the path runs fastest, or the component does."""

    def constants(self, coupling_IMJ: Tensor) -> dict[str, Tensor]:
        """Return the constants by name."""
        raise NotImplementedError


class PairwisePart(Part):
    """Products of every copy with every copy."""

    coupling: Tensor

    def constants(self, coupling_IMJ: Tensor) -> dict[str, Tensor]:
        """Return the couplings as the matrix that the input of fewer copies multiplies."""
        if self.mul2 == 1:
            return {"coupling": coupling_IMJ.permute(2, 1, 0).flatten(1)}
        return {"coupling": coupling_IMJ.flatten(1)}

    def products(self, x_ZIU: Tensor, y_ZJV: Tensor) -> list[Tensor]:
        """Return the products of each segment, `(Z, M, U * V)`."""
        samples, (components1, components2) = x_ZIU.shape[0], self.components
        if self.mul2 == 1:
            matrices = (y_ZJV[..., 0] @ self.coupling).reshape(samples, sum(self.rows), components1)
            return [torch.bmm(rows, x_ZIU) for rows in torch.split(matrices, self.rows, dim=1)]
        matrices = (x_ZIU.mT @ self.coupling).reshape(samples, self.mul1, sum(self.rows), components2)
        products = []
        for rows, count in zip(torch.split(matrices, self.rows, dim=2), self.rows, strict=True):
            turned = rows.transpose(1, 2).reshape(samples, count * self.mul1, components2)
            products.append(torch.bmm(turned, y_ZJV).reshape(samples, count, self.mul1 * self.mul2))
        return products


class FullyConnectedPart(PairwisePart):
    """Paths of mode `uvw`."""

    paths_last = True

    def forward(self, x_ZIU: Tensor, y_ZJV: Tensor, weight: Tensor) -> list[Tensor]:
        """Return a block for each segment."""
        blocks, start = [], 0
        for segment, rows in zip(self.segments, self.products(x_ZIU, y_ZJV), strict=True):
            length = len(segment.order) * self.mul1 * self.mul2
            own = weight[..., start : start + length * segment.mul]
            start += length * segment.mul
            matrix = own.reshape(*own.shape[:-1], length, segment.mul)
            blocks.append((rows.reshape(rows.shape[0], segment.dim, length) @ matrix)[:, None])
        return blocks


class FullPart(PairwisePart):
    """Paths of mode `uvuv`."""

    def forward(self, x_ZIU: Tensor, y_ZJV: Tensor, weight: Tensor) -> list[Tensor]:  # noqa: ARG002 - has none
        """Return a block for each segment."""
        return [
            rows.reshape(rows.shape[0], len(segment.outputs), segment.dim, segment.mul)
            for segment, rows in zip(self.segments, self.products(x_ZIU, y_ZJV), strict=True)
        ]


class ChannelwisePart(Part):
    """Paths of modes `uvu` and `uuu`."""

    coupling: Tensor

    def constants(self, coupling_IMJ: Tensor) -> dict[str, Tensor]:
        """Return the couplings as the matrix that the filter, or the outer product, multiplies."""
        if self.mul2 == 1:
            return {"coupling": coupling_IMJ.permute(2, 1, 0).flatten(1)}
        return {"coupling": coupling_IMJ.transpose(1, 2).flatten(0, 1)}

    def plain_rows(self, x_ZIC: Tensor, y_ZJC: Tensor) -> Tensor:
        """Return the products along all paths, by operations that the compiler traces."""
        if self.mul2 == 1:
            return torch.bmm(filter_matrices(y_ZJC, self.coupling, self.components[0]), x_ZIC)
        return outer_rows(x_ZIC, y_ZJC, self.coupling)

    def bilinear(self) -> Bilinear:
        """Return the products along all paths."""
        if self.mul2 == 1:
            return FilterMatrices(self.coupling, self.components[0])
        return OuterProducts(self.coupling, self.components[0])

    def forward(
        self,
        x_ZIC: Tensor,
        y_ZJC: Tensor,
        weight: Tensor,
        source: Tensor | None = None,
        target: Tensor | None = None,
        size: int | None = None,
    ) -> list[Tensor]:
        """Return a block for each segment."""
        runs = self.runs
        samples = 1 if weight.ndim == 1 else weight.shape[0]
        # The number of paths is told, since nothing can be inferred from no edges.
        weight_ZPC = weight.reshape(samples, weight.shape[-1] // self.mul1, self.mul1)
        if torch.compiler.is_compiling():
            taken = x_ZIC if source is None else x_ZIC.index_select(0, source)
            rows = weighted_sums(self.plain_rows(taken, y_ZJC), weight_ZPC, runs)
            if target is not None:
                rows = rows.new_zeros((size or 0, *rows.shape[1:])).index_add(0, target, rows)
        else:
            rows = channelwise_product(x_ZIC, y_ZJC, weight_ZPC, self.bilinear(), runs, source, target, size)
        sizes = [run.entries * run.dim for run in runs]
        return [
            part.reshape(part.shape[0], run.entries, run.dim, part.shape[2])
            for run, part in zip(runs, torch.split(rows, sizes, dim=1), strict=True)
        ]


def coupling_matrix(
    table: PathTable, group1: Group, group2: Group, segments: Sequence[Segment], *, paths_last: bool
) -> Tensor:
    """Return the couplings of all paths of segments, `(I, M, J)`, float64.

    Args:
        table: The paths.
        group1: Of the first input.
        group2: Of the second input.
        segments: Whose rows `M` follow one another, by entry, then path, then component.
        paths_last: Whether the rows of an entry go by component, then path, instead.
    """
    total = sum(segment.rows for segment in segments)
    matrix = torch.zeros(group1.components, total, group2.components, dtype=torch.float64)
    start = 0
    for segment in segments:
        for paths in segment.paths:
            stop = start + len(paths) * segment.dim
            for n, place in enumerate(paths):
                path = table.paths[place]
                first = start + (n if paths_last else n * segment.dim)
                rows = range(first, stop, len(paths)) if paths_last else range(first, first + segment.dim)
                symbol = path.coefficient * wigner_3j(*table.degrees(path)).transpose(1, 2)
                matrix[group1.place(path.i1), list(rows), group2.place(path.i2)] = symbol
            start = stop
    return matrix


def _fan(table: PathTable, place: int) -> int:
    """Return how many pairs of copies a path joins."""
    path = table.paths[place]
    return table.irreps1[path.i1].mul * table.irreps2[path.i2].mul


def _runs(table: PathTable, owners: dict[int, tuple[str, int, int]]) -> list[tuple[int, ...]]:
    """Return all entries of the output, neighbours together where one part fills both in the same way.

    Entries of mode `uvw` stay apart: each has a matrix of weights of its own.
    """
    runs: list[list[int]] = []
    before: object = None
    for entry, (mul, ir) in enumerate(table.irreps_out):
        mine = [owner for n, owner in owners.items() if table.paths[n].i_out == entry]
        alone = len(set(mine)) != 1 or mine[0][0] == "uvw"
        shape = None if alone else (mine[0], len(mine), mul, ir.dim)
        if shape is not None and shape == before:
            runs[-1].append(entry)
        else:
            runs.append([entry])
        before = shape
    return [tuple(run) for run in runs]


def _segments(
    table: PathTable, runs: Sequence[tuple[int, ...]], mine: set[int]
) -> tuple[list[Segment], list[int]]:
    """Return the segments that some paths fill, and the run that each belongs to."""
    segments, targets = [], []
    for n, run in enumerate(runs):
        paths = tuple(
            tuple(place for place in sorted(mine) if table.paths[place].i_out == entry) for entry in run
        )
        if all(paths):
            entry = table.irreps_out[run[0]]
            segments.append(Segment(run, paths, entry.ir.dim, entry.mul))
            targets.append(n)
    return segments, targets


def _shape(table: PathTable, run: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the number of entries of a run, their components and copies."""
    mul, ir = table.irreps_out[run[0]]
    return len(run), ir.dim, mul


def _weight_order(table: PathTable, order: Sequence[int]) -> tuple[int, Tensor | None]:
    """Return a length that divides every path's number of weights, and the order of such chunks."""
    slices = table.weight_slices()
    chunk = math.gcd(*(path.weight_numel for path in table.paths)) or 1
    places = [n for place in order for n in range(slices[place].start // chunk, slices[place].stop // chunk)]
    if places == list(range(table.weight_numel // chunk)):
        return chunk, None
    return chunk, torch.tensor(places, dtype=torch.int64)
