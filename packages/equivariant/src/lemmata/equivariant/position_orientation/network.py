r"""A convolutional network on point clouds that is equivariant to motions by invariant attributes alone.

Each point holds functions on a grid of orientations. Scalars enter as constant functions and vectors $v$ as
$v \cdot o$; blocks convolve over positions and orientations; scalars leave as means and vectors as
$\frac 1 O \sum_o f(o)\, o$, both averaged over a readout after every layer. It handles directions at the
cost of a convolution, without tensor products.

On a fixed grid it is equivariant up to an error that falls with the number of orientations: train with random
rotations, or turn the grid at random (`frame="random"`). `frame="data"` carries the grid along with the
cloud's principal axes, and is exact.

References:
    E. J. Bekkers, S. Vadgama, R. D. Hesselink, P. A. van der Linden, D. W. Romero, Fast, Expressive SE(n)
    Equivariant Networks through Weight-Sharing in Position-Orientation Space, ICLR 2024, arXiv:2310.02970.

Axis letters used below: `N` points, `E` edges, `G` graphs, `F` frames, `O` orientations, `D` dimension of
space, `S` and `V` channels of scalars and vectors, `H` hidden channels, `B` basis functions.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lemmata.equivariant.frames.pca import pca_frames
from lemmata.equivariant.nn.radial import PolynomialCutoff
from lemmata.equivariant.position_orientation.attributes import (
    KernelBasis,
    fiber_attributes,
    spatial_attributes,
)
from lemmata.equivariant.position_orientation.convolution import ConvNextBlock, FiberBundleConv
from lemmata.equivariant.position_orientation.grids import OrientationGrid
from lemmata.equivariant.position_orientation.lifting import (
    scalars_to_sphere,
    sphere_to_scalars,
    sphere_to_vectors,
    vectors_to_sphere,
)
from lemmata.equivariant.position_orientation.views import View, leave_view, random_rotations, view_from

__all__ = ["PositionOrientationNet"]


class PositionOrientationNet(nn.Module):
    r"""Map scalars and vectors at points to scalars and vectors, at points or for whole graphs.

    `forward` takes a graph's edges or edge vectors, so periodic images and cut-off neighbourhoods are the
    caller's choice; a fully connected graph with self-loops suits a few bodies. Gradients of any order
    with respect to positions exist, also for edges of no length and along orientations.

    Args:
        in_scalars: Scalars at each point.
        in_vectors: Vectors at each point.
        hidden: Channels of the functions on the grid.
        out_scalars: Scalars to return.
        out_vectors: Vectors to return.
        layers: Number of blocks.
        n_orientations: Size of the grid.
        dim: Dimension of space, 2 or 3.
        degree: Of the polynomials of the attributes.
        basis_dim: Functions in the kernels' bases; `hidden` where None.
        cutoff: Kernels go to zero smoothly at this distance, in the unit of the positions; no edge fades
            where None.
        readout: `"node"`, or `"graph"`: sums over the points of each graph.
        frame: Where the grid stands. `"fixed"`: as it is. `"random"`: while training, turned at random for
            each graph and call; as it is in evaluation. `"data"`: carried by principal axes, which makes the
            network exactly equivariant but for clouds without distinct axes, where it jumps. Principal axes
            have no signs: the grid is by default one that half turns leave alone; with another kind the
            network averages over all signs, at 4 times the cost (2 in the plane).
        grid: Kind of the grid, as `OrientationGrid` says. Where None `repulsion`, and for `frame="data"`
            `dihedral` where `n_orientations` is a multiple of 4.
        length: The distance of near neighbours, in whose unit lengths enter the attributes. Much too large
            a unit flattens the kernels, and training starts with a plateau.
        widening: Of the blocks' perceptrons.
        layer_scale: Of the blocks; 1e-6 for deep networks and long runs.
        edge_chunk: Edges worked off at once, to bound memory; where None, as many as fit a cache, and all at
            once for the basis.
        recompute: Do not keep what leads to the kernels' basis for the backward pass, which evaluates it
            again. Kernels are never kept.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: Where a size is below its least, a word unknown, or nothing goes in or comes out.

    Examples:
        >>> net = PositionOrientationNet(1, 1, 16, 2, 1, layers=2, n_orientations=12, frame="data")
        >>> pos, edge_index = torch.randn(5, 3), torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
        >>> charge, velocity = torch.randn(5, 1), torch.randn(5, 1, 3)
        >>> scalars, vectors = net(charge, velocity, pos, edge_index)
        >>> scalars.shape, vectors.shape
        (torch.Size([5, 2]), torch.Size([5, 1, 3]))
        >>> turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        >>> turned = net(charge, velocity @ turn.T, pos @ turn.T + 1, edge_index)
        >>> torch.allclose(turned[1], vectors @ turn.T, atol=1e-5)
        True
    """

    def __init__(
        self,
        in_scalars: int,
        in_vectors: int,
        hidden: int,
        out_scalars: int,
        out_vectors: int,
        layers: int,
        n_orientations: int = 20,
        dim: int = 3,
        degree: int = 3,
        basis_dim: int | None = None,
        cutoff: float | None = None,
        readout: str = "node",
        frame: str = "fixed",
        *,
        grid: str | None = None,
        length: float = 1.0,
        widening: int = 4,
        layer_scale: float | None = None,
        edge_chunk: int | None = None,
        recompute: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        basis_dim = hidden if basis_dim is None else basis_dim
        _check_sizes(1, hidden=hidden, layers=layers, basis_dim=basis_dim)
        _check_sizes(
            0, in_scalars=in_scalars, in_vectors=in_vectors, out_scalars=out_scalars, out_vectors=out_vectors
        )
        for name in ("in", "out"):
            if not (in_scalars + in_vectors if name == "in" else out_scalars + out_vectors):
                raise ValueError(f"`{name}_scalars` and `{name}_vectors` (=0) must not both be 0")
        if not 0 < length < math.inf:
            raise ValueError(f"`length` (={length}) must lie in (0, inf)")
        if readout not in ("node", "graph"):
            raise ValueError(f"`readout` (={readout!r}) must be 'node' or 'graph'")
        if frame not in ("fixed", "random", "data"):
            raise ValueError(f"`frame` (={frame!r}) must be 'fixed', 'random' or 'data'")
        self.in_scalars, self.in_vectors = in_scalars, in_vectors
        self.out_scalars, self.out_vectors = out_scalars, out_vectors
        self.hidden, self.dim, self.readout, self.frame = hidden, dim, readout, frame
        self.length, self.edge_chunk, self.recompute = length, edge_chunk, recompute
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        if grid is None and frame == "data" and dim == 3 and n_orientations % 4 == 0:
            grid = "dihedral"
        self.grid = OrientationGrid(n_orientations, dim, grid, **options)
        self._signs_matter = frame == "data" and not self.grid.keeps_half_turns
        self.cutoff = None if cutoff is None else PolynomialCutoff(cutoff)
        self.spatial_basis = KernelBasis(2, basis_dim, degree=degree, **options)
        self.fiber_basis = KernelBasis(dim if dim == 2 else 1, basis_dim, degree=degree, **options)
        self.embed = nn.Linear(in_scalars + in_vectors, hidden, bias=False, **options)
        self.blocks = nn.ModuleList(
            ConvNextBlock(
                hidden,
                FiberBundleConv(hidden, hidden, basis_dim, edge_chunk=edge_chunk, **options),
                widening,
                layer_scale,
                **options,
            )
            for _ in range(layers)
        )
        self.to_scalars = _readouts(layers, hidden, out_scalars, bias=True, **options)
        self.to_vectors = _readouts(layers, hidden, out_vectors, bias=False, **options)

    @property
    def calibrated(self) -> bool:
        """Whether all convolutions have been calibrated."""
        return all(bool(conv.calibrated) for conv in self._convolutions())

    def forward(
        self,
        scalars: Tensor | None,
        vectors: Tensor | None,
        pos: Tensor,
        edge_index: Tensor,
        batch: Tensor | None = None,
        *,
        edge_vec: Tensor | None = None,
        num_graphs: int | None = None,
        rotation: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return scalars and vectors.

        Args:
            scalars: Shape `(N, S)`; None where `in_scalars` is 0.
            vectors: Shape `(N, V, D)`; None where `in_vectors` is 0.
            pos: Positions, shape `(N, D)`. With `edge_vec` only `frame="data"` looks at them.
            edge_index: Senders j and receivers i, shape `(2, E)`.
            batch: The graph of each point, shape `(N,)`; all in one where None.
            edge_vec: `pos[j] - pos[i]`, shape `(E, D)`, plus the shift of a periodic image; computed where
                None.
            num_graphs: Number of graphs, which else is read from `batch`: give it where that is to be
                compiled or lies on an accelerator.
            rotation: Where the grid stands in each graph, shape `(G, D, D)`, instead of what `frame` says.
            generator: Source of the random numbers of `frame="random"`.

        Returns:
            Scalars `(N, out_scalars)` and vectors `(N, out_vectors, D)`, or `G` of each for whole graphs.

        Raises:
            ValueError: Where a tensor is missing or its shape does not fit.
        """
        scalars, vectors = self._check_inputs(scalars, vectors, pos, edge_index)
        if edge_vec is None:
            edge_vec = pos[edge_index[0]] - pos[edge_index[1]]
        graphs = self._count_graphs(batch, num_graphs)
        frames = self._frames(pos, batch, graphs, generator) if rotation is None else rotation[:, None]
        view = view_from(frames, scalars, vectors, edge_index, edge_vec, batch)
        scalars, vectors = leave_view(view, *self._in_view(view))
        if self.readout == "node":
            return scalars, vectors
        return _sum_graphs(scalars, batch, graphs), _sum_graphs(vectors, batch, graphs)

    def calibrate(self, *args: Any, **kwargs: Any) -> None:
        """Scale each convolution's kernels on a first batch, so that depth neither damps nor amplifies.

        To be called once before training, with what `forward` takes. A network that was calibrated, also one
        loaded from a state dict, is left alone.

        Args:
            args: As `forward`.
            kwargs: As `forward`.
        """
        # Each convolution is calibrated as the batch reaches it, behind others that are calibrated already.
        hooks = [
            conv.register_forward_pre_hook(lambda conv, inputs: conv.calibrate(*inputs))
            for conv in self._convolutions()
        ]
        try:
            with torch.no_grad():
                self(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _convolutions(self) -> list[FiberBundleConv]:
        """Return the blocks' convolutions."""
        return [module for module in self.blocks.modules() if isinstance(module, FiberBundleConv)]

    def _check_inputs(
        self, scalars: Tensor | None, vectors: Tensor | None, pos: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return scalars and vectors, empty where there are none, of the right shapes."""
        points = len(pos)
        scalars = pos.new_zeros(points, 0) if scalars is None else scalars
        vectors = pos.new_zeros(points, 0, self.dim) if vectors is None else vectors
        shapes = {
            "scalars": (scalars, (points, self.in_scalars)),
            "vectors": (vectors, (points, self.in_vectors, self.dim)),
            "pos": (pos, (points, self.dim)),
            "edge_index": (edge_index, (2, edge_index.shape[-1])),
        }
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"`{name}` has shape {tuple(tensor.shape)}, expected {shape}")
        return scalars, vectors

    def _count_graphs(self, batch: Tensor | None, given: int | None) -> int:
        """Return the number of graphs, read from the batch only where it is needed and not given."""
        if batch is None:
            return 1
        if given is not None:
            return given
        needed = self.readout == "graph" or self.frame == "data" or (self.frame == "random" and self.training)
        return int(batch.max()) + 1 if needed and len(batch) else 0

    def _frames(
        self, pos: Tensor, batch: Tensor | None, graphs: int, generator: torch.Generator | None
    ) -> Tensor | None:
        """Return the frames of each graph, `(G, F, D, D)`; None for the axes of space."""
        if self.frame == "data":
            index = pos.new_zeros(len(pos), dtype=torch.long) if batch is None else batch
            rotation = pca_frames(pos, batch=index, num_clouds=graphs).rotation
            return rotation if self._signs_matter else rotation[:, :1]
        if self.frame == "random" and self.training:
            return random_rotations(graphs, self.dim, pos, generator)[:, None]
        return None

    def _in_view(self, view: View) -> tuple[Tensor, Tensor]:
        """Return scalars and vectors at the points of a graph, in the coordinates of its view."""
        orientations = self.grid.vectors
        scalars, vectors = view.inputs
        features_NOC = torch.cat(
            [scalars_to_sphere(scalars, orientations), vectors_to_sphere(vectors, orientations)], dim=-1
        )
        x_NOH = self.embed(features_NOC)
        basis = self._edge_basis(view.edge_vec)
        fiber_basis = self.fiber_basis(fiber_attributes(orientations))
        means, moments = [], []
        for block in self.blocks:
            x_NOH = block(x_NOH, view.edge_index, basis, fiber_basis)
            means.append(sphere_to_scalars(x_NOH))
            moments.append(sphere_to_vectors(x_NOH, orientations).mT)
        out_scalars = _read(self.to_scalars, means, self.out_scalars)
        return out_scalars, _read(self.to_vectors, moments, self.out_vectors).mT

    def _edge_basis(self, edge_vec: Tensor) -> Tensor:
        """Return the spatial kernels' basis, `(E, O, B)`, by chunks of edges."""
        size = len(edge_vec) if self.edge_chunk is None else self.edge_chunk
        parts = []
        for chunk in torch.split(edge_vec, max(1, size)):
            if self.recompute and torch.is_grad_enabled():
                parts.append(checkpoint(self._basis_of, chunk, use_reentrant=False))
            else:
                parts.append(self._basis_of(chunk))
        return torch.cat(parts)

    def _basis_of(self, edge_vec: Tensor) -> Tensor:
        """Return the spatial kernels' basis for some edges."""
        basis: Tensor = self.spatial_basis(spatial_attributes(edge_vec / self.length, self.grid.vectors))
        if self.cutoff is None:
            return basis
        # The square keeps the distance's derivatives finite at zero.
        distance = (edge_vec.square().sum(-1) + 1e-20).sqrt()
        envelope: Tensor = self.cutoff(distance)
        return basis * envelope[:, None, None]


def _readouts(layers: int, inputs: int, outputs: int, **options: Any) -> nn.ModuleList:
    """Return a readout for each layer, none where there is nothing to read."""
    return nn.ModuleList(nn.Linear(inputs, outputs, **options) for _ in range(layers if outputs else 0))


def _read(readouts: nn.ModuleList, features: list[Tensor], outputs: int) -> Tensor:
    """Return the mean of the layers' readouts, `(..., outputs)`."""
    if not outputs:
        return features[0][..., :0]
    read = [readout(feature) for readout, feature in zip(readouts, features, strict=True)]
    return torch.stack(read).mean(0)


def _sum_graphs(x: Tensor, batch: Tensor | None, num_graphs: int) -> Tensor:
    """Return sums over the points of each graph."""
    if batch is None:
        return x.sum(0, keepdim=True)
    return x.new_zeros(num_graphs, *x.shape[1:]).index_add(0, batch, x)


def _check_sizes(least: int, **sizes: int) -> None:
    """Raise where a size is below its least."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"`{name}` (={size}) must be at least {least}")
