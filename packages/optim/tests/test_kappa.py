import copy
import math
import pickle
import re

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.optim.optimizers.balls import dual_exponent, project_ball
from lemmata.optim.optimizers.kappa import (
    L1,
    L2,
    LP,
    GroupL2,
    HuberL1,
    Nuclear,
    Quadratic,
    TruncatedL1,
    check_kappa,
    subgradients,
)

KAPPAS = [
    L1(),
    L2(),
    LP(1.0),
    LP(1.3),
    LP(2.0),
    LP(3.5),
    LP(math.inf),
    GroupL2(),
    GroupL2(0),
    GroupL2((0, 1)),
    Nuclear("svd"),
    TruncatedL1(0.4),
    TruncatedL1(0.0),
    HuberL1(0.7),
    Quadratic(),
]
NORMS = [kappa for kappa in KAPPAS if not isinstance(kappa, (TruncatedL1, HuberL1, Quadratic))]
every_kappa = pytest.mark.parametrize("kappa", KAPPAS, ids=repr)
every_norm = pytest.mark.parametrize("kappa", NORMS, ids=repr)


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def feasible(kappa, *shape, seed=0):
    """A random point of the conjugate's domain."""
    return kappa.project(random(*shape, seed=seed), 1.0) * (1 - 1e-12)


@every_kappa
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 5)])
def test_fenchel_young_holds_on_random_points(kappa, shape):
    for seed in range(20):
        m, y = random(*shape, seed=seed), feasible(kappa, *shape, seed=seed + 100)
        assert math.isfinite(kappa.conjugate(y))
        assert kappa.value(m) + kappa.conjugate(y) >= torch.sum(m * y) - 1e-10


@every_kappa
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_fenchel_young_is_an_equality_at_subgradients(kappa, scale):
    for seed in range(20):
        m = random(4, 6, seed=seed, scale=scale)
        y = kappa.subgradient(m)
        gap = kappa.value(m) + kappa.conjugate(y) - torch.sum(m * y)
        assert abs(float(gap)) <= 1e-10 * max(1, float(kappa.value(m)))


@every_kappa
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_subgradients_support_the_function_from_below(kappa, seed, scale):
    m, n = random(3, 5, seed=seed), random(3, 5, seed=seed + 1, scale=scale)
    below = kappa.value(m) + torch.sum(kappa.subgradient(m) * (n - m))
    assert kappa.value(n) >= below - 1e-9 * max(1, abs(float(below)))


@every_kappa
def test_value_is_convex_and_zero_at_zero(kappa):
    m, n = random(3, 4, seed=1), random(3, 4, seed=2)
    assert kappa.value((m + n) / 2) <= (kappa.value(m) + kappa.value(n)) / 2 + 1e-12
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert kappa.value(zero) == 0
    assert torch.equal(kappa.subgradient(zero), zero)
    assert kappa.conjugate(zero) == 0


@pytest.mark.parametrize(
    "kappa", [L2(), LP(1.3), LP(3.5), GroupL2(0), Nuclear("svd"), HuberL1(0.7), Quadratic()]
)
def test_subgradient_is_the_gradient_that_autograd_finds(kappa):
    m = random(3, 4, seed=3).requires_grad_()
    [expected] = torch.autograd.grad(kappa.value(m), m)
    torch.testing.assert_close(kappa.subgradient(m.detach()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kappa", [TruncatedL1(0.4), HuberL1(0.7), Quadratic()], ids=repr)
def test_conjugate_is_the_supremum_that_scipy_finds(kappa):
    y = feasible(kappa, 6, seed=5) * 0.9

    def negative(m, entry):
        return float(kappa.value(torch.tensor([m], dtype=torch.float64)) - m * entry)

    # The functions are sums over entries, each convex: a search along a line finds each supremum.
    best = -sum(
        scipy.optimize.minimize_scalar(
            negative, bounds=(-50, 50), args=(entry,), method="bounded", options={"xatol": 1e-10}
        ).fun
        for entry in y.tolist()
    )
    assert float(kappa.conjugate(y)) == pytest.approx(best, rel=1e-6)


@every_norm
def test_conjugate_of_a_norm_is_the_indicator_of_its_domain(kappa):
    y = kappa.project(random(4, 5, scale=10.0), 1.0)
    assert kappa.conjugate(y) == 0
    assert kappa.conjugate(1.001 * y) == math.inf


GAUGES = {
    repr(L1()): lambda y: np.abs(y).max(),
    repr(L2()): np.linalg.norm,
    repr(LP(1.3)): lambda y: np.linalg.norm(y.ravel(), 1.3 / 0.3),
    repr(LP(3.5)): lambda y: np.linalg.norm(y.ravel(), 1.4),
    repr(LP(math.inf)): lambda y: np.abs(y).sum(),
    repr(GroupL2()): lambda y: np.linalg.norm(y, axis=1).max(),
    repr(GroupL2(0)): lambda y: np.linalg.norm(y, axis=0).max(),
    repr(Nuclear("svd")): lambda y: np.linalg.norm(y, 2),
}


@pytest.mark.parametrize("kappa", [kappa for kappa in NORMS if repr(kappa) in GAUGES], ids=repr)
@pytest.mark.parametrize("radius", [0.3, 1.0])
def test_projection_is_as_near_as_what_scipy_finds(kappa, radius):
    x, gauge = random(2, 3, seed=7, scale=2.0).numpy(), GAUGES[repr(kappa)]
    ours = kappa.project(torch.as_tensor(x), radius).numpy()
    assert gauge(ours) == pytest.approx(radius, rel=1e-9)
    found = scipy.optimize.minimize(
        lambda y: np.sum((y - x.ravel()) ** 2),
        np.zeros(6) + 0.01,
        constraints={"type": "ineq", "fun": lambda y: radius - gauge(y.reshape(2, 3))},
        method="SLSQP",
    ).x.reshape(2, 3)
    found *= min(1.0, radius / gauge(found))
    assert np.linalg.norm(ours - x) <= np.linalg.norm(found - x) + 1e-9
    if isinstance(kappa, (L2, LP)) and kappa != LP(math.inf):  # the constraint is smooth
        np.testing.assert_allclose(ours, found, atol=1e-3)


@every_norm
@pytest.mark.parametrize("radius", [0.3, 1.0])
def test_what_a_projection_takes_away_supports_the_set(kappa, radius):
    # Over the set <x - P(x), y> is largest at P(x), and that maximum is the radius times the norm itself.
    x = random(3, 4, seed=7, scale=2.0)
    ours = kappa.project(x, radius)
    expected = radius * float(kappa.value(x - ours))
    assert float(torch.sum((x - ours) * ours)) == pytest.approx(expected, rel=1e-8)


@every_kappa
def test_projection_keeps_what_is_inside_and_is_idempotent(kappa):
    inside = feasible(kappa, 3, 4, seed=8) * 0.99
    torch.testing.assert_close(kappa.project(inside, 1.0), inside, rtol=1e-12, atol=1e-12)
    once = kappa.project(random(3, 4, seed=9, scale=5.0), 0.5)
    torch.testing.assert_close(kappa.project(once, 0.5), once, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(kappa.project(inside, math.inf), inside, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    exponent=st.sampled_from([1.0, 1.05, 1.5, 2.0, 2.7, 6.0, 40.0, math.inf]),
    radius=st.floats(1e-3, 10),
    seed=st.integers(0, 2**31),
    size=st.integers(1, 30),
)
def test_projection_onto_a_ball_meets_its_optimality_conditions(exponent, radius, seed, size):
    x = random(size, seed=seed)
    y = project_ball(x, exponent, radius)
    norm = float(torch.linalg.vector_norm(y, exponent))
    assert norm <= radius * (1 + 1e-9)
    residual = x - y
    if float(torch.linalg.vector_norm(x, exponent)) > radius:
        assert norm == pytest.approx(radius, rel=1e-7)
    # <x - y, z - y> <= 0 for all z in the ball: the largest <x - y, z> is the radius times the dual norm.
    largest = radius * float(torch.linalg.vector_norm(residual, dual_exponent(exponent)))
    assert largest - float(residual @ y) <= 1e-6 * max(1.0, radius * float(x.norm()))


def test_truncated_is_soft_at_nothing_and_huber_at_a_limit_is_sign():
    m = random(50)
    assert torch.equal(TruncatedL1(0.0).subgradient(m), m.sign())
    assert torch.equal(HuberL1(1e-12).subgradient(m), m.sign())
    assert torch.equal(
        TruncatedL1(0.5).subgradient(torch.tensor([0.5, -0.5, 0.51])), torch.tensor([0.0, 0.0, 1.0])
    )


def test_axes_make_groups_and_batches():
    m = random(5, 4, 3)
    rows = GroupL2(-1).subgradient(m)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5, 4, dtype=torch.float64))
    whole = GroupL2((0, 1, 2)).subgradient(m)
    torch.testing.assert_close(whole, L2().subgradient(m))
    batch = Nuclear("svd")
    torch.testing.assert_close(batch.subgradient(m)[2], batch.subgradient(m[2]))
    torch.testing.assert_close(batch.value(m), sum(batch.value(matrix) for matrix in m))
    # A convolution's weight as one matrix for each kernel, or one of all inputs to each channel.
    kernel = random(6, 2, 3, 3)
    flat = Nuclear("svd", flatten=True)
    torch.testing.assert_close(flat.subgradient(kernel).flatten(1), batch.subgradient(kernel.flatten(1)))
    assert float(flat.value(kernel)) == pytest.approx(float(batch.value(kernel.flatten(1))))
    assert flat.project(kernel, 1.0).shape == kernel.shape


@every_kappa
def test_subgradients_of_a_list_are_those_of_its_members(kappa):
    tensors = [random(4, 6, seed=0), random(2, 3, seed=1), random(4, 6, seed=2)]
    expected = [kappa.subgradient(tensor) for tensor in tensors]
    found = subgradients(kappa, [tensor.clone() for tensor in tensors])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kappa", [L2(), LP(1.5), LP(3.0), GroupL2()], ids=repr)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_directions_do_not_depend_on_the_scale_of_the_momentum(kappa, scale):
    m = torch.randn(8, 8)
    torch.testing.assert_close(kappa.subgradient(scale * m), kappa.subgradient(m), rtol=1e-4, atol=1e-5)


@every_kappa
def test_kappas_pickle_copy_and_compare(kappa):
    for other in (
        pickle.loads(pickle.dumps(kappa)),
        copy.deepcopy(kappa),
        eval(repr(kappa), globals() | {"inf": math.inf}),
    ):
        assert other == kappa
        assert repr(other) == repr(kappa)


@every_kappa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_methods_keep_the_dtype(kappa, dtype):
    m = torch.randn(3, 4, dtype=dtype)
    for found in (kappa.value(m), kappa.subgradient(m), kappa.conjugate(m), kappa.project(m, 0.5)):
        assert found.dtype == dtype
    assert kappa.value(m).ndim == kappa.conjugate(m).ndim == 0


@pytest.mark.parametrize(
    "kappa", [L1(), L2(), LP(3.0), HuberL1(0.5), TruncatedL1(0.1), GroupL2(), Nuclear()], ids=repr
)
def test_subgradient_traces_in_one_graph(kappa, unchecked):
    torch.compiler.reset()
    m = torch.randn(4, 4)
    compiled = torch.compile(kappa.subgradient, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(m), kappa.subgradient(m))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LP(0.5), "`p` (=0.5) must lie in [1, inf]"),
        (lambda: TruncatedL1(-1.0), "`e` (=-1) must lie in [0, inf)"),
        (lambda: TruncatedL1(math.nan), "`e` (=nan) must lie in [0, inf)"),
        (lambda: HuberL1(0.0), "`e` (=0) must lie in (0, inf)"),
        (lambda: Nuclear(steps=0), "`steps`"),
        (lambda: Nuclear().check_shape((3,)), "takes matrices, and a parameter has shape (3,)"),
        (lambda: Nuclear().check_shape((3, 2, 5, 5)), "flatten=True or flatten=False"),
        (lambda: GroupL2((1, 2)).check_shape((3, 2)), "needs axes that a parameter of shape (3, 2) has not"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_an_unknown_method_is_named(unchecked):
    with pytest.raises(ValueError, match=r"`method` \(='magic'\)"):
        Nuclear("magic")


def test_what_lacks_methods_is_no_kappa():
    class Half:
        def value(self, m):
            return m.sum()

        def project(self, x, radius):
            return None

    with pytest.raises(TypeError, match="lacks subgradient, conjugate"):
        check_kappa(Half())
    with pytest.raises(TypeError, match=r"L1.*is a class; an instance is expected"):
        check_kappa(L1)
    for kappa in KAPPAS:
        check_kappa(kappa)
