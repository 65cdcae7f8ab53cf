r"""Linear maps between features that commute with rotations and reflections.

By Schur's lemma such a map mixes the copies of one irrep among themselves and nothing else, so it is a matrix
of channels for each irrep. Weights start as standard normal numbers and each output is divided by the square
root of the number of channels that reach it, so that features keep unit variance.

Axis letters used below: `C` channels, `M` components `(lmax + 1)**2`.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.o3.irreps import Irrep, Irreps

__all__ = ["ChannelLinear", "EquivariantLinear"]


class EquivariantLinear(nn.Module):
    r"""The most general equivariant linear map between flat features. Equals `e3nn.o3.Linear`.

    $$y^{(j)}_{w m} = \frac 1 {\sqrt{\sum_i u_i}} \sum_i \sum_u W^{(ij)}_{u w}\, x^{(i)}_{u m} + b^{(j)}_w,$$

    where $i$ runs over the entries of `irreps_in` with the irrep of output entry $j$, $u_i$ is their
    multiplicity, and the bias exists for `0e` only.

    Args:
        irreps_in: Irreps of the input, in any order; an irrep may appear in several entries.
        irreps_out: Irreps of the output. Entries that no input reaches are zero.
        bias: Add a bias, zero at first, to the outputs `0e`.
        generator: Source of the random weights.
        dtype: Of the weights; torch's default where None.
        device: Of the weights.

    Attributes:
        weight: All $W^{(ij)}$ one after the other, row-major, `i` slower than `j`: the order of e3nn.
        bias: All $b^{(j)}$, or None.

    Examples:
        >>> linear = EquivariantLinear("8x0e + 4x1o", "3x0e + 2x1o + 1x2e")
        >>> linear(torch.randn(5, 20)).shape, linear.weight.numel()  # 8 * 3 + 4 * 2
        (torch.Size([5, 14]), 32)

    References:
        M. Geiger, T. Smidt, e3nn: Euclidean Neural Networks, 2022, arXiv:2207.09453.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        irreps_in: Irreps | str,
        irreps_out: Irreps | str,
        *,
        bias: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        # Where the matrix from entry i to entry j lies in the flat weight.
        self._places: dict[tuple[int, int], slice] = {}
        end = 0
        for i, (mul_in, ir_in) in enumerate(self.irreps_in):
            for j, (mul_out, ir_out) in enumerate(self.irreps_out):
                if ir_in == ir_out:
                    self._places[i, j] = slice(end, end + mul_in * mul_out)
                    end += mul_in * mul_out
        self.weight = nn.Parameter(torch.randn(end, generator=generator, dtype=dtype, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.irreps_out.count("0e"), dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return the mixed features.

        Args:
            x: Features with irreps `irreps_in`.

        Raises:
            ValueError: Where the last dimension is not that of `irreps_in`.
        """
        self.irreps_in.check(x, "x")
        outputs: dict[int, Tensor] = {}
        for ir in dict.fromkeys(ir for _, ir in self.irreps_out):
            outputs.update(self._mix(ir, x))
        batch = x.shape[:-1]
        flat = [outputs[j].reshape(*batch, entry.dim) for j, entry in enumerate(self.irreps_out)]
        return torch.cat(flat, dim=-1) if flat else x.new_zeros((*batch, 0))

    def _mix(self, ir: Irrep, x: Tensor) -> dict[int, Tensor]:
        """Return the output entries with an irrep, each of shape `(..., mul, 2l + 1)`."""
        batch, slices = x.shape[:-1], self.irreps_in.slices()
        columns = {j: entry.mul for j, entry in enumerate(self.irreps_out) if entry.ir == ir}
        rows = {i: entry.mul for i, entry in enumerate(self.irreps_in) if entry.ir == ir and entry.mul}
        if rows:
            copies = _joined([x[..., slices[i]].reshape(*batch, mul, ir.dim) for i, mul in rows.items()], -2)
            matrix = _joined([_joined([self._matrix(i, j) for j in columns], 1) for i in rows], 0)
            # Components in front of copies: one product of two matrices, whatever the batch.
            mixed = (copies.mT @ (matrix / math.sqrt(sum(rows.values())))).mT
        else:
            mixed = x.new_zeros((*batch, sum(columns.values()), ir.dim))
        if self.bias is not None and ir.is_scalar():
            mixed = mixed + self.bias.unsqueeze(-1)
        return dict(zip(columns, torch.split(mixed, list(columns.values()), dim=-2), strict=True))

    def _matrix(self, i: int, j: int) -> Tensor:
        """Return the weights from input entry `i` to output entry `j`, shape `(mul_in, mul_out)`."""
        return self.weight[self._places[i, j]].reshape(self.irreps_in[i].mul, self.irreps_out[j].mul)

    @torch.no_grad()
    def load_e3nn_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy the weights of an `e3nn.o3.Linear` between the same irreps.

        Args:
            state: Its state dict.

        Raises:
            ValueError: Where the numbers of weights or biases differ.
        """
        own = {"weight": self.weight, "bias": self.bias}
        for name, parameter in own.items():
            found = state[name].numel() if name in state else 0
            expected = 0 if parameter is None else parameter.numel()
            if found != expected:
                raise ValueError(f"`state[{name!r}]` has {found} entries, expected {expected}")
        for name, parameter in own.items():
            if parameter is not None:
                parameter.copy_(state[name])

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.irreps_in} -> {self.irreps_out}, bias={self.bias is not None}"


class ChannelLinear(nn.Module):
    r"""Mix the channels of dense features, with a matrix for each degree.

    $$y_{w, lm} = \frac 1 {\sqrt{C_{in}}} \sum_u W^{(l)}_{w u}\, x_{u, lm} + [l = 0]\, b_w.$$

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        lmax: The largest degree.
        bias: Add a bias, zero at first, to degree 0. Equivariant under reflections only where degree 0 is
            even: features of natural parity.
        generator: Source of the random weights.
        dtype: Of the weights; torch's default where None.
        device: Of the weights.

    Raises:
        ValueError: Where a number of channels is not positive or `lmax` is negative.

    Examples:
        >>> ChannelLinear(8, 4, lmax=2)(torch.randn(5, 8, 9)).shape
        torch.Size([5, 4, 9])
    """

    bias: nn.Parameter | None
    degrees: Tensor

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        lmax: int,
        *,
        bias: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(channels_in, channels_out) < 1:
            raise ValueError(
                f"`channels_in` (={channels_in}) and `channels_out` (={channels_out}) must be at least 1"
            )
        if lmax < 0:
            raise ValueError(f"`lmax` (={lmax}) must be at least 0")
        self.channels_in, self.channels_out, self.lmax = channels_in, channels_out, lmax
        shape = (lmax + 1, channels_out, channels_in)
        self.weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype, device=device))
        if bias:
            self.bias = nn.Parameter(torch.zeros(channels_out, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)
        degrees = torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)], device=device)
        self.register_buffer("degrees", degrees, persistent=False)

    def forward(self, x: Float[Tensor, "*batch c_in dim"]) -> Float[Tensor, "*batch c_out dim"]:
        """Return the mixed features.

        Args:
            x: Dense features, `(lmax + 1)**2` components on the last axis, channels on the one before.
        """
        # One batched product over components: faster than a product for each degree.
        weight_MCC = self.weight[self.degrees] / math.sqrt(self.channels_in)
        y = torch.einsum("moc,...cm->...om", weight_MCC, x)
        if self.bias is not None:
            y = y + nn.functional.pad(self.bias.unsqueeze(-1), (0, y.shape[-1] - 1))
        return y

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.channels_in} -> {self.channels_out}, lmax={self.lmax}, bias={self.bias is not None}"


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    """Concatenate, without a copy of a single tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=dim)
