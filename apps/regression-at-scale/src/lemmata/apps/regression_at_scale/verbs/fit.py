"""Fit a linear model to a table larger than memory.

Rows are read three times, or four where categories or means must be found first: once to sketch them, once
to sum their Gram matrix in coordinates that fit them, once to look at the residuals and certify the answer.
"""

import difflib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemmata.apps.regression_at_scale.encoding.dataset import RawDataset
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.engine.scheduler import connect, cores
from lemmata.apps.regression_at_scale.methods.job import DTYPES, Job
from lemmata.apps.regression_at_scale.model import Loss
from lemmata.apps.regression_at_scale.report.report import Findings, write_run
from lemmata.apps.regression_at_scale.run_folder import RunFolder
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.schema import select

__all__ = ["fit"]


def fit(
    data: list[str],
    *,
    target: list[str] | str,
    out: Path | str,
    features: list[str] | None = None,
    exclude: list[str] | None = None,
    categorical: list[str] | None = None,
    weight: str | None = None,
    loss: str = "l2",
    huber_delta: float | None = None,
    ridge: float | str = 0.0,
    folds: int = 5,
    one_standard_error: bool = False,
    standardise: bool = False,
    intercept: bool = True,
    impute: str = "error",
    levels: dict[str, list[str]] | None = None,
    unknown: str = "error",
    max_levels: int = 1000,
    dtype: str = "float64",
    chunk_rows: int = 65536,
    sketch_rows: int | None = None,
    coreset_size: int | None = None,
    diagnostics: bool = True,
    rtol: float | None = None,
    seed: int = 0,
    scheduler: str = "local",
    workers: int | None = None,
    resume: bool = False,
    force: bool = False,
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> Path:
    """Fit a linear model to a table, in a few passes over its rows and bounded memory, with a certificate.

    The result is the same bits for any number of workers, on a cluster, and after a kill and `resume`.

    Args:
        data: Files, folders or patterns of the table: Parquet, CSV, npy, Zarr or LIBSVM.
        target: The column to explain, or several.
        out: Folder for model, report and certificate.
        features: Columns to explain it by; all others by default.
        exclude: Columns that are no features.
        categorical: Numeric columns that name categories.
        weight: Column with the weight of each row's loss.
        loss: What is minimised over residuals: l2, l1, lp:P, huber or huber:DELTA.
        huber_delta: Where Huber's loss turns from square to absolute, in units of the target.
        ridge: Penalty on the sum of squared coefficients (scikit-learn's `alpha`), or cv to choose it.
        folds: Folds of the cross-validation.
        one_standard_error: Of penalties within one standard error of the best, choose the largest.
        standardise: Penalise coefficients of features divided by their standard deviation.
        intercept: Add a column of ones, which is never penalised.
        impute: What becomes of a missing feature: error, or mean.
        levels: Levels of categorical columns, by name; the first is what others are compared with.
        unknown: What becomes of a level that is not declared: error, or zero.
        max_levels: Most levels that a categorical column may have.
        dtype: Type of the features in memory: float64 or float32; sums are float64.
        chunk_rows: Rows that a worker holds at a time.
        sketch_rows: Rows of the sketch; four a feature by default.
        coreset_size: Rows of the coreset, for losses other than l2.
        diagnostics: Look at the residuals in a pass of its own; the certificate is weaker without.
        rtol: Largest bound on the distance from the best fit that is accepted; exit code 1 above it.
        seed: Seed of sketches, samples and folds.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        resume: Continue an unfinished run of the same arguments on the same data.
        force: Replace `out` where it holds a run.
        dry_run: Tell what would be done, and how much memory it would take.
        json: Print events as lines of JSON in place of a progress bar.
        quiet: Print nothing.

    Returns:
        The folder.

    Raises:
        ValueError: Where an argument is out of range, a column is not there, a value cannot be used, or the
            data cannot determine the coefficients.
        FileExistsError: Where `out` or an unfinished run is there, and neither `resume` nor `force`.
        OSError: Where a file cannot be read, or the cluster is lost.
        SystemExit: With code 1 where the certificate misses `rtol`; the run is written all the same.

    Examples:
        >>> import tempfile, numpy as np
        >>> from lemmata.apps.regression_at_scale.model import RegressionModel
        >>> folder = Path(tempfile.mkdtemp())
        >>> x = np.random.default_rng(0).normal(size=(1000, 3))
        >>> np.save(folder / "table.npy", np.column_stack((x, x @ [1.0, 2.0, 3.0] + 4)))
        >>> run = fit([str(folder / "table.npy")], target="c3", out=folder / "run", quiet=True)
        >>> RegressionModel.load(run).coefficients[:, 0].round(decimals=9)
        tensor([1., 2., 3., 4.], dtype=torch.float64)
    """
    started = time.perf_counter()
    asked = Loss.parse(loss)
    if huber_delta is not None:
        if asked.kind != "huber" or asked.delta is not None or not 0 < huber_delta < math.inf:
            raise ValueError(f"`huber_delta` (={huber_delta}) is a positive number for loss 'huber' alone")
        asked = replace(asked, delta=float(huber_delta))
    ridge = _ridge(ridge, asked)
    _check_arguments(
        folds=folds,
        chunk_rows=chunk_rows,
        sketch_rows=sketch_rows,
        coreset_size=coreset_size,
        max_levels=max_levels,
        workers=workers,
    )
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` (={dtype!r}) must be one of {', '.join(DTYPES)}")
    if rtol is not None and not 0 < rtol < math.inf:
        raise ValueError(f"`rtol` (={rtol}) must lie in (0, inf)")
    table = open_table(data, chunk_rows=chunk_rows)
    targets = [target] if isinstance(target, str) else list(target)
    names = [column.name for column in table.columns]
    for option, given in (("target", targets), ("features", features or []), ("weight", [weight or ""])):
        _check_near(option, [name for name in given if name], names)
    selection = select(
        table.columns,
        target=targets,
        features=features,
        exclude=exclude or (),
        categorical=categorical or (),
        weight=weight,
    )
    if levels and (strays := [name for name in levels if name not in selection.categorical]):
        raise ValueError(f"`levels` names {strays[0]!r}, which is not a categorical feature")
    job = Job(
        table=table,
        selection=selection,
        loss=asked,
        ridge=ridge,
        folds=folds,
        one_standard_error=one_standard_error,
        standardise=standardise,
        intercept=intercept,
        impute=impute,
        levels=levels or {},
        unknown=unknown,
        max_levels=max_levels,
        dtype=dtype,
        sketch_rows=sketch_rows,
        coreset_size=coreset_size,
        diagnostics=diagnostics,
        rtol=rtol,
        seed=seed,
    )
    folder = RunFolder(Path(out), job.request(), resume=resume, force=force)
    if dry_run:
        sys.stdout.write(job.plan(workers or (cores() if scheduler == "local" else 1)).text())
        return folder.out
    if folder.complete:
        if not quiet:
            sys.stderr.write(f"{folder.out}: complete already\n")
        return folder.out
    with (
        open_progress(as_json=json, quiet=quiet) as progress,
        connect(scheduler, workers) as pool,
    ):
        engine = Engine(
            RawDataset(table, selection),
            scheduler=pool,
            checkpoint=folder.begin(),
            progress=progress,
            passes=len(job.pass_names()) if asked.kind == "l2" else None,
            size=table.bytes,
        )
        try:
            findings = job.run(engine)
        except ValueError:
            folder.abandon()
            raise
        certificate = {**findings.certificate, "seconds": round(time.perf_counter() - started, 3)}
        findings = replace(findings, certificate=certificate)
        folder.publish(lambda results: write_run(results, findings))
        progress.result(out=str(folder.out), **_headline(findings))
    if not (quiet or json):
        sys.stdout.write(_summary(findings, folder.out))
    if certificate["met"] is False:
        sys.stderr.write(
            f"the certificate misses `rtol` (={rtol:g}): the bound is {certificate['relative_bound']:.3g}; "
            f"{folder.out} is written all the same\n"
        )
        raise SystemExit(1)
    return folder.out


def _ridge(ridge: float | str, loss: Loss) -> float | str:
    """Return the penalty as a number, or `"cv"`."""
    if isinstance(ridge, str) and ridge != "cv":
        raise ValueError(f"`ridge` (={ridge!r}) must be a number in [0, inf) or 'cv'")
    if not isinstance(ridge, str) and not 0 <= ridge < math.inf:
        raise ValueError(f"`ridge` (={ridge}) must lie in [0, inf), or be 'cv'")
    if ridge and loss.kind != "l2":
        raise ValueError(f"`ridge` (={ridge}) goes with loss 'l2' alone, not with {str(loss)!r}")
    return ridge if isinstance(ridge, str) else float(ridge)


def _check_arguments(**counts: int | None) -> None:
    """Raise where a number is too small."""
    for name, value in counts.items():
        least = 2 if name == "folds" else 1
        if value is not None and value < least:
            raise ValueError(f"`{name}` (={value}) must be at least {least}")


def _check_near(option: str, given: Sequence[str], names: Sequence[str]) -> None:
    """Raise where a name is unknown but close to one that is known."""
    for name in given:
        if name not in names and (near := difflib.get_close_matches(name, names, n=3)):
            raise ValueError(
                f"`{option}` names {name!r}, which is no column; did you mean {' or '.join(map(repr, near))}?"
            )


def _headline(findings: Findings) -> dict[str, Any]:
    """Return the few figures that everyone asks for."""
    certificate, state, sketched = findings.certificate, findings.state, findings.sketched
    scores = None
    if state is not None and sketched is not None:
        spread = sketched.variance[sketched.features :] * float(state["weight"])
        scores = (1 - state["squares"] / spread).tolist()
    return {
        "loss": findings.model.loss,
        "ridge": findings.model.ridge,
        "rows": findings.data["rows"],
        "features": len(findings.model.feature_names),
        "passes": certificate["passes"],
        "r_squared": scores,
        "relative_bound": certificate["relative_bound"],
        "met": certificate["met"],
        "seconds": certificate["seconds"],
    }


def _summary(findings: Findings, out: Path) -> str:
    """Return the outcome in a few lines."""
    told = _headline(findings)
    targets = ", ".join(findings.model.target_names[:5])
    ridge = f", ridge {told['ridge']:.4g}" if told["ridge"] else ""
    cost = f"{told['passes']} passes, {told['seconds']:.1f} s"
    lines = [f"{targets}: {told['loss']} regression{ridge} on {told['features']:,} features"]
    lines.append(f"{told['rows']:,} rows, {cost}")
    if told["r_squared"] is not None:
        lines.append("R² " + ", ".join(f"{value:.6g}" for value in told["r_squared"][:5]))
    if told["relative_bound"] is not None:
        lines.append(f"certified: within {told['relative_bound']:.2g} of the best fit")
    lines += [f"note: {note}" for note in findings.notes]
    return "\n".join([*lines, str(out)]) + "\n"
