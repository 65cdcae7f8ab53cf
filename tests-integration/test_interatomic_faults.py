"""interatomic killed and resumed ends with the bits of an uninterrupted run, and processes agree."""

import csv
from pathlib import Path

import pytest
import torch

FIT = (
    *("fit", "--data.source", "labels.xyz", "--data.cutoff", 4.0, "--data.batch_size", 2),
    *("--model.model_options", '{"channels": 4}', "--trainer.max_epochs", 12),
    *("--trainer.log_every_n_steps", 1, "--checkpoint_every", 3, "--trainer.accelerator", "cpu"),
)
LABEL = ("label", "H2O", "labels.xyz", "--sample", "displace", "--seed", 1)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if row[name]]


def last(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_fit_killed_twice_and_resumed_equals_an_uninterrupted_run(tmp_path, run, kill_when):
    run("interatomic", *LABEL, "--count", 20)
    run("interatomic", *FIT, "--out", "whole")
    log = tmp_path / "broken" / "metrics.csv"

    def logged(steps: int) -> bool:
        return log.exists() and len(log.read_text().splitlines()) > steps

    assert kill_when(lambda: logged(11), "interatomic", *FIT, "--out", "broken")
    resume = (*FIT, "--out", "broken", "--resume", "last")
    assert kill_when(lambda: logged(40), "interatomic", *resume)
    run("interatomic", *resume)
    whole, broken = last(tmp_path / "whole"), last(tmp_path / "broken")
    assert broken["global_step"] == whole["global_step"]
    torch.testing.assert_close(broken["state_dict"], whole["state_dict"], rtol=0, atol=0)
    (ours,), (theirs,) = broken["optimizer_states"], whole["optimizer_states"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    assert ours["param_groups"] == theirs["param_groups"]
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_two_processes_follow_the_losses_of_one(tmp_path, run, torchrun):
    run("interatomic", "label", "CH3CH2OH", "labels.xyz", "--sample", "displace", "--count", 20)
    fit = (*FIT, "--trainer.max_epochs", 5)
    run("interatomic", *fit, "--out", "one", "--data.batch_size", 4)
    two = torchrun(
        "interatomic",
        *(*fit, "--out", "two", "--trainer.strategy", "ddp", "--trainer.devices", 2),
    )
    output, _ = two.communicate(timeout=300)
    assert two.returncode == 0, output
    one = column(tmp_path / "one", "train_loss")
    assert column(tmp_path / "two", "train_loss") == pytest.approx(one, rel=1e-3)


def test_labelling_killed_and_resumed_gives_the_same_file(tmp_path, run, kill_when):
    label = ("label", "CH3CH2OH", "--sample", "displace", "--count", 60, "--seed", 2)
    run("interatomic", label[0], label[1], "whole.xyz", *label[2:])

    def started() -> bool:
        return any(path.name.startswith("broken") for path in tmp_path.iterdir())

    kill_when(started, "interatomic", label[0], label[1], "broken.xyz", *label[2:])
    if not (tmp_path / "broken.xyz").exists():
        run("interatomic", label[0], label[1], "broken.xyz", *label[2:])
    assert (tmp_path / "broken.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


def test_dynamics_killed_and_resumed_equal_an_uninterrupted_run(tmp_path, run, kill_when):
    run("interatomic", *LABEL, "--count", 20)
    run("interatomic", *FIT, "--out", "run")
    md = ("md", "run", "H2O", "--ensemble", "nvt", "--picoseconds", 1, "--sample_every", 5)
    run("interatomic", *md, "--out", "whole")
    state = tmp_path / "broken" / "state.npz"
    kill_when(state.exists, "interatomic", *md, "--out", "broken")
    run("interatomic", *md, "--out", "broken", "--resume")
    for name in ("samples.csv", "trajectory.xyz"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_exported_potential_predicts_as_its_run(tmp_path, run):
    run("interatomic", *LABEL, "--count", 20)
    run("interatomic", *FIT, "--out", "run")
    run("interatomic", "export", "run", "--out", "potential.safetensors")
    (tmp_path / "run" / "config.yaml").unlink()
    run("interatomic", "predict", "run", "labels.xyz", "--out", "one.xyz")
    run("interatomic", "predict", "potential.safetensors", "labels.xyz", "--out", "two.xyz")
    assert (tmp_path / "one.xyz").read_bytes() == (tmp_path / "two.xyz").read_bytes()
