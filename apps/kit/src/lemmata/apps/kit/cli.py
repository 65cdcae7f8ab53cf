"""The command line of an app: its verbs, imported when used, and errors people can read.

`fit`, `validate` and `test` are LightningCLI's; every other verb is a plain function whose parameters
become arguments. `--help` and `--version` import nothing but this module. An expected error (a wrong
value, a missing or broken file, an argument the parser refuses) ends in one line on stderr and exit code 2;
`LEMMATA_TRACEBACK=1` shows where it came from.
"""

import importlib
import importlib.metadata
import inspect
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["App", "TrainingVerbs", "Verb", "main"]


@dataclass(frozen=True)
class Verb:
    """A plain function behind a verb.

    Args:
        target: `"package.module:function"`, imported when the verb is used. Parameters without a default
            are positional arguments, keyword-only ones options; their types and docstring entries make the
            help.
        help: One line for the list of verbs.
    """

    target: str
    help: str


@dataclass(frozen=True)
class TrainingVerbs:
    """How `fit`, `validate` and `test` are built with LightningCLI.

    Args:
        model: `"package.module:Class"` of the LightningModule.
        data: `"package.module:Class"` of the LightningDataModule.
        config: `"package:file.yaml"`, a resource with the default configuration; it wins over `defaults`.
        defaults: Default values by dotted key, say `{"trainer.max_epochs": 100}`.
        monitor: The logged metric that ranks checkpoints; None to keep the last alone.
        mode: Whether a good metric is small (`"min"`) or large (`"max"`).
        configure: `"package.module:function"` called with each verb's parser, to link or add arguments.
        short: What people type first, and the option it stands for, say `{"--lr": "--model.lr"}`.
        verbs: Which of the verbs the app has, with one line of help each.
    """

    model: str
    data: str
    config: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    monitor: str | None = "val/loss"
    mode: str = "min"
    configure: str | None = None
    short: Mapping[str, str] = field(default_factory=dict)
    verbs: Mapping[str, str] = field(
        default_factory=lambda: {
            "fit": "Train a model",
            "validate": "Evaluate a checkpoint on the validation data",
            "test": "Evaluate a checkpoint on the test data",
        }
    )


@dataclass(frozen=True)
class App:
    """An app's command line.

    Args:
        name: The command.
        summary: One line.
        verbs: Plain verbs by name, in the order they are listed.
        training: The training verbs; None for an app without a training loop.
        distribution: The distribution whose version `--version` prints; `lemmata-<name>` by default.
    """

    name: str
    summary: str
    verbs: Mapping[str, Verb]
    training: TrainingVerbs | None = None
    distribution: str | None = None

    def help_by_verb(self) -> dict[str, str]:
        """Return the one line of help of each verb, training verbs first."""
        training = dict(self.training.verbs) if self.training is not None else {}
        return {**training, **{name: verb.help for name, verb in self.verbs.items()}}


def main(app: App, argv: Sequence[str] | None = None) -> int:
    """Run an app's command line.

    Args:
        app: The app.
        argv: Arguments without the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit code: 0, 2 for an expected error (told in one line), 130 for an interrupt.

    Examples:
        >>> app = App("tell", "Tell things.", {"sha": Verb("lemmata.apps.kit.files:sha256", "Hash a file")})
        >>> main(app, ["--help"])
        usage: tell [-h] [--version] VERB ...
        <BLANKLINE>
        Tell things.
        <BLANKLINE>
        verbs:
          sha  Hash a file
        <BLANKLINE>
        'tell VERB --help' lists a verb's options.
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(app, arguments)
    except KeyboardInterrupt:
        return _end(app, "interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe (`head`) has seen enough; nothing is left to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("LEMMATA_TRACEBACK") or not _is_expected(error):
            raise
        return _end(app, f"error: {_one_line(error)}", 2)


def _dispatch(app: App, arguments: list[str]) -> int:
    """Run what the first argument names."""
    verb = arguments[0] if arguments else "--help"
    if verb in {"-h", "--help"}:
        sys.stdout.write(_usage(app))
        return 0 if arguments else 2
    if verb == "--version":
        version = importlib.metadata.version(app.distribution or f"lemmata-{app.name}")
        sys.stdout.write(f"{app.name} {version}\n")
        return 0
    known = app.help_by_verb()
    if verb not in known:
        raise ValueError(f"unknown verb {verb!r}; expected one of {', '.join(known)}")
    try:
        if app.training is not None and verb in app.training.verbs and verb not in app.verbs:
            _run_training_verb(app, app.training, verb, arguments[1:])
        else:
            _run_function(app, verb, arguments[1:])
    except SystemExit as end:  # argparse ends `--help` like this
        return end.code if isinstance(end.code, int) else 0
    return 0


def _usage(app: App) -> str:
    """Return the app's help."""
    known = app.help_by_verb()
    width = max(map(len, known), default=0)
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in known.items())
    return (
        f"usage: {app.name} [-h] [--version] VERB ...\n\n{app.summary}\n\nverbs:\n{verbs}\n\n"
        f"'{app.name} VERB --help' lists a verb's options.\n"
    )


def _run_training_verb(app: App, training: TrainingVerbs, verb: str, arguments: list[str]) -> None:
    """Run one of Lightning's verbs."""
    from lemmata.apps.kit.training import run_training_verb

    run_training_verb(
        app.name, verb, training, [_in_full(argument, training.short) for argument in arguments]
    )


def _in_full(argument: str, short: Mapping[str, str]) -> str:
    """Return an option that has a short form by its full name."""
    name, equals, value = argument.partition("=")
    return short.get(name, name) + equals + value


def _run_function(app: App, verb: str, arguments: list[str]) -> None:
    """Parse the arguments of a plain verb's function, and call it."""
    import jsonargparse

    function = _load(app.verbs[verb].target)
    parser = jsonargparse.ArgumentParser(
        prog=f"{app.name} {verb}", description=app.verbs[verb].help, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with values for the options below")
    parameters = inspect.signature(function).parameters
    every: set[str | int] = set(parameters)
    options = {name for name in every if parameters[str(name)].kind is inspect.Parameter.KEYWORD_ONLY}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=options)
    parser.add_function_arguments(function, as_group=False, skip=every - options)
    hints = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    places = [name for name in parameters if name not in options]
    parsed = parser.parse_args(_as_written(arguments, hints, places))
    parsed.pop("config", None)
    function(**parser.instantiate(parsed).as_dict())


def _as_written(arguments: list[str], hints: Mapping[str, str], places: Sequence[str]) -> list[str]:
    """Return arguments as jsonargparse wants them: values of a flag and brackets round a list.

    People write `a.csv b.csv --dry-run --res 16 32`; jsonargparse reads `["a.csv","b.csv"] --dry_run=true
    --res=[16,32]`.

    Args:
        arguments: What people wrote.
        hints: Types of the verb's parameters.
        places: Names of the positional ones, in order; one of them may be a list.
    """
    options: list[str] = []
    bare: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            bare.append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_") if name.replace("-", "_") in hints else name
        values = list(itertools.takewhile(lambda value: not value.startswith("--"), rest))
        if equals:
            options.append(f"--{name}={value}")
        elif "bool" in hints.get(name, "") and values[:1] not in (["true"], ["false"]):
            options.append(f"--{name}=true")
        elif "list" in hints.get(name, "") and values:
            options.append(f"--{name}={_as_list(values, hints[name])}")
            del rest[: len(values)]
        else:
            options += [f"--{name}", *values[:1]]
            del rest[: len(values[:1])]
    for place, name in enumerate(places):
        if "list" in hints[name] and (taken := bare[place : len(bare) - (len(places) - place - 1)]):
            bare[place : place + len(taken)] = [_as_list(taken, hints[name])]
    return bare + options


def _as_list(values: list[str], hint: str) -> str:
    """Return values as a list that jsonargparse reads; one that is a list, or may stand alone, as it is."""
    if len(values) == 1 and (values[0].startswith("[") or values[0] == "null" or "| str" in hint):
        return values[0]
    if "str" in hint or "Path" in hint:
        return json.dumps(values, ensure_ascii=False)
    return f"[{','.join(values)}]"


def _load(target: str) -> Callable[..., Any]:
    """Import what `"package.module:function"` names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _is_expected(error: Exception) -> bool:
    """Tell an error of the user's input from a fault of the program."""
    if isinstance(error, ValueError | TypeError | OSError):
        return True
    # jsonargparse raises argparse's error, Lightning its own, neither a ValueError.
    return type(error).__name__ in {"ArgumentError", "MisconfigurationException"}


def _one_line(error: Exception) -> str:
    """Return an error's message in one line."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        message = f"{error.filename}: {error.strerror}"
    return " ".join(message.split()) or type(error).__name__


def _end(app: App, message: str, code: int) -> int:
    """Tell the user in one line, and return the exit code."""
    sys.stderr.write(f"{app.name}: {message}\n")
    return code
