"""A training run: its folder, and the trainer pieces every app uses.

A run folder holds `config.yaml`, `metrics.csv`, TensorBoard's events and `checkpoints/` with
`last.ckpt` and the best by the monitored metric. `open_run` and `trainer_arguments` are what
the command line uses; a Python API that does the same calls them.
"""

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lemmata.apps.kit.cli import TrainingVerbs
from lemmata.apps.kit.files import new_output, write_atomically
from lemmata.apps.kit.logs import CsvLogger
from lemmata.apps.kit.resume import LastCheckpoint, RandomState

__all__ = ["Run", "open_run", "quiet", "run_training_verb", "trainer_arguments"]


@dataclass(frozen=True)
class Run:
    """A run's folder, and the checkpoint it continues from.

    Args:
        folder: The run folder.
        checkpoint: The checkpoint to resume from; None for a new run.
    """

    folder: Path
    checkpoint: Path | None


def open_run(out: Path | str, *, resume: Path | str | None = None, force: bool = False) -> Run:
    """Open a run folder: new, replaced with `force`, or continued with `resume="last"` or a checkpoint.

    Args:
        out: The run folder.
        resume: `"last"` for the folder's `last.ckpt`, or the path of a checkpoint.
        force: Remove what the folder holds; without effect when resuming.

    Returns:
        The folder, which exists now, and the checkpoint.

    Raises:
        FileExistsError: Where the folder is not empty and neither `force` nor `resume` is given.
        FileNotFoundError: Where there is nothing to resume.
    """
    folder = Path(out)
    if resume is None and _rank() > 0:
        # The first process has opened the folder, and may have begun to write.
        return Run(folder, None)
    if resume is None:
        if folder.exists() and not force and not (folder.is_dir() and not any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} exists already; pass --resume last to go on, --force to replace it"
            )
        new_output(folder, force=force).mkdir(parents=True, exist_ok=True)
        return Run(folder, None)
    checkpoint = last_checkpoint(folder) if str(resume) == "last" else Path(resume)
    if not checkpoint.is_file():
        what = "has no last.ckpt" if str(resume) == "last" else f"cannot resume: {checkpoint} does not exist"
        raise FileNotFoundError(f"{folder} {what}; start a new run without --resume")
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, checkpoint)


def _rank() -> int:
    """Return this process's rank as the launcher tells it, before any process group exists."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def last_checkpoint(folder: Path) -> Path:
    """Return where a run folder's `last.ckpt` is."""
    return folder / "checkpoints" / "last.ckpt"


def trainer_arguments(
    folder: Path | str,
    *,
    monitor: str | None = "val/loss",
    mode: str = "min",
    save_top_k: int = 1,
    every_n_train_steps: int = 0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Return keyword arguments for `lightning.Trainer`: root folder, loggers, callbacks and progress bar.

    Args:
        folder: The run folder.
        monitor: The logged metric that ranks checkpoints; None keeps `last.ckpt` alone.
        mode: Whether a good metric is small (`"min"`) or large (`"max"`).
        save_top_k: How many of the best checkpoints to keep.
        every_n_train_steps: Steps between two writes of `last.ckpt` within an epoch; 0 for none.
        progress: Show a progress bar; by default where stderr is a terminal.

    Returns:
        `default_root_dir`, `logger`, `callbacks` and `enable_progress_bar`; add to `callbacks` what
        the run needs besides.
    """
    folder = Path(folder)
    checkpoints = folder / "checkpoints"
    shown = sys.stderr.isatty() if progress is None else progress
    callbacks: list[Callback] = [RandomState()]
    if shown:
        callbacks.append(RichProgressBar())
    if monitor is not None:
        callbacks.append(
            ModelCheckpoint(
                checkpoints,
                filename="best-epoch{epoch:03d}",
                monitor=monitor,
                mode=mode,
                save_top_k=save_top_k,
                auto_insert_metric_name=False,
                # A resumed run writes the same files again, not `-v1` beside them.
                enable_version_counter=False,
            )
        )
    callbacks.append(LastCheckpoint(checkpoints, every_n_train_steps=every_n_train_steps))
    loggers: list[Logger] = [CsvLogger(folder)]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return {
        "default_root_dir": str(folder),
        "logger": loggers,
        "callbacks": callbacks,
        "enable_progress_bar": shown,
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Keep notices that a user of an app can do nothing about off the terminal, one by one."""
    # Lightning's tips, and what it finds out about accelerators, come as log records.
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message, category in _NOTICES:
            warnings.filterwarnings("ignore", message=message, category=category)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# Each with the reason it is no news to the user.
_NOTICES: tuple[tuple[str, type[Warning]], ...] = (
    # LightningCLI calls jsonargparse by names deprecated in 4.49; they are Lightning's to change.
    (r"(?s).*was deprecated in v4\..*", DeprecationWarning),
    (r"(?s).*only one JsonargparseDeprecationWarning per type is shown.*", DeprecationWarning),
    # Lightning calls an old name of torch's pytree; it is Lightning's to change.
    (r".*LeafSpec.*is deprecated.*", FutureWarning),
    (r".*treespec.*is deprecated.*", FutureWarning),
    # Fields of this size are in memory: reading them in workers is slower, and kit's order needs none.
    (r"The '.*_dataloader' does not have many workers.*", UserWarning),
    # A resumed run writes into its own folder by intention.
    (r"Checkpoint directory .* exists and is not empty.*", UserWarning),
    # An evaluation needs the weights alone.
    (r"Be aware that when using `ckpt_path`, callbacks used to create.*", UserWarning),
    # A short epoch is logged at its end, whatever the interval of steps.
    (r"The number of training batches .* is smaller than the logging interval.*", UserWarning),
    # kit passes the arguments of one verb to LightningCLI by intention.
    (r"LightningCLI's args parameter is intended to run from within Python.*", UserWarning),
    # A run without a GPU is what the user asked for, or has.
    (r"GPU available but not used.*", UserWarning),
)


def run_training_verb(app: str, verb: str, verbs: TrainingVerbs, argv: Sequence[str]) -> None:
    """Run `fit`, `validate` or `test` with LightningCLI.

    Args:
        app: The app's name.
        verb: The verb.
        verbs: How the verbs are built.
        argv: The verb's arguments.
    """
    with quiet():
        _cli_class(app, verb, verbs)(
            _load(verbs.model),
            _load(verbs.data),
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": app, "exit_on_error": False, verb: _parser_arguments(app, verb, verbs)},
            args=[verb, *_with_the_runs_config(app, verb, argv)],
        )


class SaveConfig(SaveConfigCallback):
    """Saves the resolved configuration as `config.yaml`, from which the run starts again."""

    def setup(self, trainer: Trainer, _module: LightningModule, stage: str) -> None:
        """Save once, when a fit starts; a resumed run's configuration takes the place of the one before."""
        if self.already_saved or stage != "fit":
            return
        self.already_saved = True
        if trainer.is_global_zero:
            config = self.config.clone()
            for name in ("force", "resume", "config"):
                config.pop(name, None)
            with write_atomically(Path(trainer.default_root_dir) / "config.yaml") as draft:
                draft.write_text(self.parser.dump(config, skip_none=False, skip_validation=True))


def _cli_class(app: str, verb: str, verbs: TrainingVerbs) -> type[LightningCLI]:
    """Return a LightningCLI that knows one verb, run folders and kit's trainer pieces."""

    class TrainingCLI(LightningCLI):
        run: Run | None = None

        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            every = LightningCLI.subcommands()
            return {
                verb: {*every[verb], "weights_only", *(("ckpt_path",) if verb == "fit" else ("verbose",))}
            }

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            if verb == "fit":
                _add_run_arguments(parser, app)
            if verbs.configure is not None:
                _load(verbs.configure)(parser)
            parser.set_defaults(dict(verbs.defaults))

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            super().parse_arguments(parser, args)
            if verb != "fit":
                return
            options = self.config[verb]
            self.run = open_run(options.out, resume=options.resume, force=options.force)

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            extra = [self._get(self.config_init, name) for name in self._parser(verb).callback_keys]
            config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
            if self.run is not None:
                config = _with_the_runs_pieces(config, self.run.folder, verbs, self.config[verb])
            elif config.get("logger") is None:
                config["logger"] = False  # what an evaluation finds is printed
            return self._instantiate_trainer(config, extra)

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
            arguments = super()._prepare_subcommand_kwargs(subcommand)
            if self.run is not None:
                arguments["ckpt_path"] = self.run.checkpoint
            if arguments.get("ckpt_path") is not None:
                arguments["weights_only"] = True  # a checkpoint is data: nothing in it is executed
            return arguments

    return TrainingCLI


def _add_run_arguments(parser: LightningArgumentParser, app: str) -> None:
    """Add what a run folder needs to `fit`'s parser."""
    parser.add_argument("--out", type=str, default=_default_folder(app), help="run folder")
    parser.add_argument("--force", action="store_true", help="replace what the run folder holds")
    parser.add_argument(
        "--resume", type=str | None, default=None, help="'last', or a checkpoint to go on from"
    )
    parser.add_argument(
        "--checkpoint_every", type=int, default=0, help="steps between checkpoints within an epoch (0: none)"
    )
    parser.add_argument("--save_top_k", type=int, default=1, help="how many of the best checkpoints to keep")


def _with_the_runs_pieces(
    config: dict[str, Any], folder: Path, verbs: TrainingVerbs, options: Namespace
) -> dict[str, Any]:
    """Return the trainer's arguments with kit's pieces where the user has not chosen others."""
    pieces = trainer_arguments(
        folder,
        monitor=verbs.monitor,
        mode=verbs.mode,
        save_top_k=options.save_top_k,
        every_n_train_steps=options.checkpoint_every,
        progress=config.get("enable_progress_bar"),
    )
    chosen = config.get("callbacks") or []
    chosen = chosen if isinstance(chosen, list) else [chosen]
    logger = config.get("logger")
    return {
        **config,
        **pieces,
        "callbacks": [*pieces["callbacks"], *chosen],
        "logger": pieces["logger"] if logger is None or logger is True else logger,
    }


def _with_the_runs_config(app: str, verb: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments, after the run's own configuration where `--resume` takes up a run."""
    argv = list(argv)
    if verb != "fit" or _option(argv, "--resume") is None:
        return argv
    config = Path(_option(argv, "--out") or _default_folder(app)) / "config.yaml"
    return ["--config", str(config), *argv] if config.is_file() else argv


def _option(argv: Sequence[str], name: str) -> str | None:
    """Return the value of an option given as `--name value` or `--name=value`."""
    for place, argument in enumerate(argv):
        if argument == name and place + 1 < len(argv):
            return argv[place + 1]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None


def _default_folder(app: str) -> str:
    """Return the run folder where none is given."""
    return f"runs/{app}"


def _parser_arguments(app: str, verb: str, verbs: TrainingVerbs) -> dict[str, Any]:
    """Return what the verb's parser is made with."""
    files = []
    if verbs.config is not None:
        package, _, name = verbs.config.partition(":")
        files.append(str(resources.files(package) / name))
    return {"prog": f"{app} {verb}", "exit_on_error": False, "default_config_files": files}


def _load(target: str) -> Any:
    """Import what `"package.module:name"` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
