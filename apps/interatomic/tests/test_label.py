"""Labels are tblite's; a set is a function of its arguments, whoever makes it and however often killed."""

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.io import read, write
from tblite.ase import TBLite

from lemmata.apps.interatomic import labelling
from lemmata.apps.interatomic.dataset import assemble
from lemmata.apps.interatomic.frames import read_frames
from lemmata.apps.interatomic.label import label

HERE: dict[str, Any] = {"workers": 0}
SHORT: dict[str, Any] = {"trajectory": 4, "equilibration": 4, "interval": 2}


def tblite_of(atoms: Atoms) -> tuple[float, np.ndarray]:
    fresh = Atoms(
        atoms.numbers, atoms.positions, calculator=TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.1)
    )
    return fresh.get_potential_energy(), fresh.get_forces()


def energy_of(atoms: Atoms, method: str) -> float:
    atoms.calc = TBLite(method=method, verbosity=0, accuracy=0.01)
    return float(atoms.get_potential_energy())


@pytest.mark.parametrize("sample", ["displace", "normal-modes", "md"])
def test_labels_are_those_of_tblite_at_the_written_positions(sample: str, tmp_path: Path, capfd: Any) -> None:
    out = label("H2O", tmp_path / "water.xyz", sample=sample, count=6, **SHORT, **HERE)
    frames = read(out, ":")
    assert len(frames) == 8  # with two free atoms
    for atoms in frames[:6]:
        energy, forces = tblite_of(atoms)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
    assert [atoms.info["frame"] for atoms in frames[:6]] == list(range(6))
    kinds = {atoms.info["config_type"] for atoms in frames}
    assert kinds == {"displace" if sample == "displace" else f"{sample}-300K", "IsolatedAtom"}
    if sample == "md":
        assert [atoms.info["trajectory"] for atoms in frames[:6]] == [0, 0, 0, 0, 1, 1]
    output = capfd.readouterr()
    assert "Labelled 6 frames of H2O with GFN2-xTB" in output.out
    assert "cycle" not in output.out + output.err  # tblite itself is silent
    report = json.loads(out.with_suffix(".json").read_text())
    assert (report["frames"], report["failed"]["count"], report["source"]) == (6, 0, "H2O")
    assert not out.with_name("water.xyz.partial").exists()
    data = assemble(out)
    assert data.card["E0s_from"] == {"H": "isolated atom", "O": "isolated atom"}


def test_a_files_own_geometries_are_labelled_in_their_order(tmp_path: Path) -> None:
    frames = [molecule(name) for name in ("H2O", "CH4", "NH3")]
    frames[1].info["config_type"] = "mine"
    write(tmp_path / "in.xyz", frames, format="extxyz")
    out = label(str(tmp_path / "in.xyz"), tmp_path / "out.xyz", isolated=False, **HERE)
    found = read(out, ":")
    assert [atoms.get_chemical_formula() for atoms in found] == ["H2O", "CH4", "H3N"]
    assert found[1].info["config_type"] == "mine"
    np.testing.assert_allclose(found[1].positions, frames[1].positions, atol=1e-8)
    label(str(tmp_path / "in.xyz"), tmp_path / "one.xyz", count=1, isolated=False, **HERE)
    assert len(read(tmp_path / "one.xyz", ":")) == 1


def test_crystals_have_stresses(tmp_path: Path) -> None:
    write(tmp_path / "in.xyz", bulk("NaCl", "rocksalt", a=5.64, cubic=True), format="extxyz")
    out = label(
        str(tmp_path / "in.xyz"),
        tmp_path / "out.xyz",
        method="GFN1-xTB",
        sample="displace",
        count=2,
        strain=0.02,
        relax=False,
        **HERE,
    )
    frames, report = read_frames(out)
    assert report.labelled["stress"] == 2
    first, second = frames[:2]
    assert first.get_volume() != second.get_volume()
    stress = first.get_stress(voigt=False)
    for i, j in ((0, 0), (1, 2)):  # dE / d strain by central differences, in eV/Å³
        pair = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * 5e-5
            strain[j, i] += sign * 5e-5
            moved = first.copy()
            moved.set_cell(first.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            pair.append(energy_of(moved, "GFN1-xTB"))
        slope = (pair[0] - pair[1]) / 2e-4
        assert stress[i, j] == pytest.approx(slope / first.get_volume(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("sample", ["displace", "md"])
def test_the_number_of_workers_changes_nothing(sample: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sample": sample, "count": 20, "seed": 5, **SHORT}
    alone = label("H2O", tmp_path / "a.xyz", workers=0, **options)
    before = os.environ.get("OMP_NUM_THREADS")
    pool = label("H2O", tmp_path / "b.xyz", workers=2, **options)
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert pool.read_bytes() == alone.read_bytes()
    more = label("H2O", tmp_path / "c.xyz", workers=0, **{**options, "count": 24})
    first = [atoms.positions for atoms in read(alone, ":20")]
    assert np.array_equal(first, [atoms.positions for atoms in read(more, ":20")])  # a frame is its number's
    other = label("H2O", tmp_path / "d.xyz", workers=0, **{**options, "seed": 6})
    assert other.read_bytes() != alone.read_bytes()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(tmp_path: Path, monkeypatch: Any) -> None:
    options: dict[str, Any] = {"sample": "normal-modes", "count": 50, **HERE}
    whole = label("H2O", tmp_path / "whole.xyz", **options)
    calls = []
    make = labelling.make

    def killed(folder: Path, piece: str) -> int:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(piece)
        return make(folder, piece)

    monkeypatch.setattr(labelling, "make", killed)
    with pytest.raises(KeyboardInterrupt):
        label("H2O", tmp_path / "killed.xyz", **options)
    monkeypatch.undo()
    partial = tmp_path / "killed.xyz.partial"
    assert not (tmp_path / "killed.xyz").exists()
    assert calls == ["start-00000", "part-00000", "part-00001"]
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("part-*")}
    assert len(kept) == 4
    (partial / "part-00002.xyz").write_text("half a fra")  # what a kill within a piece leaves
    for name, other in (("count", 49), ("seed", 1), ("method", "GFN1-xTB")):
        with pytest.raises(ValueError, match=rf"holds an interrupted run with another {name}; repeat"):
            label("H2O", tmp_path / "killed.xyz", **{**options, name: other})
    with pytest.raises(ValueError, match="with another starts_sha256"):
        label("H2", tmp_path / "killed.xyz", **options)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert label("H2O", tmp_path / "killed.xyz", **options).read_bytes() == whole.read_bytes()
    assert not partial.exists()


@pytest.mark.slow
def test_a_run_killed_by_the_system_goes_on_and_ends_with_the_same_file(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from lemmata.apps.interatomic.label import label\n"
        "if __name__ == '__main__':\n"
        f"    out = Path({str(tmp_path / 'killed.xyz')!r})\n"
        "    label('CH3CH2OH', out, sample='displace', count=800, workers=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    run = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    partial = tmp_path / "killed.xyz.partial"
    until = time.monotonic() + 60
    while len(list(partial.glob("part-*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert 2 <= len(list(partial.glob("part-*.json"))) < 50
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    whole = label("CH3CH2OH", tmp_path / "whole.xyz", sample="displace", count=800, **HERE)
    assert (tmp_path / "killed.xyz").read_bytes() == whole.read_bytes()


def test_a_lost_worker_is_told_and_what_is_done_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    class Lost(concurrent.futures.Executor):
        def submit(self, function: Any, folder: Path, name: str) -> Any:
            future: Any = concurrent.futures.Future()
            if name == "part-00001":
                future.set_exception(BrokenProcessPool("killed"))
            else:
                future.set_result(function(folder, name))
            return future

    module = sys.modules["lemmata.apps.interatomic.label"]  # the package's attribute is the function
    monkeypatch.setattr(module, "_pool", lambda workers: contextlib.nullcontext(Lost()))
    options: dict[str, Any] = {"sample": "displace", "count": 40}
    with pytest.raises(ChildProcessError, match="run the same command again to go on"):
        label("H2O", tmp_path / "a.xyz", **options)
    assert len(list((tmp_path / "a.xyz.partial").glob("part-*.json"))) >= 1


def test_frames_that_do_not_converge_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    original = labelling._label

    def sometimes(atoms: Atoms, calculator: Any) -> Atoms:
        if sometimes.calls in {3, 7}:  # type: ignore[attr-defined]
            sometimes.calls += 1  # type: ignore[attr-defined]
            raise CalculationFailed("SCF not converged\nin 250 cycles")
        sometimes.calls += 1  # type: ignore[attr-defined]
        return original(atoms, calculator)

    sometimes.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(labelling, "_label", sometimes)
    out = label("H2O", tmp_path / "a.xyz", sample="displace", count=10, relax=False, **HERE)
    assert len(read(out, ":")) == 8 + 2
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["frames"] == 8
    assert report["failed"]["reasons"] == {"SCF not converged in 250 cycles": 2}
    assert [failure["frame"] for failure in report["failed"]["frames"]] == [3, 7]
    assert "Left out 2: SCF not converged in 250 cycles (2)" in capsys.readouterr().out


def test_a_trajectory_that_breaks_off_keeps_what_it_has(tmp_path: Path, monkeypatch: Any) -> None:
    def breaks(*arguments: Any, **options: Any) -> Any:
        for number, atoms in enumerate(labelling_langevin(*arguments, **options)):
            if number == 2:
                raise CalculationFailed("exploded")
            yield atoms

    labelling_langevin = labelling.langevin
    monkeypatch.setattr(labelling, "langevin", breaks)
    out = label("H2O", tmp_path / "a.xyz", sample="md", count=8, isolated=False, **SHORT, **HERE)
    assert [atoms.info["frame"] for atoms in read(out, ":")] == [0, 1, 4, 5]
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["failed"]["reasons"] == {"exploded": 4}


def test_nothing_that_can_be_labelled_is_an_error(tmp_path: Path) -> None:
    together = Atoms("H2O", np.zeros((3, 3)))
    together.positions[1, 0] = 0.2
    together.positions[2, 0] = 0.2 + 1e-9
    write(tmp_path / "in.traj", together)
    with pytest.raises(ValueError, match=r"none of 1 frames could be labelled: .*distances"):
        label(str(tmp_path / "in.traj"), tmp_path / "a.xyz", **HERE)
    write(tmp_path / "og.xyz", Atoms("Og"), format="extxyz")
    with pytest.raises(ValueError, match=r"none of 3 frames could be labelled: start 0: .*86"):
        label(str(tmp_path / "og.xyz"), tmp_path / "a.xyz", sample="displace", count=3, **HERE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.traj", "og.xyz"]


def test_charged_molecules_have_neutral_free_atoms(tmp_path: Path) -> None:
    neutral = read(label("OH", tmp_path / "a.xyz", **HERE), ":")
    charged = read(label("OH", tmp_path / "b.xyz", charge=-1, **HERE), ":")
    assert charged[0].get_potential_energy() < neutral[0].get_potential_energy()
    assert charged[1].get_potential_energy() == neutral[1].get_potential_energy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "PBE"}, r"`method` \(='PBE'\) is not known; expected one of GFN2-xTB, GFN1-xTB"),
        ({"sample": "random"}, r"`sample` \(='random'\) is not known; expected one of none, displace"),
        ({"count": 0}, r"`count` \(=0\)"),
        ({"temperature": 0.0}, r"`temperature` \(=0.0\)"),
        ({"amplitude": -1.0}, r"`amplitude` \(=-1.0\)"),
        ({"timestep": float("nan")}, r"`timestep` \(=nan\)"),
        ({"interval": 0}, r"`interval` \(=0\)"),
        ({"seed": -1}, r"`seed` \(=-1\)"),
        ({"multiplicity": 0}, r"`multiplicity` \(=0\)"),
        ({"workers": -1}, r"`workers` \(=-1\)"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label("H2O", tmp_path / "a.xyz", **options)
    assert not list(tmp_path.iterdir())


def test_files_are_not_overwritten_and_sources_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.xyz or \.extxyz"):
        label("H2O", tmp_path / "a.traj")
    with pytest.raises(FileNotFoundError, match="neither a file nor a molecule"):
        label("unobtainium", tmp_path / "a.xyz")
    out = label("H2O", tmp_path / "a.xyz", **HERE)
    with pytest.raises(FileExistsError, match="pass --force to replace it"):
        label("H2O", out, **HERE)
    label("CH4", out, force=True, **HERE)
    assert read(out, 0).get_chemical_formula() == "CH4"


def test_force_replaces_an_interrupted_run_of_another_kind(tmp_path: Path) -> None:
    partial = tmp_path / "a.xyz.partial"
    partial.mkdir()
    (partial / "recipe.json").write_text('{"recipe": {"seed": 3}}')
    with pytest.raises(ValueError, match="holds an interrupted run with another"):
        label("H2O", tmp_path / "a.xyz", **HERE)
    label("H2O", tmp_path / "a.xyz", force=True, **HERE)
    assert not partial.exists()
