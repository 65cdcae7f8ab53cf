"""The command line ``pde-surrogate``."""

__all__ = ["main"]


def main() -> int:
    """Run the command line."""
    raise NotImplementedError
