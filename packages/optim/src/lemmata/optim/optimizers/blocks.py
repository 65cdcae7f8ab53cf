"""How parameters divide into matrices, and matrices into what to compute together or by which process.

A group's options `flatten`, `splits` and `scale` say how; `MatrixOptimizer` tells what they mean. The
functions here look at shapes, not at values.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lemmata.optim.optimizers.base import LOOP_BYTES
from lemmata.optim.optimizers.distributed import is_distributed

__all__ = [
    "BUCKET_BYTES",
    "Block",
    "Scale",
    "assign",
    "blocks",
    "buckets",
    "check_matrix",
    "check_scale",
    "cost",
    "join",
    "matrices",
    "scale_of",
    "wide_dtype",
]

Scale = Literal["spectral", "rms", "none"]
Block = tuple[int, int, int]
"""Number, rows and columns of matrices of one shape."""

BUCKET_BYTES = 256 * 1024**2
"""Size in bytes up to which parameters are stacked."""


def blocks(shape: Sequence[int], group: Mapping[str, Any]) -> list[Block]:
    """Return number, rows and columns of the matrices that a parameter consists of, from the first row on.

    Args:
        shape: The parameter's shape.
        group: Its group's options.

    Returns:
        One triple where all matrices have one shape, else one for each of `splits`.

    Examples:
        >>> blocks((12, 4), {"flatten": None, "splits": 3})
        [(3, 4, 4)]
        >>> blocks((2, 12, 4), {"flatten": None, "splits": (8, 4)})
        [(2, 8, 4), (2, 4, 4)]
        >>> blocks((8, 3, 5, 5), {"flatten": True, "splits": 1})
        [(1, 8, 75)]
    """
    if group["flatten"]:
        shape = (shape[0], math.prod(shape[1:]))
    count, rows, columns = math.prod(shape[:-2]), shape[-2], shape[-1]
    splits = group["splits"]
    if isinstance(splits, int):
        return [(count * splits, rows // splits, columns)]
    return [(count, size, columns) for size in splits]


def matrices(stacked: Tensor, group: Mapping[str, Any]) -> list[Tensor]:
    """Return the matrices of parameters of one shape, in a tensor for each block.

    Args:
        stacked: (count, *shape).
        group: The options.

    Returns:
        Tensors (batch, rows, columns) in the order of `blocks`.
    """
    parts = blocks(stacked.shape[1:], group)
    sizes = [rows for _, rows, _ in parts]
    together = stacked.reshape(-1, sum(sizes), parts[0][2])
    return [together] if len(parts) == 1 else list(torch.split(together, sizes, dim=-2))


def join(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Put the matrices of parameters together again: undo `matrices`.

    Args:
        parts: Tensors (batch, rows, columns), one for each block.
        shape: (count, *shape), of stacked parameters.

    Returns:
        The stacked parameters.
    """
    return (parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-2)).reshape(tuple(shape))


def scale_of(rows: int, columns: int, scale: Scale) -> float:
    """Return the factor of a matrix's step that depends on its shape.

    Args:
        rows: Rows $m$.
        columns: Columns $n$.
        scale: The rule.

    Returns:
        $s$.

    Examples:
        >>> scale_of(64, 16, "spectral"), scale_of(16, 64, "spectral"), scale_of(100, 25, "rms")
        (2.0, 1.0, 2.0)
    """
    if scale == "spectral":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if scale == "rms" else 1.0


def buckets(group: Mapping[str, Any], params: Sequence[Tensor]) -> list[list[list[Tensor]]]:
    """Return which parameters to work on together.

    Args:
        group: The options.
        params: Parameters.

    Returns:
        Buckets; in each, stacks of parameters of one shape. Matrices of one shape are in one bucket as far as
        they fit, save where a parameter is large and on a CPU, or `foreach` is False. A distributed parameter
        makes a stack by itself.
    """
    alone, foreach = [], group["foreach"]
    kinds: dict[tuple[Sequence[int], torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for param in params:
        kinds[param.shape, param.dtype, param.device].append(param)
    alike: dict[tuple[Any, ...], list[list[Tensor]]] = defaultdict(list)
    for (shape, dtype, device), members in kinds.items():
        large = device.type == "cpu" and math.prod(shape) * dtype.itemsize > LOOP_BYTES
        if foreach is False or (foreach is None and large):
            alone += [[[param]] for param in members]
        else:
            sides = frozenset((rows, columns) for _, rows, columns in blocks(shape, group))
            alike[sides, dtype, device] += _stacks(members)
    return [bucket for stacks in alike.values() for bucket in _below_limit(stacks)] + alone


def _stacks(params: list[Tensor]) -> list[list[Tensor]]:
    """Divide parameters of one shape into stacks below `BUCKET_BYTES`."""
    ordinary = [param for param in params if not is_distributed(param)]
    distributed = [param for param in params if is_distributed(param)]
    size = max(1, BUCKET_BYTES // _wide_bytes(params[0]))
    stacks = [ordinary[start : start + size] for start in range(0, len(ordinary), size)]
    return stacks + [[param] for param in distributed]


def _below_limit(stacks: list[list[Tensor]]) -> list[list[list[Tensor]]]:
    """Divide stacks into buckets below `BUCKET_BYTES`."""
    found: list[list[list[Tensor]]] = []
    size = math.inf
    for stack in stacks:
        added = len(stack) * _wide_bytes(stack[0])
        if size + added > BUCKET_BYTES:
            found.append([])
            size = 0
        found[-1].append(stack)
        size += added
    return found


def _wide_bytes(param: Tensor) -> int:
    return param.numel() * wide_dtype(param.dtype).itemsize


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the data type of the state of parameters: float32 for half precision.

    Args:
        dtype: The parameters'.

    Returns:
        float64 or float32.

    Examples:
        >>> wide_dtype(torch.bfloat16)
        torch.float32
    """
    return dtype if dtype == torch.float64 else torch.float32


def cost(param: Tensor, group: Mapping[str, Any]) -> int:
    """Return the order of the number of products that a parameter's matrices take.

    Args:
        param: The parameter.
        group: Its group's options.

    Returns:
        The sum of $m^2 n$ over its matrices, with $m$ the shorter side.
    """
    return sum(count * min(m, n) ** 2 * max(m, n) for count, m, n in blocks(param.shape, group))


def assign(costs: Sequence[int], processes: int) -> list[int]:
    """Divide work among processes: the most costly first, each to the process with the least so far.

    Args:
        costs: What each piece of work costs.
        processes: How many processes there are.

    Returns:
        The process for each piece.

    Examples:
        >>> assign([1, 5, 3, 2], 2)
        [0, 0, 1, 1]
    """
    loads, owners = [0] * processes, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


def check_scale(scale: Any) -> None:
    """Raise ValueError unless a rule for the scale is known."""
    if scale not in get_args(Scale):
        raise ValueError(f"`scale` (={scale!r}) must be one of {', '.join(get_args(Scale))}")


def check_matrix(param: Tensor, group: Mapping[str, Any]) -> None:
    """Check that a parameter consists of matrices as its group says.

    Args:
        param: A parameter.
        group: Its group's options.

    Raises:
        ValueError: Where it has too few axes, so many that `flatten` has to say what they are, or rows that
            `splits` doesn't divide.
    """
    shape, splits = tuple(param.shape), group["splits"]
    if param.ndim < 2:
        raise ValueError(
            f"a parameter of shape {shape} is no matrix and cannot be in a group with "
            f"algorithm={group['algorithm']!r}; `split_parameters` makes groups that fit a model"
        )
    if param.ndim > 3 and group["flatten"] is None:
        raise ValueError(
            f"a parameter of shape {shape} may be the weight of a convolution or a batch of matrices; give "
            f"its group flatten=True or flatten=False, or make the groups by `split_parameters`"
        )
    rows = shape[0] if group["flatten"] else shape[-2]
    if isinstance(splits, int):
        if splits < 1 or rows % splits:
            raise ValueError(
                f"`splits` (={splits}) must divide the {rows} rows of a parameter of shape {shape}"
            )
    elif not splits or min(splits) < 1 or sum(splits) != rows:
        raise ValueError(
            f"`splits` (={tuple(splits)}) must be positive and sum to the {rows} rows of a parameter of "
            f"shape {shape}"
        )
