"""Zarr stores of version 2 and 3: a matrix, or a group of arrays that have their rows in common.

A matrix on its own gives columns `c0`, `c1`, ...; in a group, a vector gives a column of its name and a
matrix columns of its name and a number, so that `x` and `y` give `x0`, `x1`, ..., `y`. Pieces are aligned
with the chunks along the rows; where a chunk of the store has more rows than a piece, it is unpacked once for
each of them. A chunk that is not in the store has the array's fill value: that is what Zarr means by its
absence.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lemmata.apps.regression_at_scale.sources.npy import even_pieces
from lemmata.apps.regression_at_scale.sources.part import Part, Scan, Values, Where
from lemmata.apps.regression_at_scale.sources.schema import NUMERIC, Column, check_names

__all__ = ["ZarrPart", "scan_zarr"]


def scan_zarr(path: str, chunk_rows: int) -> Scan:
    """Read a Zarr store's metadata.

    Args:
        path: The store.
        chunk_rows: Most rows of a piece.

    Returns:
        The part, its columns and pieces.

    Raises:
        ValueError: Where it is no store, holds no array of numbers, or its arrays differ in their rows.
    """
    members: list[tuple[str, int]] = []
    columns: list[Column] = []
    rows, step = -1, 1
    for name, array in _arrays(path).items():
        if array.ndim not in {1, 2} or array.dtype.kind not in "fiub":
            raise ValueError(
                f"{path}: array {name!r} is {array.dtype} of shape {array.shape}; expected real numbers, "
                "(rows,) or (rows, columns)"
            )
        if rows not in {-1, array.shape[0]}:
            raise ValueError(f"{path}: array {name!r} has {array.shape[0]} rows, the others {rows}")
        rows, step = array.shape[0], max(step, array.chunks[0])
        width = array.shape[1] if array.ndim == 2 else -1
        members.append((name, width))
        columns += [Column(each, NUMERIC, array.dtype.name) for each in _names(name, width)]
    check_names(path, [column.name for column in columns])
    aligned = step * (chunk_rows // step) or chunk_rows
    return Scan(ZarrPart(path, tuple(members)), tuple(columns), even_pieces(rows, aligned))


@dataclass(frozen=True)
class ZarrPart(Part):
    """A Zarr store.

    Args:
        path: The store.
        members: Name and columns of each array, -1 columns for a vector; the name is empty where the store is
            one array.
    """

    path: str
    members: tuple[tuple[str, int], ...]

    def stream(self, pieces: Sequence[Where], names: Sequence[str]) -> Iterator[dict[str, Values]]:
        """Read pieces from the arrays that hold what is asked for."""
        arrays, wanted = _arrays(self.path), set(names)
        for piece in pieces:
            rows = slice(piece.row, piece.row + piece.rows)
            columns: dict[str, Values] = {}
            for member, width in self.members:
                own = _names(member, width)
                if wanted.isdisjoint(own):
                    continue
                with _naming(self.path):
                    block = np.asarray(arrays[member][rows])
                if len(block) != piece.rows:
                    raise ValueError(f"{self.path}: has changed since it was opened")
                each = [block] if width < 0 else list(block.T)
                columns |= {name: values for name, values in zip(own, each, strict=True) if name in wanted}
                del block, each
            yield columns
            del columns  # freed before the next piece is read


def _names(member: str, width: int) -> list[str]:
    """Return the names of an array's columns."""
    if width < 0:
        return [member or "c0"]
    return [f"{member or 'c'}{j}" for j in range(width)]


def _arrays(path: str) -> dict[str, Any]:
    """Return the arrays of a store by name, in the order of their names; an array alone has no name."""
    import zarr

    with _naming(path):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return {"": node}
        arrays = dict(sorted(node.arrays()))
    if not arrays:
        raise ValueError(f"{path}: holds no array")
    return arrays


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn Zarr's errors into ones that name the store."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable Zarr store ({reason})") from error
