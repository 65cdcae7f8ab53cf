r"""Compressed training of many workers in one process, to choose a method before renting machines.

All workers' memories are rows of one tensor, so that a round costs one compression of a matrix rather than
one of each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.optim.communication.compressors import Compressor, Message
from lemmata.optim.communication.feedback import Block, Initialization, Memory, Method, Rule
from lemmata.optim.optimizers.base import check_range

__all__ = ["History", "simulate"]

Gradients = Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class History:
    r"""What a simulated training did.

    Attributes:
        norms: Norm of the mean of the workers' exact gradients at the iterates 0 to `steps`, in float64.
        bytes: Bytes that a worker has sent before each iterate, the exact first gradient included.
        contraction: $1 - \|C(y) - y\|^2 / \|y\|^2$ of what the workers compressed, the smallest of all
            workers in each step. Compare it with `compressor.delta(d)`.
        x: The last iterate.
        memory: Of all workers at the end, a row each.
    """

    norms: Float[Tensor, " iterates"]
    bytes: Int[Tensor, " iterates"]
    contraction: Float[Tensor, " steps"]
    x: Float[Tensor, " d"]
    memory: Memory


def simulate(
    grad_fns: Gradients,
    x0: Float[Tensor, " d"],
    *,
    compressor: Compressor | None,
    method: Method = "econtrol",
    lr: float,
    steps: int,
    eta: float | None = None,
    momentum: float = 0.0,
    init: Initialization = "exact",
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> History:
    r"""Run gradient descent with compressed messages from workers with data of their own.

    Args:
        grad_fns: A function from a point to a worker's gradient for each worker, or one function to all
            workers' gradients, a row each, which is faster.
        x0: Where to start.
        compressor: Makes the messages. None to send the gradients as they are.
        method: `"econtrol"`, `"ef21"`, `"ec"` or `"none"`; has no effect without a compressor.
        lr: Step size.
        steps: Number of steps.
        eta: Weight $\eta$ of the accumulated error; half of the compressor's $\delta$ where it is None.
        momentum: Compress a running mean of gradients in which the past weighs so much.
        init: `"exact"`: control variates start at the workers' first gradients, sent uncompressed.
            `"compressed"`: at their compression.
        noise: Standard deviation of a normal number added to each entry of each worker's gradient.
        generator: Source of the noise; PyTorch's own where it is None. A random compressor has its own.

    Returns:
        Norms, bytes, and how well the compressor did.

    Raises:
        ValueError: Where an option is out of its range, or there are no workers.

    Examples:
        Two workers pull in opposite directions; their mean gradient is $x$.

        >>> from lemmata.optim.communication.compressors import TopK
        >>> pull = torch.tensor([[3.0, 0.0, 1.0, 2.0], [-3.0, 0.0, -1.0, -2.0]], dtype=torch.float64)
        >>> x0 = torch.ones(4, dtype=torch.float64)
        >>> def rows(x):
        ...     return x + pull
        >>> found = simulate(rows, x0, compressor=TopK(0.25), lr=0.1, steps=400)
        >>> bool(found.norms[-1] < 1e-9)
        True

    References:
        Y. Gao, R. Islamov, S. Stich, EControl: Fast Distributed Optimization with Compression and Error
        Control, ICLR 2024, arXiv:2311.05645.
    """
    check_range("lr", lr, 0)
    check_range("noise", noise, 0)
    check_range("steps", steps, 0)
    if init not in {"exact", "compressed"}:
        raise ValueError(f"`init` (={init!r}) must be one of exact, compressed")
    clients = _Clients(grad_fns)
    watched = None if compressor is None else _Watched(compressor)
    rule = None if watched is None else Rule(watched, method, eta, momentum)
    if rule is not None:
        rule.check_block(len(x0))
    x, exact = x0.clone(), clients(x0)
    memory = Memory() if rule is None else rule.allocate(exact)
    blocks, estimate = [Block(0, len(x0))], torch.zeros_like(x0)
    norms, sent, contraction = [exact.mean(0).norm()], [0], []
    for step in range(steps):
        gradient = exact
        if noise:
            drawn = torch.randn(exact.shape, generator=generator, dtype=x.dtype, device=x.device)
            gradient = exact + noise * drawn
        if rule is None or watched is None or (step == 0 and rule.has_control and init == "exact"):
            if rule is not None:
                rule.start(memory, gradient)
            estimate, cost, kept = gradient.mean(0), x.numel() * x.element_size(), x.new_ones(())
        else:
            first = step == 0
            messages = rule.encode(memory, gradient, blocks, first=first)
            changes = torch.zeros_like(gradient)
            rule.apply(changes, messages, blocks)
            estimate = changes.mean(0) + (estimate if rule.has_control else 0)
            cost, kept = watched.sent, watched.kept
        x = x - lr * estimate
        exact = clients(x)
        norms.append(exact.mean(0).norm())
        sent.append(sent[-1] + cost)
        contraction.append(kept)
    return History(
        norms=torch.stack(norms).double(),
        bytes=torch.tensor(sent),
        contraction=torch.stack(contraction).double() if contraction else x.new_zeros(0),
        x=x,
        memory=memory,
    )


class _Clients:
    """All workers' gradients at a point, a row each."""

    def __init__(self, grad_fns: Gradients) -> None:
        if not callable(grad_fns) and not len(grad_fns):
            raise ValueError("`grad_fns` is empty; there must be at least one worker")
        self.grad_fns = grad_fns

    def __call__(self, x: Float[Tensor, " d"]) -> Float[Tensor, "workers d"]:
        if callable(self.grad_fns):
            return self.grad_fns(x)
        return torch.stack([gradient(x) for gradient in self.grad_fns])


class _Watched(Compressor):
    """A compressor that notes how much it kept of the last vectors, and how long the message was."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor, self.reducible = compressor, compressor.reducible
        self.kept, self.sent = torch.ones(()), 0
        self.previous: Message | None = None

    def compress(self, x: Float[Tensor, "workers d"]) -> Message:
        message = self.compressor.compress_tensor(x, previous=self.previous)
        lost = self.compressor.add_to(x.clone(), message, -1.0).norm(dim=-1)
        energy = x.norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny)
        self.kept = (1 - (lost / energy).square()).amin()
        self.sent, self.previous = self.compressor.bytes(message) // len(x), message
        return message

    def add_to(
        self, total: Float[Tensor, "*batch d"], message: Message, alpha: float = 1.0
    ) -> Float[Tensor, "*batch d"]:
        return self.compressor.add_to(total, message, alpha)

    def delta(self, d: int) -> float:
        return self.compressor.delta(d)
