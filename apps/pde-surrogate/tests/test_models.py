"""The table of models: sizes, modes that fit the grid, boxes that are not periodic."""

import pytest
import torch

from lemmata.apps.pde_surrogate.models import MODELS, build_model
from lemmata.operators.grids import Grid

CELLS = Grid((16, 16), (1.0, 1.0), "cells")
PERIODIC = Grid((16, 16), (1.0, 1.0), "periodic")


def build(grid: Grid, size: str = "S", **overrides: object) -> torch.nn.Module:
    return build_model("fno", size, in_channels=2, out_channels=3, grids=[grid], overrides=overrides)


@pytest.mark.parametrize("size", MODELS["fno"].presets)
@pytest.mark.parametrize("grid", [CELLS, PERIODIC, Grid((32,), (2.0,), "nodes")], ids=str)
def test_presets_map_fields_on_any_grid(size: str, grid: Grid) -> None:
    model = build(grid, size, width=4)
    for factor in (1, 2):
        shape = tuple(factor * n for n in grid.shape)
        assert model(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)


def test_a_periodic_model_commutes_with_translation_and_another_does_not() -> None:
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    models = {
        "periodic": build(PERIODIC, coordinates=False).double(),
        "cells": build(CELLS, coordinates=False).double(),
    }
    moved = {
        name: (model(x.roll(3, 2)) - model(x).roll(3, 2)).abs().max().item() for name, model in models.items()
    }
    assert moved["periodic"] < 1e-12
    assert moved["cells"] > 1e-6  # padded: what leaves the box does not come back on the other side


def test_a_presets_modes_are_cut_to_the_coarsest_grid() -> None:
    model = build_model(
        "fno", "L", in_channels=1, out_channels=1, grids=[PERIODIC, PERIODIC.with_shape((8, 12))]
    )
    assert model.modes == (8, 12)


def test_modes_asked_for_must_fit() -> None:
    with pytest.raises(
        ValueError, match=r"`modes` \(=\[20, 20\]\) .* 16 x 16 points; expected at most \[16, 16\]"
    ):
        build(CELLS, modes=20)


@pytest.mark.parametrize("modes", [0, [4], [4, 4, 4], "many"])
def test_modes_are_one_positive_integer_an_axis(modes: object) -> None:
    with pytest.raises(ValueError, match="`modes`"):
        build(CELLS, modes=modes)


def test_unknown_names_list_what_is_known() -> None:
    with pytest.raises(ValueError, match="model 'unet' is not known; expected one of fno"):
        build_model("unet", in_channels=1, out_channels=1, grids=[CELLS])
    with pytest.raises(ValueError, match="size 'XL' of model 'fno' is not known; expected one of S, M, L"):
        build_model("fno", "XL", in_channels=1, out_channels=1, grids=[CELLS])
    with pytest.raises(ValueError, match=r"model 'fno' cannot be built with .*colour"):
        build(CELLS, colour="red")


def test_overrides_must_fit_in_a_checkpoint() -> None:
    with pytest.raises(ValueError, match="must hold plain numbers, strings and lists"):
        build(CELLS, block=torch.nn.Identity)


def test_grids_must_agree() -> None:
    with pytest.raises(ValueError, match="must share dimension and layout"):
        build_model("fno", in_channels=1, out_channels=1, grids=[CELLS, PERIODIC])
    with pytest.raises(ValueError, match="`grids` is empty"):
        build_model("fno", in_channels=1, out_channels=1, grids=[])
