r"""What a tensor product can express: which couplings it has, how strong, and how many it can set freely.

Fast products of equivariant features are not the same product made faster: most compute one fixed bilinear
map where a Clebsch-Gordan product has a free number for each triple of degrees. Three figures say what is
left, for any bilinear module, so that no speed is quoted without them:

- *strengths*, the coefficients of the map along Wigner's 3j symbols of norm 1;
- *interactability*, which of them are not zero;
- *expressivity*, the dimension of the family of bilinear maps that linear layers around the product make of
  it, $\operatorname{Lin}_Z \circ T \circ (\operatorname{Lin}_X, \operatorname{Lin}_Y)$: the rank, at a
  generic point, of the derivative of the family's coefficients by all weights.

With one copy of each degree up to $L$, a Clebsch-Gordan product has as many as there are triples, $O(L^3)$; a
Gaunt product has $3 (L + 1) - 2$.

Axis letters used below: `R` channels, each a term; `I J K` copies of irreps in the product's inputs and
output, `A B C` copies in the features around it, `P` parameters.

References:
    Y. Xie, A. Daigavane, M. Kotak, T. Smidt, The Price of Freedom: Exploring Expressivity and Runtime
    Tradeoffs in Equivariant Tensor Products, 2025, arXiv:2506.13523.
"""

import copy
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from lemmata.equivariant.o3 import Irrep, Irreps, wigner_3j

__all__ = ["coupling_strengths", "expressivity", "interactability"]

_DRAWS = 3
_PROBES = 2


def expressivity(
    tp: nn.Module,
    irreps1: Irreps | str | None = None,
    irreps2: Irreps | str | None = None,
    irreps_out: Irreps | str | None = None,
    *,
    channels: int | None = None,
    tol: float = 1e-9,
) -> int:
    """Return how many numbers of a bilinear map can be set through a product and linear layers around it.

    Computed in float64 on a copy, at three random points, of which the largest rank counts.

    Args:
        tp: An equivariant bilinear module, either on dense features (with `lmax1`, `lmax2`, `lmax_out`; a
            pair of outputs is the natural and the unnatural block) or on flat ones (with `irreps1`, `irreps2`
            and `irreps_out`, or e3nn's `irreps_in1`, `irreps_in2`). Its parameters belong to the family.
        irreps1: What the features before the first linear layer are; by default one copy of each irrep of
            the product's first input.
        irreps2: Likewise for the second input.
        irreps_out: What they are after the last linear layer; by default one copy of each irrep of the
            product's output.
        channels: How many channels a dense product has between the linear layers; by default its own, or 1.
            `R` channels make `R` terms, each with its own linear layers.
        tol: Singular values below `tol` times the largest count as zero.

    Raises:
        TypeError: Where the module has neither kind of sizes.
        ValueError: Where it is not an equivariant bilinear map, or `channels` differs from its own.

    Examples:
        >>> from lemmata.equivariant.tensor_product.complete import CompleteTensorProduct
        >>> from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct
        >>> expressivity(VectorSignalTensorProduct(2, 2, 2))  # 3 L - 2
        4
        >>> expressivity(CompleteTensorProduct(2, 2, 2))  # 3 (L + 1) - 2 more
        11
    """
    product = _Product.of(tp, channels)
    outer = [
        Irreps([(1, ir) for ir in dict.fromkeys(inner)]) if given is None else Irreps(given)
        for given, inner in zip((irreps1, irreps2, irreps_out), product.copies, strict=True)
    ]
    masks = [
        torch.tensor([[a == i for i in inner] for a in _copies(around)]).reshape(-1, len(inner))
        for around, inner in zip(outer, product.copies, strict=True)
    ]
    generator = torch.Generator().manual_seed(0)
    largest = 0
    for _ in range(_DRAWS):
        jacobian = _family_jacobian(product, masks, generator)
        coefficients = jacobian[jacobian.abs().amax(1) > 0] if jacobian.numel() else jacobian[:0]
        largest = max(largest, _rank(coefficients, tol))
        if largest == len(coefficients):  # no point has a larger rank
            break
    return largest


def interactability(tp: nn.Module, *, tol: float = 1e-9) -> Bool[Tensor, "degree1 degree2 degree_out"]:
    """Return which triples of degrees a product couples, whatever its parameters.

    Args:
        tp: As in `expressivity`.
        tol: Strengths below `tol` times the largest count as zero.

    Returns:
        Entry `[l1, l2, l3]` tells whether some copies of these degrees are coupled for generic parameters.

    Raises:
        TypeError: Where the module has no sizes.
        ValueError: Where it is not an equivariant bilinear map.

    Examples:
        >>> from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct
        >>> interactability(VectorSignalTensorProduct(1, 1, 1)).nonzero().tolist()  # cross products alone
        [[1, 1, 1]]
    """
    product = _Product.of(tp, None)
    generator = torch.Generator().manual_seed(0)
    strengths = _by_degrees(product, product.strengths(product.draw(generator)).detach())
    return strengths.abs() > tol * strengths.abs().max()


def coupling_strengths(tp: nn.Module) -> Float[Tensor, "degree1 degree2 degree_out"]:
    """Return the coefficients of a product along 3j symbols of norm 1, at its present parameters.

    Args:
        tp: As in `expressivity`.

    Returns:
        Entry `[l1, l2, l3]`, float64: with its sign where one copy of each degree is coupled; where there are
        several copies, channels or parities, the root of the sum of squares over them, but with its sign
        where only one is not zero.

    Raises:
        TypeError: Where the module has no sizes.
        ValueError: Where it is not an equivariant bilinear map.

    Examples:
        >>> from lemmata.equivariant.tensor_product.vector_signal import VectorSignalTensorProduct
        >>> product = VectorSignalTensorProduct(1, 1, 1, normalization="none")
        >>> round(coupling_strengths(product)[1, 1, 1].item() ** 2 * 4 * torch.pi, 6)
        18.0
    """
    product = _Product.of(tp, None)
    parameters = {name: value.detach() for name, value in product.module.named_parameters()}
    return _by_degrees(product, product.strengths(parameters).detach())


class _Product(NamedTuple):
    """A bilinear module in float64, and the irreps of one of its channels, copy by copy."""

    module: nn.Module
    copies: tuple[list[Irrep], list[Irrep], list[Irrep]]
    channels: int
    dense: bool
    pairs: tuple[bool, bool]

    @staticmethod
    def of(tp: nn.Module, channels: int | None) -> "_Product":
        """Return the description of a module."""
        module = copy.deepcopy(tp).to(device="cpu", dtype=torch.float64).eval()
        for names in (("irreps1", "irreps2", "irreps_out"), ("irreps_in1", "irreps_in2", "irreps_out")):
            if all(hasattr(module, name) for name in names):
                first, second, out = (_copies(Irreps(str(getattr(module, name)))) for name in names)
                return _Product(module, (first, second, out), 1, False, (False, False))
        if not all(isinstance(getattr(module, name, None), int) for name in ("lmax1", "lmax2", "lmax_out")):
            raise TypeError(
                f"`tp` must have `lmax1`, `lmax2`, `lmax_out`, or `irreps1`, `irreps2`, `irreps_out`; got"
                f" {type(tp).__name__}"
            )
        own = cast("int | None", getattr(module, "channels", None))
        if channels is not None and own is not None and channels != own:
            raise ValueError(f"`channels` (={channels}) must be the product's own, {own}, or None")
        pairs = (bool(getattr(module, "unnatural1", False)), bool(getattr(module, "unnatural2", False)))
        lmax1, lmax2, lmax_out = (cast("int", getattr(module, n)) for n in ("lmax1", "lmax2", "lmax_out"))
        count = channels or own or 1
        described = _Product(module, ([], [], []), count, True, pairs)
        zeros = [
            torch.zeros(1, count, (1 + pair) * (lmax + 1) ** 2, dtype=torch.float64)
            for lmax, pair in zip((lmax1, lmax2), pairs, strict=True)
        ]
        width = described.call(dict(module.named_parameters()), *zeros).shape[-1]
        blocks = (pairs[0], pairs[1], width == 2 * (lmax_out + 1) ** 2)
        first, second, out = (
            [Irrep(l, p * (-1) ** l) for p in ((1, -1) if pair else (1,)) for l in range(lmax + 1)]
            for lmax, pair in zip((lmax1, lmax2, lmax_out), blocks, strict=True)
        )
        return described._replace(copies=(first, second, out))

    def call(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Return the output for inputs `(batch, R, dim)`; blocks of both parities lie side by side."""
        if not self.dense:
            out = functional_call(self.module, parameters, (x[:, 0], y[:, 0]))
            return cast("Tensor", out)[:, None]
        inputs = tuple(v.chunk(2, dim=-1) if pair else v for v, pair in zip((x, y), self.pairs, strict=True))
        out = functional_call(self.module, parameters, inputs)
        return torch.cat(out, dim=-1) if isinstance(out, tuple) else cast("Tensor", out)

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return random parameters."""
        return {
            name: torch.randn(value.shape, dtype=torch.float64, generator=generator).requires_grad_()
            for name, value in self.module.named_parameters()
        }

    def strengths(self, parameters: dict[str, Tensor]) -> Float[Tensor, "R I J K"]:
        """Return the coefficient along each 3j symbol, from the product of random vectors.

        By equivariance the output for one copy each is a multiple of the 3j symbol contracted with both.
        """
        generator = torch.Generator().manual_seed(1)
        outputs, fits = [], []
        for _ in range(_PROBES):
            x, y = (_one_copy_each(copies, generator) for copies in self.copies[:2])
            out = self.call(
                parameters,
                x[:, None, None].expand(-1, len(y), self.channels, -1).flatten(0, 1),
                y[None, :, None].expand(len(x), -1, self.channels, -1).flatten(0, 1),
            )
            out_RIJD = out.reshape(len(x), len(y), self.channels, -1).movedim(2, 0)
            outputs.append(out_RIJD)
            fits.append(self._symbols(x, y))
        products = [self._sum_by_copy(out * fit) for out, fit in zip(outputs, fits, strict=True)]
        above = torch.stack(products).sum(0)
        below = torch.stack([self._sum_by_copy(fit * fit) for fit in fits]).sum(0)
        strengths = above / torch.where(below > 0, below, 1.0)
        self._check(strengths.detach(), outputs, fits)
        return strengths

    def _symbols(self, x: Tensor, y: Tensor) -> Float[Tensor, "I J D"]:
        """Return the 3j symbols contracted with one vector of each input copy; zero where there is none."""
        rows = []
        for i, first in enumerate(self.copies[0]):
            u = x[i, _place(self.copies[0], i)]
            for j, second in enumerate(self.copies[1]):
                v = y[j, _place(self.copies[1], j)]
                contracted = [
                    torch.einsum("abm,a,b->m", wigner_3j(first.l, second.l, out.l), u, v)
                    if abs(first.l - second.l) <= out.l <= first.l + second.l
                    else u.new_zeros(out.dim)
                    for out in self.copies[2]
                ]
                rows.append(torch.cat(contracted))
        return torch.stack(rows).reshape(len(x), len(y), -1)

    def _sum_by_copy(self, values: Tensor) -> Tensor:
        """Return sums over the components of each output copy."""
        places = [_place(self.copies[2], k) for k in range(len(self.copies[2]))]
        return torch.stack([values[..., place].sum(-1) for place in places], dim=-1)

    def _check(self, strengths: Tensor, outputs: list[Tensor], fits: list[Tensor]) -> None:
        """Raise where the outputs are not what the strengths say."""
        sizes = torch.tensor([ir.dim for ir in self.copies[2]])
        expanded = strengths.repeat_interleave(sizes, dim=-1)
        largest = max((out.detach().abs().max().item() for out in outputs if out.numel()), default=0.0)
        error = max(
            (o.detach() - expanded * f).abs().max().item() for o, f in zip(outputs, fits, strict=True)
        )
        # Modules that keep their coefficients in float32 alone pass.
        if not error <= 1e-5 * largest:
            raise ValueError(
                f"`tp` ({type(self.module).__name__}) is not an equivariant bilinear map: products of random"
                f" vectors differ by {error:.1e} from multiples of 3j symbols (largest output {largest:.1e})"
            )


def _family_jacobian(
    product: _Product, masks: list[Tensor], generator: torch.Generator
) -> Float[Tensor, "ABC weight"]:
    """Return the derivative of the family's coefficients by the linear layers' weights and by parameters."""
    parameters = product.draw(generator)
    strengths = product.strengths(parameters)
    s_RIJK = strengths.detach()
    lin1, lin2, lin3 = (
        torch.randn(product.channels, *mask.shape, dtype=torch.float64, generator=generator) * mask
        for mask in masks
    )
    # A weight between outer copy x and inner copy i moves only the coefficients of x.
    eye1, eye2, eye3 = (torch.eye(len(mask), dtype=torch.float64) for mask in masks)
    mask1, mask2, mask3 = (mask.to(torch.float64) for mask in masks)
    derivatives = [
        torch.einsum(
            "ax,xi,ribc->abcrxi", eye1, mask1, torch.einsum("rijk,rbj,rck->ribc", s_RIJK, lin2, lin3)
        ),
        torch.einsum(
            "bx,xj,rajc->abcrxj", eye2, mask2, torch.einsum("rijk,rai,rck->rajc", s_RIJK, lin1, lin3)
        ),
        torch.einsum(
            "cx,xk,rabk->abcrxk", eye3, mask3, torch.einsum("rijk,rai,rbj->rabk", s_RIJK, lin1, lin2)
        ),
    ]
    if parameters:
        s_RIJKP = _jacobian(strengths, list(parameters.values()))
        derivatives.append(torch.einsum("rai,rbj,rck,rijkp->abcp", lin1, lin2, lin3, s_RIJKP))
    return torch.cat([derivative.flatten(0, 2).flatten(1) for derivative in derivatives], dim=1)


def _jacobian(values: Tensor, parameters: list[Tensor]) -> Tensor:
    """Return the derivative of each value by all parameters, on a last axis; rows of zero values are zero."""
    rows = values.new_zeros(values.numel(), sum(parameter.numel() for parameter in parameters))
    if values.requires_grad:
        flat = values.flatten()
        for place in flat.detach().abs().gt(1e-12).nonzero().flatten().tolist():
            slopes = torch.autograd.grad(
                flat[place], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows[place] = torch.cat([slope.flatten() for slope in slopes])
    return rows.reshape(*values.shape, -1)


def _rank(matrix: Tensor, tol: float) -> int:
    """Return the number of singular values above `tol` times the largest."""
    if not matrix.numel():
        return 0
    values = torch.linalg.svdvals(matrix)
    return int((values > tol * values[0]).sum())


def _by_degrees(product: _Product, strengths: Tensor) -> Tensor:
    """Return one number for each triple of degrees."""
    sizes = [max(ir.l for ir in copies) + 1 for copies in product.copies]
    square, total = strengths.new_zeros(2, *sizes)
    count = torch.zeros(sizes)
    strengths = torch.where(strengths.abs() > 1e-12 * strengths.abs().max(), strengths, 0.0)  # rounding
    for place, s_R in zip(
        torch.cartesian_prod(*(torch.tensor([ir.l for ir in copies]) for copies in product.copies)),
        strengths.flatten(1).unbind(1),
        strict=True,
    ):
        at = tuple(place.tolist())
        square[at] += s_R.square().sum()
        total[at] += s_R.sum()
        count[at] += (s_R != 0).sum()
    return torch.where(count > 1, square.sqrt(), total)


def _copies(irreps: Irreps) -> list[Irrep]:
    """Return the irrep of every copy."""
    return [ir for mul, ir in irreps for _ in range(mul)]


def _place(copies: list[Irrep], index: int) -> slice:
    """Return where a copy lies on the flat axis."""
    start = sum(ir.dim for ir in copies[:index])
    return slice(start, start + copies[index].dim)


def _one_copy_each(copies: list[Irrep], generator: torch.Generator) -> Tensor:
    """Return features, each with one copy that is random and all others zero."""
    features = torch.zeros(len(copies), sum(ir.dim for ir in copies), dtype=torch.float64)
    for i, ir in enumerate(copies):
        features[i, _place(copies, i)] = torch.randn(ir.dim, dtype=torch.float64, generator=generator)
    return features
