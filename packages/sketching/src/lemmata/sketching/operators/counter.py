r"""Random numbers that are a function of where they are used: Philox-4x32 on tensors.

A sketch must have the same entries on every machine, device and chunking. So entry $(i, j)$ is not the next
number of a stream, but a function of a seed, the column $j$ and the number of the draw: a counter that ten
rounds of multiplication and exclusive or turn into random bits.

References:
    J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["normals", "philox", "signs", "uniforms", "words"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCK = 1 << 14  # counters worked on at once: their words and products stay in the second-level cache


def philox(counter: Int[Tensor, "4 n"], key: tuple[int, int]) -> Int[Tensor, "4 n"]:
    """Return the four 32-bit words that Philox-4x32-10 makes of each counter, as int64 in [0, 2^32).

    Args:
        counter: Counters, four 32-bit words each.
        key: Two 32-bit words.

    Examples:
        >>> [hex(word) for word in philox(torch.zeros(4, 1, dtype=torch.int64), (0, 0))[:, 0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    out = counter.clone(memory_format=torch.contiguous_format)
    a, b, c, d = out
    left, right = torch.empty_like(a), torch.empty_like(a)
    first, second = key
    for _ in range(_ROUNDS):
        # An int64 product wraps, yet its bits are those of the 64-bit product: mask what the shift brings in.
        torch.mul(a, _MULTIPLIERS[0], out=left)
        torch.mul(c, _MULTIPLIERS[1], out=right)
        torch.bitwise_right_shift(right, 32, out=a).bitwise_and_(_MASK).bitwise_xor_(b).bitwise_xor_(first)
        torch.bitwise_right_shift(left, 32, out=c).bitwise_and_(_MASK).bitwise_xor_(d).bitwise_xor_(second)
        torch.bitwise_and(right, _MASK, out=b)
        torch.bitwise_and(left, _MASK, out=d)
        first, second = first + _WEYL[0] & _MASK, second + _WEYL[1] & _MASK
    return out


def words(seed: int, index: Int[Tensor, " n"], draws: int, *, stream: int = 0) -> Int[Tensor, "{draws} n"]:
    """Return `draws` random 32-bit words for each index, as int64 in [0, 2^32).

    Args:
        seed: Any integer; its lowest 64 bits are used.
        index: Non-negative indices (of columns, say), in any order.
        draws: Words for each index.
        stream: Which of 2^32 independent families of words.

    Examples:
        >>> late, early = words(7, torch.tensor([900]), 3), words(7, torch.arange(1000), 3)
        >>> bool((late[:, 0] == early[:, 900]).all())
        True
    """
    key = (seed & _MASK, seed >> 32 & _MASK)
    fours = -(-draws // 4)
    index = index.to(torch.int64)
    out = index.new_empty((fours, 4, index.numel()))
    group = max(1, _BLOCK // max(1, index.numel()))  # of fours, where there are few indices
    for start in range(0, index.numel(), _BLOCK):
        part = index[start : start + _BLOCK]
        for four in range(0, fours, group):
            size = min(group, fours - four)
            counter = part.new_empty((4, size, part.numel()))
            counter[0] = part & _MASK
            counter[1] = part >> 32
            counter[2] = torch.arange(four, four + size, device=part.device)[:, None]
            counter[3] = stream
            drawn = philox(counter.reshape(4, -1), key).reshape(4, size, -1)
            out[four : four + size, :, start : start + _BLOCK] = drawn.transpose(0, 1)
    return out.reshape(4 * fours, index.numel())[:draws]


def signs(
    seed: int, index: Int[Tensor, " n"], *, stream: int = 0, dtype: torch.dtype = torch.float64
) -> Float[Tensor, " n"]:
    """Return a random sign, 1 or -1, for each index.

    Examples:
        >>> sorted(set(signs(0, torch.arange(64)).tolist()))
        [-1.0, 1.0]
    """
    return (1 - 2 * (words(seed, index, 1, stream=stream)[0] & 1)).to(dtype)


def uniforms(
    seed: int, index: Int[Tensor, " n"], draws: int = 1, *, stream: int = 0
) -> Float[Tensor, "{draws} n"]:
    """Return float64 numbers, uniform in (0, 1), never 0 nor 1: 53 bits from two words each.

    Examples:
        >>> u = uniforms(0, torch.arange(1000))
        >>> bool((u > 0).all() and (u < 1).all())
        True
    """
    drawn = words(seed, index, 2 * draws, stream=stream)
    bits = (drawn[0::2] >> 6 << 26) | (drawn[1::2] >> 6)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def normals(
    seed: int, index: Int[Tensor, " n"], draws: int = 1, *, stream: int = 0
) -> Float[Tensor, "{draws} n"]:
    r"""Return independent standard normal numbers in float64, by Box and Muller's transform.

    One word goes into each, so none is larger than $\sqrt{66 \log 2} \approx 6.8$: a tail of $10^{-11}$.

    Examples:
        >>> z = normals(0, torch.arange(10000), 2)
        >>> bool(z.mean().abs() < 0.05 and (z.std() - 1).abs() < 0.05)
        True
    """
    pairs = -(-draws // 2)
    u = words(seed, index, 2 * pairs, stream=stream).to(torch.float64).add_(0.5).mul_(2.0**-32)
    radius, angle = u[:pairs].log_().mul_(-2).sqrt_(), u[pairs:].mul_(2 * math.pi)
    cosines = angle.cos().mul_(radius)
    angle.sin_().mul_(radius)
    radius.copy_(cosines)
    return u[:draws]
