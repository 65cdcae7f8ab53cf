r"""Numbers that say how two points with orientations lie to one another, and kernels made of them.

A message function is shared between all pairs of points that a motion takes into one another, and between no
others, exactly where it is a function of attributes that label the classes of such pairs. In 3-D, with
orientations $o_i$, $o_j$ and $r = x_j - x_i$, they are

$$a_1 = o_i \cdot r, \quad a_2 = \lVert r - a_1 o_i \rVert, \quad a_3 = o_i \cdot o_j, \quad
a_4 = o_j \cdot r, \quad a_5 = \det(o_i, o_j, r).$$

The first two suffice where both ends have the same orientation, and $a_3$ where both are at one place. For
free pairs the first three leave open how $o_j$ stands about the axis $o_i$, which the last two tell. In 2-D
points with orientations are motions themselves, and the attributes are $r$ in the frame of $o_i$ and the
angle from $o_i$ to $o_j$, as its cosine and sine.

References:
    E. J. Bekkers, S. Vadgama, R. D. Hesselink, P. A. van der Linden, D. W. Romero, Fast, Expressive SE(n)
    Equivariant Networks through Weight-Sharing in Position-Orientation Space, ICLR 2024, arXiv:2310.02970.

Axis letters used below: `D` dimension of space, `A` attributes, `B` basis functions.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["KernelBasis", "PolynomialFeatures", "invariant_attributes"]

# Smooths a distance from an axis, sqrt(x^2 + EPS^2), in the unit of positions: its gradient exists at 0.
EPS = 1e-3


def invariant_attributes(
    rel_pos: Tensor, ori_recv: Tensor, ori_send: Tensor | None = None, *, eps: float = EPS
) -> Tensor:
    r"""Return numbers that motions leave alone and that differ between pairs that no motion relates.

    Shapes broadcast. Of reflections, the first four in 3-D know nothing, and $a_5$ changes its sign.

    Args:
        rel_pos: $r = x_j - x_i$ from receiver to sender, shape `(*batch, D)`, `D` of 2 or 3.
        ori_recv: Unit vectors $o_i$, shape `(*batch, D)`.
        ori_send: Unit vectors $o_j$, shape `(*batch, D)`; None where they equal the receivers'.
        eps: The distance from the axis is $a_2 = \sqrt{\lVert r - a_1 o_i \rVert^2 + \text{eps}^2}$, so
            that its derivatives exist on the axis; in the unit of `rel_pos`.

    Returns:
        Shape `(*batch, A)`. In 3-D $(a_1, a_2)$, with `ori_send` $(a_1, \dots, a_5)$. In 2-D $r$ along
        $o_i$ and a quarter turn on, with `ori_send` also the cosine and sine of the angle from $o_i$ to
        $o_j$.

    Raises:
        ValueError: Where the last axes are not all 2 or all 3, or orientations not of length 1.

    Examples:
        >>> r, o, p = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
        >>> invariant_attributes(r, o)
        tensor([3., 4.])
        >>> invariant_attributes(r, o, p)
        tensor([3., 4., 0., 4., 0.])
    """
    given = {"rel_pos": rel_pos, "ori_recv": ori_recv} | ({} if ori_send is None else {"ori_send": ori_send})
    dim = rel_pos.shape[-1]
    for name, tensor in given.items():
        if tensor.shape[-1] not in (2, 3) or tensor.shape[-1] != dim:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}: its last axis must be 2 or 3, as `rel_pos` has"
            )
        if name != "rel_pos":
            check_unit(name, tensor)
    attributes = (
        _planar(rel_pos, ori_recv, ori_send) if dim == 2 else _spatial(rel_pos, ori_recv, ori_send, eps)
    )
    shape = sum(attributes[1:], attributes[0]).shape
    return torch.stack([attribute.expand(shape) for attribute in attributes], dim=-1)


def spatial_attributes(
    edge_vec: Float[Tensor, "E D"], orientations: Float[Tensor, "O D"], eps: float = EPS
) -> Float[Tensor, "E O 2"]:
    """Return the attributes of edges whose ends have the same orientation, for each of a grid.

    Args:
        edge_vec: From receiver to sender.
        orientations: Unit vectors; not checked.
        eps: As `invariant_attributes`.
    """
    r = edge_vec[:, None]
    found = _planar(r, orientations, None) if r.shape[-1] == 2 else _spatial(r, orientations, None, eps)
    return torch.stack(found, dim=-1)


def fiber_attributes(orientations: Float[Tensor, "O D"]) -> Float[Tensor, "O O A"]:
    """Return the attributes of pairs of orientations at one point: a cosine, in the plane also the sine.

    Args:
        orientations: Unit vectors; not checked.
    """
    o, p = orientations[:, None], orientations
    return torch.stack([_dot(o, p)] if o.shape[-1] == 3 else [_dot(o, p), _wedge(o, p)], dim=-1)


def check_unit(name: str, orientations: Tensor) -> None:
    """Raise where vectors are not of length 1; not while compiling, which values must not steer."""
    if torch.compiler.is_compiling():
        return
    lengths = torch.linalg.vector_norm(orientations.detach(), dim=-1)
    worst = (lengths - 1).abs().max().item() if lengths.numel() else 0.0
    if not worst <= 1e3 * torch.finfo(orientations.dtype).eps:
        raise ValueError(f"`{name}` must hold unit vectors, but a length differs from 1 by {worst:.3g}")


def _spatial(r: Tensor, o: Tensor, p: Tensor | None, eps: float) -> list[Tensor]:
    """Return the attributes in 3-D."""
    along = _dot(r, o)
    # The residual, not |r|^2 - a1^2, which loses digits where r is nearly parallel to o.
    across = (r - along[..., None] * o).square().sum(-1)
    found = [along, (across + eps * eps).sqrt()]
    if p is None:
        return found
    return [*found, _dot(o, p), _dot(p, r), _triple(o, p, r)]


def _planar(r: Tensor, o: Tensor, p: Tensor | None) -> list[Tensor]:
    """Return the attributes in 2-D."""
    found = [_dot(r, o), _wedge(o, r)]
    return found if p is None else [*found, _dot(o, p), _wedge(o, p)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products over the last axis."""
    return (a * b).sum(-1)


def _triple(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the determinants of triples of vectors in space."""
    return sum(
        (a[..., i] * (b[..., j] * c[..., k] - b[..., k] * c[..., j]) for i, j, k in ((1, 2, 0), (2, 0, 1))),
        a[..., 0] * (b[..., 1] * c[..., 2] - b[..., 2] * c[..., 1]),
    )


def _wedge(a: Tensor, b: Tensor) -> Tensor:
    """Return the determinants of pairs of vectors in the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


class PolynomialFeatures(nn.Module):
    r"""All products of up to `degree` entries: $x$, $x \otimes x$, ..., flattened and joined.

    Args:
        degree: The highest, at least 1.

    Raises:
        ValueError: Where `degree` is below 1.

    Examples:
        >>> PolynomialFeatures(3)(torch.tensor([2.0, 3.0]))
        tensor([ 2.,  3.,  4.,  6.,  6.,  9.,  8., 12., 12., 18., 12., 18., 18., 27.])
        >>> PolynomialFeatures(3).out_features(2)
        14
    """

    def __init__(self, degree: int) -> None:
        super().__init__()
        if degree < 1:
            raise ValueError(f"`degree` (={degree}) must be at least 1")
        self.degree = degree

    def out_features(self, in_features: int) -> int:
        """Return the number of products of `in_features` entries.

        Args:
            in_features: Size of the last axis of the input.
        """
        return sum(in_features**power for power in range(1, self.degree + 1))

    def forward(self, x: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch products"]:
        """Return the products.

        Args:
            x: Attributes.
        """
        powers = [x]
        for _ in range(self.degree - 1):
            powers.append((powers[-1][..., :, None] * x[..., None, :]).flatten(-2))
        return torch.cat(powers, dim=-1)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"degree={self.degree}"


class KernelBasis(nn.Sequential):
    """Functions of attributes that all layers of a network share: polynomials, then two layers with GELU.

    A layer's kernel is a linear map of them, so that what is costly is done once for a graph.

    Args:
        attributes: Number of attributes.
        basis_dim: Number of functions.
        degree: Of the polynomials.
        hidden: Width between; `basis_dim` where None.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: Where `degree` is below 1.

    Examples:
        >>> KernelBasis(2, 16)(torch.randn(7, 20, 2)).shape
        torch.Size([7, 20, 16])
    """

    def __init__(
        self,
        attributes: int,
        basis_dim: int,
        *,
        degree: int = 3,
        hidden: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        polynomials = PolynomialFeatures(degree)
        width = basis_dim if hidden is None else hidden
        super().__init__(
            polynomials,
            nn.Linear(polynomials.out_features(attributes), width, dtype=dtype, device=device),
            nn.GELU(),
            nn.Linear(width, basis_dim, dtype=dtype, device=device),
            nn.GELU(),
        )
