"""Learn a PDE's solution operator, and compare it honestly with the classical solver.

Every verb of the command line is a function here. The verbs' modules import nothing heavy before they run, so
importing this package costs nothing; the rest is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

# A verb shares its module's name. Importing the functions here, once, binds each name to the function for
# good: a later import of the module finds it loaded and leaves the name alone.
from lemmata.apps.pde_surrogate.demo import demo
from lemmata.apps.pde_surrogate.evaluate import evaluate
from lemmata.apps.pde_surrogate.fit import fit
from lemmata.apps.pde_surrogate.generate import generate
from lemmata.apps.pde_surrogate.inspect import inspect
from lemmata.apps.pde_surrogate.plot import plot
from lemmata.apps.pde_surrogate.predict import predict

if TYPE_CHECKING:
    from lemmata.apps.pde_surrogate.loaders import load_fields
    from lemmata.apps.pde_surrogate.surrogate import Surrogate

__all__ = ["Surrogate", "demo", "evaluate", "fit", "generate", "inspect", "load_fields", "plot", "predict"]

_LAZY = {"Surrogate": "surrogate", "load_fields": "loaders"}


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
