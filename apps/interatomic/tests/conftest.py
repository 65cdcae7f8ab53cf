"""Data, potentials and trained runs that several tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from torch_geometric.data import Batch

from lemmata.apps.interatomic.graphs import to_data
from lemmata.apps.interatomic.models import Potential, build
from lemmata.apps.interatomic.models.potential import Graph, sum_by

# A potential of each kind, of the size of a test.
SMALL: dict[str, dict[str, Any]] = {
    "tensor-product": {"channels": 4, "radial_width": 8},
    "position-orientation": {"hidden": 8, "layers": 2, "n_orientations": 8},
    "frame": {"channels": 8, "layers": 2},
}
ON_CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
ELEMENTS = [1, 6, 8]


def _small(model: str, dtype: torch.dtype = torch.float64, **options: Any) -> Potential:
    torch.manual_seed(3)
    config = {
        "model": model,
        "elements": ELEMENTS,
        "cutoff": 3.0,
        "reference_energies": [-13.6, -1030.0, -2043.0],
        "average_neighbours": 5.0,
        **SMALL[model],
        **options,
    }
    return build(config).to(dtype)


def _molecule(seed: int = 0, size: int = 9) -> Atoms:
    draw = np.random.default_rng(seed)
    positions = [np.zeros(3)]
    while len(positions) < size:
        place = positions[draw.integers(len(positions))] + draw.normal(size=3)
        distances = np.linalg.norm(np.array(positions) - place, axis=1)
        if 0.9 < distances.min() < 1.6:
            positions.append(place)
    return Atoms(draw.choice(ELEMENTS, size), positions)


def _graphs(*atoms: Atoms, cutoff: float = 3.0, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.from_data_list([to_data(each, cutoff, dtype=dtype) for each in atoms])


def _argon(seed: int = 0) -> Atoms:
    atoms = bulk("Ar", "sc", a=3.3) * (2, 2, 2)
    draw = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * draw.normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.fixture
def small() -> Callable[..., Potential]:
    """Return a maker of small potentials of H, C and O, with reference energies of the size of real ones."""
    return _small


@pytest.fixture
def molecule() -> Callable[..., Atoms]:
    """Return a maker of clouds of atoms with distances of molecules and no symmetry."""
    return _molecule


@pytest.fixture
def graphs() -> Callable[..., Batch]:
    """Return what turns configurations into a batch."""
    return _graphs


@pytest.fixture
def argon() -> Callable[..., Atoms]:
    """Return a maker of rattled crystals of argon in a sheared cell."""
    return _argon


@pytest.fixture(scope="session")
def labelled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 frames of a cluster of argon and neon with Lennard-Jones energies and forces."""
    # Long rather than round: frames need axes that are told apart.
    places = [[0, 0, 0], [1, 0, 0.2], [2, 0.1, 0], [0.9, 1, 0.1], [2.9, -0.2, 0.4]]
    cluster = Atoms("Ar3Ne2", 2.4 * np.array(places))
    frames = []
    for seed in range(40):
        atoms = cluster.copy()
        atoms.rattle(0.15, seed=seed)
        atoms.calc = LennardJones(sigma=2.3, epsilon=0.1, rc=8.0)
        energy, forces = atoms.get_potential_energy() - 500.0, atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "cluster.xyz"
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Return arguments of `train` for a run of seconds."""
    return {
        "cutoff": 4.0,
        "epochs": 3,
        "batch_size": 4,
        "model_options": SMALL["tensor-product"],
        "trainer": ON_CPU,
        "progress": False,
    }


@pytest.fixture(scope="session")
def trained_run(
    tmp_path_factory: pytest.TempPathFactory, labelled_file: Path, settings: dict[str, Any]
) -> Path:
    """Return the folder of a finished run."""
    from lemmata.apps.interatomic import train

    out = tmp_path_factory.mktemp("runs") / "run"
    return train(labelled_file, out, **{**settings, "epochs": 12})


class Morse(Potential):
    """A pair potential with a minimum at 1.3 A, whose forces anyone can write down."""

    def __init__(self, elements: list[int], *, depth: float = 2.0, cutoff: float = 5.0, zbl: bool = False):
        super().__init__("morse", elements, cutoff, reference_energies=[-10.0 * z for z in elements], zbl=zbl)
        self.depth = torch.nn.Parameter(torch.tensor(depth))

    def atomic_energies(self, graph: Graph) -> torch.Tensor:
        stretch = torch.exp(-2 * (graph.distances - 1.3))
        smooth = (1 - (graph.distances / self.cutoff) ** 2).clamp(min=0) ** 3
        return sum_by(self.depth * (stretch**2 - 2 * stretch) * smooth, graph.target, len(graph.species))


@pytest.fixture
def morse() -> Callable[..., Potential]:
    """Return a maker of Morse potentials for hydrogen, carbon, oxygen and argon."""

    def make(depth: float = 2.0, elements: tuple[int, ...] = (1, 6, 8, 18), **options: Any) -> Potential:
        return Morse(list(elements), depth=depth, **options)

    return make


@pytest.fixture
def stored(morse: Callable[..., Potential], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Let paths stand for Morse potentials, for verbs that load what a path names."""
    known: dict[str, Potential] = {}

    def load(path: Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Potential:
        if str(path) not in known:
            raise FileNotFoundError(f"{path} does not exist")
        return known[str(path)].to(device=device, dtype=dtype)

    def store(name: str = "morse", **options: Any) -> Path:
        known[name] = morse(**options).eval()
        return Path(name)

    monkeypatch.setattr("lemmata.apps.interatomic.trained.load_potential", load)
    monkeypatch.setattr("lemmata.apps.interatomic.calculator.load_potential", load)
    return store
