"""The measure of equivariance, on functions whose error is known."""

import math

import pytest
import torch
from torch import Tensor

from lemmata.equivariant.o3 import Irreps, rand_rotation
from lemmata.equivariant.testing import EquivarianceReport, Motion, assert_equivariant, equivariance_error


def cloud(n: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, dtype=dtype)


QUARTER_TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("group", ["O3", "SO3"])
def test_equivariant_functions_have_no_error(group: str) -> None:
    report = equivariance_error(lambda x: x * x.norm(dim=-1, keepdim=True), cloud(), "1o", "1o", group=group)
    assert report.max < 1e-14
    assert 0 <= report.mean <= report.max


@pytest.mark.parametrize("group", ["E3", "SE3"])
def test_positions_translate(group: str) -> None:
    def away_from_centre(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(0, keepdim=True), x - x.mean(0)

    assert_equivariant(away_from_centre, cloud(), "positions", ["positions", "1x1o"], group=group, tol=1e-13)
    assert equivariance_error(lambda x: x, cloud(), "positions", "1o", group=group).max > 0.1


def test_known_error() -> None:
    x = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    bias = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    # f(g x) - g f(x) is bias - g bias: a square's diagonal; f(x) has length 2.5.
    report = equivariance_error(lambda x: x + bias, x, "1o", "1o", group=[QUARTER_TURN])
    assert report.max == pytest.approx(0.5 * math.sqrt(2) / 2.5, rel=1e-14)
    absolute = equivariance_error(lambda x: x + bias, x, "1o", "1o", group=[QUARTER_TURN], relative=False)
    assert absolute.max == pytest.approx(0.5 * math.sqrt(2), rel=1e-14)


def test_all_matrices_are_tried_and_the_worst_is_named() -> None:
    bias = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    report = equivariance_error(
        lambda x: x + bias, cloud(), "1o", "1o", group=[identity, QUARTER_TURN, identity], n=1
    )
    assert report.worst_element is QUARTER_TURN
    assert report.mean == pytest.approx(report.max / 3)


def test_reflections_are_among_o3_even_with_one_element() -> None:
    def volume(x: Tensor) -> Tensor:
        return torch.linalg.det(x[:3])[None]

    assert equivariance_error(volume, cloud(), "1o", "0e", group="SO3").max < 1e-12
    assert equivariance_error(volume, cloud(), "1o", "0e", group="O3", n=1).max == pytest.approx(2)
    assert equivariance_error(volume, cloud(), "1o", "0o", group="O3").max < 1e-12


def test_irreps_with_errors_are_named() -> None:
    irreps = Irreps("2x0e + 1x1o + 1x2e + 1x1o")

    def broken(x: Tensor) -> Tensor:
        return torch.cat([x[..., :8], x[..., 8:] + 0.1], dim=-1)

    report = equivariance_error(broken, irreps.randn(4, -1, dtype=torch.float64), irreps, irreps)
    assert list(report.per_irrep) == ["0e", "1o", "2e"]
    assert report.per_irrep["0e"] == 0
    assert report.per_irrep["1o"] > 0.01
    assert max(report.per_irrep.values()) <= report.max
    assert "1o: " in str(report)


def test_dense_layout() -> None:
    irreps = Irreps.spherical_harmonics(3)
    x = torch.randn(2, 8, irreps.dim, dtype=torch.float64)
    assert_equivariant(lambda x: 2 * x.flip(1), x, irreps, irreps, tol=1e-13)


def test_any_group_and_action() -> None:
    adjacency = torch.randint(2, (6, 6), dtype=torch.float64)
    features = torch.randn(6, 4, dtype=torch.float64)

    def permute_both(g: Tensor, a: Tensor) -> Tensor:
        return a[g][:, g]

    def permute(g: Tensor, x: Tensor) -> Tensor:
        return x[g]

    def sample(generator: torch.Generator | None) -> Tensor:
        return torch.randperm(6, generator=generator)

    assert_equivariant(
        lambda a, x: (a @ x, (a @ x).sum(0)),
        (adjacency, features),
        [permute_both, permute],
        [permute, None],
        group=sample,
        tol=1e-13,
    )
    assert equivariance_error(torch.cumsum, (features, 0), [permute, None], permute, group=sample).max > 0.1


def test_elements_that_functions_see() -> None:
    seen = []

    def act(g: object, x: Tensor) -> Tensor:
        seen.append(g)
        return x

    equivariance_error(lambda x: x, cloud(), act, None, group="SE3", n=1)
    equivariance_error(lambda x: x, cloud(), act, None, group="O3", n=1)
    assert isinstance(seen[0], Motion)
    assert isinstance(seen[1], Tensor)


def test_other_dimensions_than_three() -> None:
    flip = torch.diag(torch.tensor([1.0, -1.0]))
    move = Motion(flip, torch.ones(2))
    x = torch.randn(4, 2)
    assert_equivariant(
        lambda x: x - x.mean(0),
        x,
        "positions",
        lambda g, y: y @ g.rotation.mT,
        group=lambda _: move,
        tol=1e-6,
    )


def test_error_is_measured_in_the_dtype_given() -> None:
    def step(x: Tensor) -> Tensor:
        return x * x.square().sum(-1, keepdim=True)

    error = equivariance_error(step, cloud(dtype=torch.float32), "1o", "1o").max
    assert 1e-9 < error < 1e-5


def test_integers_and_other_inputs_are_left_alone() -> None:
    index = torch.tensor([0, 2])
    assert_equivariant(lambda x, i, k: k * x[i], (cloud(), index, 3), ["1o", None, None], "1o", tol=1e-14)


def test_functions_may_use_gradients() -> None:
    def force(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(torch.pdist(x).exp().sum(), x)[0]

    assert_equivariant(force, cloud(), "positions", "1o", group="SO3", tol=1e-12)


def test_zero_outputs_have_no_error_and_nan_always_fails() -> None:
    assert equivariance_error(torch.zeros_like, cloud(), "1o", "1o").max == 0
    with pytest.raises(AssertionError, match="nan"):
        assert_equivariant(lambda x: x * math.nan, cloud(), "1o", "1o", tol=1.0)


def test_generator_decides_elements() -> None:
    def error(seed: int) -> EquivarianceReport:
        x = torch.eye(3, dtype=torch.float64)
        return equivariance_error(torch.relu, x, "1o", "1o", generator=torch.Generator().manual_seed(seed))

    assert error(1).max == error(1).max != error(2).max


def test_failure_prints_the_report() -> None:
    with pytest.raises(AssertionError, match=r"not equivariant to within 0.001\n.*max [\s\S]*worst element"):
        assert_equivariant(torch.relu, cloud(), "1o", "1o", tol=1e-3)


def test_bad_input() -> None:
    x = cloud()
    with pytest.raises(ValueError, match=r"`irreps_in` .* has 2 entries for 1 inputs"):
        equivariance_error(torch.relu, x, ["1o", "1o"], "1o")
    with pytest.raises(ValueError, match=r"`irreps_out` .* has 2 entries for 1 outputs"):
        equivariance_error(torch.relu, x, "1o", ["1o", None])
    with pytest.raises(ValueError, match="`group`"):
        equivariance_error(torch.relu, x, "1o", "1o", group="U1")
    with pytest.raises(ValueError, match="at least one matrix"):
        equivariance_error(torch.relu, x, "1o", "1o", group=[])
    with pytest.raises(ValueError, match="`n`"):
        equivariance_error(torch.relu, x, "1o", "1o", n=0)
    with pytest.raises(ValueError, match="expected last dimension 5 for 1x2e, got 3"):
        equivariance_error(torch.relu, x, "2e", "1o")
    count = iter((3, 4))
    with pytest.raises(ValueError, match="returned shape"):
        equivariance_error(lambda x: x.new_ones(next(count)), x, "1o", None, n=1)
    with pytest.raises(TypeError, match="must return"):
        equivariance_error(lambda _: 3.0, x, "1o", None)
    with pytest.raises(TypeError, match="no matrix"):
        equivariance_error(torch.relu, x, "1o", "1o", group=lambda _: "turn")
    with pytest.raises(ValueError, match="cannot read"):
        equivariance_error(torch.relu, x, "position", "1o")


def test_random_rotations_are_of_the_group() -> None:
    r = rand_rotation(100, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(100, dtype=torch.float64))
