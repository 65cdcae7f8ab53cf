"""From anybody's file to a folder: splits without leaks, what is dropped or refused, nothing half done."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.interatomic import dataset
from lemmata.apps.interatomic.dataset import assemble, load_prepared, open_dataset
from lemmata.apps.interatomic.frames import write_frames
from lemmata.apps.interatomic.prepare import prepare
from lemmata.apps.interatomic.splitting import Split, fingerprint, looks_like_a_trajectory, split_frames


def labelled(atoms: Atoms, energy: float = -1.0, **info: Any) -> Atoms:
    forces = np.random.default_rng(len(atoms)).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info |= info
    return atoms


def waters(count: int, seed: int = 0, **info: Any) -> list[Atoms]:
    draw = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        atoms = molecule("H2O")
        atoms.positions += 0.1 * draw.normal(size=(3, 3))
        frames.append(labelled(atoms, energy=-10.0 - 0.01 * number, **info))
    return frames


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write_frames(tmp_path / "water.xyz", waters(40)))


def energies(frames: Any) -> list[float]:
    return [round(atoms.get_potential_energy(), 6) for atoms in frames]


def test_a_folder_is_written_that_reads_back(source: str, tmp_path: Path, capsys: Any) -> None:
    folder = prepare(source, tmp_path / "data")
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "test.xyz",
        "train.xyz",
        "validation.xyz",
    ]
    data, direct = load_prepared(folder), assemble(source)
    assert data.card == direct.card
    for part, frames in direct.parts.items():
        assert energies(data.parts[part]) == energies(frames)
        for left, right in zip(data.parts[part], frames, strict=True):
            np.testing.assert_allclose(left.get_forces(), right.get_forces(), atol=1e-8)
    assert energies(data.parts["train"]) == [round(-10 - 0.01 * n, 6) for n in range(32)]  # blocks in time
    shown = capsys.readouterr().out
    assert "train" in shown
    assert "least squares" in shown
    assert "contiguous blocks" in shown


def test_files_may_be_given_for_parts_and_for_free_atoms(source: str, tmp_path: Path) -> None:
    validation = write_frames(tmp_path / "v.xyz", waters(5, seed=1))
    free = [labelled(Atoms("H"), -2.0), labelled(Atoms("O"), -3.0)]
    isolated = write_frames(tmp_path / "free.xyz", free)
    data = assemble(source, validation=validation, isolated=isolated)
    assert [len(data.parts[part]) for part in ("train", "validation", "test")] == [36, 5, 4]
    assert data.card["E0s"] == {"H": -2.0, "O": -3.0}
    assert "validation from" in data.card["split"]["description"]
    assert [file["read"] for file in data.card["files"]] == [40, 2, 5]


def test_free_atoms_among_the_frames_give_e0s_and_are_not_trained_on(tmp_path: Path) -> None:
    free = labelled(Atoms("H"), -2.0, config_type="IsolatedAtom")
    data = assemble(write_frames(tmp_path / "a.xyz", [free, *waters(20)]))
    assert data.card["E0s"]["H"] == -2.0
    assert data.card["E0s_from"] == {"H": "isolated atom", "O": "least squares"}
    assert sum(row["frames"] for row in data.card["parts"].values()) == 20
    with pytest.raises(ValueError, match="holds free atoms alone"):
        assemble(write_frames(tmp_path / "b.xyz", [free]))


def test_what_is_dropped_is_on_the_card_and_on_the_screen(tmp_path: Path, capsys: Any) -> None:
    frames = waters(20)
    frames[3].calc.results["forces"] = np.full((3, 3), 99.0)
    frames[7].calc.results["energy"] = float("nan")
    path = write_frames(tmp_path / "a.xyz", frames)
    prepare(str(path), tmp_path / "data")
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert card["dropped"]["count"] == 2
    assert card["dropped"]["reasons"] == {"a force above 100 eV/Å": 1, "energy that is not finite": 1}
    assert [drop["frame"] for drop in card["dropped"]["frames"]] == [3, 7]
    assert "Dropped 2 frames: 1 with a force above 100 eV/Å" in " ".join(capsys.readouterr().out.split())


def test_an_element_that_training_lacks_is_named(source: str, tmp_path: Path) -> None:
    path = write_frames(tmp_path / "t.xyz", [*waters(2), labelled(molecule("CH4"))])
    with pytest.raises(
        ValueError, match=r"test frame 2 has C, which the training frames lack; they have H, O"
    ):
        assemble(source, test=path)


def test_a_crystals_small_cell_is_fine_and_noticed(tmp_path: Path) -> None:
    frames = []
    for number in range(10):
        atoms = labelled(bulk("Ar", a=5.2 + 0.01 * number))
        atoms.calc.results["stress"] = np.zeros(6)
        frames.append(atoms)
    data = assemble(write_frames(tmp_path / "ar.xyz", frames), cutoff=9.0)
    assert data.card["parts"]["train"]["labelled"]["stress"] == 8
    [notice] = [text for text in data.card["notices"] if "height" in text]
    assert "the cutoff 9 Å is more than half of the smallest height of a cell, 3.00 Å" in notice
    assert "MB" in notice


def test_nothing_of_ones_own_is_replaced_and_a_failure_leaves_nothing(
    source: str, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = prepare(source, tmp_path / "data")
    with pytest.raises(FileExistsError, match="pass --force to replace it"):
        prepare(source, folder)
    before = (folder / "card.json").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="is not a folder of prepare"):
        prepare(source, tmp_path / "mine", force=True)

    def fail(*arguments: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("lemmata.apps.kit.files.write_json", fail)
    with pytest.raises(OSError, match="the disk is full"):
        prepare(source, folder, force=True)
    assert (folder / "card.json").read_bytes() == before
    with pytest.raises(OSError, match="the disk is full"):
        prepare(source, tmp_path / "new")
    monkeypatch.undo()
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*partial"))
    prepare(source, folder, force=True, test_fraction=0.2)
    assert len(load_prepared(folder).parts["test"]) == 8


def test_a_folder_that_was_changed_is_refused(source: str, tmp_path: Path) -> None:
    folder = prepare(source, tmp_path / "data")
    write_frames(folder / "train.xyz", waters(3))
    with pytest.raises(ValueError, match=r"train\.xyz holds 3 frames, its card says 32"):
        load_prepared(folder)
    (folder / "train.xyz").unlink()
    with pytest.raises(FileNotFoundError):
        open_dataset(folder)
    (folder / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=r"card\.json is not the card of a data set"):
        open_dataset(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "random"}, r"`split` \(='random'\) is not known; expected one of blocks, hash"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` \(=1.0\) must lie in \[0, 1\)"),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, "nothing to train on"),
        ({"gap": -1}, r"`gap` \(=-1\)"),
        ({"gap": 1, "split": "hash"}, r"`gap` \(=1\) must be at least 0, and 0 with `split` hash"),
        ({"gap": 40}, "no frame of 40 is left for train"),
        ({"split": "hash", "split_key": "run"}, r"frame 0 has no entry `split_key` \(='run'\)"),
        ({"split_key": "run"}, r"a frame has no entry `split_key` \(='run'\)"),
        (
            {"split": "hash", "validation_fraction": 1e-6},
            r"no frame of 40 is left for validation; use .* blocks",
        ),
        ({"cutoff": 0.0}, r"`cutoff` \(=0.0\)"),
        ({"max_force": -1.0}, r"`max_force` \(=-1.0\)"),
        ({"isolated": Path("nowhere.xyz")}, r"nowhere\.xyz"),
    ],
)
def test_arguments_out_of_range_are_named(
    source: str, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(source, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_sources_that_are_none_are_told(tmp_path: Path, source: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"'absent' does not exist|expected an extended-XYZ file"):
        assemble("absent")
    with pytest.raises(ValueError, match=r"is a folder without card\.json"):
        assemble(tmp_path)
    folder = prepare(source, tmp_path / "data")
    with pytest.raises(ValueError, match="is prepared already"):
        assemble(folder)


def test_published_sets_come_with_their_free_atoms(real_data: Any, monkeypatch: Any) -> None:
    path = real_data("acetylacetone/train_300K.xyz")
    real_data("acetylacetone/isolated_atoms.xyz")
    monkeypatch.setenv("LEMMATA_DATA", str(path.parent.parent))
    data = assemble("acetylacetone")
    assert [len(data.parts[part]) for part in ("train", "validation", "test")] == [400, 50, 50]
    assert data.card["E0s"]["C"] == -1026.8538996116154
    assert data.card["dropped"]["count"] == 0
    assert data.reference.scale == pytest.approx(1.0594, abs=1e-4)
    assert not looks_like_a_trajectory(data.parts["train"])


def test_blocks_are_contiguous_within_each_kind() -> None:
    frames = [
        frame
        for pair in zip(waters(20, config_type="a"), waters(20, config_type="b"), strict=True)
        for frame in pair
    ]
    parts = split_frames(frames, Split(validation=0.1, test=0.2, gap=1))
    for offset in (0, 1):
        mine = {part: [n // 2 for n in numbers if n % 2 == offset] for part, numbers in parts.items()}
        assert mine == {"train": list(range(12)), "validation": [13, 14], "test": [16, 17, 18, 19]}


def test_trajectories_are_not_cut() -> None:
    frames = [frame for run in range(7) for frame in waters(6, seed=run, trajectory=run)]
    parts = split_frames(frames, Split(validation=0.1, test=0.1))
    runs = {part: {frames[n].info["trajectory"] for n in numbers} for part, numbers in parts.items()}
    assert runs == {"train": {0, 1, 2, 3, 4}, "validation": {5}, "test": {6}}
    parts = split_frames(frames, Split("hash", validation=0.3, test=0.3, key="trajectory"))
    runs = {part: {frames[n].info["trajectory"] for n in numbers} for part, numbers in parts.items()}
    assert sum(map(len, runs.values())) == 7


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    validation=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
    gap=st.integers(0, 3),
    runs=st.booleans(),
)
def test_parts_never_overlap_and_blocks_are_apart(
    sizes: list[int], validation: float, test: float, gap: int, runs: bool
) -> None:
    frames = [
        Atoms("H", info={"config_type": f"kind {kind}", **({"trajectory": n // 4} if runs else {})})
        for kind, size in enumerate(sizes)
        for n in range(size)
    ]
    with contextlib.suppress(ValueError):  # nothing is left for a part
        assert_apart(frames, Split(validation=validation, test=test, gap=gap))


def assert_apart(frames: list[Atoms], split: Split) -> None:
    parts = split_frames(frames, split)
    every = [number for numbers in parts.values() for number in numbers]
    assert len(every) == len(set(every))
    assert set(every) <= set(range(len(frames)))
    if split.gap == 0:
        assert sorted(every) == list(range(len(frames)))


def test_a_hash_keeps_frames_on_their_side_when_a_set_grows_or_is_reordered() -> None:
    frames = waters(60)
    rule = Split("hash", validation=0.2, test=0.2)
    side = {n: part for part, numbers in split_frames(frames[:40], rule).items() for n in numbers}
    grown = {n: part for part, numbers in split_frames(frames, rule).items() for n in numbers}
    assert all(grown[n] == part for n, part in side.items())
    back = split_frames(frames[::-1], rule)
    assert {59 - n for n in back["test"]} == {n for n, part in grown.items() if part == "test"}
    other = split_frames(frames, Split("hash", validation=0.2, test=0.2, seed=1))
    assert other["test"] != [n for n, part in grown.items() if part == "test"]


def test_copies_of_a_structure_are_the_same_whatever_their_pose() -> None:
    atoms = waters(1)[0]
    moved = atoms[[1, 2, 0]]
    moved.rotate(33, (1, 2, 3))
    moved.translate([5, 6, 7])
    assert fingerprint(moved) == fingerprint(atoms)
    stretched = atoms.copy()
    stretched.positions[1] *= 1.05
    assert fingerprint(stretched) != fingerprint(atoms)
    crystal = bulk("Ar", cubic=True)
    wrapped = crystal.copy()
    wrapped.translate([3, 0, 0])
    wrapped.wrap()
    assert fingerprint(wrapped) == fingerprint(crystal) != fingerprint(bulk("Ar", a=5.3, cubic=True))


def test_a_trajectory_split_by_hash_is_noticed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frames, atoms = [], molecule("CH3CH2OH")
    for _ in range(80):
        atoms.positions += 0.02 * draw.normal(size=atoms.positions.shape)
        frames.append(labelled(atoms.copy()))
    assert looks_like_a_trajectory(frames)
    assert not looks_like_a_trajectory(waters(80))
    path = write_frames(tmp_path / "md.xyz", frames)
    assert any("near copies" in text for text in assemble(path, split=Split("hash")).card["notices"])
    assert not any("near copies" in text for text in assemble(path).card["notices"])


def test_bytes_of_an_edge_are_those_of_its_tensors() -> None:
    from lemmata.apps.interatomic.graphs import to_data

    graph = to_data(bulk("Ar"), 5.0)
    size = sum(t.element_size() * t.numel() for t in (graph.edge_index, graph.shift))
    assert size == dataset.BYTES_OF_AN_EDGE * graph.edge_index.shape[1]


def test_copies_of_training_frames_are_noticed(tmp_path: Path) -> None:
    frames = waters(20)
    turned = labelled(frames[2][[2, 1, 0]])
    turned.rotate(50, "x")
    path = write_frames(tmp_path / "a.xyz", [*frames[:19], turned])
    assert "test frames that are copies of training frames: 1" in assemble(path).card["notices"]
    assert not assemble(path, split=Split("hash", 0.3, 0.3)).card["notices"][1:]
