"""Run passes over the rows, in parallel, in bounded memory, and with one result.

Floating-point sums depend on their order, so the order is fixed: chunks are folded from left to right in
groups of a fixed number of consecutive chunks, each group inside one task, and the groups' states are folded
in the order of the rows. How many workers there are, where they run, who finishes first, and whether a run
was killed and resumed in between changes nothing, not a bit. No more groups are under way than twice the
number of workers, so memory is bounded by the workers' chunks and those states, however many the rows.
"""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint
from lemmata.apps.regression_at_scale.engine.passes import Pass, Source, State
from lemmata.apps.regression_at_scale.engine.progress import Progress, Silent
from lemmata.apps.regression_at_scale.engine.scheduler import Future, Workers, connect, settle, should_stop

__all__ = ["Engine"]


class Engine:
    """Runs passes over a source of rows.

    Args:
        dataset: Where rows come from; `run` may be given another one.
        scheduler: `"local"`, the address of a Dask scheduler, or workers that `connect` has opened.
        workers: Threads of this process where the scheduler is `"local"`, one a core where not given.
        checkpoint: Where states are kept between runs; None to keep nothing.
        progress: Who is told how far a run is; nobody by default.
        group: Consecutive chunks that one task folds, part of what makes a result reproducible to the bit. By
            default 1 for up to 128 chunks, then one more every 64, up to 8.
        passes: How many passes there will be, for who is told.
        size: Bytes of the files that a pass reads, for who is told.

    Attributes:
        records: What each of them was: `name`, `rows`, `seconds` of this run.

    Raises:
        ValueError: Where `group` is not positive.

    Examples:
        >>> from types import SimpleNamespace as Chunk
        >>> class Source:
        ...     chunks = [Chunk(rows=3, start=0), Chunk(rows=4, start=3), Chunk(rows=3, start=7)]
        ...     read = staticmethod(lambda chunk: range(chunk.start, chunk.start + chunk.rows))
        >>> class Sum:
        ...     name = "sum"
        ...     partial = staticmethod(lambda rows: {"sum": sum(rows)})
        ...     add = staticmethod(lambda a, b: {"sum": a["sum"] + b["sum"]})
        >>> Engine(Source(), workers=2).run(Sum())
        {'sum': 45}
    """

    def __init__(
        self,
        dataset: Source,
        *,
        scheduler: str | Workers = "local",
        workers: int | None = None,
        checkpoint: Checkpoint | None = None,
        progress: Progress | None = None,
        group: int | None = None,
        passes: int | None = None,
        size: int | None = None,
    ) -> None:
        if group is not None and group < 1:
            raise ValueError(f"`group` (={group}) must be at least 1")
        self.dataset = dataset
        self.checkpoint = checkpoint
        self.progress: Progress = progress or Silent()
        self.passes = passes
        self.size = size
        self.records: list[dict[str, Any]] = []
        self._scheduler = scheduler
        self._workers = workers
        self._group = group

    @property
    def passes_run(self) -> int:
        """Passes over the rows so far, with those that earlier runs finished."""
        return len(self.records)

    def run(self, task: Pass, dataset: Source | None = None) -> State:
        """Run a pass over all rows.

        A pass that an earlier, killed run finished is not run again; one it left unfinished continues.

        Args:
            task: The pass.
            dataset: Rows other than the engine's.

        Returns:
            The state of all rows.

        Raises:
            ValueError: Where there are no rows, or the pass or the source refuses some; of several refusals
                the first in the order of the rows.
            OSError: Where a file or the cluster is lost.
        """
        source = self.dataset if dataset is None else dataset
        number, started = self.passes_run, time.perf_counter()
        kept = self.checkpoint.finished(number, task.name) if self.checkpoint else None
        state = self._fold(task, source, number) if kept is None else kept
        rows, seconds = sum(chunk.rows for chunk in source.chunks), time.perf_counter() - started
        self.records.append({"name": task.name, "rows": rows, "seconds": round(seconds, 3)})
        if kept is None and self.checkpoint:
            self.checkpoint.finish(number, task.name, state)
        return state

    def _fold(self, task: Pass, source: Source, number: int) -> State:
        """Fold all groups, on from where an earlier run came to."""
        chunks = list(source.chunks)
        if not chunks:
            raise ValueError("the data has no rows")
        group = self._group or min(8, max(1, len(chunks) // 64))
        groups = [chunks[a:b] for a, b in pairwise([*range(0, len(chunks), group), len(chunks)])]
        done, state = (self.checkpoint and self.checkpoint.running(number, task.name)) or (0, None)
        rows = [sum(chunk.rows for chunk in members) for members in groups]
        self.progress.start(task.name, number + 1, self.passes, sum(rows), sum(rows[:done]), self.size)
        with ExitStack() as stack:
            pool = self._scheduler
            if isinstance(pool, str):
                pool = stack.enter_context(connect(pool, self._workers))
            state = self._slide(pool, task, source, groups, rows, done, state, number)
        self.progress.finish()
        return state

    def _slide(
        self,
        pool: Workers,
        task: Pass,
        source: Source,
        groups: Sequence[Sequence[Any]],
        rows: Sequence[int],
        done: int,
        state: State | None,
        number: int,
    ) -> State:
        """Keep a window of tasks busy and fold their states in order."""
        window = 2 * pool.count
        shared = pool.share((task, source))
        waiting: deque[Future] = deque()
        handed_out = done
        try:
            while done < len(groups):
                while handed_out < len(groups) and len(waiting) < window:
                    waiting.append(pool.submit(_fold_group, shared, groups[handed_out]))
                    handed_out += 1
                part = pool.collect(waiting[0])
                waiting.popleft()
                state = part if state is None else task.add(state, part)
                del part
                done += 1
                self.progress.advance(rows[done - 1])
                if self.checkpoint and done < len(groups):
                    self.checkpoint.save(number, task.name, done, state)
        except BaseException:
            for future in waiting:
                future.cancel()
            # An addition cut short may have left half of a sum; what is on the disk is whole.
            raise
        assert state is not None  # noqa: S101  # there is at least one group
        return state


def _fold_group(shared: tuple[Pass, Source], chunks: Sequence[Any]) -> State:
    """Read a group's chunks from left to right and add up their states."""
    task, source = shared
    state: State | None = None
    settle()
    # A source that streams opens a file once for all chunks that lie in it.
    stream = getattr(source, "stream", None)
    blocks = iter(map(source.read, chunks) if stream is None else stream(chunks))
    for _ in chunks:
        if should_stop():
            raise InterruptedError("nobody waits for this any more")
        rows = next(blocks)
        part = task.partial(rows)
        del rows  # before the next ones are read
        state = part if state is None else task.add(state, part)
    assert state is not None  # noqa: S101  # a group has at least one chunk
    return state
