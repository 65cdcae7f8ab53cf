"""What the tests of whole programs share: running one, and killing it part of the way."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start two processes of a console script under torchrun; whatever still runs at the end is killed."""
    started = []

    def start(name: str, *arguments: object) -> subprocess.Popen[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        program = [command("torchrun"), "--nproc-per-node=2", f"--master-port={port}", command(name)]
        process = subprocess.Popen(
            [*program, *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
