r"""Gates: the usual nonlinearity of features that are no scalars.

Scalars pass through functions; every other copy of an irrep is multiplied by a scalar of its own, the gate,
that has passed through a function.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.equivariant.nn.activation import ScalarActivation, ScalarFunction
from lemmata.equivariant.o3.irreps import Irrep, Irreps

__all__ = ["Gate"]


class Gate(nn.Module):
    r"""Return $\left(\bigoplus_i f_i(s_i)\right) \oplus \left(\bigoplus_j h_j(g_j)\, x_j\right)$.

    Equals `e3nn.nn.Gate` in layout, and in values but for the constants of the functions (see
    `NormalizedActivation`).

    Args:
        irreps_scalars: Irreps of the scalars $s$.
        act_scalars: One function for all of them, or one (or None) for each entry.
        irreps_gates: Irreps of the gates $g$, scalars, as many as there are gated irreps. Odd gates change
            the parity of what they gate.
        act_gates: One function for all gates, or one (or None) for each entry.
        irreps_gated: Irreps of the gated features $x$.

    Attributes:
        irreps_in: Irreps of the input: scalars, gates and gated features, sorted by irrep and merged.
        irreps_out: Irreps of the output: scalars, then gated features.

    Raises:
        ValueError: Where scalars or gates are none, the number of gates is not that of gated irreps, or a
            function has the wrong parity.

    Examples:
        >>> gate = Gate("8x0e", torch.nn.functional.silu, "4x0e", torch.sigmoid, "3x1o + 1x2e")
        >>> gate.irreps_in, gate.irreps_out
        (12x0e+3x1o+1x2e, 8x0e+3x1o+1x2e)
    """

    def __init__(
        self,
        irreps_scalars: Irreps | str,
        act_scalars: ScalarFunction | Sequence[ScalarFunction | None],
        irreps_gates: Irreps | str,
        act_gates: ScalarFunction | Sequence[ScalarFunction | None],
        irreps_gated: Irreps | str,
    ) -> None:
        super().__init__()
        scalars, gates, gated = (Irreps(part) for part in (irreps_scalars, irreps_gates, irreps_gated))
        for name, part in (("irreps_scalars", scalars), ("irreps_gates", gates)):
            if any(ir.l for _, ir in part):
                raise ValueError(f"`{name}` (={part}) must be scalars")
        if gates.num_irreps != gated.num_irreps:
            raise ValueError(
                f"`irreps_gates` (={gates}) must be as many as `irreps_gated` (={gated}): "
                f"{gates.num_irreps} and {gated.num_irreps}"
            )
        self.act_scalars = ScalarActivation(scalars, act_scalars)
        self.act_gates = ScalarActivation(gates, act_gates)
        self.irreps_scalars, self.irreps_gates, self.irreps_gated = scalars, gates, gated
        joined = scalars + gates + gated
        order = joined.sort()
        self.irreps_in = order.irreps.simplify()
        # Where entry i of the joined irreps lies in the sorted input.
        places = order.irreps.slices()
        self._places = [places[order.p[i]] for i in range(len(joined))]
        self._pieces = _pieces(self.act_gates.irreps_out, gated)
        self.irreps_out = self.act_scalars.irreps_out + Irreps([(mul, ir) for mul, ir, _ in self._pieces])

    def forward(self, x: Float[Tensor, "*batch dim_in"]) -> Float[Tensor, "*batch dim_out"]:
        """Return scalars and gated features.

        Args:
            x: Features with irreps `irreps_in`.

        Raises:
            ValueError: Where the last dimension is not that of `irreps_in`.
        """
        self.irreps_in.check(x, "x")
        first, second = len(self.irreps_scalars), len(self.irreps_scalars) + len(self.irreps_gates)
        scalars = self.act_scalars(_gather(x, self._places[:first]))
        gates = self.act_gates(_gather(x, self._places[first:second]))
        gated = _gather(x, self._places[second:])
        batch, blocks, gate_end, end = x.shape[:-1], [scalars], 0, 0
        for mul, ir, _ in self._pieces:
            copies = gated[..., end : end + mul * ir.dim].reshape(*batch, mul, ir.dim)
            factor = gates[..., gate_end : gate_end + mul].unsqueeze(-1)
            blocks.append((copies * factor).reshape(*batch, mul * ir.dim))
            gate_end, end = gate_end + mul, end + mul * ir.dim
        return torch.cat(blocks, dim=-1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{self.irreps_in} -> {self.irreps_out}"


def _pieces(gates: Irreps, gated: Irreps) -> list[tuple[int, Irrep, Irrep]]:
    """Return multiplicity, product and gated irrep of runs in which neither gate nor gated irrep changes."""
    pieces: list[tuple[int, Irrep, Irrep]] = []
    for gate, ir in zip(_copies(gates), _copies(gated), strict=True):
        product = Irrep(ir.l, ir.p * gate.p)
        if pieces and pieces[-1][1:] == (product, ir):
            pieces[-1] = (pieces[-1][0] + 1, product, ir)
        else:
            pieces.append((1, product, ir))
    return pieces


def _copies(irreps: Irreps) -> list[Irrep]:
    """Return the irrep of every copy."""
    return [ir for mul, ir in irreps for _ in range(mul)]


def _gather(x: Tensor, places: list[slice]) -> Tensor:
    """Return the entries at places, joined; a view where there is one."""
    if not places:
        return x[..., :0]
    return x[..., places[0]] if len(places) == 1 else torch.cat([x[..., place] for place in places], dim=-1)
