r"""Losses of energies, forces and stress, and the errors that are reported.

The loss of a batch is

$$w_E \left\langle \rho\!\left(\frac{\Delta E}{N}\right) \right\rangle + w_F \left\langle \rho(\Delta F)
\right\rangle + w_S \left\langle \rho(\Delta \sigma) \right\rangle,$$

with $\rho(x) = x^2$ or Huber's function, each mean over the labelled components alone: a configuration
without a label neither adds to a sum nor counts in it. Weights of configurations multiply their terms.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss

from lemmata.apps.interatomic.models.potential import Prediction

__all__ = ["KINDS", "ErrorSums", "LossWeights", "check_kind", "errors", "weighted_loss"]

KINDS = ("mse", "huber")

# Errors are reported in these: 1 eV = 1000 meV.
MILLI = 1000.0
QUANTITIES = ("energy", "forces", "stress")


@dataclass(frozen=True)
class LossWeights:
    """How much each quantity counts.

    Args:
        energy: Weight of energies an atom, in eV.
        forces: Weight of the forces' components, in eV/A.
        stress: Weight of the stress's components, in eV/A^3.

    Raises:
        ValueError: Where a weight is negative or not finite, or none is positive.
    """

    energy: float = 1.0
    forces: float = 100.0
    stress: float = 0.0

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}_weight` (={value}) must lie in [0, inf)")
        if not (self.energy or self.forces or self.stress):
            raise ValueError("one of `energy_weight`, `forces_weight` and `stress_weight` must be positive")


def errors(prediction: Prediction, data: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each quantity's errors, and the weights of their components.

    Args:
        prediction: What a potential predicts.
        data: The labels, as `graphs.to_data` gives them.

    Returns:
        By quantity (`energy` an atom, `forces`, `stress`; those that are predicted) the errors and weights of
        the same shape, zero where there is no label.
    """
    atoms = torch.bincount(_batch(data), minlength=len(prediction.energy)).clamp(min=1)
    dtype = prediction.atomic_energy.dtype
    # Differences of total energies are taken in float64; they are small enough for float32.
    difference = ((prediction.energy - data.energy.double()) / atoms).to(dtype)
    found = {"energy": (difference, _weight(data, "energy"))}
    if prediction.forces is not None:
        difference = prediction.forces - data.forces.to(dtype)
        found["forces"] = (difference, _weight(data, "forces")[_batch(data)][:, None].expand_as(difference))
    if prediction.stress is not None:
        difference = prediction.stress - data.stress.to(dtype).reshape(-1, 3, 3)
        found["stress"] = (difference, _weight(data, "stress")[:, None, None].expand_as(difference))
    return found


def weighted_loss(
    prediction: Prediction, data: Any, weights: LossWeights, *, kind: str = "mse", delta: float = 0.01
) -> Float[Tensor, ""]:
    """Return the loss of a batch.

    Args:
        prediction: What a potential predicts.
        data: The labels, as `graphs.to_data` gives them.
        weights: How much each quantity counts.
        kind: `mse` for squares, `huber` for Huber's function, twice that of torch so that both agree on small
            errors.
        delta: Where Huber's function turns linear, in eV, eV/A and eV/A^3.

    Raises:
        ValueError: Where the kind is unknown.
    """
    check_kind(kind)
    total = prediction.atomic_energy.new_zeros(())
    for name, (difference, weight) in errors(prediction, data).items():
        if not getattr(weights, name):
            continue
        if kind == "mse":
            terms = difference * difference
        else:
            terms = 2 * huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
        labelled = (weight > 0).sum().clamp(min=1)
        total = total + getattr(weights, name) * (weight * terms).sum() / labelled
    return total


def check_kind(kind: str) -> None:
    """Raise where a kind of loss is unknown.

    Raises:
        ValueError: Naming what was given and what is expected.
    """
    if kind not in KINDS:
        raise ValueError(f"`loss` (={kind!r}) is not known; expected one of {', '.join(KINDS)}")


class ErrorSums:
    """Sums of absolute and squared errors over batches; weights of configurations do not count, labels do.

    Examples:
        >>> sums = ErrorSums()
        >>> sums.add("forces", torch.tensor([0.003, -0.004]), torch.ones(2))
        >>> {name: round(value, 3) for name, value in sums.compute().items()}
        {'forces_mae': 3.5, 'forces_rmse': 3.536}
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, difference: Tensor, weight: Tensor) -> None:
        """Add a batch's errors.

        Args:
            name: The quantity.
            difference: Errors in eV.
            weight: Positive where there is a label.
        """
        chosen = difference.detach().double()[weight > 0]
        row = torch.stack(
            [chosen.abs().sum(), chosen.square().sum(), chosen.new_tensor(float(chosen.numel()))]
        )
        self.sums[name] = self.sums[name] + row if name in self.sums else row

    def update(self, prediction: Prediction, data: Any) -> None:
        """Add the errors of a prediction.

        Args:
            prediction: What a potential predicts.
            data: The labels.
        """
        for name, (difference, weight) in errors(prediction, data).items():
            self.add(name, difference, weight)

    def compute(self) -> dict[str, float]:
        """Return mean absolute and root mean square errors, in meV an atom, meV/A and meV/A^3.

        Quantities without labels are left out.
        """
        found: dict[str, float] = {}
        for name, row in self.sums.items():
            absolute, squared, count = row.tolist()
            if count:
                found[f"{name}_mae"] = MILLI * absolute / count
                found[f"{name}_rmse"] = MILLI * (squared / count) ** 0.5
        return found


def _weight(data: Any, name: str) -> Tensor:
    """Return each configuration's weight of a quantity, 0 where it has no such label."""
    weight: Tensor = data[f"{name}_weight"].reshape(-1) * data["weight"].reshape(-1)
    return weight


def _batch(data: Any) -> Tensor:
    """Return each atom's configuration."""
    batch = getattr(data, "batch", None)
    return torch.zeros_like(data.z) if batch is None else batch
