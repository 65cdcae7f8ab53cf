"""Predictions for many frames at once, and how far they are from the labels.

Errors of energies are per atom, in meV; of forces per component, in meV/A; of stress per component, in
meV/A^3. Frames without a label do not count for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
import numpy.typing as npt
import torch
from ase.data import chemical_symbols
from torch_geometric.data import Batch

from lemmata.apps.interatomic.graphs import to_data
from lemmata.apps.interatomic.models.potential import Potential

__all__ = ["Scored", "score", "table_rows"]

Numbers = npt.NDArray[np.float64]
MILLI = 1000.0


@dataclass(frozen=True)
class Scored:
    """Predictions for frames, beside their labels; a label that is absent is NaN.

    Args:
        groups: Each frame's configuration type.
        atoms: Each frame's number of atoms, `(B,)`.
        numbers: Atomic numbers of all atoms, `(N,)`.
        frame: Frame of each atom, `(N,)`.
        energy: Predicted total energies in eV, `(B,)`.
        forces: Predicted forces in eV/A, `(N, 3)`.
        stress: Predicted stress in eV/A^3, `(B, 3, 3)`; NaN where a frame has no cell.
        energy_label: Labels of the same shapes.
        forces_label: Labels of the same shapes.
        stress_label: Labels of the same shapes.
    """

    groups: tuple[str, ...]
    atoms: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    energy: Numbers
    forces: Numbers
    stress: Numbers
    energy_label: Numbers
    forces_label: Numbers
    stress_label: Numbers

    @property
    def energy_error(self) -> Numbers:
        """Errors of the energies, in meV per atom, `(B,)`."""
        return MILLI * (self.energy - self.energy_label) / self.atoms

    @property
    def forces_error(self) -> Numbers:
        """Errors of the forces, in meV/A, `(N, 3)`."""
        return MILLI * (self.forces - self.forces_label)

    @property
    def stress_error(self) -> Numbers:
        """Errors of the stress, in meV/A^3, `(B, 3, 3)`."""
        return MILLI * (self.stress - self.stress_label)


def score(
    potential: Potential,
    frames: Sequence[ase.Atoms],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Predict frames in batches, and put their labels beside.

    Args:
        potential: A potential; used as it is, on its device and in its dtype.
        frames: Frames, labelled or not.
        batch_size: Frames at once.
        progress: Called with the number of frames done.

    Raises:
        ValueError: Where there are no frames, or the potential does not know an element.
    """
    if not frames:
        raise ValueError("there are no frames to predict")
    device = next(potential.parameters()).device
    found: list[dict[str, Any]] = []
    for start in range(0, len(frames), batch_size):
        chunk = [
            to_data(atoms, potential.cutoff, dtype=potential.dtype)
            for atoms in frames[start : start + batch_size]
        ]
        batch = Batch.from_data_list(chunk).to(device)
        periodic = batch.pbc.all(dim=1)
        prediction = potential(batch, forces=True, stress=bool(periodic.any()))
        found.append(_beside_labels(batch, prediction, periodic, start))
        if progress is not None:
            progress(min(start + batch_size, len(frames)))
    joined = {name: np.concatenate([one[name] for one in found]) for name in found[0] if name != "groups"}
    return Scored(groups=tuple(group for one in found for group in one["groups"]), **joined)


def table_rows(scored: Scored) -> list[dict[str, Any]]:
    """Return errors as rows: of all frames, of each configuration type, and of each element's forces.

    Args:
        scored: Predictions beside labels.
    """
    kinds = dict.fromkeys(scored.groups)
    rows = [_row("all", scored, np.ones(len(scored.groups), bool))]
    if len(kinds) > 1:
        groups = np.array(scored.groups)
        rows += [_row(kind, scored, groups == kind) for kind in kinds]
    for number in np.unique(scored.numbers):
        mine = scored.numbers == number
        rows.append(
            {"of": f"{chemical_symbols[number]} atoms"} | _errors("F", scored.forces_error[mine], "meV/A")
        )
    return rows


def _row(name: str, scored: Scored, frames: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the errors of some frames."""
    mine = frames[scored.frame]
    label = scored.forces_label[mine]
    row: dict[str, Any] = {"of": name, "frames": int(frames.sum())}
    row |= _errors("E", scored.energy_error[frames], "meV/atom")
    row |= _errors("F", scored.forces_error[mine], "meV/A")
    size = float(np.sqrt(np.nanmean(label**2))) if np.isfinite(label).any() else 0.0
    if size:
        row["F RMSE (%)"] = 100 * row["F RMSE (meV/A)"] / MILLI / size
    if np.isfinite(scored.stress_error[frames]).any():
        row |= _errors("S", scored.stress_error[frames], "meV/A^3")
    return row


def _errors(quantity: str, errors: Numbers, unit: str) -> dict[str, float | None]:
    """Return mean absolute and root mean square of the errors that there are."""
    known = errors[np.isfinite(errors)]
    if not known.size:
        return {f"{quantity} MAE ({unit})": None, f"{quantity} RMSE ({unit})": None}
    return {
        f"{quantity} MAE ({unit})": float(np.abs(known).mean()),
        f"{quantity} RMSE ({unit})": float(np.sqrt((known**2).mean())),
    }


def _beside_labels(batch: Any, prediction: Any, periodic: torch.Tensor, first: int) -> dict[str, Any]:
    """Return a batch's predictions and labels as arrays, NaN where there is none."""
    nan = torch.nan
    per_atom = batch.forces_weight[batch.batch, None] > 0
    stress = prediction.stress
    if stress is None:
        stress = torch.full((len(periodic), 3, 3), nan, dtype=torch.float64, device=periodic.device)
    arrays = {
        "atoms": torch.bincount(batch.batch, minlength=batch.num_graphs),
        "numbers": batch.z,
        "frame": batch.batch + first,
        "energy": prediction.energy.double(),
        "forces": prediction.forces.double(),
        "stress": torch.where(periodic[:, None, None], stress.double(), nan),
        "energy_label": torch.where(batch.energy_weight > 0, batch.energy.double(), nan),
        "forces_label": torch.where(per_atom, batch.forces.double(), nan),
        "stress_label": torch.where(batch.stress_weight[:, None, None] > 0, batch.stress.double(), nan),
    }
    found: dict[str, Any] = {name: values.detach().cpu().numpy() for name, values in arrays.items()}
    return found | {"groups": list(batch.config_type)}
