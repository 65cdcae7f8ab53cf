"""The command line of an app: its verbs, lazily imported, and errors people can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["App", "TrainingVerbs", "Verb", "main"]


@dataclass(frozen=True)
class Verb:
    """A plain function behind a verb.

    Args:
        target: ``"package.module:function"``, imported when the verb is used.
        help: One line for the list of verbs.
    """

    target: str
    help: str


@dataclass(frozen=True)
class TrainingVerbs:
    """How ``fit``, ``validate`` and ``test`` are built with LightningCLI.

    Args:
        model: ``"package.module:Class"`` of the LightningModule.
        data: ``"package.module:Class"`` of the LightningDataModule.
        config: ``"package:file.yaml"``, a resource with the default configuration.
        defaults: Default values by dotted key, say ``{"trainer.max_epochs": 100}``; they win over ``config``.
        monitor: The logged metric that ranks checkpoints.
        mode: Whether a good metric is small (``"min"``) or large (``"max"``).
        configure: ``"package.module:function"`` called with each verb's parser, to link or add arguments.
        verbs: Which of the verbs the app has.
    """

    model: str
    data: str
    config: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    monitor: str = "val/loss"
    mode: str = "min"
    configure: str | None = None
    verbs: tuple[str, ...] = ("fit", "validate", "test")


@dataclass(frozen=True)
class App:
    """An app's command line.

    Args:
        name: The command.
        summary: One line.
        verbs: Plain verbs by name.
        training: The training verbs; None for an app without a training loop.
        distribution: The distribution whose version ``--version`` prints; ``lemmata-<name>`` by default.
    """

    name: str
    summary: str
    verbs: Mapping[str, Verb]
    training: TrainingVerbs | None = None
    distribution: str | None = None


def main(app: App, argv: Sequence[str] | None = None) -> int:
    """Run an app's command line.

    Args:
        app: The app.
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        The exit code: 0, 2 for an expected error (told in one line), 130 for an interrupt.
    """
    raise NotImplementedError
