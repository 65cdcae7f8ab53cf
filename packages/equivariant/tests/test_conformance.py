"""What every layer of `nn` and the sphere's grids must do, whatever they compute."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lemmata.equivariant.nn import (
    BesselBasis,
    ChannelLinear,
    ChannelRMSNorm,
    ChebyshevBasis,
    CosineCutoff,
    EquivariantLinear,
    EquivariantRMSNorm,
    Gate,
    GaussianBasis,
    NormActivation,
    PolynomialCutoff,
    ScalarActivation,
)
from lemmata.equivariant.o3 import Irreps
from lemmata.equivariant.s2 import S2Grid
from lemmata.equivariant.testing import equivariance_error

F64 = torch.float64
SPHERE = Irreps.spherical_harmonics(2)
MIXED = "4x0e + 2x0o + 3x1o + 2x1e + 1x2e"


class OnGrid(nn.Module):
    """A pointwise square on the sphere, so that the grid has something to be equivariant about."""

    def __init__(self, lmax: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.grid = S2Grid(lmax, lmax_product=3 * lmax, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.from_grid(self.grid.to_grid(x).square())


@dataclass(frozen=True)
class Case:
    """How to make a module, how the group acts, and the shape of an input."""

    make: Callable[[torch.dtype | None], nn.Module]
    irreps_in: Irreps | str | None
    irreps_out: Irreps | str | None
    shape: tuple[int, ...]
    positive: bool = False


def radial(make: Callable[[torch.dtype | None], nn.Module]) -> Case:
    return Case(make, None, None, (7,), positive=True)


CASES = {
    "EquivariantLinear": Case(
        lambda d: EquivariantLinear(MIXED, "3x1o + 2x0e + 2x1o + 1x2e", bias=True, dtype=d),
        MIXED, "3x1o + 2x0e + 2x1o + 1x2e", (5, 26),
    ),
    "ChannelLinear": Case(lambda d: ChannelLinear(4, 3, 2, bias=True, dtype=d), SPHERE, SPHERE, (5, 4, 9)),
    "Gate": Case(
        lambda _: Gate("4x0e", functional.silu, "3x0e", torch.sigmoid, "2x1o + 1x2e"),
        "7x0e + 2x1o + 1x2e", "4x0e + 2x1o + 1x2e", (5, 18),
    ),
    "ScalarActivation": Case(
        lambda _: ScalarActivation("4x0e + 2x0o + 3x1o", [functional.silu, torch.tanh, None]),
        "4x0e + 2x0o + 3x1o", "4x0e + 2x0o + 3x1o", (5, 15),
    ),
    "NormActivation": Case(
        lambda d: NormActivation(MIXED, torch.tanh, bias=True, dtype=d), MIXED, MIXED, (5, 26)
    ),
    "EquivariantRMSNorm": Case(
        lambda d: EquivariantRMSNorm(MIXED, centre=True, dtype=d), MIXED, MIXED, (5, 26)
    ),
    "ChannelRMSNorm": Case(lambda d: ChannelRMSNorm(4, 2, centre=True, dtype=d), SPHERE, SPHERE, (5, 4, 9)),
    "S2Grid, dense": Case(lambda d: OnGrid(2, d), SPHERE, SPHERE, (5, 9)),
    "S2Grid, separable": Case(
        lambda d: OnGrid(11, d), Irreps.spherical_harmonics(11), Irreps.spherical_harmonics(11), (2, 144)
    ),
    "BesselBasis": radial(lambda d: BesselBasis(5, 2.0, trainable=True, dtype=d)),
    "GaussianBasis": radial(lambda d: GaussianBasis(5, 2.0, dtype=d)),
    "ChebyshevBasis": radial(lambda _: ChebyshevBasis(5, 2.0)),
    "PolynomialCutoff": radial(lambda _: PolynomialCutoff(2.0)),
    "CosineCutoff": radial(lambda _: CosineCutoff(2.0)),
}  # fmt: skip
every = pytest.mark.parametrize("name", CASES)


def prepared(name: str, dtype: torch.dtype = F64) -> tuple[nn.Module, Tensor]:
    """Return a module whose parameters are all random, and an input."""
    case = CASES[name]
    module = case.make(dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(case.shape, dtype=dtype)
    return module, x.abs() if case.positive else x


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-10), (torch.float32, 1e-4)])
def test_equivariant(name: str, dtype: torch.dtype, tolerance: float) -> None:
    module, x = prepared(name, dtype)
    report = equivariance_error(module, x, CASES[name].irreps_in, CASES[name].irreps_out, n=4)
    assert report.max < tolerance, report


@every
def test_state_copies_and_pickles_round_trip(name: str) -> None:
    module, x = prepared(name)
    expected = module(x)
    other, _ = prepared(name)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}
    for twin in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)
    assert repr(module)


@every
def test_dtype_follows_the_module_and_not_the_default(name: str) -> None:
    module, x = prepared(name)
    exact = module(x)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        assert module(x).dtype == F64
        module.to(torch.float32)
        assert module(x.float()).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(module.to(F64)(x), exact, rtol=1e-5, atol=1e-5)


@every
def test_gradients_of_both_orders(name: str) -> None:
    module, x = prepared(name)
    x = (x[:2] + (0.1 if CASES[name].positive else 0)).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(module, (x,), fast_mode=True)


@every
def test_forward_derivatives_and_vmap(name: str) -> None:
    module, x = prepared(name)
    torch.testing.assert_close(torch.vmap(module)(x), module(x), rtol=1e-12, atol=1e-12)
    tangent = torch.randn_like(x)
    _, forward = torch.func.jvp(module, (x,), (tangent,))
    _, pullback = torch.func.vjp(module, x)
    weight = torch.randn_like(forward)
    torch.testing.assert_close((weight * forward).sum(), (pullback(weight)[0] * tangent).sum())


@every
def test_inference_mode_leaves_nothing_behind(name: str) -> None:
    with torch.inference_mode():
        module, x = prepared(name)
        module(x)
    module, x = prepared(name)
    module(x.requires_grad_()).sum().backward()
    assert torch.isfinite(x.grad).all()


@every
def test_empty_batches(name: str) -> None:
    module, x = prepared(name)
    assert module(x[:0]).shape == module(x)[:0].shape


@every
def test_no_tensor_is_made_on_another_device(name: str) -> None:
    module, x = prepared(name)
    shape = module(x).shape
    on_meta = module.to("meta")(x.to("meta"))
    assert on_meta.device.type == "meta"
    assert on_meta.shape == shape


@pytest.fixture
def fresh_compiler(unchecked: None) -> None:
    torch.compiler.reset()


@every
def test_traces_as_one_graph(name: str, fresh_compiler: Any) -> None:
    module, x = prepared(name)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.slow
@every
def test_compiles(name: str, fresh_compiler: Any) -> None:
    module, x = prepared(name)
    compiled = torch.compile(module, fullgraph=True)
    x.requires_grad_()
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-10, atol=1e-10)
    one, two = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, module))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
