"""Fused products equal e3nn's path by path, and so do their derivatives."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.tensor_product.channelwise import Run, channelwise_product
from lemmata.equivariant.tensor_product.dense import DenseProduct
from lemmata.equivariant.tensor_product.matrices import FilterMatrices, OuterProducts
from lemmata.equivariant.tensor_product.paths import channelwise_paths, full_paths, fully_connected_paths
from lemmata.equivariant.tensor_product.sparse import SparseProduct

e3nn = pytest.importorskip("e3nn.o3")

PRODUCTS = [DenseProduct, SparseProduct]
entries = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, -1]))
irreps = st.lists(entries, min_size=1, max_size=4).map(
    lambda found: Irreps([(m, (l, p)) for m, l, p in found])
)


@pytest.fixture(autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def oracle(table, *, shared=True):
    """Return e3nn's product along the same paths."""
    instructions = [(p.i1, p.i2, p.i_out, p.mode, bool(p.weight_shape)) for p in table.paths]
    return e3nn.TensorProduct(
        str(table.irreps1),
        str(table.irreps2),
        str(table.irreps_out),
        instructions,
        shared_weights=shared,
        internal_weights=False,
    )


def assert_equal_to_e3nn(product, samples=5):
    """Compare products and first derivatives, with shared weights and with weights of each sample."""
    table = product.table
    inputs = [torch.randn(samples, ir.dim, requires_grad=True) for ir in (table.irreps1, table.irreps2)]
    for shared in (True, False):
        shape = (table.weight_numel,) if shared else (samples, table.weight_numel)
        weight = torch.randn(shape, requires_grad=True)
        ours, theirs = product(*inputs, weight), oracle(table, shared=shared)(*inputs, weight)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        if not ours.requires_grad:
            continue
        probe = torch.randn_like(ours)
        arguments = [*inputs, weight] if table.weight_numel else inputs
        for a, b in zip(
            torch.autograd.grad(ours, arguments, probe, allow_unused=True, materialize_grads=True),
            torch.autograd.grad(theirs, arguments, probe, allow_unused=True, materialize_grads=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(
    "table",
    [
        fully_connected_paths("4x0e + 4x1o + 4x2e", "4x0e + 4x1o + 4x2e", "4x0e + 4x1o + 4x2e"),
        fully_connected_paths("3x0e + 2x1o + 4x0o", "2x1o + 2e + 3x0o", "4x0e + 2x1e + 3x1o + 2x1o + 5x0o"),
        fully_connected_paths("4x0e + 4x1o", "0e + 1o + 2e", "4x0e + 4x1o + 4x2e + 2x7o"),
        channelwise_paths("4x0e + 4x1o + 4x1e", "4x0e + 4x1o", "4x0e + 4x1o + 4x1e + 4x2e"),
        channelwise_paths("4x0e + 4x1o", "4x1o + 4x2e"),
        channelwise_paths("4x0e + 2x1o + 4x2e", "0e + 1o + 2e"),
        channelwise_paths("4x0e + 4x1o", "0e + 1o + 2e + 3o", "4x0e + 4x1o + 4x2e"),
        channelwise_paths("2x0e + 2x1o", "2x0e + 1x1o", "2x0e + 2x1o"),
        full_paths("3x0e + 2x1o + 4x0o", "2x1o + 2e + 3x0o"),
        full_paths("2x0e + 2x1o", "2x0e + 2x1o"),
    ],
    ids=lambda table: f"{table.irreps1}*{table.irreps2}-{table.irreps_out}"[:60],
)
def test_products_equal_e3nn(kind, table):
    assert_equal_to_e3nn(kind(table))


@pytest.mark.parametrize("kind", PRODUCTS)
@settings(deadline=None, max_examples=15)
@given(first=irreps, second=irreps, out=irreps)
def test_fully_connected_products_of_any_irreps_equal_e3nn(kind, first, second, out):
    table = fully_connected_paths(first, second, out)
    if first.dim and second.dim and out.dim and table.weight_numel:
        assert_equal_to_e3nn(kind(table), samples=2)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_components_first_is_a_permutation_of_copies_first(kind):
    table = channelwise_paths("3x0e + 3x1o", "0e + 1o + 2e", keep=["0e", "1o", "2e"])

    def turned(irreps, x):
        parts = [
            x[:, place].reshape(-1, entry.mul, entry.ir.dim).mT.flatten(1)
            for place, entry in zip(irreps.slices(), irreps, strict=True)
        ]
        return torch.cat(parts, dim=1)

    x, y, weight = torch.randn(5, 12), torch.randn(5, 9), torch.randn(5, table.weight_numel)
    expected = turned(table.irreps_out, kind(table)(x, y, weight))
    given = kind(table, layout="ir_mul")(turned(table.irreps1, x), y, weight)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "table",
    [
        channelwise_paths("2x0e + 2x1o", "0e + 1o", keep=["0e", "1o"]),
        channelwise_paths("2x0e + 2x1o", "2x0e + 2x1o", "2x0e + 2x1o + 2x1e"),
        fully_connected_paths("2x0e + 1o", "2x1o", "0e + 2x1o"),
    ],
    ids=["uvu", "uuu", "uvw"],
)
def test_first_and_second_derivatives_are_differences(kind, table, shared, monkeypatch):
    # Blocks of one or two samples, so that the sums over blocks are tested too.
    monkeypatch.setattr("lemmata.equivariant.tensor_product.matrices.BLOCK_ELEMENTS", 1)
    monkeypatch.setattr("lemmata.equivariant.tensor_product.sparse.BLOCK_COLUMNS", 4)
    product = kind(table)
    shape = (table.weight_numel,) if shared else (3, table.weight_numel)
    arguments = [
        torch.randn(size, requires_grad=True)
        for size in ((3, table.irreps1.dim), (3, table.irreps2.dim), shape)
    ]
    assert torch.autograd.gradcheck(product, arguments)
    assert torch.autograd.gradgradcheck(product, arguments, atol=1e-6)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_third_derivatives_equal_those_of_plain_operations(kind):
    table = channelwise_paths("2x0e + 2x1o", "0e + 1o", "2x0e + 2x1o")
    product, theirs = kind(table), oracle(table)
    x, y = torch.randn(3, 8, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(table.weight_numel, requires_grad=True)

    def third(function):
        value = function(x, y, weight).square().sum()
        for n in range(3):
            (gradient,) = torch.autograd.grad(value, y, create_graph=n < 2)
            value = gradient.pow(2).sum() if n < 2 else gradient
        return value

    torch.testing.assert_close(third(product), third(theirs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("second", ["0e + 1o", "4x0e + 4x1o"])
def test_messages_are_products_summed_over_edges(kind, second, monkeypatch):
    monkeypatch.setattr("lemmata.equivariant.tensor_product.matrices.BLOCK_ELEMENTS", 100)
    table = channelwise_paths("4x0e + 4x1o", second, keep=["0e", "1o"])
    product = kind(table)
    source, target = torch.randint(0, 6, (2, 40))
    x, y = torch.randn(6, 16, requires_grad=True), torch.randn(40, table.irreps2.dim, requires_grad=True)
    weight = torch.randn(40, table.weight_numel, requires_grad=True)

    def plain(x, y, weight):
        return torch.zeros(7, table.irreps_out.dim).index_add(0, target, product(x[source], y, weight))

    def fused(x, y, weight):
        return product.messages(x, y, weight, source, target, 7)

    torch.testing.assert_close(fused(x, y, weight), plain(x, y, weight))
    found = []
    for function in (plain, fused):
        first = torch.autograd.grad(function(x, y, weight).square().sum(), (x, y, weight), create_graph=True)
        found.append((*first, *torch.autograd.grad(sum(g.sin().sum() for g in first), (x, y, weight))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_transforms_of_functions(kind):
    product = kind(channelwise_paths("2x0e + 2x1o", "0e + 1o", "2x0e + 2x1o"))
    x, y, weight = torch.randn(5, 8), torch.randn(5, 4), torch.randn(product.weight_numel)

    def one(x, y, weight):
        return product(x[None], y[None], weight)[0]

    mapped = torch.vmap(one, in_dims=(0, 0, None))(x, y, weight)
    torch.testing.assert_close(mapped, product(x, y, weight))
    jacobian = torch.func.jacrev(one, argnums=1)(x[0], y[0], weight)
    torch.testing.assert_close(jacobian @ y[0], one(x[0], y[0], weight))
    gradients = torch.vmap(
        torch.func.grad(lambda *a: one(*a).square().sum(), argnums=2), in_dims=(0, 0, None)
    )
    shared = torch.func.grad(lambda w: product(x, y, w).square().sum())(weight)
    torch.testing.assert_close(gradients(x, y, weight).sum(0), shared)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("second", ["0e + 1o", "2x0e + 2x1o"])
def test_empty_batches(kind, second):
    for table in (
        channelwise_paths("2x0e + 2x1o", second),
        fully_connected_paths("2x0e + 2x1o", second, "3x1o"),
        full_paths("2x0e + 2x1o", second),
    ):
        x, y = torch.randn(0, 8, requires_grad=True), torch.randn(0, table.irreps2.dim)
        weight = torch.randn(table.weight_numel, requires_grad=True)
        out = kind(table)(x, y, weight)
        assert out.shape == (0, table.irreps_out.dim)
        out.sum().backward()
        assert x.grad.shape == (0, 8)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_dtypes_come_and_go_without_loss(kind):
    table = fully_connected_paths("2x0e + 2x1o", "2x0e + 2x1o", "2x1o")
    product = kind(table)
    moved = copy.deepcopy(product).float().double()
    x, y, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(table.weight_numel)
    assert torch.equal(product(x, y, weight), moved(x, y, weight))
    assert not product.state_dict()
    low = copy.deepcopy(product).bfloat16()
    out = low(x.bfloat16(), y.bfloat16(), weight.bfloat16())
    torch.testing.assert_close(out.double(), product(x, y, weight), rtol=0.1, atol=0.2)


def test_weights_of_a_row_that_serves_all_samples_broadcast():
    coupling = torch.randn(4, 6 * 3)
    runs = (Run(1, 2, 3),)
    x, y, weight = torch.randn(5, 3, 2), torch.randn(5, 4, 1), torch.randn(1, 2, 2)
    one = channelwise_product(x, y, weight, FilterMatrices(coupling, 3), runs)
    each = channelwise_product(x, y, weight.expand(5, -1, -1), FilterMatrices(coupling, 3), runs)
    torch.testing.assert_close(one, each)
    by_outer = OuterProducts(coupling.reshape(4, 6, 3).permute(2, 0, 1).reshape(12, 6), 3)
    torch.testing.assert_close(channelwise_product(x, y.expand(-1, -1, 2), weight, by_outer, runs), one)
