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


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


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
    whole, broken = (
        torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in ("whole", "broken")
    )
    assert broken["global_step"] == whole["global_step"]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(broken[part], whole[part], rtol=0, atol=0)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_two_processes_follow_the_losses_of_one(tmp_path, run):
    run("pde-surrogate", *GENERATE, "--out", "train.zarr")
    run("pde-surrogate", *FIT, "--out", "one")
    run(
        *("pde-surrogate", *FIT, "--out", "two", "--data.batch_size", 2),
        *("--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu"),
    )
    for metric, count in (("train_loss", 24), ("val_l2", 4)):
        one, two = (
            [float(row[metric]) for row in rows(tmp_path / folder) if row[metric]]
            for folder in ("one", "two")
        )
        assert len(one) == count
        assert two == pytest.approx(one, rel=1e-4)
