"""What the tests of whole programs share: running one, and killing it part of the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def command(name: str) -> str:
    """Return the path of a console script of this environment."""
    return str(Path(sys.executable).parent / name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a console script in an empty folder, and expect an exit code."""

    def start(name: str, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [command(name), *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == expect, f"{name} {arguments}:\n{result.stdout}\n{result.stderr}"
        return result

    return start


@pytest.fixture
def kill_when(tmp_path: Path) -> Callable[..., bool]:
    """Start a console script, and kill it and its children with SIGKILL once a condition holds."""

    def start(reached: Callable[[], bool], name: str, *arguments: object) -> bool:
        process = subprocess.Popen(
            [command(name), *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        try:
            while process.poll() is None and not reached():
                assert time.monotonic() < deadline, "the condition was never reached"
                time.sleep(0.002)
            return process.poll() is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start
