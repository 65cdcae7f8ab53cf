"""Runs from Python: what they leave, exact resume within an epoch, the two stages, the running average."""

import csv
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lemmata.apps.interatomic import train

Settings = dict[str, Any]


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def last(folder: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def test_training_reduces_the_errors(trained_run: Path) -> None:
    for name in ("val_loss", "val_forces_mae", "val_energy_rmse"):
        values = column(trained_run, name)
        assert len(values) == 12
        assert min(values) < 0.5 * values[0], name
    assert all(
        rmse >= mae
        for mae, rmse in zip(
            column(trained_run, "val_forces_mae"), column(trained_run, "val_forces_rmse"), strict=True
        )
    )


class Stop(Callback):
    """Ends a run as a kill does, within an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "optimizer", "schedule"),
    [("tensor-product", "adam", "cosine"), ("frame", "muon", "linear"), ("frame", "adamw", "plateau")],
)
def test_a_run_resumed_within_an_epoch_equals_an_uninterrupted_one(
    tmp_path: Path, labelled_file: Path, settings: Settings, model: str, optimizer: str, schedule: str
) -> None:
    options = {
        **settings,
        "model": model,
        "model_options": settings["model_options"] if model == "tensor-product" else {"channels": 8},
        "training_options": {"optimizer": optimizer, "schedule": schedule, "warmup": 4},
        "checkpoint_every": 3,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(labelled_file, whole, **options)
    steps = last(whole)["global_step"]
    with pytest.raises(InterruptedError):
        train(labelled_file, parts, callbacks=[Stop(steps // 3 + 3)], **options)
    assert 0 < last(parts)["global_step"] < steps
    train(labelled_file, parts, resume="last", **options)
    one, other = last(whole), last(parts)
    assert one["global_step"] == other["global_step"] == steps
    averaged = [name for name in one["state_dict"] if name.startswith("averaged.")]
    assert averaged
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert (whole / "metrics.csv").read_bytes() == (parts / "metrics.csv").read_bytes()


def test_the_second_stage_begins_where_it_should(
    tmp_path: Path, labelled_file: Path, settings: Settings
) -> None:
    seen: list[float] = []

    class Weights(Callback):
        def on_train_batch_end(self, _trainer: Trainer, module: Any, *_: Any) -> None:
            seen.append(module.loss_weights.energy)

    options = {**settings, "loss_options": {"energy_weight": 2.0, "stage_two_energy_weight": 50.0}}
    train(labelled_file, tmp_path / "run", callbacks=[Weights()], **options)
    first = round(0.75 * len(seen))
    assert seen == [2.0] * first + [50.0] * (len(seen) - first)
    seen.clear()
    options["loss_options"] = {"stage_two_at": 1.0}
    train(labelled_file, tmp_path / "plain", callbacks=[Weights()], **options)
    assert set(seen) == {1.0}


def test_the_average_follows_its_definition(tmp_path: Path, labelled_file: Path, settings: Settings) -> None:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watch(Callback):
        def on_train_batch_start(self, _trainer: Trainer, module: Any, *_: Any) -> None:
            kept.append(
                tuple(
                    getattr(module, part).embedding.weight.detach().clone()
                    for part in ("potential", "averaged")
                )
            )

    run = train(
        labelled_file,
        tmp_path / "run",
        callbacks=[Watch()],
        **{**settings, "training_options": {"ema": 0.8}},
    )
    expected = kept[0][0]
    assert torch.equal(kept[0][1], expected)
    weights = [*(trained for trained, _ in kept[1:]), last(run)["state_dict"]["potential.embedding.weight"]]
    for step, trained in enumerate(weights, start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trained
    torch.testing.assert_close(last(run)["state_dict"]["averaged.embedding.weight"], expected)


@pytest.mark.parametrize(
    ("model", "options"), [("position-orientation", {"hidden": 8, "layers": 1}), ("frame", {})]
)
def test_every_model_trains(
    tmp_path: Path, labelled_file: Path, settings: Settings, model: str, options: dict[str, Any]
) -> None:
    chosen = {**settings, "model": model, "model_options": options, "epochs": 8, "lr": 3e-3}
    chosen["loss_options"] = {"stage_two_at": 1.0}
    run = train(labelled_file, tmp_path / "run", **chosen)
    losses = column(run, "train_loss")
    quarter = len(losses) // 4
    assert sum(losses[-quarter:]) < 0.9 * sum(losses[:quarter])


def test_double_precision(tmp_path: Path, labelled_file: Path, settings: Settings) -> None:
    chosen = {
        **settings,
        "epochs": 1,
        "data_options": {"dtype": "float64"},
        "trainer": {**settings["trainer"], "precision": "64-true"},
    }
    run = train(labelled_file, tmp_path / "run", **chosen)
    assert {value.dtype for value in last(run)["state_dict"].values()} == {torch.float64}


def test_stress_is_trained_where_it_is_labelled(tmp_path: Path, settings: Settings, argon: Any) -> None:
    from ase.calculators.lj import LennardJones
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = []
    for seed in range(20):
        atoms = argon(seed)
        atoms.calc = LennardJones(sigma=3.0, epsilon=0.05, rc=6.0)
        found = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **found)
        frames.append(atoms)
    ase.io.write(tmp_path / "crystal.xyz", frames)
    run = train(tmp_path / "crystal.xyz", tmp_path / "run", **{**settings, "epochs": 6})
    errors = column(run, "val_stress_mae")
    assert errors[-1] < errors[0]


def test_what_cannot_be_is_told_before_anything_is_written(
    tmp_path: Path, labelled_file: Path, settings: Settings
) -> None:
    out = tmp_path / "run"
    for changes, message in (
        ({"epochs": 0}, r"`epochs` \(=0\)"),
        ({"lr": -1.0}, r"`lr` \(=-1.0\)"),
        ({"model": "mlp"}, "`model` .*'mlp'"),
        ({"model_options": {"depth": 3}}, "depth"),
        ({"training_options": {"optimizer": "sgd"}}, "`optimizer` .*'sgd'"),
        ({"training_options": {"schedule": "step"}}, "`schedule` .*'step'"),
        ({"training_options": {"ema": 1.5}}, r"`ema` \(=1.5\)"),
        ({"training_options": {"emma": 0.5}}, "emma"),
        ({"loss_options": {"stage_two_at": 2.0}}, r"`stage_two_at` \(=2.0\)"),
        ({"loss_options": {"energy_weight": -2.0}}, r"`energy_weight` \(=-2.0\)"),
        ({"loss_options": {"loss": "l1"}}, "`loss` .*'l1'"),
        ({"loss_options": {"huber_delta": 0.0}}, r"`huber_delta` \(=0.0\)"),
        ({"training_options": {"warmup": -1}}, r"`warmup` \(=-1\)"),
        ({"training_options": {"weight_decay": -1.0}}, r"`weight_decay` \(=-1.0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train(labelled_file, out, **{**settings, **changes})
    assert not out.exists()
    with pytest.raises(FileNotFoundError):
        train(tmp_path / "absent.xyz", out, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoff": 3.5}, r"differs from the run's in cutoff"),
        ({"model_options": {"channels": 6}}, r"differs from the run's in channels"),
        ({"training_options": {"optimizer": "adamw"}}, r"`optimizer` \(='adamw'\) is not the checkpoint's"),
        ({"training_options": {"ema": 0.5}}, r"`ema` \(=0.5\) is not the checkpoint's"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    trained_run: Path, labelled_file: Path, settings: Settings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(labelled_file, trained_run, resume="last", **{**settings, "epochs": 13, **changes})


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(
    tmp_path: Path, labelled_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lemmata.apps.interatomic import module

    monkeypatch.setattr(module, "weighted_loss", lambda *_, **__: torch.tensor(float("nan")))
    with pytest.raises(module.DivergedError, match="the loss is nan at step 0; try a smaller `lr`"):
        train(labelled_file, tmp_path / "run", **settings)
