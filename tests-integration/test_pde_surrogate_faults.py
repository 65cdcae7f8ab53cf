"""pde-surrogate killed at any point and resumed ends with the bits of an uninterrupted run."""

import csv
import hashlib
from pathlib import Path

import pytest
import torch

GENERATE = ("generate", "darcy", "--n", 24, "--res", 16, "--chunk", 1, "--seed", 3, "--workers", 2)
FIT = (
    *("fit", "--data.train", "train.zarr", "--data.batch_size", 4, "--model.size", "S"),
    *("--trainer.max_epochs", 4, "--checkpoint_every", 2, "--trainer.log_every_n_steps", 1),
)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def finished_chunks(folder: Path) -> int:
    markers = folder / "train.zarr.partial" / "markers"
    return sum(path.suffix == ".json" for path in markers.iterdir()) if markers.is_dir() else 0


@pytest.mark.parametrize("chunks", [1, 11])
def test_generate_killed_and_resumed_writes_the_same_bytes(tmp_path, run, kill_when, chunks):
    run("pde-surrogate", *GENERATE, "--out", "whole.zarr")
    killed = kill_when(
        lambda: finished_chunks(tmp_path) >= chunks, "pde-surrogate", *GENERATE, "--out", "train.zarr"
    )
    assert killed
    assert not (tmp_path / "train.zarr").exists()
    run("pde-surrogate", *GENERATE, "--out", "train.zarr", "--resume")
    assert contents(tmp_path / "train.zarr") == contents(tmp_path / "whole.zarr")


def test_fit_killed_twice_and_resumed_equals_an_uninterrupted_run(tmp_path, run, kill_when):
    run("pde-surrogate", *GENERATE, "--out", "train.zarr")
    run("pde-surrogate", *FIT, "--out", "whole")
    log = tmp_path / "broken" / "metrics.csv"

    def logged(steps: int) -> bool:
        return log.exists() and len(log.read_text().splitlines()) > steps

    assert kill_when(lambda: logged(4), "pde-surrogate", *FIT, "--out", "broken")
    resume = (*FIT, "--out", "broken", "--resume", "last")
    assert kill_when(lambda: logged(14), "pde-surrogate", *resume)
    run("pde-surrogate", *resume)
    for name in ("last.ckpt",):
        whole, broken = (
            torch.load(tmp_path / folder / "checkpoints" / name, weights_only=True)
            for folder in ("whole", "broken")
        )
        for key, value in whole["state_dict"].items():
            assert torch.equal(value, broken["state_dict"][key]), key
        assert whole["global_step"] == broken["global_step"]
        torch.testing.assert_close(broken["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)
    rows = [
        list(csv.DictReader((tmp_path / folder / "metrics.csv").open())) for folder in ("whole", "broken")
    ]
    assert rows[0] == rows[1]


def test_two_processes_follow_the_losses_of_one(tmp_path, run):
    run("pde-surrogate", *GENERATE, "--out", "train.zarr")
    one = (*FIT, "--data.val", "null")
    run("pde-surrogate", *one, "--out", "one")
    run(
        *("pde-surrogate", *one, "--out", "two", "--data.batch_size", 2),
        *("--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"),
    )
    losses = []
    for folder in ("one", "two"):
        rows = csv.DictReader((tmp_path / folder / "metrics.csv").open())
        losses.append([float(row["train_loss_epoch"]) for row in rows if row.get("train_loss_epoch")])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
