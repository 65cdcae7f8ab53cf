r"""Optimisers that treat a weight matrix as a matrix, and everything else by AdamW, in one object.

A parameter group has an `algorithm`: that of the class, for weight matrices, or `adamw`. For a matrix $W$ with
gradient $G$ a step is

$$M \leftarrow \mu M + (1 - \mu) G, \qquad U = (1 - \mu) G + \mu M, \qquad
W \leftarrow (1 - \eta \lambda) W - \eta\, s\, D(U),$$

where $D$ is what a subclass of `MatrixOptimizer` defines, $U = M$ without `nesterov`, and the scale $s$ depends
on the shape alone. Matrices of one shape are stacked and go through $D$ together, save large ones on a CPU,
which are worked on one at a time while they are in the cache.
"""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim.adamw import adamw

from lemmata.optim.optimizers.base import CheckedOptimizer, check_range, foreach_batches

__all__ = ["BUCKET_BYTES", "MatrixOptimizer", "Scale"]

Scale = Literal["spectral", "rms", "none"]

BUCKET_BYTES = 256 * 1024**2
"""Size in bytes up to which matrices are stacked."""


class MatrixOptimizer(CheckedOptimizer):
    r"""An optimiser of matrices that hands all other parameters to AdamW.

    A subclass names its `algorithm` and turns a batch of matrices into a batch of directions in
    `_directions`. The value `matrix` for a group's `algorithm` means the subclass's, whatever its name.

    A group without `algorithm` is divided in two: parameters with two or more axes are matrices, the others go to
    AdamW. Its `lr` and `weight_decay` are then those of the matrices. A group with `algorithm="adamw"` takes
    `adamw_lr` and `adamw_weight_decay` where it gives no `lr` or `weight_decay` itself. Every group ends up with
    an `lr` of its own, so that a scheduler scales them all.

    The options of a matrix group that concern shape:

    - `flatten`: whether a parameter of shape $(m, \ldots)$ is one matrix of $m$ rows, as the weight of a
      convolution is. Otherwise its last two axes are a matrix and the axes before a batch, as with stacked
      experts. A parameter of four or more axes has to say.
    - `splits`: blocks of rows to treat as matrices of their own, as their number or as a tuple of their sizes.
      For a fused projection of queries, keys and values it is 3, or the numbers of rows of each.

    With `process_group` every process of the group computes its share of the directions and gathers the rest.
    All must hold the same parameters and gradients, as under `DistributedDataParallel`. It is no option of a
    parameter group and doesn't survive pickling.

    Parameters that `fully_shard` distributes are gathered matrix by matrix.

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled optimiser or a state; options that it lacks get their defaults."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                if name not in ("adamw_lr", "adamw_weight_decay"):
                    group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, keeping the data types in which it was saved.

        Args:
            state_dict: What `state_dict` returned.
        """
        super().load_state_dict(state_dict)
        # torch casts state to the parameter's type, which would round the float32 state of half precision.
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(ids, params, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and value.dtype != self.state[param][key].dtype:
                    self.state[param][key] = value.to(self.state[param][key].device, copy=True)

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
        rates = {name: group.pop(name) for name in ("lr", "weight_decay") if name in group}
        matrices = [member for member in members if _tensor(member).ndim >= 2]
        others = [member for member in members if _tensor(member).ndim < 2]
        parts = [{**group, **rates, "params": matrices, "algorithm": self.algorithm}] if matrices else []
        if others:
            parts.append(self._with_rates({**group, "params": others, "algorithm": "adamw"}))
        return parts or [{**param_group, "params": [], "algorithm": self.algorithm}]

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
        if group["scale"] not in get_args(Scale):
            raise ValueError(f"`scale` (={group['scale']!r}) must be one of {', '.join(get_args(Scale))}")
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
                _check_matrix(param, group)

    def _update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if group["algorithm"] == "adamw":
            self._update_by_adamw(group, params)
            return
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param, dtype=_wide(param.dtype))
        share = self.process_group is not None and dist.get_world_size(self.process_group) > 1
        for stack, direction in (self._gather if share else self._compute)(group, params):
            _move(group, stack, direction)

    def _compute(self, group: dict[str, Any], params: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Advance the momentum of parameters; yield those of one shape with the directions stacked."""
        for bucket in _buckets(group, params):
            updates = [self._advance(group, stack) for stack in bucket]
            yield from zip(bucket, self._directions_of(group, updates), strict=True)

    def _advance(self, group: dict[str, Any], stack: list[Tensor]) -> Float[Tensor, "count *shape"]:
        """Advance the momentum of parameters of one shape, and return $U$ stacked."""
        momentum = group["momentum"]
        buffers = [self.state[param]["momentum_buffer"] for param in stack]
        grads = _gradients(stack, buffers[0].dtype)
        if len(stack) == 1:
            buffers[0].lerp_(grads[0], 1 - momentum)
            update = grads[0].lerp(buffers[0], momentum) if group["nesterov"] else buffers[0]
            return (update.full_tensor() if isinstance(update, DTensor) else update)[None]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        stacked = torch.stack(buffers)
        return torch.stack(grads).lerp_(stacked, momentum) if group["nesterov"] else stacked

    def _directions_of(self, group: dict[str, Any], updates: list[Tensor]) -> list[Tensor]:
        """Return the directions of stacked parameters; all matrices of one shape are computed together."""
        blocks = [_matrices(update, group) for update in updates]
        places: dict[Sequence[int], list[tuple[int, int]]] = defaultdict(list)
        for i, parts in enumerate(blocks):
            for j, part in enumerate(parts):
                places[part.shape[-2:]].append((i, j))
        for same in places.values():
            members = [blocks[i][j] for i, j in same]
            whole = self._in_chunks(group, members[0] if len(members) == 1 else torch.cat(members))
            directions = torch.split(whole, [len(member) for member in members])
            for (i, j), direction in zip(same, directions, strict=True):
                blocks[i][j] = direction
        return [_whole(parts, group, update.shape) for parts, update in zip(blocks, updates, strict=True)]

    def _in_chunks(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        """Compute directions for so many matrices at a time that they stay below `BUCKET_BYTES`."""
        size = max(1, BUCKET_BYTES // (u[0].numel() * u.element_size()))
        if len(u) <= size:
            return self._directions(group, u)
        return torch.cat([self._directions(group, chunk) for chunk in u.split(size)])

    def _gather(self, group: dict[str, Any], params: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Compute the directions of this process's share; gather the others'."""
        world, rank = dist.get_world_size(self.process_group), dist.get_rank(self.process_group)
        owners = _assign([_cost(param, group) for param in params], world)
        own = [param for param, owner in zip(params, owners, strict=True) if owner == rank]
        for param, owner in zip(params, owners, strict=True):
            if owner != rank:
                # The full tensor of a distributed parameter is gathered by all its processes together.
                self._advance(group, [param])
        directions = {
            param: direction
            for stack, together in self._compute(group, own)
            for param, direction in zip(stack, together, strict=True)
        }
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = defaultdict(list)
        for index, param in enumerate(params):
            kinds[self.state[param]["momentum_buffer"].dtype, param.device].append(index)
        for (dtype, device), indices in kinds.items():
            queues = [[params[i] for i in indices if owners[i] == owner] for owner in range(world)]
            length = max(sum(param.numel() for param in queue) for queue in queues)
            sent = torch.zeros(length, dtype=dtype, device=device)
            received = torch.empty(world * length, dtype=dtype, device=device)
            if queues[rank]:
                flat = torch.cat([directions[param].reshape(-1).to(dtype) for param in queues[rank]])
                sent[: len(flat)] = flat
            dist.all_gather_into_tensor(received, sent, group=self.process_group)
            for queue, buffer in zip(queues, received.view(world, length), strict=True):
                sizes = [param.numel() for param in queue]
                for param, flat in zip(queue, buffer[: sum(sizes)].split(sizes), strict=True):
                    yield [param], flat.view(1, *param.shape)

    def _update_by_adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update parameters as `torch.optim.AdamW` does, with float32 state for half precision."""
        distributed = [param for param in params if isinstance(param, DTensor)]
        ordinary = [param for param in params if not isinstance(param, DTensor)]
        for kind in (distributed, ordinary):
            for indices in foreach_batches(kind, group["foreach"]):
                self._adamw(group, [kind[index] for index in indices])

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(param, dtype=_wide(param.dtype))
                state["exp_avg_sq"] = torch.zeros_like(param, dtype=_wide(param.dtype))
        states = [self.state[param] for param in params]
        dtype = states[0]["exp_avg"].dtype
        wide = _in(dtype, params)
        adamw(
            wide,
            _gradients(params, dtype),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=len(params) > 1 and not isinstance(group["lr"], Tensor),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        _write_back(params, wide)


def _tensor(member: Any) -> Any:
    """Return a parameter given by itself or as a pair of its name and itself."""
    return member[1] if isinstance(member, tuple) else member


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the data type of the state of parameters: float32 for half precision."""
    return dtype if dtype == torch.float64 else torch.float32


def _gradients(params: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the gradients, which all parameters have."""
    return _in(dtype, [cast(Tensor, param.grad) for param in params])


def _in(dtype: torch.dtype, tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors of one data type in another, themselves where it is theirs."""
    return tensors if tensors[0].dtype == dtype else [tensor.to(dtype) for tensor in tensors]


def _write_back(params: list[Tensor], wide: list[Tensor]) -> None:
    """Round parameters that were updated in another data type to their own."""
    if wide is not params:
        torch._foreach_copy_(params, wide)


def _check_matrix(param: Tensor, group: dict[str, Any]) -> None:
    """Raise where a parameter of a matrix group is no matrix, or its blocks don't make up its rows."""
    shape = tuple(param.shape)
    if param.ndim < 2:
        raise ValueError(
            f"a parameter of shape {shape} is no matrix and cannot be in a group with algorithm="
            f"{group['algorithm']!r}; `split_parameters` makes groups that fit a model"
        )
    if param.ndim > 3 and group["flatten"] is None:
        raise ValueError(
            f"a parameter of shape {shape} may be the weight of a convolution or a batch of matrices; give its "
            f"group flatten=True or flatten=False, or make the groups by `split_parameters`"
        )
    rows, splits = shape[0 if group["flatten"] else -2], group["splits"]
    if isinstance(splits, int):
        if splits < 1 or rows % splits:
            raise ValueError(
                f"`splits` (={splits}) must divide the {rows} rows of a parameter of shape {shape}"
            )
    elif min(splits) < 1 or sum(splits) != rows:
        raise ValueError(
            f"`splits` (={tuple(splits)}) must be positive and sum to the {rows} rows of a parameter of shape {shape}"
        )


def _blocks(shape: Sequence[int], group: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return number, rows and columns of the matrices that a parameter consists of, block by block."""
    if group["flatten"]:
        shape = (shape[0], math.prod(shape[1:]))
    *batch, rows, columns = shape
    count, splits = math.prod(batch), group["splits"]
    if isinstance(splits, int):
        return [(count * splits, rows // splits, columns)]
    return [(count, size, columns) for size in splits]


def _matrices(u: Float[Tensor, "count *shape"], group: dict[str, Any]) -> list[Tensor]:
    """Return the matrices of stacked parameters, block by block: each (batch, rows, columns)."""
    blocks = _blocks(u.shape[1:], group)
    rows, columns = sum(rows for _, rows, _ in blocks), blocks[0][2]
    if len(blocks) == 1:
        return [u.reshape(-1, rows, columns)]
    return list(u.reshape(-1, rows, columns).split([rows for _, rows, _ in blocks], dim=-2))


def _whole(parts: list[Tensor], group: dict[str, Any], shape: Sequence[int]) -> Tensor:
    """Put directions of blocks together; blocks of unequal scale are scaled here, others in `_move`."""
    if len(parts) > 1:
        return torch.cat([part * _scale(group, part.shape[-2:]) for part in parts], dim=-2).view(shape)
    return parts[0].reshape(shape)


def _scale(group: dict[str, Any], shape: Sequence[int]) -> float:
    rows, columns = shape
    if group["scale"] == "spectral":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if group["scale"] == "rms" else 1.0


def _buckets(group: dict[str, Any], params: list[Tensor]) -> list[list[list[Tensor]]]:
    """Return parameters in buckets to work on together, in each bucket stacks of one shape."""
    buckets: list[list[list[Tensor]]] = []
    for indices in foreach_batches(params, group["foreach"]):
        if len(indices) == 1:
            buckets.append([[params[indices[0]]]])
            continue
        by_shape: dict[Sequence[int], list[Tensor]] = defaultdict(list)
        for index in indices:
            by_shape[params[index].shape].append(params[index])
        alike: dict[Any, list[list[Tensor]]] = defaultdict(list)
        for shape, members in by_shape.items():
            key = tuple(sorted({block[1:] for block in _blocks(shape, group)}))
            alike[key] += _stacks(members)
        buckets += alike.values()
    return buckets


def _stacks(params: list[Tensor]) -> list[list[Tensor]]:
    """Divide parameters of one shape into stacks below `BUCKET_BYTES`; distributed ones stand alone."""
    ordinary = [param for param in params if not isinstance(param, DTensor)]
    size = max(1, BUCKET_BYTES // (params[0].numel() * 4))
    chunks = [ordinary[start : start + size] for start in range(0, len(ordinary), size)]
    return [*chunks, *[[param] for param in params if isinstance(param, DTensor)]]


def _cost(param: Tensor, group: dict[str, Any]) -> int:
    return sum(count * min(m, n) ** 2 * max(m, n) for count, m, n in _blocks(param.shape, group))


def _assign(costs: Sequence[int], world: int) -> list[int]:
    """Return an owner for each cost: the most costly first, each to the process with the least so far."""
    loads, owners = [0] * world, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


def _move(group: dict[str, Any], params: list[Tensor], direction: Float[Tensor, "count *shape"]) -> None:
    """Decay parameters and move them against their directions."""
    blocks = _blocks(params[0].shape, group)
    scale = _scale(group, blocks[0][1:]) if len(blocks) == 1 else 1.0
    step = group["lr"] * (scale if group["maximize"] else -scale)
    decay = 1 - group["lr"] * group["weight_decay"] if group["weight_decay"] else None
    dtype = _wide(params[0].dtype)
    wide = _in(dtype, params)
    if len(params) == 1 and not isinstance(step, Tensor):
        if decay is not None:
            wide[0].mul_(decay)
        wide[0].add_(_as(direction[0], params[0]), alpha=step)
    else:
        if decay is not None:
            torch._foreach_mul_(wide, decay)
        moves = list(direction.to(dtype).mul(step).unbind())
        torch._foreach_add_(wide, [_as(moves[0], params[0])] if len(params) == 1 else moves)
    _write_back(params, wide)


def _as(whole: Tensor, param: Tensor) -> Tensor:
    """Return a tensor that every process holds, distributed as a parameter is; as it is for an ordinary one."""
    if not isinstance(param, DTensor):
        return whole
    mesh = param.device_mesh
    everywhere = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=param.placements)
