"""The front: each kind is the map it says it is, by every method that claims to compute it."""

import copy
import io
import itertools
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.tensor_product import TensorProduct, gaunt_coefficients
from lemmata.equivariant.testing import assert_equivariant

e3nn = pytest.importorskip("e3nn.o3")


def natural(channels, lmax):
    """Return irreps of functions on the sphere."""
    return "+".join(f"{channels}x{l}y" for l in range(lmax + 1))


def unnatural(channels, lmax):
    """Return irreps of the opposite parities, from degree 1."""
    return "+".join(f"{channels}x{l}{'oe'[l % 2]}" for l in range(1, lmax + 1))


@pytest.fixture
def float64():
    """Make float64 the default while e3nn makes its constants."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def double(*arguments, **options):
    """Return a product in float64."""
    return TensorProduct(*arguments, dtype=torch.float64, **options)


def inputs(product, *batch):
    """Return random inputs in float64."""
    return tuple(
        torch.randn(*batch, ir.dim, dtype=torch.float64) for ir in (product.irreps1, product.irreps2)
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["auto", "dense", "sparse"])
def test_fully_connected_takes_e3nns_weights(method):
    irreps = ("8x0e + 4x1o + 2x2e", "3x0e + 2x1o", "5x0e + 4x1o + 2x1e")
    theirs = e3nn.FullyConnectedTensorProduct(*irreps)
    ours = double(*irreps, kind="fully_connected", method=method)
    ours.load_state_dict({"weight": theirs.weight})
    x, y = inputs(ours, 3, 4)
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["auto", "dense", "sparse"])
def test_full_is_e3nns(method):
    theirs = e3nn.FullTensorProduct("3x0e + 2x1o", "2x1o + 2e")
    ours = double("3x0e + 2x1o", "2x1o + 2e", method=method)
    assert str(ours.irreps_out) == str(theirs.irreps_out)
    assert ours.weight is None
    x, y = inputs(ours, 6)
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=10)
@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["mul_ir", "ir_mul"]),
)
def test_all_methods_of_complete_compute_one_map(lmax1, lmax2, channels, one, layout):
    lmax_out = min(lmax1 + lmax2, 3)
    out = natural(channels, lmax_out)
    if min(lmax1, lmax2) > 0:
        out += "+" + unnatural(channels, min(lmax1 + lmax2 - 1, 3))
    irreps = (natural(channels, lmax1), natural(1 if one else channels, lmax2), out)
    products = [
        double(*irreps, kind="complete", method=method, layout=layout)
        for method in ("dense", "sparse", "grid", "auto")
    ]
    x, y = inputs(products[0], 3)
    for product in products[1:]:
        torch.testing.assert_close(product(x, y), products[0](x, y), rtol=1e-10, atol=1e-10)


def test_even_and_odd_sums_alone_have_methods_of_their_own():
    for out, methods in (
        (natural(2, 3), ("dense", "grid", "fourier")),
        (unnatural(2, 3), ("dense", "grid", "vector_signal")),
    ):
        products = [double(natural(2, 3), natural(2, 3), out, kind="complete", method=m) for m in methods]
        x, y = inputs(products[0], 4)
        for product in products[1:]:
            torch.testing.assert_close(product(x, y), products[0](x, y), rtol=1e-10, atol=1e-10)


def test_complete_reaches_every_coupling_and_gaunts_strengths():
    product = double("0e + 1o + 2e", "0e + 1o + 2e", natural(1, 2) + "+" + unnatural(1, 2), kind="complete")
    x, y = (torch.eye(9, dtype=torch.float64) for _ in range(2))
    table = product(x[:, None], y[None])
    entries = list(zip(product.irreps_out.slices(), product.irreps_out, strict=True))
    for l1, l2 in itertools.product(range(3), repeat=2):
        for place, entry in entries:
            l3, odd = entry.ir.l, place.start >= 9
            coupled = abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == odd
            block = table[l1**2 : (l1 + 1) ** 2, l2**2 : (l2 + 1) ** 2, place]
            assert bool(block.abs().max() > 1e-6) == coupled, (l1, l2, l3)
    gaunt = gaunt_coefficients(2, 2, 2)
    ratio = (table[..., 4:9] * gaunt[..., 4:9]).sum() / gaunt[..., 4:9].square().sum()
    torch.testing.assert_close(table[..., 4:9], ratio * gaunt[..., 4:9])


def test_degree_rank_reaches_any_path_weights():
    irreps = (natural(1, 2), natural(1, 2), natural(1, 2))
    with pytest.raises(ValueError, match="request `degree_rank=9`"):
        TensorProduct(*irreps, kind="channelwise", method="grid")
    product = double(*irreps, kind="channelwise", method="grid", degree_rank=9)
    paths = double(*irreps, kind="channelwise")
    x, y = inputs(product, 40)
    target = paths(x, y).detach()
    # With one pair of degrees a term only the weights of the output are left, in which the product is linear.
    first, second, _ = torch.split(torch.zeros(product.weight_numel, dtype=torch.float64), [27, 27, 27])
    for term in range(9):
        first.view(3, 9)[term // 3, term] = second.view(3, 9)[term % 3, term] = 1.0
    columns = torch.stack(
        [
            product(x, y, torch.cat([first, second, torch.eye(27, dtype=torch.float64)[n]])).flatten()
            for n in range(27)
        ],
        dim=1,
    )
    solution = torch.linalg.lstsq(columns, target.flatten()[:, None], driver="gelsd").solution
    torch.testing.assert_close(columns @ solution, target.flatten()[:, None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["dense", "sparse", "grid"])
@pytest.mark.parametrize("second", [1, 3])
def test_terms_add_up_and_have_weights_of_samples(method, second):
    irreps = (natural(3, 2), natural(second, 1), natural(3, 2))
    one = double(*irreps, kind="complete", method=method, degree_rank=1)
    two = double(*irreps, kind="complete", method=method, degree_rank=2)
    x, y = inputs(one, 5)
    plain = double(*irreps, kind="complete", method=method)
    torch.testing.assert_close(one(x, y), plain(x, y))
    torch.testing.assert_close(two(x, y, torch.ones(two.weight_numel, dtype=torch.float64)), 2 * plain(x, y))
    each = two.weight.detach().expand(5, -1)
    torch.testing.assert_close(two(x, y, each), two(x, y))


CASES = [
    ("full", "dense", ("2x0e + 1o + 1e", "1o + 2x2e", None)),
    ("fully_connected", "sparse", ("2x0e + 2x1o + 1e", "0e + 1o", "2x0e + 2x1o + 2x1e + 2x2e")),
    ("fully_connected", "dense", (natural(2, 6), natural(1, 6), natural(2, 6))),
    ("channelwise", "dense", (natural(2, 3), natural(1, 3), None)),
    ("channelwise", "sparse", (natural(2, 6), natural(2, 6), natural(2, 6))),
    ("complete", "dense", (natural(2, 3), natural(2, 3), natural(2, 3) + "+" + unnatural(2, 3))),
    ("complete", "sparse", (natural(2, 6), natural(2, 6), natural(2, 6) + "+" + unnatural(2, 6))),
    ("complete", "grid", (natural(2, 6), natural(1, 6), natural(2, 6) + "+" + unnatural(2, 6))),
    ("complete", "grid", (natural(2, 2), "2x0o + 2x1e + 2x2o", "2x1o + 2x2e + 2x2o")),
    ("complete", "fourier", (natural(2, 4), natural(2, 4), natural(2, 4))),
    ("complete", "vector_signal", (natural(2, 4), natural(2, 4), unnatural(2, 4))),
    ("complete", "matrix", (natural(2, 3), natural(2, 3), natural(2, 3) + "+" + unnatural(2, 3))),
]


@pytest.mark.parametrize(("kind", "method", "irreps"), CASES)
def test_products_are_equivariant_under_rotations_and_reflections(kind, method, irreps):
    product = double(*irreps, kind=kind, method=method)
    assert_equivariant(
        product,
        inputs(product, 4),
        [product.irreps1, product.irreps2],
        product.irreps_out,
        group="O3",
        tol=1e-10,
    )
    product.float()
    arguments = tuple(x.float() for x in inputs(product, 4))
    assert_equivariant(
        product, arguments, [product.irreps1, product.irreps2], product.irreps_out, group="O3", tol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("full", "dense"),
        ("fully_connected", "dense"),
        ("channelwise", "sparse"),
        ("complete", "dense"),
        ("complete", "sparse"),
        ("complete", "grid"),
    ],
)
def test_first_and_second_derivatives(kind, method):
    out = None if kind == "full" else "2x0e + 2x1o + 2x1e"
    product = double("2x0e + 2x1o", "2x0e + 2x1o", out, kind=kind, method=method)
    x, y = (x.requires_grad_() for x in inputs(product, 2))
    assert torch.autograd.gradcheck(product, (x, y))
    assert torch.autograd.gradgradcheck(product, (x, y), atol=1e-6)


def test_leading_axes_broadcast_and_may_be_empty_or_absent():
    product = double("2x0e + 2x1o", "0e + 1o", kind="channelwise")
    x, y = inputs(product)
    assert product(x, y).shape == (product.irreps_out.dim,)
    x = torch.randn(3, 1, 8, dtype=torch.float64)
    y = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(product(x, y)[1, 2], product(x[1, 0], y[2]))
    weight = torch.randn(3, 1, product.weight_numel, dtype=torch.float64)
    torch.testing.assert_close(product(x, y, weight)[1, 2], product(x[1, 0], y[2], weight[1, 0]))
    assert product(x[:0], y).shape == (0, 5, product.irreps_out.dim)


def test_messages_equal_products_summed_over_edges():
    edge_index = torch.randint(0, 6, (2, 30))
    for kind, method, out in (
        ("channelwise", "auto", None),
        ("fully_connected", "dense", "3x1o"),
        ("complete", "grid", "4x0e + 4x1o"),
    ):
        product = double("4x0e + 4x1o", "0e + 1o", out, kind=kind, method=method)
        x = torch.randn(6, 16, dtype=torch.float64)
        y = torch.randn(30, 4, dtype=torch.float64)
        expected = torch.zeros(6, product.irreps_out.dim, dtype=torch.float64)
        expected.index_add_(0, edge_index[1], product(x[edge_index[0]], y).detach())
        torch.testing.assert_close(product.messages(x, y, None, edge_index), expected)


def test_state_copies_and_pickles():
    product = TensorProduct("4x0e + 4x1o", "4x0e + 4x1o", "4x1o", kind="fully_connected")
    assert list(product.state_dict()) == ["weight"]
    x, y = torch.randn(3, 16), torch.randn(3, 16)
    file = io.BytesIO()
    torch.save(product, file)
    file.seek(0)
    for other in (copy.deepcopy(product), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x, y), product(x, y))
    expected = product.double()(x.double(), y.double())
    torch.testing.assert_close(product.float().double()(x.double(), y.double()), expected)


def test_weights_are_reproducible_and_do_not_read_the_default_dtype():
    first, second = (
        double("4x1o", "4x1o", "4x1e", kind="fully_connected", generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first.weight, second.weight)
    x, y = inputs(first, 2)
    assert first(x, y).dtype == torch.float64
    external = TensorProduct("4x1o", "1o", kind="channelwise", shared_weights=False)
    assert external.weight is None
    assert not list(external.parameters())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("4x0e", "3x0e", "4x0e"), {"kind": "channelwise"}, "equal multiplicities"),
        (("4x0e", "3x0e", "4x0e"), {"kind": "complete"}, "equal multiplicities"),
        (("2x0e + 2x1e", "2x0e", "2x0e"), {"kind": "complete"}, "mixes natural parity"),
        (("2x0e + 2x2e", "2x0e", "2x0e"), {"kind": "complete"}, "each degree 0, 1"),
        (("2x0e", "2x0e", "2x1o"), {"kind": "complete"}, "1o of `irreps_out`.*cannot be reached"),
        (("2x0e", "2x0e"), {"kind": "complete"}, "needs `irreps_out`"),
        (("2x0e", "2x0e", "2x0e"), {"kind": "complete", "degree_rank": 0}, "degree_rank.*=0"),
        (("2x0e", "2x0e", "2x0e"), {"kind": "fully_connected", "method": "grid"}, "kind='complete'"),
        (("2x0e", "2x0e", "2x0e"), {"kind": "fully_connected", "degree_rank": 2}, "degree_rank.*=2"),
        (("2x0e", "2x0e", "2x0e"), {"kind": "channelwise", "method": "grid"}, "request `degree_rank=1`"),
        (("0e + 1o", "0e + 1o", "1e"), {"kind": "complete", "method": "fourier"}, "even sum"),
        (("0e + 1o", "0e + 1o", "1o"), {"kind": "complete", "method": "vector_signal"}, "odd sum"),
        (("0e", "0e", "0e"), {"kind": "uvw"}, "kind.*uvw"),
        (("0e", "0e", "0e"), {"method": "fast"}, "method.*fast"),
        (("0e", "0e"), {"layout": "rows"}, "layout.*rows"),
        (("0e", "0e"), {"kind": "channelwise", "shared_weights": False, "internal_weights": True}, "shared"),
        (("2z0", "0e"), {}, "2z0"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        TensorProduct(*arguments, **options)


def test_bad_inputs_are_named():
    product = TensorProduct("2x0e", "0e", kind="channelwise", shared_weights=False)
    x, y = torch.randn(3, 2), torch.randn(3, 1)
    with pytest.raises(ValueError, match="`weight` is missing"):
        product(x, y)
    with pytest.raises(ValueError, match="expected last dimension 2"):
        product(x, y, torch.randn(3, 5))
    with pytest.raises(ValueError, match="`y`: expected last dimension 1"):
        product(x, x, torch.randn(3, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "method", "second"),
    [
        ("fully_connected", "dense", natural(8, 2)),
        ("fully_connected", "sparse", natural(8, 2)),
        ("channelwise", "dense", natural(1, 2)),
        ("channelwise", "sparse", natural(8, 2)),
        ("complete", "dense", natural(1, 2)),
        ("complete", "grid", natural(8, 2)),
    ],
)
def test_products_compile_to_one_graph(kind, method, second):
    torch.compiler.reset()
    product = TensorProduct(natural(8, 2), second, natural(8, 2), kind=kind, method=method)
    x, y = torch.randn(20, product.irreps1.dim, requires_grad=True), torch.randn(20, product.irreps2.dim)
    torch.compile(lambda x: x + 1, fullgraph=True)(x)  # the compiler's own start
    start = time.perf_counter()
    compiled = torch.compile(product, fullgraph=True)
    out = compiled(x, y)
    seconds = time.perf_counter() - start
    torch.testing.assert_close(out, product(x, y), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(product(x, y).sum(), x)[0], rtol=1e-4, atol=1e-4)
    assert seconds < 60
