"""Trained potentials from checkpoints, runs and exports: which weights, which files are refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.interatomic import export, load_potential
from lemmata.apps.interatomic.trained import find_checkpoint


def test_a_run_gives_its_best_checkpoint_with_averaged_weights(trained_run: Path) -> None:
    file = find_checkpoint(trained_run)
    assert file.name.startswith("best-")
    potential = load_potential(trained_run)
    state = torch.load(file, weights_only=True)["state_dict"]
    for name, value in potential.state_dict().items():
        assert torch.equal(value, state[f"averaged.{name}"])
    assert not potential.training
    assert not any(weight.requires_grad for weight in potential.parameters())
    assert potential.elements == (10, 18)


def test_weights_without_an_average_are_those_trained(trained_run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(find_checkpoint(trained_run), weights_only=True)
    for name in [name for name in checkpoint["state_dict"] if name.startswith("averaged.")]:
        del checkpoint["state_dict"][name]
    torch.save(checkpoint, tmp_path / "plain.ckpt")
    potential = load_potential(tmp_path / "plain.ckpt")
    for name, value in potential.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"potential.{name}"])


def test_the_last_checkpoint_serves_where_none_is_best(trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes((trained_run / "checkpoints" / "last.ckpt").read_bytes())
    assert find_checkpoint(tmp_path / "run") == folder / "last.ckpt"
    load_potential(tmp_path / "run")


def test_dtype_and_copies(trained_run: Path) -> None:
    potential = load_potential(trained_run, dtype=torch.float64)
    assert potential.dtype == torch.float64
    again = copy.deepcopy(potential).float().double()
    assert torch.equal(again.reference_energies, potential.reference_energies)


def test_files_that_are_none(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such potential; expected a checkpoint"):
        load_potential(tmp_path / "absent")
    (tmp_path / "noise").write_bytes(b"\x80\x04noise")
    with pytest.raises(ValueError, match="neither a checkpoint nor an exported potential"):
        load_potential(tmp_path / "noise")
    whole = find_checkpoint(trained_run).read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.ckpt"):
        load_potential(tmp_path / "half.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not one of this app's checkpoints"):
        load_potential(tmp_path / "other.ckpt")


class Trap:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "interatomic": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_potential(tmp_path / "trap.ckpt")
    assert "executed" not in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused(trained_run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    out = export(trained_run, out=tmp_path / "potential.safetensors")
    weights = load_file(out)
    save_file(weights, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="its metadata have no entry 'config'"):
        load_potential(tmp_path / "bare.safetensors")
    checkpoint = torch.load(find_checkpoint(trained_run), weights_only=True)
    checkpoint["interatomic"]["config"]["channels"] = 5
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="the weights do not fit the potential"):
        load_potential(tmp_path / "other.ckpt")
