r"""The convex functions that shape Lion-K's step, and the constraints they put on the parameters.

A function $\kappa$ enters twice: the step goes along its subgradient $\partial\kappa(\tilde m)$, and weight
decay $\lambda$ then keeps $\lambda x$ in the domain of the conjugate
$\kappa^*(y) = \sup_m \langle y, m\rangle - \kappa(m)$. Where $\kappa$ is a norm, that is the unit ball of the
dual norm.

| class | $\kappa(m)$ | step | $\lambda x$ is kept in | and penalised by |
|---|---|---|---|---|
| `L1` | sum of magnitudes | sign | the box of entries in $[-1, 1]$ | |
| `L2` | length | unit vector | the ball | |
| `LP(p)` | $p$-norm | | the ball of the $q$-norm, $1/p + 1/q = 1$ | |
| `GroupL2(dim)` | sum of lengths of groups | unit vectors | a ball for each group | |
| `Nuclear()` | sum of singular values | polar factor | singular values of at most 1 | |
| `TruncatedL1(e)` | magnitudes above $e$ | sign or zero | the box | $e$ times magnitudes: sparse |
| `HuberL1(e)` | smoothed magnitudes | $m/e$ clipped | the box | $e/2$ times squares |
| `Quadratic()` | half of the squares | $m$: heavy ball | everywhere | half of the squares |

A parameter tensor is one vector to `L2` and `LP`, whatever its shape. `Nuclear` takes the last two axes for a
matrix and the axes before them for a batch, `GroupL2` the entries along `dim` for a group; the others act
entry by entry. Values and conjugates add up over groups, batches and parameters.

References:
    L. Chen, B. Liu, K. Liang, Q. Liu, Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts,
    ICLR 2024, arXiv:2310.05898.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo

from lemmata.optim.optimizers.balls import (
    by_largest,
    dual_exponent,
    largest,
    length,
    project_ball,
    safe_norm,
    shrink_onto_sphere,
)
from lemmata.optim.optimizers.base import check_range
from lemmata.optim.optimizers.orthogonalize import Method, check_steps, orthogonalize

__all__ = [
    "L1",
    "L2",
    "LP",
    "GroupL2",
    "HuberL1",
    "Kappa",
    "Nuclear",
    "Quadratic",
    "TruncatedL1",
    "check_kappa",
    "subgradients",
]

SLACK = 64
"""How far above 1, in units of the dtype's epsilon, a dual norm still counts as 1 in `conjugate`."""


class Kappa(Protocol):
    r"""A convex function of a tensor with $\kappa(0) = 0$: write these four methods to make your own.

    A kappa that is to be pickled or copied with its optimiser is pickled or copied itself; a frozen dataclass
    at a module's top level is both. Two more names are used where a kappa has them: `check_shape(shape)`,
    which raises ValueError for a parameter it cannot take, and `subgradients(tensors)`, the subgradients of a
    list of tensors in one go, which may overwrite the tensors.
    """

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        r"""Return $\kappa(m)$."""
        ...

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Return an element of $\partial\kappa(m)$, zero where $m$ is."""
        ...

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        r"""Return $\kappa^*(x)$: infinite outside of its domain."""
        ...

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."] | None:
        r"""Return the nearest point of `radius` times the domain of $\kappa^*$, or None if unknown."""
        ...


def check_kappa(kappa: object) -> None:
    """Raise unless an object has the methods of a kappa.

    Args:
        kappa: What was given for one.

    Raises:
        TypeError: Listing what is missing.

    Examples:
        >>> check_kappa(abs)
        Traceback (most recent call last):
        ...
        TypeError: `kappa` (=<built-in function abs>) lacks value, subgradient, conjugate, project
    """
    if isinstance(kappa, type):
        raise TypeError(f"`kappa` (={kappa.__name__}) is a class; an instance is expected")
    names = ("value", "subgradient", "conjugate", "project")
    missing = [name for name in names if not callable(getattr(kappa, name, None))]
    if missing:
        raise TypeError(f"`kappa` (={kappa!r}) lacks {', '.join(missing)}")


def subgradients(kappa: Any, tensors: list[Tensor]) -> Sequence[Tensor]:
    """Return the subgradients of a kappa at several tensors, together where the kappa has a way to.

    Args:
        kappa: A `Kappa`.
        tensors: The tensors, of one device and dtype; they may be overwritten.

    Returns:
        One subgradient for each.

    Examples:
        >>> subgradients(L1(), [torch.tensor([-2.0, 0.0]), torch.tensor([[3.0]])])
        [tensor([-1.,  0.]), tensor([[1.]])]
    """
    together = getattr(kappa, "subgradients", None)
    if together is None:
        return [kappa.subgradient(tensor) for tensor in tensors]
    return list(together(tensors))


class InBox:
    """What the kappas share whose constraint is a box."""

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """Return the nearest point of the box $[-r, r]$."""
        return x.clamp(-radius, radius)


@dataclass(frozen=True)
class L1(InBox):
    r"""The sum of magnitudes: sign momentum as in Lion, in the box $\lVert x\rVert_\infty \le 1/\lambda$.

    Examples:
        >>> kappa = L1()
        >>> kappa.subgradient(torch.tensor([-2.0, 0.0, 0.1]))
        tensor([-1.,  0.,  1.])
        >>> kappa.conjugate(torch.tensor([1.0, -1.0])), kappa.conjugate(torch.tensor([1.1, 0.0]))
        (tensor(0.), tensor(inf))
        >>> kappa.project(torch.tensor([3.0, -0.5]), 2.0)
        tensor([ 2.0000, -0.5000])
    """

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of magnitudes."""
        return m.abs().sum()

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the signs, with that of zero being zero."""
        return m.sign()

    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Overwrite tensors with their signs and return them."""
        torch._foreach_sign_(tensors)
        return tensors

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return 0 in the box, else infinity."""
        return _in_unit_ball(largest(x))


@dataclass(frozen=True)
class LP:
    r"""The $p$-norm of a whole tensor, in the ball of the dual $q$-norm of radius $1/\lambda$.

    The step has entries $\operatorname{sign}(m_i)\,(|m_i|/\lVert m\rVert_p)^{p-1}$: from the sign at
    $p = 1$ to a move of the largest entries alone at $p = \infty$.

    Args:
        p: The exponent, from 1 to infinity.

    Raises:
        ValueError: Where `p` is below 1.

    Examples:
        >>> LP(3.0).subgradient(torch.tensor([1.0, -1.0]))
        tensor([ 0.6300, -0.6300])
        >>> LP(float("inf")).subgradient(torch.tensor([1.0, -3.0]))
        tensor([ 0., -1.])
    """

    p: float

    def __post_init__(self) -> None:
        check_range("p", self.p, 1, math.inf, open_high=False)

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the $p$-norm."""
        return safe_norm(m, self.p)

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the norm's gradient; at infinity, equal shares for the entries that tie for the largest."""
        magnitude = by_largest(m.abs(), largest(m))
        if self.p == math.inf:
            tied = (magnitude == 1).to(m.dtype)
            return m.sign() * tied / tied.sum().clamp(min=1)
        # The p-norm is the sum of magnitudes times these powers, to the power 1/p.
        powers = magnitude ** (self.p - 1)
        norm = (magnitude.mul_(powers).sum() ** (1 / self.p)).clamp(min=1)
        return m.sign().mul_(powers).div_(norm ** (self.p - 1))

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return 0 in the unit ball of the dual norm, else infinity."""
        return _in_unit_ball(safe_norm(x, dual_exponent(self.p)))

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """Return the nearest point of the ball of the dual norm."""
        return project_ball(x, dual_exponent(self.p), radius)


@dataclass(frozen=True)
class L2:
    r"""The length of a whole tensor: normalised momentum, in the ball $\lVert x\rVert_2 \le 1/\lambda$.

    Examples:
        >>> L2().subgradient(torch.tensor([3.0, -4.0]))
        tensor([ 0.6000, -0.8000])
    """

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the length."""
        return length(m)

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the unit vector, or zero."""
        return self.subgradients([m.clone()])[0]

    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Turn several tensors into unit vectors, in place."""
        for tensor in tensors:
            _scale_down_(tensor, largest(tensor))
            _scale_down_(tensor, length(tensor))
        return tensors

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return 0 in the unit ball, else infinity."""
        return _in_unit_ball(length(x))

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """Return the nearest point of the ball."""
        return project_ball(x, 2, radius)


@dataclass(frozen=True)
class GroupL2:
    """The sum of the lengths of groups of entries: every group moves by a unit vector, in a ball of its own.

    Args:
        dim: The axes along which the entries of a group lie. The last, the default, groups the weights into
            one unit of a linear layer, `(1, 2, 3)` those into one channel of a convolution.

    Examples:
        >>> GroupL2(-1).subgradient(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """

    dim: int | tuple[int, ...] = -1

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError where a parameter of this shape has not all the axes named."""
        if not all(-len(shape) <= dim < len(shape) for dim in self._dims()):
            raise ValueError(f"{self} needs axes that a parameter of shape {tuple(shape)} has not")

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of lengths."""
        return self._lengths(m).sum()

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the groups as unit vectors, or zeros."""
        return self._to_units(m.clone())

    # Inductor of torch 2.15 fails (KeyError in outer loop fusion) where it fuses norms of rows with the step
    # on a CPU: leave them out of a compiled step's graph.
    # The decorator is the one torch's optimisers have: the public one imports the compiler with this module.
    @_disable_dynamo
    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Turn the groups of several tensors into unit vectors, in place."""
        return [self._to_units(tensor) for tensor in tensors]

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return 0 where no group is longer than 1, else infinity."""
        return _in_unit_ball(largest(self._lengths(x)))

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """Return the tensor with every group that is longer than the radius scaled down to it."""
        return shrink_onto_sphere(x, self._lengths(x), radius)

    def _to_units(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        _scale_down_(x, largest(x))
        _scale_down_(x, self._lengths(x))
        return x

    def _dims(self) -> tuple[int, ...]:
        return (self.dim,) if isinstance(self.dim, int) else self.dim

    def _lengths(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return length(x, dim=self._dims(), keepdim=True)


@dataclass(frozen=True)
class TruncatedL1(InBox):
    r"""The magnitudes above a threshold: entries with little momentum only decay, and the solution is sparse.

    It minimises $f(x) + e\lVert x\rVert_1$ in the box $|x_i| \le 1/\lambda$.

    Args:
        e: The threshold, in units of the momentum and hence of the gradient: rescaling the loss rescales it.

    Raises:
        ValueError: Where `e` is negative or not finite.

    Examples:
        >>> TruncatedL1(0.5).subgradient(torch.tensor([-2.0, 0.5, 0.1]))
        tensor([-1.,  0.,  0.])
        >>> TruncatedL1(0.5).conjugate(torch.tensor([-1.0, 0.5]))
        tensor(0.7500)
    """

    e: float

    def __post_init__(self) -> None:
        check_range("e", self.e, 0)

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of what the magnitudes exceed the threshold by."""
        return (m.abs() - self.e).clamp(min=0).sum()

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the signs of the entries above the threshold, zero for the others."""
        return torch.nn.functional.hardshrink(m, self.e).sign_()

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the threshold times the sum of magnitudes in the box, else infinity."""
        return _in_unit_ball(largest(x), self.e * x.abs().sum())


@dataclass(frozen=True)
class HuberL1(InBox):
    r"""Magnitudes that are smooth at zero: the step is the momentum over `e`, clipped to $[-1, 1]$.

    It minimises $f(x) + \tfrac{e\lambda}2\lVert x\rVert_2^2$ in the box $|x_i| \le 1/\lambda$.

    Args:
        e: Where the magnitude becomes linear, in units of the momentum and hence of the gradient.

    Raises:
        ValueError: Where `e` is not positive and finite.

    Examples:
        >>> HuberL1(0.5).subgradient(torch.tensor([-2.0, 0.25]))
        tensor([-1.0000,  0.5000])
    """

    e: float

    def __post_init__(self) -> None:
        check_range("e", self.e, 0, open_low=True)

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of $m^2/2e$ up to `e` and $|m| - e/2$ above."""
        inside = m.abs().clamp(max=self.e)
        return (inside.square() / (2 * self.e) + (m.abs() - inside)).sum()

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the clipped quotient."""
        return (m / self.e).clamp_(-1, 1)

    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Overwrite tensors with their clipped quotients and return them."""
        torch._foreach_div_(tensors, self.e)
        torch._foreach_clamp_min_(tensors, -1)
        torch._foreach_clamp_max_(tensors, 1)
        return tensors

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return half of `e` times the squared length in the box, else infinity."""
        return _in_unit_ball(largest(x), self.e / 2 * x.square().sum())


@dataclass(frozen=True)
class Quadratic:
    r"""Half of the squared length: the heavy-ball method, with no constraint.

    It minimises $f(x) + \tfrac\lambda2\lVert x\rVert_2^2$.

    Examples:
        >>> Quadratic().subgradient(torch.tensor([-2.0, 0.5]))
        tensor([-2.0000,  0.5000])
    """

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return half of the squared length."""
        return m.square().sum() / 2

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the tensor itself."""
        return m

    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the tensors themselves."""
        return tensors

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return half of the squared length: the function is its own conjugate."""
        return x.square().sum() / 2

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:  # noqa: ARG002 - the protocol's signature
        """Return the tensor: there is no constraint."""
        return x.clone()


@dataclass(frozen=True)
class Nuclear:
    r"""The sum of a matrix's singular values: its polar factor is the step, in the ball of the spectral norm.

    The last two axes are the matrix, those before them a batch. Lion-K with it is Muon with weight decay.

    Args:
        method: How the step is computed, see `orthogonalize`. "svd" is exact and "polar_express" converges to
            it. The default costs the least, but leaves singular values between 0.7 and 1.2, so that those
            of $\lambda x$ end near 1 no better than that.
        steps: Steps of the iteration, for methods that have one.
        flatten: Whether a tensor of shape $(m, \ldots)$ is one matrix of $m$ rows, as the weight of a
            convolution is. None takes two axes for a matrix, three for a batch and refuses more.

    Raises:
        ValueError: Where `method` is unknown or `steps` is not a positive integer.

    Examples:
        >>> Nuclear("svd").subgradient(torch.tensor([[3.0, 0.0], [0.0, 0.1]])).round(decimals=3).abs()
        tensor([[1., 0.],
                [0., 1.]])
        >>> Nuclear().value(torch.eye(3))
        tensor(3.)
    """

    method: Method = "newton_schulz"
    steps: int = 5
    flatten: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"`method` (={self.method!r}) must be one of {', '.join(get_args(Method))}")
        check_steps(self.steps)

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError where a parameter of this shape is not a matrix, or could be several ways."""
        if len(shape) < 2:
            raise ValueError(f"{self} takes matrices, and a parameter has shape {tuple(shape)}")
        if len(shape) > 3 and self.flatten is None:
            raise ValueError(
                f"{self} cannot tell which axes of a parameter of shape {tuple(shape)} are the matrix: pass "
                f"flatten=True or flatten=False"
            )

    def value(self, m: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of singular values."""
        return _singular_values(self._matrices(m)).sum()

    def subgradient(self, m: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the polar factors of the matrices."""
        return orthogonalize(self._matrices(m), method=self.method, steps=self.steps).reshape(m.shape)

    def subgradients(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the polar factors, those of tensors of one shape as one batch."""
        by_shape: dict[torch.Size, list[int]] = {}
        for index, tensor in enumerate(tensors):
            by_shape.setdefault(tensor.shape, []).append(index)
        found = list(tensors)
        for shape, indices in by_shape.items():
            batch = torch.stack([self._matrices(tensors[index]) for index in indices])
            factors = orthogonalize(batch, method=self.method, steps=self.steps)
            for index, factor in zip(indices, factors.unbind(), strict=True):
                found[index] = factor.reshape(shape)
        return found

    def conjugate(self, x: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return 0 where no singular value exceeds 1, else infinity."""
        return _in_unit_ball(largest(_singular_values(self._matrices(x))))

    def project(self, x: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """Return the matrices with their singular values clipped at the radius."""
        left, values, right = torch.linalg.svd(self._matrices(x), full_matrices=False)
        projected: Tensor = (left * values.clamp(max=radius).unsqueeze(-2)) @ right
        return projected.reshape(x.shape)

    def _matrices(self, x: Float[Tensor, "..."]) -> Float[Tensor, "*batch m n"]:
        return x.flatten(1) if self.flatten else x


def _scale_down_(x: Float[Tensor, "..."], size: Float[Tensor, "..."]) -> None:
    """Divide by sizes in place, but for those that are zero."""
    x.div_(torch.where(size > 0, size, 1))


def _singular_values(x: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch k"]:
    values: Tensor = torch.linalg.svdvals(x)
    return values


def _in_unit_ball(
    dual_norm: Float[Tensor, ""], penalty: float | Float[Tensor, ""] = 0.0
) -> Float[Tensor, ""]:
    """Return the penalty where a dual norm is at most 1 up to rounding, else infinity."""
    bound = 1 + SLACK * torch.finfo(dual_norm.dtype).eps
    return torch.where(dual_norm <= bound, torch.as_tensor(penalty).to(dual_norm), math.inf)
