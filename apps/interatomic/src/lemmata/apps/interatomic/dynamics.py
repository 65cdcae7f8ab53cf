"""Molecular dynamics that is recorded as it runs and goes on exactly where it was killed.

ASE's integrators do the steps. Every so many of them a sample is taken, and now and then everything that
the rest of the run depends on (positions, momenta, random numbers, samples so far, length of the trajectory
file) is written at once beside the old state, then renamed over it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import ase
import ase.io
import numpy as np
import numpy.typing as npt
from ase import units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from lemmata.apps.interatomic.stability import STRETCH, Bonds
from lemmata.apps.kit.files import write_atomically

__all__ = ["STATE", "TRAJECTORY", "Ensemble", "Samples", "simulate"]

Ensemble = Literal["nve", "nvt"]
STATE, TRAJECTORY = "state.npz", "trajectory.xyz"


@dataclass
class Samples:
    """What was measured along a trajectory, one row a sample.

    Args:
        picoseconds: Times.
        potential: Potential energies, in eV.
        kinetic: Kinetic energies, in eV.
        temperature: In K.
        stretch: The most stretched bond, in A beyond the first structure.
        spread: Largest disagreement of a committee about an atom's force, in eV/A; NaN for one model.
    """

    picoseconds: npt.NDArray[np.float64]
    potential: npt.NDArray[np.float64]
    kinetic: npt.NDArray[np.float64]
    temperature: npt.NDArray[np.float64]
    stretch: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Total energies, in eV."""
        return self.potential + self.kinetic

    def columns(self) -> dict[str, list[float]]:
        """Return the columns by name, for a table."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}


def simulate(
    atoms: ase.Atoms,
    out: Path,
    *,
    ensemble: Ensemble,
    temperature: float,
    picoseconds: float,
    timestep: float,
    friction: float = 0.01,
    sample_every: int = 10,
    save_every: int = 50,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Samples:
    """Run molecular dynamics, record it in a folder, and stop early where a bond tears.

    Args:
        atoms: The structure, its calculator attached; changed in place.
        out: Folder for `trajectory.xyz` and the state to go on from.
        ensemble: `nve` (velocity Verlet) or `nvt` (Langevin).
        temperature: Of the first velocities and of the thermostat, in K.
        picoseconds: Length of the run.
        timestep: In fs.
        friction: Of the thermostat, in 1/fs.
        sample_every: Steps between two samples.
        save_every: Samples between two writes of the state.
        seed: Of velocities and thermostat.
        resume: Go on from the folder's state.
        progress: Called with the picoseconds done.

    Returns:
        The samples of the whole run, those before a resumption included.

    Raises:
        FileNotFoundError: Where there is no state to resume from.
        ValueError: Where the state belongs to other atoms.
    """
    run = _Run(atoms, out, Bonds.of(atoms), np.random.default_rng(seed), sample_every * timestep / 1000)
    if resume:
        run.restore()
    else:
        run.start(temperature)
    integrator = _integrator(atoms, ensemble, temperature, timestep, friction, run.rng)
    samples = round(picoseconds * 1000 / timestep / sample_every)
    while len(run.rows) <= samples and not run.is_lost():
        integrator.run(sample_every)
        run.sample()
        if len(run.rows) % save_every == 0:
            run.save()
        if progress is not None:
            progress(run.rows[-1][0])
    run.save()
    return Samples(*np.array(run.rows).T)


@dataclass
class _Run:
    """The state of a run."""

    atoms: ase.Atoms
    out: Path
    bonds: Bonds
    rng: np.random.Generator
    interval: float

    def __post_init__(self) -> None:
        self.rows: list[list[float]] = []

    def start(self, temperature: float) -> None:
        """Draw velocities, at rest as a whole and, without periods, not turning; take the first sample."""
        thermalize_momenta(self.atoms, temperature, rng=self.rng)
        Stationary(self.atoms)
        if not self.atoms.pbc.any():
            # A linear molecule has no moment about its axis; ASE divides by it before it looks.
            with np.errstate(divide="ignore", invalid="ignore"):
                ZeroRotation(self.atoms)
        (self.out / TRAJECTORY).unlink(missing_ok=True)
        self.sample()

    def sample(self) -> None:
        """Record a sample, and a frame of the trajectory."""
        potential = float(self.atoms.get_potential_energy())
        spread = self.atoms.calc.results.get("forces_std")
        self.rows.append(
            [
                len(self.rows) * self.interval,
                potential,
                float(self.atoms.get_kinetic_energy()),
                float(self.atoms.get_temperature()),
                self.bonds.stretch(self.atoms),
                float("nan") if spread is None else float(np.max(spread)),
            ]
        )
        ase.io.write(self.out / TRAJECTORY, self.atoms, format="extxyz", append=True)

    def is_lost(self) -> bool:
        """Tell whether to stop: a bond has torn, or a number is not finite."""
        last = self.rows[-1]
        return not np.isfinite(last[:5]).all() or last[4] > STRETCH

    def save(self) -> None:
        """Write all that the rest of the run depends on."""
        trajectory = self.out / TRAJECTORY
        with write_atomically(self.out / STATE) as draft:
            np.savez(
                draft,
                numbers=self.atoms.numbers,
                positions=self.atoms.positions,
                momenta=self.atoms.get_momenta(),
                reference=np.array(self.bonds.lengths),
                pairs=self.bonds.pairs,
                shifts=self.bonds.shifts,
                rows=np.array(self.rows),
                written=trajectory.stat().st_size,
                rng=json.dumps(self.rng.bit_generator.state),
            )

    def restore(self) -> None:
        """Read the state, and cut the trajectory back to it."""
        path = self.out / STATE
        if not path.is_file():
            raise FileNotFoundError(f"{self.out} has no {STATE}; start a new run without --resume")
        with np.load(path, allow_pickle=False) as state:
            if not np.array_equal(state["numbers"], self.atoms.numbers):
                raise ValueError(f"{path} belongs to other atoms than the structure given")
            self.atoms.positions = state["positions"]
            self.atoms.set_momenta(state["momenta"])
            self.bonds = Bonds(state["pairs"], state["shifts"], state["reference"])
            self.rows = state["rows"].tolist()
            self.rng.bit_generator.state = json.loads(str(state["rng"]))
            written = int(state["written"])
        with (self.out / TRAJECTORY).open("r+b") as file:
            file.truncate(written)


def _integrator(
    atoms: ase.Atoms,
    ensemble: Ensemble,
    temperature: float,
    timestep: float,
    friction: float,
    rng: np.random.Generator,
) -> MolecularDynamics:
    """Return ASE's integrator of an ensemble."""
    if ensemble == "nve":
        return VelocityVerlet(atoms, timestep * units.fs)
    # Keeping the centre of mass at rest would change the ensemble; nothing here minds where it wanders.
    options: dict[str, Any] = {"temperature_K": temperature, "friction": friction / units.fs, "fixcm": False}
    return Langevin(atoms, timestep * units.fs, rng=rng, **options)
