"""AuON: the bounds on its scale, what it equals, and its step against plain arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lemmata.optim.optimizers.auon import AuON, HybridAuON, auon_direction, cosh_rms_scale
from lemmata.optim.optimizers.muon import Muon


def matrices(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (40, 60)])
def test_scale_lies_between_its_bounds(shape: tuple[int, int], gamma: float) -> None:
    count = math.prod(shape)
    squared = cosh_rms_scale(matrices(*shape), gamma).square().item()
    assert 1 + gamma**2 / count - 1e-12 <= squared <= 1 + math.sinh(gamma) ** 2 / count + 1e-12


@pytest.mark.parametrize("gamma", [0.3, 1.0, 1.5])
def test_one_entry_reaches_the_upper_bound(gamma: float) -> None:
    g = torch.zeros(6, 9, dtype=torch.float64)
    g[2, 3] = -17.0
    assert abs(cosh_rms_scale(g, gamma).item() ** 2 - 1 - math.sinh(gamma) ** 2 / 54) < 1e-12


def test_scale_equals_the_published_formula() -> None:
    g = matrices(4, 6, 5)
    unit = g / torch.linalg.matrix_norm(g, keepdim=True)
    expected = torch.cosh(1.5 * unit).square().mean(dim=(-2, -1)).sqrt()
    torch.testing.assert_close(cosh_rms_scale(g, 1.5), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(300, 500), (1, 200_000), (3, 200, 400), (70, 40, 50)])
def test_scale_of_large_matrices_is_summed_in_parts(shape: tuple[int, ...]) -> None:
    g = matrices(*shape)
    unit = g / torch.linalg.matrix_norm(g, keepdim=True)
    expected = torch.cosh(1.5 * unit).square().mean(dim=(-2, -1)).sqrt()
    torch.testing.assert_close(cosh_rms_scale(g, 1.5), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(cosh_rms_scale(g.mT, 1.5), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [1e-3, 0.5, 1.0, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("count", [1, 60, 5_000])
def test_scale_is_exact_to_rounding_at_any_gamma(gamma: float, count: int, dtype: torch.dtype) -> None:
    """A series or exponentials: also where one entry holds all of the norm, which needs most terms."""
    for g in (matrices(1, count), torch.eye(1, count, dtype=torch.float64)):
        unit = g / torch.linalg.matrix_norm(g)
        expected = (gamma * unit).sinh().square().mean().add(1).sqrt()
        found = cosh_rms_scale(g.to(dtype), gamma).double()
        # A rounding of x = gamma changes sinh(x) by gamma times as much.
        tolerance = (2 + 4 * gamma) * torch.finfo(dtype).eps
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0, check_dtype=False)


def test_single_number_gives_the_hyperbolic_cosine_of_one() -> None:
    assert abs(cosh_rms_scale(torch.tensor([[-3.0]], dtype=torch.float64)).item() - math.cosh(1)) < 1e-12


def test_gamma_zero_gives_exactly_one() -> None:
    assert torch.equal(cosh_rms_scale(matrices(3, 4, 5), 0.0), torch.ones(3, dtype=torch.float64))


def test_realistic_matrix_is_scaled_by_less_than_5e_5() -> None:
    assert 0 < cosh_rms_scale(matrices(128, 128)).item() - 1 < 4.3e-5


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    gamma=st.floats(0, 3),
    exponent=st.integers(-5, 30),
    seed=st.integers(0, 2**16),
)
def test_direction_has_norm_at_most_one_at_any_scale(
    rows: int, columns: int, gamma: float, exponent: int, seed: int
) -> None:
    u = matrices(rows, columns, seed=seed)
    direction = auon_direction(u, gamma)
    assert torch.linalg.matrix_norm(direction, ord=2) <= 1 + 1e-12
    assert torch.linalg.matrix_norm(direction) <= 1 + 1e-12
    torch.testing.assert_close(auon_direction(u * 2.0**exponent, gamma), direction, rtol=1e-12, atol=1e-14)


def test_leading_dimensions_are_a_batch() -> None:
    u = matrices(2, 3, 4, 5)
    for normalize in (True, False):
        one_by_one = [auon_direction(each, 1.5, normalize=normalize) for each in u.view(6, 4, 5)]
        batched = auon_direction(u, 1.5, normalize=normalize)
        torch.testing.assert_close(batched, torch.stack(one_by_one).view_as(u), rtol=1e-14, atol=0)


@pytest.mark.parametrize("normalize", [True, False])
def test_zeros_give_zeros(normalize: bool) -> None:
    assert torch.equal(auon_direction(torch.zeros(3, 4), normalize=normalize), torch.zeros(3, 4))
    assert cosh_rms_scale(torch.zeros(3, 4)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    u = matrices(300, 200, dtype=torch.float32).to(dtype) * 2.0**-9  # squares underflow in float16
    direction = auon_direction(u)
    assert direction.dtype == dtype
    torch.testing.assert_close(direction, auon_direction(u.float()).to(dtype), rtol=0, atol=0)


def test_direction_is_differentiable() -> None:
    u = matrices(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: auon_direction(x, 1.5), u)
    assert torch.autograd.gradcheck(lambda x: cosh_rms_scale(x, 1.5), u)


def test_large_gamma_overflows_to_a_zero_direction() -> None:
    u = torch.zeros(3, 4)
    u[1, 1] = 5.0
    assert cosh_rms_scale(u, 1e3) == math.inf
    assert torch.equal(auon_direction(u, 1e3), torch.zeros(3, 4))


def test_functions_compile_to_one_graph(unchecked: None) -> None:
    torch.compiler.reset()
    u = matrices(2, 6, 4)
    compiled = torch.compile(auon_direction, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), auon_direction(u))
    compiled = torch.compile(cosh_rms_scale, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), cosh_rms_scale(u))


@pytest.mark.parametrize("function", [cosh_rms_scale, auon_direction])
def test_negative_gamma_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match=r"`gamma` \(=-1\) must lie in \[0, inf\)"):
        function(torch.ones(2, 2), gamma=-1.0)


def run(optimizer_of: object, shapes: list[tuple[int, ...]], steps: int = 7) -> list[Tensor]:
    params = [nn.Parameter(matrices(*shape, seed=index)) for index, shape in enumerate(shapes)]
    optimizer = optimizer_of(params)
    for step in range(steps):
        for index, param in enumerate(params):
            param.grad = matrices(*param.shape, seed=1000 + 10 * step + index)
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", ["spectral", "none"])
def test_step_equals_plain_arithmetic(nesterov: bool, normalize: bool, scale: str) -> None:
    shapes = [(6, 4), (4, 6), (3, 5, 2)]
    found = run(
        lambda params: AuON(
            params,
            0.03,
            momentum=0.9,
            nesterov=nesterov,
            weight_decay=0.1,
            gamma=1.5,
            normalize=normalize,
            scale=scale,
        ),
        shapes,
    )
    for index, (shape, weights) in enumerate(zip(shapes, found, strict=True)):
        expected, buffer = matrices(*shape, seed=index), torch.zeros(*shape, dtype=torch.float64)
        for step in range(7):
            grad = matrices(*shape, seed=1000 + 10 * step + index)
            buffer = 0.9 * buffer + 0.1 * grad
            u = 0.1 * grad + 0.9 * buffer if nesterov else buffer
            unit = u / torch.linalg.matrix_norm(u, keepdim=True)
            r = torch.cosh(1.5 * unit).square().mean(dim=(-2, -1), keepdim=True).sqrt()
            size = math.sqrt(max(1.0, shape[-2] / shape[-1])) if scale == "spectral" else 1.0
            expected = (1 - 0.03 * 0.1) * expected - 0.03 * size * (unit if normalize else u) / r
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


def test_without_gamma_it_is_normalised_momentum() -> None:
    [weights] = run(lambda params: AuON(params, 0.1, gamma=0.0), [(5, 5)], steps=1)
    grad = matrices(5, 5, seed=1000)
    expected = matrices(5, 5) - 0.1 * grad / torch.linalg.matrix_norm(grad)
    torch.testing.assert_close(weights, expected, rtol=1e-14, atol=1e-15)


def test_released_form_is_sgd_with_nesterov_momentum_but_for_the_scale() -> None:
    """Without normalisation and gamma it is torch's SGD with dampening on the two-fold averaged gradient."""
    [weights] = run(
        lambda params: AuON(params, 0.1, gamma=0.0, normalize=False, scale="none", nesterov=False), [(5, 4)]
    )
    [expected] = run(lambda params: torch.optim.SGD(params, 0.1 * 0.05, momentum=0.95), [(5, 4)])
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


def test_five_step_hybrid_is_muon_but_for_the_scale() -> None:
    shapes = [(30, 20), (20, 30), (2, 16, 16)]
    for one, two in zip(
        run(lambda params: HybridAuON(params, 0.02, steps=5), shapes),
        run(lambda params: Muon(params, 0.02, steps=5), shapes),
        strict=True,
    ):
        bound = math.sinh(1) ** 2 / (2 * one.shape[-1] * one.shape[-2])  # largest R - 1
        assert 0 < (one - two).abs().max() <= 7 * 0.02 * 1.3 * math.sqrt(1.5) * bound


def test_hybrid_without_gamma_is_muon() -> None:
    shapes = [(30, 20), (20, 30), (2, 16, 16)]
    for one, two in zip(
        run(lambda params: HybridAuON(params, 0.02, steps=5, gamma=0.0, normalize=False), shapes),
        run(lambda params: Muon(params, 0.02, steps=5), shapes),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_hybrid_without_steps_is_auon() -> None:
    shapes = [(30, 20), (20, 30)]
    for one, two in zip(
        run(lambda params: HybridAuON(params, 0.02, steps=0, normalize=True), shapes),
        run(lambda params: AuON(params, 0.02), shapes),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_state_is_one_buffer_a_matrix() -> None:
    param = nn.Parameter(torch.zeros(5, 4))
    optimizer = AuON([param])
    param.grad = torch.ones(5, 4)
    optimizer.step()
    assert set(optimizer.state[param]) == {"momentum_buffer"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", -0.1, r"`lr` \(=-0.1\) must lie in \[0, inf\)"),
        ("momentum", 1.0, r"`momentum` \(=1\) must lie in \[0, 1\)"),
        ("gamma", -1.0, r"`gamma` \(=-1\) must lie in \[0, inf\)"),
        ("weight_decay", -1.0, r"`weight_decay` \(=-1\) must lie in \[0, inf\)"),
        ("scale", "large", r"`scale` \(='large'\) must be one of"),
    ],
)
@pytest.mark.parametrize("optimizer", [AuON, HybridAuON])
def test_options_out_of_range_are_refused(
    optimizer: object, option: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer([{"params": [nn.Parameter(torch.zeros(3, 3))], option: value}])


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`steps` \(=-1\)"):
        HybridAuON([nn.Parameter(torch.zeros(3, 3))], steps=-1)
