r"""Nonlinear functions of scalars and of lengths.

A function of a scalar commutes with rotations. Under reflections an odd scalar `0o` changes sign, so only odd
functions keep it odd and even functions make it even; others are refused. Functions are rescaled so that
$E[f(z)^2] = 1$ for standard normal $z$, by quadrature, so that features keep unit variance.
"""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.o3.irreps import Irrep, Irreps, MulIrrep

__all__ = ["NormActivation", "NormalizedActivation", "ScalarActivation"]

ScalarFunction = Callable[[Tensor], Tensor]


class NormalizedActivation(nn.Module):
    r"""A function of numbers divided by $\sqrt{E[f(z)^2]}$, $z$ standard normal.

    The expectation is a sum over Gauss-Legendre nodes on panels between half integers, hence exact to
    rounding for smooth functions and for those with kinks at multiples of a half. `e3nn.nn.Activation`
    divides by an average over a sample of a million, which differs by about 0.1 %.

    Args:
        function: Acts elementwise.

    Attributes:
        constant: What the function is multiplied with.
        parity: 1 for an even function, -1 for an odd one, 0 for others.

    Raises:
        ValueError: Where the expectation is zero or not finite.

    Examples:
        >>> round(NormalizedActivation(torch.relu).constant ** 2, 12)
        2.0
        >>> NormalizedActivation(torch.tanh).parity
        -1
    """

    def __init__(self, function: ScalarFunction) -> None:
        super().__init__()
        self.function = function
        nodes, weights = _normal_quadrature()
        in_double = (
            copy.deepcopy(function).to("cpu").double() if isinstance(function, nn.Module) else function
        )
        with torch.no_grad():
            values = in_double(nodes)
        moment = (values * values * weights).sum().item()
        if not 0 < moment < math.inf:
            raise ValueError(f"`function` (={function!r}) has E[f(z)^2] = {moment}, which must be positive")
        self.constant = 1.0 if abs(moment - 1) < 1e-14 else moment**-0.5
        self.parity = _function_parity(values)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the rescaled function.

        Args:
            x: Numbers.
        """
        return self.function(x) * self.constant

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{name}, constant={self.constant:.6g}"


class ScalarActivation(nn.Module):
    """Apply a normalised function to each entry of scalars. Equals `e3nn.nn.Activation` but for constants.

    Args:
        irreps_in: Irreps of the input.
        functions: One function for all scalars, or one for each entry; None leaves an entry alone, as it must
            where the entry is no scalar.

    Raises:
        ValueError: Where there are not as many functions as entries, a function is given for an entry that is
            no scalar, or the function for an odd scalar is neither even nor odd.

    Examples:
        >>> ScalarActivation("8x0e + 2x0o + 4x1o", [torch.nn.functional.silu, torch.abs, None]).irreps_out
        8x0e+2x0e+4x1o
    """

    def __init__(
        self,
        irreps_in: Irreps | str,
        functions: ScalarFunction | Sequence[ScalarFunction | None],
    ) -> None:
        super().__init__()
        self.irreps_in = Irreps(irreps_in)
        if callable(functions):
            functions = [functions if entry.ir.l == 0 else None for entry in self.irreps_in]
        if len(functions) != len(self.irreps_in):
            raise ValueError(
                f"`functions` has {len(functions)} entries, expected {len(self.irreps_in)} "
                f"for `irreps_in` (={self.irreps_in})"
            )
        self.functions = nn.ModuleList(
            nn.Identity() if function is None else NormalizedActivation(function) for function in functions
        )
        self.irreps_out = Irreps(
            [_after(entry, module) for entry, module in zip(self.irreps_in, self.functions, strict=True)]
        )

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the features with functions applied.

        Args:
            x: Features with irreps `irreps_in`.

        Raises:
            ValueError: Where the last dimension is not that of `irreps_in`.
        """
        self.irreps_in.check(x, "x")
        if len(self.functions) == 0:
            return x
        blocks = [
            function(x[..., place])
            for place, function in zip(self.irreps_in.slices(), self.functions, strict=True)
        ]
        return torch.cat(blocks, dim=-1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.irreps_in} -> {self.irreps_out}"


class NormActivation(nn.Module):
    r"""Apply a function to the length of each copy of an irrep, and keep its direction.

    $$y = \frac{f(s + b)}{s}\, x, \qquad s = \sqrt{\lVert x \rVert^2 + \epsilon^2}.$$

    Equals `e3nn.nn.NormActivation` for lengths well above `eps`. The slope at length 0 is `f(eps) / eps`, so
    prefer functions with $f(0) = 0$.

    Args:
        irreps: Irreps of the input and output.
        function: Acts elementwise on lengths.
        bias: Learn a bias $b$, zero at first, for each copy.
        eps: Keeps the direction of zero vectors, and their gradients, finite.
        dtype: Of the bias; torch's default where None.
        device: Of the bias.

    Raises:
        ValueError: Where `eps` is not positive.

    Examples:
        >>> NormActivation("2x1o", torch.tanh)(torch.tensor([0.0, 3.0, 4.0, 0.0, 0.0, 0.0]))
        tensor([0.0000, 0.5999, 0.7999, 0.0000, 0.0000, 0.0000])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        irreps: Irreps | str,
        function: ScalarFunction,
        *,
        bias: bool = False,
        eps: float = 1e-6,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"`eps` (={eps}) must be positive")
        self.irreps = Irreps(irreps)
        self.function = function
        self.eps = eps
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.irreps.num_irreps, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the rescaled features.

        Args:
            x: Features with irreps `irreps`.

        Raises:
            ValueError: Where the last dimension is not that of `irreps`.
        """
        self.irreps.check(x, "x")
        if self.irreps.dim == 0:
            return x
        batch = x.shape[:-1]
        copies = [
            x[..., place].reshape(*batch, mul, ir.dim)
            for place, (mul, ir) in zip(self.irreps.slices(), self.irreps, strict=True)
        ]
        squares = torch.cat([(block * block).sum(-1) for block in copies], dim=-1)
        length = (squares + self.eps**2).sqrt()
        factor = self.function(length if self.bias is None else length + self.bias) / length
        factors = torch.split(factor, [entry.mul for entry in self.irreps], dim=-1)
        scaled = [
            (block * f.unsqueeze(-1)).reshape(*batch, entry.dim)
            for block, f, entry in zip(copies, factors, self.irreps, strict=True)
        ]
        return torch.cat(scaled, dim=-1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.irreps}, bias={self.bias is not None}"


def _after(entry: MulIrrep, module: nn.Module) -> MulIrrep:
    """Return what a function makes of an entry of irreps."""
    if not isinstance(module, NormalizedActivation):
        return entry
    mul, ir = entry
    if ir.l != 0:
        raise ValueError(f"a function of scalars was given for {entry}; pass None for it")
    if ir.p == 1:
        return entry
    if module.parity == 0:
        raise ValueError(
            f"the function of the odd scalars {entry} must be even or odd, {module.function!r} is neither"
        )
    return MulIrrep(mul, Irrep(0, module.parity))


def _function_parity(values: Tensor) -> int:
    """Return 1 for even, -1 for odd and 0 for other functions, from values at symmetric nodes."""
    mirrored, tolerance = values.flip(0), 1e-10 * values.abs().amax().item()
    if (values - mirrored).abs().amax().item() <= tolerance:
        return 1
    return -1 if (values + mirrored).abs().amax().item() <= tolerance else 0


def _normal_quadrature() -> tuple[Tensor, Tensor]:
    """Return nodes, symmetric about 0, and weights of the standard normal density."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(16))
    # Beyond 13 the density is below 1e-36.
    middles = torch.arange(-26, 26, dtype=torch.float64)[:, None] / 2 + 0.25
    points = (middles + nodes / 4).flatten()
    density = torch.exp(-0.5 * points * points) / math.sqrt(2 * math.pi)
    return points, (weights / 4).repeat(len(middles)) * density
