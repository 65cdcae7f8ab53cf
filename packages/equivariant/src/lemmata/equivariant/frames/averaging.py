r"""Frame averaging: any network made exactly invariant or equivariant.

The network sees the cloud from each of its frames, what it returns is turned back, and the results are
averaged:

$$\langle \phi \rangle(X) = \frac{1}{|F(X)|} \sum_{g \in F(X)} g\, \phi(g^{-1} X).$$

The result is equivariant whatever the network is, and keeps what the network can express. The copies form
one larger batch, so that the network is called once.

Axis letters used below: `B` clouds, `F` frames, `N` points or nodes, `G` graphs, `E` edges, `d` dimensions.

References:
    O. Puny, M. Atzmon, H. Ben-Hamu, I. Misra, A. Grover, E. J. Smith, Y. Lipman, Frame Averaging for
    Invariant and Equivariant Network Design, ICLR 2022, arXiv:2110.03336.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lemmata.equivariant.frames.action import Kind, frame_from, frame_mean, frame_to
from lemmata.equivariant.frames.pca import (
    TOL,
    Frames,
    Group,
    detached,
    pca_frames,
    require_gap,
    selected,
    skew_frames,
)
from lemmata.equivariant.frames.slots import Slot, parse_slots
from lemmata.equivariant.frames.weighted import weighted_frames

__all__ = ["FrameAveraging", "frame_average"]


def frame_average(
    fn: Callable[..., Any],
    *args: Any,
    frames: Frames,
    inputs: Sequence[Kind] = ("positions",),
    output: Kind | Sequence[Kind] = "scalars",
    **options: Any,
) -> Any:
    """Average a function over frames that were made before.

    Args:
        fn: Called once, with a copy of the arguments for each frame, as `FrameAveraging` says.
        args: Its arguments, one for each of `inputs`.
        frames: Of the clouds: what they were made of is up to the caller.
        inputs: As `FrameAveraging`.
        output: As `FrameAveraging`.
        options: Handed to the function as they are.

    Raises:
        ValueError: As `FrameAveraging`.

    Examples:
        >>> x = torch.randn(5, 3, dtype=torch.float64)
        >>> frames = pca_frames(x, group="E")
        >>> y = frame_average(torch.relu, x, frames=frames, output="positions")
        >>> frames = pca_frames(x + 1, group="E")
        >>> shifted = frame_average(torch.relu, x + 1, frames=frames, output="positions")
        >>> torch.allclose(shifted, y + 1)
        True
    """
    slots, out, several = parse_slots(inputs, output)
    return _average(fn, args, frames, slots, out, several=several, options=options)


class FrameAveraging(nn.Module):
    r"""A network made equivariant: `module`, seen from all frames of its input.

    The module is called once. Dense clouds: arguments `(*B, ...)` reach it as `(B * F, ...)`, with all axes
    of the batch folded into one. Graph batches, which are what `inputs` with `"batch"` or `"edge_index"`
    mean: arguments `(N, ...)` reach it as a batch of `F * G` graphs, nodes and edges repeated and indices
    shifted, so that pooling by `batch` works; within it, copy `f` of graph `g` is graph `f * G + g`.

    Args:
        module: Any module; it needs no symmetry.
        group: `"SE"`, `"E"`: turns and translations, without or with reflections; `"SO"`, `"O"`: about zero;
            `"T"`: translations alone.
        inputs: What each argument holds: `"positions"` (the first of these makes the frames), `"vectors"`,
            `"matrices"`, `"scalars"` (left alone; any dtype), irreps, or what holds clouds together: `"mask"`
            `(*B, N)`, True where a point exists; `"batch"` `(N,)`, `"edge_index"` `(2, E)` and
            `"num_graphs"`, an integer, which spares an accelerator a halt. In graph batches a tensor is one
            of nodes unless `"edge"` or `"graph"` comes before its kind, as in `"graph scalars"`. An argument
            may be None, which the module then gets; `"batch"` None means one graph.
        output: What the module returns, in the same words; a sequence where it returns one.
        frames: `"pca"`, all signs of the principal axes, or `"skew"`, one choice of them.
        sample: `"all"` frames; `"one"`, drawn at random for each cloud and call in training and all in
            evaluation, which is unbiased; `"weighted"`, those of `weighted_frames`, many more, for outputs
            that are continuous at symmetric clouds.
        strict: Raise where frames are degenerate. An accelerator has to be waited for.
        detach_frames: Let no gradient flow through the frames. Cheaper; gradients with respect to positions
            are wrong then, those with respect to parameters right.
        tol: Relative gap below which frames are degenerate.
        candidates: As `weighted_frames`.
        generator: Source of random numbers for `sample="one"`.

    Raises:
        ValueError: Where an option is unknown, `inputs` hold no positions, or words do not fit together.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(15, 32), nn.Tanh(), nn.Linear(32, 1)).double()
        >>> energy = FrameAveraging(net, group="E")
        >>> x = torch.randn(10, 5, 3, dtype=torch.float64)
        >>> torch.allclose(energy(x), energy(1 - x))
        True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        group: Group = "SE",
        inputs: Sequence[Kind] = ("positions",),
        output: Kind | Sequence[Kind] = "scalars",
        frames: Literal["pca", "skew"] = "pca",
        sample: Literal["all", "one", "weighted"] = "all",
        strict: bool = False,
        detach_frames: bool = False,
        tol: float = TOL,
        candidates: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_choice("group", group, ("SE", "E", "SO", "O", "T"))
        _check_choice("frames", frames, ("pca", "skew"))
        _check_choice("sample", sample, ("all", "one", "weighted"))
        if candidates is not None and sample != "weighted":
            raise ValueError(f"`candidates` (={candidates}) belong to `sample='weighted'`, not {sample!r}")
        if frames == "skew" and sample != "all":
            raise ValueError(f"`frames='skew'` are one frame a cloud: `sample` (={sample!r}) must be 'all'")
        self.module = module
        self.group, self.frames, self.sample = group, frames, sample
        self.slots, self.out, self._several = parse_slots(inputs, output)
        if not any(slot.kind == "positions" for slot in self.slots):
            raise ValueError(f"`inputs` (={inputs!r}) must hold 'positions', which make the frames")
        self.strict, self.detach_frames, self.tol = strict, detach_frames, tol
        self.candidates, self.generator = candidates, generator

    def forward(self, *args: Any, weights: Tensor | None = None, **options: Any) -> Any:
        """Return the average of what the module returns.

        Args:
            args: What `inputs` describe.
            weights: Weights of the points in the frames, `(*B, N)` or `(N,)`: masses, for example.
            options: Keywords handed to the module as they are.
        """
        frames = self.make_frames(*args, weights=weights)
        if self.sample == "one" and self.training:
            frames = selected(frames, self._draw(frames))
        return _average(
            self.module, args, frames, self.slots, self.out, several=self._several, options=options
        )

    def make_frames(self, *args: Any, weights: Tensor | None = None) -> Frames:
        """Return the frames of the arguments, all of them.

        Args:
            args: What `inputs` describe.
            weights: As `forward`.

        Raises:
            ValueError: Where the number of arguments is not that of `inputs`, or a shape does not fit.
            DegenerateFrameError: In strict mode.
        """
        found = _by_kind(args, self.slots)
        x, mask, batch = found["positions"], found.get("mask"), found.get("batch")
        num_graphs = found.get("num_graphs")
        if any(slot.ragged for slot in self.slots) and batch is None:
            batch, num_graphs = torch.zeros(len(x), dtype=torch.long, device=x.device), 1
        make: Callable[..., Frames] = partial(
            pca_frames if self.frames == "pca" else skew_frames, tol=self.tol
        )
        if self.sample == "weighted":
            flips = any(slot.kind != "scalars" for slot in self.out)
            make = partial(weighted_frames, candidates=self.candidates, flips=flips)
        frames = make(x, mask, group=self.group, weights=weights, batch=batch, num_clouds=num_graphs)
        if self.strict:
            require_gap(frames, self.tol)
        return detached(frames) if self.detach_frames else frames

    def _draw(self, frames: Frames) -> Tensor:
        """Draw one frame for each cloud."""
        device = frames.gap.device if self.generator is None else self.generator.device
        count = frames.rotation.shape[-3]
        drawn = torch.randint(count, frames.gap.shape, generator=self.generator, device=device)
        return drawn.to(frames.gap.device)

    def extra_repr(self) -> str:
        """Return the options for printing."""
        inputs, output = ", ".join(map(str, self.slots)), ", ".join(map(str, self.out))
        return f"group={self.group}, ({inputs}) -> {output}, frames={self.frames}, sample={self.sample}"


def _check_choice(name: str, given: object, choices: Sequence[str]) -> None:
    """Raise where an option is none of the choices."""
    if given not in choices:
        raise ValueError(f"`{name}` (={given!r}) must be one of {', '.join(map(repr, choices))}")


def _by_kind(args: Sequence[Any], slots: Sequence[Slot]) -> dict[str, Any]:
    """Return the first argument of each kind."""
    if len(args) != len(slots):
        raise ValueError(f"expected {len(slots)} arguments ({', '.join(map(str, slots))}), got {len(args)}")
    found: dict[str, Any] = {}
    for slot, value in zip(slots, args, strict=True):
        if isinstance(slot.kind, str):
            found.setdefault(slot.kind, value)
    return found


def _average(
    fn: Callable[..., Any],
    args: Sequence[Any],
    frames: Frames,
    slots: Sequence[Slot],
    out: Sequence[Slot],
    *,
    several: bool,
    options: dict[str, Any],
) -> Any:
    """Call a function with a copy of its arguments for each frame, and average."""
    found = _by_kind(args, slots)
    index = _index(found, frames) if any(slot.ragged for slot in slots) else None
    mask = found.get("mask")
    returned = fn(
        *[_enter(value, slot, frames, index, mask) for value, slot in zip(args, slots, strict=True)],
        **options,
    )
    if not several:
        return _leave(returned, out[0], frames, index)
    if not isinstance(returned, tuple | list) or len(returned) != len(out):
        raise ValueError(f"the module must return {len(out)} tensors ({', '.join(map(str, out))})")
    return tuple(_leave(y, slot, frames, index) for y, slot in zip(returned, out, strict=True))


def _index(found: dict[str, Any], frames: Frames) -> dict[str, Tensor]:
    """Return the graph that each node, edge and graph of a graph batch belongs to."""
    batch, device = found.get("batch"), frames.gap.device
    if batch is None:
        batch = torch.zeros(len(found["positions"]), dtype=torch.long, device=device)
    index = {"node": batch, "graph": torch.arange(len(frames.gap), device=device)}
    if found.get("edge_index") is not None:
        index["edge"] = batch[found["edge_index"][0]]
    return index


def _enter(
    value: Any, slot: Slot, frames: Frames, index: dict[str, Tensor] | None, mask: Tensor | None
) -> Any:
    """Return an argument as the module gets it: from all frames, folded into one batch."""
    if index is not None:
        return _enter_graphs(value, slot, frames, index)
    if not isinstance(value, Tensor):
        return value
    lead = frames.rotation.shape[:-2]
    seen = frame_to(value, frames, "scalars" if slot.kind == "mask" else slot.kind)
    if slot.kind == "positions" and mask is not None:
        # Padding lies in the origin, whatever it held.
        seen = torch.where(mask.unsqueeze(len(lead) - 1)[..., None], seen, 0.0)
    return seen.reshape(lead.numel(), *seen.shape[len(lead) :])


def _enter_graphs(value: Any, slot: Slot, frames: Frames, index: dict[str, Tensor]) -> Any:
    """Return an argument of a graph batch: graphs repeated, one frame after the other."""
    graphs, copies = frames.rotation.shape[:2]
    copy = torch.arange(copies, device=frames.gap.device)[:, None]
    if slot.kind == "batch":
        return (index["node"] + graphs * copy).flatten()
    if slot.kind == "num_graphs":
        return graphs * copies
    if not isinstance(value, Tensor):
        return value
    if slot.kind == "edge_index":
        return (value[:, None] + len(index["node"]) * copy).flatten(1)
    return frame_to(value, frames, slot.kind, batch=index[slot.level]).flatten(0, 1)


def _leave(y: Tensor, slot: Slot, frames: Frames, index: dict[str, Tensor] | None) -> Tensor:
    """Return the average of a result, turned back from each frame."""
    if index is None:
        y = y.reshape(*frames.rotation.shape[:-2], *y.shape[1:])
        return frame_mean(frame_from(y, frames, slot.kind), frames)
    place = index[slot.level]
    y = y.reshape(frames.rotation.shape[1], len(place), *y.shape[1:])
    return frame_mean(frame_from(y, frames, slot.kind, batch=place), frames, batch=place)
