r"""Contractive compressors: maps of a vector to a short message that keep part of its energy.

A compressor $C$ contracts by $\delta \in (0, 1]$ where $E \|C(x) - x\|^2 \le (1 - \delta) \|x\|^2$ for every
vector $x$. That one inequality is all that error feedback, EF21 and error control ask of it. `delta` gives
the largest $\delta$ that holds for every vector; gradients usually do far better than that. All compressors
work along the last axis, so that the gradients of many workers are compressed in one call.

References:
    - S. U. Stich, J.-B. Cordonnier, M. Jaggi, Sparsified SGD with Memory, NeurIPS 2018, arXiv:1809.07599.
    - T. Vogels, S. P. Karimireddy, M. Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for
      Distributed Optimization, NeurIPS 2019, arXiv:1905.13727.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.optim.optimizers.base import check_range

__all__ = ["Compressor", "LowRank", "Message", "RandK", "TopK"]

SAMPLED_FROM = 1 << 15
"""Length from which a threshold is estimated from a sample before the largest entries are sought."""


@dataclass(frozen=True)
class Message:
    """What travels: tensors whose shapes and dtypes depend only on the length of the vector.

    Attributes:
        parts: Tensors that are sent.
        size: Length $d$ of the compressed vector.
        known: Tensors that every receiver has without their being sent.
    """

    parts: tuple[Tensor, ...]
    size: int
    known: tuple[Tensor, ...] = ()


class Compressor(ABC):
    """A map of vectors to messages and back.

    Attributes:
        reducible: Whether the mean of the workers' messages is the message of the mean, so that one
            all-reduce does instead of an all-gather.
    """

    reducible: bool = False

    @abstractmethod
    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Compress vectors.

        Args:
            x: Finite vectors along the last axis.

        Returns:
            The message, in the dtype of `x`.
        """

    @abstractmethod
    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add a multiple of what a message stands for to a tensor, in place.

        Args:
            total: Is changed.
            message: From `compress`.
            alpha: Its factor.

        Returns:
            `total`.
        """

    @abstractmethod
    def delta(self, d: int) -> float:
        r"""Return the contraction that holds for every vector of a length.

        Args:
            d: The length.

        Returns:
            A $\delta$ in $[0, 1]$; zero means that the map need not contract at all.
        """

    def compress_tensor(
        self,
        x: Float[Tensor, "*batch d"],
        *,
        shape: Sequence[int] | None = None,  # noqa: ARG002 - for those who see more than a vector
        previous: Message | None = None,  # noqa: ARG002 - likewise
    ) -> Message:
        """Compress vectors of which more is known; only `LowRank` makes use of it.

        Args:
            x: Finite vectors along the last axis.
            shape: Shape of the tensor whose entries a vector holds.
            previous: The message before this one.

        Returns:
            The message, in the dtype of `x`.
        """
        return self.compress(x)

    def decompress(self, message: Message) -> Float[Tensor, "*batch d"]:
        """Return the vectors that a message stands for.

        Args:
            message: From `compress`.
        """
        batch, like = message.parts[0].shape[:-1], message.parts[0]
        return self.add_to(like.new_zeros(*batch, message.size), message)

    def bytes(self, message: Message) -> int:
        """Return the number of bytes that a message takes on the wire.

        Args:
            message: From `compress`.
        """
        return sum(part.numel() * part.element_size() for part in message.parts)


class Sparsifier(Compressor):
    """Keeps `k` entries of `d`, given as a number or as a share of them."""

    def __init__(self, ratio: float | None, k: int | None) -> None:
        if (ratio is None) == (k is None):
            raise ValueError(f"give exactly one of `ratio` (={ratio}) and `k` (={k})")
        if ratio is not None:
            check_range("ratio", ratio, 0, 1, open_low=True, open_high=False)
        if k is not None and k < 1:
            raise ValueError(f"`k` (={k}) must be at least 1")
        self.ratio, self._k = ratio, k

    def k(self, d: int) -> int:
        """Return how many entries of a vector are kept: at least one, where there are any.

        Args:
            d: Length of the vector.

        Raises:
            ValueError: Where `k` is larger than the vector.
        """
        if self._k is None or d == 0:
            return math.ceil((self.ratio or 0) * d - 1e-9)
        if self._k > d:
            raise ValueError(f"`k` (={self._k}) must not exceed the length of the vector (={d})")
        return self._k

    def delta(self, d: int) -> float:
        """Return $k / d$: both the largest entries and random ones keep at least that share on average."""
        return self.k(d) / d if d else 1.0


class TopK(Sparsifier):
    r"""The `k` entries of largest magnitude, and where they are.

    Contracts by $\delta = k / d$; equality for vectors of constant magnitude. Of entries of equal magnitude
    any may be kept, but never more than `k`.

    Args:
        ratio: Share of entries to keep, in (0, 1]; rounded up to at least one entry.
        k: Their number, instead.

    Raises:
        ValueError: Where not exactly one of `ratio` and `k` is given, or where it is out of range.

    Examples:
        >>> x = torch.tensor([3.0, -5.0, 0.5, 1.0])
        >>> top = TopK(0.25)
        >>> top.decompress(top.compress(x))
        tensor([ 0., -5.,  0.,  0.])
        >>> top.delta(4), top.bytes(top.compress(x))
        (0.25, 8)

    References:
        S. U. Stich, J.-B. Cordonnier, M. Jaggi, Sparsified SGD with Memory, NeurIPS 2018, arXiv:1809.07599.
    """

    def __init__(self, ratio: float | None = None, *, k: int | None = None) -> None:
        super().__init__(ratio, k)

    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Keep the largest entries: values, and positions as 32-bit integers where these suffice."""
        d = x.shape[-1]
        k = self.k(d)
        if k == d:
            return Message((x.clone(),), d)
        chosen = _largest(x.abs(), k)
        return Message((x.gather(-1, chosen), chosen.to(_index_dtype(d))), d)

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add values at their positions, in place."""
        return _scatter(total, message, alpha)


class RandK(Sparsifier):
    r"""`k` entries at random positions.

    Contracts by $\delta = k / d$ on average over the draw. Every worker draws its own positions and sends
    them, or, with `shared=True`, all draw the same from generators in the same state: then only values
    travel, and the mean costs one all-reduce however many workers there are, where own positions cost an
    all-gather of twice the size but their errors average out over the workers.

    Args:
        ratio: Share of entries to keep, in (0, 1]; rounded up to at least one entry.
        generator: Source of the positions; PyTorch's own where it is None.
        k: Their number, instead of `ratio`.
        unbiased: Multiply by $d / k$, so that the mean over the draw is the vector itself. That map does not
            contract unless $k > d / 2$, and error control refuses it.
        shared: All workers draw the same positions. Needs a `generator` seeded alike on all of them, and used
            for nothing else.

    Raises:
        ValueError: Where not exactly one of `ratio` and `k` is given, or where it is out of range; where
            positions are shared without a generator.

    Examples:
        >>> x = torch.arange(1.0, 5.0)
        >>> keep = RandK(0.5, torch.Generator().manual_seed(0))
        >>> int(keep.decompress(keep.compress(x)).count_nonzero())
        2
    """

    def __init__(
        self,
        ratio: float | None = None,
        generator: torch.Generator | None = None,
        *,
        k: int | None = None,
        unbiased: bool = False,
        shared: bool = False,
    ) -> None:
        super().__init__(ratio, k)
        if shared and generator is None:
            raise ValueError("`shared` (=True) needs a `generator` in the same state on every worker")
        self.generator, self.unbiased, self.reducible = generator, unbiased, shared

    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Keep entries at positions drawn anew."""
        d = x.shape[-1]
        k = self.k(d)
        # The positions of the k largest of d uniform numbers are a uniform draw without replacement.
        drawn = (d,) if self.reducible else tuple(x.shape)
        device = x.device if self.generator is None else self.generator.device
        uniform = torch.rand(drawn, generator=self.generator, device=device)
        chosen = _largest(uniform, k).to(x.device)
        values = x.gather(-1, chosen.expand(*x.shape[:-1], k))
        if self.unbiased and k:
            values *= d / k
        positions = chosen.to(_index_dtype(d))
        if self.reducible:
            return Message((values,), d, known=(positions.expand(*x.shape[:-1], k),))
        return Message((values, positions), d)

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add values at their positions, in place."""
        return _scatter(total, message, alpha)

    def delta(self, d: int) -> float:
        r"""Return $k / d$, or $\max(0, 2 - d / k)$ for the unbiased map: off by $(d / k - 1) \|x\|^2$."""
        share = super().delta(d)
        return max(0.0, 2 - 1 / share) if self.unbiased else share


class LowRank(Compressor):
    r"""The vector as a matrix, projected onto the range of a random sketch of it: two thin factors.

    A tensor of two or more axes is the matrix of its first axis by the others, any other vector the nearest
    to a square. With the shorter side $c$, a Gaussian sketch $Q$ of `rank` $r$ columns and $P$ an orthonormal
    basis of $M Q$, the message is $P$ and $M^T P$. $\|P P^T M\| \ge \|M \Pi_Q\|$, whose mean square is
    $r / c \cdot \|M\|^2$: $\delta = r / c$ on average over the sketch, on which not even the best
    approximation of that rank improves for every matrix. Where two factors are no shorter than the vector, it
    travels itself.

    Starting from the previous message's factor (`warm_start`) makes successive messages a power iteration. It
    pays where the same subspace returns in each, as in error feedback of a slowly changing gradient. EF21 and
    error control have already subtracted that subspace, so that it finds next to nothing there, and the bound
    above does not hold.

    Args:
        rank: Columns of the factors.
        iterations: Multiplications by $M M^T$; more than one bring the subspace nearer to the leading one.
        warm_start: Start from the previous message instead of a new sketch, where there is one.
        generator: Source of the sketches; PyTorch's own where it is None.

    Raises:
        ValueError: Where `rank` or `iterations` is less than one.

    Examples:
        >>> u, v = torch.arange(1.0, 5.0), torch.tensor([1.0, -1.0, 2.0])
        >>> low = LowRank(1)
        >>> message = low.compress_tensor(torch.outer(u, v).flatten(), shape=(4, 3))
        >>> torch.allclose(low.decompress(message).view(4, 3), torch.outer(u, v), atol=1e-5)
        True

    References:
        - T. Vogels, S. P. Karimireddy, M. Jaggi, PowerSGD: Practical Low-Rank Gradient Compression for
          Distributed Optimization, NeurIPS 2019, arXiv:1905.13727.
        - N. Halko, P. G. Martinsson, J. A. Tropp, Finding Structure with Randomness: Probabilistic
          Algorithms for Constructing Approximate Matrix Decompositions, SIAM Review 53(2), 2011,
          arXiv:0909.4061.
    """

    def __init__(
        self,
        rank: int,
        *,
        iterations: int = 1,
        warm_start: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in (("rank", rank), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"`{name}` (={value}) must be at least 1")
        self.rank, self.iterations, self.warm_start, self.generator = rank, iterations, warm_start, generator

    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Compress vectors, read as near-square matrices."""
        return self.compress_tensor(x)

    def compress_tensor(
        self,
        x: Float[Tensor, "*batch d"],
        *,
        shape: Sequence[int] | None = None,
        previous: Message | None = None,
    ) -> Message:
        """Project onto the range of a sketch; the longer side gets the orthonormal factor.

        Args:
            x: Finite vectors along the last axis.
            shape: Shape of the tensor whose entries a vector holds.
            previous: The message before this one, to start from with `warm_start`.

        Returns:
            The message, in the dtype of `x`.
        """
        d = x.shape[-1]
        rows, columns = _matrix_shape(d, shape)
        if self.rank * (rows + columns) >= d:
            return Message((x.clone(),), d)
        matrix = torch.nn.functional.pad(x, (0, rows * columns - d))
        matrix = matrix.reshape(*x.shape[:-1], rows, columns)
        tall = matrix if rows >= columns else matrix.mT
        sketch = self._start(tall, None if previous is None else previous.parts[int(rows >= columns)])
        for _ in range(self.iterations):
            basis = torch.linalg.qr(tall @ sketch).Q
            sketch = tall.mT @ basis
        factors = (basis, sketch) if rows >= columns else (sketch, basis)
        return Message(tuple(factor.flatten(-2) for factor in factors), d)

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add the product of the factors, in place."""
        if len(message.parts) == 1:
            return total.add_(message.parts[0], alpha=alpha)
        left, right = (part.reshape(*part.shape[:-1], -1, self.rank) for part in message.parts)
        return total.add_((left @ right.mT).flatten(-2)[..., : message.size], alpha=alpha)

    def delta(self, d: int) -> float:
        """Return rank over the shorter side of a near-square matrix; other shapes do no worse."""
        rows, columns = _matrix_shape(d, None)
        return 1.0 if self.rank * (rows + columns) >= d else self.rank / min(rows, columns)

    def _start(
        self, tall: Float[Tensor, "*batch rows columns"], previous: Float[Tensor, "*batch n"] | None
    ) -> Float[Tensor, "*batch columns rank"]:
        if self.warm_start and previous is not None:
            return previous.reshape(*previous.shape[:-1], -1, self.rank).to(tall)
        device = tall.device if self.generator is None else self.generator.device
        columns = tall.shape[-1]
        drawn = torch.randn(*tall.shape[:-2], columns, self.rank, generator=self.generator, device=device)
        return drawn.to(tall)


def _index_dtype(d: int) -> torch.dtype:
    """Return the shorter integer type that counts a vector's entries."""
    return torch.int32 if d < 2**31 else torch.int64


def _largest(x: Float[Tensor, "*batch d"], k: int) -> Int[Tensor, "*batch k"]:
    """Return the positions of the `k` largest entries.

    On a CPU, selecting among all entries of a long vector takes several times as long as reading it. A sample
    tells a level that somewhat more than `k` entries exceed; only those are selected from.
    """
    d = x.shape[-1]
    if x.device.type != "cpu" or x.ndim > 1 or d < SAMPLED_FROM or 4 * k > d:
        return x.topk(k, sorted=False).indices
    sample = x[:: math.isqrt(d) // 4 | 1]  # an odd stride meets every residue of a power of two
    expected = len(sample) * k / d
    above = min(len(sample), math.ceil(expected + 4 * math.sqrt(expected) + 4))
    level = sample.topk(above, sorted=False).values.amin()
    candidates = (x >= level).nonzero().squeeze(-1)
    if len(candidates) < k:
        return x.topk(k, sorted=False).indices
    return candidates[x[candidates].topk(k, sorted=False).indices]


def _scatter(total: Float[Tensor, "*batch d"], message: Message, alpha: float) -> Float[Tensor, "*batch d"]:
    """Add a sparse message, or a whole vector, in place."""
    values, *positions = message.parts + message.known
    if not positions:
        return total.add_(values, alpha=alpha)
    scaled = values if alpha == 1 else values * alpha
    return total.scatter_add_(-1, positions[0].long(), scaled.to(total.dtype))


def _matrix_shape(d: int, shape: Sequence[int] | None) -> tuple[int, int]:
    """Return the matrix that a tensor is read as; a vector's may hold a few entries more than it."""
    if shape is not None and len(shape) > 1:
        return shape[0], d // max(1, shape[0])
    columns = max(1, math.isqrt(d))
    return -(-d // columns), columns
