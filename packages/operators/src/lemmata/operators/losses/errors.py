"""What relative errors share: checked fields, their difference, roots that differentiate, reductions."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def check_exponent(p: float) -> None:
    """Raise `ValueError` unless `p` makes a norm."""
    if not p >= 1:
        raise ValueError(f"`p` (={p}) must be at least 1")


def check_relative(eps: float, reduction: str) -> None:
    """Raise `ValueError` unless the arguments of a relative error fit."""
    if not 0 <= eps < math.inf:
        raise ValueError(f"`eps` (={eps}) must be finite and not negative")
    if reduction not in {"mean", "sum", "none"}:
        raise ValueError(f"`reduction` (={reduction!r}) must be 'mean', 'sum' or 'none'")


def real_field(u: Tensor, name: str, least: int) -> Float[Tensor, "..."]:
    """Return a real field in at least float32, or raise."""
    if not u.is_floating_point():
        raise TypeError(f"`{name}` must be of a real floating type, got {u.dtype}")
    if u.ndim < least or 0 in u.shape[1:]:
        expected = "(batch, channels, *grid)" if least > 2 else "(batch, channels, ...)"
        got = f"got shape {tuple(u.shape)}"
        raise ValueError(f"`{name}` must be {expected} with no axis empty but the batch, {got}")
    return u if u.dtype.itemsize >= 4 else u.float()


def difference(prediction: Tensor, target: Tensor) -> Float[Tensor, "..."]:
    """Return the error of a prediction; shapes must be equal, since broadcasting would hide a mistake."""
    if prediction.shape != target.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise ValueError(f"`prediction` and `target` must have one shape, got {shapes}")
    return real_field(prediction, "prediction", least=2) - real_field(target, "target", least=2)


def root(total: Float[Tensor, " batch"], p: float) -> Float[Tensor, " batch"]:
    """Return `total^(1/p)` with a gradient of zero, not infinity, at zero."""
    zero = total == 0
    inside = torch.where(zero, 1.0, total)
    return torch.where(zero, 0.0, inside.sqrt() if p == 2 else inside.pow(1.0 / p))


def relative_error(error: Tensor, size: Tensor, eps: float, reduction: Reduction) -> Float[Tensor, "..."]:
    """Return errors over sizes, reduced over the batch."""
    if eps > 0:
        size = size.clamp_min(eps)
    elif not torch.compiler.is_compiling():  # a compiled graph cannot branch on data
        zero = (size == 0).nonzero().flatten().tolist()
        if zero:
            raise ValueError(
                f"`target` has norm zero in samples {zero}; a relative error needs `eps` > 0 there"
            )
    ratio = error / size
    if reduction == "none":
        return ratio
    if reduction == "sum":
        return ratio.sum()
    if len(ratio) == 0:
        raise ValueError("the mean over an empty batch is undefined; use `reduction` 'sum' or 'none'")
    return ratio.mean()
