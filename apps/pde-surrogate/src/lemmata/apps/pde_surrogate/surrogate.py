"""A trained surrogate as a function from arrays to arrays."""

from pathlib import Path

__all__ = ["Surrogate"]


class Surrogate:
    """A trained surrogate as a function from arrays to arrays."""

    @classmethod
    def load(cls, path: Path | str) -> "Surrogate":
        """Load a checkpoint without executing code."""
        raise NotImplementedError
