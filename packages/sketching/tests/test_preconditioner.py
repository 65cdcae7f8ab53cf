"""The mergeable passes: coordinates from a sketch, sums over rows, what they certify."""

import io
import pickle
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch

from lemmata.sketching.least_squares import (
    PreconditionedGram,
    Preconditioner,
    ResidualSums,
    certify,
    sketched_qr,
)
from lemmata.sketching.operators import SparseSign

F64 = torch.float64


def ill_conditioned(n, d, condition, seed=0, noise=0.1, targets=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=F64, generator=generator)

    a = draw(n, d) * torch.logspace(0, -np.log10(condition), d, dtype=F64) @ torch.linalg.qr(draw(d, d)).Q
    x = draw(d, targets)
    exact = a @ x
    r = draw(n, targets)
    return a, exact + noise * r * torch.linalg.vector_norm(exact) / torch.linalg.vector_norm(r)


def exact_solution(a, b, ridge=0.0):
    """Solve in extended precision by refining the augmented system."""
    if ridge:
        d = a.shape[1]
        a = torch.cat((a, ridge**0.5 * torch.eye(d, dtype=F64)))
        b = torch.cat((b, torch.zeros(d, b.shape[1], dtype=F64)))
    wide, target = a.numpy().astype(np.longdouble), b.numpy().astype(np.longdouble)
    q, r = np.linalg.qr(a.numpy())
    x, res = np.zeros((a.shape[1], b.shape[1]), np.longdouble), np.zeros(b.shape, np.longdouble)
    for _ in range(8):
        f, g = (target - res - wide @ x).astype(float), -(wide.T @ res).astype(float)
        w = scipy.linalg.solve_triangular(r, g, trans="T")
        x = x + scipy.linalg.solve_triangular(r, q.T @ f - w)
        res = res + (f - q @ (q.T @ f) + q @ w)
    return x, wide


def excess(a, b, x, ridge=0.0):
    exact, wide = exact_solution(a, b, ridge)
    return np.linalg.norm((wide @ (x.numpy().astype(np.longdouble) - exact)).astype(float), axis=0)


class TestPreconditioner:
    @pytest.mark.parametrize("condition", [1e1, 1e6, 1e12])
    def test_makes_ill_conditioned_rows_well_conditioned(self, condition):
        a, _ = ill_conditioned(3000, 20, condition)
        basis = Preconditioner.from_sketch(SparseSign(160, 3000).apply(a), n=3000).right(a)
        assert torch.linalg.cond(basis) < 4

    def test_substitution_leaves_an_error_of_rounding_in_the_data(self):
        a, _ = ill_conditioned(500, 30, 1e12)
        pre = Preconditioner.from_sketch(a, n=500)
        back = pre.right(a) @ pre.factor
        assert (back - a).abs().max() < 1e-14 * a.abs().max() * 30

    def test_applies_and_its_adjoint(self):
        a, _ = ill_conditioned(200, 6, 1e3)
        pre = Preconditioner.from_sketch(a, n=200)
        z, g = torch.randn(6, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
        assert torch.allclose(pre.forward() @ pre.solve(z), z, atol=1e-12)
        assert torch.allclose((pre.solve(z) * g).sum(), (z * pre.solve_t(g)).sum())
        assert torch.allclose(pre.right(a) @ z, a @ pre.solve(z), atol=1e-12)

    def test_deficient_rank(self):
        base, _ = ill_conditioned(200, 4, 10.0)
        scale = torch.tensor([1.0, 1e8, 1e-8, 1.0, 1.0, 1e3], dtype=F64)
        a = torch.cat((base, base[:, :1] + base[:, 1:2], torch.zeros(200, 1, dtype=F64)), 1) * scale
        pre = Preconditioner.from_sketch(a, n=200)
        assert pre.rank == 4
        assert torch.linalg.vector_norm(a @ pre.null) < 1e-12 * torch.linalg.vector_norm(a)
        assert torch.allclose(pre.null.T @ pre.null, torch.eye(2, dtype=F64), atol=1e-12)
        assert torch.linalg.cond(pre.right(a)) < 1 + 1e-6
        assert (pre.null.T @ pre.solve(torch.randn(4, 1, dtype=F64))).abs().max() < 1e-3
        z, g = torch.randn(4, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
        assert torch.allclose((pre.solve(z) * g).sum(), (z * pre.solve_t(g)).sum())

    def test_rank_does_not_depend_on_units(self):
        a, _ = ill_conditioned(400, 5, 1e3)
        units = 10.0 ** torch.tensor([-150.0, -80.0, 0.0, 80.0, 150.0], dtype=F64)
        assert Preconditioner.from_sketch(a * units, n=400).rank == 5

    def test_ridge_is_in_the_columns_units(self):
        a, _ = ill_conditioned(300, 5, 1e5)
        pre = Preconditioner.from_sketch(a, n=300, ridge=0.3)
        want = a.T @ a + 0.3 * torch.eye(5, dtype=F64)
        assert torch.allclose(pre.factor.T @ pre.factor, want, rtol=1e-12)

    def test_zeros_only(self):
        pre = Preconditioner.from_sketch(torch.zeros(10, 3, dtype=F64), n=50)
        assert pre.rank == 0
        gram = PreconditionedGram.partial(pre, torch.zeros(50, 3, dtype=F64), torch.ones(50, 2, dtype=F64))
        assert torch.equal(gram.solve(pre), torch.zeros(3, 2, dtype=F64))

    def test_state_round_trip(self):
        a, _ = ill_conditioned(300, 5, 1e5)
        pre = Preconditioner.from_sketch(a, n=300, ridge=0.1)
        file = io.BytesIO()
        torch.save(pre.state_dict(), file)
        file.seek(0)
        for again in (
            Preconditioner.from_state_dict(torch.load(file, weights_only=True)),
            pickle.loads(pickle.dumps(pre)),
            pre.to("cpu"),
        ):
            assert torch.equal(again.factor, pre.factor)
            assert (again.shape, again.ridge, again.rank) == (pre.shape, 0.1, 5)

    @pytest.mark.parametrize(
        ("sketch", "options", "error", "message"),
        [
            (torch.zeros(3, 0), {}, ValueError, "at least one column"),
            (torch.zeros(3, 2, dtype=torch.int64), {}, TypeError, "int64"),
            (torch.tensor([[1.0], [torch.nan]]), {}, ValueError, "finite"),
            (torch.ones(3, 2), {"ridge": -1.0}, ValueError, "`ridge`"),
            (torch.ones(3, 2), {"rcond": 1.0}, ValueError, "`rcond`"),
        ],
    )
    def test_bad_input(self, sketch, options, error, message):
        with pytest.raises(error, match=message):
            Preconditioner.from_sketch(sketch, n=10, **options)


class TestSums:
    @pytest.fixture
    def problem(self):
        a, b = ill_conditioned(3000, 70, 1e8, targets=2)
        return a, b, Preconditioner.from_sketch(SparseSign(300, 3000).apply(a), n=3000)

    def test_gram_is_the_product(self, problem):
        a, b, pre = problem
        basis = pre.right(a)
        sums = PreconditionedGram.partial(pre, a, b)
        assert torch.allclose(sums.gram, basis.T @ basis, atol=1e-12)
        assert torch.allclose(sums.cross, basis.T @ b, atol=1e-12 * b.abs().max() * 3000)
        assert torch.allclose(sums.target, b.square().sum(0))
        assert sums.rows == 3000

    def test_wide_gram_in_panels(self):
        a, b = ill_conditioned(600, 301, 10.0)
        pre = Preconditioner.from_sketch(a, n=600)
        assert torch.allclose(
            PreconditionedGram.partial(pre, a, b).gram, torch.eye(301, dtype=F64), atol=1e-11
        )

    def test_merge_in_any_cut(self, problem):
        a, b, pre = problem
        whole = PreconditionedGram.partial(pre, a, b)
        cuts = [0, 1, 700, 2100, 3000]
        parts = [PreconditionedGram.partial(pre, a[i:j], b[i:j]) for i, j in pairwise(cuts)]
        merged = parts[2] + parts[0] + parts[3] + parts[1]
        assert merged.rows == 3000
        assert torch.allclose(merged.gram, whole.gram, atol=1e-12)
        again = PreconditionedGram.from_state_dict(merged.state_dict())
        assert torch.equal(again.solve(pre), merged.solve(pre))

    def test_sparse_rows_and_weights(self, problem):
        a, b, pre = problem
        sparse = a.to_sparse_csr()
        assert torch.equal(
            PreconditionedGram.partial(pre, sparse, b).gram, PreconditionedGram.partial(pre, a, b).gram
        )
        w = torch.rand(3000, dtype=F64)
        weighted = PreconditionedGram.partial(pre, a, b, w)
        by_hand = PreconditionedGram.partial(pre, a * w.sqrt()[:, None], b * w.sqrt()[:, None])
        assert torch.equal(weighted.gram, by_hand.gram)
        x = torch.randn(70, 2, dtype=F64)
        assert torch.allclose(
            ResidualSums.partial(pre, a, b, x, w).residual_squares, (w[:, None] * (b - a @ x).square()).sum(0)
        )

    @pytest.mark.parametrize("ridge", [1e-12, 1e-3, 1.0, 1e6])
    @pytest.mark.parametrize("condition", [1e2, 1e9])
    def test_every_penalty_from_one_gram(self, ridge, condition):
        a, b = ill_conditioned(1000, 12, condition, targets=2)
        pre = Preconditioner.from_sketch(SparseSign(96, 1000).apply(a), n=1000)
        sums = PreconditionedGram.partial(pre, a, b)
        want, _ = exact_solution(a, b, ridge)
        augmented = np.vstack([a.numpy(), ridge**0.5 * np.eye(12)])
        theirs = np.linalg.lstsq(augmented, np.vstack([b.numpy(), np.zeros((12, 2))]), rcond=1e-300)[0]
        floor = 20 * np.linalg.norm((theirs - want).astype(float)) + 1e-13 * np.linalg.norm(
            want.astype(float)
        )
        for x in (
            sums.solve(pre, ridge),
            sums.ridge_path(pre, torch.tensor([0.5, ridge], dtype=F64))[1],
        ):
            assert np.linalg.norm((x.numpy() - want).astype(float)) <= floor

    def test_penalty_in_the_preconditioner(self):
        a, b = ill_conditioned(1000, 12, 1e9)
        sketch = SparseSign(96, 1000).apply(a)
        plain, with_penalty = (Preconditioner.from_sketch(sketch, n=1000, ridge=rho) for rho in (0.0, 0.2))
        x = PreconditionedGram.partial(plain, a, b).solve(plain, 0.2)
        sums = PreconditionedGram.partial(with_penalty, a, b)
        assert torch.allclose(sums.solve(with_penalty, 0.2), x, rtol=1e-11)
        with pytest.raises(ValueError, match="must be 0"):
            sums.ridge_path(with_penalty, torch.tensor([1.0], dtype=F64))

    def test_a_sketch_of_other_rows_is_refused(self):
        a = torch.eye(50, 3, dtype=F64)
        pre = Preconditioner.from_sketch(torch.randn(20, 3, dtype=F64), n=50)
        with pytest.raises(ValueError, match="positive definite"):
            PreconditionedGram.partial(pre, a[:2], a[:2, :1]).solve(pre)

    @pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
    def test_bad_ridge(self, problem, ridge):
        a, b, pre = problem
        with pytest.raises(ValueError, match="`ridge`"):
            PreconditionedGram.partial(pre, a, b).solve(pre, ridge)


class TestCertificate:
    @pytest.mark.parametrize("condition", [1e1, 1e5, 1e10])
    @pytest.mark.parametrize("noise", [0.0, 1e-6, 0.1, 100.0])
    @pytest.mark.parametrize("ridge", [0.0, 1e-4])
    def test_bounds_the_true_excess(self, condition, noise, ridge):
        a, b = ill_conditioned(4000, 20, condition, noise=noise, targets=2)
        pre = Preconditioner.from_sketch(SparseSign(128, 4000).apply(a), n=4000, ridge=ridge)
        gram = PreconditionedGram.partial(pre, a, b)
        x = gram.solve(pre, ridge)
        sums = ResidualSums.partial(pre, a[:1000], b[:1000], x) + ResidualSums.partial(
            pre, a[1000:], b[1000:], x
        )
        true = excess(a, b, x, ridge)
        tight, wide = certify(pre, gram, sums, x, ridge=ridge), certify(pre, gram, ridge=ridge)
        assert (true <= tight.excess_bound.numpy()).all()
        assert (tight.excess_bound.numpy() <= 30 * true + 1e-14 * gram.target.sqrt().numpy()).all()
        assert (true <= wide.excess_bound.numpy()).all()
        assert tight.checked
        assert not wide.checked
        assert tight.rank == 20
        assert 1 < tight.gram_condition < 20

    def test_bounds_a_wrong_solution(self):
        a, b = ill_conditioned(4000, 20, 1e6)
        pre = Preconditioner.from_sketch(SparseSign(128, 4000).apply(a), n=4000)
        gram = PreconditionedGram.partial(pre, a, b)
        x = gram.solve(pre) * (1 + 1e-6)
        true = excess(a, b, x)
        for sums in (ResidualSums.partial(pre, a, b, x), None):
            bound = certify(pre, gram, sums, x).excess_bound.numpy()
            assert true <= bound <= 2 * true

    def test_a_row_that_carries_everything(self):
        a, b = ill_conditioned(4000, 20, 1e8)
        a[7], b[7] = 1e6 * a[7], 1e9
        pre = Preconditioner.from_sketch(SparseSign(128, 4000).apply(a), n=4000)
        gram = PreconditionedGram.partial(pre, a, b)
        x = gram.solve(pre)
        assert (
            excess(a, b, x) <= certify(pre, gram, ResidualSums.partial(pre, a, b, x), x).excess_bound.numpy()
        )

    def test_names_a_poor_sketch(self):
        a, b = ill_conditioned(500, 4, 10.0)
        pre = Preconditioner.from_sketch(a * torch.tensor([1.0, 1.0, 1.0, 1e3], dtype=F64) + 1e-9, n=500)
        gram = PreconditionedGram.partial(pre, a, b)
        assert certify(pre, gram).status == "poor sketch"


def test_sketched_qr_conditions_any_layout():
    a, _ = ill_conditioned(2000, 10, 1e9)
    r = sketched_qr(a)
    assert torch.equal(r, r.triu())
    assert (r.diagonal() >= 0).all()
    assert torch.linalg.cond(torch.linalg.solve_triangular(r, a, upper=True, left=False)) < 4
    assert torch.allclose(sketched_qr(a.to_sparse_csr()), r)
    with pytest.raises(ValueError, match="fewer rows"):
        sketched_qr(a[:5])
