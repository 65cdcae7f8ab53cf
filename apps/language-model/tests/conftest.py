"""A text and a trained model that several tests share."""

import random
from pathlib import Path
from typing import Any

import pytest

TINY: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "experts": 4, "active_experts": 2}
ON_CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of 500 lines of eight words."""
    draw = random.Random(0)
    words = ["the", "sea", "is", "calm", "and", "a", "ship", "with", "white", "sails", "goes", "over", "dark"]
    lines = [" ".join(draw.choice(words) for _ in range(8)).capitalize() + ".\n" for _ in range(500)]
    path = tmp_path_factory.mktemp("text") / "sea.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """Return arguments of `train` for a run of seconds."""
    return {
        "steps": 12,
        "validate_every": 6,
        "context": 16,
        "batch_size": 8,
        "warmup": 2,
        "model": TINY,
        "data_options": {"val_windows": 20},
        "trainer": ON_CPU,
        "progress": False,
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text_file: Path, settings: dict[str, Any]) -> Path:
    """Return the folder of a finished run."""
    from lemmata.apps.language_model import train

    out = tmp_path_factory.mktemp("runs") / "run"
    return train(text_file, out=out, optimizer="adamw", **{**settings, "steps": 60})
