"""What a fit found, as JSON for programs and as a page for people.

Axis letters: d features, c targets.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemmata.apps.kit.files import write_atomically, write_json
from lemmata.apps.regression_at_scale.encoding.encoder import INTERCEPT
from lemmata.apps.regression_at_scale.engine.passes import State
from lemmata.apps.regression_at_scale.methods.diagnostics import DiagnosticsPass, quantiles
from lemmata.apps.regression_at_scale.methods.least_squares import Sketched
from lemmata.apps.regression_at_scale.methods.ridge import RidgeCurve
from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.report.page import to_html

__all__ = ["Findings", "build_report", "write_run"]

_LEVELS = [0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0]
_BARS = 60


@dataclass(frozen=True)
class Findings:
    """Everything a fit found.

    Args:
        request: What was asked for.
        data: Facts of the table.
        model: The model.
        certificate: What is known about its distance from the best one.
        notes: What a person should know.
        passes: A record a pass.
        locate: From a row's number to where it lies.
        sketched: What the first pass found; None where it was not run.
        task: The pass over the residuals; None where it was not run.
        state: Its state.
        degrees_of_freedom: Of the fit; None where the loss has none.
        curve: Cross-validation's curve, where there is one.
    """

    request: Mapping[str, Any]
    data: Mapping[str, Any]
    model: RegressionModel
    certificate: Mapping[str, Any]
    notes: Sequence[str]
    passes: Sequence[Mapping[str, Any]]
    locate: Callable[[int], str]
    sketched: Sketched | None = None
    task: DiagnosticsPass | None = None
    state: State | None = None
    degrees_of_freedom: float | None = None
    curve: RidgeCurve | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def build_report(findings: Findings) -> dict[str, Any]:
    """Return a report of plain values that JSON can hold.

    Args:
        findings: What the fit found.

    Returns:
        The report; what is not a finite number is null.
    """
    model = findings.model
    report = {
        "request": dict(findings.request),
        "data": dict(findings.data),
        "model": {
            "loss": model.loss,
            "ridge": model.ridge,
            "features": len(model.feature_names),
            "targets": list(model.target_names),
            "degrees_of_freedom": findings.degrees_of_freedom,
        },
        "fit": _fit_records(findings),
        "coefficients": _coefficients(findings),
        "columns": _columns(findings),
        "cross_validation": _curve(findings.curve),
        "rows_of_highest_leverage": _listed(findings, "by_leverage"),
        "rows_of_largest_residual": _listed(findings, "by_residual"),
        "notes": list(findings.notes),
        "passes": [dict(record) for record in findings.passes],
        "certificate": dict(findings.certificate),
        **findings.extra,
    }
    finite: dict[str, Any] = _finite(report)
    return finite


def write_run(folder: Path, findings: Findings) -> None:
    """Write model, report, certificate and page.

    Args:
        folder: Where to.
        findings: What the fit found.
    """
    report = build_report(findings)
    findings.model.save(folder / "model.pt")
    write_json(folder / "certificate.json", report["certificate"])
    write_json(folder / "report.json", report)
    with write_atomically(folder / "report.html") as draft:
        draft.write_text(to_html(report, _samples(findings)), encoding="utf-8")


def _fit_records(findings: Findings) -> list[dict[str, Any]]:
    """Return how well each target is fitted."""
    state, sketched, task, model = findings.state, findings.sketched, findings.task, findings.model
    if state is None or sketched is None or task is None:
        return [{"target": name} for name in model.target_names]
    intercept = model.feature_names[-1:] == (INTERCEPT,)
    weight, count = float(state["weight"]), float(state["count"])
    edges = task.edges()
    records = []
    for place, name in enumerate(model.target_names):
        column = sketched.features + place
        variance, mean = float(sketched.variance[column]), float(sketched.mean[column])
        total = (variance if intercept else variance + mean**2) * weight
        squares = float(state["squares"][place])
        explained = 1 - squares / total if total > 0 else math.nan
        degrees = findings.degrees_of_freedom
        left = count - (degrees if degrees is not None else len(model.feature_names))
        adjusted = 1 - (1 - explained) * (count - intercept) / left if left > 0 else math.nan
        low, high = float(state["low"][place]), float(state["high"][place])
        bounds = {"low": low, "high": high}
        found = quantiles(state["bins"][place], edges[place], _LEVELS, **bounds)
        records.append(
            {
                "target": name,
                "rows": int(count),
                "r_squared": explained,
                "r_squared_about": "the mean" if intercept else "zero",
                "adjusted_r_squared": adjusted,
                "rms_residual": math.sqrt(squares / weight),
                "mean_absolute_residual": float(state["absolute"][place]) / weight,
                "residual_scale": None
                if model.residual_scale is None
                else float(model.residual_scale[place]),
                "residual_quantiles": {
                    f"{level:g}": value for level, value in zip(_LEVELS, found, strict=True)
                },
                "histogram": _histogram(state["bins"][place], edges[place], found[1], found[-2], bounds),
            }
        )
    return records


def _histogram(
    counts: Tensor, edges: Tensor, left: float, right: float, bounds: Mapping[str, float]
) -> dict[str, list[float]]:
    """Return counts in bars of equal width, which hold all but a thousandth of the rows at either end."""
    if not left < right:
        left, right = bounds["low"], bounds["high"]
    if not left < right:
        left, right = left - 0.5, right + 0.5
    bars = np.linspace(left, right, _BARS + 1)
    fine = edges.numpy().clip(bounds["low"], bounds["high"])
    passed = np.concatenate(([0.0], counts.cumsum(0).double().numpy()))
    # Clipped edges repeat; of equal ones the last count is right on the right, the first on the left.
    heights = np.diff(np.interp(bars, fine, passed))
    return {"edges": bars.tolist(), "counts": heights.tolist()}


def _coefficients(findings: Findings) -> list[dict[str, Any]]:
    """Return a record a coefficient."""
    model, sketched = findings.model, findings.sketched
    errors = model.standard_errors
    records = []
    for column, target in enumerate(model.target_names):
        for row, feature in enumerate(model.feature_names):
            value = float(model.coefficients[row, column])
            record: dict[str, Any] = {"target": target, "feature": feature, "coefficient": value}
            if errors is not None:
                error = float(errors[row, column])
                record |= {"standard_error": error, "t": value / error if error > 0 else None}
            if sketched is not None:
                deviation = sketched.variance.sqrt()
                scale = float(deviation[row] / deviation[sketched.features + column])
                record["standardised"] = None if feature == INTERCEPT else value * scale
            records.append(record)
    return records


def _columns(findings: Findings) -> list[dict[str, Any]]:
    """Return moments of each feature and target."""
    sketched = findings.sketched
    if sketched is None:
        return []
    names = [*findings.model.feature_names, *findings.model.target_names]
    facts = (sketched.mean, sketched.variance.sqrt(), sketched.low, sketched.high)
    return [
        {"column": name, "mean": a, "deviation": b, "least": c, "largest": d}
        for name, a, b, c, d in zip(names, *(fact.tolist() for fact in facts), strict=True)
        if name != INTERCEPT
    ]


def _curve(curve: RidgeCurve | None) -> dict[str, Any] | None:
    """Return cross-validation's curve."""
    if curve is None:
        return None
    return {
        "error": "mean squared error on left-out rows over the target's variance",
        "ridge": curve.ridges.tolist(),
        "errors": curve.errors.tolist(),
        "standard_errors": curve.standard_errors.tolist(),
        "best": float(curve.ridges[curve.best]),
        "chosen": curve.ridge,
    }


def _listed(findings: Findings, which: str) -> list[dict[str, Any]]:
    """Return the rows that a pass listed, with where they lie."""
    if findings.state is None:
        return []
    held, targets = findings.state[which], findings.model.target_names
    records = []
    for row, facts in zip(held["row"].tolist(), held["facts"].tolist(), strict=True):
        fitted, residual = facts[1 : 1 + len(targets)], facts[1 + len(targets) :]
        records.append(
            {
                "row": row,
                "where": findings.locate(row),
                "leverage": facts[0],
                "fitted": dict(zip(targets, fitted, strict=True)),
                "residual": dict(zip(targets, residual, strict=True)),
            }
        )
    return records


def _samples(findings: Findings) -> dict[str, tuple[list[float], list[float]]]:
    """Return fitted values and residuals of the sampled rows."""
    if findings.state is None or findings.task is None:
        return {}
    facts = findings.task.sampled(findings.state)
    half = (facts.shape[1] - 1) // 2
    names = findings.model.target_names[:half]
    return {
        name: (facts[:, 1 + place].tolist(), facts[:, 1 + half + place].tolist())
        for place, name in enumerate(names)
    }


def _finite(value: Any) -> Any:
    """Return a value in which numbers that JSON cannot hold have become null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, torch.Tensor):
        return _finite(value.tolist())
    return value
