"""Expressivity against counts by hand, against a Jacobian by brute force, and of e3nn's products."""

import pytest
import torch

from lemmata.equivariant.expressivity import coupling_strengths, expressivity, interactability
from lemmata.equivariant.o3 import Irrep, Irreps, wigner_3j
from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
from lemmata.equivariant.tensor_product.front import TensorProduct
from lemmata.equivariant.tensor_product.gaunt import GauntTensorProduct
from lemmata.equivariant.tensor_product.matrix import MatrixTensorProduct
from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct


def natural(lmax):
    return Irreps.spherical_harmonics(lmax)


def both(lmax):
    return natural(lmax) + Irreps([(1, Irrep(l, -((-1) ** l))) for l in range(lmax + 1)])


def count_triples(lmax):
    return sum(
        abs(l1 - l2) <= l3 <= l1 + l2
        for l1 in range(lmax + 1)
        for l2 in range(lmax + 1)
        for l3 in range(lmax + 1)
    )


class Shared(torch.nn.Module):
    """A product with weights on the inputs that both branches share."""

    def __init__(self, lmax):
        super().__init__()
        self.lmax1 = self.lmax2 = self.lmax_out = lmax
        self.product = CompleteTensorProduct(lmax, lmax, lmax, degree_weights=False)

    def forward(self, x, y):
        return self.product(x, y)


@pytest.mark.parametrize("lmax", [0, 1, 2, 4])
def test_gaunt_products(lmax):
    for weights in (False, True):
        for method in ("grid", "fourier", "dense"):
            product = GauntTensorProduct(lmax, lmax, lmax, degree_weights=weights, method=method)
            assert expressivity(product) == 3 * (lmax + 1) - 2


@pytest.mark.parametrize("lmax", [1, 2, 4])
def test_brackets_and_complete_products(lmax):
    assert expressivity(VectorSignalTensorProduct(lmax, lmax, lmax)) == 3 * lmax - 2
    # Independent weights a branch add up. The linear layers alone share theirs between the branches.
    assert expressivity(CompleteTensorProduct(lmax, lmax, lmax)) == 3 * (lmax + 1) - 2 + 3 * lmax - 2
    shared = expressivity(Shared(lmax))
    assert shared == expressivity(CompleteTensorProduct(lmax, lmax, lmax, degree_weights=False))
    assert shared == {1: 5, 2: 9, 4: 17}[lmax]


@pytest.mark.parametrize("lmax", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["full", "fully_connected", "channelwise"])
def test_products_with_all_paths(lmax, kind):
    if kind == "full":
        product = TensorProduct(natural(lmax), natural(lmax), kind=kind)
    else:
        product = TensorProduct(natural(lmax), natural(lmax), both(lmax), kind=kind)
    assert expressivity(product, natural(lmax), natural(lmax), both(lmax)) == count_triples(lmax)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_e3nn_products(lmax):
    o3 = pytest.importorskip("e3nn.o3")
    irreps = (str(natural(lmax)), str(natural(lmax)), str(both(lmax)))
    product = o3.FullyConnectedTensorProduct(*irreps)
    assert expressivity(product) == count_triples(lmax)
    assert int(interactability(product).sum()) == count_triples(lmax)


def test_against_a_jacobian_by_brute_force():
    """The rank of the derivative of the whole coefficient tensor by the weights, by autograd."""
    lmax = 2
    product = CompleteTensorProduct(lmax, lmax, lmax, dtype=torch.float64)
    degrees = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])
    basis = torch.eye(9, dtype=torch.float64)
    weights = [torch.randn(p.shape, dtype=torch.float64) for p in product.parameters()]
    weights += [torch.randn(3, dtype=torch.float64) for _ in range(4)]

    def coefficients(*values):
        names = [name for name, _ in product.named_parameters()]
        state = dict(zip(names, values[:3], strict=True))
        x, y = basis * values[3][degrees], basis * values[4][degrees]
        out = torch.func.functional_call(product, state, (x[:, None, None], y[None, :, None]))
        return torch.cat([block * w[degrees] for block, w in zip(out, values[5:], strict=True)], dim=-1)

    jacobian = torch.autograd.functional.jacobian(coefficients, tuple(weights))
    matrix = torch.cat(
        [j.flatten(-w.ndim).flatten(0, -2) for j, w in zip(jacobian, weights, strict=True)], -1
    )
    assert torch.linalg.matrix_rank(matrix, rtol=1e-9).item() == expressivity(product) == 11


def test_channels_are_terms():
    """R channels make R terms, up to the number of triples."""
    product = GauntTensorProduct(2, 2, 2, degree_weights=False)
    found = [expressivity(product, channels=channels) for channels in (1, 2, 8)]
    assert found[0] == 7
    assert found[0] < found[1] <= found[2] == 11
    assert expressivity(GauntTensorProduct(2, 2, 2, channels=8)) == 11
    complete = CompleteTensorProduct(2, 2, 2, degree_weights=False)
    assert expressivity(complete, channels=8) == count_triples(2)


def test_copies_around_the_product():
    """Two copies of each degree outside, one inside: a rank-one map between them, for each degree."""
    product = GauntTensorProduct(1, 1, 1)
    one = expressivity(product)
    two = expressivity(product, 2 * natural(1), natural(1), natural(1))
    assert two == one + 2  # each of the two degrees of the first input gains a direction
    assert expressivity(product, "1x0e", "1x0e", "1x0e") == 1
    assert expressivity(product, "1x0o", "1x0e", "1x0e") == 0


def test_strengths_of_gaunt_products():
    """|g| = sqrt((2 l1 + 1)(2 l2 + 1)(2 l3 + 1) / 4 pi) |3j(000)|."""
    from sympy import N
    from sympy.physics.wigner import wigner_3j as exact

    product = GauntTensorProduct(3, 2, 4, degree_weights=False, normalization="none")
    strengths = coupling_strengths(product)
    assert strengths.shape == (4, 3, 5)
    for l1, l2, l3 in torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5)).tolist():
        sizes = (2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)
        expected = (sizes / (4 * torch.pi)) ** 0.5 * abs(float(N(exact(l1, l2, l3, 0, 0, 0))))
        assert strengths[l1, l2, l3].abs().item() == pytest.approx(expected, abs=1e-12)


def test_strengths_rebuild_the_product():
    """With signs, strengths times 3j symbols are the product."""
    product = MatrixTensorProduct(2, 2, 3, degree_weights=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.normal_()
    strengths = coupling_strengths(product)
    x, y = torch.randn(2, 5, 1, 9, dtype=torch.float64)
    expected = torch.zeros(5, 16, dtype=torch.float64)
    for l1, l2, l3 in strengths.nonzero().tolist():
        u, v = x[:, 0, l1 * l1 : (l1 + 1) ** 2], y[:, 0, l2 * l2 : (l2 + 1) ** 2]
        path = torch.einsum("abm,za,zb->zm", wigner_3j(l1, l2, l3), u, v)
        expected[:, l3 * l3 : (l3 + 1) ** 2] += strengths[l1, l2, l3] * path
    torch.testing.assert_close(product(x, y)[:, 0], expected, rtol=0, atol=1e-11)


def test_strengths_of_several_channels_are_combined():
    product = GauntTensorProduct(1, 1, 1, channels=2, normalization="none")
    single = coupling_strengths(GauntTensorProduct(1, 1, 1, normalization="none"))
    with torch.no_grad():
        product.weight1.copy_(torch.tensor([[3.0, 3.0], [4.0, 4.0]]))
    torch.testing.assert_close(coupling_strengths(product), 5 * single.abs())


def test_interactability_ignores_weights_that_happen_to_be_zero():
    product = CompleteTensorProduct(2, 2, 2)
    with torch.no_grad():
        for parameter in product.parameters():
            parameter.zero_()
    assert coupling_strengths(product).count_nonzero() == 0
    assert int(interactability(product).sum()) == count_triples(2)
    assert expressivity(product) == 11


def test_modules_are_left_alone():
    product = CompleteTensorProduct(1, 1, 1)
    before = {name: value.clone() for name, value in product.state_dict().items()}
    expressivity(product)
    interactability(product)
    assert all(torch.equal(before[name], value) for name, value in product.state_dict().items())
    assert product.weight1.dtype == torch.float32
    assert product.weight1.grad is None


def test_pairs_of_blocks():
    product = CompleteTensorProduct(1, 1, 1, unnatural1=True)
    assert expressivity(product) > expressivity(CompleteTensorProduct(1, 1, 1))
    assert int(interactability(product).sum()) == 5


def test_modules_that_are_no_product():
    with pytest.raises(TypeError, match="got Linear"):
        expressivity(torch.nn.Linear(3, 3))

    class Elementwise(torch.nn.Module):
        lmax1 = lmax2 = lmax_out = 1

        def forward(self, x, y):
            return x * y

    with pytest.raises(ValueError, match="not an equivariant bilinear map"):
        coupling_strengths(Elementwise())
    with pytest.raises(ValueError, match=r"`channels` \(=3\) must be the product's own, 2"):
        expressivity(GauntTensorProduct(1, 1, 1, channels=2), channels=3)
