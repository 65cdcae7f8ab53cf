"""Generate a data set with a reference solver, on every core, and pick up where a killed run stopped.

A run writes into `OUT.partial` and renames its store to `OUT` at the end, so that `OUT` is a complete
data set or not there. `OUT.partial` holds what is asked for (`request.json`), the store, and a marker a
finished chunk; a chunk counts as finished when its marker is there and its bytes have the marker's hash.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lemmata.apps.pde_surrogate.equations import find_equation
from lemmata.apps.pde_surrogate.publishing import check_replaceable, is_store, publish, root_attributes
from lemmata.apps.pde_surrogate.recipe import Recipe, tasks

__all__ = ["generate"]

Parameter = int | float | list[float] | str | None
_ASSEMBLY = "lemmata.apps.pde_surrogate.assembly"
_CHUNKS = "lemmata.apps.pde_surrogate.chunks"


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

    Results are the same bits for any number of workers, and after any interruption and `resume`. Called
    from a script, several workers need the usual guard `if __name__ == "__main__":`.

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
            must see `out`.
        force: Replace an existing data set, once the new one is complete.
        resume: Continue an unfinished run of the same arguments; start it where there is none.

    Returns:
        The path of the data set.

    Raises:
        FileExistsError: Where there is a data set or an unfinished run, and neither `force` nor `resume`.
        ValueError: Where an argument is out of range, `resume` finds a run of other arguments, or a sample
            cannot be solved (the message names it).
        ChildProcessError: Where workers die repeatedly; `resume` continues.
        OSError: Where the scheduler cannot be reached or the disk not written.

    Examples:
        >>> import tempfile
        >>> from lemmata.apps.pde_surrogate.store import read_store
        >>> out = Path(tempfile.mkdtemp()) / "train.zarr"
        >>> read_store(generate("darcy", out=out, n=3, res=8, workers=0)).targets.shape
        torch.Size([3, 1, 8, 8])
    """
    from lemmata.apps.pde_surrogate.cluster import open_workers

    started = time.perf_counter()
    out = Path(out)
    resolutions = (res,) if isinstance(res, int) else tuple(res)
    _check_arguments(n, resolutions, seed, fine_factor, chunk, workers)
    entry = find_equation(equation)
    asked = {
        "equation": equation,
        "n": n,
        "res": list(resolutions),
        "seed": seed,
        "split": split,
        "fine_factor": fine_factor,
        "chunk": min(chunk, n),
    }
    _check_free(out, force=force, resume=resume)
    with open_workers(workers, scheduler, tasks=-(-n // chunk) + len(resolutions), preload=_ASSEMBLY) as pool:
        request = pool.call(f"{_ASSEMBLY}:resolve", entry, parameters, asked)
        if resume and _is_finished(out, request):
            shutil.rmtree(_partial(out), ignore_errors=True)
            _say(f"{out}: complete already")
            return out
        check_replaceable(out, force=force)
        recipe = _recipe(out, entry.target, request)
        if not _continues(recipe, request, resume=resume):
            shutil.rmtree(recipe.folder, ignore_errors=True)
            pool.call(f"{_ASSEMBLY}:begin", recipe, request)
        left = pool.call(f"{_ASSEMBLY}:unfinished", recipe)
        total = len(tasks(recipe))
        with _progress(f"generate {equation}", total, total - len(left)) as advance:
            pool.each(f"{_CHUNKS}:run_task", recipe, left, advance)
        error = pool.call(f"{_ASSEMBLY}:seal", recipe, request)
    publish(recipe.store, out)
    shutil.rmtree(recipe.folder, ignore_errors=True)
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


def _check_free(out: Path, *, force: bool, resume: bool) -> None:
    """Raise where something is in the way and nothing said what to do with it."""
    if not resume:
        check_replaceable(out, force=force)
    folder = _partial(out)
    if _begun(folder) is not None and not (force or resume):
        raise FileExistsError(
            f"{folder}: an unfinished run is there; --resume continues it, --force starts anew"
        )


def _is_finished(out: Path, request: Mapping[str, Any]) -> bool:
    """Tell whether the data set asked for is there; raise where another one is."""
    if (_partial(out) / "store").exists() or not is_store(out):
        return False
    _check_same(root_attributes(out).get("request") or {}, request, f"the data set at {out}")
    return True


def _recipe(out: Path, target: str, request: Mapping[str, Any]) -> Recipe:
    arguments = {key: value for key, value in request.items() if key not in ("res", "code")}
    return Recipe(**arguments, target=target, res=tuple(request["res"]), folder=_partial(out).absolute())


def _continues(recipe: Recipe, request: Mapping[str, Any], *, resume: bool) -> bool:
    """Tell whether there is an unfinished run to continue; raise where it was asked for something else."""
    begun = _begun(recipe.folder)
    if begun is None or not resume:
        return False
    _check_same(begun, request, f"the unfinished run at {recipe.folder}")
    return True


def _begun(folder: Path) -> dict[str, Any] | None:
    """Return what an unfinished run was asked for; `None` where it got nowhere, or to its very end."""
    if not (folder / "store").is_dir():
        return None
    try:
        request = json.loads((folder / "request.json").read_bytes())
    except (OSError, ValueError):
        return None
    return request if isinstance(request, dict) else None


def _check_same(begun: Mapping[str, Any], request: Mapping[str, Any], what: str) -> None:
    differing = [key for key in request if begun.get(key) != request[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"cannot resume: `{key}` is {request[key]!r}, but {what} has {begun.get(key)!r}; "
            "--force starts anew"
        )


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


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
