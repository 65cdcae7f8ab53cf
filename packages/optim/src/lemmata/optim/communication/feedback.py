r"""What a worker remembers between rounds, so that what a compressor drops is not lost.

With $g$ a worker's gradient, $C$ its compressor and $\Delta$ its message, a round is

- error control (`"econtrol"`):
  $\Delta = C(\eta e + g - h), \; e \gets e + g - h - \Delta, \; h \gets h + \Delta$
- EF21 (`"ef21"`): $\Delta = C(g - h), \; h \gets h + \Delta$
- classic error feedback (`"ec"`): $\Delta = C(e + g), \; e \gets e + g - \Delta$
- compression alone (`"none"`): $\Delta = C(g)$

and the workers use the mean of $h$, or of $\Delta$ where there is no $h$, as their gradient. Only $\Delta$
travels: the mean of $h$ grows by the mean of $\Delta$.

How large may $\eta$ be? Let $y = \eta e + g - h$ and $r = y - C(y)$, $\|r\| \le q \|y\|$, $q^2 = 1 - \delta$.
With constant gradients $e \gets (1 - \eta) e + r$ and $y \gets (1 + \eta) r - \eta^2 e$. From the norms, both
vanish for every compressor where $\eta < (1 - q) / (2 q) \approx \delta / 4$. A compressor that is merely
scaled wrongly, $r = -q y$, is unstable from $2 (1 - q) / (1 + q)$ on, which is never below $\delta / 2$;
positions drawn at random are stable in mean square up to about $\delta$. The default is $\delta / 2$.

References:
    - Y. Gao, R. Islamov, S. Stich, EControl: Fast Distributed Optimization with Compression and Error
      Control, ICLR 2024, arXiv:2311.05645.
    - P. Richtárik, I. Sokolov, I. Fatkhullin, EF21: A New, Simpler, Theoretically Better, and Practically
      Faster Error Feedback, NeurIPS 2021, arXiv:2106.05203.
    - I. Fatkhullin, A. Tyurin, P. Richtárik, Momentum Provably Improves Error Feedback!, NeurIPS 2023,
      arXiv:2305.15155.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lemmata.optim.communication.compressors import Compressor, Message
from lemmata.optim.optimizers.base import check_range

__all__ = ["Block", "Initialization", "Memory", "Method", "Rule"]

Method = Literal["econtrol", "ef21", "ec", "none"]
Initialization = Literal["exact", "compressed"]


@dataclass
class Memory:
    """Tensors of one worker, or of several along leading axes; None where the method has no use for them.

    Attributes:
        error: $e$, what compression has dropped so far.
        control: $h$, what the others believe this worker's gradient to be.
        velocity: Running mean of gradients, with momentum.
    """

    error: Tensor | None = None
    control: Tensor | None = None
    velocity: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """Entries that are compressed together.

    Attributes:
        start: Of the first.
        stop: After the last.
        shape: Of the tensor that they are, None where they come from several.
        name: What their messages are remembered by.
    """

    start: int
    stop: int
    shape: tuple[int, ...] | None = None
    name: str = ""


@dataclass(frozen=True)
class Rule:
    r"""One method with its constants, applied to the memory of a worker.

    Args:
        compressor: Makes the messages.
        method: `"econtrol"`, `"ef21"`, `"ec"` or `"none"`.
        eta: Weight $\eta$ of the accumulated error; $\delta / 2$ of each block where it is None.
        momentum: Weight of the running mean of gradients that is compressed in place of the gradient.

    Raises:
        ValueError: Where `method` is unknown, `eta` outside [0, 1] or `momentum` outside [0, 1).
    """

    compressor: Compressor
    method: Method = "econtrol"
    eta: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"`method` (={self.method!r}) must be one of {', '.join(get_args(Method))}")
        if self.eta is not None:
            check_range("eta", self.eta, 0, 1, open_high=False)
        check_range("momentum", self.momentum, 0, 1)

    @property
    def has_error(self) -> bool:
        """Whether the method accumulates what compression drops."""
        return self.method in {"econtrol", "ec"}

    @property
    def has_control(self) -> bool:
        """Whether the method compresses differences from a control variate."""
        return self.method in {"econtrol", "ef21"}

    def check_block(self, d: int) -> None:
        """Say whether the constants suit blocks of a length, and warn where they do so barely.

        Args:
            d: Length of the block.

        Raises:
            ValueError: Where the method needs a contraction that the compressor does not give.
        """
        delta = self.compressor.delta(d)
        if delta <= 0 and self.method != "none":
            raise ValueError(
                f"`compressor` does not contract vectors of length {d} (delta=0), which "
                f"`method` (={self.method!r}) needs; an unbiased RandK goes with method='none'"
            )
        if self.method == "econtrol" and self.eta is not None and self.eta > 2 * delta:
            warnings.warn(
                f"`eta` (={self.eta:g}) is more than twice delta (={delta:.3g}) on a block of {d} entries, "
                f"where error control may diverge; gradients far from the worst case allow more than delta",
                stacklevel=3,
            )

    def allocate(self, like: Float[Tensor, "*batch d"]) -> Memory:
        """Return a memory of zeros.

        Args:
            like: Has the shape, dtype and device of the gradients.
        """
        return Memory(
            error=torch.zeros_like(like) if self.has_error else None,
            control=torch.zeros_like(like) if self.has_control else None,
            velocity=torch.zeros_like(like) if self.momentum else None,
        )

    def start(self, memory: Memory, gradient: Float[Tensor, "*batch d"]) -> None:
        """Take a gradient that every worker has been told exactly for the control variate.

        Args:
            memory: Is changed.
            gradient: Is kept as the control variate and the velocity.
        """
        if memory.control is not None:
            memory.control.copy_(gradient)
        if memory.velocity is not None:
            memory.velocity.copy_(gradient)

    def encode(
        self,
        memory: Memory,
        gradient: Float[Tensor, "*batch d"],
        blocks: Sequence[Block],
        *,
        finite: Bool[Tensor, "*batch 1"] | None = None,
        first: bool = False,
        previous: Mapping[str, Message] | None = None,
    ) -> list[Message]:
        """Carry out a worker's part of a round.

        Args:
            memory: Is changed.
            gradient: The worker's gradient, left as it is.
            blocks: What is compressed together.
            finite: Whether a worker's gradient is. One that is not counts as having brought nothing new.
            first: Whether nothing has been sent before: the error of the first message is not kept, and the
                velocity starts at the gradient.
            previous: The messages of the round before, by the names of their blocks.

        Returns:
            A message a block.
        """
        gradient = self._finite(memory, gradient, finite)
        if memory.velocity is not None:
            memory.velocity.lerp_(gradient, 1.0 if first else 1 - self.momentum)
            gradient = memory.velocity
        innovation = gradient if memory.control is None else gradient - memory.control
        if memory.error is None:
            source = innovation
        elif memory.control is None:
            source = memory.error.add_(innovation)
        else:
            source = self._controlled(memory.error, innovation, blocks)
            memory.error += innovation
        messages = [
            self.compressor.compress_tensor(
                source[..., block.start : block.stop],
                shape=block.shape,
                previous=previous.get(block.name) if previous else None,
            )
            for block in blocks
        ]
        if memory.error is not None:
            self.apply(memory.error, messages, blocks, -1.0)
            if first and memory.control is not None:
                memory.error.zero_()
        if memory.control is not None:
            self.apply(memory.control, messages, blocks)
        return messages

    def apply(
        self,
        total: Float[Tensor, "*batch d"],
        messages: Sequence[Message],
        blocks: Sequence[Block],
        alpha: float = 1.0,
    ) -> None:
        """Add a multiple of messages to a tensor, in place.

        Args:
            total: Is changed.
            messages: One a block.
            blocks: Where they belong.
            alpha: Their factor.
        """
        for message, block in zip(messages, blocks, strict=True):
            self.compressor.add_to(total[..., block.start : block.stop], message, alpha)

    def _controlled(
        self,
        error: Float[Tensor, "*batch d"],
        innovation: Float[Tensor, "*batch d"],
        blocks: Sequence[Block],
    ) -> Float[Tensor, "*batch d"]:
        """Return the innovation and a little of the accumulated error."""
        if self.eta is not None or len(blocks) == 1:
            return torch.add(innovation, error, alpha=self._eta(error.shape[-1]))
        source = innovation.clone()
        for block in blocks:
            span = slice(block.start, block.stop)
            source[..., span].add_(error[..., span], alpha=self._eta(block.stop - block.start))
        return source

    def _eta(self, d: int) -> float:
        return self.compressor.delta(d) / 2 if self.eta is None else self.eta

    def _finite(
        self, memory: Memory, gradient: Float[Tensor, "*batch d"], finite: Bool[Tensor, "*batch 1"] | None
    ) -> Float[Tensor, "*batch d"]:
        """Replace a gradient that is not finite by what the worker last stood for."""
        if finite is None or (finite.device.type == "cpu" and bool(finite.all())):
            return gradient
        known = memory.control if memory.velocity is None else memory.velocity
        return torch.where(finite, gradient, torch.zeros_like(gradient) if known is None else known)
