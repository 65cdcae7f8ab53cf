"""Irreducible representations of O(3), and strings of them that describe a feature vector.

An irrep of O(3) has a degree `l` and a parity `p`: it is `2l + 1` numbers that a rotation mixes by Wigner's
matrix of degree `l` and that a reflection through the origin multiplies by `p`. `Irreps("8x0e + 4x1o")`
describes a last axis of `8 + 12` numbers: eight invariant scalars, then four vectors. The notation, the
order of components and the order of irreps are e3nn's.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, SupportsIndex, overload

import torch
from jaxtyping import Float
from torch import Tensor

from lemmata.equivariant.o3.rotation import determinant_sign
from lemmata.equivariant.o3.wigner import wigner_d_stack

__all__ = ["Irrep", "Irreps", "MulIrrep"]

_IRREP = re.compile(r"(\d+)([eoy])")
_TERM = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)([eoy])")


@dataclass(frozen=True, init=False)
class Irrep:
    """One irrep of O(3).

    Args:
        l: The degree, or a string such as `"1o"` (`e` even, `o` odd, `y` the parity of spherical harmonics,
            $(-1)^l$), or an `Irrep`.
        p: The parity, 1 or -1; None where `l` is a string.

    Raises:
        ValueError: Where the string cannot be read, the degree is negative or the parity is not 1 or -1.

    Examples:
        >>> Irrep("1o"), Irrep(2, 1).dim
        (1o, 5)
        >>> list(Irrep("1o") * Irrep("2e"))
        [1o, 2o, 3o]
    """

    l: int
    p: Literal[1, -1]

    def __init__(self, l: "int | str | Irrep", p: int | None = None) -> None:
        degree: object = l
        if isinstance(l, Irrep):
            degree, p = l.l, l.p
        elif isinstance(l, str):
            match = _IRREP.fullmatch(l.strip())
            if match is None or p is not None:
                raise ValueError(f"`l` (={l!r}) must be a degree and a parity letter e, o or y, such as '1o'")
            degree, p = int(match[1]), _parity(int(match[1]), match[2])
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 0:
            raise ValueError(f"`l` (={degree!r}) must be an integer of at least 0")
        if p not in (1, -1):
            raise ValueError(f"`p` (={p!r}) must be 1 (even) or -1 (odd)")
        object.__setattr__(self, "l", degree)
        object.__setattr__(self, "p", p)

    @property
    def dim(self) -> int:
        """Number of components, `2l + 1`."""
        return 2 * self.l + 1

    def is_scalar(self) -> bool:
        """Tell whether this is the invariant `0e`."""
        return self.l == 0 and self.p == 1

    def d_from_matrix(self, matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch dim dim"]:
        """Return the matrix by which an orthogonal matrix acts on the irrep.

        Args:
            matrix: Orthogonal matrices, determinant 1 or -1.
        """
        return Irreps([(1, self)]).d_from_matrix(matrix)

    def __mul__(self, other: "Irrep") -> Iterator["Irrep"]:
        """Return the irreps of the tensor product, by rising degree."""
        degrees = range(abs(self.l - other.l), self.l + other.l + 1)
        return (Irrep(l, self.p * other.p) for l in degrees)

    def __rmul__(self, mul: int) -> "Irreps":
        return Irreps([(mul, self)])

    def __add__(self, other: "Irrep | Irreps") -> "Irreps":
        return Irreps(self) + Irreps(other)

    def __lt__(self, other: "Irrep") -> bool:
        """Order by degree, then odd before even, as e3nn does."""
        return self._order() < other._order()

    def _order(self) -> tuple[int, int]:
        return (self.l, self.p)

    def __repr__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"


class MulIrrep(NamedTuple):
    """An irrep and how many times it appears in a row."""

    mul: int
    ir: Irrep

    @property
    def dim(self) -> int:
        """Number of components of all copies."""
        return self.mul * self.ir.dim

    def __repr__(self) -> str:
        return f"{self.mul}x{self.ir}"


class Irreps(tuple[MulIrrep, ...]):
    """A sequence of irreps with multiplicities: the description of a feature's last axis.

    Equal to `e3nn.o3.Irreps` in notation, order and arithmetic. Immutable and hashable.

    Made from a string such as `"8x0e + 4x1o"`, an `Irrep`, `Irreps`, or pairs of a multiplicity and an irrep.

    Raises:
        ValueError: Where a term cannot be read or a multiplicity is negative; the message names it.

    Examples:
        >>> irreps = Irreps("8x0e + 4x1o")
        >>> irreps.dim, irreps.lmax, irreps.slices()
        (20, 1, [slice(0, 8, None), slice(8, 20, None)])
        >>> irreps + "2x0e", 2 * Irreps("0e"), Irreps("1o + 0e + 1o").regroup()
        (8x0e+4x1o+2x0e, 1x0e+1x0e, 1x0e+2x1o)
    """

    __slots__ = ()

    def __new__(  # noqa: D102, PYI034 - the class documents it; `Self` breaks under run-time type checks
        cls, irreps: "str | Irrep | MulIrrep | Iterable[object]" = ()
    ) -> "Irreps":
        if isinstance(irreps, Irreps):
            return irreps
        if isinstance(irreps, Irrep):
            return super().__new__(cls, (MulIrrep(1, irreps),))
        if isinstance(irreps, MulIrrep):
            return super().__new__(cls, (irreps,))
        if isinstance(irreps, str):
            return super().__new__(cls, _parse(irreps))
        return super().__new__(cls, tuple(_entry(item) for item in irreps))

    @staticmethod
    def spherical_harmonics(lmax: int, p: int = -1) -> "Irreps":
        """Return one irrep of each degree up to `lmax`, with parity `p**l`.

        Args:
            lmax: The largest degree.
            p: The parity of degree one: -1 for functions of a vector.

        Examples:
            >>> Irreps.spherical_harmonics(2)
            1x0e+1x1o+1x2e
        """
        return Irreps([(1, Irrep(l, p**l)) for l in range(lmax + 1)])

    @property
    def dim(self) -> int:
        """Length of the axis."""
        return sum(entry.dim for entry in self)

    @property
    def num_irreps(self) -> int:
        """Number of irreps, copies counted."""
        return sum(entry.mul for entry in self)

    @property
    def ls(self) -> list[int]:
        """Degree of every irrep, copies counted."""
        return [entry.ir.l for entry in self for _ in range(entry.mul)]

    @property
    def lmax(self) -> int:
        """Largest degree.

        Raises:
            ValueError: Where there are no irreps.
        """
        if not self.ls:
            raise ValueError("`lmax` of empty irreps does not exist")
        return max(self.ls)

    def slices(self) -> list[slice]:
        """Return where each entry lies on the axis."""
        ends = [0]
        for entry in self:
            ends.append(ends[-1] + entry.dim)
        return [slice(start, stop) for start, stop in itertools.pairwise(ends)]

    def count(self, ir: "Irrep | str") -> int:
        """Return how many copies of an irrep there are."""
        wanted = Irrep(ir)
        return sum(entry.mul for entry in self if entry.ir == wanted)

    def simplify(self) -> "Irreps":
        """Return the irreps with equal neighbours merged and empty entries removed; the layout stays."""
        merged: list[MulIrrep] = []
        for mul, ir in self:
            if mul and merged and merged[-1].ir == ir:
                merged[-1] = MulIrrep(merged[-1].mul + mul, ir)
            elif mul:
                merged.append(MulIrrep(mul, ir))
        return Irreps(merged)

    def sort(self) -> "SortedIrreps":
        """Return the irreps in order of degree and parity, with the permutation that sorts them.

        Returns:
            `irreps`, the sorted irreps; `p`, with `p[i]` the new place of entry `i`; `inverse`, its inverse.
        """
        inverse = sorted(range(len(self)), key=lambda i: (self[i].ir._order(), i))
        places = [0] * len(self)
        for new, old in enumerate(inverse):
            places[old] = new
        return SortedIrreps(Irreps([self[i] for i in inverse]), tuple(places), tuple(inverse))

    def regroup(self) -> "Irreps":
        """Return the irreps sorted and merged: each irrep once."""
        return self.sort().irreps.simplify()

    def filter(self, keep: "Iterable[Irrep | str]") -> "Irreps":
        """Return the entries whose irrep is among `keep`."""
        wanted = {Irrep(ir) for ir in keep}
        return Irreps([entry for entry in self if entry.ir in wanted])

    def randn(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        requires_grad: bool = False,
    ) -> Float[Tensor, "..."]:
        """Return standard normal features.

        Args:
            shape: Sizes of the axes; -1 marks the axis of the irreps.
            generator: Source of the random numbers.
            dtype: Of the result; torch's default where None.
            device: Of the result.
            requires_grad: Whether the result records gradients.

        Raises:
            ValueError: Where -1 does not appear exactly once.

        Examples:
            >>> Irreps("2x1o").randn(5, -1).shape
            torch.Size([5, 6])
        """
        if shape.count(-1) != 1:
            raise ValueError(f"`shape` (={shape}) must contain -1 once, for the axis of the irreps")
        sizes = [self.dim if size == -1 else size for size in shape]
        return torch.randn(
            sizes, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad
        )

    def d_from_matrix(self, matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch dim dim"]:
        """Return the block-diagonal matrix by which orthogonal matrices act on features.

        A feature (a row of the last axis) becomes `features @ d.mT`.

        Args:
            matrix: Orthogonal matrices, with determinant 1 or -1; a reflection multiplies by the parity.
        """
        sign = determinant_sign(matrix)
        blocks = wigner_d_stack(sorted(set(self.ls)), matrix * sign[..., None, None])
        result = matrix.new_zeros((*matrix.shape[:-2], self.dim, self.dim))
        start = 0
        for mul, ir in self:
            if mul == 0:
                continue
            block = blocks[ir.l] if ir.p == 1 else blocks[ir.l] * sign[..., None, None]
            for _ in range(mul):
                result[..., start : start + ir.dim, start : start + ir.dim] = block
                start += ir.dim
        return result

    def check(self, features: Tensor, name: str = "features") -> None:
        """Raise where a tensor's last axis does not have the length of these irreps.

        Args:
            features: The tensor.
            name: Its name in the message.

        Raises:
            ValueError: Where the last dimension differs from `dim`.
        """
        given = features.shape[-1] if features.ndim else 0
        if given != self.dim:
            raise ValueError(f"`{name}`: expected last dimension {self.dim} for {self}, got {given}")

    def __contains__(self, ir: object) -> bool:
        """Tell whether an irrep appears, as `Irrep` or string."""
        if isinstance(ir, MulIrrep):
            return super().__contains__(ir)
        return isinstance(ir, Irrep | str) and self.count(ir) > 0

    def __add__(self, other: object) -> "Irreps":
        if isinstance(other, Irreps | Irrep | str | MulIrrep):
            return Irreps((*self, *Irreps(other)))
        return NotImplemented

    def __radd__(self, other: object) -> "Irreps":
        return Irreps(other) + self if isinstance(other, Irrep | str | MulIrrep) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> "Irreps":
        return Irreps(super().__mul__(times))

    __rmul__ = __mul__

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> MulIrrep: ...
    @overload
    def __getitem__(self, place: slice, /) -> "Irreps": ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> "MulIrrep | Irreps":
        return Irreps(super().__getitem__(place)) if isinstance(place, slice) else super().__getitem__(place)

    def __repr__(self) -> str:
        return "+".join(map(repr, self))

    __str__ = __repr__

    def __getnewargs__(self) -> tuple[tuple[tuple[int, int, int], ...]]:
        return (tuple((mul, ir.l, ir.p) for mul, ir in self),)


class SortedIrreps(NamedTuple):
    """What `Irreps.sort` returns."""

    irreps: Irreps
    p: tuple[int, ...]
    inverse: tuple[int, ...]


def _parity(l: int, letter: str) -> int:
    """Return the parity that a letter stands for."""
    return {"e": 1, "o": -1, "y": 1 - 2 * (l % 2)}[letter]


def _parse(text: str) -> tuple[MulIrrep, ...]:
    """Read irreps from a string."""
    if not text.strip():
        return ()
    entries = []
    for term in text.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ValueError(
                f"cannot read the term {term.strip()!r} of irreps {text!r}: expected a multiplicity of at "
                "least 0, 'x', a degree and a parity letter e, o or y, such as '8x0e' or '1o'"
            )
        mul, l, letter = match.groups()
        entries.append(MulIrrep(int(mul or 1), Irrep(int(l), _parity(int(l), letter))))
    return tuple(entries)


def _entry(item: object) -> MulIrrep:
    """Read one entry: an irrep, a multiplicity with one, or a multiplicity with degree and parity."""
    if isinstance(item, MulIrrep):
        return item
    if isinstance(item, Irrep | str):
        entries = Irreps(item)
        if len(entries) != 1:
            raise ValueError(f"an entry of `irreps` must be one irrep, got {item!r}")
        return entries[0]
    if isinstance(item, tuple | list):
        mul, ir = (item[0], item[1:]) if len(item) == 3 else item if len(item) == 2 else (None, None)
        if isinstance(mul, int) and not isinstance(mul, bool) and mul >= 0 and ir is not None:
            return MulIrrep(mul, Irrep(*ir) if isinstance(ir, tuple | list) else Irrep(ir))
    raise ValueError(
        f"an entry of `irreps` must be an irrep or a pair of a multiplicity of at least 0 and an irrep, "
        f"got {item!r}"
    )
