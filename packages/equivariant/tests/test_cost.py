"""Counts of operations follow formulas, and predictions follow counts."""

import math

import pytest

from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.tensor_product.cost import (
    RATES,
    Counts,
    mixture_counts,
    path_counts,
    predicted_costs,
)
from lemmata.equivariant.tensor_product.paths import channelwise_paths, fully_connected_paths


def natural(channels, lmax):
    """Return irreps of functions on the sphere."""
    return "+".join(f"{channels}x{l}y" for l in range(lmax + 1))


def test_counts_of_a_product_along_edges():
    counts = path_counts(channelwise_paths("32x0e + 32x1o", "0e + 1o", keep=["0e", "1o"]), batch=1000)
    # Rows 1 + 1 + 3 + 3; contraction of 4 filter components with 8 x 4, then 8 x 4 by 32 channels.
    assert counts["dense"].dense == 1000 * (4 * 8 * 4 + 8 * 4 * 32)
    # Nonzeros: 0 0 0, 1 1 0, 0 1 1, 1 0 1.
    assert counts["sparse"].sparse == 1000 * 32 * (1 + 3 + 3 + 3)


def test_counts_of_a_fully_connected_product_contain_the_mixing():
    few, many = (
        path_counts(fully_connected_paths("4x1o", "4x1o", f"{n}x1e"), batch=10)["dense"].dense for n in (1, 5)
    )
    assert many - few == 10 * 4 * 4 * 3 * 4


def test_grids_grow_slower_than_tables():
    def exponent(method):
        small, large = (
            mixture_counts(*[Irreps(natural(32, lmax))] * 3, rank=None, batch=64)[method] for lmax in (4, 8)
        )
        return math.log2(large.dense / small.dense) / math.log2(9 / 5)

    assert exponent("dense") == pytest.approx(6.0)
    assert exponent("grid") < 4.5


def test_costs_add_up():
    total = Counts(1, 2, 3, 4, 5) + Counts(dense=1)
    assert total == Counts(1, 3, 3, 4, 5)
    assert RATES["cpu"].seconds(total) > RATES["cpu"].seconds(Counts(1, 2, 3, 4, 5))


def test_every_kind_has_a_prediction_for_each_of_its_methods():
    arguments = (natural(8, 2), natural(8, 2), natural(8, 2))
    for kind in ("channelwise", "fully_connected"):
        assert set(predicted_costs(*arguments, kind=kind)) == {"dense", "sparse"}
    assert set(predicted_costs("2x1o", "1o", kind="full")) == {"dense", "sparse"}
    costs = predicted_costs(*arguments, kind="complete")
    assert set(costs) == {"dense", "sparse", "grid"}
    assert all(cost > 0 for cost in costs.values())
    assert predicted_costs(*arguments, kind="complete", batch=4096)["grid"] > costs["grid"]


def test_unknown_machines_are_named():
    with pytest.raises(ValueError, match="abacus"):
        predicted_costs("0e", "0e", machine="abacus")
