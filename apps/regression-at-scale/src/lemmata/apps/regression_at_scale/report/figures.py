"""Figures of a fit, as SVG text that stands inside a page."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lemmata.apps.kit.plots import PALETTE, new_figure, style

__all__ = ["coefficient_plot", "cross_validation_plot", "residual_histogram", "residuals_against_fitted"]

_SHOWN = 30  # coefficients shown


def residual_histogram(edges: Sequence[float], counts: Sequence[float], target: str) -> str:
    """Draw how residuals are distributed.

    Args:
        edges: Edges of the bars, one more than bars.
        counts: Rows in each bar.
        target: Name of the target.

    Returns:
        SVG.
    """
    figure, axes = new_figure(width=5.4)
    panel = axes[0, 0]
    widths = [right - left for left, right in pairwise(edges)]
    panel.bar(edges[:-1], counts, widths, align="edge", color=PALETTE[0], linewidth=0)
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.set(title="Residuals", xlabel=f"{_plain(target)}: observed − fitted", ylabel="rows")
    return _svg(figure)


def coefficient_plot(
    names: Sequence[str], values: Sequence[float], errors: Sequence[float] | None, target: str
) -> str:
    """Draw coefficients with two standard errors to each side, the largest first.

    Args:
        names: Names of the features.
        values: Their coefficients, in one unit that makes them comparable.
        errors: Their standard errors; None where there are none.
        target: Name of the target.

    Returns:
        SVG.
    """
    order = sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))[:_SHOWN]
    figure, axes = new_figure(width=5.4, height=max(2.2, 0.8 + 0.22 * len(order)))
    panel = axes[0, 0]
    places = range(len(order))
    shown = [values[place] for place in order]
    if errors is not None:
        panel.errorbar(
            shown, places, xerr=[2 * errors[place] for place in order], fmt="o", color=PALETTE[0], capsize=2
        )
    else:
        panel.plot(shown, places, "o", color=PALETTE[0])
    panel.axvline(0, color="#444444", linewidth=0.8)
    panel.set_yticks(list(places), [_shortened(names[place]) for place in order])
    panel.invert_yaxis()
    more = "" if len(order) == len(values) else f" ({len(order)} largest of {len(values)})"
    panel.set(
        title=f"Coefficients{more}", xlabel=f"standard deviations of {_plain(target)} per one of the feature"
    )
    return _svg(figure)


def cross_validation_plot(
    ridges: Sequence[float], errors: Sequence[float], spreads: Sequence[float], chosen: float
) -> str:
    """Draw the error on left-out rows over penalties.

    Args:
        ridges: Penalties, rising, the first 0.
        errors: Mean squared error over the target's variance.
        spreads: Standard errors of these.
        chosen: The penalty chosen.

    Returns:
        SVG.
    """
    figure, axes = new_figure(width=5.4)
    panel = axes[0, 0]
    x, y, s = (list(values)[1:] for values in (ridges, errors, spreads))
    if x:
        low, high = ([a + sign * b for a, b in zip(y, s, strict=True)] for sign in (-1, 1))
        panel.fill_between(x, low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
        panel.plot(x, y, color=PALETTE[0], label="left-out rows, ± one standard error")
        panel.set_xscale("log")
    panel.axhline(errors[0], color="#888888", linewidth=1, linestyle="--", label="no penalty")
    if chosen > 0:
        panel.axvline(chosen, color=PALETTE[1], linewidth=1.2, label=f"chosen: {chosen:.3g}")
    panel.set(title="Cross-validation", xlabel="ridge", ylabel="squared error / variance of the target")
    panel.legend()
    return _svg(figure)


def residuals_against_fitted(fitted: Sequence[float], residuals: Sequence[float], target: str) -> str:
    """Draw residuals over fitted values for a sample of rows.

    Args:
        fitted: Fitted values.
        residuals: Residuals.
        target: Name of the target.

    Returns:
        SVG.
    """
    figure, axes = new_figure(width=5.4)
    panel = axes[0, 0]
    # Thousands of points as vectors would make the page heavy.
    panel.plot(fitted, residuals, ".", color=PALETTE[0], markersize=3, alpha=0.5, rasterized=True)
    panel.axhline(0, color="#444444", linewidth=0.8)
    panel.set(
        title=f"Residuals over fitted values ({len(fitted):,} rows at random)",
        xlabel=f"{_plain(target)}, fitted",
        ylabel="observed − fitted",
    )
    return _svg(figure)


def _svg(figure: Any) -> str:
    """Return a figure as an SVG element."""
    text = io.StringIO()
    with style():
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def _shortened(name: str, most: int = 28) -> str:
    return _plain(name if len(name) <= most else name[: most - 1] + "…")


def _plain(name: str) -> str:
    """Return a name that matplotlib takes as it is; between dollars it would read mathematics."""
    return name.replace("$", r"\$")
