"""What a pass over the rows is: a state a chunk, and how two states add up.

A method reads a table through passes alone. `Engine.run` decides where and in what order chunks are read; the
pass only says what a chunk contributes. States are plain mappings of tensors and numbers, so that they
travel between machines, and wait in a checkpoint, without code of their own.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["Pass", "Source", "State"]

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and mappings of these: what `torch.load(weights_only=True)` reads."""


@runtime_checkable
class Pass(Protocol):
    """What one pass over the rows gathers. An object of this kind is immutable and can be pickled."""

    @property
    def name(self) -> str:
        """What people see: one or two words."""

    def partial(self, rows: Any) -> State:
        """Return what a chunk contributes.

        Args:
            rows: What the source's `read` returned.

        Returns:
            Its state.

        Raises:
            ValueError: Where the rows cannot be used; the message says which.
        """

    def add(self, first: State, second: State) -> State:
        """Merge the states of two disjoint sets of rows; may change and return `first`.

        Args:
            first: State of the rows that come first.
            second: State of rows after them.

        Returns:
            The state of both.
        """


@runtime_checkable
class Source(Protocol):
    """Where rows come from: a `Dataset`, or anything picklable with chunks."""

    @property
    def chunks(self) -> Sequence[Any]:
        """Pieces in the order of the rows; each has `rows`, the number of its rows."""

    def read(self, chunk: Any) -> Any:
        """Return a chunk's rows.

        Args:
            chunk: One of `chunks`.

        Returns:
            What passes take.
        """
