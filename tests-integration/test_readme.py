"""The README's commands do what it says."""

import os
import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEST_COMMAND = "uv run nox"
SMALLER = {
    "uv run interatomic demo": "uv run interatomic demo --frames 20 --epochs 2 --picoseconds 0.02",
    "uv run language-model demo": "uv run language-model demo --steps 6 --width 16 --depth 1",
    "uv run pde-surrogate demo": "uv run pde-surrogate demo --preset small",
    "uv run regression-at-scale demo": "uv run regression-at-scale demo --gigabytes 0.05 --columns 12",
}


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [
        line
        for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if line and line != TEST_COMMAND
    ]


def test_the_readme_has_every_demo_and_the_test_command() -> None:
    assert set(SMALLER) <= set(commands())
    assert f"\n{TEST_COMMAND}\n" in (ROOT / "README.md").read_text()


def test_every_command_runs(tmp_path: Path) -> None:
    for command in commands():
        tool, run, *arguments = shlex.split(SMALLER.get(command, command))
        assert (tool, run) == ("uv", "run")
        result = subprocess.run(
            arguments, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ
        )
        assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
