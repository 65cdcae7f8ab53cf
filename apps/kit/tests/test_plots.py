"""Figures are the same bytes again, and leave matplotlib as it was."""

import sys
from subprocess import run

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb

from lemmata.apps.kit.plots import PALETTE, new_figure, save_figure, style
from lemmata.apps.kit.tables import Table


def draw():
    figure, axes = new_figure(1, 2)
    axes[0, 0].plot([1, 2, 3], [1, 4, 9], label="squares")
    axes[0, 0].legend()
    axes[0, 1].imshow(np.arange(12).reshape(3, 4))
    return figure


def test_a_figure_is_saved_with_its_numbers_and_the_same_bytes_again(tmp_path):
    first = save_figure(draw(), tmp_path / "a" / "fig", {"x": [1, 2, 3], "y": [1, 4]})
    second = save_figure(draw(), tmp_path / "b" / "fig", Table(["x", "y"], [[1, 1], [2, 4], [3, None]]))
    assert [path.name for path in first] == ["fig.png", "fig.svg", "fig.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "squares" in first[1].read_text()


def test_settings_are_as_before():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["axes.spines.top"] is False
    draw()
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_imported():
    code = "import sys; from lemmata.apps.kit import plots; plots.new_figure(); "
    code += "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_palette_stays_apart_for_red_green_blindness():
    # Viénot, Brettel and Mollon's projection for deuteranopia, on linear RGB.
    project = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    colours = np.array([to_rgb(colour) for colour in PALETTE]) ** 2.2 @ project.T
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + np.eye(len(colours))
    assert apart.min() > 0.05
