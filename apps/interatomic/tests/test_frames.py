"""Extended XYZ as people have it: other names, missing labels, broken lines, absurd numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.interatomic.extxyz import iterate_frames
from lemmata.apps.interatomic.frames import is_isolated_atom, read_frames, write_frames

WATER = "O 0 0 0 {0} 0 0\nH 0 0.76 0.59 0 0 0\nH 0 -0.76 0.59 0 0 0\n"
COLUMNS = "Properties=species:S:1:pos:R:3:forces:R:3"


def frame(comment: str = "energy=-1.0", force: object = 0.5, columns: str = COLUMNS) -> str:
    return f"3\n{columns} {comment}\n{WATER.format(force)}"


def written(path: Path, *frames: str) -> Path:
    path.write_text("".join(frames))
    return path


def compressed_argon() -> Atoms:
    atoms = bulk("Ar", "fcc", a=4.9, cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=6.0, smooth=True)
    return atoms


def test_labels_of_ase_are_read_as_they_were_written(tmp_path: Path) -> None:
    atoms = compressed_argon()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    write(tmp_path / "ar.xyz", atoms, format="extxyz")
    [found], report = read_frames(tmp_path / "ar.xyz")
    assert found.calc.results["energy"] == pytest.approx(energy, rel=1e-14)
    np.testing.assert_allclose(found.calc.results["forces"], forces, atol=1e-8)
    np.testing.assert_allclose(found.calc.results["stress"], stress, rtol=1e-12)
    assert stress[:3].max() < 0  # under pressure: ASE's sign
    assert report.labelled == {"energy": 1, "forces": 1, "stress": 1}


@pytest.mark.parametrize("layout", ["virial", "REF_virial", "REF_stress"])
def test_virials_become_stresses_of_ases_sign(tmp_path: Path, layout: str) -> None:
    atoms = compressed_argon()
    stress = atoms.get_stress(voigt=False)
    value = -stress * atoms.get_volume() if "virial" in layout else stress
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    plain.info |= {"REF_energy": -1.0, layout: value if layout == "virial" else value.ravel()}
    plain.new_array("REF_forces", atoms.get_forces())
    write(tmp_path / "ar.xyz", plain, format="extxyz")
    [found], report = read_frames(tmp_path / "ar.xyz")
    np.testing.assert_allclose(found.calc.results["stress"], atoms.get_stress(), rtol=1e-9, atol=1e-12)
    assert report.keys.to_dict() == {"energy": "REF_energy", "forces": "REF_forces", "stress": layout}
    assert layout not in found.info


@pytest.mark.parametrize(("energy", "forces"), [("REF_energy", "REF_forces"), ("TotEnergy", "force")])
def test_usual_names_are_recognised_and_others_named(tmp_path: Path, energy: str, forces: str) -> None:
    columns = COLUMNS.replace("forces", forces)
    path = written(tmp_path / "a.xyz", frame(f"{energy}=-2.5", columns=columns))
    [found], report = read_frames(path)
    assert found.get_potential_energy() == -2.5
    assert found.get_forces()[0, 0] == 0.5
    assert (report.keys.energy, report.keys.forces) == (energy, forces)
    path = written(tmp_path / "b.xyz", frame("my_e=-2.5", columns=COLUMNS.replace("forces", "my_f")))
    with pytest.raises(ValueError, match=r"no energy found; .*`energy_key`: found my_e, my_f"):
        read_frames(path)
    [found], _ = read_frames(path, energy_key="my_e", forces_key="my_f")
    assert found.get_potential_energy() == -2.5
    with pytest.raises(ValueError, match=r"`energy_key` \(='E'\) is in no frame; found my_e, my_f"):
        read_frames(path, energy_key="E", forces_key="my_f")
    with pytest.raises(ValueError, match=r"no forces found.*found my_e, my_f"):
        read_frames(path, energy_key="my_e")


def test_the_authors_own_label_goes_before_the_plain_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", frame("REF_energy=-7 energy=-1"), frame("energy=-1"))
    frames, report = read_frames(path)
    assert frames[0].get_potential_energy() == -7
    assert "energy" not in frames[1].calc.results  # only the name that was chosen is read
    assert report.labelled["energy"] == 1
    assert "energy is read from REF_energy, not from energy" in report.notices[0]


def test_labels_that_are_absent_stay_absent(tmp_path: Path) -> None:
    bare = "3\nProperties=species:S:1:pos:R:3 energy=-3\nO 0 0 0\nH 0 .76 .59\nH 0 -.76 .59\n"
    unlabelled = bare.replace(" energy=-3", "")
    path = written(tmp_path / "a.xyz", frame(), bare, frame(""), unlabelled, frame("energy=None"))
    frames, report = read_frames(path)
    assert [sorted(a.calc.results) for a in frames] == [
        ["energy", "forces"],
        ["energy"],
        ["forces"],
        ["forces"],
    ]
    assert report.reasons == {"no label": 1}
    assert report.dropped[0].frame == 3
    frames, report = read_frames(path, require=())
    assert len(frames) == 5
    assert frames[3].calc is None


@pytest.mark.parametrize(
    ("comment", "force", "reason"),
    [
        ("energy=nan", 0.5, "energy that is not finite"),
        ("energy=-1", "nan", "forces that are not finite"),
        ("energy=-1", "inf", "forces that are not finite"),
        ("energy=-1", 100.1, "a force above 100 eV/Å"),
        (
            'energy=-1 Lattice="9 0 0 0 9 0 0 0 9" stress="nan 0 0 0 0 0 0 0 0"',
            0.5,
            "stress that is not finite",
        ),
    ],
)
def test_what_is_absurd_is_dropped_and_counted(
    tmp_path: Path, comment: str, force: object, reason: str
) -> None:
    path = written(tmp_path / "a.xyz", frame(), frame(comment, force), frame("energy=-2"))
    frames, report = read_frames(path)
    assert [a.get_potential_energy() for a in frames] == [-1, -2]
    assert (report.read, report.kept) == (3, 2)
    assert report.reasons == {reason: 1}
    assert (report.dropped[0].frame, report.dropped[0].line) == (1, 6)
    with pytest.raises(ValueError, match=rf"none of 1 frames can be used: {reason} \(1\)"):
        read_frames(written(path, frame(comment, force)))


def test_atoms_at_one_place_empty_frames_and_positions_that_are_not_finite_are_dropped(
    tmp_path: Path,
) -> None:
    same = frame().replace("H 0 -0.76", "H 0 0.76")
    through = frame('energy=-1 Lattice="0.05 0 0 0 9 0 0 0 9" pbc="T F F"')
    path = written(
        tmp_path / "a.xyz", same, frame().replace("O 0", "O nan"), "0\nenergy=1\n", through, frame()
    )
    frames, report = read_frames(path)
    assert len(frames) == 1
    assert report.reasons == {
        "atoms closer than 0.1 Å": 2,
        "positions that are not finite": 1,
        "no atoms": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"bad\.xyz is empty"),
        ("\n  \n", r"bad\.xyz is empty"),
        (frame() + "3\nenergy=1\nO 0 0 0 0 0 0\n", r"truncated: frame 1 \(line 6\) has 1 of 3 atoms"),
        (frame() + "3\n", r"truncated: frame 1 \(line 6\) has 0 of 3 atoms"),
        (frame() + "water\n", r"line 6: expected the number of atoms of frame 1, found 'water'"),
        ("-1\n\n", "line 1: expected the number of atoms of frame 0"),
        (frame(force=""), r"line 3 \(frame 0\) has 6 columns, expected 7"),
        (frame(force="1.0D-3"), r"line 3 \(frame 0\): '1.0D-3' of column forces is not a number"),
        (frame().replace("O 0", "Qq 0"), r"line 3 \(frame 0\): 'Qq' is not an element"),
        (frame().replace("O 0", "X 0"), r"frame 0 \(line 1\): atom 0 is of no element"),
        (frame('energy="1 2"'), r"frame 0 \(line 1\): energy has the shape \(2,\)"),
        (frame("energy=high"), r"frame 0 \(line 1\): energy \(='high'\) is not a number"),
        (
            frame("energy=1 config_weight=-1"),
            r"frame 0 \(line 1\): config_weight \(=.*-1.*\) must be a number",
        ),
        (frame("energy=1 config_weight=low"), r"config_weight \(='low'\) must be a number of at least 0"),
        (frame("energy=1 stress=2"), r"frame 0 \(line 1\): Got info item stress"),
        (
            frame('energy=1 Lattice="4 0 0 8 0 0 0 0 4" pbc="T T T"'),
            r"frame 0 \(line 1\): the cell .* is singular, yet pbc is \[True, True, True\]",
        ),
        (frame('energy=1 pbc="F F T"'), r"frame 0 \(line 1\): the cell .* is singular"),
        (
            "3\nProperties=pos:R:3 energy=1\n0 0 0\n0 0 1\n0 1 0\n",
            "of no element; expected a column of species",
        ),
    ],
)
def test_errors_name_file_line_and_frame(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "bad.xyz", text)
    with pytest.raises(ValueError, match=message) as error:
        read_frames(path)
    assert "bad.xyz" in str(error.value)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "absent.xyz")
    with pytest.raises(ValueError, match="is a folder"):
        read_frames(tmp_path)
    (tmp_path / "binary.xyz").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.xyz is not text in UTF-8"):
        read_frames(tmp_path / "binary.xyz")
    path = written(tmp_path / "a.xyz", frame())
    with pytest.raises(ValueError, match=r"`max_force` \(=0\) must be positive"):
        read_frames(path, max_force=0)
    with pytest.raises(ValueError, match="are all `none`; expected a label to learn"):
        read_frames(path, energy_key="none", forces_key="none")


def test_blank_lines_between_frames_lose_nothing_here(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", frame(), "\n\n", frame("energy=-2"), "\n")
    assert len(read(path, ":")) == 1  # what ASE makes of it
    assert [a.get_potential_energy() for a in read_frames(path)[0]] == [-1, -2]


def test_windows_line_ends_byte_order_marks_and_cells_as_pseudo_atoms_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_bytes("\ufeff".encode() + frame().replace("\n", "\r\n").encode())
    assert len(read_frames(path)[0]) == 1
    path.write_text("1\nold\nH 0 0 0\nVEC1 5 0 0\nVEC2 0 5 0\nVEC3 0 0 5\n1\nnext\nH 0 0 0\n")
    raw = list(iterate_frames(path))
    assert [entry.line for entry in raw] == [1, 7]
    assert raw[0].atoms.pbc.all()


def test_what_else_a_frame_tells_is_kept_and_constraints_are_not(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", frame('energy=-1 config_type=hot dihedrals="1 2" free_energy=-9'))
    [found], _ = read_frames(path)
    assert found.info["config_type"] == "hot"
    assert found.info["dihedrals"].tolist() == [1, 2]
    assert "free_energy" not in found.info
    columns = COLUMNS + ":move_mask:L:1"
    atoms = WATER.format(0.5).replace("\n", " T\n").replace(" T\n", " F\n", 1)
    path.write_text(f"3\n{columns} energy=-1\n{atoms}")
    assert read(path).constraints
    [found], _ = read_frames(path)
    assert not found.constraints
    assert found.get_forces()[0, 0] == 0.5  # ASE would show none on an atom that is fixed


def test_frames_survive_writing_and_reading(tmp_path: Path) -> None:
    atoms = compressed_argon()
    atoms.info["config_type"] = "crystal"
    labels = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    free = Atoms("H", info={"config_type": "IsolatedAtom"})
    write_frames(tmp_path / "a.xyz", [atoms, free])
    frames, _ = read_frames(tmp_path / "a.xyz", require=())
    for name, value in labels.items():
        np.testing.assert_allclose(frames[0].calc.results[name], value, atol=1e-8)
    assert frames[0].info == {"config_type": "crystal"}
    assert frames[1].calc is None
    once = (tmp_path / "a.xyz").read_bytes()
    write_frames(tmp_path / "a.xyz", frames)
    assert (tmp_path / "a.xyz").read_bytes() == once


@settings(max_examples=25, deadline=None)
@given(
    positions=st.lists(st.tuples(*[st.floats(-99, 99)] * 3), min_size=1, max_size=6),
    energy=st.floats(-1e5, 1e5, allow_subnormal=False),
    seed=st.integers(0, 99),
)
def test_any_frame_survives_writing_and_reading(
    tmp_path_factory: Any, positions: list[tuple[float, float, float]], energy: float, seed: int
) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    draw = np.random.default_rng(seed)
    atoms = Atoms(draw.integers(1, 90, len(positions)), positions)
    forces = draw.normal(size=(len(positions), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    path = write_frames(tmp_path_factory.mktemp("frames") / "a.xyz", [atoms, atoms])
    frames = [entry.atoms for entry in iterate_frames(path)]
    assert len(frames) == 2
    assert frames[1].get_potential_energy() == energy
    assert (frames[1].numbers == atoms.numbers).all()
    np.testing.assert_allclose(frames[1].positions, positions, atol=5.1e-9)
    np.testing.assert_allclose(frames[1].get_forces(), forces, atol=5.1e-9)


@pytest.mark.parametrize("name", ["isolated_atom", "IsolatedAtom", "isolated atom"])
def test_free_atoms_are_told_by_name_or_by_being_alone(name: str) -> None:
    in_a_box = Atoms("H", cell=[9, 9, 9], pbc=True)
    assert not is_isolated_atom(in_a_box)
    in_a_box.info["config_type"] = name
    assert is_isolated_atom(in_a_box)
    assert not is_isolated_atom(Atoms("H2", info={"config_type": name}))


def test_the_published_sets_are_read(real_data: Any) -> None:
    frames, report = read_frames(real_data("acetylacetone/train_300K.xyz"))
    assert (len(frames), report.read, report.dropped) == (500, 500, ())
    assert frames[0].get_potential_energy() == -9391.45554428476
    assert np.std([a.get_potential_energy() for a in frames]) == pytest.approx(0.15, abs=0.005)
    free, _ = read_frames(real_data("3bpa/iso_atoms.xyz"), forces_key="none")
    assert [atoms.symbols[0] for atoms in free] == ["C", "H", "N", "O"]
    assert all(map(is_isolated_atom, free))
