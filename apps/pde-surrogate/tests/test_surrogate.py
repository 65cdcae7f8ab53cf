"""A trained surrogate as a function: arrays in and out, warnings, files, and checkpoints that are none."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemmata.apps.pde_surrogate import Surrogate, predict
from lemmata.apps.pde_surrogate.description import describe
from lemmata.apps.pde_surrogate.module import CHECKPOINT_KEY, SurrogateModule
from lemmata.apps.pde_surrogate.store import read_store, write_store
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid

GRID = Grid((12, 12), (2.0, 2.0), "periodic")


def module(channels: int = 1, out: int = 1) -> SurrogateModule:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(6, channels, 12, 12, generator=generator)
    learner = SurrogateModule(size="S", overrides={"width": 4, "modes": 4, "depth": 1})
    learner.learn([FieldDataset(inputs, 5.0 + torch.rand(6, out, 12, 12, generator=generator), GRID)])
    return learner


def save(learner: SurrogateModule, path: Path) -> Path:
    checkpoint: dict[str, Any] = {
        "state_dict": learner.state_dict(),
        "hyper_parameters": dict(learner.hparams),
    }
    learner.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(module(), tmp_path / "own.ckpt")


def inside(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).clamp(0.01, 0.98)


def test_a_loaded_surrogate_equals_the_module(tmp_path: Path) -> None:
    learner = module()
    surrogate = Surrogate.load(save(learner, tmp_path / "a.ckpt"))
    x = inside(5, 1, 12, 12)
    with torch.no_grad():
        expected = learner.eval()(x)
    assert torch.equal(surrogate(x), expected)
    assert torch.allclose(surrogate(x, batch_size=2), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
def test_numpy_in_numpy_out(checkpoint: Path, dtype: Any) -> None:
    x = inside(3, 1, 12, 12).numpy().astype(dtype)
    x.flags.writeable = False
    y = Surrogate.load(checkpoint)(x)
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype) == ((3, 1, 12, 12), np.dtype(dtype).newbyteorder("="))
    torch.testing.assert_close(torch.from_numpy(y).float(), Surrogate.load(checkpoint)(inside(3, 1, 12, 12)))


@pytest.mark.parametrize("dtype", [np.bool_, np.int32])
def test_numbers_that_are_not_floating_are_taken_as_numbers(checkpoint: Path, dtype: Any) -> None:
    x = (inside(2, 1, 12, 12).numpy() > 0.5).astype(dtype)
    assert Surrogate.load(checkpoint)(x).dtype == np.float32


def test_axes_that_say_nothing_may_be_left_out(checkpoint: Path) -> None:
    surrogate = Surrogate.load(checkpoint)
    x = inside(3, 1, 12, 12)
    full = surrogate(x)
    assert torch.equal(surrogate(x[:, 0]), full[:, 0])
    torch.testing.assert_close(surrogate(x[1, 0]), full[1, 0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (np.zeros((2, 3, 12, 12)), r"shape \(2, 3, 12, 12\), expected \(n, 1, x, y\)"),
        (np.zeros(12), r"shape \(12,\), expected \(n, 1, x, y\)"),
        (np.zeros((0, 1, 12, 12)), r"shape \(0, 1, 12, 12\)"),
        (np.full((1, 1, 12, 12), np.nan), "144 values that are not finite"),
    ],
)
def test_arrays_that_do_not_fit(checkpoint: Path, fields: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surrogate.load(checkpoint)(fields)


@pytest.mark.parametrize("fields", [np.zeros((1, 1, 12, 12), complex), np.array(["a"])])
def test_arrays_that_are_no_real_numbers(checkpoint: Path, fields: np.ndarray) -> None:
    with pytest.raises(TypeError, match="`fields` must be"):
        Surrogate.load(checkpoint)(fields)


def test_warnings_name_what_leaves_the_training_range(checkpoint: Path) -> None:
    surrogate = Surrogate.load(checkpoint)
    with pytest.warns(UserWarning, match=r"resolution 24 x 24 \(trained at 12 x 12\)"):
        assert surrogate(inside(1, 1, 24, 24)).shape == (1, 1, 24, 24)
    with pytest.warns(UserWarning, match=r"values of channel 0 in \[-2.*trained on \[0"):
        surrogate(inside(1, 1, 12, 12) - 3.0)


def test_descriptions_hold_the_ranges_of_the_data() -> None:
    data = FieldDataset(
        torch.tensor([[[1.0, 3.0]], [[5.0, 9.0]]]), torch.ones(2, 1, 2), Grid((2,), (1.0,), "cells")
    )
    [channel] = describe([data], "f").inputs
    assert (channel.low, channel.high, channel.lowest_mean, channel.highest_mean) == (1.0, 9.0, 2.0, 7.0)


class TestCheckpointsThatAreNone:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone\.ckpt: no such checkpoint"):
            Surrogate.load(tmp_path / "gone.ckpt")

    @pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut"])
    def test_not_a_checkpoint(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.ckpt: not a checkpoint that loads safely"):
            Surrogate.load(tmp_path / "a.ckpt")

    def test_truncated(self, checkpoint: Path) -> None:
        checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
        with pytest.raises(ValueError, match="not a checkpoint that loads safely"):
            Surrogate.load(checkpoint)

    def test_code_is_not_executed(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "executed",))

        torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
        (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
        for name in ("bomb.ckpt", "bomb.pkl"):
            with pytest.raises(ValueError, match="not a checkpoint that loads safely"):
                Surrogate.load(tmp_path / name)
        assert not (tmp_path / "executed").exists()

    def test_of_another_program(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
        with pytest.raises(ValueError, match=f"found no hyper_parameters, {CHECKPOINT_KEY}"):
            Surrogate.load(tmp_path / "a.ckpt")

    def test_with_weights_of_another_model(self, tmp_path: Path) -> None:
        learner = module()
        path = save(learner, tmp_path / "a.ckpt")
        stored = torch.load(path, weights_only=True)
        stored["hyper_parameters"]["overrides"]["width"] = 6
        torch.save(stored, path)
        with pytest.raises(ValueError, match="the weights do not fit the model"):
            Surrogate.load(path)


class TestPredict:
    def test_npy_in_container_out(self, checkpoint: Path, tmp_path: Path) -> None:
        x = inside(4, 12, 12).numpy()
        np.save(tmp_path / "own.npy", x)
        out = predict(checkpoint, tmp_path / "own.npy", layout="nxy")
        assert out == tmp_path / "own-prediction.zarr"
        data = read_store(out, verify=True)
        assert data.grid == GRID
        torch.testing.assert_close(data.targets, Surrogate.load(checkpoint)(torch.from_numpy(x)[:, None]))
        with pytest.raises(FileExistsError, match="--force"):
            predict(checkpoint, tmp_path / "own.npy", layout="nxy")
        predict(checkpoint, tmp_path / "own.npy", layout="nxy", force=True)

    def test_container_in_npy_out(self, checkpoint: Path, tmp_path: Path) -> None:
        x = inside(4, 1, 12, 12)
        write_store(tmp_path / "own.zarr", FieldDataset(x, torch.zeros_like(x), GRID))
        out = predict(checkpoint, tmp_path / "own.zarr", out=tmp_path / "p.npy")
        y = np.load(out, allow_pickle=False)
        torch.testing.assert_close(torch.from_numpy(y), Surrogate.load(checkpoint)(x))

    def test_bad_input_names_the_file(self, checkpoint: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "own.npy", np.zeros((2, 3, 12, 12)))
        with pytest.raises(ValueError, match=r"own\.npy: .*expected \(n, 1, x, y\)"):
            predict(checkpoint, tmp_path / "own.npy", layout="ncxy")
        with pytest.raises(ValueError, match=r"must end in \.npy or \.zarr"):
            predict(checkpoint, tmp_path / "own.npy", out=tmp_path / "p.csv")
        assert not (tmp_path / "own-prediction.zarr").exists()
