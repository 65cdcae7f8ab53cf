"""A fit's report as a page that needs nothing but itself."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from lemmata.apps.kit.tables import format_cell

__all__ = ["to_html"]

_ROWS_SHOWN = 200
_TARGETS_DRAWN = 4
_SHOWN_FIT = ("target", "r_squared", "adjusted_r_squared", "rms_residual", "mean_absolute_residual", "rows")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0
1rem } h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 0.88rem } td, th { padding: 0.15rem 0.7rem; text-align: left }
th { border-bottom: 1px solid #888 } tr:nth-child(even) td { background: #f5f5f5 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.note { border-left: 4px solid #D55E00; padding: 0.2rem 0.8rem; background: #fdf3ec }
.figures { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } svg { max-width: 100%; height:
auto } .scroll { overflow-x: auto }
"""


def to_html(report: Mapping[str, Any], samples: Mapping[str, tuple[list[float], list[float]]]) -> str:
    """Return a page that needs nothing but itself.

    Args:
        report: What `build_report` returned.
        samples: Fitted values and residuals of some rows, by target.

    Returns:
        HTML.
    """
    title = f"{', '.join(report['model']['targets'][:3])}: {report['model']['loss']} regression"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in report["notes"]),
        _facts("Fit", [_pick(record, _SHOWN_FIT) for record in report["fit"]]),
        _facts("Certificate", [{"": name, "value": value} for name, value in _flat(report["certificate"])]),
        "<div class='figures'>",
        *(f"<figure>{figure}</figure>" for figure in _figures(report, samples)),
        "</div>",
        _facts("Coefficients", report["coefficients"]),
        _facts("Rows of highest leverage", _flattened(report["rows_of_highest_leverage"])),
        _facts("Rows of largest residual", _flattened(report["rows_of_largest_residual"])),
        _facts("Columns", report["columns"]),
        _facts("Passes over the rows", report["passes"]),
        _facts("Data", [{"": name, "value": value} for name, value in _flat(report["data"])]),
        _facts("Arguments", [{"": name, "value": value} for name, value in _flat(report["request"])]),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _figures(report: Mapping[str, Any], samples: Mapping[str, tuple[list[float], list[float]]]) -> list[str]:
    """Draw what there is to draw."""
    from lemmata.apps.regression_at_scale.report import figures

    drawn = []
    for fit in report["fit"][:_TARGETS_DRAWN]:
        target = fit["target"]
        mine = [record for record in report["coefficients"] if record["target"] == target]
        shown = [record for record in mine if record.get("standardised") is not None]
        if shown:
            scales = [
                abs(record["standardised"] / record["coefficient"]) if record["coefficient"] else 0.0
                for record in shown
            ]
            errors = None
            if all(record.get("standard_error") is not None for record in shown):
                errors = [r["standard_error"] * scale for r, scale in zip(shown, scales, strict=True)]
            values = [record["standardised"] for record in shown]
            names = [record["feature"] for record in shown]
            drawn.append(figures.coefficient_plot(names, values, errors, target))
        if "histogram" in fit:
            bars = fit["histogram"]
            drawn.append(figures.residual_histogram(bars["edges"], bars["counts"], target))
        if samples.get(target, ([], []))[0]:
            drawn.append(figures.residuals_against_fitted(*samples[target], target))
    curve = report["cross_validation"]
    if curve:
        drawn.append(
            figures.cross_validation_plot(
                curve["ridge"], curve["errors"], curve["standard_errors"], curve["chosen"]
            )
        )
    return drawn


def _facts(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a table, the first few hundred."""
    if not records:
        return ""
    columns = list(dict.fromkeys(name for record in records for name in record))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = []
    for record in records[:_ROWS_SHOWN]:
        cells = []
        for name in columns:
            value = record.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            kind = " class='number'" if number else ""
            cells.append(f"<td{kind}>{html.escape(format_cell(value))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    more = len(records) - _ROWS_SHOWN
    rest = f"<p>{more:,} more in report.json</p>" if more > 0 else ""
    return (
        f"<h2>{html.escape(title)}</h2>\n<div class='scroll'><table><thead><tr>{head}</tr></thead>\n<tbody>"
        + "\n".join(lines)
        + f"</tbody></table></div>{rest}"
    )


def _flattened(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return records whose mappings have become columns."""
    flat = []
    for record in records:
        cells: dict[str, Any] = {}
        for name, value in record.items():
            if isinstance(value, Mapping):
                cells |= {f"{name} {key}": held for key, held in value.items()}
            else:
                cells[name] = value
        flat.append(cells)
    return flat


def _flat(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return a mapping's entries, lists and mappings as text."""
    return [
        (name, ", ".join(map(format_cell, value)) if isinstance(value, list | tuple) else _told(value))
        for name, value in values.items()
    ]


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_cell(held)}" for name, held in value.items())
    return value


def _pick(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name.replace("_", " "): record[name] for name in names if name in record}
