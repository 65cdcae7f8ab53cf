"""Flat features taken apart into groups of equal multiplicity, and outputs put together again.

Axis letters used below: `Z` samples, `D` all components of all copies.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lemmata.equivariant.o3.irreps import Irreps

__all__ = ["FeatureLayout", "Group", "groups_of", "join_blocks", "split_groups"]

FeatureLayout = Literal["mul_ir", "ir_mul"]


@dataclass(frozen=True)
class Group:
    """Entries of irreps that have one multiplicity.

    Attributes:
        mul: The multiplicity.
        entries: Which they are.
        places: Where the components of each entry lie among those of the group.
    """

    mul: int
    entries: tuple[int, ...]
    places: tuple[slice, ...]

    @property
    def components(self) -> int:
        """Number of components of all entries."""
        return int(self.places[-1].stop)

    def place(self, entry: int) -> slice:
        """Return where the components of an entry lie."""
        return self.places[self.entries.index(entry)]


def groups_of(irreps: Irreps, used: Iterable[int]) -> list[Group]:
    """Return some entries by their multiplicity, in the order of first appearance.

    Examples:
        >>> [group.entries for group in groups_of(Irreps("8x0e + 4x0o + 8x1o"), [0, 1, 2])]
        [(0, 2), (1,)]
    """
    members: dict[int, list[int]] = {}
    for entry in sorted(set(used)):
        members.setdefault(irreps[entry].mul, []).append(entry)
    return [
        Group(mul, tuple(entries), tuple(Irreps([(1, irreps[entry].ir) for entry in entries]).slices()))
        for mul, entries in members.items()
    ]


def split_groups(
    irreps: Irreps, groups: Sequence[Group], x_ZD: Tensor, layout: FeatureLayout
) -> list[Tensor]:
    """Return the components of each group, `(Z, components, mul)`; a view where memory already lies so."""
    slices = irreps.slices()
    parts = []
    for group in groups:
        first, last = group.entries[0], group.entries[-1]
        if group.entries == tuple(range(first, last + 1)) and (layout == "ir_mul" or group.mul == 1):
            flat = x_ZD[:, slices[first].start : slices[last].stop]
            parts.append(flat.reshape(x_ZD.shape[0], group.components, group.mul))
            continue
        blocks = []
        for entry in group.entries:
            shape = (group.mul, irreps[entry].ir.dim)
            block = x_ZD[:, slices[entry]]
            turned = (
                block.reshape(x_ZD.shape[0], *shape).mT
                if layout == "mul_ir"
                else block.reshape(x_ZD.shape[0], *shape[::-1])
            )
            blocks.append(turned)
        parts.append(torch.cat(blocks, dim=1))
    return parts


def join_blocks(blocks: Sequence[Tensor], layout: FeatureLayout) -> Tensor:
    """Return blocks of consecutive entries, each `(Z, entries, components, mul)`, on one axis."""
    turned = [block if layout == "ir_mul" else block.mT for block in blocks]
    flat = [block.reshape(block.shape[0], math.prod(block.shape[1:])) for block in turned]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
