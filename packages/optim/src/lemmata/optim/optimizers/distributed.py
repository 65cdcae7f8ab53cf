"""Whole matrices of distributed parameters, and back.

`DTensor` is known here by what it can do: importing its module takes longer than the rest of the package.
"""

from typing import Any

from torch import Tensor

__all__ = ["is_distributed", "placed_as", "whole_tensor"]


def is_distributed(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`, as `fully_shard` makes of parameters.

    Args:
        tensor: A tensor.

    Returns:
        False for a tensor that this process holds whole.
    """
    return hasattr(tensor, "full_tensor")


def whole_tensor(tensor: Any) -> Tensor:
    """Gather a distributed tensor, which all its processes must do together.

    Args:
        tensor: A tensor.

    Returns:
        Its full value; itself where this process holds it whole.
    """
    whole: Tensor = tensor.full_tensor() if is_distributed(tensor) else tensor
    return whole


def placed_as(param: Any, whole: Tensor) -> Tensor:
    """Distribute a value that every process holds as a parameter is, without communication.

    Args:
        param: The parameter.
        whole: A tensor of its shape.

    Returns:
        The distributed tensor; the value itself for a parameter that is not distributed.
    """
    if not is_distributed(param):
        return whole
    everywhere = type(param.data).from_local(whole, param.device_mesh, run_check=False)
    placed: Tensor = everywhere.redistribute(placements=param.placements)
    return placed
