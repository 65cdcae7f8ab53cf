"""Chunks in smaller pieces, so that what is computed of them stays in cache and small."""

from collections.abc import Callable

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.engine.passes import State

__all__ = ["in_blocks"]

_BLOCK = 4096  # rows


def in_blocks(rows: Rows, partial: Callable[[Rows], State], add: Callable[[State, State], State]) -> State:
    """Fold what blocks of a chunk contribute: the sum over them.

    Args:
        rows: The chunk's rows.
        partial: What a block contributes.
        add: How two states add up.

    Returns:
        The chunk's state.
    """
    total: State | None = None
    for start in range(0, max(len(rows.x), 1), _BLOCK):
        part = slice(start, start + _BLOCK)
        weights = None if rows.weights is None else rows.weights[part]
        state = partial(Rows(rows.offset + start, rows.x[part], rows.y[part], weights))
        total = state if total is None else add(total, state)
    assert total is not None  # noqa: S101  # there is at least one block
    return total
