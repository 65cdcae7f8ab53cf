"""Training: what the checkpoint holds, losses, schedules, precision, and a loss that is not finite."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lemmata.apps.pde_surrogate import fit
from lemmata.apps.pde_surrogate.description import DataDescription
from lemmata.apps.pde_surrogate.module import CHECKPOINT_KEY, SurrogateModule
from lemmata.apps.pde_surrogate.store import write_store
from lemmata.apps.pde_surrogate.surrogate import Surrogate, find_checkpoint, read_checkpoint
from lemmata.operators.data import FieldDataset, fingerprint
from lemmata.operators.grids import Grid
from lemmata.operators.losses import relative_lp

TINY = {"width": 4, "modes": 4, "depth": 2}
ON_CPU = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}


def fields(n: int = 24, *points: int, layout: Any = "periodic", seed: int = 0) -> FieldDataset:
    grid = Grid(points or (16,), (1.0,) * len(points or (16,)), layout)
    phase = 6.28 * torch.rand(n, 1, *[1] * grid.dim, generator=torch.Generator().manual_seed(seed))
    inputs = torch.sin(6.28 * grid.coordinates()[:1] + phase)
    return FieldDataset(inputs, 3.0 + inputs.roll(2, -1), grid, attributes={"equation": None, "seed": seed})


def train(folder: Path, data: FieldDataset | list[FieldDataset], **options: Any) -> Path:
    write_store(folder / "train.zarr", data)
    settings = {"overrides": TINY, "epochs": 2, "batch_size": 8, "trainer": ON_CPU, **options}
    return fit(folder / "train.zarr", out=folder / "run", **settings)


def test_a_checkpoint_is_plain_and_self_contained(tmp_path: Path) -> None:
    data = fields()
    run = train(tmp_path, data, val=0.25)
    for path in (run / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        stored = checkpoint[CHECKPOINT_KEY]
        assert json.loads(json.dumps(stored)) == stored
        assert json.loads(json.dumps(dict(checkpoint["hyper_parameters"])))["name"] == "fno"
        description = DataDescription.from_dict(stored["data"])
        assert description.to_dict() == stored["data"]
        assert (description.in_channels, description.out_channels, description.samples) == (1, 1, 18)
        assert description.grids == (data.grid,)


def test_statistics_come_from_the_training_set_alone(tmp_path: Path) -> None:
    train_set, val_set = fields(16, seed=0), fields(16, seed=1)
    val_set.targets += 100.0
    write_store(tmp_path / "val.zarr", val_set)
    run = train(tmp_path, train_set, val=str(tmp_path / "val.zarr"))
    module = Surrogate.load(run).module
    assert module.targets.mean.item() == pytest.approx(train_set.targets.double().mean().item(), rel=1e-6)
    assert module.inputs.std.item() == pytest.approx(
        train_set.inputs.double().std(correction=0).item(), rel=1e-6
    )
    assert module.description is not None
    assert module.description.fingerprint == fingerprint(train_set.inputs)
    assert module.description.targets[0].high == pytest.approx(train_set.targets.max().item())


@pytest.mark.parametrize("loss", ["l2", "h1", "sobolev"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_every_loss_and_schedule_learns(tmp_path: Path, loss: Any, schedule: Any) -> None:
    data = fields()
    run = train(tmp_path, data, loss=loss, schedule=schedule, epochs=15, val=None)
    surrogate = Surrogate.load(run)
    flat = torch.full_like(data.targets, data.targets.mean().item())
    assert relative_lp(surrogate(data.inputs), data.targets) < relative_lp(flat, data.targets)


@pytest.mark.parametrize("layout", ["cells", "nodes", "interior"])
def test_every_layout_trains_in_two_dimensions(tmp_path: Path, layout: str) -> None:
    run = train(tmp_path, fields(8, 8, 9, layout=layout), loss="h1", epochs=1)
    assert Surrogate.load(run)(fields(1, 8, 9, layout=layout).inputs).shape == (1, 1, 8, 9)


@pytest.mark.filterwarnings("ignore:outside the training range")
def test_resolutions_train_together(tmp_path: Path) -> None:
    run = train(tmp_path, [fields(8, 8), fields(8, 16)])
    assert [grid.shape for grid in Surrogate.load(run).description.grids] == [(8,), (16,)]


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precision(tmp_path: Path, precision: str) -> None:
    run = train(tmp_path, fields(), trainer={**ON_CPU, "precision": precision}, val=None)
    checkpoint = read_checkpoint(run)
    expected = torch.float64 if precision == "64-true" else torch.float32
    weights = [value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")]
    assert {value.dtype for value in weights} == {expected}
    assert all(bool(value.isfinite().all()) for value in weights)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the loss is (nan|inf) at step \d+ .*try a smaller `learning_rate`"
    ):
        train(tmp_path, fields(), learning_rate=1e30, epochs=20, schedule="constant", val=None)


def test_a_run_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs `max_epochs` or `max_steps`"):
        train(tmp_path, fields(), epochs=-1)


def test_a_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = train(tmp_path, fields(), epochs=1)
    with pytest.raises(FileExistsError, match="--resume last to go on, --force to replace"):
        fit(tmp_path / "train.zarr", out=run)
    fit(tmp_path / "train.zarr", out=run, force=True, overrides=TINY, epochs=1, trainer=ON_CPU)


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    run = train(tmp_path, fields(), epochs=1)
    write_store(tmp_path / "other.zarr", fields(seed=5))
    with pytest.raises(ValueError, match=r"trained on other data \(.* samples at 16, .*resume with the same"):
        fit(tmp_path / "other.zarr", out=run, resume="last", overrides=TINY, epochs=2, trainer=ON_CPU)


class Stop(Callback):
    """Ends a run as a kill does, within an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_run_resumed_within_an_epoch_equals_an_uninterrupted_one(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 7, "checkpoint_every": 1, "val": 0.25}
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    for folder in (whole, parts):
        folder.mkdir()
    train(whole, fields(), **settings)
    with monkeypatch.context() as context:
        initialise = Trainer.__init__

        def with_stop(self: Trainer, *, callbacks: list[Callback], **arguments: Any) -> None:
            initialise(self, callbacks=[*callbacks, Stop(step)], **arguments)

        context.setattr(Trainer, "__init__", with_stop)
        with pytest.raises(InterruptedError):
            train(parts, fields(), **settings)
    fit(
        parts / "train.zarr",
        out=parts / "run",
        overrides=TINY,
        trainer=ON_CPU,
        resume="last",
        **settings,
    )
    one, other = (
        torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (whole, parts)
    )
    assert one["global_step"] == other["global_step"] == 9
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert (whole / "run" / "metrics.csv").read_text() == (parts / "run" / "metrics.csv").read_text()


@pytest.mark.parametrize(("limit", "accumulate", "steps"), [(1.0, 1, 6), (0.5, 1, 2), (2, 1, 4), (1.0, 2, 4)])
def test_the_schedule_spans_the_run(tmp_path: Path, limit: float, accumulate: int, steps: int) -> None:
    options = {"limit_train_batches": limit, "accumulate_grad_batches": accumulate}
    run = train(tmp_path, fields(), val=None, trainer={**ON_CPU, **options})
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == steps
    assert checkpoint["lr_schedulers"][0]["total_steps"] == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "unet"}, "model 'unet' is not known"),
        ({"loss": "l3"}, "`loss` .* is not known; expected one of l2, h1, sobolev"),
        ({"schedule": "none"}, "`schedule` .* is not known"),
        ({"learning_rate": -1.0}, "`learning_rate`"),
        ({"weight_decay": math.inf}, "`weight_decay`"),
        ({"sobolev_order": math.nan}, "`sobolev_order`"),
        ({"warmup": 1.0}, "`warmup`"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SurrogateModule(**options)


def test_the_best_checkpoint_is_found(tmp_path: Path) -> None:
    run = train(tmp_path, fields(), val=0.25)
    assert find_checkpoint(run).name.startswith("best-")
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt: no such checkpoint"):
        find_checkpoint(tmp_path)
