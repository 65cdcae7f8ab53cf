r"""A sample of fixed size, by importance, that is merged from any pieces: priority sampling.

Row $i$ has a score $s_i$ and a uniform number $u_i$ that is a function of the seed and of $i$ alone. Its
priority is $u_i / s_i$; the `size` rows of smallest priority are kept, and the next one is the threshold $t$.
Given the others, a kept row was kept with probability $q_i = \min(1, s_i t)$, and weights $1/q_i$ make every
weighted sum unbiased. As the smallest of a union are among the smallest of its parts, samples of pieces add
up to the sample of the whole: whatever the chunks, their order and the machine, to the last bit.

References:
    N. Duffield, C. Lund, M. Thorup, Priority sampling for estimation of arbitrary subset sums, 2007.

Axis letters: n rows of a block, s rows held (at most size + 1), k columns carried along.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lemmata.sketching.lp.sampling import Coreset, check_scores
from lemmata.sketching.operators import counter

__all__ = ["PrioritySample"]

_SMALLEST = 1e-300  # a positive score below counts as this, so that no priority overflows
_RECIPE = ("size", "seed", "rows")
_HELD = ("indices", "priorities", "scores", "payload")


@dataclass(frozen=True, eq=False)
class HeldRows:
    """The rows that a sample holds, by ascending priority.

    Args:
        indices: Which rows.
        priorities: Their priorities $u_i / s_i$, float64.
        scores: Their scores, float64.
        payload: What came with them.
    """

    indices: Int[Tensor, " s"]
    priorities: Float[Tensor, " s"]
    scores: Float[Tensor, " s"]
    payload: Shaped[Tensor, "s k"] | None = None

    def select(self, order: Int[Tensor, " t"]) -> "HeldRows":
        """Return the rows at these positions."""
        payload = None if self.payload is None else self.payload[order]
        return HeldRows(self.indices[order], self.priorities[order], self.scores[order], payload)


@dataclass(frozen=True, eq=False)
class PrioritySample:
    r"""A sample of `size` rows with probabilities proportional to scores; `+` merges two.

    An instance without rows is the recipe: `PrioritySample(size, seed).partial(scores, row_offset, payload)`
    is the sample of a block, and the sum over blocks is the sample of all rows. It holds size + 1 rows at
    most, is immutable, and travels (pickle, `state_dict`).

    Args:
        size: Rows to keep.
        seed: Any integer. Samples of the same seed are merged; another seed is an independent sample.
        rows: Rows seen so far.
        held: The size + 1 rows of smallest priority.

    Raises:
        ValueError: Where `size` is below 1.

    Examples:
        >>> recipe, scores = PrioritySample(3, seed=1), torch.linspace(0.1, 1.0, 100)
        >>> whole = recipe.partial(scores, 0)
        >>> parts = recipe.partial(scores[60:], 60) + recipe.partial(scores[:60], 0)
        >>> len(parts.coreset()), bool((whole.coreset().weights == parts.coreset().weights).all())
        (3, True)

    References:
        Duffield, Lund and Thorup 2007.
    """

    size: int
    seed: int = 0
    rows: int = 0
    held: HeldRows | None = None

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size < 1:
            raise ValueError(f"`size` (={self.size}) must be at least 1")

    def partial(
        self, scores: Tensor, row_offset: int, payload: Tensor | Callable[[Tensor], Tensor] | None = None
    ) -> "PrioritySample":
        """Return the sample of one block, by this one's recipe; rows that this one holds are not in it.

        Args:
            scores: Importance of the block's rows, not negative, finite, shape (n,). Rows of score 0 are
                never kept. Only ratios matter, so the scores of all blocks must be on one scale.
            row_offset: Index of the block's first row among all rows.
            payload: What to carry along with kept rows, shape (n, k); or a function from the positions of
                kept rows in the block, (s,), to what is theirs, (s, k), which spares the others a copy.

        Raises:
            ValueError: Where scores are negative or not finite, the offset is negative, or the payload's
                shape does not fit.
        """
        check_scores(scores)
        n = scores.numel()
        if row_offset < 0:
            raise ValueError(f"`row_offset` (={row_offset}) must not be negative")
        if isinstance(payload, Tensor) and (payload.ndim != 2 or len(payload) != n):
            raise ValueError(
                f"`payload` must have shape ({n}, k) like the scores, got {tuple(payload.shape)}"
            )
        local = (scores > 0).nonzero()[:, 0]
        positive = scores.detach()[local].double().clamp(min=_SMALLEST)
        # A quotient of two given numbers is rounded in one way only: the same bits in every chunking.
        priorities = counter.uniforms(self.seed, local + row_offset)[0] / positive
        order = torch.argsort(priorities, stable=True)[: self.size + 1]
        local = local[order]
        kept_payload = None
        if payload is not None:
            kept_payload = (payload[local] if isinstance(payload, Tensor) else payload(local)).detach()
        held = HeldRows(local + row_offset, priorities[order], positive[order], kept_payload)
        return replace(self, rows=n, held=held)

    def __add__(self, other: "PrioritySample") -> "PrioritySample":
        """Merge the samples of disjoint sets of rows.

        Raises:
            ValueError: Where sizes, seeds or payloads differ, or both hold the same row.
        """
        for name in ("size", "seed"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise ValueError(f"cannot merge samples with different {name}s: {mine} and {others}")
        rows = self.rows + other.rows
        if self.held is None or other.held is None:
            return replace(self, rows=rows, held=self.held or other.held)
        both = _concatenate(self.held, other.held)
        # First by index, then stably by priority: a tie goes to the smaller index in every order of merging.
        by_index = torch.argsort(both.indices)
        by_priority = by_index[torch.argsort(both.priorities[by_index], stable=True)]
        return replace(self, rows=rows, held=both.select(by_priority[: self.size + 1]))

    def coreset(self) -> Coreset:
        """Return the kept rows by ascending index, with weights 1/q and their payload as `rows`.

        Where no more than `size` rows had a positive score, all of them are there, with weight 1.

        Raises:
            ValueError: Where no block has been sampled.
        """
        held = self.held
        if held is None:
            raise ValueError("the sample is empty: add what `partial` returns for at least one block")
        q = torch.ones_like(held.scores)
        if len(q) > self.size:
            q = (held.scores * held.priorities[self.size]).clamp(max=1)
        order = torch.argsort(held.indices[: self.size])
        kept = held.select(order)
        return Coreset(kept.indices, 1 / q[order], q[order], kept.payload)

    @property
    def payload(self) -> Shaped[Tensor, "s k"] | None:
        """What was carried along with the rows of `coreset()`, in its order."""
        return None if self.held is None else self.coreset().rows

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `torch.load` reads with `weights_only=True`."""
        recipe = {name: getattr(self, name) for name in _RECIPE}
        return recipe | {name: None if self.held is None else getattr(self.held, name) for name in _HELD}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "PrioritySample":
        """Return the sample that `state_dict` described.

        Raises:
            ValueError: Where keys are missing or unknown.
        """
        if set(state) != {*_RECIPE, *_HELD}:
            raise ValueError(f"`state` has keys {sorted(state)}, expected {sorted((*_RECIPE, *_HELD))}")
        held = None if state["indices"] is None else HeldRows(**{name: state[name] for name in _HELD})
        return cls(**{name: state[name] for name in _RECIPE}, held=held)


def _concatenate(a: HeldRows, b: HeldRows) -> HeldRows:
    """Return all rows of both, in no order, after a check that they can be."""
    indices = torch.cat((a.indices, b.indices))
    distinct, counts = torch.unique(indices, return_counts=True)
    if len(distinct) < len(indices):
        raise ValueError(f"cannot merge samples that both hold row {int(distinct[counts > 1][0])}")
    payload = None
    if a.payload is not None and b.payload is not None and a.payload.shape[1] == b.payload.shape[1]:
        payload = torch.cat((a.payload, b.payload))
    elif a.payload is not None or b.payload is not None:
        widths = ["none" if rows.payload is None else rows.payload.shape[1] for rows in (a, b)]
        raise ValueError(f"cannot merge payloads of different columns: {widths[0]} and {widths[1]}")
    priorities = torch.cat((a.priorities, b.priorities))
    return HeldRows(indices, priorities, torch.cat((a.scores, b.scores)), payload)
