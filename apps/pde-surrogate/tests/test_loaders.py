"""Loaders: every format brings the same fields; every bad file is one line; real files load unmodified."""

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import rich
import scipy.io
import torch
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemmata.apps.pde_surrogate.formats.axes import arrange, guess_layout
from lemmata.apps.pde_surrogate.formats.guessing import is_periodic
from lemmata.apps.pde_surrogate.loaders import inspect, load_fields, load_input
from lemmata.apps.pde_surrogate.store import write_store
from lemmata.operators.data import FieldDataset
from lemmata.operators.grids import Grid

N, SHAPE = 6, (9, 10)


def pair():
    generator = np.random.default_rng(0)
    return generator.random((N, *SHAPE)) > 0.5, generator.standard_normal((N, *SHAPE))


def save_npy(folder, coeff, sol):
    path = folder / "pairs"
    path.mkdir()
    np.save(path / "coeff.npy", coeff)
    np.save(path / "sol.npy", np.asfortranarray(sol))
    return path


def save_npz(folder, coeff, sol):
    np.savez_compressed(folder / "pairs.npz", coeff=coeff, sol=sol)
    return folder / "pairs.npz"


def save_mat5(folder, coeff, sol):
    scipy.io.savemat(folder / "v5.mat", {"coeff": coeff, "sol": sol}, do_compression=True)
    return folder / "v5.mat"


def save_mat73(folder, coeff, sol):
    """Write what MATLAB writes: a header block, axes reversed, a class attribute."""
    path = folder / "v73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array, kind in (("coeff", coeff.astype(np.uint8), "logical"), ("sol", sol, "double")):
            file.create_dataset(name, data=array.T).attrs["MATLAB_class"] = np.bytes_(kind)
        file.create_group("#refs#").create_dataset("a", data=np.zeros(3))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def save_hdf5(folder, coeff, sol):
    with h5py.File(folder / "pairs.h5", "w") as file:
        file.create_dataset("coeff", data=coeff, chunks=(2, *SHAPE), compression="gzip")
        file["sol"] = sol
    return folder / "pairs.h5"


def save_netcdf4(folder, coeff, sol):
    dims = ("sample", "x", "y")
    dataset = xr.Dataset({"coeff": (dims, coeff.astype(np.int8)), "sol": (dims, sol)})
    dataset.to_netcdf(folder / "pairs4.nc", engine="h5netcdf")
    return folder / "pairs4.nc"


def save_netcdf3(folder, coeff, sol):
    dims = ("sample", "x", "y")
    dataset = xr.Dataset({"coeff": (dims, coeff.astype(np.int8)), "sol": (dims, sol)})
    dataset.to_netcdf(folder / "pairs3.nc", engine="scipy")
    return folder / "pairs3.nc"


def save_zarr(folder, coeff, sol, version=3):
    root = zarr.create_group(folder / f"pairs{version}.zarr", zarr_format=version)
    for name, array in (("coeff", coeff), ("sol", sol)):
        root.create_array(name, data=array, chunks=(2, *SHAPE))
    return folder / f"pairs{version}.zarr"


def save_zarr2(folder, coeff, sol):
    return save_zarr(folder, coeff, sol, version=2)


def save_pt(folder, coeff, sol):
    torch.save({"coeff": torch.from_numpy(coeff), "sol": torch.from_numpy(sol), "note": "x"}, folder / "a.pt")
    return folder / "a.pt"


WRITERS = [
    save_npy,
    save_npz,
    save_mat5,
    save_mat73,
    save_hdf5,
    save_netcdf4,
    save_netcdf3,
    save_zarr,
    save_zarr2,
    save_pt,
]


@pytest.mark.parametrize("save", WRITERS)
def test_every_format_brings_the_same_fields(tmp_path, save):
    coeff, sol = pair()
    path = save(tmp_path, coeff, sol)
    data = load_fields(path, map="input=coeff target=sol", layout="nxy", dtype=torch.float64)
    assert torch.equal(data.inputs, torch.from_numpy(coeff.astype(np.float64))[:, None])
    assert torch.equal(data.targets, torch.from_numpy(sol)[:, None])
    assert any("cast to float64" in notice for notice in data.attributes["notices"])
    found = {array.name: array for array in inspect(path, map="input=coeff target=sol").arrays}
    assert found["sol"].shape == (N, *SHAPE)
    assert found["sol"].low == pytest.approx(sol.min())
    assert found["sol"].bad == 0


def test_our_own_store_keeps_its_attributes(tmp_path):
    data = FieldDataset(torch.rand(3, 1, 8), torch.rand(3, 1, 8), Grid((8,), (2.0,), "cells"))
    data.attributes["equation"] = "burgers"
    path = write_store(tmp_path / "a.zarr", data)
    loaded = load_fields(path, dtype=torch.float64)
    assert loaded.grid == data.grid
    assert loaded.inputs.dtype == torch.float64
    assert loaded.attributes["equation"] == "burgers"
    with pytest.raises(ValueError, match="needs neither `map` nor `layout`"):
        load_fields(path, map="input=a target=b")


def test_pdebench_darcy(tmp_path):
    with h5py.File(tmp_path / "2D_DarcyFlow.hdf5", "w") as file:
        file["nu"], file["tensor"] = np.ones((4, 16, 16)), np.random.default_rng(0).random((4, 1, 16, 16))
        file["x-coordinate"] = file["y-coordinate"] = (np.arange(16) + 0.5) / 16
    data = load_fields(tmp_path / "2D_DarcyFlow.hdf5")
    assert data.inputs.shape == data.targets.shape == (4, 1, 16, 16)
    assert data.grid == Grid((16, 16), (1.0, 1.0), "cells")


def test_pdebench_trajectories(tmp_path):
    x = (np.arange(32) + 0.5) / 32
    waves = np.sin(2 * np.pi * (x - np.linspace(0, 1, 7)[None, :, None] - np.arange(3)[:, None, None] / 3))
    with h5py.File(tmp_path / "1D_Advection.hdf5", "w") as file:
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = waves, x, np.arange(8.0)
    data = load_fields(
        tmp_path / "1D_Advection.hdf5", map="input=tensor@0 target=tensor@-1", dtype=torch.float64
    )
    assert torch.equal(data.inputs[:, 0], torch.from_numpy(waves[:, 0]))
    assert torch.equal(data.targets[:, 0], torch.from_numpy(waves[:, -1]))
    assert data.grid == Grid((32,), (1.0,), "cells")


def test_pdebench_groups_of_samples(tmp_path):
    with h5py.File(tmp_path / "2D_diff-react.h5", "w") as file:
        for sample in range(3):
            file[f"{sample:04d}/data"] = np.full((5, 12, 12, 2), float(sample))
    data = load_fields(tmp_path / "2D_diff-react.h5", map="input=data@0 target=data@-1")
    assert data.targets.shape == (3, 2, 12, 12)
    assert data.targets[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_packed_netcdf_is_unpacked_and_its_gaps_are_reported(tmp_path):
    values = np.array([[[0.5, 1.5], [2.5, -1.0]]])
    encoding = {"sol": {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -2}}
    dims = ("sample", "x", "y")
    dataset = xr.Dataset({"coeff": (dims, np.ones((1, 2, 2))), "sol": (dims, values)})
    dataset.to_netcdf(tmp_path / "packed.nc", engine="h5netcdf", encoding=encoding)
    with pytest.raises(ValueError, match=r"packed\.nc: array 'sol' has 1 NaN"):
        load_fields(tmp_path / "packed.nc", map="input=coeff target=sol")
    assert {array.name: array.bad for array in inspect(tmp_path / "packed.nc").arrays}["sol"] == 1


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((9, 64), "nx"),
        ((9, 64, 64), "nxy"),
        ((9, 64, 2), "nxc"),
        ((9, 3, 64), "ncx"),
        ((9, 64, 48, 3), "nxyc"),
        ((9, 1, 64, 64), "ncxy"),
        ((9, 20, 20, 20), "nxyz"),
        ((9, 20, 20, 20, 3), "nxyzc"),
    ],
)
def test_layouts_are_guessed_from_shapes(shape, layout):
    assert guess_layout(shape) == layout


@given(st.permutations("ntcxy"))
def test_any_order_of_axes_is_brought_to_one(order):
    sizes = {"n": 2, "t": 3, "c": 4, "x": 5, "y": 6}
    reference = np.arange(720).reshape(2, 3, 4, 5, 6)
    array = reference.transpose(["ntcxy".index(letter) for letter in order])
    assert array.shape == tuple(sizes[letter] for letter in order)
    layout = "".join(order)
    assert np.array_equal(arrange(array, layout, 1), reference[:, 1])
    assert np.array_equal(arrange(array, layout, "all"), reference.reshape(2, 12, 5, 6))
    assert np.array_equal(arrange(array, layout, slice(1, None)), reference[:, 1:].reshape(4, 4, 5, 6))


def test_a_trajectory_makes_pairs_one_step_apart(tmp_path):
    np.savez(tmp_path / "a.npz", u=np.arange(60.0).reshape(12, 5))
    data = load_fields(tmp_path / "a.npz", map="input=u@:-1 target=u@1:", layout="xt")
    assert data.inputs.shape == (4, 1, 12)
    assert torch.equal(data.inputs[1:], data.targets[:-1])


def test_two_arrays_are_stacked_as_channels(tmp_path):
    np.savez(tmp_path / "a.npz", rho=np.zeros((3, 9, 9)), vx=np.ones((3, 9, 9)), p=np.ones((3, 9, 9)))
    data = load_fields(tmp_path / "a.npz", map={"input": "rho,vx", "target": "p"})
    assert data.inputs.shape == (3, 2, 9, 9)
    assert data.inputs[0, :, 0, 0].tolist() == [0.0, 1.0]


def test_input_alone_for_predictions(tmp_path):
    np.save(tmp_path / "mine.npy", np.ones((4, 8, 8), dtype=np.int64))
    fields, grid = load_input(tmp_path / "mine.npy", length=2.0, grid_layout="cells")
    assert fields.shape == (4, 1, 8, 8)
    assert fields.dtype == torch.float32
    assert grid == Grid((8, 8), (2.0, 2.0), "cells")


def test_periodicity_is_guessed():
    x = torch.arange(64, dtype=torch.float64) / 64
    shift = torch.arange(5, dtype=torch.float64)[:, None, None] / 7
    wave = torch.exp(torch.sin(2 * torch.pi * (x - shift)))
    assert is_periodic(wave) == (True,)
    assert is_periodic(wave[..., :50]) == (False,)
    assert is_periodic(torch.sin(torch.pi * x)[None, None]) == (False,)
    assert is_periodic(wave[..., None] * torch.linspace(0, 1, 9)) == (True, False)


# What is wrong with fields.


def bad(tmp_path, message, *, expected=ValueError, layout=None, **arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(expected, match=message) as error:
        load_fields(tmp_path / "bad.npz", layout=layout)
    assert len(str(error.value).splitlines()) == 1


def test_nan_names_array_and_sample(tmp_path):
    x, y = np.ones((4, 8, 8)), np.zeros((4, 8, 8))
    y[2, 3, 3] = np.nan
    y[3, 0, :2] = np.inf
    bad(
        tmp_path,
        r"bad\.npz: array 'y' has 3 NaN or infinite values, the first in sample 2",
        x=x,
        y=y,
    )


def test_overflow_in_the_cast_is_no_silent_infinity(tmp_path):
    bad(tmp_path, r"array 'y' cast to float32 has 1 NaN or inf", x=np.ones((1, 8)), y=np.eye(1, 8) * 1e300)


def test_counts_and_grids_must_agree(tmp_path):
    bad(tmp_path, "input has 4 samples and target has 5", x=np.ones((4, 8, 8)), y=np.ones((5, 8, 8)))
    bad(tmp_path, r"grid \(9, 9\) and target on \(16, 16\)", x=np.ones((4, 9, 9)), y=np.ones((4, 16, 16)))


def test_missing_arrays_and_shapes_are_named(tmp_path):
    bad(
        tmp_path,
        r"no array for target among x \(4, 8\), z \(4, 8\).*map 'target=NAME'",
        x=np.ones((4, 8)),
        z=np.ones((4, 8)),
    )
    bad(tmp_path, r"array 'x': cannot guess which axis of shape \(4,\)", x=np.ones(4), y=np.ones(4))
    bad(
        tmp_path,
        r"`layout` \(='nxyc'\) names 4 axes",
        x=np.ones((4, 8, 8)),
        y=np.ones((4, 8, 8)),
        layout="nxyc",
    )
    bad(tmp_path, r"`layout` \(='nqr'\)", x=np.ones((4, 8, 8)), y=np.ones((4, 8, 8)), layout="nqr")
    bad(tmp_path, r"array 'x' is empty: shape \(0, 8, 9\)", x=np.ones((0, 8, 9)), y=np.ones((0, 8, 9)))


def test_options_that_do_not_parse(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 8)), y=np.ones((4, 8)))
    for option, message in [
        ({"map": "input=q target=y"}, "input: no array 'q'; found x, y"),
        ({"map": "inptu=x"}, "`map`"),
        ({"map": "input=x@soon"}, "the time after '@'"),
        ({"map": "input=x@9", "layout": "input=tx"}, "time 9 of 4 is out of range"),
        ({"resolution": 16}, r"fields have 8 points along x, expected `resolution` \(=16\)"),
        ({"length": -1.0}, "length"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_fields(tmp_path / "a.npz", **option)


def test_complex_fields_are_refused_unless_real(tmp_path):
    x = np.ones((4, 8))
    bad(tmp_path, r"array 'y' is complex with imaginary parts up to 1, expected real", x=x, y=x + 1j)
    np.savez(tmp_path / "a.npz", x=x, y=x + 1e-9j)
    assert any("taken as real" in notice for notice in load_fields(tmp_path / "a.npz").attributes["notices"])


# What is wrong with files.


def test_files_that_are_not_there_or_not_known(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_fields(tmp_path / "absent.npz")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"a\.csv: unknown format '\.csv'; expected one of \.npy, \.npz"):
        load_fields(tmp_path / "a.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder: is a folder without \.npy files"):
        load_fields(tmp_path / "folder")


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_no_code_runs(tmp_path):
    bomb = Bomb(str(tmp_path / "exploded"))
    np.save(tmp_path / "a.npy", np.array([bomb], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([bomb], dtype=object), y=np.ones((1, 8)))
    torch.save({"x": bomb, "y": torch.ones(1, 8)}, tmp_path / "c.pt")
    (tmp_path / "d.pt").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match=r"Python objects \(dtype object\), which are never loaded"):
        load_input(tmp_path / "a.npy", map="a")
    with pytest.raises(ValueError, match="array 'x' holds Python objects"):
        load_fields(tmp_path / "b.npz")
    for name in ("c.pt", "d.pt"):
        with pytest.raises(ValueError, match=rf"{name}: cannot read a PyTorch file of plain tensors"):
            load_fields(tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    assert "never loaded" in inspect(tmp_path / "b.npz").arrays[0].note


@pytest.mark.parametrize("save", [save for save in WRITERS if "zarr" not in save.__name__])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_file_is_an_error_of_one_line(tmp_path_factory, save, data):
    folder = tmp_path_factory.mktemp("truncated")
    path = save(folder, *pair())
    file = path / "sol.npy" if path.is_dir() else path
    content = file.read_bytes()
    # The end of a zip or HDF5 file may be padding; half of it never is.
    cut = data.draw(st.integers(0, len(content) // 2))
    file.write_bytes(content[:cut])
    with pytest.raises((ValueError, OSError)) as error:
        load_fields(path, map="input=coeff target=sol", layout="nxy")
    assert len(str(error.value).splitlines()) == 1
    assert folder.name in str(error.value)


@pytest.mark.parametrize("save", [save_npy, save_npz, save_mat5, save_pt, save_netcdf3])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_an_error_of_one_line_or_other_numbers(tmp_path_factory, save, data):
    path = save(tmp_path_factory.mktemp("flipped"), *pair())
    file = path / "sol.npy" if path.is_dir() else path
    content = bytearray(file.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    lines = 1
    try:
        load_fields(path, map="input=coeff target=sol", layout="nxy")
    except (ValueError, OSError) as error:
        lines = len(str(error).splitlines())
    assert lines == 1


@pytest.mark.parametrize("version", [2, 3])
def test_a_damaged_plain_zarr_is_named(tmp_path, version):
    path = save_zarr(tmp_path, *pair(), version=version)
    files = [file for file in (path / "sol").rglob("*") if file.is_file() and "z" not in file.name]
    files[0].write_bytes(files[0].read_bytes()[:10])
    with pytest.raises(ValueError, match=r"cannot read array 'sol'"):
        load_fields(path, map="input=coeff target=sol")


def test_the_dry_run_tells_everything_and_prints(tmp_path, capsys):
    np.savez(
        tmp_path / "a.npz", x=np.eye(9, dtype=bool)[None], y=np.full((1, 9, 9), np.nan), t=np.array("text")
    )
    found = inspect(tmp_path / "a.npz")
    assert found.problem is not None
    assert "81 NaN" in found.problem
    rich.print(found)
    printed = capsys.readouterr().out
    for word in ("bool", "81", "float64", "cast"):
        assert word in printed


# Real files.


def test_the_published_darcy_set_loads_unmodified(real_data):
    path = real_data("neuralop/darcy_train_16.pt")
    data = load_fields(path)
    raw = torch.load(path, weights_only=True)
    assert data.inputs.shape == data.targets.shape == (1000, 1, 16, 16)
    assert torch.equal(data.inputs[:, 0], raw["x"].float())
    assert torch.equal(data.targets[:, 0], raw["y"])
    notices = data.attributes["notices"]
    assert any("bool, cast to float32" in notice for notice in notices)
    assert any("12 of 1000 fields dip below zero" in notice and "all kept" in notice for notice in notices)
    json.dumps(data.attributes)


def test_the_published_burgers_set_takes_the_last_time(real_data):
    path = real_data("neuralop/burgers_train_16.pt")
    data = load_fields(path, dtype=torch.float64)
    raw = torch.load(path, weights_only=True)
    assert torch.equal(data.targets[:, 0], raw["y"][:, -1])
    assert data.grid.layout == "periodic"
    middle = load_fields(path, map="input=x target=y@8", dtype=torch.float64)
    assert torch.equal(middle.targets[:, 0], raw["y"][:, 8])
    as_channels = load_fields(path, map="input=x target=y@all")
    assert as_channels.targets.shape == (800, 17, 16)


@pytest.mark.parametrize(
    ("name", "field", "points", "times"),
    [("burgers", "usol", 256, 101), ("kdv", "usol", 512, 201), ("kuramoto_sivishinky", "uu", 1024, 251)],
)
def test_snapshots_in_matlab_files_become_pairs(real_data, name, field, points, times):
    path = real_data(f"dynamics/{name}.mat")
    data = load_fields(path, map=f"input={field}@:-1 target={field}@1:", layout="xt")
    assert data.inputs.shape == (times - 1, 1, points)
    assert torch.equal(data.inputs[1:], data.targets[:-1])
    assert data.grid.layout == "periodic"
    x = scipy.io.loadmat(Path(path))["x"].ravel()
    assert data.grid.spacing[0] == pytest.approx(x[1] - x[0], rel=1e-3)
