r"""A potential of tensor products and many-body powers: few layers, each of high body order.

Features of atoms are channels of dense irreps. A layer sums products of the neighbours' features with
spherical harmonics of the edges, along every path of degrees with a weight that depends on the distance,

$$A_{i, lm} = \frac 1 n \sum_j \sum_p R_p(r_{ij}) \big[ h_j \otimes Y(\hat r_{ij}) \big]^p_{lm},$$

raises $A$ to powers up to $\nu$ as functions on the sphere, which couples up to $\nu + 1$ atoms, and weights
the powers by the atom's element; a linear map of the element leads the features past the products. Energies
are read from the scalars of each layer and summed. Edges fade smoothly at the cutoff, so that forces are
continuous. The sum over neighbours is divided by their mean number $n$ in the data: features then start of
order one, which powers of order three need.

References:
    I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, MACE: Higher Order Equivariant Message
    Passing Neural Networks for Fast and Accurate Force Fields, 2022, arXiv:2206.07697.

    S. Luo, T. Chen, A. S. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis via
    Gaunt Tensor Products, 2024, arXiv:2401.10216.

Axis letters used below: `N` atoms, `E` edges, `C` channels, `M` components `(lmax + 1)**2`, `S` species.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lemmata.apps.interatomic.models.potential import Graph, Potential
from lemmata.equivariant.nn import BesselBasis, ChannelLinear, EquivariantLinear, PolynomialCutoff
from lemmata.equivariant.nn.activation import NormalizedActivation
from lemmata.equivariant.o3 import Irreps, from_dense, spherical_harmonics, to_dense
from lemmata.equivariant.tensor_product.front import TensorProduct
from lemmata.equivariant.tensor_product.power import GauntPower

__all__ = ["TensorProductPotential"]


class TensorProductPotential(Potential):
    """Message passing by tensor products, with many-body powers in each layer.

    Args:
        elements: Atomic numbers.
        cutoff: Radius of neighbourhoods, A; what an atom's energy depends on reaches `layers` times as far.
        channels: Copies of each irrep.
        layers: Rounds of messages.
        lmax_edge: Largest degree of the spherical harmonics and of the sums over neighbours.
        lmax_hidden: Largest degree of the features that layers hand on.
        order: Largest power, so that a layer couples `order + 1` atoms.
        radial_functions: Number of Bessel functions.
        radial_width: Width of the perceptron that makes the weights of the edges.
        readout_width: Hidden width of the last readout.
        common: `reference_energies`, `scale`, `shift`, `average_neighbours` and `zbl`, as of `Potential`.

    Raises:
        ValueError: Where a number is out of range.
    """

    def __init__(
        self,
        elements: Sequence[int],
        cutoff: float = 5.0,
        *,
        channels: int = 32,
        layers: int = 2,
        lmax_edge: int = 3,
        lmax_hidden: int = 1,
        order: int = 3,
        radial_functions: int = 8,
        radial_width: int = 64,
        readout_width: int = 16,
        **common: Any,
    ) -> None:
        options = {
            "channels": channels,
            "layers": layers,
            "lmax_edge": lmax_edge,
            "lmax_hidden": lmax_hidden,
            "order": order,
            "radial_functions": radial_functions,
            "radial_width": radial_width,
            "readout_width": readout_width,
        }
        super().__init__("tensor-product", elements, cutoff, options=options, **common)
        for name, value in options.items():
            if value < (0 if name.startswith("lmax") else 1):
                raise ValueError(f"`{name}` (={value}) is too small")
        if lmax_hidden > order * lmax_edge:
            raise ValueError(
                f"`lmax_hidden` (={lmax_hidden}) must be at most `order` * `lmax_edge` (={order * lmax_edge})"
            )
        self.lmax_edge = lmax_edge
        self.basis = BesselBasis(radial_functions, cutoff)
        self.envelope = PolynomialCutoff(cutoff, p=5)
        self.embedding = nn.Embedding(len(self.elements), channels)
        # The last layer's features are read, not handed on: scalars are all that is needed.
        degrees = [0, *[lmax_hidden] * (layers - 1), 0]
        self.layers = nn.ModuleList(
            Layer(
                len(self.elements),
                channels,
                lmax_in,
                lmax_edge,
                lmax_out,
                order,
                radial=(radial_functions, radial_width),
                average_neighbours=self.average_neighbours,
            )
            for lmax_in, lmax_out in itertools.pairwise(degrees)
        )
        linear = [perceptron(channels, 1) for _ in range(layers - 1)]
        self.readouts = nn.ModuleList([*linear, perceptron(channels, readout_width, 1)])

    def atomic_energies(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies in units of `scale`.

        Args:
            graph: The configurations.
        """
        degrees = range(self.lmax_edge + 1)
        harmonics = spherical_harmonics(degrees, graph.vectors, normalize=True, normalization="component")
        # Times r, Bessel functions are sines, of amplitude 1 at every distance; those of bonds would else be
        # large, and cubed in each layer.
        fade = math.sqrt(self.cutoff / 2) * graph.distances * self.envelope(graph.distances)
        radial = self.basis(graph.distances) * fade[:, None]
        edge_index = torch.stack([graph.source, graph.target])
        features = self.embedding(graph.species)[:, :, None]
        energies: Tensor = features.new_zeros(features.shape[0])
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, graph.species, edge_index, radial, harmonics)
            energies = energies + readout(features[:, :, 0])[:, 0]
        return energies


class Layer(nn.Module):
    """One round of messages, powers of their sums, and the way past them.

    Args:
        species: Number of elements.
        channels: Copies of each irrep.
        lmax_in: Largest degree of the features that come in.
        lmax_edge: Largest degree of the sums over neighbours.
        lmax_out: Largest degree of the features that go out.
        order: Largest power.
        radial: Number of radial functions, and width of the perceptron that mixes them.
        average_neighbours: Mean number of an atom's neighbours.
    """

    def __init__(
        self,
        species: int,
        channels: int,
        lmax_in: int,
        lmax_edge: int,
        lmax_out: int,
        order: int,
        *,
        radial: tuple[int, int],
        average_neighbours: float,
    ) -> None:
        super().__init__()
        self.channels, self.species = channels, species
        self.lmax_in, self.lmax_edge, self.lmax_out = lmax_in, lmax_edge, lmax_out
        self.damping = 1 / math.sqrt(average_neighbours)
        self.before = ChannelLinear(channels, channels, lmax_in)
        self.irreps_in, self.irreps = natural(channels, lmax_in), natural(channels, lmax_edge)
        # Every path has copies of its own in the sums, which are mixed once they are summed.
        self.product = TensorProduct(
            self.irreps_in,
            natural(1, lmax_edge),
            kind="channelwise",
            keep=[entry.ir for entry in natural(1, lmax_edge)],
            internal_weights=False,
            shared_weights=False,
        )
        self.weights = perceptron(*radial, self.product.weight_numel)
        self.mix = EquivariantLinear(self.product.irreps_out, self.irreps)
        self.power = GauntPower(lmax_edge, order, lmax_out)
        # As in a Taylor series: large sums, cubed in each layer, would start from absurd energies.
        taylor = torch.tensor([1 / math.factorial(power) for power in range(1, order + 1)])
        weights = torch.randn(species, *self.power.weight_shape(channels))
        self.power_weights = nn.Parameter(weights * taylor[:, None, None])
        self.after = ChannelLinear(channels, channels, lmax_out)
        self.past = ChannelLinear(channels, species * channels, min(lmax_in, lmax_out))

    def forward(
        self,
        features: Float[Tensor, "atoms channel dim_in"],
        species: Tensor,
        edge_index: Tensor,
        radial: Float[Tensor, "edges radial"],
        harmonics: Float[Tensor, "edges dim_edge"],
    ) -> Float[Tensor, "atoms channel dim_out"]:
        """Return the features after the layer.

        Args:
            features: Of the atoms, dense.
            species: Of the atoms.
            edge_index: Sources and targets.
            radial: Functions of the edges' lengths, which vanish at the cutoff.
            harmonics: Of the edges' directions.
        """
        # Damped before the sum over neighbours: features of the atoms are the smallest of its factors.
        sent = from_dense(self.irreps_in, self.before(features) * self.damping)
        weights = self.weights(radial)
        sums = self.product.messages(sent, harmonics, weights, edge_index, size=features.shape[0])
        powers = self.power(to_dense(self.irreps, self.mix(sums)), self.power_weights[species])
        after: Tensor = self.after(powers)
        return after + self._past(features, species)

    def _past(self, features: Tensor, species: Tensor) -> Tensor:
        """Return the features mapped linearly by a matrix of each atom's element."""
        kept = (min(self.lmax_in, self.lmax_out) + 1) ** 2
        every = self.past(features[:, :, :kept])
        own = torch.arange(species.shape[0], device=species.device) * self.species + species
        chosen = every.reshape(-1, self.channels, kept).index_select(0, own)
        return nn.functional.pad(chosen, (0, (self.lmax_out + 1) ** 2 - kept))


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear maps of scalars with normalised activations between them, and no biases.

    Without biases, weights of edges vanish at the cutoff as the radial functions do.

    Args:
        widths: Of the input, the hidden layers and the output.
    """
    modules: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        modules += [NormalizedActivation(nn.functional.silu)] if modules else []
        linear = nn.Linear(before, after, bias=False)
        nn.init.normal_(linear.weight, std=before**-0.5)
        modules.append(linear)
    return nn.Sequential(*modules)


def natural(channels: int, lmax: int) -> Irreps:
    """Return irreps with copies of each degree, of the parity that functions of a vector have.

    Args:
        channels: Copies of each.
        lmax: The largest degree.

    Examples:
        >>> natural(8, 2)
        8x0e+8x1o+8x2e
    """
    return Irreps([(channels, (l, (-1) ** l)) for l in range(lmax + 1)])
