"""Figures: every file is there, in one and two dimensions, and nothing is replaced unasked."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.pde_surrogate import evaluate, plot
from lemmata.apps.pde_surrogate.equations import make_equation
from lemmata.apps.pde_surrogate.module import SurrogateModule


@pytest.fixture(scope="module", params=[("darcy", 8), ("burgers", 16)], ids=lambda param: param[0])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, res = request.param
    folder = tmp_path_factory.mktemp(name)
    learner = SurrogateModule(size="S", overrides={"width": 4, "modes": 4, "depth": 1})
    learner.learn([make_equation(name).dataset(4, res, generator=torch.Generator().manual_seed(0))])
    checkpoint: dict[str, Any] = {
        "state_dict": learner.state_dict(),
        "hyper_parameters": dict(learner.hparams),
    }
    learner.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "last.ckpt")
    (folder / "metrics.csv").write_text("step,epoch,train_loss,val_l2\n0,0,1.5,\n1,0,0.5,0.7\n2,1,0.25,\n")
    evaluate(folder / "last.ckpt", res=[res, 2 * res], n=2)
    return folder


def test_every_figure_is_written_three_times(run: Path, tmp_path: Path) -> None:
    files = plot(run, out=tmp_path / "plots")
    stems = {path.stem for path in files}
    assert {"accuracy_per_second", "error_over_resolution", "spectra", "training"} <= stems
    assert sum(stem.startswith("fields_") for stem in stems) == 2
    assert sorted(path.name for path in files) == sorted(
        f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg", "csv")
    )
    assert all(path.stat().st_size > 0 for path in files)
    assert (tmp_path / "plots" / "training.csv").read_text().count("training loss") == 3


def test_plots_are_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    plot(run / "evaluation", out=tmp_path / "plots")
    with pytest.raises(FileExistsError, match="--force"):
        plot(run, out=tmp_path / "plots")
    plot(run, out=tmp_path / "plots", force=True)


def test_folders_that_hold_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no results\.json"):
        plot(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="not the results of an evaluation"):
        plot(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        plot(tmp_path)


def test_truncated_fields(run: Path, tmp_path: Path) -> None:
    for name in ("results.json", "fields.npz"):
        content = (run / "evaluation" / name).read_bytes()
        (tmp_path / name).write_bytes(content if name.endswith("json") else content[:-100])
    with pytest.raises(ValueError, match=r"fields\.npz: cannot be read"):
        plot(tmp_path)
