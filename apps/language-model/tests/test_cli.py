"""The command line: quick help, one-line errors, a whole run, several processes and a lost one."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.language_model.__main__ import main

COMMAND = [sys.executable, "-m", "lemmata.apps.language_model"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
SMALL = [
    *("--model.width=16", "--model.depth=2", "--model.heads=2", "--model.experts=4", "--data.context=16"),
    *("--data.val_windows=20", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
]
ONE = "--trainer.devices=1"
VERBS = ("demo", "generate", "predict", "compare", "refine", "bench", "plot", "export")


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command ends with."""
    capsys.readouterr()
    assert main(arguments) == 2
    written = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(written)
    return written[-1]


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_imports_no_pytorch(verb: str | None) -> None:
    arguments = ["--help"] if verb is None else [verb, "--help"]
    program = (
        "import sys\n"
        "from lemmata.apps.language_model.__main__ import main\n"
        f"main({arguments})\n"
        "sys.exit(len({'torch', 'lightning', 'tokenizers'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("usage: ")


def test_every_name_of_the_python_api_is_there() -> None:
    import lemmata.apps.language_model as api

    for name in api.__all__:
        assert callable(getattr(api, name)), name


def test_a_whole_run(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    fit = ["fit", "--data", str(text_file), "--optimizer", "adamw", "--steps=20", f"--out={out}", *SMALL, ONE]
    assert main(fit) == 0
    assert last(out)["global_step"] == 20
    assert "optimizer: adamw" in (out / "config.yaml").read_text()
    assert main(["generate", str(out), "--prompt=The", "--new_tokens=5", "--top_k=3", "--seed=1"]) == 0
    assert main(["predict", str(out), str(text_file)]) == 0
    assert main(["export", str(out), f"--out={tmp_path / 'model'}"]) == 0
    assert main(["generate", str(tmp_path / "model"), "--new_tokens=5"]) == 0
    checkpoint = f"--ckpt_path={out / 'checkpoints' / 'last.ckpt'}"
    capsys.readouterr()
    evaluation = [checkpoint, "--trainer.accelerator=cpu", ONE, "--data.val_windows=20"]
    assert main(["validate", "--data", str(text_file), *evaluation]) == 0
    assert "val_loss" in capsys.readouterr().out
    assert main(["test", "--data.test", str(text_file), *evaluation]) == 0
    assert "test_bits_per_character" in capsys.readouterr().out
    assert main(["fit", f"--out={out}", "--resume=last", "--steps=21"]) == 0
    assert last(out)["global_step"] == 21
    assert "exists already" in error_of(fit, capsys)


def test_faults_end_in_one_line(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    fit = ["fit", f"--out={out}", "--trainer.accelerator=cpu", ONE]
    known = [*fit, "--data", str(text_file)]
    (tmp_path / "short.txt").write_text("A short text.")
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    many = "".join(chr(point) for point in range(0x10000, 0x20000)) * 2
    (tmp_path / "many.txt").write_text(many)
    for arguments, words in (
        ([*fit, "--data=absent.txt"], "`data.source` (='absent.txt') does not exist; expected a UTF-8"),
        ([*fit, "--data", str(tmp_path / "short.txt")], "fewer than `data.context` (=64) + 1"),
        ([*fit, "--data", str(tmp_path / "raw.txt")], "is not UTF-8 text: byte 0 is 0xff"),
        ([*fit, "--data", str(tmp_path / "many.txt")], "more than the 65535 that 16-bit token files hold"),
        ([*known, "--optimizer=adamm"], "expected one of adamw, sgd, muon, lion, nuclear-lion, auon"),
        ([*known, "--model.heads=5"], "`heads` (=5) must divide `width` (=96)"),
        ([*known, "--model.active_experts=9"], "`active_experts` (=9) must be at most `experts` (=8)"),
        ([*known, "--model.attention=full"], "latent"),
        ([*known, "--data.tokenizer=bpe", "--data.vocabulary=70000"], "must lie in [256, 65535]"),
        ([*known, "--resume=last"], "has no last.ckpt"),
        (["validate", "--data", str(text_file), ONE], "`ckpt_path` is missing"),
        (["generate", str(tmp_path / "absent")], "no such checkpoint"),
        (["predict", str(tmp_path / "raw.txt"), str(text_file)], "is not a checkpoint"),
        (["export", str(tmp_path / "absent"), "--out=x"], "no such checkpoint"),
    ):
        assert words in error_of(arguments, capsys), arguments
    # What failed leaves the folder free for the next try.
    assert main([*known, "--steps=1", *SMALL]) == 0


def fit_in_processes(text_file: Path, out: Path, *more: str) -> list[str]:
    options = ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=4", *SMALL, *more]
    return ["fit", f"--data.source={text_file}", f"--out={out}", "--model.optimizer=adamw", *options]


SHARDED = [
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.save_distributed_checkpoint=false",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [[], SHARDED], ids=["replicated", "sharded"])
def test_two_processes_step_as_one_with_twice_the_batch(
    text_file: Path, tmp_path: Path, strategy: list[str]
) -> None:
    steps = ["--trainer.max_steps=20", "--trainer.val_check_interval=10"]
    one = [*COMMAND, "fit", f"--data.source={text_file}", f"--out={tmp_path / 'one'}", *SMALL, *steps, ONE]
    one += ["--data.batch_size=8", "--model.optimizer=adamw"]
    two = [*COMMAND, *fit_in_processes(text_file, tmp_path / "two", *steps, *strategy)]
    for command in (one, two):
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    for name in ("train_loss", "val_loss"):
        assert column(tmp_path / "two", name) == pytest.approx(column(tmp_path / "one", name), abs=1e-5)
    first, other = last(tmp_path / "one")["state_dict"], last(tmp_path / "two")["state_dict"]
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
def test_torchrun_with_compressed_gradients_resumes(text_file: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    steps = ["--trainer.val_check_interval=10", "--checkpoint_every=10"]
    compressed = ["--model.compression=topk", "--model.compression_ratio=0.1", *steps]

    def fit(out: Path, *more: str) -> None:
        command = fit_in_processes(text_file, out, *compressed, *more)
        run = [*torchrun, "lemmata.apps.language_model", *command]
        subprocess.run(run, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)

    fit(tmp_path / "whole", "--trainer.max_steps=20")
    losses = column(tmp_path / "whole", "train_loss")
    assert losses[-1] < losses[0]
    stored = last(tmp_path / "whole")["language_model"]["compression"]
    assert len(stored) == 2
    fit(tmp_path / "whole", "--trainer.max_steps=24", "--resume=last")
    assert last(tmp_path / "whole")["global_step"] == 24


@pytest.mark.slow
def test_a_lost_process_ends_the_run_with_a_line_and_a_checkpoint(text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ["--trainer.max_steps=20000", "--trainer.val_check_interval=20000", "--checkpoint_every=5"]
    errors = (tmp_path / "errors.txt").open("w+")
    main_process = subprocess.Popen(
        [*COMMAND, *fit_in_processes(text_file, out, *more)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    checkpoint, deadline = out / "checkpoints" / "last.ckpt", time.monotonic() + 200
    try:
        while not (checkpoint.is_file() and torch.load(checkpoint, weights_only=True)["global_step"] >= 10):
            assert main_process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = Path(f"/proc/{main_process.pid}/task/{main_process.pid}/children").read_text().split()
        (child,) = [int(each) for each in children if "LOCAL_RANK" in environment(int(each))]
        os.kill(child, 9)
        assert main_process.wait(timeout=60) == 3
    finally:
        main_process.kill()
        main_process.wait()
    errors.seek(0)
    (line,) = errors.read().strip().splitlines()
    errors.close()
    assert "another process of the run was lost" in line
    assert "--resume last" in line
    step = last(out)["global_step"]
    assert step >= 10
    more = [f"--trainer.max_steps={step + 3}", "--resume=last"]
    again = [*COMMAND, *fit_in_processes(text_file, out, *more)]
    subprocess.run(again, env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    assert last(out)["global_step"] == step + 3


def environment(process: int) -> str:
    """Return the names and values that a process was started with."""
    return Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
