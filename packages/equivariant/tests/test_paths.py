"""Paths equal e3nn's: which there are, in which order, with which coefficients and places of weights."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.tensor_product.paths import (
    channelwise_paths,
    full_paths,
    fully_connected_paths,
    path_table,
)

e3nn = pytest.importorskip("e3nn.o3")

entries = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, -1]))
irreps = st.lists(entries, min_size=1, max_size=4).map(
    lambda found: Irreps([(m, (l, p)) for m, l, p in found])
)


@settings(deadline=None, max_examples=20)
@given(
    irreps,
    irreps,
    irreps,
    st.sampled_from(["component", "norm", "none"]),
    st.sampled_from(["element", "path", "none"]),
)
def test_fully_connected_paths_are_e3nns(first, second, out, irrep_normalization, path_normalization):
    table = fully_connected_paths(
        first, second, out, irrep_normalization=irrep_normalization, path_normalization=path_normalization
    )
    expected = e3nn.FullyConnectedTensorProduct(
        str(first),
        str(second),
        str(out),
        irrep_normalization=irrep_normalization,
        path_normalization=path_normalization,
        compile_left_right=False,
    )
    assert [(p.i1, p.i2, p.i_out) for p in table.paths] == [
        (ins.i_in1, ins.i_in2, ins.i_out) for ins in expected.instructions
    ]
    assert [p.coefficient for p in table.paths] == pytest.approx(
        [i.path_weight for i in expected.instructions]
    )
    assert [p.weight_shape for p in table.paths] == [tuple(i.path_shape) for i in expected.instructions]
    assert table.weight_numel == expected.weight_numel


@settings(deadline=None, max_examples=10)
@given(irreps, irreps)
def test_full_paths_are_e3nns(first, second):
    table = full_paths(first, second)
    if not table.paths:
        return
    expected = e3nn.FullTensorProduct(str(first), str(second), compile_left_right=False)
    assert str(table.irreps_out) == str(expected.irreps_out)
    assert [(p.i1, p.i2, p.i_out, p.coefficient) for p in table.paths] == [
        (i.i_in1, i.i_in2, i.i_out, pytest.approx(i.path_weight)) for i in expected.instructions
    ]
    assert table.weight_numel == 0


def test_channelwise_paths_own_entries_are_sorted_and_weights_follow_them():
    table = channelwise_paths("4x0e + 4x1o", "0e + 1o + 2e", keep=["0e", "1o", "2e"])
    assert str(table.irreps_out) == "4x0e+4x0e+4x1o+4x1o+4x1o+4x2e+4x2e"
    assert [path.i_out for path in table.paths] == list(range(7))
    assert [path.mode for path in table.paths] == ["uvu"] * 7
    assert table.weight_slices()[2] == slice(8, 12)


def test_channelwise_paths_sum_at_given_entries():
    table = channelwise_paths("4x0e + 4x1o", "4x0e + 4x1o", "4x1o")
    assert [(path.i1, path.i2, path.mode) for path in table.paths] == [(0, 1, "uuu"), (1, 0, "uuu")]
    assert table.paths[0].coefficient == pytest.approx((3 / 2) ** 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("4x0e", "3x0e", "4x0e"), "4x0e of `irreps1`, 3x0e of `irreps2`"),
        (("4x0e", "0e", "3x0e"), "3x0e of `irreps_out`"),
    ],
)
def test_unequal_multiplicities_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        channelwise_paths(*arguments)


@pytest.mark.usefixtures("unchecked")
def test_bad_names_and_outputs_are_named():
    with pytest.raises(ValueError, match=r"irrep_normalization.*integral"):
        fully_connected_paths("0e", "0e", "0e", irrep_normalization="integral")
    with pytest.raises(ValueError, match=r"path_normalization.*sum"):
        fully_connected_paths("0e", "0e", "0e", path_normalization="sum")
    with pytest.raises(ValueError, match=r"kind.*uvw"):
        path_table("0e", "0e", "0e", kind="uvw")
    with pytest.raises(ValueError, match="needs `irreps_out`"):
        path_table("0e", "0e", kind="fully_connected")
    with pytest.raises(ValueError, match=r"1x0e.1x1e.1x2e"):
        path_table("1o", "1o", "2x0e + 1e + 2e", kind="full")
    with pytest.raises(ValueError, match="keep"):
        channelwise_paths("0e", "0e", "0e", keep=["0e"])


def test_a_full_output_may_be_given_as_what_it_is():
    assert path_table("1o", "1o", "0e + 2e").irreps_out == Irreps("0e + 2e")
