r"""Causal self-attention: multi-head latent attention, and multi-head attention as its baseline.

Latent attention makes the keys and values of all heads from one latent $c_t = \mathrm{RMSNorm}(W_{dkv} x_t)$,
and lets one rotated key, shared by the heads, carry the position. What has to be kept of a token is $c_t$ and
that key: `latent_rank + rope_width` numbers, against `2 * heads * head_width` of multi-head attention.

In training keys and values are written out (the expanded form). Over a cache they are not: since
$q^\top W_{uk} c = (W_{uk}^\top q)^\top c$, queries are taken to the latent's space and attend there, and
$W_{uv}$ is applied to what they gathered (the absorbed form). A step then reads each cached number once for
all heads.

Use latent attention where the cache is what limits generation: long contexts, large batches.

B batch, L length, T new tokens, S tokens so far, D width, H heads, R latent and rotated key together.

References:
    DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model", 2024,
    arXiv:2405.04434.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lemmata.apps.language_model.model.cache import KeyValueCache, LatentCache
from lemmata.apps.language_model.model.norm import RMSNorm
from lemmata.apps.language_model.model.rotary import RotaryEmbedding

__all__ = ["MultiHeadAttention", "MultiHeadLatentAttention", "initialize"]


class MultiHeadLatentAttention(nn.Module):
    r"""Attention whose keys and values come from a latent that all heads share.

    For the token $x_t$ and each head $h$, with $c^q_t = x_t$ or, with `query_rank`,
    $c^q_t = \mathrm{RMSNorm}(W_{dq} x_t)$:

    $$q_{t,h} = [W_{uq,h} c^q_t; \mathrm{RoPE}(W_{qr,h} c^q_t)], \quad
    k_{t,h} = [W_{uk,h} c_t; \mathrm{RoPE}(W_{kr} x_t)], \quad v_{t,h} = W_{uv,h} c_t.$$

    Scores are scaled by $1/\sqrt{d_{nope} + d_{rope}}$.

    Shapes: `(batch, length, width) -> (batch, length, width)`.

    Args:
        width: Width of input and output.
        heads: Number of heads.
        latent_rank: Width of the latent.
        rotary: Rotation by position; its width is that of the rotated part, its context the largest length.
        query_rank: Width of a latent between input and queries; none where `None`.
        nope_width: Width of a head's query and key without position; `width / heads` where `None`.
        value_width: Width of a head's value; `width / heads` where `None`.
        qk_norm: Normalise both parts of every query and the rotated key. The other part of the keys is a
            linear map of the latent, which is normalised in any case; to normalise it once more, head by
            head, would rule the absorbed form out.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where a number is not positive, or `heads` has to divide `width` and does not.

    Examples:
        >>> attention = MultiHeadLatentAttention(32, 4, 16, RotaryEmbedding(4, context=64))
        >>> attention(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
        >>> attention.cache_numbers_per_token
        20

    References:
        DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        latent_rank: int,
        rotary: RotaryEmbedding,
        *,
        query_rank: int | None = None,
        nope_width: int | None = None,
        value_width: int | None = None,
        qk_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.latent_rank = latent_rank
        self.nope_width = _head_width(width, heads) if nope_width is None else nope_width
        self.value_width = _head_width(width, heads) if value_width is None else value_width
        source = width if query_rank is None else query_rank
        for name in ("heads", "latent_rank", "nope_width", "value_width"):
            _check_positive(name, getattr(self, name))
        _check_positive("query_rank", source)
        self.rotary = rotary
        self.query_latent = _latent(width, query_rank)
        self.query = nn.Linear(source, heads * self.nope_width, bias=False)
        self.query_rope = nn.Linear(source, heads * rotary.width, bias=False)
        self.latent = nn.Linear(width, latent_rank, bias=False)
        self.latent_norm = RMSNorm(latent_rank)
        self.key_rope = nn.Linear(width, rotary.width, bias=False)
        self.key = nn.Linear(latent_rank, heads * self.nope_width, bias=False)
        self.value = nn.Linear(latent_rank, heads * self.value_width, bias=False)
        self.output = nn.Linear(heads * self.value_width, width, bias=False)
        self.query_norm = RMSNorm(self.nope_width) if qk_norm else nn.Identity()
        self.query_rope_norm = RMSNorm(rotary.width) if qk_norm else nn.Identity()
        self.key_rope_norm = RMSNorm(rotary.width) if qk_norm else nn.Identity()
        self.scale = 1 / math.sqrt(self.nope_width + rotary.width)
        self.reset_parameters(generator)

    @property
    def cache_numbers_per_token(self) -> int:
        """Numbers the cache keeps of each token."""
        return self.latent_rank + self.rotary.width

    def reset_parameters(self, generator: torch.Generator | None = None, *, output_gain: float = 1.0) -> None:
        """Draw new weights.

        Args:
            generator: Their source; torch's global one where `None`.
            output_gain: Factor on those of the last projection.
        """
        _reset_projections(self, generator, output_gain)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Attend to a token and those before it.

        Args:
            x: Input.

        Returns:
            The output, before any residual connection.

        Raises:
            ValueError: Where there are more tokens than the context holds.
        """
        q_nope, q_rope = self._queries(x, 0)
        latent, k_rope = self._latents(x, 0)
        return self._expanded(q_nope, q_rope, latent, k_rope)

    def new_cache(self, batch: int, capacity: int) -> LatentCache:
        """Allocate a cache.

        Args:
            batch: Number of sequences.
            capacity: Number of tokens.

        Returns:
            An empty cache with the weights' dtype and device.
        """
        return LatentCache(batch, capacity, self.cache_numbers_per_token, like=self.latent.weight)

    def forward_cached(self, x: Float[Tensor, "B T D"], cache: LatentCache) -> Float[Tensor, "B T D"]:
        """Attend from new tokens to the cached ones and to themselves, and append them to the cache.

        Args:
            x: Input at the new tokens.
            cache: What `new_cache` made; written in place.

        Returns:
            The output at the new tokens.

        Raises:
            ValueError: Where the tokens do not fit the cache or the context.
        """
        start = cache.length
        q_nope, q_rope = self._queries(x, start)
        latent, k_rope = self._latents(x, start)
        cached = cache.append(torch.cat([latent, k_rope], -1))
        if (
            start == 0
        ):  # a whole prompt: to write keys and values out is cheaper than to attend in the latents
            return self._expanded(q_nope, q_rope, latent, k_rope)
        return self._absorbed(q_nope, q_rope, cached.to(latent.dtype))

    def _queries(
        self, x_BLD: Float[Tensor, "B L D"], start: int
    ) -> tuple[Float[Tensor, "B H L nope"], Float[Tensor, "B H L rope"]]:
        latent = self.query_latent(x_BLD)
        nope = self.query_norm(_split_heads(self.query(latent), self.heads))
        rope = self.query_rope_norm(_split_heads(self.query_rope(latent), self.heads))
        return nope, self.rotary(rope, start)

    def _latents(
        self, x_BLD: Float[Tensor, "B L D"], start: int
    ) -> tuple[Float[Tensor, "B L latent"], Float[Tensor, "B L rope"]]:
        rope = self.rotary(self.key_rope_norm(self.key_rope(x_BLD)), start)
        return self.latent_norm(self.latent(x_BLD)), rope

    def _expanded(
        self,
        q_nope: Float[Tensor, "B H L nope"],
        q_rope: Float[Tensor, "B H L rope"],
        latent: Float[Tensor, "B L latent"],
        k_rope: Float[Tensor, "B L rope"],
    ) -> Float[Tensor, "B L D"]:
        """Write keys and values out, and attend causally."""
        k_nope = _split_heads(self.key(latent), self.heads)
        k_shared = k_rope.unsqueeze(1).expand(-1, self.heads, -1, -1)
        heads = _causal_attention(
            torch.cat([q_nope, q_rope], -1),
            torch.cat([k_nope, k_shared], -1),
            _split_heads(self.value(latent), self.heads),
            self.scale,
        )
        return self.output(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a module's call is untyped

    def _absorbed(
        self,
        q_nope: Float[Tensor, "B H T nope"],
        q_rope: Float[Tensor, "B H T rope"],
        cached: Float[Tensor, "B S R"],
    ) -> Float[Tensor, "B T D"]:
        """Attend in the latents' space. All heads see the same keys, so they are rows of one product."""
        batch, length = cached.shape[0], q_nope.shape[2]
        w_key = torch.unflatten(self.key.weight, 0, (self.heads, -1))
        w_value = torch.unflatten(self.value.weight, 0, (self.heads, -1))
        query = torch.cat([torch.einsum("bhtn,hnr->bhtr", q_nope, w_key), q_rope], -1) * self.scale
        scores = (query.flatten(1, 2) @ cached.mT).view(batch, self.heads, length, -1)
        weights = _masked_softmax(scores)
        gathered = weights.flatten(1, 2) @ cached[..., : self.latent_rank]
        gathered = gathered.view(batch, self.heads, length, self.latent_rank)
        heads = torch.einsum("bhtr,hvr->bthv", gathered, w_value)
        return self.output(heads.flatten(2))  # type: ignore[no-any-return]  # a module's call is untyped


class MultiHeadAttention(nn.Module):
    r"""Attention whose heads have keys and values of their own, all rotated by position.

    Shapes: `(batch, length, width) -> (batch, length, width)`.

    Args:
        width: Width of input and output.
        heads: Number of heads.
        rotary: Rotation by position, of the width of a head; its context is the largest length.
        qk_norm: Normalise queries and keys, head by head, before they are rotated.
        generator: Source of the initial weights; torch's global one where `None`.

    Raises:
        ValueError: Where `heads` does not divide `width`, or the rotation is not of a head's width.

    Examples:
        >>> attention = MultiHeadAttention(32, 4, RotaryEmbedding(8, context=64))
        >>> attention(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
        >>> attention.cache_numbers_per_token
        64

    References:
        A. Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        rotary: RotaryEmbedding,
        *,
        qk_norm: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = _head_width(width, heads)
        if rotary.width != self.head_width:
            raise ValueError(
                f"`rotary` (of width {rotary.width}) must have the width of a head, {self.head_width}"
            )
        self.rotary = rotary
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(self.head_width) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_width) if qk_norm else nn.Identity()
        self.scale = 1 / math.sqrt(self.head_width)
        self.reset_parameters(generator)

    @property
    def cache_numbers_per_token(self) -> int:
        """Numbers the cache keeps of each token."""
        return 2 * self.heads * self.head_width

    def reset_parameters(self, generator: torch.Generator | None = None, *, output_gain: float = 1.0) -> None:
        """Draw new weights.

        Args:
            generator: Their source; torch's global one where `None`.
            output_gain: Factor on those of the last projection.
        """
        _reset_projections(self, generator, output_gain)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Attend to a token and those before it.

        Args:
            x: Input.

        Returns:
            The output, before any residual connection.

        Raises:
            ValueError: Where there are more tokens than the context holds.
        """
        q, k, v = self._project(x, 0)
        return self._join(_causal_attention(q, k, v, self.scale))

    def new_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """Allocate a cache.

        Args:
            batch: Number of sequences.
            capacity: Number of tokens.

        Returns:
            An empty cache with the weights' dtype and device.
        """
        return KeyValueCache(batch, self.heads, capacity, self.head_width, like=self.key.weight)

    def forward_cached(self, x: Float[Tensor, "B T D"], cache: KeyValueCache) -> Float[Tensor, "B T D"]:
        """Attend from new tokens to the cached ones and to themselves, and append them to the cache.

        Args:
            x: Input at the new tokens.
            cache: What `new_cache` made; written in place.

        Returns:
            The output at the new tokens.

        Raises:
            ValueError: Where the tokens do not fit the cache or the context.
        """
        start = cache.length
        q, k, v = self._project(x, start)
        keys, values = cache.append(k, v)
        if start == 0:
            return self._join(_causal_attention(q, k, v, self.scale))
        weights = _masked_softmax(q * self.scale @ keys.to(q.dtype).mT)
        return self._join(weights @ values.to(v.dtype))

    def _project(
        self, x_BLD: Float[Tensor, "B L D"], start: int
    ) -> tuple[Float[Tensor, "B H L d"], Float[Tensor, "B H L d"], Float[Tensor, "B H L d"]]:
        q = self.query_norm(_split_heads(self.query(x_BLD), self.heads))
        k = self.key_norm(_split_heads(self.key(x_BLD), self.heads))
        v = _split_heads(self.value(x_BLD), self.heads)
        return self.rotary(q, start), self.rotary(k, start), v

    def _join(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return self.output(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # a module's call is untyped


def initialize(weight: Tensor, generator: torch.Generator | None, gain: float = 1.0) -> None:
    """Fill a matrix, or each of a stack, so that it keeps the variance of its input, times a gain squared.

    Args:
        weight: Matrices of shape (..., out, in).
        generator: Source of the random numbers; torch's global one where `None`.
        gain: Factor on the entries' standard deviation `in ** -0.5`.
    """
    nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[-1]), generator=generator)


def _causal_attention(
    q: Float[Tensor, "B H L k"], k: Float[Tensor, "B H L k"], v: Float[Tensor, "B H L v"], scale: float
) -> Float[Tensor, "B H L v"]:
    """Attend with torch's fused kernels, which want queries, keys and values of one width.

    Zeros appended to queries and keys change no score, and those appended to values are cut off again.
    """
    k_width, v_width = k.shape[-1], v.shape[-1]
    if k_width < v_width:
        q, k = (functional.pad(side, (0, v_width - k_width)) for side in (q, k))
    elif v_width < k_width:
        v = functional.pad(v, (0, k_width - v_width))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return out[..., :v_width]


def _masked_softmax(scores_BHTS: Float[Tensor, "B H T S"]) -> Float[Tensor, "B H T S"]:
    """Weigh the tokens so far, for T queries that are the last of them."""
    queries, tokens = scores_BHTS.shape[-2:]
    if queries > 1:
        later = torch.ones(queries, tokens, dtype=torch.bool, device=scores_BHTS.device)
        scores_BHTS = scores_BHTS.masked_fill(later.triu(tokens - queries + 1), -math.inf)
    precision = torch.promote_types(scores_BHTS.dtype, torch.float32)
    return scores_BHTS.softmax(-1, dtype=precision).to(scores_BHTS.dtype)


def _split_heads(x_BLD: Float[Tensor, "B L D"], heads: int) -> Float[Tensor, "B H L d"]:
    return torch.unflatten(x_BLD, -1, (heads, -1)).transpose(1, 2)


def _latent(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Identity()
    return nn.Sequential(nn.Linear(width, rank, bias=False), RMSNorm(rank))


def _reset_projections(module: nn.Module, generator: torch.Generator | None, output_gain: float) -> None:
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            initialize(child.weight, generator, output_gain if name == "output" else 1.0)
        elif isinstance(child, RMSNorm):
            child.reset_parameters()


def _head_width(width: int, heads: int) -> int:
    _check_positive("heads", heads)
    if width % heads:
        raise ValueError(f"`heads` (={heads}) must divide `width` (={width})")
    return width // heads


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` (={value}) must be positive")
