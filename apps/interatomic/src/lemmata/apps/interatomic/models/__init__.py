"""Interatomic potentials: one base class, three models, and `build`, which makes each from plain values."""

from collections.abc import Mapping
from typing import Any

from lemmata.apps.interatomic.models.frame import FramePotential
from lemmata.apps.interatomic.models.position_orientation import PositionOrientationPotential
from lemmata.apps.interatomic.models.potential import Graph, Potential, Prediction
from lemmata.apps.interatomic.models.tensor_product import TensorProductPotential
from lemmata.apps.interatomic.models.zbl import ZieglerBiersackLittmark

__all__ = [
    "MODELS",
    "FramePotential",
    "Graph",
    "PositionOrientationPotential",
    "Potential",
    "Prediction",
    "TensorProductPotential",
    "ZieglerBiersackLittmark",
    "build",
]

MODELS: dict[str, type[Potential]] = {
    "tensor-product": TensorProductPotential,
    "position-orientation": PositionOrientationPotential,
    "frame": FramePotential,
}


def build(config: Mapping[str, Any]) -> Potential:
    """Make a potential from plain values, as a potential's `config` holds them.

    Args:
        config: The name under `model`, and the model's arguments.

    Returns:
        The potential, with new weights.

    Raises:
        ValueError: Where the name or an argument is unknown, or a value out of range.

    Examples:
        >>> potential = build({"model": "tensor-product", "elements": [1, 8], "cutoff": 4.0, "channels": 8})
        >>> build(potential.config).config == potential.config
        True
    """
    options = dict(config)
    name = options.pop("model", None)
    if name not in MODELS:
        raise ValueError(f"`model` (={name!r}) is not known; expected one of {', '.join(MODELS)}")
    try:
        return MODELS[name](**options)
    except TypeError as error:
        raise ValueError(f"`model_options` do not fit {name}: {error}") from error
