"""What goes wrong in pde-surrogate is said in one line, with exit code 2, and leaves things as they were."""

import time

import numpy as np
import pytest


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["demo", "--help"]])
def test_help_comes_at_once(run, arguments):
    seconds = []
    for _ in range(3):  # other tests run beside this one
        started = time.perf_counter()
        run("pde-surrogate", *arguments)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], ["frobnicate", "generate"]),
        (["generate", "darcyy", "--out", "x.zarr"], ["darcyy", "darcy"]),
        (["generate", "darcy", "--out", "x.zarr", "--n", "0"], ["`n`", "0"]),
        (["generate", "darcy", "--out", "full.npy"], ["full.npy"]),
        (["inspect", "absent.npz"], ["absent.npz"]),
        (["inspect", "torn.npz"], ["torn.npz"]),
        (["fit", "--data.train", "absent.zarr", "--out", "run"], ["absent.zarr"]),
        (["fit", "--data.train", "torn.npz", "--out", "run"], ["torn.npz"]),
        (["fit", "--data.train", "nan.npz", "--out", "run"], ["nan.npz", "y", "NaN"]),
        (["fit", "--data.train", "fields.npz", "--out", "run", "--model.name", "fnoo"], ["fnoo", "fno"]),
        (
            ["fit", "--data.train", "fields.npz", "--out", "run", "--model.overrides", "{modes: [12, 12]}"],
            ["modes", "12", "8"],
        ),
        (["fit", "--data.train", "keys.npz", "--out", "run"], ["keys.npz", "left", "right"]),
        (["fit", "--data.train", "fields.npz", "--out", "run", "--resume", "last"], ["run"]),
        (["predict", "absent.ckpt", "fields.npz", "--out", "p.npy"], ["absent.ckpt"]),
        (["predict", "full.npy", "fields.npz", "--out", "p.npy"], ["full.npy"]),
        (["evaluate", "absent.ckpt", "--out", "e"], ["absent.ckpt"]),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_one_line_and_exit_code_2(tmp_path, run, arguments, named):
    rng = np.random.default_rng(0)
    fields = {"x": rng.random((20, 8, 8)), "y": rng.random((20, 8, 8))}
    np.savez(tmp_path / "fields.npz", **fields)
    np.savez(tmp_path / "keys.npz", left=fields["x"], right=fields["y"])
    np.savez(tmp_path / "nan.npz", x=fields["x"], y=np.where(fields["y"] > 0.9, np.nan, fields["y"]))
    np.save(tmp_path / "full.npy", fields["x"])
    (tmp_path / "torn.npz").write_bytes((tmp_path / "fields.npz").read_bytes()[:1000])
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}

    result = run("pde-surrogate", *arguments, expect=2)

    (line,) = result.stderr.splitlines()
    assert line.startswith("pde-surrogate: error: ")
    assert all(name in line for name in named), line
    after = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path.is_file()}
    assert after == before
