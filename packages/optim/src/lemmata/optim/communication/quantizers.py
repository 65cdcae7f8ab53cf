r"""Contractive compressors that keep every entry, in a few bits each.

A scale for all entries or for each block of them travels beside the codes. See
`lemmata.optim.communication.compressors` for what contraction means and for those that keep few entries.

References:
    S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi, Error Feedback Fixes SignSGD and other Gradient
    Compression Schemes, ICML 2019, arXiv:1901.09847.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from lemmata.optim.communication.compressors import Compressor, Message

__all__ = ["Quantize", "SignNorm"]


class SignNorm(Compressor):
    r"""Signs, times the mean magnitude: $C(x) = \|x\|_1 / d \cdot \operatorname{sign}(x)$, a bit an entry.

    $\|C(x) - x\|^2 = \|x\|^2 - \|x\|_1^2 / d$, so that $\delta = \|x\|_1^2 / (d \|x\|^2)$: $2 / \pi$ for
    Gaussian entries, 1 for constant magnitude, and $1 / d$ for a vector with one nonzero entry, which is what
    `delta` can promise. The sign of zero travels as +; the identity holds all the same.

    Args:
        block: Take the mean magnitude over blocks of so many entries instead of all; 32 bits a block more,
            and $\delta = 1 /$ `block`.

    Raises:
        ValueError: Where `block` is less than one.

    Examples:
        >>> sign = SignNorm()
        >>> sign.decompress(sign.compress(torch.tensor([1.0, -2.0, 3.0])))
        tensor([ 2., -2.,  2.])

    References:
        S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi, Error Feedback Fixes SignSGD and other Gradient
        Compression Schemes, ICML 2019, arXiv:1901.09847.
    """

    def __init__(self, block: int | None = None) -> None:
        _check_block(block)
        self.block = block

    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Keep signs, packed eight to a byte, and mean magnitudes."""
        d = x.shape[-1]
        sums = _blocks(x.abs(), self.block).sum(-1)
        scale = sums / _block_lengths(d, self.block, x)
        return Message((scale, _pack((x >= 0).to(torch.uint8), bits=1)), d)

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add scaled signs, in place."""
        scale, packed = message.parts
        signs = _unpack(packed, message.size, total.new_tensor([-1.0, 1.0]))
        return total.add_(_scaled(signs, scale, self.block), alpha=alpha)

    def delta(self, d: int) -> float:
        """Return one over the length of a block."""
        return 1 / max(1, min(d, self.block or d))


class Quantize(Compressor):
    r"""Entries rounded to the nearest of $2^b - 1$ evenly spaced levels between plus and minus the largest.

    With $L = 2^{b - 1} - 1$ levels on either side of zero, an entry is off by at most $\max |x| / (2 L)$ and
    by no more than its own magnitude, and the largest entry is exact. Hence
    $\delta = 1 / (1 + (d - 1) / (4 L^2))$, attained where all other entries lie half a step from zero.

    Args:
        bits: Bits an entry: 2, 4 or 8. `SignNorm` takes one.
        block: Scale by the largest of so many entries instead of all; 32 bits a block more, and $d$ in
            $\delta$ becomes the block's length. None for a single scale.

    Raises:
        ValueError: Where `bits` or `block` is none of these.

    Examples:
        >>> coarse = Quantize(2)
        >>> coarse.decompress(coarse.compress(torch.tensor([4.0, -3.0, 1.0])))
        tensor([ 4., -4.,  0.])
    """

    def __init__(self, bits: int = 8, *, block: int | None = None) -> None:
        if bits not in {2, 4, 8}:
            raise ValueError(f"`bits` (={bits}) must be 2, 4 or 8")
        _check_block(block)
        self.bits, self.block = bits, block
        self.levels: int = 2 ** (bits - 1) - 1

    def compress(self, x: Float[Tensor, "*batch d"]) -> Message:
        """Keep rounded entries, packed into bytes, and largest magnitudes."""
        d = x.shape[-1]
        blocks = _blocks(x, self.block)
        scale = blocks.abs().amax(-1) if blocks.shape[-1] else blocks.sum(-1)
        divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
        codes = (blocks / divisor[..., None] * self.levels).round_().add_(self.levels).to(torch.uint8)
        return Message((scale, _pack(codes.flatten(-2)[..., :d], self.bits)), d)

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        """Add scaled levels, in place."""
        scale, packed = message.parts
        steps = torch.arange(2**self.bits, dtype=total.dtype, device=total.device) - self.levels
        levels = _unpack(packed, message.size, steps / self.levels)
        return total.add_(_scaled(levels, scale, self.block), alpha=alpha)

    def delta(self, d: int) -> float:
        """Return what rounding to nearest leaves of any vector."""
        length = max(1, min(d, self.block or d))
        return 1 / (1 + (length - 1) / float(4 * self.levels**2))


def _check_block(block: int | None) -> None:
    """Raise ValueError unless a block has entries."""
    if block is not None and block < 1:
        raise ValueError(f"`block` (={block}) must be at least 1")


def _blocks(x: Float[Tensor, "*batch d"], block: int | None) -> Float[Tensor, "*batch blocks length"]:
    """Cut vectors into blocks, the last filled with zeros."""
    d = x.shape[-1]
    length = min(block or d, d)
    if length == d:
        return x[..., None, :]
    return torch.nn.functional.pad(x, (0, -d % length)).reshape(*x.shape[:-1], -1, length)


def _block_lengths(d: int, block: int | None, like: Tensor) -> Float[Tensor, " blocks"]:
    """Return how many entries of a vector lie in each block."""
    length = max(1, min(block or d, d))
    lengths = like.new_full((max(1, -(-d // length)),), length)
    lengths[-1] = max(1, d - length * (len(lengths) - 1))
    return lengths


def _scaled(
    codes: Float[Tensor, "*batch d"], scale: Float[Tensor, "*batch blocks"], block: int | None
) -> Float[Tensor, "*batch d"]:
    """Multiply entries by the scale of their block, in place where there is one block."""
    if scale.shape[-1] == 1:
        return codes.mul_(scale)
    return (_blocks(codes, block) * scale[..., None]).flatten(-2)[..., : codes.shape[-1]]


def _pack(codes: UInt8[Tensor, "*batch d"], bits: int) -> UInt8[Tensor, "*batch packed"]:
    """Put several codes of a few bits into each byte."""
    each = 8 // bits
    if each == 1:
        return codes.contiguous()
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % each))
    padded = padded.reshape(*codes.shape[:-1], -1, each)
    packed: Tensor = padded[..., 0].clone()
    for place in range(1, each):
        packed |= padded[..., place] << (bits * place)
    return packed


def _unpack(
    packed: UInt8[Tensor, "*batch packed"], d: int, values: Float[Tensor, " codes"]
) -> Float[Tensor, "*batch d"]:
    """Return the values of the first `d` codes in bytes, looked up a byte at a time."""
    bits = len(values).bit_length() - 1
    places = torch.arange(0, 8, bits, device=packed.device)
    codes = torch.arange(256, device=packed.device)[:, None] >> places & (len(values) - 1)
    unpacked: Tensor = nn.functional.embedding(packed.int(), values[codes])
    return unpacked.flatten(-2)[..., :d]
