r"""Paths of a product: which irreps of the inputs couple to which irrep of the output, and how strongly.

A path takes an entry of the first irreps and an entry of the second to an entry of the output, through the
one equivariant map that three irreps admit, Wigner's 3j symbol $w$ of Frobenius norm 1. Its mode says what
happens to the copies:

- `uvw`: every pair of copies reaches every copy of the output, $z_w = \sum_{uv} W_{uvw}\, w(x_u, y_v)$;
- `uvu`: the second entry has one copy, $z_u = W_u\, w(x_u, y)$;
- `uuu`: copy by copy, $z_u = W_u\, w(x_u, y_u)$;
- `uvuv`: every pair of copies is a copy of the output, without weights, $z_{uv} = w(x_u, y_v)$.

Order, normalisation and layout of the weights are e3nn's.

- M. Geiger, T. Smidt, e3nn: Euclidean Neural Networks, 2022, arXiv:2207.09453.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lemmata.equivariant.o3.irreps import Irrep, Irreps

__all__ = [
    "IrrepNormalization",
    "Mode",
    "Path",
    "PathNormalization",
    "PathTable",
    "channelwise_paths",
    "full_paths",
    "fully_connected_paths",
    "path_table",
]

Mode = Literal["uvw", "uvu", "uuu", "uvuv"]
IrrepNormalization = Literal["component", "norm", "none"]
PathNormalization = Literal["element", "path", "none"]


@dataclass(frozen=True)
class Path:
    """One coupling of an entry of each input to an entry of the output.

    Attributes:
        i1: Entry of the first irreps.
        i2: Entry of the second irreps.
        i_out: Entry of the output irreps.
        mode: What happens to the copies.
        weight_shape: Shape of the path's weights; empty where it has none.
        coefficient: What multiplies the 3j symbol.
    """

    i1: int
    i2: int
    i_out: int
    mode: Mode
    weight_shape: tuple[int, ...]
    coefficient: float = 1.0

    @property
    def weight_numel(self) -> int:
        """Number of weights."""
        return math.prod(self.weight_shape) if self.weight_shape else 0


@dataclass(frozen=True)
class PathTable:
    """The paths of a product, in the order of their weights.

    Attributes:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output.
        paths: In the order in which their weights follow one another.
    """

    irreps1: Irreps
    irreps2: Irreps
    irreps_out: Irreps
    paths: tuple[Path, ...]

    @property
    def weight_numel(self) -> int:
        """Number of weights of all paths."""
        return sum(path.weight_numel for path in self.paths)

    def weight_slices(self) -> list[slice]:
        """Return where each path's weights lie."""
        slices, start = [], 0
        for path in self.paths:
            slices.append(slice(start, start + path.weight_numel))
            start += path.weight_numel
        return slices

    def degrees(self, path: Path) -> tuple[int, int, int]:
        """Return the degrees that a path couples."""
        return self.irreps1[path.i1].ir.l, self.irreps2[path.i2].ir.l, self.irreps_out[path.i_out].ir.l


def fully_connected_paths(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    irreps_out: Irreps | str,
    *,
    irrep_normalization: IrrepNormalization = "component",
    path_normalization: PathNormalization = "element",
) -> PathTable:
    """Return every path that parities and degrees allow, all copies with all, as e3nn's fully connected.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output.
        irrep_normalization: Variance 1 of components (`"component"`) or norm 1 of irreps (`"norm"`) in gives
            the same out; `"none"` leaves the symbols alone.
        path_normalization: Whether all elements (`"element"`) or all paths (`"path"`) that reach an output
            count alike; `"none"` does not divide.

    Examples:
        >>> table = fully_connected_paths("2x0e + 2x1o", "1o", "4x0e + 4x1o")
        >>> [(path.i1, path.i2, path.i_out, path.weight_shape) for path in table.paths]
        [(0, 0, 1, (2, 1, 4)), (1, 0, 0, (2, 1, 4))]
    """
    first, second, out = Irreps(irreps1), Irreps(irreps2), Irreps(irreps_out)
    paths = [
        Path(i1, i2, i_out, "uvw", (first[i1].mul, second[i2].mul, out[i_out].mul))
        for i1, i2, i_out in _allowed(first, second, out)
    ]
    return _normalized(PathTable(first, second, out, tuple(paths)), irrep_normalization, path_normalization)


def channelwise_paths(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    irreps_out: Irreps | str | None = None,
    *,
    keep: Iterable[Irrep | str] | None = None,
    irrep_normalization: IrrepNormalization = "component",
    path_normalization: PathNormalization = "element",
) -> PathTable:
    """Return every path that parities and degrees allow, copy by copy, each with a weight a copy.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input: one copy of each, or as many as the first has.
        irreps_out: Of the output, as many copies as the first input has; all paths to an entry are summed.
            Where None, every path has an entry of its own, sorted by irrep, as in message passing.
        keep: The irreps of the output where `irreps_out` is None; all where None.
        irrep_normalization: As `fully_connected_paths`.
        path_normalization: As `fully_connected_paths`.

    Raises:
        ValueError: Where multiplicities differ, or both `irreps_out` and `keep` are given.

    Examples:
        >>> channelwise_paths("8x0e + 8x1o", "0e + 1o", keep=["0e", "1o"]).irreps_out
        8x0e+8x0e+8x1o+8x1o
    """
    first, second = Irreps(irreps1), Irreps(irreps2)
    if irreps_out is None:
        out, triples = _own_entries(first, second, keep, lambda mul1, _: mul1)
        triples.sort(key=lambda triple: triple[2])
    elif keep is not None:
        raise ValueError(
            f"`keep` (={keep!r}) goes without `irreps_out` (={irreps_out}), which already says it"
        )
    else:
        out = Irreps(irreps_out)
        triples = _allowed(first, second, out)
    paths = []
    for i1, i2, i_out in triples:
        mul1, mul2, mul_out = first[i1].mul, second[i2].mul, out[i_out].mul
        if mul2 not in (1, mul1) or mul_out != mul1:
            raise ValueError(
                f"a channelwise product needs equal multiplicities, or 1 for the second input, got "
                f"{first[i1]} of `irreps1`, {second[i2]} of `irreps2` and {out[i_out]} of `irreps_out`"
            )
        uvu: bool = mul2 == 1
        paths.append(Path(i1, i2, i_out, "uvu" if uvu else "uuu", (mul1, 1) if uvu else (mul1,)))
    return _normalized(PathTable(first, second, out, tuple(paths)), irrep_normalization, path_normalization)


def full_paths(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    *,
    keep: Iterable[Irrep | str] | None = None,
    irrep_normalization: IrrepNormalization = "component",
) -> PathTable:
    """Return every path with an entry of its own for all pairs of copies, no weights: those of `e3nn`'s full.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        keep: The irreps of the output; all where None.
        irrep_normalization: As `fully_connected_paths`.

    Examples:
        >>> full_paths("2x1o", "3x1o").irreps_out
        6x0e+6x1e+6x2e
    """
    first, second = Irreps(irreps1).simplify(), Irreps(irreps2).simplify()
    out, triples = _own_entries(first, second, keep, lambda mul1, mul2: mul1 * mul2)
    paths = tuple(Path(i1, i2, i_out, "uvuv", ()) for i1, i2, i_out in triples)
    return _normalized(PathTable(first, second, out, paths), irrep_normalization, "element")


def path_table(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    irreps_out: Irreps | str | None = None,
    *,
    kind: str = "full",
    keep: Iterable[Irrep | str] | None = None,
    irrep_normalization: IrrepNormalization = "component",
    path_normalization: PathNormalization = "element",
) -> PathTable:
    """Return the paths of a product of a kind.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input.
        irreps_out: Of the output. A fully connected product needs it; of a full one it must equal what the
            inputs and `keep` (by default its own irreps) give.
        kind: `"full"`, `"channelwise"` or `"fully_connected"`.
        keep: The irreps of the output where `irreps_out` is None.
        irrep_normalization: As `fully_connected_paths`.
        path_normalization: As `fully_connected_paths`.

    Raises:
        ValueError: Where the output is missing or is not what the kind gives, or a name is unknown.
    """
    if kind == "channelwise":
        return channelwise_paths(
            irreps1,
            irreps2,
            irreps_out,
            keep=keep,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
        )
    if kind == "fully_connected":
        if irreps_out is None or keep is not None:
            raise ValueError("a fully connected product needs `irreps_out`, and goes without `keep`")
        return fully_connected_paths(
            irreps1,
            irreps2,
            irreps_out,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
        )
    if kind != "full":
        raise ValueError(f"`kind` (={kind!r}) must be 'full', 'channelwise', 'fully_connected' or 'complete'")
    given = None if irreps_out is None else Irreps(irreps_out)
    kept = [entry.ir for entry in given] if given is not None and keep is None else keep
    table = full_paths(irreps1, irreps2, keep=kept, irrep_normalization=irrep_normalization)
    if given is not None and given.simplify() != table.irreps_out.simplify():
        raise ValueError(
            f"`irreps_out` (={given}) of a full product must be all that couples to these irreps, "
            f"{table.irreps_out.simplify()}; leave it None, and name the irreps wanted in `keep`"
        )
    return table


def _allowed(first: Irreps, second: Irreps, out: Irreps) -> list[tuple[int, int, int]]:
    """Return the entries that may couple, in e3nn's order."""
    return [
        (i1, i2, i_out)
        for i1, entry1 in enumerate(first)
        for i2, entry2 in enumerate(second)
        for i_out, entry in enumerate(out)
        if _couples(entry1.ir, entry2.ir, entry.ir)
    ]


def _couples(ir1: Irrep, ir2: Irrep, ir_out: Irrep) -> bool:
    """Tell whether parities and degrees allow a coupling."""
    return ir1.p * ir2.p == ir_out.p and abs(ir1.l - ir2.l) <= ir_out.l <= ir1.l + ir2.l


def _own_entries(
    first: Irreps,
    second: Irreps,
    keep: Iterable[Irrep | str] | None,
    multiplicity: Callable[[int, int], int],
) -> tuple[Irreps, list[tuple[int, int, int]]]:
    """Return the sorted output in which every path has an entry, and the paths by rising inputs."""
    kept = None if keep is None else {Irrep(ir) for ir in keep}
    found = [
        (i1, i2, ir)
        for i1, entry1 in enumerate(first)
        for i2, entry2 in enumerate(second)
        for ir in entry1.ir * entry2.ir
        if kept is None or ir in kept
    ]
    entries = Irreps([(multiplicity(first[i1].mul, second[i2].mul), ir) for i1, i2, ir in found]).sort()
    return entries.irreps, [(i1, i2, entries.p[n]) for n, (i1, i2, _) in enumerate(found)]


def _normalized(
    table: PathTable, irrep_normalization: IrrepNormalization, path_normalization: PathNormalization
) -> PathTable:
    """Return the table with e3nn's coefficients.

    Raises:
        ValueError: Where a normalisation is not known.
    """
    if irrep_normalization not in ("component", "norm", "none"):
        raise ValueError(
            f"`irrep_normalization` (={irrep_normalization!r}) must be 'component', 'norm' or 'none'"
        )
    if path_normalization not in ("element", "path", "none"):
        raise ValueError(
            f"`path_normalization` (={path_normalization!r}) must be 'element', 'path' or 'none'"
        )
    reaching: dict[int, list[Path]] = {}
    for path in table.paths:
        reaching.setdefault(path.i_out, []).append(path)
    paths = []
    for path in table.paths:
        dims = [2 * l + 1 for l in table.degrees(path)]
        square = {"component": dims[2], "norm": dims[0] * dims[1], "none": 1}[irrep_normalization]
        others = reaching[path.i_out]
        fan = {
            "element": sum(_elements(table, other) for other in others),
            "path": _elements(table, path) * len(others),
            "none": 1,
        }[path_normalization]
        paths.append(replace(path, coefficient=math.sqrt(square / (fan or 1))))
    return replace(table, paths=tuple(paths))


def _elements(table: PathTable, path: Path) -> int:
    """Return how many products of copies a path sums into each copy of the output."""
    mul1, mul2 = table.irreps1[path.i1].mul, table.irreps2[path.i2].mul
    return {"uvw": mul1 * mul2, "uvu": mul2, "uuu": 1, "uvuv": 1}[path.mode]
