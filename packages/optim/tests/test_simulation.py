"""The simulator against references written out here, and the laws of error control."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from lemmata.optim.communication import LowRank, Quantize, RandK, SignNorm, TopK, simulate
from lemmata.optim.communication.feedback import Block, Rule

WORKERS, D = 4, 30


@pytest.fixture
def quadratics() -> tuple[Tensor, Tensor]:
    """Return Hessians and linear terms of workers that disagree about the minimiser."""
    A = torch.randn(WORKERS, D, D, dtype=torch.float64) / D**0.5
    A = A.mT @ A
    A = A / torch.linalg.eigvalsh(A.mean(0)).max() + 0.2 * torch.eye(D, dtype=torch.float64)
    return A, 5 * torch.randn(WORKERS, D, dtype=torch.float64)


def top_k(x: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(x)
    chosen = np.argsort(-np.abs(x))[:k]
    kept[chosen] = x[chosen]
    return kept


def reference(
    A: np.ndarray, b: np.ndarray, method: str, *, k: int, lr: float, steps: int, eta: float, init: str
) -> list[np.ndarray]:
    """Run a method worker by worker, as its paper writes it, in numpy."""
    n, d = b.shape
    x, e, h = np.zeros(d), np.zeros((n, d)), np.zeros((n, d))
    iterates = [x]
    for step in range(steps):
        directions = []
        for i in range(n):
            g = A[i] @ x + b[i]
            if method == "ec":
                message = top_k(e[i] + g, k)
                e[i] = e[i] + g - message
                directions.append(message)
            elif method == "none":
                directions.append(top_k(g, k))
            else:
                if step == 0:
                    h[i] = g if init == "exact" else top_k(g, k)
                else:
                    weight = eta if method == "econtrol" else 0.0
                    message = top_k(weight * e[i] + g - h[i], k)
                    e[i] = e[i] + g - h[i] - message
                    h[i] = h[i] + message
                directions.append(h[i])
        x = x - lr * np.mean(directions, axis=0)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("init", ["exact", "compressed"])
@pytest.mark.parametrize("method", ["econtrol", "ef21", "ec", "none"])
def test_methods_match_a_worker_by_worker_reference(quadratics, method, init) -> None:
    A, b = quadratics
    found = simulate(
        lambda x: A @ x + b,
        torch.zeros(D, dtype=torch.float64),
        compressor=TopK(k=3),
        method=method,
        lr=0.1,
        steps=60,
        eta=0.07,
        init=init,
    )
    expected = reference(A.numpy(), b.numpy(), method, k=3, lr=0.1, steps=60, eta=0.07, init=init)
    np.testing.assert_allclose(found.x.numpy(), expected[-1], atol=1e-11)
    norms = [np.linalg.norm((A.numpy() @ x + b.numpy()).mean(0)) for x in expected]
    np.testing.assert_allclose(found.norms.numpy(), norms, rtol=1e-9)


def test_without_control_of_the_error_it_is_ef21_to_the_bit(quadratics) -> None:
    A, b = quadratics
    x0 = torch.zeros(D, dtype=torch.float64)
    options = {"compressor": TopK(0.1), "lr": 0.1, "steps": 80, "init": "compressed"}
    ours = simulate(lambda x: A @ x + b, x0, method="econtrol", eta=0.0, **options)
    ef21 = simulate(lambda x: A @ x + b, x0, method="ef21", **options)
    assert torch.equal(ours.x, ef21.x)
    assert torch.equal(ours.memory.control, ef21.memory.control)


@pytest.mark.parametrize("method", ["econtrol", "ef21", "ec", "none"])
def test_without_compression_it_is_gradient_descent(quadratics, method) -> None:
    A, b = quadratics
    x = torch.zeros(D, dtype=torch.float64)
    found = simulate(lambda x: A @ x + b, x, compressor=TopK(1.0), method=method, lr=0.1, steps=50)
    exact = simulate(lambda x: A @ x + b, x, compressor=None, lr=0.1, steps=50)
    for _ in range(50):
        x = x - 0.1 * (A @ x + b).mean(0)
    torch.testing.assert_close(exact.x, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-12)
    if method in {"ec", "none"}:
        assert torch.equal(found.x, exact.x)
    assert torch.equal(found.bytes, torch.arange(51) * D * 8)


def test_error_and_control_variate_telescope(quadratics) -> None:
    """`h_T + e_T = h_0 + e_0 + sum (g_t - h_t)`, whatever the compressor."""
    _, b = quadratics
    for compressor in (TopK(0.1), RandK(0.1), SignNorm(), LowRank(1), Quantize(2)):
        rule = Rule(compressor, eta=0.02)
        memory, blocks = rule.allocate(b), [Block(0, D)]
        rule.start(memory, b)
        total = memory.control + memory.error
        for _ in range(100):
            gradient = torch.randn_like(b)
            total += gradient - memory.control
            rule.encode(memory, gradient, blocks)
        torch.testing.assert_close(memory.control + memory.error, total, rtol=0, atol=1e-10)


def test_momentum_matches_a_reference(quadratics) -> None:
    A, b = quadratics
    found = simulate(
        lambda x: A @ x + b,
        torch.zeros(D, dtype=torch.float64),
        compressor=TopK(k=3),
        method="ef21",
        momentum=0.8,
        lr=0.1,
        steps=40,
    )
    A, b = A.numpy(), b.numpy()
    x = np.zeros(D)
    v = h = np.array(b)
    for step in range(40):
        if step:
            v = 0.8 * v + 0.2 * (A @ x + b)
            h = h + np.stack([top_k(row, 3) for row in v - h])
        x = x - 0.1 * h.mean(0)
    np.testing.assert_allclose(found.x.numpy(), x, atol=1e-11)


def test_converges_on_heterogeneous_data_where_error_feedback_does_not(quadratics) -> None:
    A, b = quadratics
    x0 = torch.zeros(D, dtype=torch.float64)
    options = {"compressor": TopK(0.1), "lr": 0.2, "steps": 500}
    norms = {
        method: float(simulate(lambda x: A @ x + b, x0, method=method, **options).norms[-1])
        for method in ("econtrol", "ec", "none")
    }
    assert norms["econtrol"] < 1e-6
    assert norms["ec"] > 1e3 * norms["econtrol"]
    assert norms["none"] > 1e3 * norms["econtrol"]


@pytest.mark.parametrize("compressor", [RandK(0.2), SignNorm(block=10), LowRank(1), Quantize(2, block=10)])
def test_default_weight_converges_for_every_compressor(quadratics, compressor) -> None:
    A, b = quadratics
    found = simulate(
        lambda x: A @ x + b, torch.zeros(D, dtype=torch.float64), compressor=compressor, lr=0.1, steps=400
    )
    assert found.norms[-1] < 0.01 * found.norms[0]


def test_too_large_a_weight_diverges_and_is_warned_about() -> None:
    """At three times delta positions drawn at random diverge, whatever the step size: here it is zero."""
    b = torch.randn(5, 200, dtype=torch.float64)
    x0 = torch.zeros(200, dtype=torch.float64)

    def final(eta: float) -> float:
        rule = Rule(RandK(0.1, torch.Generator().manual_seed(0)), eta=eta)
        memory = rule.allocate(b)
        for _ in range(600):
            rule.encode(memory, b, [Block(0, 200)])
        return float((memory.control - b).norm())

    assert final(0.05) < 1e-6
    assert final(0.3) > 1e6
    with pytest.warns(UserWarning, match=r"`eta` \(=0.3\) is more than twice delta \(=0.1\)"):
        simulate(lambda x: x + b, x0, compressor=TopK(0.1), lr=0.1, steps=1, eta=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(lambda x: x + b, x0, compressor=TopK(0.1), lr=0.1, steps=1, eta=0.2)


def test_default_weight_is_stable_where_the_compressor_overshoots() -> None:
    """`C(y) = (1 + q) y` contracts by `1 - q^2` and is the worst case of the docstring."""

    class Overshoot(TopK):
        def __init__(self, delta: float) -> None:
            super().__init__(1.0)
            self.q = (1 - delta) ** 0.5

        def delta(self, d: int) -> float:
            return 1 - self.q**2

        def add_to(self, total, message, alpha=1.0):
            return super().add_to(total, message, alpha * (1 + self.q))

    b = torch.ones(1, 1, dtype=torch.float64)

    def size(delta: float, eta: float | None) -> float:
        rule = Rule(Overshoot(delta), eta=eta)
        memory = rule.allocate(b)
        for _ in range(600):
            rule.encode(memory, b, [Block(0, 1)])
        return float((memory.control - b).norm())

    for delta in (0.1, 0.5):
        q = (1 - delta) ** 0.5
        threshold = 2 * (1 - q) / (1 + q)
        assert size(delta, None) < 0.5
        assert size(delta, 0.95 * threshold) < 0.5
        assert size(delta, 1.1 * threshold) > 5


def test_workers_as_a_list_and_as_rows_agree(quadratics) -> None:
    A, b = quadratics
    fns = [lambda x, i=i: A[i] @ x + b[i] for i in range(WORKERS)]
    x0 = torch.zeros(D, dtype=torch.float64)
    one = simulate(fns, x0, compressor=TopK(0.1), lr=0.1, steps=30)
    rows = simulate(lambda x: A @ x + b, x0, compressor=TopK(0.1), lr=0.1, steps=30)
    torch.testing.assert_close(one.x, rows.x, rtol=0, atol=1e-12)


def test_generators_make_runs_repeat(quadratics) -> None:
    A, b = quadratics
    x0 = torch.zeros(D, dtype=torch.float64)

    def run(seed: int) -> Tensor:
        return simulate(
            lambda x: A @ x + b,
            x0,
            compressor=RandK(0.2, torch.Generator().manual_seed(seed)),
            lr=0.05,
            steps=20,
            noise=1.0,
            generator=torch.Generator().manual_seed(seed),
        ).x

    before = torch.get_rng_state()
    assert torch.equal(run(3), run(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(run(3), run(4))


def test_history(quadratics) -> None:
    A, b = quadratics
    found = simulate(
        lambda x: A @ x + b, torch.zeros(D, dtype=torch.float64), compressor=TopK(k=3), lr=0.1, steps=10
    )
    assert found.norms.shape == found.bytes.shape == (11,)
    assert torch.equal(found.bytes[1:], D * 8 + torch.arange(10) * 3 * (8 + 4))
    assert torch.all(found.contraction >= 3 / D)
    assert torch.all(found.contraction <= 1)
    none = simulate(lambda x: A @ x + b, found.x, compressor=TopK(k=3), lr=0.1, steps=0)
    assert torch.equal(none.x, found.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": -0.1}, r"`eta` \(=-0.1\) must lie in \[0, 1\]"),
        ({"eta": 1.1}, r"`eta` \(=1.1\) must lie in \[0, 1\]"),
        ({"momentum": 1.0}, r"`momentum` \(=1\) must lie in \[0, 1\)"),
        ({"lr": -1.0}, r"`lr` \(=-1\) must lie in"),
        ({"noise": -1.0}, r"`noise` \(=-1\) must lie in"),
        ({"compressor": RandK(0.1, unbiased=True)}, "does not contract vectors of length 30"),
        ({"compressor": TopK(k=31)}, r"`k` \(=31\) must not exceed the length of the vector \(=30\)"),
        ({"grad_fns": []}, "`grad_fns` is empty"),
    ],
)
def test_bad_input(options, message) -> None:
    given = {"grad_fns": [lambda x: x], "compressor": TopK(0.1), "lr": 0.1, "steps": 3} | options
    with pytest.raises(ValueError, match=message):
        simulate(given.pop("grad_fns"), torch.zeros(D), **given)


def test_unknown_method(unchecked) -> None:
    with pytest.raises(ValueError, match=r"`method` .*'ef22'.* must be one of econtrol, ef21, ec, none"):
        Rule(TopK(0.1), method="ef22")


def test_an_unbiased_compressor_works_alone(quadratics) -> None:
    A, b = quadratics
    x0 = torch.zeros(D, dtype=torch.float64)
    compressor = RandK(0.5, torch.Generator().manual_seed(0), unbiased=True)
    found = simulate(lambda x: A @ x + b, x0, compressor=compressor, method="none", lr=0.01, steps=500)
    assert found.norms[-1] < 0.5 * found.norms[0]
