"""The decoder's options as one frozen value that checks itself and survives JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

__all__ = ["Attention", "Balance", "DecoderConfig", "Feedforward", "Router", "Sizes"]

Attention = Literal["latent", "multihead"]
Feedforward = Literal["experts", "dense"]
Router = Literal["sigmoid", "softmax"]
Balance = Literal["bias", "loss"]

CACHE_PERCENT = 35
"""What the default latent cache may hold, in percent of the multi-head cache."""


class Sizes(NamedTuple):
    """The widths a config leads to, with every default worked out."""

    head: int
    """Width of a head's value and of its query and key without position."""
    rope: int
    """Width of the part of queries and keys that carries the position."""
    latent: int
    """Width of the latent from which keys and values are made."""
    hidden: int
    """Hidden width of the dense SwiGLU, or of each expert."""


@dataclass(frozen=True)
class DecoderConfig:
    r"""Options of a `Decoder`.

    Args:
        vocabulary: Number of tokens.
        context: Largest number of tokens the model sees at once.
        width: Width of the residual stream.
        depth: Number of blocks.
        heads: Attention heads; divides `width`. A head is `width / heads` wide.
        attention: `"latent"` caches one latent a token, from which all heads make keys and values;
            `"multihead"` caches every head's key and value.
        latent_rank: Width of that latent. Where `None`, the largest multiple of 4 with which the cache is no
            more than 0.35 times the multi-head one's.
        query_rank: Width of a latent between input and queries of latent attention; none where `None`.
        rope_width: Even width of the rotated part of latent attention's queries and keys. Where `None`, half
            a head, and at most a third of what the cache may hold. Multi-head attention rotates whole heads.
        feedforward: `"experts"` for a mixture of experts, `"dense"` for one SwiGLU.
        hidden: Hidden width of the dense SwiGLU, or of each expert. Where `None`, 8/3 of the width, rounded
            to a multiple of 8, if dense; for experts the largest multiple of 4 with which the parameters that
            act on a token, the router's included, are no more than those of the default dense SwiGLU.
        experts: Number of routed experts.
        active_experts: Routed experts a token passes.
        shared_experts: Experts every token passes.
        router: What turns the router's logits into scores.
        balance: What keeps the experts' loads even: `"bias"`, added to the scores when experts are chosen and
            moved after each step, or `"loss"`, an auxiliary loss.
        balance_rate: The bias' step, or the auxiliary loss' weight.
        qk_norm: Normalise queries and keys (see the attention classes).
        dropout: Probability with which entries of the embedding and of each block's two branches are dropped
            in training.
        tie_embeddings: Use the embedding as output head. The head then does not start at zero.
        rope_base: Base of the geometric sequence of rotation frequencies.

    Raises:
        ValueError: Where an option is out of its range, naming option, value and range.

    Examples:
        >>> config = DecoderConfig(vocabulary=65, context=64)
        >>> config.sizes
        Sizes(head=24, rope=12, latent=52, hidden=84)
        >>> DecoderConfig.from_dict(config.to_dict()) == config
        True
        >>> DecoderConfig(vocabulary=65, context=64, heads=5)
        Traceback (most recent call last):
        ...
        ValueError: `heads` (=5) must divide `width` (=96)
    """

    vocabulary: int
    context: int
    width: int = 96
    depth: int = 3
    heads: int = 4
    attention: Attention = "latent"
    latent_rank: int | None = None
    query_rank: int | None = None
    rope_width: int | None = None
    feedforward: Feedforward = "experts"
    hidden: int | None = None
    experts: int = 8
    active_experts: int = 2
    shared_experts: int = 1
    router: Router = "sigmoid"
    balance: Balance = "bias"
    balance_rate: float = 1e-3
    qk_norm: bool = False
    dropout: float = 0.0
    tie_embeddings: bool = False
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        """Check every option."""
        for name in ("vocabulary", "context", "width", "depth", "heads", "experts", "active_experts"):
            _check_integer(name, getattr(self, name), 1)
        for name in ("latent_rank", "query_rank", "rope_width", "hidden"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1)
        _check_integer("shared_experts", self.shared_experts, 0)
        _check_choice("attention", self.attention, get_args(Attention))
        _check_choice("feedforward", self.feedforward, get_args(Feedforward))
        _check_choice("router", self.router, get_args(Router))
        _check_choice("balance", self.balance, get_args(Balance))
        _check_number("balance_rate", self.balance_rate, 0.0, math.inf)
        _check_number("dropout", self.dropout, 0.0, 1.0)
        _check_number("rope_base", self.rope_base, 1.0, math.inf)
        self._check_heads()
        if self.active_experts > self.experts:
            raise ValueError(
                f"`active_experts` (={self.active_experts}) must be at most `experts` (={self.experts})"
            )

    @property
    def sizes(self) -> Sizes:
        """The widths, with every default worked out."""
        head = self.width // self.heads
        budget = CACHE_PERCENT * 2 * self.width // 100
        rope = self.rope_width or max(2, min(head // 2, budget // 3) // 2 * 2)
        latent = self.latent_rank or max(1, _multiple(budget - rope, 4))
        return Sizes(head=head, rope=rope, latent=latent, hidden=self.hidden or self._default_hidden())

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON types, those left to their default as None.

        Returns:
            A dictionary `from_dict` reads.
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "DecoderConfig":
        """Make a config of what `to_dict` returned.

        Args:
            options: Names and values; missing ones have their default.

        Returns:
            The config.

        Raises:
            ValueError: Where a name is unknown or missing, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(f"`{name}` is no option of the decoder; there are {', '.join(known)}")
        for name in ("vocabulary", "context"):
            if name not in options:
                raise ValueError(f"`{name}` is missing from the decoder's options")
        return cls(**options)

    def _check_heads(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`heads` (={self.heads}) must divide `width` (={self.width})")
        head = self.width // self.heads
        if self.attention == "multihead" and head % 2:
            raise ValueError(
                f"`width` / `heads` (={head}) must be even: multi-head attention rotates pairs of a head"
            )
        if self.rope_width is not None and self.rope_width % 2:
            raise ValueError(f"`rope_width` (={self.rope_width}) must be even: it rotates pairs")

    def _default_hidden(self) -> int:
        dense = 8 * max(1, round(self.width / 3))
        if self.feedforward == "dense":
            return dense
        # Three matrices of width x hidden each, and width x experts for the router.
        return max(1, _multiple((dense - self.experts / 3) / (self.active_experts + self.shared_experts), 4))


def _multiple(bound: float, factor: int) -> int:
    """Return the largest multiple of a factor up to a bound, or the bound itself where that is zero."""
    return math.floor(bound / factor) * factor or math.floor(bound)


def _check_integer(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"`{name}` (={value!r}) must be an integer of at least {low}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(choices)}")


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < high:
        raise ValueError(f"`{name}` (={value!r}) must lie in [{low:g}, {high:g})")
