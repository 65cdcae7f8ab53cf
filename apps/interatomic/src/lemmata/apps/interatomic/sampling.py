r"""Geometries around a start: random displacements, thermal normal modes, short Langevin trajectories.

Displacements are the quickest and know nothing of the molecule; normal modes give the classical thermal
distribution where the energy is a paraboloid, without a trajectory's correlations; Langevin dynamics (the
integrator is ASE's) also turns soft dihedral angles and crosses barriers.

Every function takes a `numpy.random.Generator` and draws from nothing else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from jaxtyping import Float

__all__ = ["NormalModes", "displace", "langevin", "normal_modes", "relax"]

Forces = Callable[[Atoms], np.ndarray]

SOFTEST = 50.0
HBAR = units._hbar * units.J * units.second


def displace(
    atoms: Atoms, generator: np.random.Generator, *, amplitude: float = 0.05, strain: float = 0.0
) -> Atoms:
    r"""Move every atom by a normal random vector, and strain the cell if it repeats.

    Args:
        atoms: The start.
        generator: Where random numbers come from.
        amplitude: Standard deviation of a component of the displacement, in Å.
        strain: Standard deviation of a component of the symmetric strain $\epsilon$, by which positions
            and cell are multiplied, $x (1 + \epsilon)$, before the displacement; what does not repeat is not
            strained.

    Returns:
        A new geometry.

    Examples:
        >>> moved = displace(Atoms("H"), np.random.default_rng(0), amplitude=0.1)
        >>> moved.positions.round(3).tolist()
        [[0.013, -0.013, 0.064]]
    """
    moved: Atoms = atoms.copy()
    if strain and atoms.pbc.any():
        epsilon = strain * generator.standard_normal((3, 3))
        # The mean of two independent entries varies by half as much.
        epsilon = np.where(np.eye(3, dtype=bool), epsilon, (epsilon + epsilon.T) / np.sqrt(2))
        repeating = np.outer(atoms.pbc, atoms.pbc)
        moved.set_cell(atoms.cell.array @ (np.eye(3) + epsilon * repeating), scale_atoms=True)
    moved.positions += amplitude * generator.standard_normal(moved.positions.shape)
    return moved


@dataclass(frozen=True)
class NormalModes:
    r"""The harmonic vibrations around a geometry.

    With $D$ the Hessian divided by $\sqrt{m_a m_b}$, $D u_k = \lambda_k u_k$; a displacement
    $x = M^{-1/2} \sum_k q_k u_k$ costs $\frac12 \sum_k \lambda_k q_k^2$.

    Args:
        eigenvalues: `(K,)`, $\lambda$ in eV/(Å² u), increasing; negative ones are directions downhill.
        modes: `(K, N, 3)`, $M^{-1/2} u_k$ in u^(-1/2).
    """

    eigenvalues: Float[np.ndarray, " mode"]
    modes: Float[np.ndarray, "mode atom 3"]

    @property
    def wavenumbers(self) -> Float[np.ndarray, " mode"]:
        """Wavenumbers in 1/cm; negative for directions downhill."""
        scale = np.sign(self.eigenvalues) * np.sqrt(np.abs(self.eigenvalues))
        return np.asarray(scale * HBAR / units.invcm, np.float64)

    def draw(
        self,
        atoms: Atoms,
        generator: np.random.Generator,
        *,
        temperature: float,
        softest: float = SOFTEST,
    ) -> Atoms:
        r"""Draw a geometry from the classical thermal distribution of the harmonic energy.

        $q_k$ is normal with variance $k_B T / \lambda_k$.

        Args:
            atoms: The geometry that the modes belong to.
            generator: Where random numbers come from.
            temperature: In K.
            softest: Modes below this wavenumber, in 1/cm, are drawn as if they had it: along a soft one the
                energy is no paraboloid as far as a thermal displacement would go.

        Returns:
            A new geometry; the mean of its harmonic energy is $k_B T / 2$ a mode.
        """
        least = (softest * units.invcm / HBAR) ** 2
        spread = np.sqrt(units.kB * temperature / np.maximum(np.abs(self.eigenvalues), least))
        moved: Atoms = atoms.copy()
        moved.positions += np.tensordot(spread * generator.standard_normal(len(spread)), self.modes, 1)
        return moved


def normal_modes(atoms: Atoms, forces: Forces, *, step: float = 0.01) -> NormalModes:
    """Compute the harmonic vibrations by central differences of forces.

    Equals `ase.vibrations.Vibrations`, with the free translations (and, of what does not repeat, rotations)
    projected out rather than found near zero, and nothing written.

    Args:
        atoms: A geometry at rest.
        forces: Returns the forces `(N, 3)` of a geometry, in eV/Å; called 6 N times.
        step: Displacement, in Å.

    Returns:
        3 N - 6 modes, 3 N - 5 of a linear molecule, 3 N - 3 where a direction repeats.
    """
    count = len(atoms)
    hessian = np.empty((3 * count, 3 * count))
    for row in range(3 * count):
        pair = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[divmod(row, 3)] += sign * step
            pair.append(np.asarray(forces(moved), np.float64).ravel())
        hessian[row] = (pair[1] - pair[0]) / (2 * step)
    root = np.repeat(np.sqrt(atoms.get_masses()), 3)
    weighted = (hessian + hessian.T) / 2 / np.outer(root, root)
    inner = _vibrations(atoms)
    eigenvalues, vectors = np.linalg.eigh(inner.T @ weighted @ inner)
    modes = (inner @ vectors).T / root
    return NormalModes(eigenvalues, modes.reshape(-1, count, 3))


def langevin(
    atoms: Atoms,
    generator: np.random.Generator,
    *,
    temperature: float,
    count: int,
    timestep: float = 0.5,
    equilibration: int = 200,
    interval: int = 20,
    friction: float = 0.02,
) -> Iterator[Atoms]:
    """Run Langevin dynamics from a start with thermal velocities, and yield a frame from time to time.

    Args:
        atoms: The start, with its calculator; it is moved.
        generator: Where random numbers come from.
        temperature: In K.
        count: Number of frames.
        timestep: In fs.
        equilibration: Steps before the first frame.
        interval: Steps between two frames.
        friction: In 1/fs.

    Yields:
        Copies of the moving atoms, brought back to where their centre of mass was at the start, without
        calculator or momenta.
    """
    from ase.md.langevin import Langevin

    centre = atoms.get_center_of_mass()
    mass = atoms.get_masses()[:, None]
    momenta = np.sqrt(mass * units.kB * temperature) * generator.standard_normal(atoms.positions.shape)
    atoms.set_momenta(momenta)
    dynamics = Langevin(
        atoms,
        timestep * units.fs,
        temperature_K=temperature,
        friction=friction / units.fs,
        fixcm=False,  # fixing the centre of mass would bias the temperature
        rng=generator,
    )
    for frame in range(count):
        dynamics.run(equilibration if frame == 0 else interval)
        positions = atoms.positions - (atoms.get_center_of_mass() - centre)
        yield Atoms(atoms.numbers, positions, cell=atoms.cell, pbc=atoms.pbc)


def relax(atoms: Atoms, *, fmax: float = 0.01, steps: int = 500) -> bool:
    """Relax the positions by BFGS; the cell stays.

    Args:
        atoms: The geometry, with its calculator; it is moved.
        fmax: Largest force at the end, in eV/Å.
        steps: At most so many.

    Returns:
        Whether it got there.
    """
    from ase.optimize import BFGS

    return bool(BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps))


def _vibrations(atoms: Atoms) -> Float[np.ndarray, "coordinate mode"]:
    """Return an orthonormal basis of the mass-weighted displacements that neither translate nor rotate."""
    root = np.sqrt(atoms.get_masses())
    free = [np.outer(root, axis).ravel() for axis in np.eye(3)]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        free += [(root[:, None] * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    basis, singular, _ = np.linalg.svd(np.array(free).T, full_matrices=True)
    return np.asarray(basis[:, int((singular > 1e-4 * singular[0]).sum()) :], np.float64)
