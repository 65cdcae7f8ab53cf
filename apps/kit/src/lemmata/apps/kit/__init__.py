"""What two or more lemmata apps share: a command line, exact resume, published data, result tables and plots.

Nothing heavy is imported before it is used: `from lemmata.apps.kit import App` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.kit.cli import App, TrainingVerbs, Verb, main
    from lemmata.apps.kit.datasets import Dataset, cache_folder, fetch
    from lemmata.apps.kit.files import new_output, read_json, sha256, write_atomically, write_json
    from lemmata.apps.kit.loading import ResumableLoader, ResumableSampler
    from lemmata.apps.kit.logs import CsvLogger
    from lemmata.apps.kit.plots import PALETTE, new_figure, save_figure, style
    from lemmata.apps.kit.resume import LastCheckpoint, RandomState
    from lemmata.apps.kit.tables import Table
    from lemmata.apps.kit.training import Run, open_run, trainer_arguments

__all__ = [
    "PALETTE",
    "App",
    "CsvLogger",
    "Dataset",
    "LastCheckpoint",
    "RandomState",
    "ResumableLoader",
    "ResumableSampler",
    "Run",
    "Table",
    "TrainingVerbs",
    "Verb",
    "cache_folder",
    "fetch",
    "main",
    "new_figure",
    "new_output",
    "open_run",
    "read_json",
    "save_figure",
    "sha256",
    "style",
    "trainer_arguments",
    "write_atomically",
    "write_json",
]

_HOMES = {
    "PALETTE": "plots",
    "App": "cli",
    "CsvLogger": "logs",
    "Dataset": "datasets",
    "LastCheckpoint": "resume",
    "RandomState": "resume",
    "ResumableLoader": "loading",
    "ResumableSampler": "loading",
    "Run": "training",
    "Table": "tables",
    "TrainingVerbs": "cli",
    "Verb": "cli",
    "cache_folder": "datasets",
    "fetch": "datasets",
    "main": "cli",
    "new_figure": "plots",
    "new_output": "files",
    "open_run": "training",
    "read_json": "files",
    "save_figure": "plots",
    "sha256": "files",
    "style": "plots",
    "trainer_arguments": "training",
    "write_atomically": "files",
    "write_json": "files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
