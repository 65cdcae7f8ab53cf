"""Passes over the rows: parallel, in bounded memory, resumed after a kill, the same bits however run."""

from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint, load_plain, save_plain
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import Pass, Source, State
from lemmata.apps.regression_at_scale.engine.progress import Progress, open_progress
from lemmata.apps.regression_at_scale.engine.scheduler import connect

__all__ = [
    "Checkpoint",
    "Engine",
    "Pass",
    "Progress",
    "Source",
    "State",
    "connect",
    "load_plain",
    "open_progress",
    "save_plain",
]
