r"""A truncated SVD from one look at the matrix, its rows in any order, cut and shared out in any way.

For matrices that are seen once: a simulation's output, a log, a file that a second pass would cost hours.
Three random projections are kept, $X = \Upsilon A$ and $Y = A \Omega$ for the ranges and $Z = \Phi A
\Psi^\top$ for the core, and, of a fourth, enough for an unbiased estimate of the error. States of disjoint
rows merge, and equal what one process would have, to rounding, because every random entry is a function of
the seed and its place.

Axis letters: n rows, d columns, r rank, k = 2 r + 1 and s = 2 k + 1 sizes of the sketches, b rows of a block.

References:
    J. A. Tropp, A. Yurtsever, M. Udell, V. Cevher, Streaming low-rank matrix approximation with an
    application to scientific simulation, 2019, arXiv:1902.08651.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lemmata.sketching.lowrank.svd import LowRankCertificate, SVDResult
from lemmata.sketching.operators.counter import normals, words
from lemmata.sketching.operators.gaussian import GaussianSketch
from lemmata.sketching.operators.operator import SketchOperator
from lemmata.sketching.operators.sparse_sign import SparseSign
from lemmata.sketching.stream import as_row_blocks

__all__ = ["SinglePassSVD", "single_pass_svd"]

_TESTS = 10  # rows of the sketch that the error is estimated with
_FEW = 32  # rows of a sketch up to which Gaussian entries are cheap, and sparse signs may coincide


def single_pass_svd(blocks: Any, rank: int, seed: int = 0) -> SVDResult:
    r"""Return the leading singular triplets of a matrix, reading it once.

    The error is a small multiple of the best possible, where `randomized_svd` reaches it; its certificate
    is an unbiased estimate of the squared error from ten random signs a row that took no other part.

    Args:
        blocks: `RowBlocks`, or what `as_row_blocks` takes.
        rank: r.
        seed: Of every random number.

    Raises:
        ValueError: Where the rank is not in [1, min(n, d)], blocks do not cover every row once, or entries
            are not finite.
        TypeError: Where the entries are not of a real floating type.

    Examples:
        >>> A = torch.randn(500, 4, dtype=torch.float64) @ torch.randn(4, 60, dtype=torch.float64)
        >>> U, s, Vh = single_pass_svd(A, 4)
        >>> torch.allclose(U * s @ Vh, A)
        True
    """
    a = as_row_blocks(blocks)
    run = SinglePassSVD(a.shape, rank, seed, dtype=a.dtype, device=a.device)
    for offset, block in a:
        run.partial_fit(block, offset)
    return run.finalise()


class SinglePassSVD:
    """The sketches of the rows seen so far, on their way to a truncated SVD.

    Memory: n k numbers, the left factor's size, and k d for the rest.

    Args:
        shape: (n, d) of the whole matrix.
        rank: r.
        seed: Of every random number; states merge where shape, rank and seed agree.
        dtype: Of the result; sketches are kept in float64.
        device: Of the sketches.

    Raises:
        ValueError: Where the rank is not in [1, min(n, d)].
        TypeError: Where `dtype` is not a real floating type.

    Examples:
        >>> A = torch.randn(90, 2, dtype=torch.float64) @ torch.randn(2, 30, dtype=torch.float64)
        >>> here, there = SinglePassSVD((90, 30), 2), SinglePassSVD((90, 30), 2)
        >>> here.partial_fit(A[50:], 50)
        >>> there.partial_fit(A[:50], 0)
        >>> U, s, Vh = here.merge(there).finalise()
        >>> torch.allclose(U * s @ Vh, A)
        True
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> None:
        n, d = int(shape[0]), int(shape[1])
        if not 1 <= rank <= min(n, d):
            raise ValueError(f"`rank` (={rank}) must lie in [1, {min(n, d)}], the matrix being {(n, d)}")
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` (={dtype}) must be a real floating type")
        self.shape, self.rank, self.seed, self.dtype = (n, d), int(rank), int(seed), dtype
        self.device = torch.device(device)
        k = min(n, d, 2 * rank + 1)
        s = 2 * k + 1
        own = _seeds(self.seed)
        self._upsilon, self._phi = _rows_map(k, n, own[0]), _rows_map(s, n, own[1])
        self._test_seed = own[2]
        columns = torch.arange(d, device=self.device)
        self._omega = normals(own[3], columns, k).mT.contiguous()
        self._psi = normals(own[4], columns, s).mT.contiguous()
        self._x = torch.zeros(k, d, dtype=torch.float64, device=self.device)
        self._z = torch.zeros(s, s, dtype=torch.float64, device=self.device)
        self._w = torch.zeros(_TESTS, d, dtype=torch.float64, device=self.device)
        self._y: dict[int, Tensor] = {}
        self._seen: tuple[tuple[int, int], ...] = ()

    @property
    def rows_seen(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows `(start, stop)` seen, in order, neighbours joined."""
        return self._seen

    def partial_fit(self, block: Tensor, row_offset: int) -> None:
        """Take in rows `row_offset : row_offset + b`, dense or sparse CSR.

        Raises:
            ValueError: Where the block does not fit, holds rows seen before or entries that are not finite.
            TypeError: Where it is not of a real floating type.
        """
        n, d = self.shape
        if block.ndim != 2 or block.shape[1] != d:
            raise ValueError(f"`block` (of shape {tuple(block.shape)}) must have {d} columns")
        if not block.dtype.is_floating_point:
            raise TypeError(f"`block` (of {block.dtype}) must be of a real floating type")
        rows = block.shape[0]
        if row_offset < 0 or row_offset + rows > n:
            raise ValueError(f"rows {row_offset}:{row_offset + rows} outside a matrix of {n} rows")
        seen = _join(self._seen, ((row_offset, row_offset + rows),))
        if not rows:
            return
        wide = block.to(torch.float64)
        y = wide @ self._omega
        if not bool(torch.isfinite(y).all()):
            row = row_offset + int((~torch.isfinite(y)).any(1).nonzero()[0, 0])
            raise ValueError(f"row {row} has an entry that is not finite, or too large")
        self._y[row_offset], self._seen = y, seen
        self._x += self._upsilon.partial(wide, row_offset)
        self._z += self._phi.partial(wide, row_offset) @ self._psi
        self._w += _tested(self._test_seed, row_offset, wide)

    def merge(self, other: "SinglePassSVD") -> "SinglePassSVD":
        """Take in what another saw of the same matrix, and return the merged state itself.

        Raises:
            ValueError: Where shape, rank or seed differ, or both saw a row.
        """
        for name in ("shape", "rank", "seed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"cannot merge sketches of different {name}: {mine} and {theirs}")
        self._seen = _join(self._seen, other._seen)
        self._y |= other._y
        self._x = self._x + other._x
        self._z = self._z + other._z
        self._w = self._w + other._w
        return self

    def finalise(self) -> SVDResult:
        """Return the truncated SVD of the whole matrix; more rows can be taken in only before.

        Raises:
            ValueError: Where rows are missing.
        """
        n = self.shape[0]
        if self._seen != ((0, n),):
            missing = 0 if not self._seen or self._seen[0][0] > 0 else self._seen[0][1]
            raise ValueError(f"the matrix has {n} rows, and row {missing} was not seen")
        q = torch.linalg.qr(torch.cat([self._y[start] for start in sorted(self._y)])).Q
        p = torch.linalg.qr(self._x.mT).Q
        left = torch.linalg.lstsq(self._phi.apply(q), self._z).solution
        core = torch.linalg.lstsq(self._psi.mT @ p, left.mT).solution.mT
        u, s, vh = torch.linalg.svd(core)
        u, s, vh = (q @ u)[:, : self.rank], s[: self.rank], (vh @ p.mT)[: self.rank]
        sign = torch.where(torch.gather(u, 0, u.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
        u, vh = u * sign, sign.mT * vh
        certificate = self._certificate(u, s, vh)
        return SVDResult(u.to(self.dtype), s.to(self.dtype), vh.to(self.dtype), certificate)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `torch.load` reads with `weights_only=True`."""
        return {
            "shape": self.shape,
            "rank": self.rank,
            "seed": self.seed,
            "dtype": self.dtype,
            "x": self._x,
            "z": self._z,
            "w": self._w,
            "y": dict(self._y),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "SinglePassSVD":
        """Return the state that `state_dict` described."""
        x = state["x"]
        run = cls(state["shape"], state["rank"], state["seed"], dtype=state["dtype"], device=x.device)
        run._x, run._z, run._w = x, state["z"], state["w"]
        run._y = dict(state["y"])
        run._seen = _join((), tuple((start, start + len(piece)) for start, piece in run._y.items()))
        return run

    def _certificate(self, u: Tensor, s: Tensor, vh: Tensor) -> LowRankCertificate:
        off = self._w - _tested(self._test_seed, 0, u) * s @ vh
        error = (off.square().sum() / _TESTS).sqrt()
        total = (self._w.square().sum() / _TESTS).sqrt()
        relative = error / total.clamp(min=torch.finfo(torch.float64).tiny)
        return LowRankCertificate(error, relative, "test sketch", 0, 1)


def _join(
    first: tuple[tuple[int, int], ...], second: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """Return the union of ranges, sorted and with neighbours joined; raise where two have rows in common."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(piece for piece in first + second if piece[0] < piece[1]):
        if joined and start < joined[-1][1]:
            raise ValueError(f"rows {start}:{min(stop, joined[-1][1])} were seen before")
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def _seeds(seed: int) -> list[int]:
    """Return five seeds of 62 bits, so that the five random matrices have nothing in common."""
    drawn = words(seed, torch.arange(5), 2, stream=1)
    return [(int(high) >> 1) << 31 | int(low) >> 1 for high, low in drawn.T]


def _rows_map(rows: int, n: int, seed: int) -> SketchOperator:
    if rows <= _FEW:
        return GaussianSketch(rows, n, seed=seed)
    return SparseSign(rows, n, 8, seed=seed)


def _tested(seed: int, offset: int, block: Tensor) -> Tensor:
    """Return random signs (tests, b) times the block (b, d): ten bits of one word a row."""
    rows = torch.arange(offset, offset + block.shape[0], device=block.device)
    bits = words(seed, rows, 1)[0] >> torch.arange(_TESTS, device=block.device)[:, None] & 1
    return (1 - 2 * bits).to(torch.float64) @ block
