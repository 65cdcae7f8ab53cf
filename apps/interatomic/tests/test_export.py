"""Exported potentials: the same predictions from one file, and programs that need no lemmata."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch
from safetensors import safe_open

from lemmata.apps.interatomic import export, load_potential
from lemmata.apps.interatomic.export import export_program
from lemmata.apps.interatomic.graphs import to_data
from lemmata.apps.interatomic.models.potential import Interaction

Make = Callable[..., Any]


def test_an_export_predicts_the_same(trained_run: Path, labelled_file: Path, tmp_path: Path) -> None:
    out = export(trained_run, out=tmp_path / "potential.safetensors")
    data = to_data(ase.io.read(labelled_file, index=3), 4.0)
    before, after = load_potential(trained_run)(data), load_potential(out)(data)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)
    again = export(out, out=tmp_path / "again.safetensors")
    assert torch.equal(load_potential(again)(data).energy, after.energy)


def test_an_export_holds_tensors_and_json_alone(trained_run: Path, tmp_path: Path) -> None:
    out = export(trained_run, out=tmp_path / "potential.safetensors")
    with safe_open(out, framework="pt") as opened:
        assert set(opened.metadata()) == {"config"}
        assert set(opened.keys()) == set(load_potential(trained_run).state_dict())


def test_files_are_not_replaced_unasked(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "potential.safetensors"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        export(trained_run, out=out)
    assert out.read_text() == "mine"
    export(trained_run, out=out, force=True)


@pytest.mark.usefixtures("unchecked")
def test_a_program_gives_energies_and_slopes_for_any_numbers_of_atoms(
    small: Make, molecule: Make, graphs: Make, tmp_path: Path
) -> None:
    potential = small("tensor-product", zbl=True, channels=2).requires_grad_(requires_grad=False)
    torch.export.save(export_program(potential), tmp_path / "potential.pt2")
    program = torch.export.load(tmp_path / "potential.pt2").module()
    for atoms in (molecule(0, 4), molecule(1, 11)):
        data = graphs(atoms)
        graph, prediction = potential.graph(data), potential(data)
        edge_index = torch.stack([graph.source, graph.target])
        atomic, slope = program(graph.vectors, graph.species, edge_index)
        torch.testing.assert_close(atomic, prediction.atomic_energy)
        forces = torch.zeros_like(data.pos).index_add(0, graph.target, slope)
        forces = forces.index_add(0, graph.source, -slope)
        torch.testing.assert_close(forces, prediction.forces)
        same = Interaction(potential)(graph.vectors, graph.species, edge_index)
        torch.testing.assert_close(atomic, same)


@pytest.mark.slow
def test_a_program_runs_without_lemmata(trained_run: Path, tmp_path: Path, unchecked: None) -> None:
    out = export(trained_run, out=tmp_path / "potential.safetensors", program=True)
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(out.with_suffix('.pt2'))!r}).module()\n"
        "edges = torch.tensor([[1, 0], [0, 1]])\n"
        "vectors = torch.tensor([[0.0, 0.0, 2.5], [0.0, 0.0, -2.5]])\n"
        "energies, slope = program(vectors, torch.tensor([0, 1]), edges)\n"
        "assert energies.shape == (2,) and slope.shape == (2, 3)\n"
        "sys.exit(any(name.startswith('lemmata') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("model", ["frame", "position-orientation"])
def test_models_without_a_program_say_so(model: str, small: Make) -> None:
    with pytest.raises(ValueError, match=f"needs a tensor-product potential, got '{model}'"):
        export_program(small(model))
