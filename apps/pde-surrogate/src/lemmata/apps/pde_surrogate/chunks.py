"""One task of a generation: solve a chunk of samples, write it, and leave a marker with its hashes.

This is what workers run. A sample's randomness depends on seed, split and its number alone, and a chunk's
samples on nothing but the recipe, so results are the same bits for any number of workers in any order.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lemmata.apps.kit.files import write_json
from lemmata.apps.pde_surrogate.equations import equation_class
from lemmata.apps.pde_surrogate.formats.source import FieldFileError
from lemmata.apps.pde_surrogate.recipe import Recipe, Task
from lemmata.apps.pde_surrogate.store import array_digests, write_samples
from lemmata.operators.data import FieldDataset
from lemmata.operators.pde import Equation

__all__ = ["is_done", "marker_content", "run_task", "sample_generator"]

CHECKED = 4
"""Samples whose labels are compared with a run twice as fine."""


def run_task(recipe: Recipe, task: Task) -> None:
    """Do a task and leave its marker, which appears at once or not at all.

    Args:
        recipe: The recipe.
        task: One of its tasks.

    Raises:
        ValueError: Where the solver fails; the message names equation and sample.
    """
    with _one_thread():
        equation = equation_class(recipe.target)(**recipe.parameters)
        if task.kind == "check":
            content = _check_labels(recipe, equation, task.number)
        else:
            content = {str(res): _write_chunk(recipe, equation, task.number, res) for res in recipe.res}
    write_json(task.marker(recipe), content)


def is_done(recipe: Recipe, task: Task) -> bool:
    """Tell whether a task was finished by an earlier run, and its chunk is still what was written.

    Args:
        recipe: The recipe.
        task: One of its tasks.

    Returns:
        Whether there is nothing left to do.
    """
    content = marker_content(recipe, task)
    if content is None or task.kind == "check":
        return content is not None
    span = recipe.span(task.number)
    try:
        found = {str(res): array_digests(recipe.store, res, span.start, span.stop) for res in recipe.res}
    except FieldFileError:
        return False
    return found == content


def marker_content(recipe: Recipe, task: Task) -> dict[str, Any] | None:
    """Return what a task's marker says.

    Args:
        recipe: The recipe.
        task: One of its tasks.

    Returns:
        Hashes by resolution, or the outcome of the check; `None` where there is no readable marker.
    """
    try:
        content = json.loads(task.marker(recipe).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def sample_generator(seed: int, split: str, sample: int) -> torch.Generator:
    """Return the source of randomness of one sample.

    Args:
        seed: Seed of the data set.
        split: Name of the split.
        sample: Number of the sample.

    Returns:
        A generator seeded by `SeedSequence(seed, spawn_key=(split, sample))`.

    Examples:
        >>> sample_generator(0, "train", 3).initial_seed() == sample_generator(0, "test", 3).initial_seed()
        False
    """
    split_id = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4])
    word = np.random.SeedSequence(seed, spawn_key=(split_id, sample)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


def _write_chunk(recipe: Recipe, equation: Equation, number: int, res: int) -> dict[str, str]:
    span = recipe.span(number)
    data = _solve(recipe, equation, span, res, recipe.fine_factor, torch.float32)
    return write_samples(recipe.store, res, span.start, (data.inputs.numpy(), data.targets.numpy()))


def _check_labels(recipe: Recipe, equation: Equation, res: int) -> dict[str, Any]:
    """Compare the labels of a few samples with those of a run twice as fine, in space and in time."""
    span = range(min(CHECKED, recipe.n))
    finer = {**recipe.parameters}
    if isinstance(finer.get("time_step"), (int, float)):
        finer["time_step"] = finer["time_step"] / 2
    labels = _solve(recipe, equation, span, res, recipe.fine_factor, torch.float64)
    finer_equation = equation_class(recipe.target)(**finer)
    reference = _solve(recipe, finer_equation, span, res, 2 * recipe.fine_factor, torch.float64)
    errors = _relative_l2(labels, reference.targets)
    return {
        "made_by": {key: labels.attributes.get(key) for key in ("fine_resolution", "solver")},
        "label_error": {
            "norm": "relative L2",
            "samples": len(span),
            "mean": float(errors.mean()),
            "max": float(errors.max()),
            "reference": {
                "fine_factor": 2 * recipe.fine_factor,
                "fine_resolution": reference.attributes.get("fine_resolution"),
                "parameters": finer,
            },
        },
    }


def _relative_l2(labels: FieldDataset, reference: Tensor) -> Tensor:
    weights = labels.grid.weights(dtype=torch.float64)
    difference = ((labels.targets - reference).square() * weights).flatten(1).sum(1)
    size = (reference.square() * weights).flatten(1).sum(1)
    return (difference / size.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def _solve(
    recipe: Recipe, equation: Equation, span: range, res: int, fine_factor: int, dtype: torch.dtype
) -> FieldDataset:
    """Draw and solve samples together; where that fails, find the sample that does."""
    try:
        data = _dataset(recipe, equation, span, res, fine_factor, dtype)
        _check_finite(data)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        for sample in span:
            try:
                _check_finite(_dataset(recipe, equation, range(sample, sample + 1), res, fine_factor, dtype))
            except (ArithmeticError, RuntimeError, ValueError) as cause:
                raise ValueError(
                    f"sample {sample} of {recipe.equation!r} (split {recipe.split!r}, seed {recipe.seed}) "
                    f"fails at resolution {res}, solved {fine_factor} times finer: {cause}"
                ) from cause
        raise ValueError(
            f"samples {span.start} to {span.stop - 1} of {recipe.equation!r} fail together "
            f"at resolution {res}: {error}"
        ) from error
    return data


def _dataset(
    recipe: Recipe, equation: Equation, span: range, res: int, fine_factor: int, dtype: torch.dtype
) -> FieldDataset:
    generators = [sample_generator(recipe.seed, recipe.split, sample) for sample in span]
    return equation.dataset(len(span), res, generator=generators, fine_factor=fine_factor, dtype=dtype)


def _check_finite(data: FieldDataset) -> None:
    if not bool(torch.isfinite(data.targets).all()):
        raise ValueError("the solution is not finite; a smaller `time_step` may help")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, whose results do not depend on how many there might be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # BLAS
            yield
    finally:
        torch.set_num_threads(threads)
