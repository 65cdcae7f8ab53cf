"""What every optimiser here does the same way: a step, the checks before it, and the choice of a loop.

A step reads all gradients before it changes anything. Gradients that are sparse, complex or not finite
end it with an error while parameters and state are what they were. Parameters without a gradient or
without elements are passed over and get no state.

On a CPU multi-tensor functions stream every tensor through memory once per operation, while a loop keeps
one tensor in cache: tensors above `LOOP_BYTES` are updated one by one there, the rest together.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["LOOP_BYTES", "CheckedOptimizer", "check_range", "foreach_batches"]

LOOP_BYTES = 256 * 1024
"""Size in bytes above which a tensor on a CPU is updated by itself rather than with others."""


class CheckedOptimizer(Optimizer):
    """An optimiser whose step checks every gradient before it changes anything.

    A subclass checks the values of a parameter group in `_check_group`, and updates one group's
    parameters in `_update_group`. Every group has `lr`, `maximize`, `foreach` and `error_if_nonfinite`: raise
    before anything changes where a gradient of the group holds NaN or infinity. On an accelerator that
    waits for the device once per step, as a `GradScaler` does.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, once its options are checked.

        Args:
            param_group: `params` and options that differ from the defaults.

        Raises:
            ValueError: Where an option is out of its range.
        """
        self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled optimiser or a state; options that it lacks get their defaults."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self._group_defaults().items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, keeping the data types in which it was saved.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: Where the numbers of groups or parameters differ.
        """
        super().load_state_dict(state_dict)
        # torch casts state to the parameter's type, which would round the float32 state of half precision.
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved, params, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                loaded = self.state[param][key]
                if isinstance(value, Tensor) and value.dtype != loaded.dtype:
                    self.state[param][key] = value.to(loaded.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What the closure returned; None without one.

        Raises:
            TypeError: Where a gradient is sparse or complex.
            FloatingPointError: Where a gradient is not finite and its group has `error_if_nonfinite`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [self._with_gradients(index) for index in range(len(self.param_groups))]
        self._check_finite([params if group["error_if_nonfinite"] else [] for group, params in work])
        for group, params in work:
            if params:
                self._update_group(group, params)
        return loss

    @abstractmethod
    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError where an option of a group, merged with the defaults, is out of range."""

    @abstractmethod
    def _update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Update the parameters, all of which have a gradient, and their state."""

    def _group_defaults(self) -> dict[str, Any]:
        """Return the options that every group has; torch adds one of its own to the defaults it restores."""
        return {name: value for name, value in self.defaults.items() if name != "differentiable"}

    def _with_gradients(self, index: int) -> tuple[dict[str, Any], list[Tensor]]:
        """Return a group and those of its parameters that take part in the step."""
        group = self.param_groups[index]
        params = [param for param in group["params"] if param.grad is not None and param.numel()]
        for param in params:
            if param.grad.is_sparse:
                raise TypeError(
                    f"{type(self).__name__} does not take sparse gradients; a parameter of shape "
                    f"{tuple(param.shape)} in group {index} has one"
                )
            if param.grad.is_complex():
                raise TypeError(
                    f"{type(self).__name__} does not take complex gradients; a parameter of shape "
                    f"{tuple(param.shape)} in group {index} has one"
                )
        return group, params

    def _check_finite(self, params_by_group: Sequence[Sequence[Tensor]]) -> None:
        """Raise where a gradient holds NaN or infinity, on all processes that share a parameter alike."""
        offender = _first_nonfinite(params_by_group)
        elsewhere = _agree([param for params in params_by_group for param in params], offender is not None)
        if offender is None and not elsewhere:
            return
        where = "of another process's part" if offender is None else "of a parameter of shape {} in group {}"
        raise FloatingPointError(
            f"the gradient {where.format(*(offender or ()))} is not finite; nothing was changed. Clip or "
            f"skip such steps, or pass error_if_nonfinite=False to let them through"
        )


def _first_nonfinite(params_by_group: Sequence[Sequence[Tensor]]) -> tuple[tuple[int, ...], int] | None:
    """Return shape and group of a parameter whose gradient is not finite here: one wait where all are."""
    grads = [param.grad for params in params_by_group for param in params if param.grad is not None]
    by_device: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grad in map(_local, grads):
        by_device.setdefault((grad.device, grad.dtype), []).append(grad)
    norms = [torch.stack(torch._foreach_norm(batch)).sum() for batch in by_device.values()]
    if all(math.isfinite(float(norm)) for norm in norms):
        return None
    # The sum of squares of large finite gradients may overflow: ask each tensor itself.
    for index, params in enumerate(params_by_group):
        for param in params:
            if param.grad is not None and not bool(_local(param.grad).isfinite().all()):
                return tuple(param.shape), index
    return None


def _agree(params: Sequence[Tensor], found: bool) -> bool:
    """Return whether any process that holds a part of these parameters found what this one looked for.

    Without that one process would raise and the others wait for it in the next collective.
    """
    meshes: list[Any] = []
    for param in params:
        mesh = getattr(param, "device_mesh", None)
        if mesh is not None and mesh not in meshes:
            meshes.append(mesh)
    for mesh in meshes:
        flag = torch.tensor(float(found), device=mesh.device_type)
        for group in mesh.get_all_groups():
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=group)
        found = bool(flag)
    return found


def _local(tensor: Tensor) -> Tensor:
    """Return the part of a distributed tensor that this process holds, any other as it is."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_high: bool = True,
    open_low: bool = False,
) -> None:
    """Raise ValueError unless a number or 0-d tensor lies between two ends.

    Args:
        name: The option's name.
        value: Its value.
        low: The lower end.
        high: The upper end.
        open_high: Whether the upper end itself is out of range.
        open_low: Whether the lower end itself is out of range.

    Raises:
        ValueError: Naming the option, its value and the range.

    Examples:
        >>> check_range("momentum", 1.5, 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: `momentum` (=1.5) must lie in [0, 1)
    """
    number = float(value)
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below):
        ends = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ValueError(f"`{name}` (={number:g}) must lie in {ends}")


def foreach_batches(tensors: Iterable[Tensor], foreach: bool | None) -> list[list[int]]:
    """Return which tensors to update together, as lists of indices.

    Args:
        tensors: The parameters.
        foreach: True to update together all that share a device and dtype, False to update each by itself,
            None to choose: on a CPU tensors above `LOOP_BYTES` by themselves.

    Returns:
        Indices into `tensors`, each in one list.

    Examples:
        >>> foreach_batches([torch.zeros(2), torch.zeros(512, 512), torch.zeros(3)], None)
        [[0, 2], [1]]
    """
    together: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    alone: list[list[int]] = []
    for index, tensor in enumerate(tensors):
        large = tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() > LOOP_BYTES
        if foreach is False or (foreach is None and large):
            alone.append([index])
        else:
            together.setdefault((tensor.device, tensor.dtype), []).append(index)
    return [*together.values(), *alone]
