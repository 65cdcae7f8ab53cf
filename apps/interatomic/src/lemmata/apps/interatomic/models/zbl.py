r"""The universal screened repulsion of nuclei, which keeps atoms apart where no data is.

$$V(r) = \frac{k\, Z_i Z_j}{r}\, \phi(r / a), \qquad
\phi(x) = \sum_{n=1}^4 c_n e^{-d_n x}, \qquad a = \frac{0.8854\, a_0}{Z_i^{0.23} + Z_j^{0.23}},$$

with Coulomb's constant $k = 14.3996$ eV A. It is switched off smoothly at a fraction of the sum of the
covalent radii, which no bond of an ordinary structure reaches.

References:
    J. F. Ziegler, J. P. Biersack and U. Littmark, "The Stopping and Range of Ions in Matter" (1985).
"""

from collections.abc import Sequence

import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from jaxtyping import Float, Int
from torch import Tensor

from lemmata.equivariant.constants import ConstantModule

__all__ = ["ZieglerBiersackLittmark"]

# Amplitudes and rates of the universal screening function.
AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
RATES = (3.19980, 0.94229, 0.40290, 0.20162)
# The pair potential vanishes beyond this fraction of the sum of the covalent radii. Vibrations at 1000 K
# reach about 0.75 of it.
REACH = 0.7


class ZieglerBiersackLittmark(ConstantModule):
    """Screened nuclear repulsion between neighbours.

    Equals the universal potential of Ziegler, Biersack and Littmark times a polynomial that falls from 1 to 0
    at a fraction of the sum of the covalent radii, with two continuous derivatives there.

    Args:
        elements: Atomic numbers, in the order of the species.
        reach: Where the repulsion ends, as a fraction of the sum of two covalent radii.
        dtype: Of the constants; torch's default where None.
        device: Of the constants.

    Raises:
        ValueError: Where `reach` is not positive.

    Examples:
        >>> carbon = ZieglerBiersackLittmark([6])
        >>> carbon(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.4]))
        tensor([0.])
    """

    charges: Tensor
    lengths: Tensor
    reaches: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        *,
        reach: float = REACH,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not reach > 0:
            raise ValueError(f"`reach` (={reach}) must be positive")
        z = torch.tensor(list(elements), dtype=torch.float64)
        radii = torch.tensor([float(covalent_radii[number]) for number in elements], dtype=torch.float64)
        powers = z**0.23
        constants = {
            # Half of each pair's energy goes to either atom.
            "charges": Hartree * Bohr * z[:, None] * z / 2,
            "lengths": 0.8854 * Bohr / (powers[:, None] + powers),
            "reaches": reach * (radii[:, None] + radii),
        }
        for name, value in constants.items():
            self.register_constant(name, value, dtype=dtype, device=device)

    def forward(
        self,
        source: Int[Tensor, " edges"],
        target: Int[Tensor, " edges"],
        distances: Float[Tensor, " edges"],
    ) -> Float[Tensor, " edges"]:
        """Return half the energy of each pair, eV; an edge for either direction makes it whole.

        Args:
            source: Species of one atom of each edge.
            target: Species of the other.
            distances: Between them, A.
        """
        near = distances / self.reaches[source, target]
        x = distances / self.lengths[source, target]
        screening = sum(c * torch.exp(-d * x) for c, d in zip(AMPLITUDES, RATES, strict=True))
        # Beyond reach u = 1: the polynomial and its first two derivatives are zero there.
        u = near.clamp(max=1)
        switch = (1 - u) ** 3 * (1 + 3 * u + 6 * u * u)
        return self.charges[source, target] / distances * screening * switch
