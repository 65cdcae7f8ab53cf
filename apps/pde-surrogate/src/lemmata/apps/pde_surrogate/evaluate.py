"""Evaluate a surrogate at several resolutions, and against the classical solver made cheap."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lemmata.apps.kit.tables import Table
    from lemmata.apps.pde_surrogate.ladder import Point, SpeedUp
    from lemmata.apps.pde_surrogate.scoring import Score
    from lemmata.apps.pde_surrogate.surrogate import Surrogate
    from lemmata.operators.data import FieldDataset
    from lemmata.operators.pde import Equation
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Table = "lemmata.apps.kit.tables.Table"
    Point = "lemmata.apps.pde_surrogate.ladder.Point"
    SpeedUp = "lemmata.apps.pde_surrogate.ladder.SpeedUp"
    Score = "lemmata.apps.pde_surrogate.scoring.Score"
    Surrogate = "lemmata.apps.pde_surrogate.surrogate.Surrogate"
    FieldDataset = "lemmata.operators.data.FieldDataset"
    Equation = "lemmata.operators.pde.Equation"

__all__ = ["evaluate"]

RESULTS = "results.json"
FIELDS = "fields.npz"
_MODES: tuple[Literal["single", "batched"], ...] = ("single", "batched")


def evaluate(
    checkpoint: Path,
    *,
    out: Path | None = None,
    res: list[int] | None = None,
    n: int = 64,
    seed: int = 0,
    fine_factor: int = 4,
    solver: bool = True,
    data: Path | None = None,
    device: str = "cpu",
    force: bool = False,
) -> Path:
    """Evaluate a surrogate at several resolutions, and against the classical solver made cheap.

    Test fields are drawn and solved anew at each resolution: the same functions everywhere, none of them in a
    training set of any seed. The solver is then cheapened until it is as wrong as the surrogate; the headline
    is its time there over the surrogate's. Fields from a file have no solver to compare with: errors alone.

    Args:
        checkpoint: A checkpoint of this app, or a run's folder.
        out: Folder to write; "evaluation" in the run's folder where not given.
        res: Resolutions; half, once and twice the training resolution where not given.
        n: Number of test fields at each resolution.
        seed: Seed of the test fields.
        fine_factor: References are solved on a grid this many times finer.
        solver: Compare with the cheapened solver.
        data: Evaluate on this data set or file of fields in place of new ones.
        device: Where the surrogate runs, say cuda; the solver runs on the CPU.
        force: Replace existing results.

    Returns:
        The folder: results.json, tables as CSV and Markdown, and fields.npz for the plots.

    Raises:
        FileExistsError: Where the results exist and `force` is not given.
        FileNotFoundError: Where the checkpoint or the file does not exist.
        ValueError: Where they cannot be read or do not fit each other, or the training data name no equation.
    """
    from lemmata.apps.kit.files import new_output
    from lemmata.apps.pde_surrogate.scoring import score
    from lemmata.apps.pde_surrogate.surrogate import Surrogate as Trained
    from lemmata.apps.pde_surrogate.surrogate import find_checkpoint

    for name, value in (("n", n), ("fine_factor", fine_factor)):
        if value < 1:
            raise ValueError(f"`{name}` (={value}) must be a positive integer")
    checkpoint = find_checkpoint(checkpoint)
    out = run_folder(checkpoint) / "evaluation" if out is None else out
    if out.exists() and any(out.iterdir()) and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
    surrogate = Trained.load(checkpoint, device=device)
    equation = None
    if data is None:
        equation = _equation(surrogate)
        sets = _test_sets(surrogate, equation, res, n, seed, fine_factor)
    else:
        sets = _file_sets(data)
    scores = [score(surrogate, fields) for fields in sets]
    races = _races(surrogate, equation, scores) if solver and equation is not None else []
    settings = {"n": n, "seed": seed, "fine_factor": fine_factor, "data": None if data is None else str(data)}
    results = _results(checkpoint, surrogate, equation, scores, races, settings)
    tables = _tables(results)
    new_output(out, force=force).mkdir(exist_ok=True)
    _write(out, results, tables, scores)
    for table in tables.values():
        table.print()
    return out


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The folder that holds it, or holds its `checkpoints`.
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _equation(surrogate: "Surrogate") -> "Equation":
    """Return the equation that the training data name."""
    from lemmata.apps.pde_surrogate.equations import make_equation

    if surrogate.description.equation is None:
        raise ValueError("the training data name no equation to draw test fields from; pass `data`")
    return make_equation(surrogate.description.equation, surrogate.description.parameters)


def _test_sets(
    surrogate: "Surrogate",
    equation: "Equation",
    res: list[int] | None,
    n: int,
    seed: int,
    fine_factor: int,
) -> "list[FieldDataset]":
    """Return new test fields at each resolution."""
    from lemmata.apps.pde_surrogate.scoring import held_out

    finest = surrogate.description.grids[-1].shape[0]
    wanted = [finest // 2, finest, 2 * finest] if res is None else res
    return [held_out(equation, resolution, n, seed, fine_factor) for resolution in wanted]


def _file_sets(data: Path) -> "list[FieldDataset]":
    """Return the fields of a file, one data set a resolution."""
    from lemmata.apps.pde_surrogate.loaders import load_fields
    from lemmata.apps.pde_surrogate.store import is_store, resolutions

    wanted: list[int | None] = list(resolutions(data)) if is_store(data) else [None]
    return [load_fields(data, resolution=resolution) for resolution in wanted]


def _races(
    surrogate: "Surrogate", equation: "Equation", scores: "list[Score]"
) -> "list[tuple[Score, list[Point]]]":
    """Time surrogate and cheapened solver at each resolution."""
    from lemmata.apps.pde_surrogate.scoring import race

    return [(scored, race(surrogate, equation, scored)) for scored in scores]


def _results(
    checkpoint: Path,
    surrogate: "Surrogate",
    equation: "Equation | None",
    scores: "list[Score]",
    races: "list[tuple[Score, list[Point]]]",
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return everything that was found, as JSON types."""
    cost = _cost(surrogate, equation) if races and equation is not None else None
    rows, headlines = [], []
    for scored, points in races:
        rows.extend(_race_rows(scored, points))
        headlines.extend(_headlines(scored, points, cost))
    return {
        "checkpoint": str(checkpoint),
        "model": {name: surrogate.module.hparams[name] for name in ("name", "size", "overrides")},
        "training": {**surrogate.description.to_dict(), "seconds": surrogate.module.seconds},
        "settings": settings,
        "machine": _machine(),
        "errors": [scored.row() for scored in scores],
        "spectra": [scored.bands() for scored in scores],
        "race": rows,
        "speed_ups": headlines,
        "cost": cost,
    }


def _race_rows(scored: "Score", points: "list[Point]") -> list[dict[str, Any]]:
    """Return one row a way to get solutions."""
    from lemmata.apps.pde_surrogate.scoring import on_front

    fronts = {mode: on_front(points, mode) for mode in _MODES}
    return [
        {
            "resolution": list(scored.shape),
            "method": point.method,
            "setting": point.setting,
            "error": point.error,
            **{mode: point.seconds(mode) for mode in _MODES},
            **{
                f"on_front_{mode}": point.method == "solver" and point.setting in fronts[mode]
                for mode in _MODES
            },
        }
        for point in points
    ]


def _headlines(scored: "Score", points: "list[Point]", cost: dict[str, float] | None) -> list[dict[str, Any]]:
    """Return the speed-up at equal accuracy, and when it pays for labels and training."""
    from lemmata.apps.pde_surrogate.ladder import speed_up

    surrogate, *rungs = points
    rows = []
    for mode in _MODES:
        found = speed_up(surrogate, rungs, mode)
        rows.append(
            {
                "resolution": list(scored.shape),
                "mode": mode,
                "speed_up": found.value,
                "relation": found.relation,
                "error": found.error,
                "surrogate_seconds": found.surrogate,
                "solver_seconds": found.solver,
                "break_even_solves": _break_even(found, cost),
            }
        )
    return rows


def _break_even(found: "SpeedUp", cost: dict[str, float] | None) -> int | None:
    """Return after how many solves labels and training have paid off; None where they never do."""
    saving = found.solver - found.surrogate
    if cost is None or saving <= 0:
        return None
    return math.ceil(cost["total_seconds"] / saving)


def _cost(surrogate: "Surrogate", equation: "Equation") -> dict[str, float]:
    """Return what labels and training cost, labels by timing a few here."""
    from lemmata.apps.pde_surrogate.scoring import label_seconds

    known = surrogate.description
    finest = known.grids[-1].shape[0]
    labels = known.samples * label_seconds(equation, finest, known.fine_factor or 1)
    training = surrogate.module.seconds
    return {"label_seconds": labels, "training_seconds": training, "total_seconds": labels + training}


def _machine() -> dict[str, Any]:
    """Return what the timings were taken on."""
    import os
    import platform

    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _tables(results: dict[str, Any]) -> "dict[str, Table]":
    """Return the tables of results by file name."""
    from lemmata.apps.kit.tables import Table as Rows
    from lemmata.apps.pde_surrogate.metrics import METRICS

    errors = [
        {
            "grid": _times(row["resolution"]),
            "seen": "yes" if row["seen"] else "no",
            **{label: row[name] for name, label in METRICS.items() if row[name] is not None},
            "worst L2": row["l2_worst"],
        }
        for row in results["errors"]
    ]
    tables = {
        "errors": Rows.from_records(errors, title=f"Errors on {results['errors'][0]['samples']} test fields")
    }
    if results["race"]:
        tables["race"] = Rows.from_records(
            _race_records(results["race"]),
            title="Accuracy per second: the solver's Pareto front, made cheap step by step",
        )
        tables["speed_up"] = Rows.from_records(
            [_speed_up_record(row) for row in results["speed_ups"]],
            title=_speed_up_title(results["speed_ups"]),
        )
    return tables


def _speed_up_title(rows: list[dict[str, Any]]) -> str:
    """Return the table's title, with a legend of what it holds."""
    legend = {
        "<=": "<= the cheapest solver is already more accurate",
        ">=": ">= no solver on this grid is as accurate",
    }
    found = {row["relation"] for row in rows}
    said = [words for relation, words in legend.items() if relation in found]
    title = "Speed-up at equal accuracy: above 1 the surrogate is faster"
    return "; ".join([title, *said])


def _race_records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the surrogate and the solver's Pareto front, for the table."""
    return [
        {
            "grid": _times(row["resolution"]),
            "method": f"{row['method']} ({row['setting']})",
            "relative L2": row["error"],
            "ms single": 1e3 * row["single"],
            "ms batched": 1e3 * row["batched"],
        }
        for row in rows
        if row["method"] == "surrogate" or row["on_front_single"] or row["on_front_batched"]
    ]


def _speed_up_record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a speed-up for the table."""
    never = "never" if row["speed_up"] <= 1 else "-"
    relation = "" if row["relation"] == "=" else f"{row['relation']} "
    return {
        "grid": _times(row["resolution"]),
        "mode": row["mode"],
        "relative L2": row["error"],
        "surrogate ms": 1e3 * row["surrogate_seconds"],
        "solver ms": 1e3 * row["solver_seconds"],
        "speed-up": f"{relation}{row['speed_up']:.3g}",
        "break-even": never if row["break_even_solves"] is None else str(row["break_even_solves"]),
    }


def _write(out: Path, results: dict[str, Any], tables: "dict[str, Table]", scores: "list[Score]") -> None:
    """Write results, tables, and the median and the worst sample of each resolution."""
    import numpy as np

    from lemmata.apps.kit.files import write_atomically, write_json

    arrays: dict[str, Any] = {}
    for scored in scores:
        for which, sample in scored.pick().items():
            stem = f"{'x'.join(map(str, scored.shape))}_{which}"
            arrays[f"{stem}_input"] = scored.data.inputs[sample].numpy()
            arrays[f"{stem}_target"] = scored.data.targets[sample].numpy()
            arrays[f"{stem}_prediction"] = scored.prediction[sample].numpy()
    with write_atomically(out / FIELDS) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    for name, table in tables.items():
        table.save(out / name)
    write_json(out / RESULTS, results)


def _times(shape: list[int]) -> str:
    """Return a shape as people write it."""
    return " x ".join(map(str, shape))
