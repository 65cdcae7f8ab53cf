"""Generate a data set with a reference solver, on every core, and pick up where a killed run stopped.

A run writes into ``OUT.partial`` and renames its store to ``OUT`` at the end, so that ``OUT`` is a complete
data set or not there. ``OUT.partial`` holds what is asked for (``request.json``), the store, and a marker a
finished chunk; a chunk counts as finished when its marker is there and its bytes have the marker's hash.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lemmata.apps.pde_surrogate.chunks import Recipe
else:
    # Annotations are resolved when a function is first called, so that `generate --help` imports no PyTorch.
    Recipe = "lemmata.apps.pde_surrogate.chunks.Recipe"

__all__ = ["generate"]

Parameter = int | float | list[float] | str | None
_CODE = ("lemmata-pde-surrogate", "lemmata-operators", "torch", "numpy", "scipy")


def generate(
    equation: str,
    *,
    out: Path,
    n: int = 500,
    res: int | list[int] = 32,
    seed: int = 0,
    split: str = "train",
    parameters: dict[str, Parameter] | None = None,
    fine_factor: int = 2,
    chunk: int = 16,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    resume: bool = False,
) -> Path:
    """Generate a data set: random inputs of an equation and a reference solver's solutions.

    Results are the same bits for any number of workers, and after any interruption and ``resume``. Called
    from a script, several workers need the usual guard ``if __name__ == "__main__":``.

    Args:
        equation: Name of the equation: darcy, darcy-lognormal, darcy-rough, burgers, kdv, ks, navier-stokes,
            advection, poisson or helmholtz.
        out: Folder of the data set to write (Zarr), say data/train.zarr.
        n: Number of samples.
        res: Resolution (points along each axis), or several; each sample is the same function at each.
        seed: Seed of the data set.
        split: Name of the split; splits of one seed are independent.
        parameters: Physical and numerical parameters that differ from the equation's defaults.
        fine_factor: The solver works on a grid this many times finer than the resolution.
        chunk: Samples a task solves and a file holds; bounds the memory of a worker.
        workers: Processes of the local Dask cluster; one a core where not given, 0 for none.
        scheduler: Address of a running Dask scheduler (tcp://...) in place of a local cluster; its workers
            must see ``out``.
        force: Replace an existing data set, once the new one is complete.
        resume: Continue an unfinished run of the same arguments; start it where there is none.

    Returns:
        The path of the data set.

    Raises:
        FileExistsError: Where there is a data set or an unfinished run, and neither ``force`` nor ``resume``.
        ValueError: Where an argument is out of range, ``resume`` finds a run of other arguments, or a sample
            cannot be solved (the message names it).
        ChildProcessError: Where workers die repeatedly; ``resume`` continues.
        OSError: Where the scheduler cannot be reached or the disk not written.

    Example:
        >>> import tempfile
        >>> from lemmata.apps.pde_surrogate.store import read_store
        >>> out = Path(tempfile.mkdtemp()) / "train.zarr"
        >>> read_store(generate("darcy", out=out, n=3, res=8, workers=0)).targets.shape
        torch.Size([3, 1, 8, 8])
    """
    started = time.perf_counter()
    out = Path(out)
    resolutions = (res,) if isinstance(res, int) else tuple(res)
    _check_arguments(n, resolutions, seed, fine_factor, chunk, workers)
    request = _request(equation, parameters, n, resolutions, seed, split, fine_factor, chunk)
    if resume and _is_finished(out, request):
        _clean_up(out)
        _say(f"{out}: complete already")
        return out
    recipe = _prepare(out, request, force=force, resume=resume)
    _run(recipe, workers, scheduler)
    error = _finish(recipe, request, out)
    _say(
        f"{n} samples of {equation} at {', '.join(map(str, resolutions))} "
        f"in {time.perf_counter() - started:.1f} s, label error {error:.1e}: {out}"
    )
    return out


def _check_arguments(
    n: int, res: tuple[int, ...], seed: int, fine_factor: int, chunk: int, workers: int | None
) -> None:
    for name, value, least in (
        ("n", n, 1),
        ("seed", seed, 0),
        ("fine_factor", fine_factor, 1),
        ("chunk", chunk, 1),
    ):
        if value < least:
            raise ValueError(f"`{name}` (={value}) must be at least {least}")
    if workers is not None and workers < 0:
        raise ValueError(f"`workers` (={workers}) must be at least 0")
    if not res or min(res) < 1 or len(set(res)) < len(res):
        raise ValueError(f"`res` (={list(res)}) must be one or more different positive integers")


def _request(
    equation: str,
    parameters: Mapping[str, Any] | None,
    n: int,
    res: tuple[int, ...],
    seed: int,
    split: str,
    fine_factor: int,
    chunk: int,
) -> dict[str, Any]:
    """Return everything that determines the data set's bits, as JSON."""
    from importlib.metadata import version

    from lemmata.apps.pde_surrogate.equations import make_equation

    made = make_equation(equation, parameters)
    for resolution in res:
        made.grid(resolution)  # raises where there is no such grid
    request = {
        "equation": equation,
        "parameters": made.parameters(),
        "n": n,
        "res": list(res),
        "seed": seed,
        "split": split,
        "fine_factor": fine_factor,
        "chunk": min(chunk, n),
        "code": {name: version(name) for name in _CODE},
    }
    as_json: dict[str, Any] = json.loads(json.dumps(request))
    return as_json


def _is_finished(out: Path, request: Mapping[str, Any]) -> bool:
    """Tell whether the data set asked for is there; raise where another one is."""
    from lemmata.apps.pde_surrogate.store import is_store, root_attributes

    if _partial(out).exists() or not is_store(out):
        return False
    _check_same(root_attributes(out).get("request") or {}, request, f"the data set at {out}")
    return True


def _prepare(out: Path, request: Mapping[str, Any], *, force: bool, resume: bool) -> Recipe:
    """Make or find the folder of the unfinished run."""
    from lemmata.apps.pde_surrogate.chunks import Recipe as MakeRecipe
    from lemmata.apps.pde_surrogate.equations import EQUATIONS
    from lemmata.apps.pde_surrogate.store import check_replaceable

    check_replaceable(out, force=force)
    folder = _partial(out).absolute()
    recipe = MakeRecipe(
        **{key: value for key, value in request.items() if key not in ("res", "code")},
        res=tuple(request["res"]),
        target=EQUATIONS[request["equation"]].target,
        folder=folder,
    )
    begun = _begun(folder)
    if begun is not None and not (force or resume):
        raise FileExistsError(
            f"{folder}: an unfinished run is there; --resume continues it, --force starts anew"
        )
    if begun is not None and resume:
        _check_same(begun, request, f"the unfinished run at {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _begin(recipe, request)
    return recipe


def _begun(folder: Path) -> dict[str, Any] | None:
    """Return what an unfinished run was asked for; ``None`` where it got nowhere."""
    try:
        request = json.loads((folder / "request.json").read_bytes())
    except (OSError, ValueError):
        return None
    return request if isinstance(request, dict) else None


def _begin(recipe: Recipe, request: Mapping[str, Any]) -> None:
    """Create the empty store, then the request, whose presence says that the store is there."""
    from lemmata.apps.pde_surrogate.equations import equation_class
    from lemmata.apps.pde_surrogate.store import create_group, create_root

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
    unfinished = recipe.folder / "request.json.tmp"
    unfinished.write_text(json.dumps(request))
    unfinished.replace(recipe.folder / "request.json")


def _check_same(begun: Mapping[str, Any], request: Mapping[str, Any], what: str) -> None:
    differing = [key for key in request if begun.get(key) != request[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"cannot resume: `{key}` is {request[key]!r}, but {what} has {begun.get(key)!r}; "
            "--force starts anew"
        )


def _run(recipe: Recipe, workers: int | None, scheduler: str | None) -> None:
    from lemmata.apps.pde_surrogate.chunks import is_done, run_task, tasks
    from lemmata.apps.pde_surrogate.cluster import run_all

    everything = tasks(recipe)
    left = [task for task in everything if not is_done(recipe, task)]
    with _progress(f"generate {recipe.equation}", len(everything), len(everything) - len(left)) as advance:
        run_all(partial(run_task, recipe), left, workers=workers, scheduler=scheduler, finished=advance)


def _finish(recipe: Recipe, request: Mapping[str, Any], out: Path) -> float:
    """Seal the store and move it into place; return the worst label error."""
    from lemmata.apps.pde_surrogate.chunks import Task, marker_content
    from lemmata.apps.pde_surrogate.store import publish, seal_group

    worst = 0.0
    for resolution in recipe.res:
        check = marker_content(recipe, Task("check", resolution)) or {}
        attributes = {key: value for key, value in request.items() if key != "res"}
        seal_group(
            recipe.store,
            resolution,
            {**attributes, **check.get("made_by", {}), "label_error": check.get("label_error")},
        )
        worst = max(worst, check["label_error"]["mean"])
    publish(recipe.store, out)
    _clean_up(out)
    return worst


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _clean_up(out: Path) -> None:
    shutil.rmtree(_partial(out), ignore_errors=True)


@contextmanager
def _progress(description: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda: progress.advance(task)


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)
