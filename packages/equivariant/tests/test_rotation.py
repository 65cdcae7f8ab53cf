"""Rotations are rotations, uniformly drawn."""

import torch
from scipy.spatial.transform import Rotation

from lemmata.equivariant.o3 import determinant_sign, rand_rotation, rotation_from_quaternion

F64 = torch.float64


def test_rotations_are_orthogonal_with_determinant_one() -> None:
    r = rand_rotation(4, 100, dtype=F64)
    assert r.shape == (4, 100, 3, 3)
    torch.testing.assert_close(r @ r.mT, torch.eye(3, dtype=F64).expand_as(r), rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(4, 100, dtype=F64))


def test_quaternions_equal_scipys() -> None:
    q = torch.randn(20, 4, dtype=F64)
    expected = Rotation.from_quat(q.numpy(), scalar_first=True).as_matrix()
    torch.testing.assert_close(rotation_from_quaternion(q), torch.from_numpy(expected), rtol=0, atol=1e-14)


def test_rotations_are_uniform() -> None:
    r = rand_rotation(20_000, generator=torch.Generator().manual_seed(5), dtype=F64)
    # Under Haar's measure entries have mean 0 and variance 1/3, and the trace has mean 0 and variance 1.
    assert r.mean(0).abs().max() < 0.02
    assert (r.var(0) - 1 / 3).abs().max() < 0.02
    trace = r.diagonal(dim1=-1, dim2=-2).sum(-1)
    assert abs(trace.mean().item()) < 0.03
    assert abs(trace.var().item() - 1) < 0.04


def test_generator_and_dtype() -> None:
    first, second = (rand_rotation(3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.get_default_dtype()
    assert rand_rotation(dtype=F64).shape == (3, 3)


def test_determinant_sign() -> None:
    r = rand_rotation(6, dtype=F64)
    assert determinant_sign(r).tolist() == [1.0] * 6
    assert determinant_sign(-r).tolist() == [-1.0] * 6
    assert determinant_sign(r @ torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=F64))).tolist() == [-1.0] * 6
