"""language-model killed and resumed ends with the bits of an uninterrupted run, and processes agree."""

import csv
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

MODEL = ("--model.width", 32, "--model.depth", 2, "--model.heads", 2, "--model.experts", 4)
FIT = (
    *("fit", "--data.source", "text.txt", "--data.context", 32, "--data.batch_size", 8, *MODEL),
    *("--trainer.max_steps", 60, "--trainer.val_check_interval", 20, "--trainer.log_every_n_steps", 1),
    *("--checkpoint_every", 5),
)


@pytest.fixture(autouse=True)
def _text(tmp_path):
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "rat", "run", "past", "it", "twice"]
    text = " ".join(random.Random(0).choices(words, k=6000))
    (tmp_path / "text.txt").write_text(text)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if row[name]]


def test_fit_killed_twice_and_resumed_equals_an_uninterrupted_run(tmp_path, run, kill_when):
    run("language-model", *FIT, "--out", "whole")
    log = tmp_path / "broken" / "metrics.csv"

    def logged(steps: int) -> bool:
        return log.exists() and len(log.read_text().splitlines()) > steps

    assert kill_when(lambda: logged(8), "language-model", *FIT, "--out", "broken")
    resume = (*FIT, "--out", "broken", "--resume", "last")
    assert kill_when(lambda: logged(28), "language-model", *resume)
    run("language-model", *resume)
    whole, broken = (
        torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in ("whole", "broken")
    )
    assert broken["global_step"] == whole["global_step"] == 60
    torch.testing.assert_close(broken["state_dict"], whole["state_dict"], rtol=0, atol=0)
    (ours,), (theirs,) = broken["optimizer_states"], whole["optimizer_states"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    assert ours["param_groups"] == theirs["param_groups"]
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert len(column(tmp_path / "whole", "train_loss")) == 60


def test_two_processes_follow_the_losses_of_one(tmp_path, run, torchrun):
    # Muon's products in bfloat16, where they are native, enlarge the rounding of another order of summation.
    fit = (*FIT, "--model.optimizer", "adamw", "--trainer.max_steps", 20)
    run("language-model", *fit, "--out", "one")
    two = torchrun(
        "language-model",
        *(*fit, "--out", "two", "--data.batch_size", 4),
        *("--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"),
    )
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    one = column(tmp_path / "one", "train_loss")
    assert len(one) == 20
    assert column(tmp_path / "two", "train_loss") == pytest.approx(one, rel=1e-4)
    assert column(tmp_path / "two", "val_loss") == pytest.approx(
        column(tmp_path / "one", "val_loss"), rel=1e-4
    )


def test_a_lost_process_ends_the_run_which_can_be_resumed(tmp_path, torchrun):
    distributed = (
        *(*FIT, "--data.batch_size", 4, "--trainer.max_steps", 60),
        *("--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"),
    )
    process = torchrun("language-model", *distributed, "--out", "broken")
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 200
    log = tmp_path / "broken" / "metrics.csv"
    while not (last.exists() and log.exists() and len(rows(log.parent)) > 8):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "language-model: error: another process of the run was lost" in output or "SIGKILL" in output
    assert torch.load(last, weights_only=True)["global_step"] > 0

    resumed = torchrun("language-model", *distributed, "--out", "broken", "--resume", "last")
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    whole = torchrun("language-model", *distributed, "--out", "whole")
    output, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, output
    assert column(tmp_path / "broken", "train_loss") == column(tmp_path / "whole", "train_loss")


def children_of(parent: int) -> list[int]:
    """Return the processes that a process has started, oldest first."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True)
    return sorted(map(int, found.stdout.split()))


def test_generated_text_is_the_same_after_export(tmp_path, run):
    run("language-model", *FIT, "--out", "run", "--trainer.max_steps", 20)
    arguments = ("--prompt", "the cat", "--new_tokens", 30, "--seed", 1)
    first = run("language-model", "generate", "run", *arguments).stdout
    assert run("language-model", "generate", "run", *arguments).stdout == first
    run("language-model", "export", "run", "--out", "exported")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "exported").iterdir()
    }
    assert "the cat" in first
    scored = run("language-model", "predict", "run", "text.txt").stdout
    assert "bits" in scored


def test_the_published_text_trains(tmp_path, run, real_data):
    text = real_data("tinyshakespeare/input.txt")
    run("language-model", *FIT, "--data.source", text, "--out", "run", "--trainer.max_steps", 40)
    losses = column(tmp_path / "run", "train_loss")
    assert losses[-1] < losses[0] - 0.5
