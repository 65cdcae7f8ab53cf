"""Runs from Python: what they leave, exact resume within an epoch, the schedule's span, recordings."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lemmata.apps.language_model import train
from lemmata.apps.language_model.callbacks import update_spectrum

Settings = dict[str, Any]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def test_what_a_run_records(trained: Path) -> None:
    metrics = rows(trained / "metrics.csv")
    losses = [float(row["val_loss"]) for row in metrics if row["val_loss"]]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.3
    for row in metrics:
        if row["val_loss"]:  # a character is a token
            assert float(row["val_bits_per_character"]) == pytest.approx(
                float(row["val_loss"]) / math.log(2), rel=1e-5
            )
    norms = rows(trained / "gradient_norms.csv")
    assert [int(row["step"]) for row in norms] == list(range(60))
    assert all(float(row["l1"]) >= float(row["l2"]) > 0 for row in norms)
    throughput = rows(trained / "throughput.csv")
    assert [int(row["tokens"]) for row in throughput] == [8 * 16 * step for step in range(1, 61)]
    seconds = [float(row["seconds"]) for row in throughput]
    assert seconds == sorted(seconds)
    loads = rows(trained / "expert_loads.csv")
    assert [int(row["step"]) for row in loads] == list(range(6, 61, 6))
    for row in loads:
        assert sum(float(row[f"blocks.1.feedforward.{expert}"]) for expert in range(4)) == pytest.approx(1)


class Stop(Callback):
    """Ends a run as a kill does, within an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        "muon",
        pytest.param("nuclear-lion", marks=pytest.mark.slow),
        pytest.param("hybrid-auon", marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_within_an_epoch_equals_an_uninterrupted_one(
    tmp_path: Path, text_file: Path, settings: Settings, optimizer: str
) -> None:
    options = {
        **settings,
        "optimizer": optimizer,
        "steps": 21,
        "validate_every": 7,
        "model": {**settings["model"], "dropout": 0.1, "singular_values_every": 4, "sample_every": 9},
        "batch_size": 64,  # an epoch has 18 steps
        "checkpoint_every": 4,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(text_file, out=whole, **options)
    with pytest.raises(InterruptedError):
        train(text_file, out=parts, callbacks=[Stop(11)], **options)
    assert last(parts)["global_step"] == 8
    train(text_file, out=parts, resume="last", **options)
    one, other = last(whole), last(parts)
    assert one["global_step"] == other["global_step"] == 21
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    names = [path.relative_to(whole) for path in [*whole.glob("*.csv"), *whole.glob("samples/*")]]
    assert len(names) == 5 + 2
    for name in names:
        if name.name != "throughput.csv":
            assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    tokens = [[row["tokens"] for row in rows(out / "throughput.csv")] for out in (whole, parts)]
    assert tokens[0] == tokens[1]


def test_the_schedule_moves_once_a_step_and_spans_the_run(
    tmp_path: Path, text_file: Path, settings: Settings
) -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_before_optimizer_step(
            self, _trainer: Trainer, _module: Any, optimizer: torch.optim.Optimizer
        ) -> None:
            rates.append(float(optimizer.param_groups[0]["lr"]))

    trainer = {**settings["trainer"], "accumulate_grad_batches": 2}
    options = {**settings, "steps": 8, "trainer": trainer, "warmup": 0}
    run = train(text_file, out=tmp_path / "run", optimizer="sgd", lr=1.0, callbacks=[Rates()], **options)
    assert rates == pytest.approx([1 - step / 8 for step in range(8)])
    assert last(run)["lr_schedulers"][0]["total_steps"] == 8


def test_samples_and_spectra_on_request(tmp_path: Path, text_file: Path, settings: Settings) -> None:
    model = {**settings["model"], "sample_every": 6, "singular_values_every": 5}
    run = train(text_file, out=tmp_path / "run", optimizer="muon", **{**settings, "model": model})
    samples = sorted(path.name for path in (run / "samples").iterdir())
    assert samples == ["000006.txt", "000012.txt"]
    assert len((run / "samples" / samples[0]).read_text()) == 257
    spectra = rows(run / "singular_values.csv")
    assert [int(row["step"]) for row in spectra] == [5, 10]
    # Muon's updates have singular values of about one size.
    row = {
        int(name[-2:]): int(count) for name, count in spectra[1].items() if "attention.query.weight" in name
    }
    assert sum(row.values()) == 16
    assert sum(count for place, count in row.items() if place >= 10) >= 12


def test_a_spectrum_counts_what_moved() -> None:
    before, change = torch.randn(2, 3, 5), torch.zeros(2, 3, 5)
    change[0] = torch.linalg.qr(torch.randn(5, 5)).Q[:3]
    assert update_spectrum(before, before + change).nonzero().flatten().tolist() == [19]
    assert update_spectrum(before, before + change).sum() == 3


def test_runs_do_not_depend_on_recordings(tmp_path: Path, text_file: Path, settings: Settings) -> None:
    plain = train(text_file, out=tmp_path / "plain", optimizer="lion", **settings)
    model = {**settings["model"], "sample_every": 6, "singular_values_every": 4}
    noted = train(text_file, out=tmp_path / "noted", optimizer="lion", **{**settings, "model": model})
    assert (plain / "metrics.csv").read_text() == (noted / "metrics.csv").read_text()


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision(tmp_path: Path, text_file: Path, settings: Settings, precision: str) -> None:
    run = train(text_file, out=tmp_path / "run", optimizer="adamw", precision=precision, **settings)
    expected = torch.float64 if precision == "64-true" else torch.float32
    weights = [value for name, value in last(run)["state_dict"].items() if name.endswith("weight")]
    assert {value.dtype for value in weights} == {expected}
    losses = [float(row["train_loss"]) for row in rows(run / "metrics.csv") if row["train_loss"]]
    assert losses[-1] < losses[0]


def test_byte_pairs_train_too(tmp_path: Path, text_file: Path, settings: Settings) -> None:
    run = train(text_file, out=tmp_path / "run", tokenizer="bpe", vocabulary=280, **settings)
    row = next(row for row in rows(run / "metrics.csv") if row["val_loss"])
    assert float(row["val_bits_per_character"]) < float(row["val_loss"]) / math.log(2)


def test_what_cannot_be_is_told_before_anything_is_written(
    tmp_path: Path, text_file: Path, settings: Settings
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"`steps` \(=0\) must be a positive integer"):
        train(text_file, out=out, **{**settings, "steps": 0})
    with pytest.raises(ValueError, match=r"has an unknown field: .*'layers'"):
        train(text_file, out=out, **{**settings, "model": {"layers": 3}})
    with pytest.raises(FileNotFoundError, match="expected linear, constant"):
        train(text_file, out=out, schedule="cosine", **settings)
    assert not out.exists()
    with pytest.raises(ValueError, match="`compression` is for gradients that processes exchange"):
        train(text_file, out=out, compression="topk", **settings)
    with pytest.raises(FileExistsError, match="--resume last to go on"):
        train(text_file, out=out, **settings)
    train(text_file, out=out, force=True, **{**settings, "steps": 1})
