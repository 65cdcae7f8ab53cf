"""Errors of predicted fields: over the whole box, at its boundary, and by octave of wave number.

Axis letters used below: `N` samples, `K` octave bands.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lemmata.operators.grids import Grid
from lemmata.operators.losses import lp_norm, relative_h1, relative_lp

__all__ = ["METRICS", "Spectrum", "field_errors", "spectrum"]

METRICS = {
    "l2": "L2",
    "h1": "H1",
    "max": "max",
    "boundary": "boundary",
}


def field_errors(
    prediction: Float[Tensor, "n channel *grid"], target: Float[Tensor, "n channel *grid"], grid: Grid
) -> dict[str, Float[Tensor, " n"]]:
    """Return each sample's errors, relative to the sample's own size.

    Args:
        prediction: Predicted fields.
        target: Reference fields.
        grid: The grid of both.

    Returns:
        By name: `l2`, `h1` (values and gradients), `max` (largest error over largest value) and, for a
        box that is not periodic, `boundary`: the root mean square error on the outermost points over the
        root mean square of the whole field, since solutions are often zero there.

    Raises:
        ValueError: Where a target is zero everywhere.

    Examples:
        >>> grid = Grid((8,), (1.0,), "periodic")
        >>> errors = field_errors(torch.full((1, 1, 8), 1.5), torch.ones(1, 1, 8), grid)
        >>> {name: round(float(error), 6) for name, error in errors.items()}
        {'l2': 0.5, 'h1': 0.5, 'max': 0.5}
    """
    weights = grid.weights(dtype=target.dtype, device=target.device)
    errors = {
        "l2": relative_lp(prediction, target, weights=weights, reduction="none"),
        "h1": h1_errors(prediction, target, grid),
        "max": relative_lp(prediction, target, p=float("inf"), reduction="none"),
    }
    if grid.layout != "periodic":
        at_rim = (prediction - target)[..., _rim(grid, target.device)].square().mean((1, 2)).sqrt()
        size = lp_norm(target) / (target[0].numel() ** 0.5)
        errors["boundary"] = at_rim / size
    return errors


def h1_errors(
    prediction: Float[Tensor, "n channel *grid"], target: Float[Tensor, "n channel *grid"], grid: Grid
) -> Float[Tensor, " n"]:
    """Return each sample's relative error in values and gradients.

    Args:
        prediction: Predicted fields.
        target: Reference fields.
        grid: The grid of both.

    Returns:
        One error a sample.
    """
    if grid.layout == "periodic":
        return relative_h1(prediction, target, grid.length, "spectral", reduction="none")
    return relative_h1(prediction, target, grid.length, "fd", layout=grid.layout, reduction="none")


@dataclass(frozen=True)
class Spectrum:
    """Mean energies by octave of wave number, in cycles over the box's unit of length.

    Args:
        bands: Lower and upper wave number of each octave; the first holds the mean.
        prediction: Energy of the prediction in each band, a mean over samples.
        target: Energy of the reference.
        error: Energy of the difference.
    """

    bands: tuple[tuple[float, float], ...]
    prediction: tuple[float, ...]
    target: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def relative(self) -> tuple[float, ...]:
        """Relative error of each band: the root of the error's energy over the reference's."""
        pairs = zip(self.error, self.target, strict=True)
        return tuple((e / t) ** 0.5 if t > 0 else float("inf") if e > 0 else 0.0 for e, t in pairs)


def spectrum(
    prediction: Float[Tensor, "n channel *grid"], target: Float[Tensor, "n channel *grid"], grid: Grid
) -> Spectrum:
    """Return mean energies by octave of wave number.

    The basis is the grid's own: Fourier for a periodic box, cosines for cells and nodes, sines for interior
    points, so that a boundary does not look like a jump. Energies over all bands add up to the mean square of
    the field.

    Args:
        prediction: Predicted fields.
        target: Reference fields.
        grid: The grid of both.

    Returns:
        Energies of the prediction, the reference and their difference.

    Examples:
        >>> grid = Grid((8,), (1.0,), "periodic")
        >>> wave = torch.cos(2 * torch.pi * 3 * grid.coordinates()).unsqueeze(0)
        >>> round(spectrum(0.9 * wave, wave, grid).relative[2], 6)  # wave numbers 2 and 3
        0.1
    """
    waves = _wave_numbers(grid)
    top = max(0, int(np.floor(np.log2(max(waves.max(), 1.0)))))
    bands = ((0.0, 1.0), *((2.0**j, 2.0 ** (j + 1)) for j in range(top + 1)))
    masks = [(waves >= low) & (waves < high) for low, high in bands]

    def energies(fields: Tensor) -> tuple[float, ...]:
        density = _energy(fields, grid)
        return tuple(float(density[mask].sum()) for mask in masks)

    return Spectrum(bands, energies(prediction), energies(target), energies(prediction - target))


def _rim(grid: Grid, device: torch.device) -> Bool[Tensor, "*grid"]:
    """Return which points are outermost."""
    rim = torch.ones(grid.shape, dtype=torch.bool, device=device)
    rim[tuple(slice(1, -1) for _ in grid.shape)] = False
    return rim


def _wave_numbers(grid: Grid) -> npt.NDArray[np.float64]:
    """Return the wave number of every coefficient of the grid's basis, in cycles a unit of length."""
    if grid.layout == "periodic":
        axes = [
            np.abs(scipy.fft.fftfreq(n, 1.0 / n)) / size
            for n, size in zip(grid.shape, grid.length, strict=True)
        ]
    else:
        first = 1 if grid.layout == "interior" else 0
        axes = [
            (np.arange(n) + first) / (2.0 * size) for n, size in zip(grid.shape, grid.length, strict=True)
        ]
    mesh = np.meshgrid(*axes, indexing="ij")
    waves: npt.NDArray[np.float64] = np.sqrt(np.sum(np.square(mesh), axis=0))
    return waves


def _energy(fields: Float[Tensor, "n channel *grid"], grid: Grid) -> npt.NDArray[np.float64]:
    """Return the energy of every coefficient, a mean over samples and summed over channels."""
    values = fields.detach().cpu().double().numpy()
    axes = tuple(range(2, values.ndim))
    if grid.layout == "periodic":
        coefficients = scipy.fft.fftn(values, axes=axes, norm="ortho")
    elif grid.layout == "interior":
        coefficients = scipy.fft.dstn(values, type=1, axes=axes, norm="ortho")
    elif grid.layout == "nodes":
        coefficients = scipy.fft.dctn(values, type=1, axes=axes, norm="ortho")
    else:
        coefficients = scipy.fft.dctn(values, type=2, axes=axes, norm="ortho")
    energy: npt.NDArray[np.float64] = np.square(np.abs(coefficients)).mean(0).sum(0) / np.prod(grid.shape)
    return energy
