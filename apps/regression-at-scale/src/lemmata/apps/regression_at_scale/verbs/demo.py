"""Make a table larger than the memory it will be fitted in, fit it twice, and check the answers."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lemmata.apps.kit.files import new_output, read_json
from lemmata.apps.kit.plots import new_figure, save_figure
from lemmata.apps.kit.tables import Table
from lemmata.apps.regression_at_scale.engine.memory import peak_memory
from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.verbs.compare import compare
from lemmata.apps.regression_at_scale.verbs.fit import fit
from lemmata.apps.regression_at_scale.verbs.generate import generate

__all__ = ["demo"]

_WIDTH = 8  # bytes of a number
_RTOL = 1e-3  # gap that the robust fit is to certify
_CORESET = 10_000  # rows of its coreset; twice as many take 60 MB more


def demo(
    *,
    gigabytes: float = 4.0,
    columns: int = 60,
    outliers: float = 0.01,
    out: Path = Path("runs/regression-at-scale-demo"),
    workers: int | None = None,
    keep_data: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Make a table of 4 GB, fit it within 1 GB of memory, and check the answers against the truth.

    One row in a hundred has a gross error, so that least squares and least absolute residuals differ. Both
    fits carry a certificate, and are compared with scikit-learn's and SciPy's on a sample that they can hold.

    Args:
        gigabytes: Size of the table.
        columns: Number of features.
        outliers: Share of rows with a gross error.
        out: Folder of the results.
        workers: Threads; one a core by default.
        keep_data: Leave the table where it is.
        force: Replace `out` where it exists.
        quiet: Show neither progress nor tables.

    Returns:
        The folder.

    Raises:
        ValueError: Where the table would have too few rows.
        FileExistsError: Where `out` exists and `force` is not given.
        OSError: Where the disk has not enough room.
    """
    rows = int(gigabytes * 1e9 / (_WIDTH * (columns + 1)))
    if rows < 100 * columns:
        raise ValueError(f"`gigabytes` (={gigabytes}) makes {rows} rows, fewer than {100 * columns}")
    out = new_output(out, force=force)
    out.mkdir(parents=True, exist_ok=True)
    _check_room(out, gigabytes * 1e9)
    before = peak_memory()
    data = generate(
        out / "data", rows=rows, columns=columns, condition=100.0, outliers=outliers, dtype="float64"
    )
    truth = read_json(data / "truth.json")
    records = []
    for loss in ("l2", "l1"):
        started = time.perf_counter()
        options: dict[str, Any] = {} if loss == "l2" else {"rtol": _RTOL, "coreset_size": _CORESET}
        run = fit(
            [f"{data}/*.parquet"],
            target="y",
            loss=loss,
            out=out / loss,
            workers=workers,
            quiet=quiet,
            **options,
        )
        seconds = time.perf_counter() - started
        records.append(
            {"fit": loss, **_judged(run, truth), "seconds": seconds, "peak memory (MB)": peak_memory()}
        )
    table = Table.from_records(records, title=f"{gigabytes:g} GB: {rows:,} rows of {columns} features")
    table.save(out / "demo")
    _draw(out, truth)
    if not quiet:
        table.print()
        sys.stdout.write(f"(the process held {before:,.0f} MB before it read the first row)\n")
    for loss in ("l2", "l1"):
        compare(out / loss, [f"{data}/*.parquet"], out=out / f"compare-{loss}", workers=workers, quiet=quiet)
    if not keep_data:
        shutil.rmtree(data)
    return out


def _check_room(folder: Path, size: float) -> None:
    """Raise where the disk has no room for the table."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        raise OSError(
            f"{folder}: {free / 1e9:.1f} GB are free on this disk, the table takes {size / 1e9:.1f} GB"
        )


def _judged(run: Path, truth: dict[str, Any]) -> dict[str, Any]:
    """Return how far a fit is from the truth, and what its certificate says."""
    model, certificate = RegressionModel.load(run), read_json(run / "certificate.json")
    exact = _truth(truth, model.feature_names)
    error = torch.linalg.vector_norm(model.coefficients[:, 0] - exact) / torch.linalg.vector_norm(exact)
    bound = certificate.get("relative_bound", certificate.get("relative_gap"))
    return {
        "error of the coefficients": float(error),
        "passes": certificate["passes"],
        "certified to": bound,
    }


def _truth(truth: dict[str, Any], names: tuple[str, ...]) -> torch.Tensor:
    """Return the true coefficients in the order of a model's features."""
    known = {**truth["coefficients"], "(intercept)": truth["intercept"]}
    return torch.tensor([known[name] for name in names], dtype=torch.float64)


def _draw(out: Path, truth: dict[str, Any]) -> None:
    """Draw both fits' errors, coefficient by coefficient."""
    figure, ((axes,),) = new_figure(width=6.4)
    columns: dict[str, list[Any]] = {}
    for loss in ("l2", "l1"):
        model = RegressionModel.load(out / loss)
        error = (model.coefficients[:, 0] - _truth(truth, model.feature_names)).abs()
        columns["feature"] = list(model.feature_names)
        columns[f"error, {loss}"] = error.tolist()
        axes.semilogy(error.clamp(min=1e-16).tolist(), "o", label=loss)
    axes.set(xlabel="coefficient", ylabel="absolute error")
    axes.set_title("One row in a hundred has a gross error")
    axes.legend()
    save_figure(figure, out / "errors", columns)
