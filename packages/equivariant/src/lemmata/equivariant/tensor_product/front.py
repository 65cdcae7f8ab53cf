"""One front over every product."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from lemmata.equivariant.o3.irreps import Irrep, Irreps
from lemmata.equivariant.tensor_product.blocks import FeatureLayout
from lemmata.equivariant.tensor_product.dense import DenseProduct
from lemmata.equivariant.tensor_product.sparse import SparseProduct
from lemmata.equivariant.tensor_product.paths import (
    IrrepNormalization,
    PathNormalization,
    channelwise_paths,
    full_paths,
    fully_connected_paths,
)

__all__ = ["Kind", "Method", "TensorProduct"]

Kind = Literal["full", "channelwise", "fully_connected", "complete"]
Method = Literal["auto", "dense", "sparse", "grid", "fourier", "matrix", "vector_signal"]


class TensorProduct(nn.Module):
    """The equivariant product of two features."""

    def __init__(
        self,
        irreps1: Irreps | str,
        irreps2: Irreps | str,
        irreps_out: Irreps | str | None = None,
        *,
        kind: Kind = "full",
        method: Method = "auto",
        keep: Iterable[Irrep | str] | None = None,
        layout: FeatureLayout = "mul_ir",
        internal_weights: bool | None = None,
        shared_weights: bool | None = None,
        degree_rank: int | None = None,
        irrep_normalization: IrrepNormalization = "component",
        path_normalization: PathNormalization = "element",
        batch: int = 256,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        del batch, degree_rank
        normalizations = {
            "irrep_normalization": irrep_normalization,
            "path_normalization": path_normalization,
        }
        if kind == "fully_connected":
            table = fully_connected_paths(irreps1, irreps2, irreps_out or "", **normalizations)  # type: ignore[arg-type]
        elif kind == "channelwise":
            table = channelwise_paths(irreps1, irreps2, irreps_out, keep=keep, **normalizations)  # type: ignore[arg-type]
        else:
            table = full_paths(irreps1, irreps2, keep=keep, irrep_normalization=irrep_normalization)
        self.table = table
        self.kind = kind
        self.method = "dense" if method == "auto" else method
        self.layout = layout
        self.irreps1, self.irreps2, self.irreps_out = table.irreps1, table.irreps2, table.irreps_out
        self.weight_numel = table.weight_numel
        self.shared_weights = shared_weights is not False
        internal = self.shared_weights if internal_weights is None else internal_weights
        self.product = (SparseProduct if self.method == "sparse" else DenseProduct)(
            table, layout=layout, dtype=dtype, device=device
        )
        self.weight: nn.Parameter | None = None
        if internal and self.weight_numel:
            self.weight = nn.Parameter(
                torch.randn(self.weight_numel, generator=generator, dtype=dtype, device=device)
            )

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the product."""
        given = weight if weight is not None else self.weight
        if given is None:
            given = x.new_empty(0)
        batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1], given.shape[:-1])
        n = batch.numel()
        x_ = x.expand(*batch, x.shape[-1]).reshape(n, x.shape[-1])
        y_ = y.expand(*batch, y.shape[-1]).reshape(n, y.shape[-1])
        if given.ndim > 1:
            given = given.expand(*batch, given.shape[-1]).reshape(n, given.shape[-1])
        return self.product(x_, y_, given).reshape(*batch, self.irreps_out.dim)

    def messages(
        self, x: Tensor, y: Tensor, weight: Tensor | None, edge_index: Tensor, *, size: int | None = None
    ) -> Tensor:
        """Return the sums over the edges of each target."""
        given = weight if weight is not None else self.weight
        assert given is not None
        return self.product.messages(x, y, given, edge_index[0], edge_index[1], size or x.shape[0])
