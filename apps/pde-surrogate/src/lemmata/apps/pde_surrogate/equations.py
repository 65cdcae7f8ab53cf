"""The equations the app knows by name, and how to build them.

A name stands for a class of `pde` and parameters that differ from that class's own
defaults. Listing the names imports neither PyTorch nor a solver; `make_equation` does.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.operators.pde import Equation
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Equation = "lemmata.operators.pde.Equation"

__all__ = [
    "EQUATIONS",
    "EquationEntry",
    "build_equation",
    "equation_class",
    "equation_from_attributes",
    "find_equation",
    "make_equation",
]


@dataclass(frozen=True)
class EquationEntry:
    """What a name stands for.

    Args:
        target: `"module:class"`, a subclass of `Equation`.
        description: One line for listings.
        parameters: Keyword arguments that differ from the class's defaults.
    """

    target: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


EQUATIONS: dict[str, EquationEntry] = {
    "darcy": EquationEntry(
        "lemmata.operators.pde.darcy:Darcy2d",
        "Darcy flow on the unit square, two-valued permeability to pressure",
        {"coefficient": "piecewise"},
    ),
    "darcy-lognormal": EquationEntry(
        "lemmata.operators.pde.darcy:Darcy2d",
        "Darcy flow on the unit square, smooth log-normal permeability to pressure",
        {"coefficient": "lognormal"},
    ),
    "darcy-rough": EquationEntry(
        "lemmata.operators.pde.darcy:Darcy2d",
        "Darcy flow on the unit square, rough two-valued permeability to pressure",
        {"coefficient": "rough"},
    ),
    "burgers": EquationEntry(
        "lemmata.operators.pde.burgers:Burgers1d",
        "viscous Burgers equation in one periodic dimension, initial to final state",
    ),
    "kdv": EquationEntry(
        "lemmata.operators.pde.kdv:KdV1d",
        "Korteweg-de Vries equation in one periodic dimension, initial to final state",
    ),
    "ks": EquationEntry(
        "lemmata.operators.pde.kuramoto_sivashinsky:KuramotoSivashinsky1d",
        "Kuramoto-Sivashinsky equation in one periodic dimension, initial to final state",
    ),
    "navier-stokes": EquationEntry(
        "lemmata.operators.pde.navier_stokes:NavierStokes2d",
        "two-dimensional Navier-Stokes equations, initial to final vorticity",
    ),
    "advection": EquationEntry(
        "lemmata.operators.pde.advection:Advection1d",
        "linear advection in one periodic dimension, initial to final state",
    ),
    "poisson": EquationEntry(
        "lemmata.operators.pde.poisson:Poisson2d",
        "Poisson equation on the unit square, source to potential",
    ),
    "helmholtz": EquationEntry(
        "lemmata.operators.pde.helmholtz:Helmholtz2d",
        "Helmholtz equation with absorbing boundary, wave speed to wave field",
    ),
}


def find_equation(name: str) -> EquationEntry:
    """Look a name up without importing anything.

    Args:
        name: A key of `EQUATIONS`.

    Returns:
        What it stands for.

    Raises:
        ValueError: Where the name is unknown.

    Examples:
        >>> find_equation("darcy-rough").target
        'lemmata.operators.pde.darcy:Darcy2d'
    """
    if name not in EQUATIONS:
        raise ValueError(f"`equation` (={name!r}) is not known; expected one of {', '.join(EQUATIONS)}")
    return EQUATIONS[name]


def make_equation(name: str, parameters: Mapping[str, Any] | None = None) -> Equation:
    """Build an equation by its name.

    Args:
        name: A key of `EQUATIONS`.
        parameters: Keyword arguments of the equation's class, in its physical units; they override the
            name's own.

    Returns:
        The equation.

    Raises:
        ValueError: Where the name is unknown, or a parameter is unknown to the equation or out of its range.

    Examples:
        >>> make_equation("burgers", {"viscosity": 0.05}).parameters()["viscosity"]
        0.05
    """
    return build_equation(name, find_equation(name), parameters)


def build_equation(name: str, entry: EquationEntry, parameters: Mapping[str, Any] | None = None) -> Equation:
    """Build an equation from what its name stands for, which may be unknown here.

    Args:
        name: Its name, for messages.
        entry: What the name stands for.
        parameters: As for `make_equation`.

    Returns:
        The equation.

    Raises:
        ValueError: Where a parameter is unknown to the equation or out of its range.
    """
    cls = equation_class(entry.target)
    given = {**entry.parameters, **(parameters or {})}
    try:
        equation: Equation = cls(**given)
    except TypeError as error:
        known = ", ".join(inspect.signature(cls).parameters)
        raise ValueError(
            f"equation {name!r} does not take the parameters {_listing(given)} ({error}); it knows {known}"
        ) from error
    return equation


def equation_class(target: str) -> type[Equation]:
    """Import an equation's class.

    Args:
        target: `"module:class"`.

    Returns:
        The class.

    Examples:
        >>> equation_class("lemmata.operators.pde.burgers:Burgers1d").name
        'burgers'
    """
    module, _, name = target.partition(":")
    cls: type[Equation] = getattr(importlib.import_module(module), name)
    return cls


def equation_from_attributes(attributes: Mapping[str, Any]) -> Equation:
    """Build the equation that made a data set, from the attributes stored with it.

    Args:
        attributes: Attributes of a store's resolution; `equation` and `parameters` are read.

    Returns:
        The equation, with the parameters it had.

    Raises:
        ValueError: Where the attributes name no equation, or one that is unknown.

    Examples:
        >>> equation_from_attributes({"equation": "advection", "parameters": {}}).name
        'advection'
    """
    if "equation" not in attributes:
        raise ValueError("the data set does not say which equation made it; expected an attribute `equation`")
    return make_equation(attributes["equation"], attributes.get("parameters"))


def _listing(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in parameters.items()) or "(none)"
