r"""Optimisers that treat a weight matrix as a matrix, and everything else by AdamW, in one object.

A parameter group has an `algorithm`: that of the class, for weight matrices, or `adamw`. For a matrix $W$
with gradient $G$ a step is

$$M \leftarrow \mu M + (1 - \mu) G, \qquad U = (1 - \mu) G + \mu M, \qquad
W \leftarrow (1 - \eta \lambda) W - \eta\, s\, D(U),$$

where $D$ is what a subclass of `MatrixOptimizer` defines, $U = M$ without `nesterov`, and the scale $s$
depends on the shape alone. Matrices of one shape are stacked and go through $D$ together, save large ones on
a CPU, which are worked on one at a time while they are in the cache.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.optim.adamw import adamw

from lemmata.optim.optimizers.base import CheckedOptimizer, check_range, foreach_batches
from lemmata.optim.optimizers.blocks import (
    BUCKET_BYTES,
    Scale,
    assign,
    blocks,
    buckets,
    check_matrix,
    check_scale,
    cost,
    join,
    matrices,
    scale_of,
    wide_dtype,
)
from lemmata.optim.optimizers.distributed import is_distributed, placed_as, whole_tensor

__all__ = ["MatrixOptimizer", "Scale"]


class MatrixOptimizer(CheckedOptimizer):
    r"""An optimiser of matrices that hands all other parameters to AdamW.

    A subclass names its `algorithm` and turns a batch of matrices into a batch of directions in
    `_directions`. The value `matrix` for a group's `algorithm` means the subclass's, whatever its name.

    A group without `algorithm` is divided in two: parameters with two or more axes are matrices, the others
    go to AdamW. Its `lr` and `weight_decay` are then those of the matrices. A group with `algorithm="adamw"`
    takes `adamw_lr` and `adamw_weight_decay` where it gives no `lr` or `weight_decay` itself. Every group
    ends up with an `lr` of its own, so that a scheduler scales them all.

    The options of a matrix group that concern shape:

    - `flatten`: whether a parameter of shape $(m, \ldots)$ is one matrix of $m$ rows, as the weight of a
      convolution is. Otherwise its last two axes are a matrix and the axes before a batch, as with stacked
      experts. A parameter of four or more axes has to say.
    - `splits`: blocks of rows to treat as matrices of their own, as their number or as a tuple of their
      sizes. For a fused projection of queries, keys and values it is 3, or the numbers of rows of each.

    With `process_group` every process of the group computes its share of the directions and gathers the rest.
    All must hold the same parameters and gradients, as under `DistributedDataParallel`. It is no option of a
    parameter group and is not pickled.

    A parameter that `fully_shard` distributes is gathered for its direction, which every process computes;
    momentum and update stay sharded. `FullyShardedDataParallel` flattens parameters, and is refused.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate of matrices.
        momentum: $\mu$, in [0, 1).
        nesterov: Whether to look ahead.
        weight_decay: $\lambda$ of matrices, decoupled.
        scale: $s$ for a matrix of $m$ rows and $n$ columns: `spectral` is $\sqrt{\max(1, m/n)}$, `rms` is
            $0.2 \sqrt{\max(m, n)}$ and `none` is 1.
        betas: Decay rates of AdamW.
        eps: The term in AdamW's denominator.
        adamw_lr: Learning rate of AdamW.
        adamw_weight_decay: Weight decay of AdamW.
        foreach: Whether to stack matrices, and to update AdamW's parameters together; None chooses by size.
        process_group: Processes that share the work.
        maximize: Whether to ascend.
        error_if_nonfinite: Whether a gradient with NaN or infinity ends the step with an error.
        options: Further options of a subclass, with their defaults.

    Raises:
        ValueError: Where an option is out of range, a parameter of a matrix group is no matrix, or
            `splits` doesn't divide its rows.
        TypeError: Where a parameter is one that FSDP1 flattened.
    """

    algorithm: ClassVar[str] = "matrix"
    process_group: dist.ProcessGroup | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scale: Scale = "spectral",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adamw_lr: float | Tensor = 3e-4,
        adamw_weight_decay: float = 0.0,
        foreach: bool | None = None,
        process_group: dist.ProcessGroup | None = None,
        maximize: bool = False,
        error_if_nonfinite: bool = True,
        **options: Any,
    ) -> None:
        self.process_group = process_group
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "scale": scale,
            "splits": 1,
            "flatten": None,
            "betas": betas,
            "eps": eps,
            "adamw_lr": adamw_lr,
            "adamw_weight_decay": adamw_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "error_if_nonfinite": error_if_nonfinite,
            **options,
        }
        super().__init__(params, defaults)

    @abstractmethod
    def _directions(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        """Turn matrices into directions, each matrix by itself.

        Args:
            group: The options.
            u: Matrices in float32 or float64. They may be the optimiser's state: don't write.

        Returns:
            The directions, in any floating-point type. A matrix of zeros has the direction zero.
        """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, in two where it has no `algorithm` and holds matrices and others.

        Args:
            param_group: `params` and options that differ from the defaults.

        Raises:
            ValueError: Where an option is out of range or does not fit a parameter.
            TypeError: Where a parameter is one that FSDP1 flattened.
        """
        parts = self._by_algorithm(param_group)
        for part in parts:
            self._check_group({**self.defaults, **part})
        for part in parts:
            super().add_param_group(part)
            for name in ("adamw_lr", "adamw_weight_decay"):
                del self.param_groups[-1][name]

    def _group_defaults(self) -> dict[str, Any]:
        """Return the options that every group has: those of AdamW have become its `lr` and `weight_decay`."""
        defaults = super()._group_defaults()
        return {name: value for name, value in defaults.items() if not name.startswith("adamw_")}

    def _by_algorithm(self, param_group: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the group, or its matrices and the rest, with every option that depends on the algorithm."""
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, set):
            return [{"algorithm": "adamw", **group}]  # torch explains why that is an error
        members = [params] if isinstance(params, Tensor) else list(params)
        if "algorithm" in group:
            name = self.algorithm if group["algorithm"] == "matrix" else group["algorithm"]
            return [self._with_rates({**group, "params": members, "algorithm": name})]
        rates: dict[str, Any] = {name: group.pop(name) for name in ("lr", "weight_decay") if name in group}
        whole = {**group, **rates, "params": [member for member in members if _tensor(member).ndim >= 2]}
        others = {**group, "params": [member for member in members if _tensor(member).ndim < 2]}
        parts = [{**whole, "algorithm": self.algorithm}] if whole["params"] or not others["params"] else []
        return parts + ([self._with_rates({**others, "algorithm": "adamw"})] if others["params"] else [])

    def _with_rates(self, group: dict[str, Any]) -> dict[str, Any]:
        """Give an AdamW group the learning rate and weight decay that it lacks."""
        if group["algorithm"] != "adamw":
            return group
        options = {**self.defaults, **group}
        return {"lr": options["adamw_lr"], "weight_decay": options["adamw_weight_decay"], **group}

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay", "eps", "adamw_lr", "adamw_weight_decay"):
            check_range(name, group[name], 0)
        check_range("momentum", group["momentum"], 0, 1)
        for index, beta in enumerate(group["betas"]):
            check_range(f"betas[{index}]", beta, 0, 1)
        check_scale(group["scale"])
        if group["algorithm"] not in (self.algorithm, "adamw"):
            raise ValueError(
                f"`algorithm` (={group['algorithm']!r}) must be {self.algorithm!r}, 'matrix' or 'adamw'"
            )
        for member in group["params"]:
            param = _tensor(member)
            if getattr(param, "_fsdp_flattened", False):
                raise TypeError(
                    f"{type(self).__name__} needs whole matrices and cannot train parameters that "
                    f"FullyShardedDataParallel flattened; shard the model with fully_shard instead"
                )
            if group["algorithm"] != "adamw":
                check_matrix(param, group)

    def _update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        # Distributed tensors and others cannot be in one multi-tensor operation.
        distributed: list[Tensor] = [param for param in params if is_distributed(param)]
        ordinary = [param for param in params if not is_distributed(param)] if distributed else params
        if group["algorithm"] == "adamw":
            self._update_by_adamw(group, distributed)
            self._update_by_adamw(group, ordinary)
            return
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param, dtype=wide_dtype(param.dtype))
        self._update_matrices(group, distributed)
        if self.process_group is None or dist.get_world_size(self.process_group) == 1:
            self._update_matrices(group, ordinary)
        else:
            self._update_in_shares(group, ordinary)

    def _update_matrices(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for bucket in buckets(group, params):
            for stack, directions in zip(bucket, self._advance_bucket(group, bucket), strict=True):
                _move(group, stack, directions)

    def _advance_bucket(self, group: dict[str, Any], bucket: list[list[Tensor]]) -> list[Tensor]:
        """Advance the momentum of a bucket's parameters; return directions, stacked as the parameters are."""
        updates = [self._advance(group, stack) for stack in bucket]
        parts = [matrices(update, group) for update in updates]
        places: dict[Sequence[int], list[tuple[int, int]]] = defaultdict(list)
        for i, blocks_of_stack in enumerate(parts):
            for j, block in enumerate(blocks_of_stack):
                places[block.shape[-2:]].append((i, j))
        for same in places.values():
            members = [parts[i][j] for i, j in same]
            together = self._in_chunks(group, members[0] if len(members) == 1 else torch.cat(members))
            sizes = [len(member) for member in members]
            for (i, j), direction in zip(same, torch.split(together, sizes), strict=True):
                parts[i][j] = direction
        return [join(_scaled(own, group), update.shape) for own, update in zip(parts, updates, strict=True)]

    def _advance(self, group: dict[str, Any], stack: list[Tensor]) -> Shaped[Tensor, "count ..."]:
        """Advance the momentum of parameters of one shape and return $U$, stacked."""
        momentum = group["momentum"]
        buffers = [self.state[param]["momentum_buffer"] for param in stack]
        grads = _in(buffers[0].dtype, _gradients(stack))
        if len(stack) == 1:
            buffers[0].lerp_(grads[0], 1 - momentum)
            update = grads[0].lerp(buffers[0], momentum) if group["nesterov"] else buffers[0]
            return whole_tensor(update)[None]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        stacked = torch.stack(buffers)
        return torch.stack(grads).lerp_(stacked, momentum) if group["nesterov"] else stacked

    def _in_chunks(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        """Compute the directions of so many matrices at a time that they stay below `BUCKET_BYTES`."""
        size = max(1, BUCKET_BYTES // max(1, u[0].numel() * u.element_size()))
        if len(u) <= size:
            return self._directions(group, u)
        return torch.cat([self._directions(group, chunk) for chunk in torch.split(u, size)])

    def _update_in_shares(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Compute the directions of this process's share, exchange them, and move all parameters."""
        world, rank = dist.get_world_size(self.process_group), dist.get_rank(self.process_group)
        owners = assign([cost(param, group) for param in params], world)
        directions: dict[Tensor, Tensor] = {}
        own = [param for param, owner in zip(params, owners, strict=True) if owner == rank]
        for bucket in buckets(group, own):
            for stack, together in zip(bucket, self._advance_bucket(group, bucket), strict=True):
                directions.update(zip(stack, together, strict=True))
        for param, owner in zip(params, owners, strict=True):
            if owner != rank:
                self._advance(group, [param])
        kinds: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
        for param, owner in zip(params, owners, strict=True):
            kind = wide_dtype(param.dtype), param.device
            kinds.setdefault(kind, [[] for _ in range(world)])[owner].append(param)
        for (dtype, device), queues in kinds.items():
            for param, direction in self._exchange(queues, directions, dtype, device):
                _move(group, [param], direction[None])

    def _exchange(
        self,
        queues: list[list[Tensor]],
        directions: dict[Tensor, Tensor],
        dtype: torch.dtype,
        device: torch.device,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return parameters with their directions, of which each process sends its own, padded to one length.

        Args:
            queues: The parameters of each process.
            directions: Those that this process computed.
            dtype: Data type in which to send.
            device: Device of the parameters.
        """
        length = max(sum(param.numel() for param in queue) for queue in queues)
        own = [directions[param].reshape(-1).to(dtype) for param in queues[dist.get_rank(self.process_group)]]
        padding = torch.zeros(length - sum(map(len, own)), dtype=dtype, device=device)
        received = torch.empty(len(queues) * length, dtype=dtype, device=device)
        dist.all_gather_into_tensor(received, torch.cat([*own, padding]), group=self.process_group)
        found: list[tuple[Tensor, Tensor]] = []
        for queue, buffer in zip(queues, received.view(len(queues), length), strict=True):
            sizes = [param.numel() for param in queue]
            pieces = torch.split(buffer[: sum(sizes)], sizes)
            found += [(param, piece.view(param.shape)) for param, piece in zip(queue, pieces, strict=True)]
        return found

    def _update_by_adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update parameters as `torch.optim.AdamW` does, with float32 state for half precision."""
        # The compiler fuses a loop; torch's multi-tensor path does not trace on a CPU.
        foreach = False if torch.compiler.is_compiling() else group["foreach"]
        for indices in foreach_batches(params, foreach):
            batch = [params[index] for index in indices]
            for param in batch:
                state = self.state[param]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(param, dtype=wide_dtype(param.dtype))
                    state["exp_avg_sq"] = torch.zeros_like(param, dtype=wide_dtype(param.dtype))
            dtype = wide_dtype(batch[0].dtype)
            wide = _in(dtype, batch)
            adamw(
                wide,
                _in(dtype, _gradients(batch)),
                [self.state[param]["exp_avg"] for param in batch],
                [self.state[param]["exp_avg_sq"] for param in batch],
                [],
                [self.state[param]["step"] for param in batch],
                foreach=len(batch) > 1 and not isinstance(group["lr"], Tensor),
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=group["maximize"],
            )
            _write_back(batch, wide)


def _tensor(member: Any) -> Any:
    """Return a parameter given by itself or as a pair of its name and itself."""
    return member[1] if isinstance(member, tuple) else member


def _gradients(params: list[Tensor]) -> list[Tensor]:
    """Return the gradients, which all parameters have."""
    return [cast("Tensor", param.grad) for param in params]


def _in(dtype: torch.dtype, tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors of one data type in another, themselves where it is theirs."""
    return tensors if tensors[0].dtype == dtype else [tensor.to(dtype) for tensor in tensors]


def _write_back(params: list[Tensor], wide: list[Tensor]) -> None:
    """Round parameters that were updated in another data type to their own."""
    if wide is not params:
        torch._foreach_copy_(params, wide)


def _scaled(parts: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Scale the directions of blocks of different shapes; `_move` scales those of one shape."""
    if len(parts) == 1:
        return parts
    return [part * scale_of(part.shape[-2], part.shape[-1], group["scale"]) for part in parts]


def _move(group: dict[str, Any], params: list[Tensor], directions: Shaped[Tensor, "count ..."]) -> None:
    """Decay parameters of one shape and move them against their directions."""
    [(_, rows, columns), *others] = blocks(params[0].shape, group)
    scale = 1.0 if others else scale_of(rows, columns, group["scale"])
    step = group["lr"] * (scale if group["maximize"] else -scale)
    wide = _in(wide_dtype(params[0].dtype), params)
    if group["weight_decay"]:
        torch._foreach_mul_(wide, 1 - group["lr"] * group["weight_decay"])
    if len(params) == 1 and not isinstance(step, Tensor):
        wide[0].add_(placed_as(params[0], directions[0]), alpha=step)
    else:
        moves = list((directions.to(wide[0].dtype) * step).unbind())
        torch._foreach_add_(wide, [placed_as(params[0], moves[0])] if len(params) == 1 else moves)
    _write_back(params, wide)
