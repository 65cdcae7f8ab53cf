r"""One front over every equivariant product: which map is wanted, and which method computes it fastest.

`kind` names the map, `method` the way to compute it.

- `fully_connected`: every path with a matrix of weights that mixes all copies,
  $z_w = \sum_{uv} W_{uvw}\, w(x_u, y_v)$. The most expressive; equal to e3nn's, weights included.
- `channelwise`: every path with a weight for each copy, $z_u = W_u\, w(x_u, y_u)$ or $W_u\, w(x_u, y)$. The
  product of message passing, with weights for each edge.
- `full`: every path and every pair of copies, without weights, each with an entry of its own.
- `complete`: channel by channel, every coupling that parities allow with a strength that nobody chooses, that
  of functions on the sphere, summed to one entry for each irrep. This is what a model wants that mixes
  channels by linear layers before and after anyway, and asks for the fastest product that reaches every
  coupling.
  `degree_rank=R` makes it learn strengths by degree in `R` terms.

`dense` and `sparse` compute every kind, `grid` (and `fourier`, for even sums of degrees) computes `complete`.
`auto` takes what `predicted_costs` finds fastest among the methods that compute the same map; the attribute
`method` tells which.

References:
    Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime
    Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523.
"""

from collections.abc import Iterable
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from lemmata.equivariant.o3.irreps import Irrep, Irreps
from lemmata.equivariant.tensor_product.blocks import FeatureLayout
from lemmata.equivariant.tensor_product.cost import RATES, Counts, mixture_counts, path_counts
from lemmata.equivariant.tensor_product.dense import DenseProduct
from lemmata.equivariant.tensor_product.mixture import MixtureMethod, MixtureProduct, dense_features
from lemmata.equivariant.tensor_product.paths import (
    IrrepNormalization,
    PathNormalization,
    path_table,
)
from lemmata.equivariant.tensor_product.sparse import SparseProduct

__all__ = ["Kind", "Method", "TensorProduct"]

Kind = Literal["full", "channelwise", "fully_connected", "complete"]
Method = Literal["auto", "dense", "sparse", "grid", "fourier", "matrix", "vector_signal"]


class TensorProduct(nn.Module):
    r"""Multiplies two features equivariantly, on e3nn's flat layout.

    Args:
        irreps1: Of the first input.
        irreps2: Of the second input. For `channelwise` and `complete` one copy of each irrep, or as many as
            the first input has.
        irreps_out: Of the output. None for `channelwise` and `full` gives every path an entry of its own,
            sorted by irrep: the attribute `irreps_out` tells the result. Paths to the same entry are summed.
        kind: Which map: see the module's description.
        method: How to compute it. Each kind takes `auto`, `dense` and `sparse`; `complete` also `grid`,
            `fourier` (where all sums of degrees are even), `vector_signal` (where all are odd: the bracket)
            and `matrix` (another map, with the strengths of matrix products; `auto` never chooses it).
        keep: The irreps of the output where `irreps_out` is None; all where None.
        layout: How each entry is stored: copies first (`"mul_ir"`, e3nn's), or components first (`"ir_mul"`),
            which saves two transpositions in channelwise products of many edges.
        internal_weights: Whether the module holds its weights; by default where they are shared.
        shared_weights: Whether one set of weights serves all samples; False where `forward` gets weights of
            each, such as each edge.
        degree_rank: For `complete`, and for `channelwise` by the methods `grid` and `fourier`: number of
            terms with weights by degree. None for no weights.
        irrep_normalization: `"component"` (variance 1 of components in gives variance 1 out), `"norm"` or
            `"none"`; as e3nn. Not for `complete`, which has the first.
        path_normalization: `"element"`, `"path"` or `"none"`; as e3nn. Not for `complete`.
        batch: Number of samples that `auto` counts with.
        generator: Source of the initial weights, standard normal; ones by degree where `degree_rank` is 1.
        dtype: Of weights and constants; torch's default where None.
        device: Of weights and constants. `auto` takes `dense` on anything but a CPU.

    Raises:
        ValueError: Where a name is unknown, the irreps do not fit the kind, or the method does not compute
            the kind's map.

    Examples:
        >>> product = TensorProduct("8x0e + 8x1o", "8x0e + 8x1o", "8x0e + 8x1o", kind="fully_connected")
        >>> product.weight_numel, product(torch.randn(5, 32), torch.randn(5, 32)).shape
        (2048, torch.Size([5, 32]))
        >>> edges = TensorProduct("8x0e + 8x1o", "0e + 1o", kind="channelwise", shared_weights=False)
        >>> edges.irreps_out, edges.weight_numel
        (8x0e+8x0e+8x1o+8x1o+8x1e+8x2e, 48)
        >>> edges(torch.randn(100, 32), torch.randn(100, 4), torch.randn(100, 48)).shape
        torch.Size([100, 128])
    """

    weight: nn.Parameter | None

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
        for name, value, values in (
            ("kind", kind, Kind),
            ("method", method, Method),
            ("layout", layout, FeatureLayout),
        ):
            if value not in get_args(values):
                raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(get_args(values))}")
        self.kind = kind
        self.layout = layout
        self.method: Method
        kept = None if keep is None else list(keep)
        self.product: DenseProduct | MixtureProduct
        if kind == "complete" or method in ("grid", "fourier", "matrix", "vector_signal"):
            irreps = _mixture_irreps(irreps1, irreps2, irreps_out, kind, method, kept, degree_rank)
            counts = mixture_counts(*irreps, rank=degree_rank, batch=batch)
            self.method = _fastest(counts, device) if method == "auto" else method
            self.product = MixtureProduct(
                *irreps,
                method=cast("MixtureMethod", self.method),
                rank=degree_rank,
                layout=layout,
                dtype=dtype,
                device=device,
            )
        else:
            if degree_rank is not None:
                raise ValueError(
                    f"`degree_rank` (={degree_rank}) is for products of fixed strengths, `kind='complete'`: "
                    f"`kind` (={kind!r}) by `method` (={method!r}) has weights on all paths"
                )
            table = path_table(
                irreps1,
                irreps2,
                irreps_out,
                kind=kind,
                keep=kept,
                irrep_normalization=irrep_normalization,
                path_normalization=path_normalization,
            )
            self.method = _fastest(path_counts(table, batch=batch), device) if method == "auto" else method
            product = SparseProduct if self.method == "sparse" else DenseProduct
            self.product = product(table, layout=layout, dtype=dtype, device=device)
        self.irreps1: Irreps = self.product.irreps1
        self.irreps2: Irreps = self.product.irreps2
        self.irreps_out: Irreps = self.product.irreps_out
        self.weight_numel: int = self.product.weight_numel
        self.degree_rank = degree_rank
        self.shared_weights = shared_weights is not False
        internal = self.shared_weights if internal_weights is None else internal_weights
        if internal and not self.shared_weights:
            raise ValueError("`internal_weights` (=True) needs `shared_weights`: a module knows no samples")
        self.internal_weights = internal and self.weight_numel > 0
        self.register_parameter("weight", None)
        if self.internal_weights:
            initial = torch.empty(self.weight_numel, dtype=dtype, device=device)
            self.weight = nn.Parameter(initial)
            self.reset_parameters(generator=generator)

    def reset_parameters(self, *, generator: torch.Generator | None = None) -> None:
        """Draw the module's weights anew: standard normal, or ones for one term of weights by degree.

        Args:
            generator: Source of the random numbers.
        """
        if self.weight is None:
            return
        if self.degree_rank == 1:
            nn.init.ones_(self.weight)
        else:
            nn.init.normal_(self.weight, generator=generator)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the product.

        Args:
            x: First input, shape `(..., irreps1.dim)`.
            y: Second input, shape `(..., irreps2.dim)`; leading axes broadcast.
            weight: Weights in place of the module's own: `(weight_numel,)` for all samples, or
                `(..., weight_numel)` for each.

        Returns:
            Shape `(..., irreps_out.dim)`.

        Raises:
            ValueError: Where a last dimension does not fit, or weights are missing or superfluous.
        """
        self.irreps1.check(x, "x")
        self.irreps2.check(y, "y")
        weight = self._weights(weight, x)
        shapes = (x.shape[:-1], y.shape[:-1], weight.shape[:-1])
        batch = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call] # torch leaves it without types
        if weight.ndim > 1:
            weight = _flat(weight, batch)
        out: Tensor = self.product(_flat(x, batch), _flat(y, batch), weight)
        return out.reshape(*batch, self.irreps_out.dim)

    def messages(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        edge_index: Tensor,
        *,
        size: int | None = None,
    ) -> Tensor:
        """Return, for each node, the sum over its edges of products of the sources' features with filters.

        Equal to `forward(x[source], y, weight)` summed over the edges of each target; channelwise products
        do both in one pass, so that the products of all edges are never stored.

        Args:
            x: Features of the nodes, shape `(N, irreps1.dim)`.
            y: Filters of the edges, shape `(E, irreps2.dim)`.
            weight: As `forward`, with one axis for the edges where each has its own.
            edge_index: Source and target node of each edge, shape `(2, E)`.
            size: Number of targets; that of the nodes where None.

        Returns:
            Shape `(size, irreps_out.dim)`.

        Raises:
            ValueError: As `forward`.
        """
        self.irreps1.check(x, "x")
        self.irreps2.check(y, "y")
        weight = self._weights(weight, x)
        source, target = edge_index[0], edge_index[1]
        nodes = x.shape[0] if size is None else size
        if isinstance(self.product, DenseProduct):
            return self.product.messages(x, y, weight, source, target, nodes)
        products: Tensor = self.product(x.index_select(0, source), y, weight)
        return products.new_zeros((nodes, products.shape[1])).index_add(0, target, products)

    def _weights(self, weight: Tensor | None, x: Tensor) -> Tensor:
        """Return the weights to use; none at all are an empty tensor."""
        given = self.weight if weight is None else weight
        if given is None:
            if self.weight_numel:
                raise ValueError(
                    f"`weight` is missing: this product takes {self.weight_numel} weights from outside"
                )
            return x.new_empty(0)
        if given.ndim == 0 or given.shape[-1] != self.weight_numel:
            raise ValueError(
                f"`weight`: expected last dimension {self.weight_numel}, got shape {tuple(given.shape)}"
            )
        return given

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return (
            f"{self.irreps1} x {self.irreps2} -> {self.irreps_out}, kind={self.kind!r}, "
            f"method={self.method!r}, weight_numel={self.weight_numel}"
        )


def _flat(x: Tensor, batch: torch.Size) -> Tensor:
    """Return a tensor with its leading axes expanded to one."""
    return x.expand(*batch, x.shape[-1]).reshape(batch.numel(), x.shape[-1])


def _fastest(counts: dict[str, Counts], device: torch.device | str | None) -> Method:
    """Return the method that costs least; the large matrix products on anything but a CPU."""
    if torch.device(device or "cpu").type != "cpu":
        return "dense"
    fastest = min(counts, key=lambda method: RATES["cpu"].seconds(counts[method]))
    return cast("Method", fastest)


def _mixture_irreps(
    irreps1: Irreps | str,
    irreps2: Irreps | str,
    irreps_out: Irreps | str | None,
    kind: str,
    method: str,
    keep: list[Irrep | str] | None,
    rank: int | None,
) -> tuple[Irreps, Irreps, Irreps]:
    """Return the irreps of a product of functions on the sphere.

    Raises:
        ValueError: Where the method does not compute the kind's map, or the output is not given.
    """
    if kind in ("full", "fully_connected"):
        raise ValueError(
            f"`method` (={method!r}) computes a mixture of paths with fixed strengths, not `kind` "
            f"(={kind!r}): use 'dense', 'sparse' or 'auto', or `kind='complete'` between linear layers"
        )
    if irreps_out is None or keep is not None:
        raise ValueError(
            f"`kind` (={kind!r}) by `method` (={method!r}) needs `irreps_out`, and goes without `keep`"
        )
    irreps = (Irreps(irreps1), Irreps(irreps2), Irreps(irreps_out))
    if kind == "channelwise" and rank is None:
        raise ValueError(
            f"`method` (={method!r}) has no independent weights on the paths of `kind='channelwise'`, only "
            f"weights by degree: request `degree_rank={_sufficient_rank(*irreps)}`, which reaches all "
            "that path weights do (fewer may), or use 'dense', 'sparse' or 'auto'"
        )
    return irreps


def _sufficient_rank(irreps1: Irreps, irreps2: Irreps, irreps_out: Irreps) -> int:
    """Return a number of terms that reproduces any path weights.

    With one term for each pair of degrees that occur in two of the three places, the third place's weights
    are the path weights themselves; a second input of one copy has no weights for each channel to be them.
    """
    sizes = dense_features(irreps1, irreps2, irreps_out)
    paths = path_table(irreps1, irreps2, irreps_out, kind="channelwise").paths
    terms = [len({(path.i1, path.i2) for path in paths}), len({(path.i2, path.i_out) for path in paths})]
    if sizes.channels2 == sizes.channels1:
        terms.append(len({(path.i1, path.i_out) for path in paths}))
    return max(1, min(terms))
