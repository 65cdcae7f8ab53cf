"""Which parameters of a model a matrix optimiser should train as matrices, and how to read them as such.

Only the model knows: the weight of an embedding has two axes like that of a linear layer, but its rows are
looked up rather than multiplied; the weight of a convolution has four and is one matrix.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from lemmata.optim.optimizers.blocks import blocks

__all__ = ["split_parameters"]

NORMS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
)
"""Layers whose weights multiply elementwise, whatever their number of axes."""


def split_parameters(
    model: nn.Module,
    *,
    exclude: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag),
    exclude_names: Sequence[str] = ("lm_head",),
    heads: Mapping[str, int | tuple[int, ...]] | None = None,
) -> list[dict[str, Any]]:
    """Sort a model's parameters into groups for `Muon`, `AuON` and other matrix optimisers.

    To AdamW go the parameters of the modules excluded by type or name, those of norms and depthwise
    convolutions, all named `bias` or ending in `_bias`, and whatever has fewer than two axes or a single row
    or column. A parameter that several modules share goes to AdamW if any of them sends it there, and is in
    one group in any case.

    All others are matrices. Weights of convolutions are flattened to (out, in * kernel), a block of rows for
    each group of channels. Parameters of three axes are batches of matrices, as stacked experts are. The
    weight of the fused input projection of `nn.MultiheadAttention` has the blocks of queries, keys and
    values.

    Args:
        model: The model. A model that `fully_shard` has sharded is fine.
        exclude: Types of modules whose own parameters go to AdamW.
        exclude_names: Names of modules or parameters that go to AdamW. A name matches where it is one
            component of a parameter's name, or several: `"lm_head"` matches `decoder.lm_head.weight`,
            `"2.gate"` matches `layers.2.gate.weight`.
        heads: Names, matched in the same way, of parameters whose blocks of rows are matrices of their own,
            and their number or their sizes: `{"qkv": 3}` for a fused projection, `{"qkv": (64, 16, 16)}`
            where keys and values are smaller, `{"q_proj": 8}` for eight heads by themselves.

    Returns:
        Groups with `algorithm` `matrix` or `adamw`, and `flatten` and `splits` where they matter. None is
        empty.

    Raises:
        ValueError: Where a name in `heads` matches no matrix of the model.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> for group in split_parameters(model):
        ...     print(group["algorithm"], group.get("flatten"), [tuple(p.shape) for p in group["params"]])
        matrix True [(8, 4, 3)]
        matrix None [(2, 8)]
        adamw None [(10, 4), (8,), (2,)]
    """
    matched: set[str] = set()
    users: dict[nn.Parameter, list[dict[str, Any] | None]] = {}
    for name, module, param in _uses(model):
        if _elementwise(name, module, param, exclude, exclude_names):
            users.setdefault(param, []).append(None)
            continue
        options = _options(module, name)
        for key, splits in (heads or {}).items():
            if _matches(name, key):
                options["splits"] = splits
                matched.add(key)
        shapes = blocks(param.shape, {"flatten": False, "splits": 1, **options})
        vectors = any(min(rows, columns) <= 1 for _, rows, columns in shapes)
        users.setdefault(param, []).append(None if vectors else options)
    if heads is not None and set(heads) - matched:
        raise ValueError(f"`heads` names {sorted(set(heads) - matched)}, which match no matrix of the model")
    groups: dict[str, dict[str, Any]] = {}
    others: list[nn.Parameter] = []
    for param, uses in users.items():
        first = uses[0]
        if first is None or None in uses:
            others.append(param)
            continue
        group = {"params": [], "algorithm": "matrix", **first}
        groups.setdefault(repr(sorted(first.items())), group)["params"].append(param)
    return [*groups.values(), *([{"params": others, "algorithm": "adamw"}] if others else [])]


def _uses(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield every place where a parameter is used: its name, the module and itself."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for prefix, module in modules.items():
        for own, param in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{own}" if prefix else own
            if isinstance(module, ParametrizationList):
                # `layer.parametrizations.weight.original` belongs to the weight of `layer`.
                owner = f".{name}".rpartition(".parametrizations.")[0].removeprefix(".")
                yield name, modules[owner], param
            else:
                yield name, module, param


def _elementwise(
    name: str,
    module: nn.Module,
    param: nn.Parameter,
    exclude: tuple[type[nn.Module], ...],
    exclude_names: Sequence[str],
) -> bool:
    """Return whether a parameter goes to AdamW where a module uses it."""
    last = name.rpartition(".")[2]
    depthwise = isinstance(module, _ConvNd) and param.ndim > 1 and param.shape[1] == 1 and module.groups > 1
    return (
        param.ndim < 2
        or last == "bias"
        or last.endswith("_bias")
        or depthwise
        or isinstance(module, (*exclude, *NORMS))
        or any(_matches(name, excluded) for excluded in exclude_names)
    )


def _options(module: nn.Module, name: str) -> dict[str, Any]:
    """Return how to read a parameter of a module as matrices."""
    if isinstance(module, _ConvNd):
        return {"flatten": True, **({"splits": module.groups} if module.groups > 1 else {})}
    if isinstance(module, nn.MultiheadAttention) and name.rpartition(".")[2] == "in_proj_weight":
        return {"splits": 3}
    return {}


def _matches(name: str, key: str) -> bool:
    """Return whether components of a dotted name are those of another."""
    return f".{key}." in f".{name}."
