"""Run the whole pipeline on Darcy flow: generate, fit, evaluate, compare, plot."""

from pathlib import Path
from typing import Literal

__all__ = ["demo"]


def demo(
    *,
    out: Path = Path("runs/demo"),
    preset: Literal["full", "small"] = "full",
    force: bool = False,
    seed: int = 0,
) -> Path:
    """Run the whole pipeline on Darcy flow."""
    raise NotImplementedError
