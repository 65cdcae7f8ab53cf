r"""Error control as a communication hook of `DistributedDataParallel`.

Each worker sends a compressed message about its gradient instead of the gradient, and every worker computes
the same gradient estimate from all messages. What compression drops is accounted for, so that training
converges to the minimiser of the mean loss even where the workers' data differ and their gradients do not
vanish there. See `lemmata.optim.communication.feedback` for the methods.

The first rounds travel uncompressed, while DDP is still rearranging its buckets. Memory belongs to
parameters: a bucket's is laid out in the bucket's order and laid out anew when the order changes.

References:
    Y. Gao, R. Islamov, S. Stich, EControl: Fast Distributed Optimization with Compression and Error Control,
    ICLR 2024, arXiv:2311.05645.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemmata.optim.communication.compressors import Compressor, Message
from lemmata.optim.communication.exchange import Slab, exchange_exact, exchange_gathered, exchange_reduced
from lemmata.optim.communication.feedback import Block, Initialization, Method, Rule

__all__ = ["ErrorControlState", "error_control_hook"]

Granularity = Literal["bucket", "tensor"]


class ErrorControlState:
    r"""What `error_control_hook` keeps between rounds, and how it compresses.

    Give it and the hook to a wrapped model: `ddp.register_comm_hook(state, error_control_hook)`. One state
    serves one model. Gradients accumulated under `no_sync` are compressed once, when they are exchanged. All
    sums are in float32, or float64 for gradients of that dtype, whatever the gradient's dtype.

    A worker whose gradient holds NaN or infinity sends no news of it in that bucket: the others go on with
    what they last knew of it, nothing is poisoned, and `skipped` counts the event alike on all workers.

    Args:
        compressor: Makes the messages.
        model: The module that is trained, wrapped or not. Gives the names by which `state_dict` knows
            parameters; without it there is no `state_dict`.
        eta: Weight $\eta$ of the accumulated error; half of the compressor's $\delta$ where it is None.
        method: `"econtrol"`, or for comparison `"ef21"`, `"ec"` (classic error feedback) or `"none"`.
        momentum: Compress a running mean of gradients in which the past weighs so much.
        init: `"exact"`: the last uncompressed round, of which there is at least one, sets the control
            variates. `"compressed"`: the first compressed message does.
        start_step: Number of uncompressed rounds in the beginning.
        granularity: `"bucket"` compresses all of a bucket together, `"tensor"` each parameter by itself,
            which keeps small tensors from being crowded out and lets `LowRank` see matrices.
        nonfinite: `"skip"` as above; `"propagate"` returns NaN besides, for a `GradScaler` or an optimiser
            to see.
        process_group: The group of the wrapped model; the default group where it is None.

    Raises:
        ValueError: Where an option is out of its range.

    Examples:
        >>> from lemmata.optim.communication.compressors import TopK
        >>> state = ErrorControlState(TopK(0.01), model=nn.Linear(8, 2))
        >>> state.step, state.total_bytes
        (0, 0)

    References:
        Y. Gao, R. Islamov, S. Stich, EControl: Fast Distributed Optimization with Compression and Error
        Control, ICLR 2024, arXiv:2311.05645.
    """

    def __init__(
        self,
        compressor: Compressor,
        *,
        model: nn.Module | None = None,
        eta: float | None = None,
        method: Method = "econtrol",
        momentum: float = 0.0,
        init: Initialization = "exact",
        start_step: int = 2,
        granularity: Granularity = "bucket",
        nonfinite: Literal["skip", "propagate"] = "skip",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        for name, value, choices in (
            ("init", init, get_args(Initialization)),
            ("granularity", granularity, get_args(Granularity)),
            ("nonfinite", nonfinite, ("skip", "propagate")),
        ):
            if value not in choices:
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(choices)}")
        if start_step < 0:
            raise ValueError(f"`start_step` (={start_step}) must be at least 0")
        self.rule = Rule(compressor, method, eta, momentum)
        self.init, self.granularity, self.nonfinite = init, granularity, nonfinite
        self.exact_rounds = max(start_step, 1) if init == "exact" and self.rule.has_control else start_step
        self.process_group = process_group
        self.step = 0
        """Rounds that are complete."""
        self.step_bytes = 0
        """Bytes that this worker sent in the last complete round."""
        self.total_bytes = 0
        """Bytes that this worker has sent."""
        self.uncompressed_bytes = 0
        """Bytes that it would have sent without compression."""
        self._names = {} if model is None else _names(model)
        self._used_group: Any = None
        self._round_bytes = 0
        self._slab_of: dict[int, Slab] = {}
        self._stored: dict[str, dict[str, Tensor]] = {}
        self._messages: dict[str, Message] = {}
        self._skipped_before = 0

    @property
    def skipped(self) -> int:
        """Number of gradient buckets, over workers and rounds, that were not finite; equal on all workers."""
        return self._skipped_before + sum(int(slab.skipped) for slab in self._slabs())

    def reset(self) -> None:
        """Forget everything but the options, as before the first round; needed when the workers change."""
        self.step = self.step_bytes = self.total_bytes = self.uncompressed_bytes = 0
        self._round_bytes = self._skipped_before = 0
        self._used_group = None
        self._slab_of, self._stored, self._messages = {}, {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return this worker's memory by parameter name. Every worker saves its own.

        Raises:
            RuntimeError: Where the state was made without a `model`.
        """
        if not self._names:
            raise RuntimeError("parameters have no names: pass `model` when making the ErrorControlState")
        memory = dict(self._stored)
        for slab in self._slabs():
            for param in slab.params:
                memory[self._name(param)] = {key: part.clone() for key, part in slab.parts(param).items()}
        generator = getattr(self.rule.compressor, "generator", None)
        return {
            "method": self.rule.method,
            "world_size": _place(self.process_group)[1],
            "rank": _place(self.process_group)[0],
            "step": self.step,
            "total_bytes": self.total_bytes,
            "uncompressed_bytes": self.uncompressed_bytes,
            "skipped": self.skipped,
            "memory": memory,
            "messages": {name: (message.parts, message.size) for name, message in self._messages.items()},
            "generator": None if generator is None else generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned on the same worker of a group of the same size.

        A resumed process begins with the buckets that DDP makes before it rearranges them. With several
        buckets its first round therefore compresses other entries together than the uninterrupted run where
        the granularity is `"bucket"`, and a random compressor draws for them in another order. With
        `"tensor"` and any other compressor it is the same round.

        Args:
            state_dict: From `state_dict`.

        Raises:
            ValueError: Where it comes from another method, a group of another size, another worker, or a
                model with other parameters.
        """
        for key, ours in (
            ("method", self.rule.method),
            ("world_size", _place(self.process_group)[1]),
            ("rank", _place(self.process_group)[0]),
        ):
            if state_dict[key] != ours:
                raise ValueError(
                    f"`state_dict` was saved with {key}={state_dict[key]!r}, here it is {ours!r}. Errors and "
                    f"control variates belong to one worker among so many; call `reset()` to start without"
                )
        unknown = sorted(set(state_dict["memory"]) - set(self._names.values()))
        if unknown:
            raise ValueError(f"`state_dict` holds parameters that `model` lacks: {', '.join(unknown)}")
        self.reset()
        self.step = state_dict["step"]
        self.total_bytes = state_dict["total_bytes"]
        self.uncompressed_bytes = state_dict["uncompressed_bytes"]
        self._skipped_before = state_dict["skipped"]
        self._stored = {
            name: {key: part.clone() for key, part in parts.items()}
            for name, parts in state_dict["memory"].items()
        }
        self._messages = {name: Message(*saved) for name, saved in state_dict["messages"].items()}
        generator = getattr(self.rule.compressor, "generator", None)
        if generator is not None and state_dict["generator"] is not None:
            generator.set_state(state_dict["generator"].cpu())

    def exchange(
        self, params: Sequence[Tensor], buffer: Float[Tensor, " d"], *, last: bool
    ) -> torch.futures.Future[Tensor]:
        """Exchange the gradients of some parameters, for a training loop of one's own.

        Args:
            params: Parameters, the same on every worker.
            buffer: Their gradients on this worker, one after the other. Is overwritten.
            last: Whether this ends the round.

        Returns:
            A future of `buffer`, holding the estimate of the mean gradient, the same on every worker.

        Raises:
            RuntimeError: Where the state has been used with another process group or another model.
        """
        group = self._group()
        gradient = buffer.to(torch.promote_types(buffer.dtype, torch.float32))
        slab = self._slab(params, gradient)
        finite = _finite(gradient)
        hands_over = self.init == "exact" and self.rule.has_control
        if self.step < self.exact_rounds:
            start = hands_over and self.step == self.exact_rounds - 1
            future, sent, finish = exchange_exact(slab, gradient, finite, group, start=start)
        else:
            first = not hands_over and self.step == self.exact_rounds
            compressed = exchange_reduced if self.rule.compressor.reducible else exchange_gathered
            future, sent, finish = compressed(slab, gradient, finite, group, first=first)
        self._count(sent, buffer.numel() * buffer.element_size(), last=last)

        def deliver(_: torch.futures.Future[Any]) -> Tensor:
            estimate, skipped = finish()
            slab.skipped += skipped
            buffer.copy_(estimate)
            if self.nonfinite == "propagate":
                buffer.masked_fill_(skipped > 0, torch.nan)
            return buffer

        delivered: torch.futures.Future[Tensor] = future.then(deliver)
        return delivered

    def _group(self) -> dist.ProcessGroup:
        """Return the group to talk to, which must stay the same."""
        group: Any = dist.group.WORLD if self.process_group is None else self.process_group
        if self._used_group is None:
            self._used_group = group
        elif self._used_group is not group:
            raise RuntimeError(
                "an ErrorControlState was used with two process groups; its errors and control variates "
                "belong to the workers of the first. Make one state a model, or call `reset()`"
            )
        checked: dist.ProcessGroup = group
        return checked

    def _slabs(self) -> list[Slab]:
        """Return the memory of all buckets."""
        return list({id(slab): slab for slab in self._slab_of.values()}.values())

    def _slab(self, params: Sequence[Tensor], gradient: Float[Tensor, " d"]) -> Slab:
        """Return the memory of a bucket, laid out anew where its parameters have changed."""
        present = self._slab_of.get(id(params[0]))
        if present is not None and [*map(id, present.params)] == [*map(id, params)]:
            return present
        blocks = _blocks(params, [self._name(param) for param in params], self.granularity)
        for block in blocks:
            self.rule.check_block(block.stop - block.start)
        slab = Slab(params, blocks, self.rule, gradient, self._messages)
        for param in params:
            before = self._slab_of.get(id(param))
            known = self._stored.pop(self._name(param), {}) if before is None else before.parts(param)
            for key, part in slab.parts(param).items():
                if key in known:
                    part.copy_(known[key])
        older = self._slabs()
        self._slab_of |= {id(param): slab for param in params}
        left = self._slabs()
        self._skipped_before += sum(int(old.skipped) for old in older if not any(old is new for new in left))
        return slab

    def _name(self, param: Tensor) -> str:
        if not self._names:
            return f"parameter {id(param)}"
        if id(param) not in self._names:
            raise RuntimeError(
                f"a bucket holds a parameter of shape {tuple(param.shape)} that is not one of `model`'s; "
                f"make one ErrorControlState a model"
            )
        return self._names[id(param)]

    def _count(self, sent: int, uncompressed: int, *, last: bool) -> None:
        """Count the bytes of a bucket, and the round where it is the last."""
        self._round_bytes += sent
        self.total_bytes += sent
        self.uncompressed_bytes += uncompressed
        if last:
            self.step_bytes, self._round_bytes = self._round_bytes, 0
            self.step += 1


def error_control_hook(
    state: ErrorControlState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # the stubs do not export it here
) -> torch.futures.Future[Tensor]:
    """Exchange a bucket of gradients by compressed messages.

    Register it with `ddp.register_comm_hook(state, error_control_hook)`.

    Args:
        state: Of this worker.
        bucket: From DDP.

    Returns:
        A future of the bucket's buffer holding the same estimate of the mean gradient on every worker.

    Raises:
        RuntimeError: Where the state has been used with another process group or another model.
    """
    return state.exchange(bucket.parameters(), bucket.buffer(), last=bucket.is_last())


def _names(model: nn.Module) -> dict[int, str]:
    """Return the names of a module's parameters, without DDP's prefix, by identity."""
    module = model.module if isinstance(model, DistributedDataParallel) else model
    return {id(param): name for name, param in module.named_parameters()}


def _blocks(params: Sequence[Tensor], names: Sequence[str], granularity: Granularity) -> list[Block]:
    """Return what is compressed together in a bucket; parameters without elements are left out."""
    ends = list(accumulate(param.numel() for param in params))
    if granularity == "bucket":
        shape = tuple(params[0].shape) if len(params) == 1 else None
        return [Block(0, ends[-1], shape, "\n".join(names))] if ends[-1] else []
    return [
        Block(end - param.numel(), end, tuple(param.shape), name)
        for param, end, name in zip(params, ends, names, strict=True)
        if param.numel()
    ]


def _finite(gradient: Float[Tensor, " d"]) -> Bool[Tensor, " 1"]:
    """Return whether a gradient is free of NaN and infinity, in one pass and without a synchronisation."""
    if not len(gradient):
        return torch.ones(1, dtype=torch.bool, device=gradient.device)
    return torch.stack(torch.aminmax(gradient)).isfinite().all()[None]  # both are NaN where an entry is


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return this worker's rank and the number of workers: 0 of 1 where no group exists."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)
