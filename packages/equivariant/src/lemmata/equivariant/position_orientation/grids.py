r"""Sets of orientations on which functions on the sphere or the circle are sampled.

A network on a grid is equivariant under the rotations that map the grid to itself, exactly, and under
others up to an error that falls as the grid grows. Regular polyhedra have the most such rotations; grids of
any size come from charges that repel one another, $\min \sum_{i<j} 1 / \lVert o_i - o_j \rVert$ (J. J.
Thomson's problem).

Axis letters used below: `O` orientations, `D` dimension of space, `G` rotations.
"""

import functools
import itertools
import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lemmata.equivariant.constants import ConstantModule
from lemmata.equivariant.o3.rotation import fibonacci_sphere

__all__ = ["OrientationGrid"]

KINDS = {2: ("circle",), 3: ("repulsion", "dihedral", "icosahedron", "dodecahedron", "fibonacci")}
FEWEST = {2: 3, 3: 4}
DESCENT_STEPS = 500
NEWTON_STEPS = 6
NEWTON_LARGEST = 256
GOLDEN = (1 + math.sqrt(5)) / 2


class OrientationGrid(ConstantModule):
    r"""Unit vectors spread over the circle or the sphere, and the rotations that permute them.

    - `repulsion`: charges in equilibrium, any number.
    - `dihedral`: the same among grids that half turns about the axes leave alone; a multiple of 4.
    - `icosahedron`: its 12 vertices. `dodecahedron`: its 20. Each has 60 rotations.
    - `fibonacci`: points along a spiral, any number, without a search but half as even.
    - `circle`: the angles $2 \pi k / O$ in the plane.

    A search is done once a process and follows from its seed. Its result is saved in state dicts, so that a
    trained network keeps its grid where other versions of libraries round otherwise.

    Args:
        n: Number of orientations, at least 4 in space and 3 in the plane.
        dim: Of space, 2 or 3.
        kind: One of the above; `repulsion` in space and `circle` in the plane where None.
        seed: Of the positions that `repulsion` and `dihedral` start from.
        dtype: Of the vectors; torch's default where None.
        device: Of the vectors.

    Raises:
        ValueError: Where `dim` is neither 2 nor 3, the kind is none of that dimension, or does not come with
            `n` vectors.

    Examples:
        >>> grid = OrientationGrid(12, kind="icosahedron")
        >>> grid.vectors.shape, grid.symmetry_group.shape
        (torch.Size([12, 3]), torch.Size([60, 3, 3]))
        >>> OrientationGrid(6).symmetry_group.shape  # charges find the octahedron
        torch.Size([24, 3, 3])
    """

    vectors: Tensor

    def __init__(
        self,
        n: int,
        dim: int = 3,
        kind: str | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if dim not in KINDS:
            raise ValueError(f"`dim` (={dim}) must be 2 or 3")
        kind = KINDS[dim][0] if kind is None else kind
        if kind not in KINDS[dim]:
            raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(KINDS[dim])} in {dim} dimensions")
        if n < FEWEST[dim]:
            raise ValueError(f"`n` (={n}) must be at least {FEWEST[dim]} in {dim} dimensions")
        self.dim = dim
        self.kind = kind
        self.register_constant("vectors", _vectors(n, kind, seed).clone(), dtype=dtype, device=device)

    def __len__(self) -> int:
        """Return the number of orientations."""
        return len(self.vectors)

    @property
    def symmetry_group(self) -> Tensor:
        """The rotations that map the grid to itself, float64, `(G, D, D)`; the identity comes first."""
        return _symmetry_group(self._masters["vectors"])

    @property
    def keeps_half_turns(self) -> bool:
        """Whether changes of the signs of coordinates that are rotations map the grid to itself.

        They do for `dihedral`, `icosahedron` and `dodecahedron`, and for `circle` with an even number. Then a
        frame known up to its axes' signs carries the grid to one place.
        """
        return bool(_maps_to_itself(self._masters["vectors"], half_turns(self.dim), 1e-14).all())

    def get_extra_state(self) -> Tensor:
        """Return what the state dict keeps of the grid: its vectors in float64."""
        return self._masters["vectors"].clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Take the vectors of a state dict.

        Args:
            state: What `get_extra_state` returned.

        Raises:
            ValueError: Where its shape is another.
        """
        if state.shape != self.vectors.shape:
            raise ValueError(
                f"the state has vectors {tuple(state.shape)}, expected {tuple(self.vectors.shape)}"
            )
        self._masters["vectors"] = state.detach().to("cpu", torch.float64).clone()
        self.vectors = self._masters["vectors"].to(self.vectors).clone()

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{len(self)}, dim={self.dim}, kind={self.kind!r}"


def half_turns(dim: int) -> Tensor:
    """Return the rotations that change signs of coordinates, float64, `(2 ** (D - 1), D, D)`."""
    signs = [row for row in itertools.product((1.0, -1.0), repeat=dim) if math.prod(row) > 0]
    return torch.tensor(signs, dtype=torch.float64, device="cpu").diag_embed()


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _vectors(n: int, kind: str, seed: int) -> Tensor:
    """Return the vectors of a grid, float64 on the CPU."""
    if kind == "circle":
        angle = torch.arange(n, dtype=torch.float64, device="cpu") * (2 * math.pi / n)
        return torch.stack([angle.cos(), angle.sin()], dim=-1)
    if kind == "fibonacci":
        with torch.device("cpu"):
            return fibonacci_sphere(n)
    if kind in ("icosahedron", "dodecahedron"):
        vertices = _polyhedron(kind)
        if n != len(vertices):
            raise ValueError(f"`n` (={n}) must be {len(vertices)} for kind {kind!r}")
        return vertices
    if kind == "dihedral" and n % 4:
        raise ValueError(f"`n` (={n}) must be a multiple of 4 for kind 'dihedral'")
    images = half_turns(3) if kind == "dihedral" else torch.eye(3, dtype=torch.float64, device="cpu")[None]
    return _equilibrium(n, images, seed)


def _polyhedron(kind: str) -> Tensor:
    """Return the vertices of a regular polyhedron whose axes of order two are those of the coordinates."""
    signs = list(itertools.product((1.0, -1.0), repeat=2))
    if kind == "icosahedron":
        rows = [(0.0, a, b * GOLDEN) for a, b in signs]
        cube: list[tuple[float, ...]] = []
    else:
        rows = [(0.0, a / GOLDEN, b * GOLDEN) for a, b in signs]
        cube = list(itertools.product((1.0, -1.0), repeat=3))
    turned = [row[shift:] + row[:shift] for shift in range(3) for row in rows]
    return normalize(torch.tensor([*turned, *cube], dtype=torch.float64, device="cpu"), dim=-1)


def _equilibrium(n: int, images: Tensor, seed: int) -> Tensor:
    """Return charges in equilibrium, made of the images of some under a few rotations."""
    count = n // len(images)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    with torch.enable_grad():
        free = torch.randn(count, 3, generator=generator, dtype=torch.float64, device="cpu")
        free.requires_grad_()
        descent = torch.optim.LBFGS(
            [free],
            max_iter=DESCENT_STEPS,
            tolerance_grad=1e-12,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def energy() -> Tensor:
            descent.zero_grad()
            loss = _energy(_images(free, images))
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it without types
            return loss

        descent.step(energy)  # type: ignore[no-untyped-call] # likewise
    points = _images(free.detach(), images)
    for _ in range(NEWTON_STEPS if n <= NEWTON_LARGEST else 0):
        # Along soft modes rounding would grow; made of images again, the points keep their symmetry exactly.
        points = _images(_newton_step(points)[:count], images)
    return points


def _images(free: Tensor, images: Tensor) -> Tensor:
    """Return all images of some points under rotations, on the sphere."""
    return (normalize(free, dim=-1) @ images.mT).flatten(0, 1)


def _energy(points: Tensor) -> Tensor:
    """Return the energy of unit charges at points."""
    first, second = torch.triu_indices(len(points), len(points), 1, device="cpu")
    distances: Tensor = torch.linalg.vector_norm(points[first] - points[second], dim=-1)
    return distances.reciprocal().sum()


def _newton_step(x: Tensor) -> Tensor:
    """Take a Newton step on the product of spheres, which descent's line search is too coarse to finish.

    The Hessian's null space, rotations of the whole, is left alone by the pseudoinverse.
    """
    n = len(x)
    gap = x[:, None] - x
    inverse = torch.linalg.vector_norm(gap, dim=-1).fill_diagonal_(math.inf).reciprocal()
    gradient = -(gap * inverse.pow(3)[..., None]).sum(1)
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    pair = 3 * inverse.pow(5)[..., None, None] * gap[..., :, None] * gap[..., None, :]
    pair = pair - inverse.pow(3)[..., None, None] * eye
    blocks = -pair
    blocks[range(n), range(n)] = pair.sum(1) - (x * gradient).sum(-1)[:, None, None] * eye
    tangent = eye - x[:, :, None] * x[:, None, :]
    hessian = torch.einsum("iab,ijbc,jcd->iajd", tangent, blocks, tangent).reshape(3 * n, 3 * n)
    slope = (tangent @ gradient[..., None]).flatten()
    move = torch.linalg.pinv(hessian, rtol=1e-9, hermitian=True) @ slope
    return normalize(x - move.reshape(n, 3), dim=-1)


def _symmetry_group(vectors: Tensor) -> Tensor:
    """Return the rotations that map unit vectors to themselves.

    A rotation is known by the images of two vectors that span a plane, or of one in 2-D, so each pair of
    vectors with their inner product is tried.
    """
    first = vectors[0]
    if vectors.shape[-1] == 2:
        candidates = _planar_frames(vectors) @ _planar_frames(first).mT
    else:
        second = vectors[(vectors @ first).abs().argmin()]
        products = vectors @ vectors.mT
        here, there = ((products - first @ second).abs() < 1e-9).nonzero(as_tuple=True)
        candidates = _frames(vectors[here], vectors[there]) @ _frames(first, second).mT
    found = candidates[_maps_to_itself(vectors, candidates, 1e-8)]
    turn = torch.diagonal(found, dim1=-2, dim2=-1).sum(-1)
    return found[turn.argsort(descending=True, stable=True)]


def _frames(a: Tensor, b: Tensor) -> Tensor:
    """Return rotations whose first column is `a` and whose second lies in the plane of `a` and `b`."""
    across = normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    return torch.stack([a, across, torch.linalg.cross(a, across)], dim=-1)


def _planar_frames(a: Tensor) -> Tensor:
    """Return rotations of the plane whose first column is `a`."""
    return torch.stack([a, torch.stack([-a[..., 1], a[..., 0]], dim=-1)], dim=-1)


def _maps_to_itself(vectors: Tensor, rotations: Tensor, tolerance: float) -> Tensor:
    """Tell which rotations permute unit vectors."""
    turned = vectors @ rotations.mT
    nearest = (turned @ vectors.mT).argmax(-1)
    return (turned - vectors[nearest]).abs().amax((-2, -1)) < tolerance
