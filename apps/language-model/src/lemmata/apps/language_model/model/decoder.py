r"""A pre-norm decoder of multi-head latent attention and mixtures of experts.

$$x \leftarrow x + \mathrm{Attention}(\mathrm{RMSNorm}(x)), \qquad
x \leftarrow x + \mathrm{Experts}(\mathrm{RMSNorm}(x)),$$

`depth` times, between an embedding and a head of its own that starts at zero: the first loss is the logarithm
of the vocabulary's size. Both branches' last matrices start smaller by $\sqrt{2 \cdot depth}$, so that the
residual stream's variance does not grow with depth.

References:
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437.
"""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lemmata.apps.language_model.model.attention import (
    MultiHeadAttention,
    MultiHeadLatentAttention,
    initialize,
)
from lemmata.apps.language_model.model.cache import DecoderCache, LayerCache
from lemmata.apps.language_model.model.config import DecoderConfig
from lemmata.apps.language_model.model.experts import MixtureOfExperts, SwiGLU
from lemmata.apps.language_model.model.norm import RMSNorm
from lemmata.apps.language_model.model.rotary import RotaryEmbedding

__all__ = ["Block", "Decoder"]


class Decoder(nn.Module):
    """Map tokens to the logits of the token after each.

    Shapes: `(batch, length) -> (batch, length, vocabulary)`.

    Args:
        config: The options.
        generator: Source of the initial weights; torch's global one where `None`.

    Examples:
        >>> model = Decoder(DecoderConfig(vocabulary=65, context=64))
        >>> model(torch.zeros(2, 64, dtype=torch.long)).shape
        torch.Size([2, 64, 65])
        >>> model.cache_numbers_per_token(), model.parameter_counts()
        (192, (786300, 350844))
    """

    def __init__(self, config: DecoderConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        sizes = config.sizes
        latent = config.attention == "latent"
        rotary = RotaryEmbedding(sizes.rope if latent else sizes.head, config.context, base=config.rope_base)
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, rotary) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights, after `to_empty` too.

        Args:
            generator: Their source; torch's global one where `None`.
        """
        nn.init.zeros_(self.lm_head.weight)
        if self.config.tie_embeddings:  # here, since `to_empty` unties them
            self.lm_head.weight = self.embedding.weight
        # The residual stream starts with unit variance, or, where the embedding is the head too, the logits.
        gain = 1 if self.config.tie_embeddings else math.sqrt(self.config.width)
        initialize(self.embedding.weight, generator, gain)
        for block in self._blocks():
            block.reset_parameters(generator, output_gain=1 / math.sqrt(2 * self.config.depth))
        self.norm.reset_parameters()

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Predict the token after each.

        Args:
            tokens: Numbers below the vocabulary's size.

        Returns:
            Logits.

        Raises:
            ValueError: Where there are more tokens than the context holds.
        """
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))  # type: ignore[no-any-return]  # a module's call is untyped

    def new_cache(self, batch: int, length: int | None = None) -> DecoderCache:
        """Allocate a cache for `forward_cached`.

        Args:
            batch: Number of sequences.
            length: Number of tokens there is to be room for; the context where `None`.

        Returns:
            An empty cache, with the weights' dtype and device.

        Raises:
            ValueError: Where the length is not positive, or beyond the context.
        """
        length = self.config.context if length is None else length
        if not 1 <= length <= self.config.context:
            raise ValueError(f"`length` (={length}) must lie in [1, `context` (={self.config.context})]")
        return DecoderCache([block.attention.new_cache(batch, length) for block in self._blocks()])

    @torch.no_grad()
    def forward_cached(
        self, tokens: Int[Tensor, "batch length"], cache: DecoderCache
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Predict the token after each of some new tokens, and append these to the cache.

        Without gradients. In one call or many, for a prompt or token by token, the logits are those of
        `forward` on all tokens, up to rounding.

        Args:
            tokens: Those after the cached ones.
            cache: What `new_cache` made; written in place.

        Returns:
            Logits at the new tokens.

        Raises:
            ValueError: Where the tokens do not fit the cache; it is then as before.
        """
        if cache.length + tokens.shape[1] > cache.capacity:
            raise ValueError(
                f"{tokens.shape[1]} tokens after {cache.length} do not fit the cache's `capacity` "
                f"(={cache.capacity})"
            )
        x = self.dropout(self.embedding(tokens))
        for block, layer in zip(self._blocks(), cache.layers, strict=True):
            x = block.forward_cached(x, layer)
        return self.lm_head(self.norm(x))  # type: ignore[no-any-return]  # a module's call is untyped

    def cache_numbers_per_token(self) -> int:
        """Count what a cache keeps of a token: a latent and a rotated key, or all heads' keys and values.

        Returns:
            The number of numbers, over all blocks.
        """
        return sum(block.attention.cache_numbers_per_token for block in self._blocks())

    def parameter_counts(self) -> tuple[int, int]:
        """Count the parameters.

        Returns:
            Their number, and how many of them act on one token: all but the experts it does not pass.
        """
        total = sum(parameter.numel() for parameter in self.parameters())
        counts = [layer.parameter_counts for layer in self._mixtures().values()]
        return total, total - sum(layer_total - active for layer_total, active in counts)

    def matrix_parameter_exclusions(self) -> tuple[str, ...]:
        """Name the modules whose matrices an optimiser for matrices should leave alone.

        Besides the embedding, which is known by its type: the head, and the routers, whose rows compete for
        tokens and must not be made orthogonal.

        Returns:
            Names to exclude, each one part of a dotted parameter name.
        """
        return ("lm_head", "router")

    def auxiliary_loss(self) -> Float[Tensor, ""]:
        """Sum the balance losses of the last forward pass, to be added to the training loss.

        Returns:
            A 0-d tensor, zero unless `balance="loss"`.
        """
        losses = [layer.auxiliary_loss for layer in self._mixtures().values()]
        zero = torch.zeros((), device=self.lm_head.weight.device)
        if self.config.balance != "loss" or not losses:
            return zero
        return torch.stack([loss.to(zero.device) for loss in losses]).sum()

    @torch.no_grad()
    def update_balance(self) -> None:
        """Move the routers' biases by the loads since the last call; call it after each optimiser step.

        With several processes loads are summed over all of them, which therefore must all call it.
        """
        mixtures = list(self._mixtures().values())
        if not mixtures:
            return
        device = self.lm_head.weight.device
        loads = torch.stack([layer.pending_loads.to(device) for layer in mixtures])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(loads)
        for layer, layer_loads in zip(mixtures, loads.unbind(), strict=True):
            layer.update_balance(layer_loads)

    def expert_loads(self) -> dict[str, Float[Tensor, " experts"]]:
        """Return which fraction of the routed tokens each expert got, up to the last `update_balance`.

        Returns:
            For every mixture's name the fractions since the last `reset_expert_loads`: their sum is one, or
            zero before the first update.
        """
        return {
            name: layer.loads / layer.loads.sum().clamp(min=1) for name, layer in self._mixtures().items()
        }

    def reset_expert_loads(self) -> None:
        """Forget the loads `expert_loads` tells."""
        for layer in self._mixtures().values():
            layer.loads = torch.zeros_like(layer.loads)

    def _blocks(self) -> "list[Block]":
        return cast("list[Block]", list(self.blocks))

    def _mixtures(self) -> dict[str, MixtureOfExperts]:
        return {
            f"blocks.{index}.feedforward": block.feedforward
            for index, block in enumerate(self._blocks())
            if isinstance(block.feedforward, MixtureOfExperts)
        }


class Block(nn.Module):
    """Attention and a feedforward network, each on the normalised residual stream.

    Shapes: `(batch, length, width) -> (batch, length, width)`.

    Args:
        config: The decoder's options.
        rotary: Rotation by position, which blocks may share.

    Examples:
        >>> config = DecoderConfig(vocabulary=65, context=64)
        >>> Block(config, RotaryEmbedding(config.sizes.rope, 64))(torch.randn(1, 5, 96)).shape
        torch.Size([1, 5, 96])
    """

    def __init__(self, config: DecoderConfig, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = _attention(config, rotary)
        self.feedforward_norm = RMSNorm(config.width)
        self.feedforward = _feedforward(config)
        self.dropout = nn.Dropout(config.dropout)

    def reset_parameters(self, generator: torch.Generator | None = None, *, output_gain: float = 1.0) -> None:
        """Draw new weights.

        Args:
            generator: Their source; torch's global one where `None`.
            output_gain: Factor on those of both branches' last matrices.
        """
        self.attention_norm.reset_parameters()
        self.attention.reset_parameters(generator, output_gain=output_gain)
        self.feedforward_norm.reset_parameters()
        self.feedforward.reset_parameters(generator, output_gain=output_gain)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """Add both branches.

        Args:
            x: Residual stream.

        Returns:
            The residual stream.
        """
        return self._feed(x + self.dropout(self.attention(self.attention_norm(x))))

    def forward_cached(
        self, x: Float[Tensor, "batch length width"], cache: LayerCache
    ) -> Float[Tensor, "batch length width"]:
        """Add both branches at new tokens.

        Args:
            x: Residual stream at the new tokens.
            cache: The attention's cache; written in place.

        Returns:
            The residual stream at the new tokens.
        """
        y = self.attention.forward_cached(
            self.attention_norm(x),
            cache,  # type: ignore[arg-type]  # of the kind that this attention's `new_cache` makes
        )
        return self._feed(x + self.dropout(y))

    def _feed(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))  # type: ignore[no-any-return]  # a module's call is untyped


def _attention(
    config: DecoderConfig, rotary: RotaryEmbedding
) -> MultiHeadAttention | MultiHeadLatentAttention:
    if config.attention == "multihead":
        return MultiHeadAttention(config.width, config.heads, rotary, qk_norm=config.qk_norm)
    return MultiHeadLatentAttention(
        config.width,
        config.heads,
        config.sizes.latent,
        rotary,
        query_rank=config.query_rank,
        qk_norm=config.qk_norm,
    )


def _feedforward(config: DecoderConfig) -> MixtureOfExperts | SwiGLU:
    if config.feedforward == "dense":
        return SwiGLU(config.width, config.sizes.hidden)
    return MixtureOfExperts(
        config.width,
        config.sizes.hidden,
        experts=config.experts,
        active=config.active_experts,
        shared=config.shared_experts,
        router=config.router,
        balance=config.balance,
        balance_rate=config.balance_rate,
    )
