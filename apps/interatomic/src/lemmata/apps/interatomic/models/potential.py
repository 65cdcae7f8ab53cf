r"""What every interatomic potential shares: from edge vectors to energies, forces and stress.

A model sees species and the vectors between neighbours, nothing else, so translations leave it unchanged. The
energy of a configuration is

$$E = \sum_i \big( E_0[z_i] + s\, e_i + b \big) + E_{ZBL},$$

with the isolated atoms' energies $E_0$, the scale $s$ and shift $b$ of the data, and the model's atomic
energies $e_i$. One gradient, $g_{ij} = \partial E / \partial r_{ij}$ with $r_{ij} = x_j - x_i + S h$, gives
the forces, $F_k = \sum_{i} (g_{ki} - g_{ik})$, and under the symmetric strain $r \to (1 + \varepsilon) r$ the
virial, $\partial E / \partial \varepsilon = \sum_{ij} r_{ij} \otimes g_{ij}$, which is shared evenly between
the two atoms of an edge.

Total energies are some thousand electronvolt a molecule, of which float32 loses a millielectronvolt. Sums are
therefore taken in float64, and the isolated atoms' energies stay in float64 whatever the model's dtype.

Axis letters used below: `N` atoms, `E` edges, `B` configurations.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor, nn

from lemmata.apps.interatomic.models.zbl import ZieglerBiersackLittmark

__all__ = ["Graph", "Interaction", "Potential", "Prediction", "sum_by"]

# Atomic numbers are below this.
N_ELEMENTS = 119


@dataclass(frozen=True)
class Prediction:
    """What a potential predicts for a batch of configurations.

    Args:
        energy: Total energies, eV, float64, shape `(B,)`.
        forces: Forces, eV/A, shape `(N, 3)`; None where not asked for.
        stress: Stress of ASE's sign, eV/A^3, shape `(B, 3, 3)`, symmetric; zero where a configuration has no
            volume, None where not asked for.
        atomic_energy: Interaction energies of the atoms, without those of isolated atoms, eV, shape `(N,)`.
        atomic_virial: Each atom's share of dE/dstrain, eV, shape `(N, 3, 3)`; None without stress.
    """

    energy: Tensor
    forces: Tensor | None
    stress: Tensor | None
    atomic_energy: Tensor
    atomic_virial: Tensor | None = None


@dataclass(frozen=True)
class Graph:
    """A batch of configurations as a model sees it.

    Args:
        species: Place of each atom's element in the potential's `elements`, shape `(N,)`.
        source: Neighbour j of each edge, shape `(E,)`.
        target: Atom i of each edge, shape `(E,)`.
        vectors: From i to j, A, shape `(E, 3)`.
        distances: Their lengths, A, shape `(E,)`.
        batch: Configuration of each atom, shape `(N,)`.
        n_graphs: Number of configurations.
    """

    species: Tensor
    source: Tensor
    target: Tensor
    vectors: Tensor
    distances: Tensor
    batch: Tensor
    n_graphs: int


class Potential(nn.Module):
    """An interatomic potential; subclasses give the atoms' energies in units of `scale`.

    Args:
        name: Under which `build` knows the model.
        elements: Atomic numbers that the potential knows.
        cutoff: Radius of neighbourhoods, A.
        reference_energies: Energy of each element's isolated atom, eV; zeros where None.
        scale: Unit of the model's atomic energies, eV; of the size of the forces trained on.
        shift: Added to each atom's energy, eV.
        average_neighbours: Mean number of neighbours of an atom in the data, which sums over neighbours are
            divided by.
        zbl: Add the screened repulsion of nuclei at short distances.
        options: What else rebuilds the model; part of `config`.

    Attributes:
        elements: Atomic numbers, ascending.
        cutoff: Radius of neighbourhoods, A.
        config: Plain values from which `models.build` makes the same model.

    Raises:
        ValueError: Where a number is out of range.
    """

    _species: Tensor
    reference_energies: Tensor

    def __init__(
        self,
        name: str,
        elements: Sequence[int],
        cutoff: float,
        *,
        reference_energies: Sequence[float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
        average_neighbours: float = 12.0,
        zbl: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        energies = [0.0] * len(elements) if reference_energies is None else list(reference_energies)
        _check(elements, cutoff, energies, {"scale": scale, "average_neighbours": average_neighbours})
        order = sorted(range(len(elements)), key=lambda place: elements[place])
        self.elements = tuple(int(elements[place]) for place in order)
        self.cutoff = float(cutoff)
        self.scale = float(scale)
        self.shift = float(shift)
        self.average_neighbours = float(average_neighbours)
        self.config: dict[str, Any] = {
            "model": name,
            "elements": list(self.elements),
            "cutoff": self.cutoff,
            "reference_energies": [float(energies[place]) for place in order],
            "scale": self.scale,
            "shift": self.shift,
            "average_neighbours": self.average_neighbours,
            "zbl": bool(zbl),
            **dict(options or {}),
        }
        table = torch.full((N_ELEMENTS,), -1)
        table[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("_species", table, persistent=False)
        self._energies = torch.tensor(self.config["reference_energies"], dtype=torch.float64)
        self.register_buffer("reference_energies", self._energies.clone(), persistent=False)
        self.repulsion = ZieglerBiersackLittmark(self.elements) if zbl else None

    @abstractmethod
    def atomic_energies(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies in units of `scale`.

        Args:
            graph: The configurations; `vectors` and `distances` carry gradients.
        """

    def forward(
        self, data: Any, *, forces: bool = True, stress: bool = False, training: bool = False
    ) -> Prediction:
        """Predict energies, and on request forces and stress.

        Args:
            data: A `Data` or `Batch` of `graphs.to_data`.
            forces: Predict forces.
            stress: Predict stress, and the atoms' shares of the virial.
            training: Keep what the derivatives of the result need: a loss's by the parameters, and where the
                positions require gradients the forces' by the positions.

        Raises:
            ValueError: Where an element is none of the potential's.
        """
        differentiate = forces or stress
        with torch.inference_mode(mode=False), torch.set_grad_enabled(differentiate or training):
            graph = self.graph(data)
            if differentiate and not graph.vectors.requires_grad:
                graph = self.graph_of(replace(graph, vectors=graph.vectors.requires_grad_()))
            atomic = self.interaction(graph)
            slope = self._slope(atomic, graph, training) if differentiate else None
        if not training:
            atomic, graph = atomic.detach(), replace(graph, vectors=graph.vectors.detach())
        energy = sum_by(self.reference_energies[graph.species] + atomic.double(), graph.batch, graph.n_graphs)
        virial = stresses = None
        if slope is not None and stress:
            virial = _atomic_virial(graph, slope)
            stresses = _stress(sum_by(virial, graph.batch, graph.n_graphs), _normal(data.cell))
        return Prediction(
            energy,
            _forces(graph, slope) if slope is not None and forces else None,
            stresses,
            atomic,
            virial,
        )

    def graph(self, data: Any) -> Graph:
        """Return a batch as models see it, in the potential's dtype.

        Args:
            data: A `Data` or `Batch` of `graphs.to_data`.

        Raises:
            ValueError: Where an element is none of the potential's.
        """
        numbers, (source, target) = _normal(data.z), _normal(data.edge_index)
        species = self._species[numbers]
        if bool((species < 0).any()):
            unknown = _symbols(sorted(set(numbers[species < 0].tolist())))
            raise ValueError(
                f"the configuration holds {unknown}, which the potential was not trained on; it knows "
                f"{_symbols(self.elements)}"
            )
        dtype, cell = self.dtype, _normal(data.cell).reshape(-1, 3, 3)
        batch = getattr(data, "batch", None)
        batch = torch.zeros_like(numbers) if batch is None else _normal(batch)
        positions, shift = _normal(data.pos).to(dtype), _normal(data.shift).to(dtype)
        images = (shift[:, None, :] @ cell.to(dtype)[batch[target]]).squeeze(1)
        vectors = positions[source] - positions[target] + images
        return self.graph_of(Graph(species, source, target, vectors, vectors, batch, len(cell)))

    def interaction(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Return the atoms' interaction energies, eV.

        Args:
            graph: The configurations.
        """
        energies = self.scale * self.atomic_energies(graph) + self.shift
        if self.repulsion is not None:
            pairs = self.repulsion(graph.species[graph.source], graph.species[graph.target], graph.distances)
            energies = energies + sum_by(pairs, graph.target, graph.species.shape[0])
        return energies

    @staticmethod
    def graph_of(graph: Graph) -> Graph:
        """Return a graph with the lengths of its vectors."""
        return replace(graph, distances=torch.linalg.vector_norm(graph.vectors, dim=-1))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return next(self.parameters()).dtype

    def _slope(self, atomic: Tensor, graph: Graph, training: bool) -> Tensor:
        """Return the energy's derivative by each edge's vector."""
        if not graph.vectors.numel():
            return graph.vectors * 0
        (slope,) = torch.autograd.grad(atomic.sum(), graph.vectors, create_graph=training)
        return slope

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Potential":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch leaves it without types
        # A cast of the model leaves the isolated atoms' energies in float64.
        self._buffers["reference_energies"] = self._energies.to(self.reference_energies.device)
        return self


class Interaction(nn.Module):
    """A potential as a function of tensors: edge vectors, species and edges to the atoms' energies.

    Args:
        potential: The potential.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, vectors: Tensor, species: Tensor, edge_index: Tensor) -> Tensor:
        """Return the atoms' interaction energies, eV.

        Args:
            vectors: Of the edges, A.
            species: Places of the atoms' elements.
            edge_index: Sources and targets.
        """
        source, target = edge_index.unbind(0)
        graph = Graph(species, source, target, vectors, vectors, torch.zeros_like(species), 1)
        return self.potential.interaction(self.potential.graph_of(graph))


def sum_by(values: Tensor, index: Int[Tensor, " n"], size: int) -> Tensor:
    """Sum rows by an index.

    Args:
        values: Rows, shape `(n, ...)`.
        index: Where each row goes.
        size: Number of rows of the result.

    Examples:
        >>> sum_by(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1]), 3)
        tensor([2., 4., 0.])
    """
    return values.new_zeros(size, *values.shape[1:]).index_add(0, index, values)


def _forces(graph: Graph, slope: Tensor) -> Tensor:
    """Return the atoms' forces."""
    size = graph.species.shape[0]
    return sum_by(slope, graph.target, size) - sum_by(slope, graph.source, size)


def _atomic_virial(graph: Graph, slope: Tensor) -> Tensor:
    """Return the atoms' symmetric shares of the energy's derivative by strain."""
    outer, size = graph.vectors[:, :, None] * slope[:, None, :], graph.species.shape[0]
    halves = (outer + outer.mT) / 4
    return sum_by(halves, graph.target, size) + sum_by(halves, graph.source, size)


def _stress(virial: Tensor, cell: Tensor) -> Tensor:
    """Return the virial by volume; zero where there is none."""
    volume = torch.linalg.det(cell.reshape(-1, 3, 3).double()).abs().to(virial.dtype)[:, None, None]
    return torch.where(volume > 0, virial / torch.where(volume > 0, volume, 1), 0)


def _normal(tensor: Tensor) -> Tensor:
    """Return a tensor that can be differentiated, also one made under `torch.inference_mode`."""
    return tensor.clone() if tensor.is_inference() else tensor


def _symbols(numbers: Sequence[int]) -> str:
    """Return chemical symbols for a message."""
    return ", ".join(chemical_symbols[number] for number in numbers)


def _check(
    elements: Sequence[int], cutoff: float, energies: Sequence[float], units: Mapping[str, float]
) -> None:
    """Raise where an argument of the constructor is out of range."""
    if not elements or len(set(elements)) != len(elements) or not all(0 < z < N_ELEMENTS for z in elements):
        raise ValueError(f"`elements` (={list(elements)}) must be different atomic numbers from 1 to 118")
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"`cutoff` (={cutoff}) must be positive and finite")
    if len(energies) != len(elements):
        raise ValueError(
            f"`reference_energies` (of {len(energies)}) must hold one energy for each of {len(elements)} "
            "elements"
        )
    if not all(math.isfinite(energy) for energy in energies):
        raise ValueError(f"`reference_energies` (={list(energies)}) must be finite")
    for name, value in units.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` (={value}) must be positive and finite")
