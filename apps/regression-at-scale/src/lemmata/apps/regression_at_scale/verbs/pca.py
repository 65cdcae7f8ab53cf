"""Principal components of a table larger than memory, in a few passes over its rows.

Axis letters: d features, r components, l columns of the basis.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lemmata.apps.kit.files import write_json
from lemmata.apps.kit.plots import new_figure, save_figure
from lemmata.apps.kit.tables import Table
from lemmata.apps.regression_at_scale.encoding.dataset import Dataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder, Rows
from lemmata.apps.regression_at_scale.encoding.opening import encode, open_rows
from lemmata.apps.regression_at_scale.engine.checkpoint import load_plain, save_plain
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.engine.progress import open_progress
from lemmata.apps.regression_at_scale.run_folder import RunFolder
from lemmata.apps.regression_at_scale.writing import check_free, open_writer
from lemmata.sketching.lowrank import PCAResult, PCASums, pca_basis, pca_finish, pca_step

__all__ = ["Components", "ScatterPass", "pca"]

_FORMAT = "lemmata.regression-at-scale.components/1"


@dataclass(frozen=True)
class ScatterPass:
    """The scatter matrix of the features times a thin matrix, without the scatter matrix.

    Args:
        basis: The thin matrix, shape (d, l).
        center: Whether columns are centred.
        name: What people see.
    """

    basis: Tensor
    center: bool = True
    name: str = "scatter"

    def partial(self, rows: Rows) -> State:
        """Return a chunk's sums."""
        return PCASums.partial(rows.x, self.basis, center=self.center).state_dict()

    def add(self, first: State, second: State) -> State:
        """Merge two states."""
        return (PCASums.from_state_dict(first) + PCASums.from_state_dict(second)).state_dict()


@dataclass(frozen=True)
class Components:
    """Principal components with what turns a table into their coordinates.

    Args:
        components: Orthonormal rows, shape (r, d).
        mean: Means of the features, shape (d,).
        scale: What features were divided by, shape (d,).
        explained_variance: Variance along each component, shape (r,).
        feature_names: Names of the features.
        encoder: State of the encoder.
    """

    components: Float[Tensor, "r d"]
    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]
    explained_variance: Float[Tensor, " r"]
    feature_names: tuple[str, ...]
    encoder: dict[str, Any]

    def transform(self, x: Tensor) -> Float[Tensor, "n r"]:
        """Return the coordinates of encoded rows, shape (n, d)."""
        return ((x.double() - self.mean) / self.scale) @ self.components.T

    def save(self, path: Path) -> None:
        """Write the components; the same components give the same bytes."""
        values = {**vars(self), "feature_names": list(self.feature_names)}
        save_plain(path, {"format": _FORMAT, **values})

    @classmethod
    def load(cls, path: Path) -> "Components":
        """Read components from a file or the folder of a run; nothing in the file is run.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where the file is broken, or holds something else.
        """
        path = path / "components.pt" if path.is_dir() else path
        saved = load_plain(path)
        if not isinstance(saved, dict) or saved.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} does not hold principal components")
        return cls(**{**saved, "feature_names": tuple(saved["feature_names"])})


def pca(
    data: list[str],
    *,
    out: Path,
    components: int = 10,
    features: list[str] | None = None,
    exclude: list[str] | None = None,
    center: bool = True,
    standardise: bool = False,
    impute: str = "error",
    passes: int = 3,
    scores: Path | None = None,
    chunk_rows: int = 65536,
    scheduler: str = "local",
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> Path:
    """Find the principal components of a table.

    Args:
        data: Files, folders or patterns of the table.
        out: The run's folder: components.pt, components.csv, report.json and a plot.
        components: How many.
        features: Columns to use; all but the excluded ones by default.
        exclude: Columns not to use.
        center: Subtract the mean of every column.
        standardise: Divide columns by their standard deviation.
        impute: What a missing value becomes: error, or mean.
        passes: Passes over the rows; one is enough for variances that fall fast.
        scores: A file for the rows' coordinates, `.parquet` or `.csv`; that takes a further pass.
        chunk_rows: Rows that a worker holds at a time.
        scheduler: `local`, or the address of a Dask scheduler.
        workers: Threads where the scheduler is local; one a core by default.
        seed: Seed of the random matrix.
        resume: Continue a killed run.
        force: Replace `out` and `scores` where they exist.
        json: Print events as lines of JSON in place of a progress bar.
        quiet: Show no progress.

    Returns:
        The run's folder.

    Raises:
        ValueError: Where an option or the data cannot be used; the message says why.
        FileExistsError: Where `out` exists, and neither `force` nor `resume` is given.
    """
    if components < 1 or passes < 1:
        raise ValueError(f"`components` (={components}) and `passes` (={passes}) must be at least 1")
    if scores is not None:
        check_free(scores, force=force)
    raw = open_rows(data, target=None, features=features, exclude=exclude, chunk_rows=chunk_rows)
    request = {
        "verb": "pca",
        "data": list(data),
        "components": components,
        "features": list(raw.selection.numeric + raw.selection.categorical),
        "center": center,
        "standardise": standardise,
        "impute": impute,
        "passes": passes,
        "seed": seed,
        "fingerprint": raw.fingerprint,
    }
    run = RunFolder(out, request, resume=resume, force=force)
    if run.complete:
        return run.out
    with open_progress(as_json=json, quiet=quiet) as progress:
        engine = Engine(
            raw,
            scheduler=scheduler,
            workers=workers,
            checkpoint=run.begin(),
            progress=progress,
            passes=passes,
        )
        dataset = encode(engine, raw, intercept=False, impute=impute)
        found = _find(
            engine, dataset, components, center=center, standardise=standardise, passes=passes, seed=seed
        )
        kept = Components(
            found.components,
            found.mean,
            found.scale,
            found.explained_variance,
            dataset.feature_names,
            dataset.encoder.state_dict(),
        )
        run.publish(lambda folder: _write(folder, found, kept, run.request))
        progress.result(out=str(run.out), captured=found.certificate.captured, passes=engine.passes_run)
    if scores is not None:
        _write_scores(kept, dataset, scores, force=force)
    return run.out


def _find(
    engine: Engine, dataset: Dataset, rank: int, *, center: bool, standardise: bool, passes: int, seed: int
) -> PCAResult:
    """Run the passes."""
    n, d = dataset.shape
    if rank > min(n, d):
        raise ValueError(f"`components` (={rank}) must not exceed {min(n, d)}, the table being {n} x {d}")
    basis, shift = pca_basis(d, rank, seed=seed), 0.0
    for number in range(passes):
        state = engine.run(ScatterPass(basis, center, f"scatter {number + 1}"), dataset)
        sums = PCASums.from_state_dict(state)
        if number + 1 < passes:
            basis, shift = pca_step(sums, basis, standardize=standardise, shift=shift)
    return pca_finish(sums, basis, rank, center=center, standardize=standardise, passes=passes)


def _write(folder: Path, found: PCAResult, kept: Components, request: dict[str, Any]) -> None:
    """Write the results of a run."""
    kept.save(folder / "components.pt")
    ratio = found.explained_variance_ratio
    variances = Table(
        ["component", "variance", "share", "shares so far"],
        [
            [k + 1, float(v), float(s), float(t)]
            for k, (v, s, t) in enumerate(zip(found.explained_variance, ratio, ratio.cumsum(0), strict=True))
        ],
    )
    variances.save(folder / "variances")
    columns = ["feature", *(f"component {k + 1}" for k in range(len(found.components)))]
    loadings = [
        [name, *map(float, row)] for name, row in zip(kept.feature_names, found.components.T, strict=True)
    ]
    Table(columns, loadings).save(folder / "components")
    figure, ((axes,),) = new_figure()
    axes.bar(range(1, len(ratio) + 1), (100 * ratio).tolist())
    axes.set(xlabel="component", ylabel="share of the variance (%)")
    axes.set_title(f"{found.certificate.captured:.1%} of the variance")
    save_figure(figure, folder / "variances", variances)
    write_json(folder / "report.json", {"request": request, "certificate": vars(found.certificate)})


def _write_scores(kept: Components, dataset: Dataset, path: Path, *, force: bool) -> None:
    """Write the rows' coordinates."""
    import pyarrow as pa

    names = [f"component {k + 1}" for k in range(len(kept.components))]
    rows_of = Dataset(dataset.table, Encoder.from_state_dict(kept.encoder), targets=False)
    with open_writer(path, force=force) as append:
        for chunk in rows_of.chunks:
            values = kept.transform(rows_of.read(chunk).x)
            append(
                pa.table(
                    {name: pa.array(column.numpy()) for name, column in zip(names, values.T, strict=True)}
                )
            )
