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
_BLOCK = 1 << 14  # counters worked on at once: their words and the products stay in the second-level cache


def philox(counter: Int[Tensor, "4 n"], key: tuple[int, int]) -> Int[Tensor, "4 n"]:
    """Return the four 32-bit words that Philox-4x32-10 makes of each counter, as int64 in [0, 2^32).

    Args:
        counter: Counters, four 32-bit words each.
        key: Two 32-bit words.

    Examples:
        >>> [hex(word) for word in philox(torch.zeros(4, 1, dtype=torch.int64), (0, 0))[:, 0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(_ROUNDS):
        # An int64 product wraps, yet its bits are those of the 64-bit product: mask what the shift brings in.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32 & _MASK) ^ b ^ first,
            right & _MASK,
            (left >> 32 & _MASK) ^ d ^ second,
            left & _MASK,
        )
        first, second = first + _WEYL[0] & _MASK, second + _WEYL[1] & _MASK
    return torch.stack((a, b, c, d))


def words(seed: int, index: Int[Tensor, " n"], draws: int, *, stream: int = 0) -> Int[Tensor, "{draws} n"]:
    """Return `draws` random 32-bit words for each index, as int64 in [0, 2^32).

    Args:
        seed: Any integer; its lowest 64 bits are used.
        index: Non-negative indices (of columns, say), in any order.
        draws: Words for each index.
        stream: Which of 2^31 independent families of words.

    Examples:
        >>> late, early = words(7, torch.tensor([900]), 3), words(7, torch.arange(1000), 3)
        >>> bool((late[:, 0] == early[:, 900]).all())
        True
    """
    key = (seed & _MASK, seed >> 32 & _MASK)
    fours = -(-draws // 4)
    out = index.new_empty((4 * fours, index.numel()))
    for start in range(0, index.numel(), _BLOCK):
        part = index[start : start + _BLOCK]
        for four in range(fours):
            counter = torch.stack(
                (part & _MASK, part >> 32, torch.full_like(part, four), torch.full_like(part, stream))
            )
            out[4 * four : 4 * four + 4, start : start + _BLOCK] = philox(counter, key)
    return out[:draws]


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
    """Return independent standard normal numbers in float64, by Box and Muller's transform.

    Examples:
        >>> z = normals(0, torch.arange(10000), 2)
        >>> bool(z.mean().abs() < 0.05 and (z.std() - 1).abs() < 0.05)
        True
    """
    pairs = -(-draws // 2)
    u = uniforms(seed, index, 2 * pairs, stream=stream)
    radius, angle = (-2 * u[:pairs].log()).sqrt(), 2 * math.pi * u[pairs:]
    return torch.cat((radius * angle.cos(), radius * angle.sin()))[:draws]
