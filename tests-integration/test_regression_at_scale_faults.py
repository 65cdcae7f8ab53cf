"""regression-at-scale killed, resumed, spread over processes: the same bytes; and bounded memory."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

GENERATE = ("generate", "table", "--rows", 400_000, "--columns", 12, "--outliers", 0.01, "--dtype", "float64")
FIT = ("fit", "table", "--target", "y", "--chunk_rows", 4000, "--workers", 1)


@pytest.fixture
def table(tmp_path, run):
    run("regression-at-scale", *GENERATE)
    return tmp_path / "table"


def model(folder: Path) -> bytes:
    return (folder / "model.pt").read_bytes()


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_fit_killed_twice_and_resumed_ends_with_the_same_bytes(tmp_path, table, run, kill_when, loss):
    run("regression-at-scale", *FIT, "--loss", loss, "--out", "whole")
    checkpoint = tmp_path / "broken.partial" / "checkpoint"
    fit = (*FIT, "--loss", loss, "--out", "broken")
    assert kill_when(lambda: len(list(checkpoint.glob("pass-*.pt"))) >= 1, "regression-at-scale", *fit)
    assert not (tmp_path / "broken").exists()
    refused = run("regression-at-scale", *fit, expect=2)
    assert "--resume" in refused.stderr
    resume = (*fit, "--resume")
    assert kill_when(lambda: len(list(checkpoint.glob("pass-*.pt"))) >= 2, "regression-at-scale", *resume)
    run("regression-at-scale", *resume)
    assert model(tmp_path / "broken") == model(tmp_path / "whole")
    assert not (tmp_path / "broken.partial").exists()


def test_a_resumed_fit_refuses_other_data_and_other_arguments(tmp_path, table, run, kill_when):
    checkpoint = tmp_path / "run.partial" / "checkpoint"
    fit = (*FIT, "--out", "run")
    assert kill_when(lambda: len(list(checkpoint.glob("pass-*.pt"))) >= 1, "regression-at-scale", *fit)
    other = run("regression-at-scale", *fit, "--resume", "--seed", 7, expect=2)
    assert "seed" in other.stderr
    os.utime(table / "part-00001.parquet", (1, 1))
    changed = run("regression-at-scale", *fit, "--resume", expect=2)
    assert changed.stderr.count("\n") == 1
    assert "data" in changed.stderr


def test_generate_killed_and_started_again_makes_the_same_table(tmp_path, run, kill_when):
    generate = ("generate", "one", "--rows", 600_000, "--columns", 10, "--files", 6)
    partial = tmp_path / "one.partial"
    assert kill_when(lambda: len(list(partial.glob("part-*.parquet"))) >= 2, "regression-at-scale", *generate)
    assert not (tmp_path / "one").exists()
    run("regression-at-scale", *generate)
    run("regression-at-scale", "generate", "two", *generate[2:])
    for part in sorted((tmp_path / "two").glob("*.parquet")):
        assert (tmp_path / "one" / part.name).read_bytes() == part.read_bytes()


def test_a_cluster_of_processes_gives_the_same_bytes_even_when_a_worker_dies(tmp_path, table, run):
    run("regression-at-scale", *FIT, "--out", "local")
    program = textwrap.dedent("""
        import json, sys, time
        from distributed import LocalCluster
        if __name__ == "__main__":
            with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
                workers = [worker.pid for worker in cluster.workers.values()]
                print(json.dumps([cluster.scheduler_address, workers]), flush=True)
                sys.stdin.read()
    """)
    script = tmp_path / "cluster.py"
    script.write_text(program)
    cluster = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert cluster.stdout is not None
        address, workers = json.loads(cluster.stdout.readline())
        fit = (*FIT[:-2], "--scheduler", address)
        run("regression-at-scale", *fit, "--out", "spread")
        assert model(tmp_path / "spread") == model(tmp_path / "local")
        killed = subprocess.Popen(
            [Path(sys.executable).parent / "regression-at-scale", *map(str, fit), "--out", "bereft"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        checkpoint = tmp_path / "bereft.partial" / "checkpoint"
        deadline = time.monotonic() + 120
        while not list(checkpoint.glob("pass-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)
        _, errors = killed.communicate(timeout=300)
        assert killed.returncode == 0, errors
        assert model(tmp_path / "bereft") == model(tmp_path / "local")
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.communicate()  # closes its pipes


def test_memory_does_not_grow_with_the_table(tmp_path, run):
    peaks = []
    for rows in (400_000, 1_200_000):
        out = tmp_path / str(rows)
        run("regression-at-scale", "generate", out, "--rows", rows, "--columns", 40, "--dtype", "float64")
        program = (
            "from lemmata.apps.regression_at_scale import fit\n"
            "from lemmata.apps.regression_at_scale.engine.memory import peak_memory\n"
            f"fit([{str(out)!r}], target='y', out={str(out) + '-run'!r}, workers=1, chunk_rows=16384,"
            " quiet=True)\n"
            "print(peak_memory())\n"
        )
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        peaks.append(float(told.stdout))
    # Both tables are many chunks; the larger one is 262 MB larger.
    assert peaks[1] < peaks[0] + 40, peaks
