"""A run's folder and the trainer's pieces."""

import io

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

from lemmata.apps.kit.loading import ResumableLoader
from lemmata.apps.kit.training import open_run, quiet, trainer_arguments


def test_a_run_folder_is_new_continued_or_replaced(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert open_run(folder).checkpoint is None
    with pytest.raises(FileNotFoundError, match=r"a has no last\.ckpt; start a new run without --resume"):
        open_run(folder, resume="last")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileExistsError, match="--resume last to go on, --force"):
        open_run(folder)
    assert open_run(folder, resume="last").checkpoint == folder / "checkpoints" / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"other\.ckpt does not exist"):
        open_run(folder, resume=tmp_path / "other.ckpt")
    assert open_run(folder, force=True).checkpoint is None
    assert list(folder.iterdir()) == []


def test_other_processes_neither_refuse_nor_remove_what_the_first_has_begun(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").touch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert open_run(tmp_path).folder == tmp_path
    open_run(tmp_path, force=True)
    assert (tmp_path / "config.yaml").exists()


def test_pieces_are_chosen(tmp_path):
    pieces = trainer_arguments(tmp_path, monitor=None, progress=False)
    kinds = [type(callback) for callback in pieces["callbacks"]]
    assert ModelCheckpoint not in kinds
    assert RichProgressBar not in kinds
    assert RichProgressBar in [type(c) for c in trainer_arguments(tmp_path, progress=True)["callbacks"]]


class Tiny(pl.LightningModule):
    def __init__(self, die_at=None):
        super().__init__()
        self.die_at = die_at
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == self.die_at:
            raise KeyError("killed")
        return self.net(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_progress_bar_survives_a_resume_within_an_epoch(tmp_path, monkeypatch):
    """Lightning leaves out ``on_train_epoch_start`` then."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    data = torch.randn(20, 4)

    def fit(resume=None, die_at=None):
        run = open_run(tmp_path / "run", resume=resume)
        pieces = trainer_arguments(run.folder, every_n_train_steps=2, progress=True, save_top_k=2)
        with quiet():
            trainer = pl.Trainer(
                **pieces, max_epochs=2, accelerator="cpu", enable_model_summary=False, log_every_n_steps=1
            )
            trainer.fit(
                Tiny(die_at),
                ResumableLoader(data, 4),
                ResumableLoader(data, 8, shuffle=False),
                ckpt_path=run.checkpoint,
                weights_only=True,
            )

    with pytest.raises(KeyError):
        fit(die_at=3)
    fit(resume="last")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["best-epoch000.ckpt", "best-epoch001.ckpt", "last.ckpt"]
