"""Random rotations, and points spread over the sphere.

Rotations are 3 x 3 matrices acting on columns; nothing here uses angles.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["determinant_sign", "fibonacci_sphere", "rand_rotation", "rotation_from_quaternion"]


def rand_rotation(
    *size: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*size 3 3"]:
    """Return rotations drawn uniformly from SO(3).

    Args:
        size: Sizes of the leading axes.
        generator: Source of the random numbers.
        dtype: Of the matrices; torch's default where None.
        device: Of the matrices.

    Examples:
        >>> r = rand_rotation(5, dtype=torch.float64)
        >>> torch.allclose(r @ r.mT, torch.eye(3, dtype=torch.float64)), r.shape
        (True, torch.Size([5, 3, 3]))
    """
    quaternion = torch.randn(*size, 4, generator=generator, dtype=dtype, device=device)
    return rotation_from_quaternion(quaternion)


def rotation_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Return the rotation of a quaternion `(w, x, y, z)` of any length but zero.

    Args:
        quaternion: Scalar part first.

    Examples:
        >>> rotation_from_quaternion(torch.tensor([1.0, 0.0, 0.0, 1.0]))  # a quarter turn about z
        tensor([[ 0., -1.,  0.],
                [ 1.,  0.,  0.],
                [ 0.,  0.,  1.]])
    """
    w, x, y, z = quaternion.unbind(-1)
    two = 2 / (quaternion * quaternion).sum(-1)
    rows = (
        (1 - two * (y * y + z * z), two * (x * y - z * w), two * (x * z + y * w)),
        (two * (x * y + z * w), 1 - two * (x * x + z * z), two * (y * z - x * w)),
        (two * (x * z - y * w), two * (y * z + x * w), 1 - two * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def fibonacci_sphere(count: int) -> Float[Tensor, "count 3"]:
    """Return points spread evenly on the unit sphere along a spiral, float64.

    Args:
        count: Number of points.

    Examples:
        >>> fibonacci_sphere(100).norm(dim=-1).allclose(torch.ones(100, dtype=torch.float64))
        True
    """
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    longitude = math.pi * (3 - math.sqrt(5)) * index
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * longitude.cos(), radius * longitude.sin(), z], dim=-1)


def determinant_sign(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Return 1 for rotations and -1 for orthogonal matrices that reflect; no gradient flows through it.

    Args:
        matrix: Orthogonal matrices.
    """
    a, b, c = matrix.detach().unbind(-2)
    return torch.where((torch.linalg.cross(a, b) * c).sum(-1) < 0, -1.0, 1.0).to(matrix.dtype)
