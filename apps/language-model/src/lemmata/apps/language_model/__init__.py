"""Train a small language model on your own text, and compare optimisers on it honestly.

Every verb of the command line is a function here. The verbs' modules import nothing heavy before they run, so
importing this package costs nothing; the rest is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

# A verb shares its module's name. Importing the functions here, once, binds each name to the function for
# good: a later import of the module finds it loaded and leaves the name alone.
from lemmata.apps.language_model.bench import bench
from lemmata.apps.language_model.compare import compare
from lemmata.apps.language_model.demo import demo
from lemmata.apps.language_model.export import export
from lemmata.apps.language_model.generate import generate
from lemmata.apps.language_model.plot import plot
from lemmata.apps.language_model.predict import predict
from lemmata.apps.language_model.refine import refine
from lemmata.apps.language_model.training import train

if TYPE_CHECKING:
    from lemmata.apps.language_model.model.config import DecoderConfig
    from lemmata.apps.language_model.model.decoder import Decoder
    from lemmata.apps.language_model.trained import TrainedModel, load_model

__all__ = [
    "Decoder",
    "DecoderConfig",
    "TrainedModel",
    "bench",
    "compare",
    "demo",
    "export",
    "generate",
    "load_model",
    "plot",
    "predict",
    "refine",
    "train",
]

_LAZY = {
    "Decoder": "model.decoder",
    "DecoderConfig": "model.config",
    "TrainedModel": "trained",
    "load_model": "trained",
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
