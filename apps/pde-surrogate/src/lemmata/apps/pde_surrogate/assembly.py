"""The beginning and the end of a generation: resolve what is asked for, lay the store out, seal it.

These run where the solvers run, so that the process that only hands out tasks never imports PyTorch.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lemmata.apps.kit.files import write_json
from lemmata.apps.pde_surrogate.chunks import is_done, marker_content
from lemmata.apps.pde_surrogate.equations import EquationEntry, build_equation, equation_class
from lemmata.apps.pde_surrogate.recipe import Recipe, Task, tasks
from lemmata.apps.pde_surrogate.store import create_group, create_root, seal_group

__all__ = ["begin", "resolve", "seal", "unfinished"]

_CODE = ("lemmata-pde-surrogate", "lemmata-operators", "torch", "numpy", "scipy")


def resolve(
    entry: EquationEntry, parameters: Mapping[str, Any] | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete what is asked for by all that determines the bits.

    Args:
        entry: What the equation's name stands for.
        parameters: Parameters the user gave.
        request: The other arguments.

    Returns:
        The request with all parameters and the versions of the code, as JSON types.

    Raises:
        ValueError: Where a parameter is unknown or out of range, or there is no grid of a resolution.
    """
    equation = build_equation(request["equation"], entry, parameters)
    for resolution in request["res"]:
        equation.grid(resolution)
    code = {name: version(name) for name in _CODE}
    completed = {**request, "parameters": equation.parameters(), "code": code}
    as_json: dict[str, Any] = json.loads(json.dumps(completed))
    return as_json


def begin(recipe: Recipe, request: Mapping[str, Any]) -> None:
    """Create the empty store, then the request, whose presence says that the store is there.

    Args:
        recipe: The recipe; its folder does not exist yet.
        request: What `resolve` returned.
    """
    equation = equation_class(recipe.target)(**recipe.parameters)
    create_root(recipe.store, {"request": dict(request)})
    for resolution in recipe.res:
        create_group(
            recipe.store,
            equation.grid(resolution),
            recipe.n,
            equation.in_channels,
            equation.out_channels,
            recipe.chunk,
        )
    (recipe.folder / "markers").mkdir()
    write_json(recipe.folder / "request.json", request)


def unfinished(recipe: Recipe) -> list[Task]:
    """List the tasks that are left, having checked the hashes of those that are done.

    Args:
        recipe: The recipe.

    Returns:
        Tasks without a marker, or whose chunk is not what the marker says.
    """
    return [task for task in tasks(recipe) if not is_done(recipe, task)]


def seal(recipe: Recipe, request: Mapping[str, Any]) -> float:
    """Give every resolution its attributes and hashes, once all tasks are done.

    Args:
        recipe: The recipe.
        request: What `resolve` returned.

    Returns:
        The largest mean label error of a resolution.

    Raises:
        FieldFileError: Where a chunk is missing, truncated or corrupt.
    """
    worst = 0.0
    for resolution in recipe.res:
        check = marker_content(recipe, Task("check", resolution)) or {}
        attributes = {key: value for key, value in request.items() if key != "res"}
        label_error = check["label_error"]
        seal_group(recipe.store, resolution, {**attributes, **check["made_by"], "label_error": label_error})
        worst = max(worst, label_error["mean"])
    return worst
