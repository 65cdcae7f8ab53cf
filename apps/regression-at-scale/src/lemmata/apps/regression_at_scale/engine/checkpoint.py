"""What a killed run left behind: the states of finished passes, and how far the last one came.

A folder with `request.json` (what was asked for, of which data), a file a finished pass, and `running.pt`.
Every file is complete or not there. States are exact, so a resumed run folds on as if nothing had happened.
"""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lemmata.apps.kit.files import read_json, write_atomically, write_json
from lemmata.apps.regression_at_scale.engine.passes import State

__all__ = ["Checkpoint", "load_plain", "save_plain"]


class Checkpoint:
    """A folder of checkpoints.

    Args:
        folder: Where they lie; made where it is not there.
        request: Plain values that determine the result: arguments, fingerprint of the data, versions.
        resume: Continue what is there; nothing there is nothing to continue.
        every: Seconds between two checkpoints of a running pass. Where writing takes long, the time between
            is at least twenty times as long.

    Raises:
        ValueError: Where what is there was asked for something else (the message says what), or is broken.
        FileExistsError: Where states are there and `resume` is not given.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> Checkpoint(folder, {"ridge": 0.5}).finish(0, "sketch", {"value": torch.ones(2)})
        >>> Checkpoint(folder, {"ridge": 0.5}, resume=True).finished(0, "sketch")
        {'value': tensor([1., 1.])}
    """

    def __init__(
        self, folder: Path, request: Mapping[str, Any], *, resume: bool = False, every: float = 5.0
    ) -> None:
        self.folder = Path(folder)
        self._every = every
        self._pause = every
        self._saved = time.monotonic()
        begun = self.folder / "request.json"
        if begun.exists() and (resume or any(self.folder.glob("*.pt"))):
            if not resume:
                raise FileExistsError(
                    f"{self.folder}: an unfinished run is there; --resume continues it, --force starts anew"
                )
            _check_same(read_json(begun), dict(request), self.folder)
        else:
            write_json(begun, dict(request))

    def finished(self, number: int, name: str) -> State | None:
        """Return the state of a finished pass.

        Args:
            number: Its place in the run, from 0.
            name: Its name.

        Returns:
            Its state; None where it is not finished.

        Raises:
            ValueError: Where the file is broken.
        """
        path = self._path(number, name)
        return load_plain(path) if path.exists() else None

    def running(self, number: int, name: str) -> tuple[int, State] | None:
        """Return how far a pass came.

        Args:
            number: Its place in the run, from 0.
            name: Its name.

        Returns:
            The number of groups folded, and their state; None where there is nothing.

        Raises:
            ValueError: Where the file is broken.
        """
        path = self.folder / "running.pt"
        if not path.exists():
            return None
        saved = load_plain(path)
        if (saved["number"], saved["name"]) != (number, name):
            return None
        return saved["groups"], saved["state"]

    def save(self, number: int, name: str, groups: int, state: State, *, now: bool = False) -> None:
        """Keep how far a pass came, where the last time is long enough ago.

        Args:
            number: Its place in the run, from 0.
            name: Its name.
            groups: Groups folded.
            state: Their state.
            now: Whether or not it is.
        """
        started = time.monotonic()
        if not now and started - self._saved < self._pause:
            return
        save_plain(
            self.folder / "running.pt", {"number": number, "name": name, "groups": groups, "state": state}
        )
        self._saved = time.monotonic()
        self._pause = max(self._every, 20 * (self._saved - started))

    def finish(self, number: int, name: str, state: State) -> None:
        """Keep the state of a pass that is complete.

        Args:
            number: Its place in the run, from 0.
            name: Its name.
            state: Its state.
        """
        save_plain(self._path(number, name), state)
        (self.folder / "running.pt").unlink(missing_ok=True)

    def _path(self, number: int, name: str) -> Path:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        return self.folder / f"pass-{number:04d}-{plain}.pt"


def save_plain(path: Path, value: Any) -> None:
    """Write tensors and plain values, atomically; the same values give the same bytes.

    Args:
        path: The file.
        value: What `torch.load(weights_only=True)` can read.
    """
    # Saved to a file, the archive would hold the file's name, which is another one each time.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with write_atomically(path) as draft:
        draft.write_bytes(buffer.getbuffer())


def load_plain(path: Path) -> Any:
    """Read what `save_plain` wrote; nothing in the file is run.

    Args:
        path: The file.

    Returns:
        The value, its tensors on the CPU.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is something else, or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its archive reader and unpickler raise
        raise ValueError(f"{path} cannot be read: it is damaged, or not a file of this program") from error


def _check_same(begun: Mapping[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Raise where a run was begun with other arguments or on other data."""
    told = [
        f"`{name}` was {begun.get(name)!r} and is {asked.get(name)!r}"
        for name in dict.fromkeys([*begun, *asked])
        if begun.get(name) != asked.get(name)
    ]
    if told:
        raise ValueError(
            f"the unfinished run at {folder} cannot be continued: {'; '.join(told)}; --force starts anew"
        )
