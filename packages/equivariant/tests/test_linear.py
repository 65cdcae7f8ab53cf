"""Linear maps against e3nn's, and the dense layout against the flat one."""

import pytest
import torch
from e3nn import o3 as e3nn_o3
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.equivariant.nn import ChannelLinear, EquivariantLinear
from lemmata.equivariant.o3 import Irreps, from_dense, to_dense
from lemmata.equivariant.testing import assert_equivariant

F64 = torch.float64
# Scalars come first because e3nn fails on biases that no input comes with.
IRREPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["0e", "0o", "1o", "1e", "2e"])), max_size=5
).map(lambda entries: "+".join(["2x0e", *(f"{mul}x{ir}" for mul, ir in entries)]))


@settings(deadline=None, max_examples=40)
@given(irreps_in=IRREPS, irreps_out=IRREPS, bias=st.booleans())
def test_equals_e3nn_with_its_weights(irreps_in: str, irreps_out: str, bias: bool) -> None:
    theirs = e3nn_o3.Linear(irreps_in, irreps_out, biases=bias).double()
    if bias and theirs.bias.numel():
        torch.nn.init.normal_(theirs.bias)
    ours = EquivariantLinear(irreps_in, irreps_out, bias=bias, dtype=F64)
    ours.load_e3nn_state(theirs.state_dict())
    x = torch.randn(2, 3, ours.irreps_in.dim, dtype=F64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    assert_equivariant(ours, x, ours.irreps_in, ours.irreps_out, n=2, tol=1e-12)


def test_weights_lie_as_documented() -> None:
    linear = EquivariantLinear("2x1o + 1x0e + 1x1o", "3x1o", dtype=F64)
    x = torch.randn(10, dtype=F64)
    first, second = linear.weight[:6].reshape(2, 3), linear.weight[6:].reshape(1, 3)
    expected = (first.T @ x[:6].reshape(2, 3) + second.T @ x[7:].reshape(1, 3)) / 3**0.5
    torch.testing.assert_close(linear(x), expected.flatten())


def test_features_keep_unit_variance() -> None:
    linear = EquivariantLinear("64x0e + 32x1o + 64x1o", "64x0e + 64x1o", dtype=F64)
    y = linear(torch.randn(500, linear.irreps_in.dim, dtype=F64))
    torch.testing.assert_close(y.var(), torch.tensor(1.0, dtype=F64), rtol=0.1, atol=0)


def test_what_no_input_reaches_is_zero_or_bias() -> None:
    linear = EquivariantLinear("2x1o", "2x0e + 1x1e", bias=True, dtype=F64)
    torch.nn.init.ones_(linear.bias)
    y = linear(torch.randn(4, 6, dtype=F64))
    assert linear.weight.numel() == 0
    assert y.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]] * 4


def test_generator_decides_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return EquivariantLinear("4x0e", "4x0e", generator=torch.Generator().manual_seed(seed)).weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_bad_input() -> None:
    linear = EquivariantLinear("2x1o", "2x1o")
    with pytest.raises(ValueError, match="expected last dimension 6 for 2x1o, got 5"):
        linear(torch.randn(3, 5))
    with pytest.raises(ValueError, match=r"'weight'.* has 3 entries, expected 4"):
        linear.load_e3nn_state({"weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"'bias'.* has 2 entries, expected 0"):
        linear.load_e3nn_state({"weight": torch.ones(4), "bias": torch.ones(2)})
    with pytest.raises(ValueError, match="cannot read"):
        EquivariantLinear("2x1z", "2x1o")
    with pytest.raises(ValueError, match="`channels_in` "):
        ChannelLinear(0, 1, lmax=1)
    with pytest.raises(ValueError, match="`lmax` "):
        ChannelLinear(1, 1, lmax=-1)


def test_failed_load_changes_nothing() -> None:
    linear = EquivariantLinear("2x0e", "2x0e", bias=True)
    with pytest.raises(ValueError, match=r"'bias'.* has 0 entries, expected 2"):
        linear.load_e3nn_state({"weight": torch.ones(4)})
    assert not (linear.weight == 1).any()


@pytest.mark.parametrize("lmax", [0, 1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_dense_layout_equals_flat(lmax: int, bias: bool) -> None:
    sphere = Irreps.spherical_harmonics(lmax)
    irreps_in, irreps_out = (Irreps([(c, ir) for _, ir in sphere]) for c in (5, 3))
    dense = ChannelLinear(5, 3, lmax, bias=bias, dtype=F64)
    flat = EquivariantLinear(irreps_in, irreps_out, bias=bias, dtype=F64)
    with torch.no_grad():
        flat.weight.copy_(dense.weight.mT.flatten())
        if bias:
            dense.bias.normal_()
            flat.bias.copy_(dense.bias)
    x = torch.randn(2, 4, irreps_in.dim, dtype=F64)
    torch.testing.assert_close(from_dense(irreps_out, dense(to_dense(irreps_in, x))), flat(x))
    assert_equivariant(dense, to_dense(irreps_in, x), sphere, sphere, tol=1e-12)


@pytest.mark.parametrize("batch", [(), (0,), (2, 0, 3), (7,)])
def test_batches(batch: tuple[int, ...]) -> None:
    assert EquivariantLinear("2x0e + 1x1o", "1x1o")(torch.randn(*batch, 5)).shape == (*batch, 3)
    assert ChannelLinear(2, 3, lmax=2)(torch.randn(*batch, 2, 9)).shape == (*batch, 3, 9)


def test_second_derivatives() -> None:
    x = torch.randn(2, 5, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(EquivariantLinear("2x0e + 1x1o", "1x0e + 2x1o", dtype=F64), (x,))
    y = torch.randn(2, 2, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ChannelLinear(2, 3, 1, dtype=F64), (y,))
