"""The folder of a run: complete or not there, never overwritten by accident.

Results are gathered in `OUT.partial`, beside the checkpoints, and renamed to `OUT` at the end.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lemmata.apps.kit.files import new_output, read_json
from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint

__all__ = ["RunFolder"]

_MARK = "report.json"


class RunFolder:
    """Where a run writes.

    Args:
        out: The folder that will be there when the run is complete.
        request: Plain values that determine the result.
        resume: Continue an unfinished run of the same request; start where there is none.
        force: Replace a run, finished or not.

    Raises:
        FileExistsError: Where there is something, and neither `resume` nor `force`; or something that is not
            a run.
        ValueError: Where `resume` finds a run of another request.
    """

    def __init__(
        self, out: Path, request: Mapping[str, Any], *, resume: bool = False, force: bool = False
    ) -> None:
        if resume and force:
            raise ValueError("`resume` continues a run and `force` starts anew; give one of them")
        self.out = Path(out)
        self.request = dict(request)
        self._partial = self.out.with_name(self.out.name + ".partial")
        self._resume, self._force = resume, force
        self.complete = resume and not self._partial.exists() and self._is_same_run()
        if not self.complete:
            self._check_free()

    def begin(self) -> Checkpoint:
        """Return the checkpoints to continue, or a place for new ones.

        Returns:
            The checkpoints.

        Raises:
            FileExistsError: Where there is an unfinished run, and neither `resume` nor `force`.
            ValueError: Where the unfinished run is of another request.
        """
        if self._force and self._partial.exists():
            shutil.rmtree(self._partial)
        return Checkpoint(self._partial / "checkpoint", self.request, resume=self._resume)

    def abandon(self) -> None:
        """Remove what an unfinished run left, where other arguments or other data must be given anyway."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def publish(self, write: Callable[[Path], None]) -> None:
        """Write the results, and give them their place at once.

        Args:
            write: Writes all files into the folder it is given.
        """
        results = self._partial / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        write(results)
        free = new_output(self.out, force=self._force)
        if free.exists():
            free.rmdir()
        results.rename(free)
        shutil.rmtree(self._partial, ignore_errors=True)

    def _check_free(self) -> None:
        """Raise where something is in the way."""
        out = self.out
        if not (out.is_symlink() or out.exists()) or (out.is_dir() and not any(out.iterdir())):
            return
        if not (out / _MARK).is_file():
            raise FileExistsError(f"{out} exists and is not a run; choose another folder, or remove it")
        if not self._force:
            raise FileExistsError(f"{out} exists already; pass --force to replace it")

    def _is_same_run(self) -> bool:
        """Tell whether the run asked for is there; raise where another one is."""
        if not (self.out / _MARK).is_file():
            return False
        done = read_json(self.out / _MARK).get("request", {})
        told = [
            f"`{name}` was {done.get(name)!r} and is {self.request.get(name)!r}"
            for name in dict.fromkeys([*done, *self.request])
            if done.get(name) != self.request.get(name)
        ]
        if told:
            raise ValueError(
                f"the run at {self.out} is complete, and another one: {'; '.join(told)}; --force replaces it"
            )
        return True
