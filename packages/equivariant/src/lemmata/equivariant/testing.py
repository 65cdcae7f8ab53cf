r"""Measure how far a function is from equivariant, under any group that can act on its inputs.

For a function $f$ and a group element $g$ the error is

$$\frac{\lVert f(g x) - g f(x) \rVert}{\lVert f(x) \rVert},$$

in the dtype of the inputs. Inputs and outputs say how the group acts on them: as points, as irreps, not at
all, or by a function of the user's, so that graph permutations and affine images share the tool.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lemmata.equivariant.o3.irreps import Irreps
from lemmata.equivariant.o3.rotation import rand_rotation

__all__ = ["EquivarianceReport", "Motion", "assert_equivariant", "equivariance_error"]

Action = Irreps | str | Callable[[Any, Any], Any] | None
Group = str | Sequence[Tensor] | Callable[[torch.Generator | None], Any]


class Motion(NamedTuple):
    """An element of E(d): `x` goes to `x @ rotation.mT + translation`.

    Attributes:
        rotation: Orthogonal matrix, shape `(d, d)`.
        translation: Shape `(d,)`.
    """

    rotation: Tensor
    translation: Tensor


@dataclass(frozen=True)
class EquivarianceReport:
    """What `equivariance_error` found.

    Args:
        max: Largest error over the elements; of several outputs, that of the worst.
        mean: Mean over the elements of the same.
        per_irrep: For outputs with irreps, the largest error within the blocks of each irrep, also divided by
            the norm of the whole output, so that it can be compared with `max`.
        worst_element: The element that made the largest error.
    """

    max: float
    mean: float
    per_irrep: Mapping[str, float] = field(default_factory=dict)
    worst_element: Any = None

    def __str__(self) -> str:
        """Return the figures and the worst element, a line each."""
        lines = [f"equivariance error: max {self.max:.3g}, mean {self.mean:.3g}"]
        lines += [f"  {name}: {error:.3g}" for name, error in self.per_irrep.items()]
        return "\n".join([*lines, f"worst element: {self.worst_element}"])


def equivariance_error(
    fn: Callable[..., Any],
    args: Any,
    irreps_in: Action | Sequence[Action],
    irreps_out: Action | Sequence[Action],
    *,
    group: Group = "O3",
    n: int = 8,
    generator: torch.Generator | None = None,
    relative: bool = True,
) -> EquivarianceReport:
    """Compare `fn(g x)` with `g fn(x)` over elements of a group.

    Args:
        fn: A function or module of `args`, which returns a tensor or a sequence of tensors.
        args: Its input, or a sequence of its inputs.
        irreps_in: How the group acts on each input: `"positions"` (points on the last axis, which rotate and,
            in E3 and SE3, translate), irreps (on the last axis, hence also the dense layout with
            `Irreps.spherical_harmonics(lmax)`), None (left alone), or a function `(g, x) -> x`.
        irreps_out: The same for each output.
        group: `"O3"` (every other element reflects), `"SO3"`, `"E3"`, `"SE3"` (with normal translations); or
            matrices, all of which are tried; or a function from a generator to an element. The elements that
            functions `(g, x)` see are matrices, and `Motion` for E3 and SE3.
        n: Number of elements drawn from the group.
        generator: Source of the random numbers, on the CPU.
        relative: Divide by the norm of the output; False gives absolute errors.

    Raises:
        ValueError: Where there are not as many actions as inputs or outputs, the group or an action is
            unknown, `n` is not positive, or a last dimension is not that of its irreps.
        TypeError: Where the group's elements are no matrices but an action by positions or irreps needs them.

    Examples:
        >>> x = torch.randn(5, 3, dtype=torch.float64)
        >>> report = equivariance_error(lambda x: x - x.mean(0), x, "positions", "1o", group="E3")
        >>> report.max < 1e-14
        True
        >>> equivariance_error(torch.relu, x, "1o", "1o").max > 0.1
        True
    """
    if n < 1:
        raise ValueError(f"`n` (={n}) must be at least 1")
    inputs = list(args) if isinstance(args, tuple | list) else [args]
    actions_in = _actions(irreps_in, "irreps_in", len(inputs))
    expected = _outputs(fn(*inputs))
    actions_out = _actions(irreps_out, "irreps_out", len(expected))
    elements = _elements(group, n, generator)
    total = [list[Tensor]() for _ in expected]
    blocks: dict[str, list[Tensor]] = {}
    for g in elements:
        moved = _outputs(fn(*(_act(action, g, x) for action, x in zip(actions_in, inputs, strict=True))))
        for i, (action, y, y_moved) in enumerate(zip(actions_out, expected, moved, strict=True)):
            difference = _difference(y_moved, _act(action, g, y))
            scale = _norm(y) if relative else torch.ones((), dtype=torch.float64)
            total[i].append(_ratio(_norm(difference), scale))
            prefix = f"output {i}, " if len(expected) > 1 else ""
            for name, part in _parts(action, difference):
                blocks.setdefault(prefix + name, []).append(_ratio(_norm(part), scale))
    # The tensor's maximum keeps NaN, Python's may lose it.
    errors = torch.stack([torch.stack(column) for column in total]).amax(0)
    return EquivarianceReport(
        max=errors.amax().item(),
        mean=errors.mean().item(),
        per_irrep={name: torch.stack(column).amax().item() for name, column in blocks.items()},
        worst_element=elements[int(errors.argmax())],
    )


def assert_equivariant(
    fn: Callable[..., Any],
    args: Any,
    irreps_in: Action | Sequence[Action],
    irreps_out: Action | Sequence[Action],
    *,
    tol: float,
    group: Group = "O3",
    n: int = 8,
    generator: torch.Generator | None = None,
    relative: bool = True,
) -> EquivarianceReport:
    """Fail with the report where the error of `equivariance_error` exceeds a tolerance or is NaN.

    Args:
        fn: As `equivariance_error`.
        args: As `equivariance_error`.
        irreps_in: As `equivariance_error`.
        irreps_out: As `equivariance_error`.
        tol: The largest error allowed.
        group: As `equivariance_error`.
        n: As `equivariance_error`.
        generator: As `equivariance_error`.
        relative: As `equivariance_error`.

    Returns:
        The report.

    Raises:
        AssertionError: Where the error is too large.
        ValueError: As `equivariance_error`.
        TypeError: As `equivariance_error`.

    Examples:
        >>> x = torch.randn(4, 3, dtype=torch.float64)
        >>> report = assert_equivariant(lambda x: x.square().sum(-1), x, "1o", None, tol=1e-12)
    """
    report = equivariance_error(
        fn, args, irreps_in, irreps_out, group=group, n=n, generator=generator, relative=relative
    )
    if not report.max <= tol:
        raise AssertionError(f"not equivariant to within {tol:g}\n{report}")
    return report


def _actions(given: Action | Sequence[Action], name: str, count: int) -> list[Action]:
    """Return one action for each of `count` tensors, irreps parsed."""
    single = given is None or isinstance(given, Irreps | str) or callable(given)
    actions = cast("list[Action]", [given] if single else [*cast("Sequence[Action]", given)])
    if len(actions) != count:
        kind = "inputs" if name == "irreps_in" else "outputs"
        raise ValueError(f"`{name}` (={given!r}) has {len(actions)} entries for {count} {kind}")
    return [
        Irreps(action) if isinstance(action, str) and action != "positions" else action for action in actions
    ]


def _elements(group: Group, n: int, generator: torch.Generator | None) -> list[Any]:
    """Return the elements to try; those of the named groups in float64."""
    if callable(group):
        return [group(generator) for _ in range(n)]
    if not isinstance(group, str):
        if len(group) == 0:
            raise ValueError("`group` must hold at least one matrix")
        return list(group)
    if group not in ("O3", "SO3", "E3", "SE3"):
        raise ValueError(f"`group` (={group!r}) must be O3, SO3, E3, SE3, matrices or a function")
    rotations = list(rand_rotation(n, generator=generator, dtype=torch.float64))
    if group in ("O3", "E3"):
        rotations[::2] = [-rotation for rotation in rotations[::2]]
    if group in ("O3", "SO3"):
        return rotations
    translations = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return [Motion(*pair) for pair in zip(rotations, translations, strict=True)]


def _act(action: Action, g: Any, x: Any) -> Any:
    """Return what an element does to an input or output."""
    if action is None:
        return x
    if callable(action):
        return action(g, x)
    rotation = g.rotation if isinstance(g, Motion) else g
    if not isinstance(rotation, Tensor):
        raise TypeError(f"an element {g!r} that is no matrix acts only by functions `(g, x)`, not {action!r}")
    if isinstance(action, Irreps):
        action.check(x, f"a tensor with irreps {action}")
        matrix = action.d_from_matrix(rotation.double().cpu())
        return x @ matrix.mT.to(x)
    turned = x @ rotation.mT.to(x)
    return turned + g.translation.to(x) if isinstance(g, Motion) else turned


def _parts(action: Action, difference: Tensor) -> list[tuple[str, Tensor]]:
    """Return the part of a difference that belongs to each irrep."""
    if not isinstance(action, Irreps):
        return []
    places: dict[str, list[Tensor]] = {}
    for place, entry in zip(action.slices(), action, strict=True):
        places.setdefault(str(entry.ir), []).append(difference[..., place])
    return [(name, torch.cat(parts, dim=-1)) for name, parts in places.items()]


def _outputs(result: Any) -> list[Tensor]:
    """Return what a function returned as a list of tensors without history."""
    tensors = list(result) if isinstance(result, tuple | list) else [result]
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"`fn` must return a tensor or a sequence of tensors, got {type(tensor).__name__}"
            )
    return [tensor.detach() for tensor in tensors]


def _difference(found: Tensor, expected: Tensor) -> Tensor:
    """Return a difference, in double precision and with no broadcasting that would hide a wrong shape."""
    if found.shape != expected.shape:
        raise ValueError(
            f"`fn` returned shape {tuple(found.shape)} for moved inputs, expected {tuple(expected.shape)}"
        )
    return _wide(found) - _wide(expected)


def _norm(x: Tensor) -> Tensor:
    """Return the norm of all entries."""
    norm: Tensor = torch.linalg.vector_norm(_wide(x))
    return norm.cpu()


def _wide(x: Tensor) -> Tensor:
    """Return a tensor in double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _ratio(error: Tensor, scale: Tensor) -> Tensor:
    """Return `error / scale`, and 0 where both are."""
    return torch.where((error == 0) & (scale == 0), 0.0, error / scale)
