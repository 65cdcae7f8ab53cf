"""What a fit is, from its arguments to what it found: the passes in their order, for each kind of loss."""

import importlib.metadata
from dataclasses import dataclass, replace
from typing import Any

import torch

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset, RawDataset
from lemmata.apps.regression_at_scale.encoding.encoder import INTERCEPT, Encoder
from lemmata.apps.regression_at_scale.encoding.moments import Moments
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.diagnostics import DiagnosticsPass
from lemmata.apps.regression_at_scale.methods.least_squares import Sketched, SketchPass, default_sketch_rows
from lemmata.apps.regression_at_scale.methods.plan import Plan
from lemmata.apps.regression_at_scale.methods.solution import (
    Solution,
    certificate_of,
    penalty_of,
    solve_least_squares,
)
from lemmata.apps.regression_at_scale.model import Loss, RegressionModel
from lemmata.apps.regression_at_scale.report.report import Findings
from lemmata.apps.regression_at_scale.sources import Table
from lemmata.apps.regression_at_scale.sources.schema import Selection

__all__ = ["DTYPES", "Job"]

DTYPES = {"float64": torch.float64, "float32": torch.float32}
_COLLINEAR = 5  # columns named in a note


@dataclass(frozen=True)
class Job:
    """What is to be fitted to what; the arguments of `fit` that determine the result."""

    table: Table
    selection: Selection
    loss: Loss
    ridge: float | str
    folds: int
    one_standard_error: bool
    standardise: bool
    intercept: bool
    impute: str
    levels: dict[str, list[str]]
    unknown: str
    max_levels: int
    dtype: str
    sketch_rows: int | None
    coreset_size: int | None
    diagnostics: bool
    rtol: float | None
    seed: int

    def request(self) -> dict[str, Any]:
        """Return what must be the same for a run to be continued."""
        plain = {
            name: value for name, value in vars(self).items() if name not in {"table", "selection", "loss"}
        }
        return {
            "data": self.table.fingerprint,
            "target": list(self.selection.targets),
            "features": [column.name for column in self.selection.features],
            "categorical": list(self.selection.categorical),
            "weight": self.selection.weight,
            "loss": str(self.loss),
            "chunk_rows": self.table.chunk_rows,
            **plain,
            "versions": _versions(),
        }

    def pass_names(self) -> tuple[str, ...]:
        """Return the passes of a least-squares fit, or those of another loss that are known beforehand."""
        first = ("moments",) if self.needs_moments else ()
        last = ("residuals",) if self.diagnostics else ()
        if self.loss.kind == "l2":
            return (*first, "sketch", "gram", *last)
        own = (
            ("coreset", "cost and gradient", "lower bound")
            if self.loss.p is None
            else (
                "sample by leverage",
                "coreset by Lewis weights",
                "cost and gradient",
                "lower bound",
            )
        )
        again = ("sketch",) if self.diagnostics and self.selection.weight is not None else ()
        return (*first, *again, "sketch", *own, *last)

    @property
    def needs_moments(self) -> bool:
        """Whether the encoder must see the rows first."""
        undeclared = set(self.selection.categorical) - set(self.levels)
        return bool(undeclared) or self.impute == "mean"

    def plan(self, workers: int) -> Plan:
        """Return what would be done."""
        width = len(self.selection.numeric) + self.intercept
        width += sum(len(held) - self.intercept for held in self.levels.values())
        known = not set(self.selection.categorical) - set(self.levels)
        return Plan(
            rows=self.table.rows,
            columns=len(self.selection.columns),
            features=width if known else None,
            targets=len(self.selection.targets),
            chunk_rows=self.table.chunk_rows,
            chunks=len(self.table.chunks),
            bytes=self.table.bytes,
            sketch_rows=min(self.sketch_rows or default_sketch_rows(max(width, 1)), self.table.rows),
            folds=self.folds if self.ridge == "cv" else 1,
            workers=workers,
            passes=self.pass_names(),
        )

    def run(self, engine: Engine) -> Findings:
        """Run all passes."""
        encoder = self.encoder(engine)
        dataset = Dataset(self.table, encoder, dtype=DTYPES[self.dtype])
        engine.dataset = dataset
        n, d = dataset.shape
        self._check_shape(n, d)
        run = self._least_squares if self.loss.kind == "l2" else self._robust
        return run(engine, dataset)

    def encoder(self, engine: Engine) -> Encoder:
        """Return how rows become numbers; a pass finds levels and means where they are needed."""
        declared = {name: tuple(held) for name, held in self.levels.items()}
        options: dict[str, Any] = {"intercept": self.intercept, "unknown": self.unknown}
        if not self.needs_moments:
            return Encoder(self.selection, impute=self.impute, levels=declared, **options)
        moments = Moments(self.selection, impute=self.impute, max_levels=self.max_levels)
        state = engine.run(moments, RawDataset(self.table, self.selection))
        found = Encoder.from_moments(moments, state, **options)
        shares = {
            name: tuple(
                state["levels"][name].get(level, 0) / max(sum(state["levels"][name].values()), 1)
                for level in held
            )
            for name, held in declared.items()
        }
        return replace(found, levels={**found.levels, **declared}, shares={**found.shares, **shares})

    def _check_shape(self, n: int, d: int) -> None:
        if d == 0:
            raise ValueError("there are no features: name some, or leave `intercept` on")
        if n < d and not self.ridge:
            raise ValueError(
                f"{n} rows cannot determine {d} coefficients; give a positive `ridge`, or fewer features"
            )
        if self.ridge == "cv" and n < 2 * self.folds:
            raise ValueError(f"`folds` (={self.folds}) of {n} rows: cross-validation needs two rows a fold")
        least = d if self.loss.kind == "l2" else d + len(self.selection.targets)
        if self.sketch_rows is not None and self.sketch_rows < min(least, n):
            raise ValueError(
                f"`sketch_rows` (={self.sketch_rows}) must be at least the number of features (={least})"
            )

    def _sketch(self, engine: Engine, dataset: Dataset) -> Sketched:
        """Run the first pass, and refuse what cannot be fitted."""
        n, d = dataset.shape
        task = SketchPass(n, self.sketch_rows or default_sketch_rows(d), self.seed)
        sketched = Sketched.from_state(engine.run(task), rows=n, features=d)
        if sketched.count < d and not self.ridge:
            raise ValueError(
                f"{sketched.count} rows of positive weight cannot determine {d} coefficients; "
                "give a positive `ridge`, or fewer features"
            )
        for name, variance, low in zip(
            dataset.target_names, sketched.variance[d:].tolist(), sketched.low[d:].tolist(), strict=True
        ):
            if variance == 0:
                raise ValueError(f"target {name!r} is constant (={low:g}): there is nothing to explain")
        return sketched

    def _least_squares(self, engine: Engine, dataset: Dataset) -> Findings:
        sketched = self._sketch(engine, dataset)
        penalty = penalty_of(sketched, intercept=self.intercept, standardise=self.standardise)
        solution = solve_least_squares(
            engine,
            sketched,
            ridge=self.ridge,
            penalty=penalty,
            folds=self.folds,
            one_standard_error=self.one_standard_error,
            seed=self.seed,
        )
        lower = solution.gram.cholesky(sketched.preconditioner)
        task, state = self._look(engine, sketched, solution.coefficients, lower)
        certificate = certificate_of(engine, sketched, solution, state, penalty)
        left = sketched.count - solution.degrees_of_freedom
        squares = solution.squares if state is None else state["squares"]
        certain = left > 1e-9 * sketched.count
        model = RegressionModel(
            coefficients=solution.coefficients,
            feature_names=dataset.feature_names,
            target_names=dataset.target_names,
            encoder=dataset.encoder.state_dict(),
            loss="l2",
            ridge=solution.ridge,
            residual_scale=(squares / left).sqrt() if certain else None,
            covariance_factor=solution.covariance_factor if certain else None,
        )
        findings = self._findings(engine, model, certificate, sketched, task, state)
        return replace(
            findings,
            degrees_of_freedom=solution.degrees_of_freedom,
            curve=solution.curve,
            notes=[*findings.notes, *_notes_on_solution(solution, certain=certain)],
        )

    def _robust(self, engine: Engine, dataset: Dataset) -> Findings:
        from lemmata.apps.regression_at_scale.methods.robust import fit_robust

        sketched = self._sketch(engine, dataset) if self.diagnostics else None
        found = fit_robust(
            engine,
            self.loss,
            # Weights scale this sketch's rows by their roots: another power of the loss needs another sketch.
            sketch=sketched.sketch if sketched is not None and self.selection.weight is None else None,
            sketch_rows=self.sketch_rows,
            coreset_size=self.coreset_size,
            rtol=self.rtol,
            seed=self.seed,
        )
        task = state = None
        if sketched is not None:
            lower = torch.eye(sketched.preconditioner.rank, dtype=torch.float64)
            task, state = self._look(engine, sketched, found.coefficients, lower)
        certificate = {
            "method": "coreset and Newton step",
            "bounds": "relative gap between the cost on all rows and a lower bound of every cost",
            **found.certificate,
            "relative_bound": found.certificate["relative_gap"],
            "passes": engine.passes_run,
        }
        model = RegressionModel(
            coefficients=found.coefficients,
            feature_names=dataset.feature_names,
            target_names=dataset.target_names,
            encoder=dataset.encoder.state_dict(),
            loss=str(found.loss),
        )
        return self._findings(engine, model, certificate, sketched, task, state)

    def _look(
        self, engine: Engine, sketched: Sketched, coefficients: torch.Tensor, lower: torch.Tensor
    ) -> tuple[DiagnosticsPass | None, State | None]:
        """Run the pass over the residuals, where it is wanted."""
        if not self.diagnostics:
            return None, None
        scale = sketched.residual_scale(coefficients)
        task = DiagnosticsPass(sketched.preconditioner, lower, coefficients, scale, seed=self.seed + 1)
        return task, engine.run(task)

    def _findings(
        self,
        engine: Engine,
        model: RegressionModel,
        certificate: dict[str, Any],
        sketched: Sketched | None,
        task: DiagnosticsPass | None,
        state: State | None,
    ) -> Findings:
        """Gather what every loss has."""
        table, bound = self.table, certificate.get("relative_bound")
        met = None if self.rtol is None else bool(bound is not None and bound <= self.rtol)
        return Findings(
            request=self.request(),
            data={
                "parts": [part.path for part in table.parts],
                "format": table.format,
                "rows": table.rows,
                "bytes": table.bytes,
                "chunks": len(table.chunks),
            },
            model=model,
            certificate={
                **certificate,
                "rtol": self.rtol,
                "met": met,
                "loss": model.loss,
                "ridge": model.ridge,
                "rows": table.rows,
                "columns": len(model.feature_names),
                "seed": self.seed,
                "versions": _versions(),
            },
            notes=_notes_on_data(model, sketched, state),
            passes=engine.records,
            locate=table.locate,
            sketched=sketched,
            task=task,
            state=state,
        )


def _notes_on_data(model: RegressionModel, sketched: Sketched | None, state: State | None) -> list[str]:
    """Return what a person should know about the data."""
    notes = []
    if sketched is not None:
        d, rank = sketched.features, sketched.preconditioner.rank
        flat = [
            (name, low)
            for name, low, high in zip(
                model.feature_names, sketched.low.tolist(), sketched.high.tolist(), strict=False
            )
            if low == high and name != INTERCEPT
        ]
        for what, held in (
            ("zero in every row", [name for name, low in flat if low == 0]),
            ("constant", [name for name, low in flat if low != 0]),
        ):
            if held:
                more = f" and {len(held) - _COLLINEAR} more" if len(held) > _COLLINEAR else ""
                notes.append(f"{what}: {', '.join(held[:_COLLINEAR])}{more}")
        if rank < d:
            notes.append(
                f"the {d} features have rank {rank}: some are combinations of others, and single "
                "coefficients of these mean nothing; predictions are not affected"
            )
    if state is not None and len(state["by_leverage"]["row"]):
        most = float(state["by_leverage"]["rank"][0])
        if most > 0.5:
            notes.append(
                f"row {int(state['by_leverage']['row'][0])} has leverage {most:.3f}: its own target decides "
                "its fitted value"
            )
    return notes


def _notes_on_solution(solution: Solution, *, certain: bool) -> list[str]:
    """Return what a person should know about the solution."""
    notes = []
    if not certain:
        notes.append("there are as many coefficients as rows: residuals tell nothing, so no standard errors")
    curve = solution.curve
    if curve is not None and len(curve.ridges) > 1 and curve.chosen == len(curve.ridges) - 1:
        notes.append("cross-validation chose the largest penalty tried: the features explain next to nothing")
    if solution.ridge:
        notes.append("standard errors are those of a fixed penalty, and do not count its bias")
    return notes


def _versions() -> dict[str, str]:
    """Return versions of what results depend on."""
    names = ("lemmata-regression-at-scale", "lemmata-sketching", "torch", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
