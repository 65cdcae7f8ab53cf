"""What a run tells while it works: a bar in a terminal, or one JSON object a line, or nothing."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

__all__ = ["Progress", "Silent", "open_progress"]


@runtime_checkable
class Progress(Protocol):
    """Who is told how far a run is."""

    def start(self, name: str, number: int, of: int | None, rows: int, done: int, size: int | None) -> None:
        """Hear that a pass begins.

        Args:
            name: Its name.
            number: Its place, from 1.
            of: How many there will be, where that is known.
            rows: Rows it reads.
            done: Rows that an earlier run has read.
            size: Bytes of all rows on the disk, where that is known.
        """

    def advance(self, rows: int) -> None:
        """Hear that rows were read and folded in.

        Args:
            rows: How many more.
        """

    def finish(self) -> None:
        """Hear that the pass is complete."""

    def result(self, **values: Any) -> None:
        """Hear what came out.

        Args:
            values: Plain values.
        """


class Silent:
    """Tells nobody."""

    def start(self, name: str, number: int, of: int | None, rows: int, done: int, size: int | None) -> None:
        """Ignore a pass."""

    def advance(self, rows: int) -> None:
        """Ignore its rows."""

    def finish(self) -> None:
        """Ignore its end."""

    def result(self, **values: Any) -> None:
        """Ignore what came out."""


@contextmanager
def open_progress(*, as_json: bool = False, quiet: bool = False) -> Iterator[Progress]:
    """Open what suits: JSON lines where asked for, a bar in a terminal, else nothing.

    Args:
        as_json: Write events to stdout, one JSON object a line.
        quiet: Show no bar.

    Yields:
        Whom to tell.

    Examples:
        >>> with open_progress(quiet=True) as progress:
        ...     progress.start("sketch", 1, 3, 100, 0, None)
    """
    if as_json:
        yield _JsonLines()
    elif quiet or not sys.stderr.isatty():
        yield Silent()
    else:
        with _bar() as bar:
            yield bar


class _JsonLines:
    """Events as JSON, one a line; at most two a second while rows go by."""

    def __init__(self, pause: float = 0.5) -> None:
        self._pause = pause
        self._common: dict[str, Any] = {}
        self._rows = self._done = self._first = 0
        self._size: int | None = None
        self._begun = self._told = time.monotonic()

    def start(self, name: str, number: int, of: int | None, rows: int, done: int, size: int | None) -> None:
        """Tell that a pass begins."""
        self._common = {"pass": number, "of": of, "name": name}
        self._rows, self._done, self._first, self._size = rows, done, done, size
        self._begun = self._told = time.monotonic()
        self._tell("pass_started", rows=rows, done=done, bytes=size)

    def advance(self, rows: int) -> None:
        """Tell how far it is, unless that was just told."""
        self._done += rows
        now = time.monotonic()
        if now - self._told >= self._pause:
            self._told = now
            self._tell("progress", **self._figures(now))

    def finish(self) -> None:
        """Tell that the pass is complete."""
        now = time.monotonic()
        self._tell("pass_finished", seconds=round(now - self._begun, 3), **self._figures(now))

    def result(self, **values: Any) -> None:
        """Tell what came out."""
        self._common = {}
        self._tell("result", **values)

    def _figures(self, now: float) -> dict[str, Any]:
        speed = (self._done - self._first) / max(now - self._begun, 1e-9)
        left = (self._rows - self._done) / speed if speed > 0 else None
        figures: dict[str, Any] = {"rows": self._rows, "done": self._done, "rows_per_second": round(speed, 1)}
        figures["seconds_left"] = None if left is None else round(left, 1)
        if self._size is not None:
            figures["bytes_read"] = round(self._size * self._done / max(self._rows, 1))
        return figures

    def _tell(self, event: str, **values: Any) -> None:
        sys.stdout.write(json.dumps({"event": event, **self._common, **values}, ensure_ascii=False) + "\n")
        sys.stdout.flush()


class _Bar:
    """A bar a pass in the terminal."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None
        self._rows = self._done = 0
        self._size: int | None = None

    def start(self, name: str, number: int, of: int | None, rows: int, done: int, size: int | None) -> None:
        """Begin a bar."""
        title = f"pass {number}" + (f" of {of}" if of else "") + f": {name}"
        self._rows, self._done, self._size = rows, done, size
        self._task = self._progress.add_task(title, total=rows, completed=done, read="", speed="")
        self._show()

    def advance(self, rows: int) -> None:
        """Lengthen the bar."""
        self._done += rows
        self._progress.advance(self._task, rows)
        self._show()

    def finish(self) -> None:
        """Leave the bar full."""
        self._progress.update(self._task, completed=self._rows)
        self._progress.stop_task(self._task)
        self._show()

    def result(self, **values: Any) -> None:
        """Show no more than the bars; the verb tells the result."""

    def _show(self) -> None:
        task = self._progress.tasks[self._task]
        speed = task.finished_speed or task.speed
        read = "" if self._size is None else _bytes(self._size * self._done / max(self._rows, 1))
        self._progress.update(self._task, read=read, speed=f"{speed:,.0f} rows/s" if speed else "")


@contextmanager
def _bar() -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[read]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    ) as progress:
        yield _Bar(progress)


def _bytes(count: float) -> str:
    """Return a number of bytes for reading."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
