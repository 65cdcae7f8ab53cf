"""What attention keeps of the tokens it has seen, so that the next token costs one step and not a full pass.

A cache is allocated once for a batch and a number of tokens. Appending writes in place.

B batch, H heads, T new tokens, S tokens so far, R numbers of a token.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

__all__ = ["DecoderCache", "KeyValueCache", "LatentCache", "LayerCache"]


class LayerCache:
    """The tokens one layer has seen.

    Args:
        capacity: Number of tokens there is room for.
        buffers: Tensors whose second to last axis is the tokens'.
    """

    def __init__(self, capacity: int, buffers: Sequence[Tensor]) -> None:
        self.capacity = capacity
        self.length = 0
        self.buffers = tuple(buffers)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @property
    def numbers_per_token(self) -> int:
        """Numbers kept of each token of each sequence."""
        return sum(math.prod(buffer.shape[1:-2]) * buffer.shape[-1] for buffer in self.buffers)

    def truncate(self, length: int) -> None:
        """Forget all but the first tokens.

        Args:
            length: Number of tokens to keep.

        Raises:
            ValueError: Where there are fewer.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"`length` (={length}) must lie in [0, {self.length}], the tokens in the cache")
        self.length = length

    def _write(self, *news: Tensor) -> tuple[Tensor, ...]:
        """Append to each buffer, and return each up to its last token."""
        end = self.length + news[0].shape[-2]
        if end > self.capacity:
            raise ValueError(
                f"{news[0].shape[-2]} tokens after {self.length} do not fit the cache's `capacity` "
                f"(={self.capacity})"
            )
        for buffer, new in zip(self.buffers, news, strict=True):
            buffer[..., self.length : end, :] = new
        self.length = end
        return tuple(buffer[..., :end, :] for buffer in self.buffers)


class LatentCache(LayerCache):
    """Latents and rotated keys that all heads share: `latent_rank + rope_width` numbers a token.

    Args:
        batch: Number of sequences.
        capacity: Number of tokens.
        width: Numbers a token.
        like: Tensor whose dtype and device the cache takes.

    Examples:
        >>> import torch
        >>> cache = LatentCache(1, 8, 3, like=torch.empty(0))
        >>> cache.append(torch.ones(1, 2, 3)).shape, cache.length, cache.nbytes
        (torch.Size([1, 2, 3]), 2, 96)
    """

    def __init__(self, batch: int, capacity: int, width: int, *, like: Tensor) -> None:
        super().__init__(capacity, [like.new_zeros(batch, capacity, width)])

    def append(self, new: Float[Tensor, "B T R"]) -> Float[Tensor, "B S R"]:
        """Append tokens.

        Args:
            new: Latent and rotated key of each.

        Returns:
            Those of all tokens so far, a view.

        Raises:
            ValueError: Where they do not fit.
        """
        return self._write(new)[0]


class KeyValueCache(LayerCache):
    """Keys and values of every head: `2 * heads * head_width` numbers a token.

    Args:
        batch: Number of sequences.
        heads: Number of heads.
        capacity: Number of tokens.
        width: Width of a head.
        like: Tensor whose dtype and device the cache takes.

    Examples:
        >>> import torch
        >>> KeyValueCache(1, 4, 8, 16, like=torch.empty(0)).numbers_per_token
        128
    """

    def __init__(self, batch: int, heads: int, capacity: int, width: int, *, like: Tensor) -> None:
        super().__init__(capacity, [like.new_zeros(batch, heads, capacity, width) for _ in range(2)])

    def append(
        self, keys: Float[Tensor, "B H T d"], values: Float[Tensor, "B H T d"]
    ) -> tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]]:
        """Append tokens.

        Args:
            keys: Their rotated keys.
            values: Their values.

        Returns:
            Keys and values of all tokens so far, views.

        Raises:
            ValueError: Where they do not fit.
        """
        keys, values = self._write(keys, values)
        return keys, values


class DecoderCache:
    """The caches of a decoder's layers; made by `Decoder.new_cache`.

    Args:
        layers: A cache for each layer.
    """

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = tuple(layers)

    @property
    def length(self) -> int:
        """Number of tokens seen."""
        return self.layers[0].length

    @property
    def capacity(self) -> int:
        """Number of tokens there is room for."""
        return self.layers[0].capacity

    @property
    def nbytes(self) -> int:
        """Bytes allocated, over all layers."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def numbers_per_token(self) -> int:
        """Numbers kept of each token of each sequence, over all layers."""
        return sum(layer.numbers_per_token for layer in self.layers)

    def truncate(self, length: int) -> None:
        """Forget all but the first tokens.

        Args:
            length: Number of tokens to keep.

        Raises:
            ValueError: Where there are fewer.
        """
        for layer in self.layers:
            layer.truncate(length)
