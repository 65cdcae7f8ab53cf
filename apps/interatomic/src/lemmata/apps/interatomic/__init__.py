"""From an extended-XYZ file to molecular dynamics with an equivariant interatomic potential.

Every verb of the command line is a function here. The verbs' modules import nothing heavy before they run, so
importing this package costs little; the rest is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

# A verb shares its module's name. Importing the functions here, once, binds each name to the function for
# good: a later import of the module finds it loaded and leaves the name alone.
from lemmata.apps.interatomic.compare import compare
from lemmata.apps.interatomic.demo import demo
from lemmata.apps.interatomic.evaluate import evaluate
from lemmata.apps.interatomic.export import export
from lemmata.apps.interatomic.label import label
from lemmata.apps.interatomic.md import md
from lemmata.apps.interatomic.plot import plot
from lemmata.apps.interatomic.predict import predict
from lemmata.apps.interatomic.prepare import prepare
from lemmata.apps.interatomic.relax import relax
from lemmata.apps.interatomic.scan import scan
from lemmata.apps.interatomic.training import train

if TYPE_CHECKING:
    from lemmata.apps.interatomic.calculator import InteratomicCalculator
    from lemmata.apps.interatomic.graphs import to_data
    from lemmata.apps.interatomic.models import Potential, Prediction, build
    from lemmata.apps.interatomic.trained import load_potential

__all__ = [
    "InteratomicCalculator",
    "Potential",
    "Prediction",
    "build",
    "compare",
    "demo",
    "evaluate",
    "export",
    "label",
    "load_potential",
    "md",
    "plot",
    "predict",
    "prepare",
    "relax",
    "scan",
    "to_data",
    "train",
]

_LAZY = {
    "InteratomicCalculator": "calculator",
    "Potential": "models",
    "Prediction": "models",
    "build": "models",
    "load_potential": "trained",
    "to_data": "graphs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
