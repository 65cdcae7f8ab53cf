"""Generation: the same bits for any number of workers and after any interruption; nothing overwritten."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from lemmata.apps.pde_surrogate.chunks import sample_generator
from lemmata.apps.pde_surrogate.equations import EQUATIONS, EquationEntry, equation_from_attributes
from lemmata.apps.pde_surrogate.generate import generate
from lemmata.apps.pde_surrogate.store import open_store, read_store, resolutions

SMALL = {"n": 5, "res": 6, "chunk": 2, "workers": 0}


def contents(path):
    """Return every file of a store: arrays and attributes alike."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_what_is_stored(tmp_path):
    out = generate("darcy", out=tmp_path / "data" / "train.zarr", **{**SMALL, "res": [6, 12]}, seed=3)
    assert resolutions(out) == [6, 12]
    coarse, fine = (read_store(out, res, verify=True) for res in (6, 12))
    assert coarse.inputs.shape == (5, 1, 6, 6)
    assert fine.targets.shape == (5, 1, 12, 12)
    assert coarse.targets.dtype == torch.float32
    # One function at both resolutions: averaging the finer solution's cells nearly gives the coarser's.
    averaged = fine.targets.reshape(5, 1, 6, 2, 6, 2).mean((3, 5))
    assert float((averaged - coarse.targets).norm() / coarse.targets.norm()) < 0.1
    attributes = coarse.attributes
    assert attributes["equation"] == "darcy"
    assert attributes["resolution"] == 6
    assert attributes["fine_factor"] == 2
    assert attributes["fine_resolution"] == [12, 12]
    assert attributes["seed"] == 3
    assert attributes["split"] == "train"
    assert {"torch", "lemmata-operators"} <= set(attributes["code"])
    assert 0 < attributes["label_error"]["mean"] <= attributes["label_error"]["max"] < 0.2
    assert attributes["label_error"]["samples"] == 4
    assert not list(out.parent.glob("*.partial"))


def test_the_label_error_is_the_error_against_a_run_twice_as_fine(tmp_path):
    attributes = open_store(generate("poisson", out=tmp_path / "a.zarr", **SMALL)).attributes
    equation = equation_from_attributes(attributes)
    generators = [[sample_generator(0, "train", i) for i in range(4)] for _ in range(2)]
    labels, finer = (
        equation.dataset(4, 6, generator=own, fine_factor=factor, dtype=torch.float64).targets.flatten(1)
        for own, factor in zip(generators, (2, 4), strict=True)
    )
    errors = (labels - finer).norm(dim=1) / finer.norm(dim=1)
    assert attributes["label_error"]["mean"] == pytest.approx(float(errors.mean()), rel=1e-10)


def test_time_steps_are_halved_too_in_the_check(tmp_path):
    out = generate("burgers", out=tmp_path / "a.zarr", parameters={"time_step": 0.01}, **{**SMALL, "res": 16})
    attributes = open_store(out).attributes
    assert attributes["label_error"]["reference"]["parameters"]["time_step"] == 0.005
    assert attributes["parameters"]["time_step"] == 0.01


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_every_equation_generates(tmp_path, name):
    quick = {"parameters": {"final_time": 0.01}} if name in {"navier-stokes", "ks", "kdv"} else {}
    out = generate(name, out=tmp_path / "a.zarr", n=2, res=16, workers=0, **quick)
    data = read_store(out, verify=True)
    assert len(data) == 2
    assert bool(torch.isfinite(data.targets).all())


def test_samples_depend_on_seed_split_and_number_alone(tmp_path):
    def inputs(name, **options):
        return read_store(generate("poisson", out=tmp_path / name, **{**SMALL, **options})).inputs

    base = inputs("a.zarr")
    assert torch.equal(inputs("b.zarr", n=3, chunk=1), base[:3])
    assert not torch.equal(inputs("c.zarr", seed=1), base)
    assert not torch.equal(inputs("d.zarr", split="test"), base)


def test_bits_do_not_depend_on_workers(tmp_path):
    options = {"n": 7, "res": [8, 16], "chunk": 2}
    stores = [generate("darcy", out=tmp_path / f"{w}.zarr", workers=w, **options) for w in (0, 1, 2)]
    first, *others = (contents(path) for path in stores)
    assert all(other == first for other in others)


def test_an_external_scheduler_gives_the_same_bits(tmp_path):
    from distributed import LocalCluster

    options = {"n": 4, "res": 8, "chunk": 2}
    here = generate("poisson", out=tmp_path / "here.zarr", workers=0, **options)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        there = generate(
            "poisson", out=tmp_path / "there.zarr", scheduler=cluster.scheduler_address, **options
        )
    assert contents(there) == contents(here)


def test_an_unreachable_scheduler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("lemmata.apps.pde_surrogate.cluster.PATIENCE", 0.5)
    with pytest.raises(OSError, match=r"`scheduler` \(='tcp://127\.0\.0\.1:9'\) cannot be reached"):
        generate("poisson", out=tmp_path / "a.zarr", scheduler="tcp://127.0.0.1:9", n=2, res=6)


def test_existing_data_stay_without_force(tmp_path):
    out = generate("poisson", out=tmp_path / "a.zarr", **SMALL)
    before = contents(out)
    with pytest.raises(FileExistsError, match=r"a\.zarr: exists; --force replaces it"):
        generate("poisson", out=out, **SMALL, seed=1)
    with pytest.raises(ValueError, match=r"cannot resume: `seed` is 1, but the data set at .* has 0"):
        generate("poisson", out=out, **SMALL, seed=1, resume=True)
    assert contents(out) == before
    generate("poisson", out=out, **SMALL, resume=True)
    assert contents(out) == before
    generate("poisson", out=out, **SMALL, seed=1, force=True)
    assert contents(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_run_killed_at_its_last_steps_is_finished_by_resume(tmp_path, renamed):
    whole = generate("poisson", out=tmp_path / "whole.zarr", **SMALL)
    out = tmp_path / "a.zarr"
    code = f"""
import importlib, os
from pathlib import Path
generate = importlib.import_module("lemmata.apps.pde_surrogate.generate")
move = generate.publish
def publish(*paths):
    if {renamed}:
        move(*paths)
    os._exit(9)
generate.publish = publish
generate.generate("poisson", out=Path({str(out)!r}), **{SMALL})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert out.exists() is renamed
    assert (tmp_path / "a.zarr.partial").exists()
    generate("poisson", out=out, **SMALL, resume=True)
    assert contents(out) == contents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "whole.zarr"]


def test_force_never_replaces_what_is_not_ours(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="never replaced"):
        generate("poisson", out=tmp_path / "home", **SMALL, force=True)
    assert (tmp_path / "home" / "letter.txt").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, r"`n` \(=0\) must be at least 1"),
        ({"res": [8, 8]}, r"`res` \(=\[8, 8\]\) must be one or more different"),
        ({"res": []}, r"`res`"),
        ({"fine_factor": 0}, r"`fine_factor` \(=0\)"),
        ({"chunk": 0}, r"`chunk` \(=0\)"),
        ({"workers": -1}, r"`workers` \(=-1\)"),
        ({"seed": -1}, r"`seed` \(=-1\)"),
        ({"parameters": {"gravity": 1.0}}, r"does not take the parameters gravity=1\.0"),
    ],
)
def test_wrong_arguments_leave_no_trace(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate("poisson", out=tmp_path / "a.zarr", **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())


FAULTY = """
import os
from pathlib import Path

import torch

from lemmata.operators.pde.poisson import Poisson2d


class Faulty(Poisson2d):
    def __init__(self, *, fault=None, trigger=None):
        super().__init__()
        self.fault, self.trigger = fault, trigger

    def solve(self, inputs):
        solution = super().solve(inputs)
        if self.trigger is None or not Path(self.trigger).exists():
            return solution
        chosen = (inputs.mean(dim=(1, 2, 3)) > 0) & (len(inputs) <= 2)
        if self.fault == "die" and chosen.any():
            os._exit(9)
        if self.fault == "diverge" and chosen.any():
            raise RuntimeError("the iteration does not converge")
        if self.fault == "nan":
            solution[chosen] = torch.nan
        return solution
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Add an equation that fails in a chosen way while a trigger file exists."""
    (tmp_path / "faulty_equation.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(EQUATIONS, "faulty", EquationEntry("faulty_equation:Faulty", "fails"))
    trigger = tmp_path / "trigger"
    trigger.touch()
    yield trigger
    sys.modules.pop("faulty_equation", None)


@pytest.mark.parametrize(
    ("fault", "message"), [("diverge", "the iteration does not converge"), ("nan", "solution is not finite")]
)
def test_a_sample_that_fails_is_named_and_resume_continues(tmp_path, faulty, fault, message):
    options = {**SMALL, "parameters": {"fault": fault, "trigger": str(faulty)}}
    with pytest.raises(ValueError, match=rf"sample \d of 'faulty' \(split 'train', seed 0\).*{message}"):
        generate("faulty", out=tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()
    with pytest.raises(FileExistsError, match="--resume continues it, --force starts anew"):
        generate("faulty", out=tmp_path / "a.zarr", **options)
    with pytest.raises(ValueError, match=r"cannot resume: `n` is 4, but the unfinished run at .* has 5"):
        generate("faulty", out=tmp_path / "a.zarr", **{**options, "n": 4}, resume=True)
    faulty.unlink()
    out = generate("faulty", out=tmp_path / "a.zarr", **options, resume=True)
    assert len(read_store(out, verify=True)) == 5


def test_a_failed_run_with_force_leaves_the_old_data(tmp_path, faulty):
    out = generate("poisson", out=tmp_path / "a.zarr", **SMALL)
    before = contents(out)
    options = {**SMALL, "parameters": {"fault": "nan", "trigger": str(faulty)}}
    with pytest.raises(ValueError, match="not finite"):
        generate("faulty", out=out, **options, force=True)
    assert contents(out) == before
    faulty.unlink()
    with pytest.raises(FileExistsError):
        generate("faulty", out=out, **options, resume=True)
    generate("faulty", out=out, **options, resume=True, force=True)
    assert read_store(out).attributes["equation"] == "faulty"


def test_damaged_and_unmarked_chunks_are_made_again(tmp_path, faulty):
    options = {"n": 8, "res": 6, "chunk": 1, "workers": 0}
    options["parameters"] = {"fault": "nan", "trigger": str(faulty)}
    with pytest.raises(ValueError, match="not finite"):
        generate("faulty", out=tmp_path / "a.zarr", **options)
    faulty.unlink()
    partial = tmp_path / "a.zarr.partial"
    done = sorted((partial / "markers").glob("chunk-*.json"))
    for marker, damage in zip(done, ["", "{}", json.dumps({"6": {"input": "0"}})], strict=False):
        marker.write_text(damage)
    for file in (partial / "store" / "r6" / "target" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    out = generate("faulty", out=tmp_path / "a.zarr", **options, resume=True)
    whole = generate("faulty", out=tmp_path / "b.zarr", **options)
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_dying_workers_end_in_one_line_and_resume_continues(tmp_path, faulty):
    options = {"n": 6, "res": 6, "chunk": 1, "parameters": {"fault": "die", "trigger": str(faulty)}}
    with pytest.raises(ChildProcessError, match=r"^workers died .*--resume continues"):
        generate("faulty", out=tmp_path / "a.zarr", **options, workers=2)
    faulty.unlink()
    out = generate("faulty", out=tmp_path / "a.zarr", **options, workers=0, resume=True)
    assert contents(out) == contents(generate("faulty", out=tmp_path / "b.zarr", **options, workers=0))


SCRIPT = """
import sys
from pathlib import Path

from lemmata.apps.pde_surrogate.generate import generate

if __name__ == "__main__":
    generate("darcy", out=Path(sys.argv[1]), n=16, res=[8, 32], chunk=1, workers=int(sys.argv[2]),
             resume="--resume" in sys.argv)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "finished_chunks"), [(0, 0), (0, 3), (2, 1), (2, 5)])
def test_kill_and_resume_gives_the_bits_of_an_uninterrupted_run(tmp_path, workers, finished_chunks):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-W", "error", str(script), str(tmp_path / "killed.zarr"), str(workers)]
    process = subprocess.Popen(command, start_new_session=True)
    markers = tmp_path / "killed.zarr.partial" / "markers"
    while process.poll() is None and len(list(markers.glob("chunk-*.json"))) < finished_chunks:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.zarr").exists()
    subprocess.run([*command, "--resume"], check=True)
    whole = generate("darcy", out=tmp_path / "whole.zarr", n=16, res=[8, 32], chunk=1, workers=0)
    assert contents(tmp_path / "killed.zarr") == contents(whole)
    assert not markers.parent.exists()


def test_without_a_terminal_there_is_one_line(tmp_path, capfd):
    generate("poisson", out=tmp_path / "a.zarr", **SMALL)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "5 samples of poisson at 6" in captured.err
