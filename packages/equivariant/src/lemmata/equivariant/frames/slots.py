"""The words by which a network's arguments and results are described to frame averaging.

A word is a kind, or in graph batches a level and a kind: `"vectors"`, `"edge vectors"`, `"graph 2x0e+1x2e"`.
Some words name what holds clouds together instead: `"mask"`, or `"batch"`, `"edge_index"` and
`"num_graphs"`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lemmata.equivariant.frames.action import Kind, check_kind
from lemmata.equivariant.o3.irreps import Irreps

__all__ = ["Slot", "parse_slots"]

LEVELS = ("node", "edge", "graph")
STRUCTURE = ("mask", "batch", "edge_index", "num_graphs")


class Slot(NamedTuple):
    """What one argument or result holds.

    Attributes:
        kind: A kind, or the name of what holds clouds together.
        level: `"node"`, `"edge"` or `"graph"`: what a row of it belongs to in a graph batch.
    """

    kind: Kind
    level: str = "node"

    @property
    def ragged(self) -> bool:
        """Whether it exists in graph batches only."""
        return self.level != "node" or self.kind in STRUCTURE[1:]

    def __str__(self) -> str:
        """Return the word."""
        return str(self.kind) if self.level == "node" else f"{self.level} {self.kind}"


def parse_slots(
    inputs: Sequence[Kind], output: Kind | Sequence[Kind]
) -> tuple[tuple[Slot, ...], tuple[Slot, ...], bool]:
    """Read the words of arguments and results.

    Args:
        inputs: A word for each argument.
        output: A word, or a sequence of words where several tensors are returned.

    Returns:
        The arguments' slots, the results' slots, and whether a sequence is returned.

    Raises:
        ValueError: Where a word is unknown, or words do not fit together.
        TypeError: Where `inputs` are one word.

    Examples:
        >>> parse_slots(["positions", "batch"], "graph scalars")[1]
        (Slot(kind='scalars', level='graph'),)
    """
    if isinstance(inputs, str | Irreps):
        raise TypeError(f"`inputs` (={inputs!r}) must be a sequence of words, one for each argument")
    several = not isinstance(output, str | Irreps)
    slots = tuple(_parse(word, "inputs") for word in inputs)
    out = tuple(_parse(word, "output") for word in ([output] if isinstance(output, str | Irreps) else output))
    kinds = {slot.kind for slot in slots if isinstance(slot.kind, str)}
    ragged = any(slot.ragged for slot in slots)
    if ragged and "mask" in kinds:
        raise ValueError("`inputs` describe dense clouds ('mask') and graph batches at once")
    for slot in (*slots, *out):
        if slot.level == "edge" and "edge_index" not in kinds:
            raise ValueError(f"{str(slot)!r} needs 'edge_index' among `inputs`")
        if slot.level == "graph" and "batch" not in kinds:
            raise ValueError(f"{str(slot)!r} needs 'batch' among `inputs`: which graph a node is of")
    return slots, out, several


def _parse(word: Kind, name: str) -> Slot:
    """Read one word."""
    if isinstance(word, Irreps):
        return Slot(word)
    if word in STRUCTURE and name == "inputs":
        return Slot(word)
    level, _, rest = word.partition(" ")
    try:
        return Slot(check_kind(rest.strip()), level) if level in LEVELS else Slot(check_kind(word))
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from None
