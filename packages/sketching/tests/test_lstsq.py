"""Sketched least squares against NumPy's and SciPy's, on ill-conditioned, deficient and odd problems."""

import math
import pickle

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.sketching.least_squares import backward_error, lstsq
from lemmata.sketching.operators import CountSketch, GaussianSketch, SparseSign
from lemmata.sketching.stream import RowBlocks

F64 = torch.float64
METHODS = ["cqrrt", "lsqr", "fossils"]


def problem(n, d, condition=10.0, seed=0, noise=0.1, targets=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=F64, generator=generator)

    a = draw(n, d) * torch.logspace(0, -math.log10(condition), d, dtype=F64) @ torch.linalg.qr(draw(d, d)).Q
    x = draw(d, targets)
    exact, r = a @ x, draw(n, targets)
    return a, exact + noise * r * torch.linalg.vector_norm(exact) / torch.linalg.vector_norm(r), x


def reference(a, b, rcond=None):
    return torch.from_numpy(np.linalg.lstsq(a.numpy(), b.numpy(), rcond=rcond)[0])


def close(x, want, tolerance=1e-11):
    return bool(torch.linalg.vector_norm(x - want) <= tolerance * torch.linalg.vector_norm(want) + 1e-300)


class TestSolutions:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("n", "d", "targets"), [(1000, 7, 1), (5000, 60, 3), (200, 1, 2), (30, 30, 1), (1, 1, 1)]
    )
    def test_equals_numpy(self, method, n, d, targets):
        a, b, _ = problem(n, d, targets=targets)
        result = lstsq(a, b, method=method)
        assert close(result.x, reference(a, b), 1e-10)
        assert result.x.shape == (d, targets)
        residual = torch.linalg.vector_norm(a @ result.x - b, dim=0)
        assert torch.allclose(result.residual_norm, residual, atol=1e-7 * float(torch.linalg.vector_norm(b)))
        assert result.certificate.status == "converged"
        assert result.certificate.rank == d
        assert result.certificate.method == method

    @pytest.mark.parametrize("method", METHODS)
    def test_a_vector_of_targets(self, method):
        a, b, _ = problem(600, 5)
        result = lstsq(a, b[:, 0], method=method)
        assert result.x.shape == (5,)
        assert result.residual_norm.shape == ()
        assert result.certificate.excess_bound.shape == ()
        assert torch.equal(result.x, lstsq(a, b, method=method).x[:, 0])

    @pytest.mark.parametrize("condition", [1e4, 1e8, 1e10, 1e12])
    @pytest.mark.parametrize("method", METHODS)
    def test_is_as_accurate_as_qr(self, condition, method):
        a, b, _ = problem(4000, 30, condition, noise=0.1)
        exact = refined(a, b)
        theirs = scipy.linalg.lstsq(a.numpy(), b.numpy(), lapack_driver="gelsd")[0]
        error = np.linalg.norm((lstsq(a, b, method=method).x.numpy() - exact).astype(float))
        factor = 50 if method == "lsqr" else 5  # its gradient cancels: forward stable, with a larger constant
        assert error <= factor * np.linalg.norm((theirs - exact).astype(float))

    @pytest.mark.parametrize("method", METHODS)
    def test_targets_in_the_range(self, method):
        a, b, x = problem(2000, 20, 1e6, noise=0.0)
        result = lstsq(a, b, method=method, certify=True)
        assert result.residual_norm < 1e-13 * torch.linalg.vector_norm(b)
        assert close(result.x, x, 1e-9)
        assert result.certificate.status == "converged"

    @pytest.mark.parametrize("method", [*METHODS, "sketch_and_solve"])
    def test_zero_targets(self, method):
        a, b, _ = problem(500, 4, targets=2)
        result = lstsq(a, torch.zeros_like(b), method=method)
        assert torch.equal(result.x, torch.zeros(4, 2, dtype=F64))
        assert torch.equal(result.residual_norm, torch.zeros(2, dtype=F64))

    @pytest.mark.parametrize("method", METHODS)
    def test_one_zero_target_beside_others(self, method):
        a, b, _ = problem(500, 4, targets=3)
        b[:, 1] = 0
        assert close(lstsq(a, b, method=method).x, reference(a, b))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("ridge", [1e-6, 1.0, 1e4])
    def test_ridge_is_the_augmented_problem(self, method, ridge):
        a, b, _ = problem(2000, 12, 1e5, targets=2)
        result = lstsq(a, b, method=method, ridge=ridge, certify=True)
        big = torch.cat((a, math.sqrt(ridge) * torch.eye(12, dtype=F64)))
        want = reference(big, torch.cat((b, torch.zeros(12, 2, dtype=F64))), rcond=1e-300)
        assert close(result.x, want, 1e-8)
        assert torch.allclose(result.residual_norm, torch.linalg.vector_norm(a @ want - b, dim=0))

    @pytest.mark.parametrize("method", [*METHODS, "sketch_and_solve"])
    def test_weights_repeat_rows(self, method):
        a, b, _ = problem(500, 6, targets=2)
        counts = torch.randint(0, 4, (500,))
        repeated = lstsq(a.repeat_interleave(counts, 0), b.repeat_interleave(counts, 0), method="cqrrt")
        result = lstsq(a, b, weights=counts.to(F64), method=method)
        if method == "sketch_and_solve":
            assert close(result.x, repeated.x, 0.2)
        else:
            assert close(result.x, repeated.x)
            assert torch.allclose(result.residual_norm, repeated.residual_norm)

    @pytest.mark.parametrize("method", METHODS)
    def test_float32_in_and_out(self, method):
        a, b, _ = problem(3000, 10, 1e3)
        result = lstsq(a.float(), b.float(), method=method)
        assert result.x.dtype == torch.float32
        want = reference(a.float().double(), b.float().double())
        assert close(result.x.double(), want, 1e-7)
        assert result.certificate.status == "converged"

    def test_the_sketch_is_the_callers_choice(self):
        a, b, _ = problem(2000, 10)
        want = reference(a, b)
        for sketch in (GaussianSketch(40, 2000, seed=1), CountSketch(120, 2000), SparseSign(60, 2000, 3)):
            for method in METHODS:
                assert close(lstsq(a, b, sketch=sketch, method=method).x, want)

    def test_is_reproducible(self):
        a, b, _ = problem(2000, 10)
        assert torch.equal(lstsq(a, b, seed=3).x, lstsq(a, b, seed=3).x)
        again = pickle.loads(pickle.dumps(lstsq(a, b, seed=3)))
        assert torch.equal(again.x, lstsq(a, b, seed=3).x)

    @given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 3), st.integers(0, 10**6))
    @settings(max_examples=25, deadline=None)
    def test_residual_is_orthogonal_to_the_columns(self, n, d, targets, seed):
        a, b, _ = problem(n, d, 10.0, seed, noise=1.0, targets=targets)
        x = lstsq(a, b, minimum_norm=True).x
        size = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
        assert (a.T @ (b - a @ x)).abs().max() <= 1e-12 * size


def refined(a, b):
    """Solve in extended precision by refining the augmented system."""
    wide, target = a.numpy().astype(np.longdouble), b.numpy().astype(np.longdouble)
    q, r = np.linalg.qr(a.numpy())
    x, res = np.zeros((a.shape[1], b.shape[1]), np.longdouble), np.zeros(b.shape, np.longdouble)
    for _ in range(10):
        f, g = (target - res - wide @ x).astype(float), -(wide.T @ res).astype(float)
        w = scipy.linalg.solve_triangular(r, g, trans="T")
        x = x + scipy.linalg.solve_triangular(r, q.T @ f - w)
        res = res + (f - q @ (q.T @ f) + q @ w)
    return x


class TestDeficient:
    @pytest.mark.parametrize("method", METHODS)
    def test_minimum_norm(self, method):
        base, b, _ = problem(1500, 6, targets=2)
        mix = torch.randn(6, 9, dtype=F64)
        a = base @ mix
        result = lstsq(a, b, method=method)
        assert result.certificate.rank == 6
        assert close(result.x, reference(a, b), 1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_minimum_norm_is_in_the_callers_units(self, method):
        base, b, _ = problem(1500, 4)
        a = torch.cat((base, 1000 * base[:, :2]), 1)  # the norm prefers the long copies
        assert close(lstsq(a, b, method=method).x, reference(a, b), 1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_columns_of_zeros(self, method):
        a, b, _ = problem(800, 5)
        a[:, 2] = 0
        result = lstsq(a, b, method=method)
        assert result.certificate.rank == 4
        assert result.x[2].abs() < 1e-15
        assert close(result.x, reference(a, b))

    @pytest.mark.parametrize("method", METHODS)
    def test_nothing_but_zeros(self, method):
        b = torch.ones(300, 1, dtype=F64)
        result = lstsq(torch.zeros(300, 3, dtype=F64), b, method=method)
        assert torch.equal(result.x, torch.zeros(3, 1, dtype=F64))
        assert result.certificate.rank == 0
        assert torch.allclose(result.residual_norm, torch.tensor([300.0], dtype=F64).sqrt())

    @pytest.mark.parametrize("method", METHODS)
    def test_fewer_rows_than_columns(self, method):
        a, b, _ = problem(20, 50, targets=2)
        with pytest.raises(ValueError, match=r"fewer rows \(20\) than columns \(50\).*ridge.*minimum_norm"):
            lstsq(a, b, method=method)
        result = lstsq(a, b, method=method, minimum_norm=True)
        assert close(result.x, reference(a, b), 1e-9)
        assert result.certificate.rank == 20
        big = torch.cat((a, 0.5 * torch.eye(50, dtype=F64)))
        want = reference(big, torch.cat((b, torch.zeros(50, 2, dtype=F64))))
        assert close(lstsq(a, b, method=method, ridge=0.25).x, want, 1e-9)

    def test_duplicates_with_a_penalty(self):
        base, b, _ = problem(800, 5)
        a = torch.cat((base, base), 1)
        x = lstsq(a, b, ridge=1e-3).x
        assert close(x[:5], x[5:], 1e-6)
        assert close(x[:5] + x[5:], lstsq(base, b, ridge=5e-4).x, 1e-9)

    def test_rcond_is_the_callers_choice(self):
        a, b, _ = problem(800, 5, 1e6)
        assert lstsq(a, b, rcond=1e-3).certificate.rank < 5
        assert lstsq(a, b, rcond=1e-9).certificate.rank == 5


class TestData:
    @pytest.mark.parametrize("method", METHODS)
    def test_sparse(self, method):
        a = scipy.sparse.random_array((3000, 20), density=0.1, format="csr", rng=np.random.default_rng(0))
        b = torch.randn(3000, 2, dtype=F64)
        want = reference(torch.from_numpy(a.toarray()), b)
        tensor = torch.from_numpy(a.toarray()).to_sparse_csr()
        for data in (a, a.tocoo(), tensor):
            assert close(lstsq(data, b, method=method).x, want)
        w = torch.rand(3000, dtype=F64)
        dense = lstsq(torch.from_numpy(a.toarray()), b, weights=w)
        assert close(lstsq(a, b, weights=w, method=method).x, dense.x)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("rows", [1, 37, 500, 5000])
    def test_row_blocks(self, method, rows):
        n = 300 if rows == 1 else 3000
        a, b, _ = problem(n, 8, 1e4, targets=2)
        whole = lstsq(a, b, method=method)
        blocks = RowBlocks.from_tensor(a, rows=rows)
        result = lstsq(blocks, b, method=method)
        assert close(result.x, whole.x, 1e-10)
        assert result.certificate.passes == blocks.passes
        assert close(lstsq(blocks, RowBlocks.from_tensor(b, rows=rows), method=method).x, whole.x, 1e-10)

    def test_blocks_in_any_order(self):
        a, b, _ = problem(3000, 8, targets=2)
        blocks = RowBlocks(lambda: [(s, a[s : s + 500]) for s in (2500, 0, 1500, 500, 2000, 1000)], (3000, 8))
        for method in METHODS:
            assert close(lstsq(blocks, b, method=method).x, reference(a, b))

    @pytest.mark.parametrize("method", ["lsqr", "fossils", "auto"])
    def test_operators(self, method):
        a, b, _ = problem(2000, 70, 1e3)
        theirs = scipy.sparse.linalg.aslinearoperator(a.numpy())

        class Ours:
            shape = (2000, 70)
            T = a.T

            def __matmul__(self, x):
                return a @ x

        for operator in (theirs, Ours()):
            result = lstsq(operator, b, method=method)
            assert close(result.x, reference(a, b), 1e-9)
            assert result.certificate.status == "converged"
            w = torch.rand(2000, dtype=F64)
            assert close(lstsq(operator, b, weights=w, method=method).x, lstsq(a, b, weights=w).x, 1e-9)
            if method == "lsqr":
                assert close(lstsq(operator, b, ridge=2.0).x, lstsq(a, b, ridge=2.0).x, 1e-9)

    def test_numpy_arrays(self):
        a, b, _ = problem(500, 4)
        assert close(lstsq(a.numpy(), b).x, reference(a, b))

    def test_auto_chooses_by_cost(self):
        b = torch.randn(3000, dtype=F64)
        dense, _, _ = problem(3000, 20)
        assert lstsq(dense, b).certificate.method == "cqrrt"
        thin = scipy.sparse.random_array(
            (3000, 100), density=0.002, format="csr", rng=np.random.default_rng(0)
        )
        assert lstsq(thin, b).certificate.method == "lsqr"
        assert lstsq(dense, b, max_passes=1).certificate.method == "sketch_and_solve"


class TestHonesty:
    def test_passes_are_counted(self):
        a, b, _ = problem(2000, 10)
        blocks = RowBlocks.from_tensor(a, rows=300)
        assert lstsq(blocks, b).certificate.passes == blocks.passes == 2
        assert lstsq(blocks, b, certify=True).certificate.passes == 3
        assert blocks.passes == 5
        assert lstsq(blocks, b, method="sketch_and_solve").certificate.passes == 1
        lsqr = lstsq(blocks, b, method="lsqr").certificate
        assert lsqr.passes == lsqr.iterations + 3

    @pytest.mark.parametrize("method", ["lsqr", "fossils"])
    def test_an_iteration_that_was_stopped_says_so(self, method):
        a, b, _ = problem(5000, 60, 1e3)
        result = lstsq(a, b, method=method, max_passes=8)
        assert result.certificate.status == "pass limit"
        assert result.certificate.passes == 8
        exact = torch.from_numpy(refined(a, b).astype(float))
        assert torch.linalg.vector_norm(a @ (result.x - exact)) <= result.certificate.excess_bound
        with pytest.raises(ValueError, match="`max_passes`"):
            lstsq(a, b, method=method, max_passes=2)

    @pytest.mark.parametrize("method", ["lsqr", "fossils"])
    def test_a_poor_sketch_never_passes_for_converged_wrongly(self, method):
        a, b, _ = problem(2000, 40, 1e3)
        a[:30] *= 1e4  # rows that few rows of a sketch miss
        sketch = CountSketch(42, 2000, seed=1)
        result = lstsq(a, b, method=method, sketch=sketch)
        wrong = torch.linalg.vector_norm(a @ (result.x - reference(a, b))) / torch.linalg.vector_norm(b)
        assert wrong < 1e-9 or result.certificate.status != "converged"

    def test_loose_tolerance_takes_fewer_steps(self):
        a, b, _ = problem(5000, 60, 1e3)
        tight, loose = (lstsq(a, b, method="lsqr", tol=tol) for tol in (1e-14, 1e-4))
        assert loose.certificate.iterations < tight.certificate.iterations / 2
        assert loose.certificate.status == tight.certificate.status == "converged"
        excess = torch.linalg.vector_norm(a @ (loose.x - reference(a, b)))
        assert excess <= loose.certificate.excess_bound

    @pytest.mark.parametrize("method", [*METHODS, "sketch_and_solve"])
    @pytest.mark.parametrize("dtype", [F64, torch.float32])
    @pytest.mark.parametrize("certify", [False, True])
    def test_bound_holds(self, method, dtype, certify):
        a, b, _ = problem(3000, 20, 1e4 if dtype == F64 else 10.0, targets=2)
        a, b = a.to(dtype).to(F64), b.to(dtype).to(F64)
        result = lstsq(a.to(dtype), b.to(dtype), method=method, certify=certify)
        exact = refined(a, b)
        wide = a.numpy().astype(np.longdouble)
        true = np.linalg.norm((wide @ (result.x.to(F64).numpy() - exact)).astype(float), axis=0)
        assert (true <= result.certificate.excess_bound.numpy()).all()
        if method == "cqrrt" and certify:
            assert (result.certificate.excess_bound.numpy() <= 20 * true).all()

    def test_sketch_and_solve_is_near(self):
        a, b, _ = problem(5000, 20, noise=1.0)
        result = lstsq(a, b, method="sketch_and_solve")
        best = torch.linalg.vector_norm(a @ reference(a, b) - b)
        assert result.certificate.status == "approximate"
        assert not result.certificate.checked
        assert best < torch.linalg.vector_norm(a @ result.x - b) < 1.3 * best
        assert 0.6 < result.residual_norm / best < 1.6
        checked = lstsq(a, b, method="sketch_and_solve", certify=True)
        assert torch.equal(checked.x, result.x)
        assert torch.allclose(checked.residual_norm, torch.linalg.vector_norm(a @ result.x - b, dim=0))


class TestGradients:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("ridge", [0.0, 0.5])
    @pytest.mark.parametrize("n", [20, 400])
    def test_equal_those_of_the_normal_equations(self, method, ridge, n):
        a, b, _ = problem(n, 3, targets=2)
        inputs = [tensor.requires_grad_() for tensor in (a, b, torch.rand(n, dtype=F64) + 0.5)]
        g = torch.randn(3, 2, dtype=F64)

        def by_hand(a, b, w):
            return torch.linalg.solve(
                a.T @ (w[:, None] * a) + ridge * torch.eye(3, dtype=F64), a.T @ (w[:, None] * b)
            )

        ours = lstsq(a, b, weights=inputs[2], method=method, ridge=ridge).x
        for mine, theirs in zip(
            torch.autograd.grad((ours * g).sum(), inputs),
            torch.autograd.grad((by_hand(*inputs) * g).sum(), inputs),
            strict=True,
        ):
            assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)

    def test_of_a_sketched_solution_flow_through_the_sketch(self):
        a, b, _ = problem(400, 3)
        a.requires_grad_()
        b.requires_grad_()
        sketch = SparseSign(60, 400)
        dense = sketch.to_dense()
        ours = lstsq(a, b, method="sketch_and_solve", sketch=sketch).x
        theirs = torch.linalg.lstsq(dense @ a, dense @ b).solution
        for mine, other in zip(
            torch.autograd.grad(ours.sum(), (a, b)), torch.autograd.grad(theirs.sum(), (a, b)), strict=True
        ):
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)

    def test_first_derivatives(self):
        a, b, _ = problem(20, 3)
        inputs = [tensor.requires_grad_() for tensor in (a, b)]
        assert torch.autograd.gradcheck(lambda a, b: lstsq(a, b).x, inputs, fast_mode=True)

    def test_gradient_to_targets_is_the_transposed_pseudo_inverse(self):
        a, b, _ = problem(20, 3)
        b.requires_grad_()
        g = torch.randn(3, 1, dtype=F64)
        (lstsq(a, b).x * g).sum().backward()
        assert torch.allclose(b.grad, torch.linalg.pinv(a).T @ g)

    def test_second_derivatives(self):
        a, b, _ = problem(20, 3, targets=2)
        a.requires_grad_()
        b.requires_grad_()
        assert torch.autograd.gradgradcheck(lambda a, b: lstsq(a, b, ridge=0.1).x, (a, b), fast_mode=True)

    def test_deficient_rank(self):
        a, b, _ = problem(4, 7)
        a.requires_grad_()
        b.requires_grad_()

        def solve(a, b):
            return lstsq(a, b, minimum_norm=True).x

        assert torch.autograd.gradcheck(solve, (a, b), fast_mode=True)
        (grad,) = torch.autograd.grad(solve(a, b).sum(), a, create_graph=False)
        assert grad.isfinite().all()
        with pytest.raises(RuntimeError, match="full rank"):
            torch.autograd.grad(solve(a, b).sum(), a, create_graph=True)

    @pytest.mark.parametrize("method", METHODS)
    def test_targets_of_sparse_and_streamed_rows(self, method):
        a, b, _ = problem(300, 4)
        w = torch.rand(300, dtype=F64)
        g = torch.randn(4, 1, dtype=F64)
        want = torch.linalg.pinv(a * w.sqrt()[:, None]).T @ g * w.sqrt()[:, None]
        for data in (a.to_sparse_csr(), RowBlocks.from_tensor(a, rows=70)):
            target = b.clone().requires_grad_()
            (lstsq(data, target, weights=w, method=method).x * g).sum().backward()
            assert torch.allclose(target.grad, want)

    def test_float32(self):
        a, b, _ = problem(300, 4)
        a, b = a.float().requires_grad_(), b.float().requires_grad_()
        lstsq(a, b).x.sum().backward()
        assert a.grad.dtype == b.grad.dtype == torch.float32
        assert a.grad.isfinite().all()

    def test_no_graph_without_need(self):
        a, b, _ = problem(300, 4)
        with torch.no_grad():
            assert not lstsq(a.requires_grad_(), b).x.requires_grad


class TestBackwardError:
    def test_estimates_the_optimum(self):
        for seed, noise in ((0, 0.1), (1, 1e-6), (2, 3.0)):
            a, b, _ = problem(60, 5, 1e3, seed, noise)
            x = reference(a, b) * (1 + 1e-3)
            r = b - a @ x
            mu = torch.linalg.vector_norm(r) / torch.linalg.vector_norm(x)
            projector = torch.eye(60, dtype=F64) - r @ r.T / r.square().sum()
            optimum = torch.linalg.svdvals(torch.cat((a, mu * projector), 1))[-1].clamp_max(mu)
            estimate = backward_error(a, b, x)[0] * torch.linalg.vector_norm(a)
            assert 0.5 * optimum < estimate < 2 * optimum

    @pytest.mark.parametrize("method", METHODS)
    def test_solutions_are_backward_stable(self, method):
        a, b, _ = problem(3000, 20, 1e8, targets=2)
        limit = 1e-15 if method != "lsqr" else 1e-9  # LSQR is forward stable only
        assert (backward_error(a, b, lstsq(a, b, method=method).x) < 20 * limit).all()

    def test_zero_solution_of_zero_targets(self):
        a, _, _ = problem(100, 3)
        assert backward_error(a, torch.zeros(100, dtype=F64), torch.zeros(3, dtype=F64)) == 0

    def test_bad_shape(self):
        a, b, _ = problem(100, 3)
        with pytest.raises(ValueError, match="`x`"):
            backward_error(a, b, torch.zeros(3, dtype=F64))


class TestBadInput:
    @pytest.mark.parametrize(
        ("a", "b", "options", "error", "message"),
        [
            (torch.ones(0, 3), torch.ones(0), {}, ValueError, r"`A` \(shape \(0, 3\)\)"),
            (torch.ones(3, 0), torch.ones(3), {}, ValueError, r"`A` \(shape \(3, 0\)\)"),
            (torch.ones(3), torch.ones(3), {}, ValueError, "must be a matrix"),
            (torch.ones(9, 2), torch.ones(8), {}, ValueError, r"`b` \(shape \(8,\)\).*`A`, 9"),
            (torch.ones(9, 2), torch.ones(9, 1, 1), {}, ValueError, "`b`"),
            (torch.ones(9, 2, dtype=torch.int64), torch.ones(9), {}, TypeError, "`A` .dtype torch.int64"),
            (torch.ones(9, 2), torch.ones(9, dtype=torch.int64), {}, TypeError, "`b` .dtype torch.int64"),
            (torch.ones(9, 2), torch.ones(9) * 1j, {}, TypeError, "complex64"),
            (torch.ones(9, 2), [1.0] * 9, {}, TypeError, "`b` .a list"),
            ([[1.0]], torch.ones(1), {}, TypeError, "`A` .a list"),
            (torch.ones(9, 2), torch.ones(9), {"method": "qr"}, ValueError, "`method`.*cqrrt"),
            (torch.ones(9, 2), torch.ones(9), {"ridge": -1.0}, ValueError, "`ridge`"),
            (torch.ones(9, 2), torch.ones(9), {"tol": 0.0}, ValueError, "`tol`"),
            (torch.ones(9, 2), torch.ones(9), {"rcond": 2.0}, ValueError, "`rcond`"),
            (torch.ones(9, 2), torch.ones(9), {"max_passes": 0}, ValueError, "`max_passes`"),
            (torch.ones(9, 2), torch.ones(9), {"method": "cqrrt", "max_passes": 1}, ValueError, "at least 2"),
            (torch.ones(9, 2), torch.ones(9), {"weights": torch.ones(8)}, ValueError, "`weights`.*9"),
            (torch.ones(9, 2), torch.ones(9), {"weights": -torch.ones(9)}, ValueError, "not negative"),
            (torch.ones(9, 2), torch.ones(9), {"sketch": SparseSign(8, 10)}, ValueError, "`sketch`"),
            (torch.ones(9, 5), torch.ones(9), {"sketch": SparseSign(5, 9, 2)}, ValueError, "more rows"),
        ],
    )
    def test_raises(self, a, b, options, error, message):
        with pytest.raises(error, match=message):
            lstsq(a, b, **options)

    @pytest.mark.parametrize("method", [*METHODS, "sketch_and_solve"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_names_the_row_that_is_not_finite(self, method, value):
        a, b, _ = problem(3000, 4)
        bad = a.clone()
        bad[1234, 2] = value
        with pytest.raises(ValueError, match="row 1234 of `A` is not finite"):
            lstsq(bad, b, method=method)
        b[2345] = value
        with pytest.raises(ValueError, match="row 2345 of `b` is not finite"):
            lstsq(RowBlocks.from_tensor(a, rows=100), b, method=method)

    def test_an_operator_cannot_be_read_by_rows(self):
        operator = scipy.sparse.linalg.aslinearoperator(np.ones((9, 2)))
        with pytest.raises(ValueError, match="'lsqr' or 'fossils'"):
            lstsq(operator, torch.ones(9, dtype=F64), method="cqrrt")

    def test_blocks_that_do_not_fit(self):
        a, b, _ = problem(100, 3)
        short = RowBlocks(lambda: [(0, a[:50])], (100, 3))
        with pytest.raises(ValueError, match="gave 50 rows"):
            lstsq(short, b)
        with pytest.raises(ValueError, match="rows 50:150"):
            lstsq(RowBlocks(lambda: [(50, a)], (100, 3)), b)
        blocks = RowBlocks.from_tensor(a, rows=50)
        with pytest.raises(ValueError, match="rows 0:50 and rows 0:40"):
            lstsq(blocks, RowBlocks.from_tensor(b, rows=40))
        with pytest.raises(ValueError, match="rows 50:100 and nothing"):
            lstsq(blocks, RowBlocks(lambda: [(0, b[:50])], (100, 1)))

    def test_weights_of_rows_that_cannot_differentiate(self):
        a, b, _ = problem(100, 3)
        w = torch.ones(100, dtype=F64, requires_grad=True)
        with pytest.raises(TypeError, match="`weights`"):
            lstsq(a.to_sparse_csr(), b, weights=w)
