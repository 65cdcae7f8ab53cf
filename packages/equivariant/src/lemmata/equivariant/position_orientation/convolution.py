r"""Convolutions over positions and orientations, whose kernels are functions of invariant attributes.

On a grid of orientations at each point, `FiberBundleConv` works in two steps, each with a kernel for every
channel,

$$g_i(o) = \sum_{j \to i} k_1(a_1, a_2)\, f_j(o), \qquad
h_i(o) = \frac 1 O \sum_{o'} k_2(o \cdot o')\, g_i(o'),$$

and a block's perceptron mixes the channels. `PointCloudConv` is for points with one free orientation each.
Kernels are linear in basis functions that are evaluated once for a graph and shared by all layers. Edges can
be worked off in chunks, so that memory beyond the basis does not grow with their number.

References:
    E. J. Bekkers, S. Vadgama, R. D. Hesselink, P. A. van der Linden, D. W. Romero, Fast, Expressive SE(n)
    Equivariant Networks through Weight-Sharing in Position-Orientation Space, ICLR 2024, arXiv:2310.02970.

Axis letters used below: `N` points, `O` orientations, `E` edges, `B` basis functions, `C` channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from lemmata.equivariant.position_orientation.kernel_sum import kernel_sum

__all__ = ["ConvNextBlock", "FiberBundleConv", "PointCloudConv"]


class KernelConv(MessagePassing):  # type: ignore[misc] # torch-geometric's class has no types here
    """Sum over neighbours of features times a kernel for each channel.

    Args:
        edge_chunk: Edges worked off at once; chosen to fit a cache where None.

    Raises:
        ValueError: Where `edge_chunk` is below 1.
    """

    kernel: nn.Linear
    calibrated: Tensor

    def __init__(self, edge_chunk: int | None = None, *, device: torch.device | str | None = None) -> None:
        super().__init__(aggr="add", node_dim=0)
        if edge_chunk is not None and edge_chunk < 1:
            raise ValueError(f"`edge_chunk` (={edge_chunk}) must be at least 1")
        self.edge_chunk = edge_chunk
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool, device=device))

    def gather(self, x: Tensor, edge_index: Tensor, basis: Tensor) -> Tensor:
        """Return the sums over neighbours.

        Args:
            x: Features.
            edge_index: Senders and receivers.
            basis: Of the kernels.
        """
        # A compiler fuses messages itself, and explainers want to see them.
        if self.explain or torch.compiler.is_compiling():
            found: Tensor = self.propagate(edge_index, x=x, basis=basis, size=(len(x), len(x)))
            return found
        return self.message_and_aggregate(edge_index, x, basis)

    def message(self, x_j: Tensor, basis: Tensor) -> Tensor:
        """Return the senders' features times their kernels.

        Args:
            x_j: Of the senders.
            basis: Of the kernels.
        """
        kernel: Tensor = self.kernel(basis)
        return x_j * kernel

    def message_and_aggregate(self, edge_index: Tensor, x: Tensor, basis: Tensor) -> Tensor:
        """Return the sums of the messages, which are not kept.

        Args:
            edge_index: Senders and receivers.
            x: Features.
            basis: Of the kernels.
        """
        return kernel_sum(x, basis, self.kernel.weight, edge_index, chunk=self.edge_chunk)

    def _rescale(self, weight: Tensor, before: Tensor, after: Tensor) -> None:
        """Scale a kernel so that its output is spread as its input; leave it where either is constant."""
        ratio = before.std() / after.std()
        weight.mul_(torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0))


class FiberBundleConv(KernelConv):
    r"""Convolve functions on a grid of orientations at each point, in space and over orientations.

    `separable=False` has one kernel $k(a_1, a_2, o \cdot o')$ for both steps,
    $h_i(o) = \frac 1 O \sum_{j, o'} k f_j(o')$, at `O` times the cost: for comparison.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output; equal to those of the input where depthwise.
        basis_dim: Functions in each basis.
        depthwise: A kernel for each channel. Else the step over orientations also mixes channels.
        separable: Two steps.
        edge_chunk: Edges worked off at once; chosen to fit a cache where None.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: Where channels differ though depthwise, not depthwise though not separable, a size is
            below 1.

    Examples:
        >>> conv = FiberBundleConv(8, 8, basis_dim=5)
        >>> x, edge_index = torch.randn(4, 12, 8), torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> conv(x, edge_index, torch.randn(3, 12, 5), torch.randn(12, 12, 5)).shape
        torch.Size([4, 12, 8])
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        basis_dim: int,
        depthwise: bool = True,
        separable: bool = True,
        *,
        edge_chunk: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(edge_chunk, device=device)
        _check_sizes(channels_in=channels_in, channels_out=channels_out, basis_dim=basis_dim)
        if depthwise and channels_in != channels_out:
            raise ValueError(
                f"`channels_out` (={channels_out}) must equal `channels_in` (={channels_in}) depthwise"
            )
        if not (depthwise or separable):
            raise ValueError("`depthwise` (=False) needs `separable` (=True)")
        self.channels_in = channels_in
        self.channels_out = channels_out
        self.depthwise = depthwise
        self.separable = separable
        options: dict[str, Any] = {"bias": False, "dtype": dtype, "device": device}
        self.kernel = nn.Linear(basis_dim, channels_in, **options)
        if separable:
            fiber_channels = channels_out if depthwise else channels_in * channels_out
            self.fiber_kernel = nn.Linear(basis_dim, fiber_channels, **options)

    def forward(
        self,
        x: Float[Tensor, "N O C"],
        edge_index: Int[Tensor, "2 E"],
        basis: Float[Tensor, "E O *O B"],
        fiber_basis: Float[Tensor, "O O B"] | None = None,
    ) -> Float[Tensor, "N O C_out"]:
        r"""Return the convolution.

        Args:
            x: Features.
            edge_index: Senders and receivers.
            basis: Of the spatial kernel, for the orientations at the receiver; not separable, of the whole,
                for the orientations at the receiver and at the sender.
            fiber_basis: Of the kernel over orientations, for $o$ and $o'$; None where not separable.
        """
        gathered = self.gather(x, edge_index, basis)
        return gathered if fiber_basis is None else self._over_orientations(gathered, fiber_basis)

    def gather(self, x: Tensor, edge_index: Tensor, basis: Tensor) -> Tensor:
        """Return the sums over neighbours.

        Args:
            x: Features.
            edge_index: Senders and receivers.
            basis: Of the kernels.
        """
        if self.separable:
            return super().gather(x, edge_index, basis)
        found: Tensor = self.propagate(edge_index, x=x, basis=basis, size=(len(x), len(x)))
        return found

    def message(self, x_j: Tensor, basis: Tensor) -> Tensor:
        """Return the senders' features times their kernels.

        Args:
            x_j: Of the senders.
            basis: Of the kernels.
        """
        if self.separable:
            return super().message(x_j, basis)
        kernel: Tensor = self.kernel(basis)
        return torch.einsum("eopc,epc->eoc", kernel, x_j) / x_j.shape[1]

    def _over_orientations(self, x: Tensor, fiber_basis: Tensor) -> Tensor:
        """Return the step over orientations."""
        orientations = x.shape[1]
        kernel_OOC = self.fiber_kernel(fiber_basis) / orientations
        if self.depthwise:
            return torch.einsum("opc,npc->noc", kernel_OOC, x)
        kernel = kernel_OOC.reshape(orientations, orientations, self.channels_out, self.channels_in)
        return torch.einsum("opdc,npc->nod", kernel, x)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, edge_index: Tensor, basis: Tensor, fiber_basis: Tensor | None = None
    ) -> None:
        """Scale the kernels so that each step's output is spread as its input; once, as `calibrated` tells.

        Args:
            x: As `forward`.
            edge_index: As `forward`.
            basis: As `forward`.
            fiber_basis: As `forward`.
        """
        if self.calibrated:
            return
        self._rescale(self.kernel.weight, x, self.gather(x, edge_index, basis))
        if fiber_basis is not None:
            gathered = self.gather(x, edge_index, basis)
            self._rescale(self.fiber_kernel.weight, gathered, self._over_orientations(gathered, fiber_basis))
        self.calibrated.fill_(True)

    def __repr__(self) -> str:
        """Return the sizes."""
        kinds = f"depthwise={self.depthwise}, separable={self.separable}"
        return f"FiberBundleConv({self.channels_in}, {self.channels_out}, {kinds})"


class PointCloudConv(KernelConv):
    r"""Convolve features of points that have one orientation each, $h_i = \sum_{j \to i} k(a_{ij})\, f_j$.

    The orientations turn with the cloud, hence the convolution is exactly invariant to motions, whatever
    they are; `edges_to_points` takes them from edges, for example.

    Args:
        channels: Of the features; each has a kernel.
        basis_dim: Functions in the basis.
        edge_chunk: Edges worked off at once; chosen to fit a cache where None.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: Where a size is below 1.

    Examples:
        >>> conv = PointCloudConv(8, basis_dim=5)
        >>> conv(torch.randn(4, 8), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.randn(3, 5)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        channels: int,
        basis_dim: int,
        *,
        edge_chunk: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(edge_chunk, device=device)
        _check_sizes(channels=channels, basis_dim=basis_dim)
        self.channels = channels
        self.kernel = nn.Linear(basis_dim, channels, bias=False, dtype=dtype, device=device)

    def forward(
        self, x: Float[Tensor, "N C"], edge_index: Int[Tensor, "2 E"], basis: Float[Tensor, "E B"]
    ) -> Float[Tensor, "N C"]:
        """Return the convolution.

        Args:
            x: Features.
            edge_index: Senders and receivers.
            basis: Functions of the attributes of each pair.
        """
        return self.gather(x, edge_index, basis)

    @torch.no_grad()
    def calibrate(self, x: Tensor, edge_index: Tensor, basis: Tensor) -> None:
        """Scale the kernel so that the output is spread as the input; once, as `calibrated` tells.

        Args:
            x: As `forward`.
            edge_index: As `forward`.
            basis: As `forward`.
        """
        if self.calibrated:
            return
        self._rescale(self.kernel.weight, x, self.gather(x, edge_index, basis))
        self.calibrated.fill_(True)

    def __repr__(self) -> str:
        """Return the sizes."""
        return f"PointCloudConv({self.channels})"


class ConvNextBlock(nn.Module):
    """A convolution, then layer norm and a two-layer perceptron, added to the input.

    Args:
        channels: Of the features.
        conv: Called with the features and whatever else `forward` is given.
        widening: The perceptron's inner width over `channels`.
        layer_scale: Each channel of what is added starts with this factor, and learns it. Deep networks train
            more stably from 1e-6; runs of less than ten thousand steps hardly leave it, hence none where
            None.
        dtype: Of the weights.
        device: Of the weights.

    Raises:
        ValueError: Where `channels` or `widening` is below 1.

    Examples:
        >>> block = ConvNextBlock(8, PointCloudConv(8, basis_dim=5))
        >>> block(torch.randn(4, 8), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.randn(3, 5)).shape
        torch.Size([4, 8])

    References:
        Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie, A ConvNet for the 2020s, CVPR 2022,
        arXiv:2201.03545.
    """

    def __init__(
        self,
        channels: int,
        conv: Callable[..., Tensor],
        widening: int = 4,
        layer_scale: float | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(channels=channels, widening=widening)
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.conv = conv
        self.norm = nn.LayerNorm(channels, **options)
        self.widen = nn.Linear(channels, widening * channels, **options)
        self.narrow = nn.Linear(widening * channels, channels, **options)
        self.scale = (
            None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale, **options))
        )

    def forward(self, x: Float[Tensor, "*points C"], *args: Tensor | None) -> Float[Tensor, "*points C"]:
        """Return the features plus what the block makes of them.

        Args:
            x: Features.
            args: What the convolution takes besides: edges and bases.
        """
        added: Tensor = self.narrow(nn.functional.gelu(self.widen(self.norm(self.conv(x, *args)))))
        return x + added if self.scale is None else x + added * self.scale


def _check_sizes(**sizes: int) -> None:
    """Raise where a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` (={size}) must be at least 1")
