"""The command line: quick help, one-line errors, published data, kill and resume, several processes."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemmata.apps.kit.cli import main as run
from lemmata.apps.pde_surrogate.__main__ import APP
from lemmata.apps.pde_surrogate.equations import make_equation
from lemmata.apps.pde_surrogate.store import write_store

COMMAND = [sys.executable, "-m", "lemmata.apps.pde_surrogate"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SMALL = [
    "--model.size=S",
    '--model.overrides={"width": 8, "modes": 6, "depth": 2}',
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
]


@pytest.fixture(scope="module")
def darcy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(0)
    data = make_equation("darcy").dataset(40, 12, generator=generator, fine_factor=1)
    return write_store(tmp_path_factory.mktemp("data") / "train.zarr", data)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ends with."""
    assert run(APP, arguments) == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(written)
    return written[-1]


@pytest.mark.parametrize(
    "verb", [[], ["demo"], ["generate"], ["evaluate"], ["plot"], ["predict"], ["inspect"]]
)
def test_help_imports_no_pytorch(verb: list[str]) -> None:
    program = (
        "import sys\n"
        "from lemmata.apps.kit.cli import main\n"
        "from lemmata.apps.pde_surrogate.__main__ import APP\n"
        f"main(APP, {[*verb, '--help']})\n"
        "sys.exit(len({'torch', 'zarr', 'dask'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("usage: ")


def test_every_name_of_the_python_api_is_there() -> None:
    import lemmata.apps.pde_surrogate as api

    for name in api.__all__:
        assert callable(getattr(api, name)), name


@pytest.mark.slow
def test_fit_evaluate_plot_and_predict(
    darcy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    fit = ["fit", f"--data.train={darcy}", f"--out={out}", "--trainer.max_epochs=1", *SMALL]
    assert run(APP, fit) == 0
    assert run(APP, ["evaluate", str(out), "--res=[12]", "--n=2"]) == 0
    assert run(APP, ["plot", str(out)]) == 0
    assert (out / "evaluation" / "plots" / "training.svg").is_file()
    np.save(tmp_path / "own.npy", np.where(np.indices((2, 12, 12))[1] < 6, 3.0, 12.0))
    assert run(APP, ["predict", str(out), str(tmp_path / "own.npy"), "--layout=nxy"]) == 0
    assert (tmp_path / "own-prediction.zarr").is_dir()
    validate = ["validate", f"--ckpt_path={out / 'checkpoints' / 'last.ckpt'}", f"--data.val={darcy}"]
    assert run(APP, [*validate, "--trainer.accelerator=cpu", "--trainer.logger=false"]) == 0
    capsys.readouterr()
    assert "exists already" in error_of(fit, capsys)
    assert "exists already" in error_of(["plot", str(out)], capsys)


@pytest.mark.slow
def test_faults_end_in_one_line(darcy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["fit", f"--out={tmp_path / 'run'}", "--trainer.accelerator=cpu"]
    known = [*fit, f"--data.train={darcy}"]
    assert "gone.zarr: no such" in error_of([*fit, "--data.train=gone.zarr"], capsys)
    assert "model 'unet' is not known; expected one of fno" in error_of(
        [*known, "--model.name=unet", "--force"], capsys
    )
    modes = error_of([*known, '--model.overrides={"modes": 40}', "--force"], capsys)
    assert "`modes` (=[40, 40]) do not fit the coarsest training grid of 12 x 12 points" in modes
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut")
    assert "bad.npz" in error_of([*fit, f"--data.train={tmp_path / 'bad.npz'}", "--force"], capsys)
    assert "no such checkpoint" in error_of(["evaluate", str(tmp_path / "gone.ckpt")], capsys)
    assert "no such checkpoint" in error_of(["predict", str(tmp_path), "own.npy"], capsys)


@pytest.mark.slow
def test_the_published_darcy_set_trains_unmodified(real_data: Any, tmp_path: Path) -> None:
    train, test = real_data("neuralop/darcy_train_16.pt"), real_data("neuralop/darcy_test_16.pt")
    out = tmp_path / "run"
    fit = ["fit", f"--data.train={train}", f"--out={out}", "--trainer.max_epochs=5", "--data.batch_size=50"]
    assert run(APP, [*fit, *SMALL]) == 0
    with (out / "metrics.csv").open() as file:
        errors = [float(row["val_l2"]) for row in csv.DictReader(file) if row["val_l2"]]
    assert len(errors) == 5
    assert errors[-1] < 0.5
    assert run(APP, ["evaluate", str(out), f"--data={test}"]) == 0
    assert (out / "evaluation" / "errors.md").is_file()


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.mark.slow
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(darcy: Path, tmp_path: Path) -> None:
    def fit(out: Path, *more: str) -> list[str]:
        options = ["--trainer.max_epochs=60", "--data.batch_size=4", "--checkpoint_every=5"]
        return [*COMMAND, "fit", f"--data.train={darcy}", f"--out={out}", *options, *SMALL, *more]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(fit(whole), env=ENVIRONMENT, check=True, capture_output=True)
    victim = subprocess.Popen(
        fit(parts), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = parts / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and victim.poll() is None:
        # Killed in the middle of an epoch of nine steps, some way into the run.
        log = parts / "metrics.csv"
        if checkpoint.is_file() and log.is_file() and len(log.read_text().splitlines()) > 8:
            break
        time.sleep(0.02)
    ended = victim.poll()
    victim.kill()
    victim.wait()
    assert ended is None, "the run ended before it could be killed"
    step = last(parts)["global_step"]
    assert 0 < step < 60 * 9
    subprocess.run(fit(parts, "--resume=last"), env=ENVIRONMENT, check=True, capture_output=True)
    one, other = last(whole), last(parts)
    assert one["global_step"] == other["global_step"] == 60 * 9
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert (whole / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(darcy: Path, tmp_path: Path) -> None:
    def curve(out: Path, *more: str) -> list[float]:
        options = ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *SMALL, *more]
        command = [*COMMAND, "fit", f"--data.train={darcy}", f"--out={out}", *options]
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=600)
        with (out / "metrics.csv").open() as file:
            return [float(row["val_l2"]) for row in csv.DictReader(file) if row["val_l2"]]

    one = curve(tmp_path / "one", "--data.batch_size=12")
    two = curve(tmp_path / "two", "--data.batch_size=6", "--trainer.strategy=ddp", "--trainer.devices=2")
    assert len(one) == 3
    assert two == pytest.approx(one, abs=1e-4)
