"""An app's command line: instant help, lazy verbs, errors in one line, runs that resume."""

import subprocess
import sys
import textwrap

import pytest

from lemmata.apps.kit.cli import App, TrainingVerbs, Verb, main

VERBS = '''
from pathlib import Path

def add(
    left: int, right: float, *, out: Path, sizes: list[int] = [1, 2], twice: bool = False, how_many: int = 1
) -> None:
    """Add two numbers.

    Args:
        left: The left one.
        right: The right one.
        out: Where the sum goes.
        sizes: Sizes.
        twice: Count the sum twice.
        how_many: Ones added.
    """
    out.write_text(f"{(left + right + how_many - 1) * (2 if twice else 1)} {sizes}")

def join(parts: list[Path], last: str, *, out: Path, names: list[str] | None = None) -> None:
    """Join files' names."""
    out.write_text("|".join([*map(str, parts), last, *(names or [])]))

def fail(kind: str) -> None:
    """Fail as asked."""
    if kind == "value":
        raise ValueError("this is\\n  wrong")
    if kind == "file":
        open("/nowhere/at/all")
    if kind == "interrupt":
        raise KeyboardInterrupt
    raise RuntimeError("a fault of the program")
'''

TRAINING = """
import lightning.pytorch as pl
import torch
from lemmata.apps.kit.resume import ResumableLoader

class Model(pl.LightningModule):
    def __init__(self, width: int = 8, die_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = torch.nn.Linear(4, width), torch.nn.Dropout(), torch.nn.Linear(width, 1)
        self.net = torch.nn.Sequential(*layers)

    def training_step(self, batch, batch_idx):
        if self.global_step == self.hparams.die_at:
            raise OSError("killed")
        loss = self.net(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())

class Data(pl.LightningDataModule):
    def __init__(self, count: int = 20) -> None:
        super().__init__()
        self.samples = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return ResumableLoader(self.samples, 4)

    def val_dataloader(self):
        return ResumableLoader(self.samples, 8, shuffle=False)
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "kit_trial_verbs.py").write_text(VERBS)
    (modules / "kit_trial_training.py").write_text(TRAINING)
    monkeypatch.syspath_prepend(modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tiny"])
    return App(
        "tiny",
        "A tiny app.",
        {
            "add": Verb("kit_trial_verbs:add", "Add numbers"),
            "join": Verb("kit_trial_verbs:join", "Join names"),
            "fail": Verb("kit_trial_verbs:fail", "Fail"),
        },
        TrainingVerbs(
            "kit_trial_training:Model",
            "kit_trial_training:Data",
            defaults={
                "trainer.max_epochs": 2,
                "trainer.accelerator": "cpu",
                "trainer.log_every_n_steps": 1,
                "trainer.enable_model_summary": False,
            },
            short={"--epochs": "--trainer.max_epochs"},
        ),
        distribution="lemmata-kit",
    )


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(argument):
    code = f"""
    import sys
    from lemmata.apps.kit import App, TrainingVerbs, Verb, main
    app = App("tiny", "Tiny.", {{"a": Verb("no.such:a", "A")}}, TrainingVerbs("no:M", "no:D"), "lemmata-kit")
    code = main(app, [{argument!r}])
    heavy = {{"torch", "lightning", "dask", "numpy", "jsonargparse", "matplotlib", "rich"}} & set(sys.modules)
    sys.exit(f"imported {{heavy}}" if heavy else code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny" in done.stdout


def test_a_verb_imports_its_own_module_alone(app, capsys):
    assert main(app, ["add", "--help"]) == 0
    assert "The left one." in capsys.readouterr().out
    assert "kit_trial_training" not in sys.modules


def test_a_verb_takes_arguments_and_a_configuration(app, tmp_path):
    (tmp_path / "c.yaml").write_text("sizes: [7]\n")
    assert main(app, ["add", "1", "2.5", "--out", "sum", "--config", "c.yaml"]) == 0
    assert (tmp_path / "sum").read_text() == "3.5 [7]"


@pytest.mark.parametrize(
    "options",
    [
        "--twice --sizes 3 4 5",
        "--sizes 3 4 5 --twice",
        "--twice true --sizes [3,4,5]",
        "--twice=true --sizes=[3,4,5]",
        "--how-many 1 --twice --sizes 3 4 5",
        "--how-many=1 --how_many 1 --twice --sizes 3 4 5",
    ],
)
def test_flags_and_lists_are_written_as_people_write_them(app, tmp_path, options):
    out = tmp_path / "sum"
    assert main(app, ["add", "1", "2.5", "--out", str(out), *options.split()]) == 0
    assert out.read_text() == "7.0 [3, 4, 5]"


@pytest.mark.parametrize(
    ("arguments", "joined"),
    [
        (["a.csv", "z"], "a.csv|z"),
        (["a.csv", "b, c.csv", "z"], "a.csv|b, c.csv|z"),
        (["--names", "n", "--out", "joined", "a.csv", "z"], "a.csv|z|n"),
        (["a.csv", "z", "--names", "a [1]", "b"], "a.csv|z|a [1]|b"),
        (["--out=joined", "a.csv", "b.csv", "z"], "a.csv|b.csv|z"),
    ],
)
def test_positional_lists_take_what_single_ones_leave(app, tmp_path, arguments, joined):
    assert main(app, ["join", *arguments, "--out", str(tmp_path / "joined")]) == 0
    assert (tmp_path / "joined").read_text() == joined


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 2, "error: unknown verb 'nope'; expected one of fit, validate, test, add, join, fail"),
        (["fail", "value"], 2, "error: this is wrong"),
        (["fail", "file"], 2, "error: /nowhere/at/all: No such file or directory"),
        (["fail", "interrupt"], 130, "interrupted"),
        (["add", "1", "x", "--out", "y"], 2, "right"),
        (["add", "1", "2"], 2, "out"),
        (["add", "1", "2", "--out", "y", "--nope", "3"], 2, "--nope"),
        (["add", "--config", "nope.yaml"], 2, "nope.yaml"),
    ],
)
def test_expected_errors_are_one_line(app, capsys, arguments, code, message):
    assert main(app, arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("tiny: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


def test_faults_of_the_program_are_not_hidden_and_tracebacks_can_be_had(app, monkeypatch):
    with pytest.raises(RuntimeError, match="a fault of the program"):
        main(app, ["fail", "other"])
    monkeypatch.setenv("LEMMATA_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        main(app, ["fail", "value"])


def test_fit_writes_a_run_folder_and_goes_on_exactly(app, tmp_path, capsys):
    assert main(app, ["fit", "--out", "whole"]) == 0
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
    }
    names = {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()}
    assert "last.ckpt" in names
    assert any(name.startswith("best") for name in names)

    command = ["fit", "--out", "run", "--checkpoint_every", "2"]
    assert main(app, [*command, "--model.die_at", "7"]) == 2
    assert main(app, command) == 2
    assert "--resume last" in capsys.readouterr().err.splitlines()[-1]
    assert main(app, ["fit", "--out", "run", "--resume", "last", "--model.die_at=-1"]) == 0
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert "checkpoint_every: 2" in (tmp_path / "run" / "config.yaml").read_text()

    assert main(app, ["fit", "--out", "run", "--force", "--epochs=1"]) == 0
    assert main(app, ["validate", "--ckpt_path", "run/checkpoints/last.ckpt"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "last"], "runs/tiny has no last.ckpt"),
        (["--resume", "nope.ckpt"], "nope.ckpt does not exist"),
        (["--model.width", "x"], "model.width"),
        (["--nope", "1"], "nope"),
    ],
)
def test_errors_of_fit_are_one_line(app, capsys, arguments, message):
    assert main(app, ["fit", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
