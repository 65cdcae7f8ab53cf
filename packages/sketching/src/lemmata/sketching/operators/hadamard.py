r"""Fast Walsh-Hadamard transform: $O(n \log n)$, as products with small dense Hadamard matrices.

The Hadamard matrix of order $2^k$ is the Kronecker product of $k$ copies of $[1\ 1; 1\ {-1}]$, so it is
also one of dense matrices of order 16, each of which acts on one axis of the reshaped data. A dense product
does four levels of the usual butterfly for one reading of memory; on a CPU, several products run on a tile
that stays in cache, so that a transform of any length reads main memory two or three times.

Axis letters: n length of the transform, s entries between neighbours along it (its stride), d columns.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["fwht", "hadamard_rows", "hadamard_rows_t"]

_ORDER = 16  # of a dense factor; of 8, 16, 32, 64 and 128 it takes least time for a level of the transform
_RIGHT = 64  # order of the factor that does the last levels of narrow data, from the right
_TILE = 1 << 20  # bytes of a tile; of 64 KiB to 4 MiB it is the fastest for most shapes
_LEVELS = 9  # levels of one pass over main memory: wider, and the rows of a tile get too short to stream


def fwht(x: Tensor, dim: int = 0, normalize: bool = True) -> Tensor:
    r"""Return the Walsh-Hadamard transform of `x` along `dim`, in the natural (Hadamard) order.

    Equals `scipy.linalg.hadamard(n) @ x`, divided by $\sqrt n$ where `normalize`; then it is orthonormal and
    its own inverse. It is differentiable any number of times, and composes with `torch.func`.

    Args:
        x: Data of any shape, of a power of two along `dim`. Half precision is transformed in float32.
        dim: The axis transformed.
        normalize: Whether to divide by the square root of the length.

    Returns:
        A contiguous tensor of the shape and dtype of `x`.

    Raises:
        TypeError: Where `x` is not real and floating.
        ValueError: Where the length is not a power of two, or `x` has no axis.

    Examples:
        >>> fwht(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
        >>> fwht(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1, normalize=False)
        tensor([[ 3., -1.],
                [ 7., -1.]])

    References:
        B. J. Fino, V. R. Algazi, Unified matrix treatment of the fast Walsh-Hadamard transform, 1976.
    """
    if not x.is_floating_point():
        raise TypeError(f"`x` ({x.dtype}) must be real and floating: convert it first")
    if x.ndim == 0:
        raise ValueError("`x` (a scalar) must have an axis to transform")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"`dim` (={dim}) must lie in [{-x.ndim}, {x.ndim - 1}]")
    n = x.shape[dim]
    if n < 1 or n & (n - 1):
        raise ValueError(
            f"`x` has {n} entries along `dim` (={dim}), which must be a power of two: pad with zeros"
        )
    return _apply(x, dim % x.ndim, normalize)


def hadamard_rows(x: Float[Tensor, "n d"], offset: int, rows: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
    r"""Return chosen rows of a range of columns of a Hadamard matrix, of any order, times `x`.

    Equals `scipy.linalg.hadamard(p)[rows, offset : offset + n] @ x`, without normalisation, for every power
    of two `p` above all rows and columns. Where $B$ columns begin at a multiple of $B$, a power of two, row
    $r$ of them is a sign times row $r \bmod B$ of the matrix of order $B$: a transform of length $B$ and a
    gather. The range is cut into two such parts, padded with zeros to at most twice their length.

    Args:
        x: The block of data.
        offset: The column that the block begins at.
        rows: Indices of rows, in any order, repeated or not.

    Examples:
        >>> hadamard_rows(torch.tensor([[1.0], [2.0]]), 5, torch.tensor([0, 1, 2**40]))
        tensor([[3.],
                [1.],
                [3.]])
    """
    out = x.new_zeros(len(rows), x.shape[1])
    for corner, order, start, stop in _aligned(offset, len(x)):
        part = x[start:stop]
        if stop - start < order:
            first = offset + start - corner
            part = torch.nn.functional.pad(part, (0, 0, first, order - first - len(part)))
        chosen = fwht(part, normalize=False).index_select(0, rows & order - 1)
        out = out + chosen * _corner_signs(rows, corner, x.dtype)
    return out


def hadamard_rows_t(
    y: Float[Tensor, "m d"], offset: int, n: int, rows: Int[Tensor, " m"]
) -> Float[Tensor, "{n} d"]:
    """Return the transpose of what `hadamard_rows` multiplies with, times `y`.

    Equals `scipy.linalg.hadamard(p)[rows, offset : offset + n].T @ y`.

    Examples:
        >>> hadamard_rows_t(torch.tensor([[1.0]]), 2, 3, torch.tensor([3]))
        tensor([[-1.],
                [ 1.],
                [ 1.]])
    """
    parts = [y.new_zeros(0, y.shape[1])]
    for corner, order, start, stop in _aligned(offset, n):
        signed = y * _corner_signs(rows, corner, y.dtype)
        spread = y.new_zeros(order, y.shape[1]).index_add(0, rows & order - 1, signed)
        first = offset + start - corner
        parts.append(fwht(spread, normalize=False)[first : first + stop - start])
    return torch.cat(parts)


def _aligned(offset: int, n: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a range at its most divisible point, and put either side in a block of columns.

    Yields (first column of the block, its length, first and last row of the data that lie in it). A block's
    length is a power of two, of which its first column is a multiple.
    """
    last = offset + n
    # The highest bit in which the range's end and the number before the range differ: its zeros are the most.
    level = (last ^ (offset - 1)).bit_length() - 1 if offset else last.bit_length()
    middle = last >> level << level
    for start, stop in ((offset, middle), (middle, last)):
        if start < stop:
            order = 1 << (stop - start - 1).bit_length()
            yield (middle - order if start < middle else middle), order, start - offset, stop - offset


def _corner_signs(rows: Tensor, corner: int, dtype: torch.dtype) -> Tensor:
    """Return the sign of entry `corner` of each row, as a column: the parity of the bits they share."""
    shared = rows & corner
    for shift in (32, 16, 8, 4, 2, 1):
        shared = shared ^ (shared >> shift)
    return (1 - 2 * (shared & 1)).to(dtype)[:, None]


class _Transform(torch.autograd.Function):
    """The transform is linear and symmetric: its derivative in either direction is itself."""

    @staticmethod
    def forward(x: Tensor, dim: int, normalize: bool) -> Tensor:
        n, s = x.shape[dim], math.prod(x.shape[dim + 1 :])
        if n == 1 or x.numel() == 0:
            return x.clone(memory_format=torch.contiguous_format)
        wide = x.to(torch.float32) if x.dtype.itemsize < 4 else x
        transform = _tiled if x.device.type == "cpu" else _staged
        return transform(wide.contiguous().reshape(-1), n, s, normalize).reshape(x.shape).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, bool], output: Tensor) -> None:
        del output
        ctx.options = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _apply(gradient, *ctx.options), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _apply(tangent, *ctx.options)

    @staticmethod
    def vmap(
        _: Any, in_dims: tuple[int, None, None], x: Tensor, dim: int, normalize: bool
    ) -> tuple[Tensor, int]:
        return _apply(x.movedim(in_dims[0], 0), dim + 1, normalize), 0


def _apply(x: Tensor, dim: int, normalize: bool) -> Tensor:
    out: Tensor = _Transform.apply(x, dim, normalize)
    return out


def _staged(flat: Tensor, n: int, s: int, normalize: bool) -> Tensor:
    """Transform on a device that wants few large products: every stage takes all of the data."""
    spare = (torch.empty_like(flat), torch.empty_like(flat))
    return _stages(flat, n, s, normalize, spare)


def _tiled(flat: Tensor, n: int, s: int, normalize: bool) -> Tensor:
    """Transform tile by tile: blocks of whole rows first, then slices of columns of what that leaves."""
    size = _TILE // flat.element_size()
    spare = (torch.empty_like(flat[:size]), torch.empty_like(flat[:size]))
    inner = min(n, 1 << max(size // s, 1).bit_length() - 1)
    step = max(size // (inner * s), 1) * inner * s
    out = torch.empty_like(flat)
    for start in range(0, flat.numel(), step):
        stop = start + step
        if inner == 1:
            out[start:stop] = flat[start:stop]
        else:
            _stages(flat[start:stop], inner, s, normalize, spare, out[start:stop])
    for order in _passes(n // inner):
        _columns(out, order, inner * s, normalize, spare)
        inner *= order
    return out


def _columns(out: Tensor, n: int, s: int, normalize: bool, spare: tuple[Tensor, Tensor]) -> None:
    """Transform `out` in place along an axis whose entries lie `s` apart, a slice of columns at a time."""
    width = spare[0].numel() // n
    for block in out.reshape(-1, n, s):
        for start in range(0, s, width):
            tile = block[:, start : start + width]
            tile.copy_(_stages(tile, n, tile.shape[1], normalize, spare).reshape(tile.shape))


def _stages(
    x: Tensor, n: int, s: int, normalize: bool, spare: tuple[Tensor, Tensor], out: Tensor | None = None
) -> Tensor:
    """Transform what fits `spare`, flat or of shape (n, s); the last of the products is written to `out`."""
    size, factors = x.numel(), _factors(n, s)
    for i, (order, from_right) in enumerate(factors):
        y = out if out is not None and i + 1 == len(factors) else spare[i % 2][:size]
        if from_right:  # rows as short as this would waste a product from the left
            h = _dense(order, s, normalize, x.dtype, x.device)
            torch.mm(x.reshape(-1, order * s), h, out=y.view(-1, order * s))
        else:
            h = _dense(order, 1, normalize, x.dtype, x.device)
            parts = x.reshape(-1, order, s)
            torch.bmm(h.expand(len(parts), order, order), parts, out=y.view(parts.shape))
        x, s = y, s * order
    return x


@lru_cache(maxsize=256)
def _factors(n: int, s: int) -> tuple[tuple[int, bool], ...]:
    """Return the orders of the dense factors, the last levels first, and whether each acts from the right."""
    if n == 1:
        return ()
    from_right = s <= _RIGHT // 8
    order = min(n, 1 << (_RIGHT // s).bit_length() - 1 if from_right else _ORDER)
    return ((order, from_right), *_factors(n // order, s * order))


def _passes(n: int) -> tuple[int, ...]:
    """Cut the levels that are left into as few passes over main memory as fit, of nearly equal width."""
    levels = n.bit_length() - 1
    count = -(-levels // _LEVELS)
    return tuple(1 << (levels * (i + 1)) // count - (levels * i) // count for i in range(count))


@lru_cache(maxsize=128)
def _dense(order: int, repeat: int, normalize: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the Kronecker product of the Hadamard matrix and an identity of order `repeat`."""
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(order.bit_length() - 1):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    if normalize:
        h = h / math.sqrt(order)
    return torch.kron(h, torch.eye(repeat, dtype=torch.float64)).to(device=device, dtype=dtype)
