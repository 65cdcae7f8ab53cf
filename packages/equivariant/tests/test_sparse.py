"""Nonzero couplings alone give the same products; there are as few of them as selection rules say."""

import copy

import pytest
import torch

from lemmata.equivariant.o3 import wigner_3j
from lemmata.equivariant.tensor_product.dense import DenseProduct
from lemmata.equivariant.tensor_product.paths import channelwise_paths, full_paths, fully_connected_paths
from lemmata.equivariant.tensor_product.sparse import SparseProduct, sparse_maps


def natural(channels, lmax):
    """Return irreps of functions on the sphere."""
    return "+".join(f"{channels}x{l}y" for l in range(lmax + 1))


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 1), (2, 2, 2), (3, 2, 4), (4, 4, 4)])
def test_nonzeros_obey_the_selection_rule_of_orders(l1, l2, l3):
    _, index, pairs, _ = sparse_maps(wigner_3j(l1, l2, l3).transpose(1, 2))["row"]
    m3, pair = index
    m1, m2 = (pairs[n][pair] - l for n, l in enumerate((l1, l2)))
    assert (((m3 - l3).abs() == (m1 + m2).abs()) | ((m3 - l3).abs() == (m1 - m2).abs())).all()
    assert len(m3) <= 2 * (2 * l1 + 1) * (2 * l2 + 1)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4, 5, 6])
def test_sparse_products_equal_dense_ones_up_to_degree_six(lmax):
    table = channelwise_paths(natural(2, lmax), natural(2, lmax), natural(2, lmax))
    x, y = torch.randn(2, 7, table.irreps1.dim, dtype=torch.float64)
    weight = torch.randn(table.weight_numel, dtype=torch.float64)
    dense, sparse = DenseProduct(table, dtype=torch.float64), SparseProduct(table, dtype=torch.float64)
    torch.testing.assert_close(sparse(x, y, weight), dense(x, y, weight), rtol=1e-11, atol=1e-11)


def test_maps_to_inputs_are_transposes():
    coupling = torch.randn(3, 5, 4, dtype=torch.float64) * (torch.rand(3, 5, 4) > 0.5)
    dense = {}
    for name, (values, index, pairs, length) in sparse_maps(coupling).items():
        table = torch.zeros(length, 6, 6, dtype=torch.float64)
        table[index[0], pairs[0][index[1]], pairs[1][index[1]]] = values
        dense[name] = table
    torch.testing.assert_close(dense["row"][:, :3, :4], coupling.transpose(0, 1))
    torch.testing.assert_close(dense["first"][:, :5, :4], coupling)
    torch.testing.assert_close(dense["second"][:, :5, :3], coupling.permute(2, 1, 0))


def test_many_samples_go_through_several_blocks():
    table = fully_connected_paths("8x0e + 8x1o", "8x0e + 8x1o", "8x1o")
    x, y = torch.randn(2, 300, 32, dtype=torch.float64)
    weight = torch.randn(table.weight_numel, dtype=torch.float64)
    product = SparseProduct(table, dtype=torch.float64)
    torch.testing.assert_close(product(x, y, weight)[250:], product(x[250:], y[250:], weight))


def test_copies_and_moves_keep_places_and_values():
    table = full_paths("2x1o", "1o + 2e")
    product = copy.deepcopy(SparseProduct(table, dtype=torch.float32)).double()
    x, y, nothing = (torch.randn(4, n, dtype=torch.float64) for n in (6, 8, 0))
    torch.testing.assert_close(
        product(x, y, nothing[0]),
        DenseProduct(table, dtype=torch.float64)(x, y, nothing[0]),
        atol=1e-14,
        rtol=0,
    )
    assert all(not b.is_floating_point() for n, b in product.named_buffers() if "values" not in n)
