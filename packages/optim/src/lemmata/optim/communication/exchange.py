"""What workers send each other about one bucket of gradients, and what each makes of what it receives.

Three exchanges: gradients as they are, by an all-reduce; messages that may be summed, likewise; and any other
messages, packed into bytes, by an all-gather. Each starts its collective, and returns at once a future of it,
the number of bytes sent, and a function for when it is complete. Beside the payload travels a mark that says
whether the worker's gradient was finite, so that all workers count the same.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from lemmata.optim.communication.compressors import Message
from lemmata.optim.communication.feedback import Block, Rule

__all__ = ["Exchange", "Slab", "exchange_exact", "exchange_gathered", "exchange_reduced"]

ALIGNMENT = 8
"""Bytes to a multiple of which packed messages are filled up."""


class Exchange(NamedTuple):
    """An exchange under way.

    Attributes:
        future: Of the collective.
        sent: Bytes that this worker sends.
        finish: Returns, once the future is complete, the estimate of the mean gradient and the number of
            workers whose gradient was not finite. To be called once.
    """

    future: torch.futures.Future[Any]
    sent: int
    finish: Callable[[], tuple[Tensor, Tensor]]


class Slab:
    """The memory of one bucket, flat in the order of its parameters, with a view for each of them.

    Args:
        params: Of the bucket.
        blocks: What is compressed together.
        rule: The method.
        gradient: Has the bucket's length, device, and the dtype of the memory.
        messages: The last message of each block by name, for a compressor that starts from it. Buckets share
            it, and it is kept up to date.

    Attributes:
        mean: Mean of the workers' control variates, None where the method has none.
        skipped: Number of gradients of workers that were not finite.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        blocks: Sequence[Block],
        rule: Rule,
        gradient: Float[Tensor, " d"],
        messages: dict[str, Message],
    ) -> None:
        self.params, self.blocks, self.rule = list(params), list(blocks), rule
        self.memory = rule.allocate(gradient)
        self.mean = torch.zeros_like(gradient) if rule.has_control else None
        self.messages = messages
        self.skipped = torch.zeros((), dtype=torch.int64, device=gradient.device)
        ends = list(accumulate(param.numel() for param in params))
        self._spans = {
            id(param): slice(end - param.numel(), end) for param, end in zip(params, ends, strict=True)
        }

    def parts(self, param: Tensor) -> dict[str, Tensor]:
        """Return views of what is remembered of a parameter."""
        tensors = {
            "error": self.memory.error,
            "control": self.memory.control,
            "velocity": self.memory.velocity,
            "mean": self.mean,
        }
        span = self._spans[id(param)]
        return {name: tensor[span] for name, tensor in tensors.items() if tensor is not None}

    def encode(
        self, gradient: Float[Tensor, " d"], finite: Bool[Tensor, " 1"], *, first: bool
    ) -> list[Message]:
        """Carry out this worker's part of a round."""
        messages = self.rule.encode(
            self.memory, gradient, self.blocks, finite=finite, first=first, previous=self.messages
        )
        if getattr(self.rule.compressor, "warm_start", False):
            self.messages |= {block.name: m for block, m in zip(self.blocks, messages, strict=True)}
        return messages

    def target(self, gradient: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """Return what the mean of the messages is added to."""
        return torch.zeros_like(gradient) if self.mean is None else self.mean


def exchange_exact(
    slab: Slab,
    gradient: Float[Tensor, " d"],
    finite: Bool[Tensor, " 1"],
    group: dist.ProcessGroup,
    *,
    start: bool,
) -> Exchange:
    """Exchange gradients as they are.

    Args:
        slab: Memory of the bucket.
        gradient: Of this worker.
        finite: Whether it is; else zeros are sent.
        group: The workers.
        start: Whether to take the gradients for control variates.
    """
    gradient = torch.where(finite, gradient, torch.zeros_like(gradient))
    if start:
        slab.rule.start(slab.memory, gradient)
    payload = torch.cat([gradient, (~finite).to(gradient)])
    work: Any = dist.all_reduce(payload, group=group, async_op=True)

    def finish() -> tuple[Tensor, Tensor]:
        estimate = payload[:-1] / group.size()
        if start and slab.mean is not None:
            slab.mean.copy_(estimate)
        return estimate, payload[-1].long()

    return Exchange(work.get_future(), _bytes(payload), finish)


def exchange_reduced(
    slab: Slab,
    gradient: Float[Tensor, " d"],
    finite: Bool[Tensor, " 1"],
    group: dist.ProcessGroup,
    *,
    first: bool,
) -> Exchange:
    """Exchange messages whose sum is the message of the sum.

    Args:
        slab: Memory of the bucket.
        gradient: Of this worker.
        finite: Whether it is.
        group: The workers.
        first: Whether this is the first message of the worker.
    """
    messages = slab.encode(gradient, finite, first=first)
    payload = torch.cat([*(message.parts[0] for message in messages), (~finite).to(gradient)])
    work: Any = dist.all_reduce(payload, group=group, async_op=True)

    def finish() -> tuple[Tensor, Tensor]:
        lengths = [message.parts[0].numel() for message in messages]
        means = torch.split(payload[:-1] / group.size(), lengths)
        estimate = slab.target(gradient)
        summed = [Message((mean,), m.size, m.known) for mean, m in zip(means, messages, strict=True)]
        slab.rule.apply(estimate, summed, slab.blocks)
        return estimate, payload[-1].long()

    return Exchange(work.get_future(), _bytes(payload), finish)


def exchange_gathered(
    slab: Slab,
    gradient: Float[Tensor, " d"],
    finite: Bool[Tensor, " 1"],
    group: dist.ProcessGroup,
    *,
    first: bool,
) -> Exchange:
    """Exchange messages of any kind; every worker receives all of them.

    Args:
        slab: Memory of the bucket.
        gradient: Of this worker.
        finite: Whether it is.
        group: The workers.
        first: Whether this is the first message of the worker.
    """
    messages = slab.encode(gradient, finite, first=first)
    payload = _pack(messages, ~finite)
    received = payload.new_empty(group.size(), len(payload))
    work: Any = dist.all_gather_into_tensor(received.view(-1), payload, group=group, async_op=True)

    def finish() -> tuple[Tensor, Tensor]:
        estimate = slab.target(gradient)
        for row in received:  # in the same order everywhere, hence with the same rounding
            slab.rule.apply(estimate, _unpack(row, messages), slab.blocks, 1 / group.size())
        return estimate, received[:, -1].sum(dtype=torch.int64)

    return Exchange(work.get_future(), _bytes(payload), finish)


def _pack(messages: Sequence[Message], mark: Bool[Tensor, " 1"]) -> UInt8[Tensor, " length"]:
    """Lay messages out in one row of bytes, wide types first so that each is aligned, the mark last."""
    flat = [part.reshape(-1).view(torch.uint8) for _, part in _widest_first(messages)]
    filling = (-sum(map(len, flat)) - 1) % ALIGNMENT
    return torch.cat([*flat, mark.new_zeros(filling, dtype=torch.uint8), mark.view(torch.uint8)])


def _unpack(row: UInt8[Tensor, " length"], like: Sequence[Message]) -> list[Message]:
    """Read a row of bytes as messages of the same lengths as others."""
    parts: list[list[Tensor]] = [list(message.parts) for message in like]
    start = 0
    for (index, place), part in _widest_first(like):
        stop = start + part.numel() * part.element_size()
        parts[index][place] = row[start:stop].view(part.dtype).view(part.shape)
        start = stop
    return [Message(tuple(mine), m.size, m.known) for mine, m in zip(parts, like, strict=True)]


def _widest_first(messages: Sequence[Message]) -> list[tuple[tuple[int, int], Tensor]]:
    """Return all parts with the index of their message and their place in it, wide types first."""
    found = [
        ((index, place), part)
        for index, message in enumerate(messages)
        for place, part in enumerate(message.parts)
    ]
    return sorted(found, key=lambda item: -item[1].element_size())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
