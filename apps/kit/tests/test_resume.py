# ruff: noqa: NPY002  # numpy's global generator is among what is saved and left alone
"""Real trainings, killed and resumed: nothing differs from the uninterrupted one."""

import csv
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from lemmata.apps.kit.logs import CsvLogger
from lemmata.apps.kit.resume import (
    LastCheckpoint,
    RandomState,
    ResumableLoader,
    random_state,
    set_random_state,
)

pytestmark = [
    # beartype picks the list items it checks with Python's global generator.
    pytest.mark.usefixtures("unchecked"),
    # Lightning calls an old name of torch's pytree.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    # With validation every other epoch the first epoch has nothing to watch.
    pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric:RuntimeWarning"),
    # Reading in workers is not what these trainings are about.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    # A resumed run writes into its own folder.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


class Noisy(Dataset):
    def __init__(self, length):
        self.samples = torch.randn(length, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index] + 0.01 * torch.randn(4) * np.random.rand() * random.random()


class Killed(BaseException):
    """Stands for SIGKILL: no handler of Exception runs."""


class Model(pl.LightningModule):
    """Draws random numbers wherever a module may, and watches a metric."""

    def __init__(self, die_at=None):
        super().__init__()
        self.die_at = die_at
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def on_train_start(self):
        torch.rand(7)

    def on_train_epoch_start(self):
        torch.rand(2)
        np.random.rand()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch * (1 + 0.01 * torch.rand(()))

    def training_step(self, batch, batch_idx):
        if self.global_step == self.die_at:
            raise Killed
        loss = self.net(batch).square().mean() + batch.mean() * random.random()
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/worst", loss.detach(), on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def validation_step(self, batch, batch_idx):
        torch.rand(3)
        self.log("val/loss", self.net(batch).square().mean() + self.current_epoch)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", "strict": False},
        }


class Unwatching(Model):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def train(folder, *, kind=Model, die_at=None, resume=None, callbacks=None, every=3, **options):
    pl.seed_everything(3, verbose=False)
    if resume:
        torch.rand(11)
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=CsvLogger(folder),
        callbacks=callbacks or [RandomState(), LastCheckpoint(every_n_train_steps=every)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        accelerator="cpu",
        devices=1,
        **{"max_epochs": 3, "num_sanity_val_steps": 1, **options},
    )
    model = kind(die_at)
    loaders = ResumableLoader(Noisy(37), 4, seed=5), DataLoader(Noisy(9), 3)
    try:
        trainer.fit(model, *loaders, ckpt_path=resume, weights_only=True if resume else None)
    except Killed:
        assert die_at is not None
    return model, trainer


def log(folder):
    return (Path(folder) / "metrics.csv").read_text()


def assert_same(first, second):
    for name, value in first[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name
    states = [run[1].optimizers[0].state_dict() for run in (first, second)]
    for index, state in states[0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, states[1]["state"][index][name]), name
    assert states[0]["param_groups"] == states[1]["param_groups"]


SETTINGS = {
    "plain": ({}, (1, 4, 9, 10, 23)),
    "steps": ({"max_steps": 25, "max_epochs": -1}, (4, 10, 24)),
    "validation within epochs": ({"val_check_interval": 0.5}, (4, 5, 9)),
    "validation by steps": ({"check_val_every_n_epoch": None, "val_check_interval": 4}, (5, 13)),
    "validation every other epoch": ({"check_val_every_n_epoch": 2}, (7, 22)),
    "accumulation": ({"accumulate_grad_batches": 3, "every": 1}, (1, 4, 6)),
    "short epochs": ({"limit_train_batches": 7}, (4, 7, 12)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    options, deaths = SETTINGS[name]
    whole = train(tmp_path / "whole", **options)
    for death in deaths:
        folder = tmp_path / str(death)
        train(folder, die_at=death, **options)
        resumed = train(folder, resume=folder / "last.ckpt", **options)
        assert_same(whole, resumed)
        assert log(folder) == log(tmp_path / "whole"), death


def test_a_run_killed_twice_and_extended_equals_a_long_one(tmp_path):
    whole = train(tmp_path / "whole", max_epochs=4)
    folder = tmp_path / "parts"
    train(folder, die_at=5, max_epochs=2)
    train(folder, die_at=14, resume=folder / "last.ckpt", max_epochs=2)
    train(folder, resume=folder / "last.ckpt", max_epochs=2)
    assert_same(whole, train(folder, resume=folder / "last.ckpt", max_epochs=4))
    assert log(folder) == log(tmp_path / "whole")


def test_lightnings_own_checkpoint_within_an_epoch_gives_the_same_weights(tmp_path):
    def callbacks(folder):
        return [RandomState(), ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=1, save_last=True)]

    # A scheduler that watches a metric would miss Lightning's resumed epoch; `LastCheckpoint` sees to that.
    options = {"kind": Unwatching}
    whole = train(tmp_path / "a", callbacks=callbacks(tmp_path / "a"), **options)
    train(tmp_path / "b", die_at=14, callbacks=callbacks(tmp_path / "b"), **options)
    last = tmp_path / "b" / "last.ckpt"
    resumed = train(tmp_path / "b", callbacks=callbacks(tmp_path / "b"), resume=last, **options)
    for value, other in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(value, other)


def test_epochs_differ_in_order(tmp_path):
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 0:
                seen.append(trainer.train_dataloader.sampler.epoch)

    train(tmp_path, callbacks=[RandomState(), Watch()])
    assert seen == [0, 1, 2]


def test_a_checkpoint_executes_nothing_and_each_step_is_logged_once(tmp_path):
    train(tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 30
    rows = list(csv.DictReader(log(tmp_path).splitlines()))
    assert [int(row["step"]) for row in rows if row["train/loss_step"]] == list(range(30))
    assert sum(bool(row["val/loss"]) for row in rows) == 3


def test_the_epochs_mean_is_the_mean_of_its_steps(tmp_path):
    train(tmp_path, die_at=5)
    train(tmp_path, resume=tmp_path / "last.ckpt")
    rows = list(csv.DictReader(log(tmp_path).splitlines()))
    steps = [float(row["train/loss_step"]) for row in rows if row["train/loss_step"]][:10]
    sizes = [4] * 9 + [1]
    mean = sum(loss * size for loss, size in zip(steps, sizes, strict=True)) / 37
    found = next(float(row["train/loss_epoch"]) for row in rows if row["train/loss_epoch"])
    assert found == pytest.approx(mean, rel=1e-6)


def test_random_state_round_trip_through_a_file(tmp_path):
    random.gauss(0, 1)
    np.random.randn()
    torch.save(random_state(), tmp_path / "state")
    drawn = torch.randn(5), np.random.randn(5), [random.gauss(0, 1) for _ in range(3)]
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(torch.randn(5), drawn[0])
    assert np.array_equal(np.random.randn(5), drawn[1])
    assert [random.gauss(0, 1) for _ in range(3)] == drawn[2]


def test_last_checkpoint_asks_for_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="needs `RandomState`"):
        train(tmp_path, callbacks=[LastCheckpoint()])
    with pytest.raises(ValueError, match=r"`every_n_train_steps` \(=-1\)"):
        LastCheckpoint(every_n_train_steps=-1)


@pytest.mark.slow
def test_kill_dash_nine_and_resume(tmp_path):
    """The run is killed by SIGKILL as soon as it has logged ten steps, wherever it is then."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import importlib.util, sys, time, warnings
            warnings.simplefilter("ignore")
            spec = importlib.util.spec_from_file_location("trial", {__file__!r})
            trial = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(trial)
            class Slow(trial.Model):
                def on_train_batch_end(self, *_):
                    time.sleep(0.05)
            trial.Model = Slow
            resume = sys.argv[2] if len(sys.argv) > 2 else None
            model, _ = trial.train(sys.argv[1], resume=resume)
            trial.torch.save(model.state_dict(), sys.argv[1] + "/weights.pt")
            """
        )
    )
    command = [sys.executable, str(script)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    killed = tmp_path / "killed"
    with subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if (killed / "metrics.csv").exists() and log(killed).count("\n") > 10:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "weights.pt").exists()
    subprocess.run([*command, str(killed), str(killed / "last.ckpt")], check=True, capture_output=True)
    assert log(killed) == log(tmp_path / "whole")
    weights = [torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "killed")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
