"""The command line: quick help, one-line errors, a whole run, several processes."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.interatomic.__main__ import APP, main

COMMAND = [sys.executable, "-m", "lemmata.apps.interatomic"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
CPU = ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
ONE = "--trainer.devices=1"
SMALL = [*CPU, "--cutoff=4.0", '--model.model_options={"channels": 4, "radial_width": 8}']


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ends with."""
    capsys.readouterr()
    assert main(arguments) == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(written)
    return written[-1]


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.mark.parametrize("verb", [None, *APP.verbs])
def test_help_imports_no_pytorch(verb: str | None) -> None:
    arguments = ["--help"] if verb is None else [verb, "--help"]
    program = (
        "import sys\n"
        "from lemmata.apps.interatomic.__main__ import main\n"
        f"main({arguments})\n"
        "sys.exit(len({'torch', 'lightning', 'torch_geometric', 'matplotlib'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("usage: ")


def test_every_name_of_the_python_api_is_there() -> None:
    import lemmata.apps.interatomic as api

    for name in api.__all__:
        assert callable(getattr(api, name)), name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = api.absent


def test_a_whole_run(labelled_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    fit = ["fit", "--data", str(labelled_file), "--epochs=2", "--lr=0.02", f"--out={out}", *SMALL, ONE]
    assert main(fit) == 0
    steps = last(out)["global_step"]
    assert "lr: 0.02" in (out / "config.yaml").read_text()
    assert main(["export", str(out), f"--out={tmp_path / 'model.safetensors'}"]) == 0
    checkpoint = f"--ckpt_path={out / 'checkpoints' / 'last.ckpt'}"
    capsys.readouterr()
    evaluation = ["--data", str(labelled_file), "--cutoff=4.0", checkpoint, CPU[0], ONE]
    assert main(["validate", *evaluation]) == 0
    assert "val_forces_mae" in capsys.readouterr().out
    assert main(["test", *evaluation]) == 0
    assert "test_forces_mae" in capsys.readouterr().out
    assert main(["fit", f"--out={out}", "--resume=last", "--epochs=3"]) == 0
    assert last(out)["global_step"] == 3 * steps // 2
    assert "exists already" in error_of(fit, capsys)


def test_faults_end_in_one_line(
    labelled_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", f"--out={tmp_path / 'run'}", "--data", str(labelled_file), *CPU, ONE]
    for arguments, words in (
        ([*fit, "--model=mlp"], "expected one of tensor-product, position-orientation, frame"),
        ([*fit, "--lr=-1"], "`lr` (=-1.0) must be positive"),
        ([*fit, '--model.model_options={"depth": 3}'], "do not fit tensor-product"),
        ([*fit, "--cutoff=0"], "`data.cutoff`"),
        ([*fit, "--resume=last"], "has no last.ckpt"),
        (["fit", "--data=absent.xyz", *CPU, ONE, f"--out={tmp_path / 'run'}"], "absent.xyz"),
        (["export", str(tmp_path / "absent"), "--out=x"], "no such potential"),
        (["evolve"], "unknown verb 'evolve'"),
    ):
        assert words in error_of(arguments, capsys), arguments


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tensor-product", "frame"])
def test_two_processes_step_as_one_with_twice_the_batch(
    labelled_file: Path, tmp_path: Path, model: str
) -> None:
    common = ["fit", f"--data={labelled_file}", f"--model={model}", "--epochs=2", *CPU, "--cutoff=4.0"]
    common.append('--model.model_options={"channels": 4}')
    one = [*COMMAND, *common, f"--out={tmp_path / 'one'}", "--batch_size=8", ONE]
    two = [*COMMAND, *common, f"--out={tmp_path / 'two'}", "--batch_size=4", "--trainer.devices=2"]
    two.append("--trainer.strategy=ddp")
    for command in (one, two):
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    for name in ("train_loss", "val_loss"):
        assert column(tmp_path / "two", name) == pytest.approx(column(tmp_path / "one", name), rel=1e-3)
    first, other = last(tmp_path / "one")["state_dict"], last(tmp_path / "two")["state_dict"]
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-3, msg=name)


def test_a_checkpoint_is_judged_with_its_own_cutoff(
    trained_run: Path, labelled_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for cutoff in ("4.0", "1.5", "6.0"):  # it was trained with the first
        arguments = [f"--data={labelled_file}", f"--cutoff={cutoff}", *CPU, ONE]
        assert main(["test", *arguments, f"--ckpt_path={trained_run / 'checkpoints' / 'last.ckpt'}"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "test_" in line]
        tables.append(rows)
    assert len(tables[0]) >= 5
    assert tables[0] == tables[1] == tables[2]
