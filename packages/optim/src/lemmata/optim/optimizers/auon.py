r"""AuON: a matrix optimiser whose every update has spectral norm at most one, at the cost of two reductions.

The momentum of a matrix is divided by its Frobenius norm and by the root mean square of the hyperbolic
cosine of its entries. Use it where the matrix products of Muon cost too much, and read `AuON` for what it
is mathematically: at any realistic size, momentum divided by its Frobenius norm.

References:
    D. Maity, AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates, 2025, arXiv:2509.24320.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from lemmata.optim.optimizers.base import check_range
from lemmata.optim.optimizers.matrix import MatrixOptimizer, Scale
from lemmata.optim.optimizers.orthogonalize import (
    STANDARD,
    Coefficients,
    check_coefficients,
    orthogonalize,
)

__all__ = ["AuON", "HybridAuON", "auon_direction", "cosh_rms_scale"]

CACHED_ELEMENTS = 128 * 1024
"""Number of elements whose hyperbolic cosines a CPU takes together: they stay in its cache."""

MOST_TERMS = 12
"""Number of terms from which on a series costs more than exponentials."""


class AuON(MatrixOptimizer):
    r"""Step along the momentum of a matrix, divided by its Frobenius norm and a hyperbolic-cosine average.

    $$M \leftarrow \mu M + (1 - \mu) G, \qquad U = (1 - \mu) G + \mu M, \qquad
    W \leftarrow (1 - \eta \lambda) W - \eta\, s\, \frac{U}{\|U\|_F\, R}, \qquad
    R^2 = \frac{1}{N} \sum_{ij} \cosh^2 \frac{\gamma\, U_{ij}}{\|U\|_F},$$

    with $N = mn$ and $s = \sqrt{\max(1, m/n)}$. The update before $s$ has a spectral norm of at most one, and
    there are no matrix products: the cost is linear in the number of weights, the state one buffer.

    **What it is.** As $\cosh^2 = 1 + \sinh^2$ and $U / \|U\|_F$ has norm one,

    $$1 + \gamma^2 / N \le R^2 \le 1 + \sinh^2(\gamma) / N .$$

    $R - 1$ is below $4.3 \cdot 10^{-5}$ for a matrix of 128 x 128 with $\gamma = 1$: there, and for anything
    larger, this is momentum normalised by its Frobenius norm. What the paper calls an emergency brake acts on
    matrices of a few entries only. `gamma=0` is normalised momentum exactly, and cheaper; compare with it
    before crediting the cosine. With `normalize=False`, the form of the authors' released code (there
    `gamma=1.5` and `scale="none"`), $U$ isn't divided by its norm, and the method is SGD with Nesterov
    momentum. Nor does a bound on the spectral norm make an update orthogonal: singular values keep their
    proportions.

    Parameters that are no matrices go to AdamW; see `MatrixOptimizer` for groups and for the arguments not
    listed here.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate of matrices: the Frobenius norm of a square one's step.
        gamma: How sharply large entries count, at least 0.
        normalize: Divide by the Frobenius norm.

    Raises:
        ValueError: Where an option is out of range or a parameter of a matrix group is no matrix.
        TypeError: Where a parameter is one that FSDP1 flattened.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(3, 4))
        >>> optimizer = AuON([weight], lr=0.5, gamma=0.0)
        >>> weight.grad = torch.ones(3, 4)
        >>> optimizer.step()
        >>> torch.linalg.matrix_norm(weight.detach())
        tensor(0.5000)

    References:
        D. Maity, AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates, 2025, arXiv:2509.24320.
    """

    algorithm = "auon"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.03,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        gamma: float = 1.0,
        normalize: bool = True,
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
        super().__init__(
            params,
            lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            scale=scale,
            betas=betas,
            eps=eps,
            adamw_lr=adamw_lr,
            adamw_weight_decay=adamw_weight_decay,
            foreach=foreach,
            process_group=process_group,
            maximize=maximize,
            error_if_nonfinite=error_if_nonfinite,
            gamma=gamma,
            normalize=normalize,
            **options,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_range("gamma", group["gamma"], 0)

    def _directions(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        return auon_direction(u, group["gamma"], normalize=group["normalize"])


class HybridAuON(AuON):
    r"""Take a few Newton-Schulz steps on the momentum, then divide it by the hyperbolic-cosine average.

    With $O$ the momentum after `steps` steps of the iteration of `orthogonalize`,

    $$W \leftarrow (1 - \eta \lambda) W - \eta\, s\, O / R(O),$$

    where $R \ge 1$ is what `cosh_rms_scale` returns. With `steps=5` this is `Muon`, to the four digits to
    which `AuON` is normalised momentum. One step, the default, multiplies small singular values by 3.4 and
    brings large ones together, at a fifth of Muon's products. By default $O$ is not divided by its norm: that
    would take away the step length that the iteration gave it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate of matrices.
        steps: Newton-Schulz steps, from 0, which is `AuON`, to 99.
        coefficients: Coefficients of the iteration.
        dtype: Data type to iterate in; None chooses, see `iteration_dtype`.
        gamma: As for `AuON`.
        normalize: Divide by the Frobenius norm after the iteration.
        options: Other options of `AuON`.

    Raises:
        ValueError: Where an option is out of range or a parameter of a matrix group is no matrix.
        TypeError: Where a parameter is one that FSDP1 flattened.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(30, 20))
        >>> optimizer = HybridAuON([weight], lr=1.0, steps=5)
        >>> weight.grad = torch.randn(30, 20)
        >>> optimizer.step()
        >>> torch.linalg.matrix_norm(weight.detach() / 1.5**0.5, ord=2) < 1.3
        tensor(True)

    References:
        D. Maity, AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates, 2025, arXiv:2509.24320.
    """

    algorithm = "hybrid_auon"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        *,
        steps: int = 1,
        coefficients: Coefficients = STANDARD,
        dtype: torch.dtype | None = None,
        gamma: float = 1.0,
        normalize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            gamma=gamma,
            normalize=normalize,
            steps=steps,
            coefficients=coefficients,
            dtype=dtype,
            **options,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_range("steps", group["steps"], 0, 100)
        check_coefficients(group["coefficients"])

    def _directions(self, group: dict[str, Any], u: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
        if group["steps"]:
            u = orthogonalize(
                u, steps=group["steps"], coefficients=group["coefficients"], dtype=group["dtype"]
            )
        return super()._directions(group, u)


def cosh_rms_scale(
    g: Float[Tensor, "*batch m n"], gamma: float = 1.0, eps: float = 1e-8
) -> Float[Tensor, "*batch"]:
    r"""Return the root mean square of a hyperbolic cosine of each matrix, divided by its Frobenius norm.

    $$R = \sqrt{\frac{1}{N} \sum_{ij} \cosh^2 \frac{\gamma\, g_{ij}}{\|g\|_F}}, \qquad
    1 + \frac{\gamma^2}{N} \le R^2 \le 1 + \frac{\sinh^2 \gamma}{N}, \qquad N = mn .$$

    The lower end holds where all entries have one magnitude and $N$ is large, the upper end where one entry
    is not zero. $R$ does not depend on the scale of `g`, and is 1 for a matrix of zeros.

    Args:
        g: Matrices of any scale.
        gamma: How sharply large entries count, at least 0; with 0 the result is exactly 1.
        eps: Norms below it are replaced by it.

    Returns:
        $R$ of each matrix, at least 1; in float32 where `g` has half precision.

    Raises:
        ValueError: Where `gamma` is negative.

    Examples:
        >>> one = torch.tensor([[3.0]])
        >>> cosh_rms_scale(one), torch.cosh(one / 3)
        (tensor(1.5431), tensor([[1.5431]]))
        >>> 1 + 1 / 128**2 < cosh_rms_scale(torch.randn(128, 128)).item() ** 2 < 1 + 1.4 / 128**2
        True
    """
    check_range("gamma", gamma, 0)
    g = g.to(_accumulated(g.dtype))
    return _cosh_rms(g, _norms(g, eps), gamma)


def auon_direction(
    u: Float[Tensor, "*batch m n"], gamma: float = 1.0, *, normalize: bool = True, eps: float = 1e-7
) -> Float[Tensor, "*batch m n"]:
    r"""Return the direction of an AuON update, $D = G / R$ with $G = U / \|U\|_F$.

    $\|D\|_2 \le \|D\|_F \le 1$, since $R \ge 1$, which `cosh_rms_scale` returns of $U$.

    Args:
        u: Matrices of momenta.
        gamma: How sharply large entries count; with 0 the result is $G$.
        normalize: Divide by the norm, as published; False gives $U / R$, of the size of the gradient.
        eps: Norms below it are replaced by it, so that a matrix of zeros gives zeros.

    Returns:
        The directions, in the dtype of `u`.

    Raises:
        ValueError: Where `gamma` is negative.

    Examples:
        >>> u = torch.randn(2, 30, 20)
        >>> torch.linalg.matrix_norm(auon_direction(u, gamma=0.0)).round(decimals=4)
        tensor([1., 1.])
        >>> float((auon_direction(u) - auon_direction(u, gamma=0.0)).abs().max()) < 1e-3
        True
    """
    check_range("gamma", gamma, 0)
    wide = u.to(_accumulated(u.dtype))
    norms = _norms(wide, eps)
    scale = _cosh_rms(wide, norms, gamma)[..., None, None] * (norms if normalize else 1.0)
    return (wide / scale).to(u.dtype)


def _norms(g: Float[Tensor, "*batch m n"], eps: float) -> Float[Tensor, "*batch 1 1"]:
    if torch.compiler.is_compiling():
        # Inductor of torch 2.15 fails (KeyError in outer loop fusion) to fuse norms of a batch and a step.
        matrices = list(g.reshape(-1, *g.shape[-2:]).unbind())
        norms = torch.stack(torch._foreach_norm(matrices)).reshape(*g.shape[:-2], 1, 1)
    else:
        norms = torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True)
    return norms.clamp(min=eps)


def _cosh_rms(
    g: Float[Tensor, "*batch m n"], norms: Float[Tensor, "*batch 1 1"], gamma: float
) -> Float[Tensor, "*batch"]:
    """Return the scale of matrices whose norms are known."""
    if gamma == 0:
        return torch.ones_like(norms[..., 0, 0])
    # cosh^2 = 1 + sinh^2: the mean of what lies above one keeps its digits where N is large.
    *batch, m, n = g.shape
    terms = _terms(gamma, m * n, torch.finfo(g.dtype).eps)
    excess = _sinh_squared(g.reshape(-1, m, n), (gamma / norms).reshape(-1, 1, 1), terms)
    return (excess.reshape(batch) / (m * n) + 1).sqrt()


def _terms(gamma: float, count: int, eps: float) -> int:
    r"""Return how many terms of the series of $\sinh^2$ give the scale to rounding; 0 where too many would.

    The arguments $x$ have $\sum x^2 = \gamma^2$, so that what is left out is at most that of $\gamma$ alone.
    """
    rest = math.sinh(min(gamma, 100.0)) ** 2
    for term in range(1, MOST_TERMS + 1):
        rest -= _coefficient(term) * gamma ** (2 * term)
        if rest <= 2 * count * eps / 4:
            return term
    return 0


def _coefficient(term: int) -> float:
    """Return what multiplies `x**(2 * term)` in the series of `sinh(x)**2`."""
    return 2.0 ** (2 * term - 1) / math.factorial(2 * term)


def _sinh_squared(
    g: Float[Tensor, "batch m n"], factors: Float[Tensor, "batch 1 1"], terms: int
) -> Float[Tensor, " batch"]:
    """Return the sum of `sinh(factor * g)**2` over each matrix, on a CPU of so many entries at a time."""
    if g.device.type == "cpu" and g.numel() > CACHED_ELEMENTS and not torch.compiler.is_compiling():
        if len(g) > 1:
            count = max(1, CACHED_ELEMENTS // g[0].numel())
            pairs = zip(torch.split(g, count), torch.split(factors, count), strict=True)
            return torch.cat([_sinh_squared(part, factor, terms) for part, factor in pairs])
        dim = -2 if g.stride(-2) >= g.stride(-1) else -1
        if g.shape[dim] > 1:
            size = max(1, CACHED_ELEMENTS * g.shape[dim] // g.numel())
            parts = [_sinh_squared(part, factors, terms) for part in torch.split(g, size, dim=dim)]
            return torch.stack(parts).sum(dim=0)
    if not terms:
        # Without the cancellation of an exponential and its inverse, and in a tenth of the time of sinh.
        doubled = g * (2 * factors)
        return (doubled.expm1() * doubled.neg_().expm1_()).sum(dim=(-2, -1)) / -4
    x = power = g * factors
    total = torch.zeros_like(factors[:, 0, 0])
    for term in range(1, terms + 1):
        power = power if term == 1 else power * x
        norm = torch.linalg.vector_norm(power, dim=(-2, -1))
        total = torch.addcmul(total, norm, norm, value=_coefficient(term))
    return total


def _accumulated(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to sum in: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)
