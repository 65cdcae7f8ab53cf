import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.engine.progress import Silent
from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.verbs.fit import fit


def table(n=2000, d=5, c=1, *, seed=0, condition=1.0):
    """Return features, targets and positive weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.logspace(0, -np.log10(condition), d) + 1.0
    y = x @ rng.normal(size=(d, c)) + rng.normal(size=(n, c)) + 3
    return x, y, rng.uniform(0.1, 2, size=n)


def columns(x, y, w=None):
    held = {f"x{i}": x[:, i] for i in range(x.shape[1])}
    held |= {f"y{i}" if y.shape[1] > 1 else "y": y[:, i] for i in range(y.shape[1])}
    return held if w is None else held | {"w": w}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    """Leave drawing, which takes most of a small fit's time, to the tests of the report."""
    monkeypatch.setattr("lemmata.apps.regression_at_scale.report.report.to_html", lambda report, samples: "")


def write(path: Path, held: dict, **options) -> str:
    pq.write_table(pa.table(held), path, **options)
    return str(path)


def run(tmp_path: Path, data, name="run", **options):
    data = [data] if isinstance(data, str) else data
    options = {"target": "y", "quiet": True, "chunk_rows": 256, "workers": 2} | options
    return RegressionModel.load(fit(data, out=tmp_path / name, **options))


def report_of(tmp_path: Path, name="run") -> dict:
    return json.loads((tmp_path / name / "report.json").read_text())


def least_squares(x, y, w=None):
    a = np.column_stack((x, np.ones(len(x))))
    root = np.ones(len(x)) if w is None else np.sqrt(w)
    beta = np.linalg.lstsq(a * root[:, None], y * root[:, None], rcond=None)[0]
    r = (y - a @ beta) * root[:, None]
    scale = np.sqrt((r**2).sum(0) / (len(x) - a.shape[1]))
    inverse = np.linalg.inv((a * root[:, None]).T @ (a * root[:, None]))
    return beta, scale, np.sqrt(np.diag(inverse))[:, None] * scale


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_and_standard_errors(tmp_path, c, weighted):
    x, y, w = table(c=c)
    w = w if weighted else None
    data = write(tmp_path / "t.parquet", columns(x, y, w))
    target = ["y0", "y1", "y2"] if c == 3 else "y"
    model = run(tmp_path, data, target=target, weight="w" if weighted else None)
    beta, scale, errors = least_squares(x, y, w)
    np.testing.assert_allclose(model.coefficients.numpy(), beta, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.residual_scale.numpy(), scale, rtol=1e-11)
    np.testing.assert_allclose(model.standard_errors.numpy(), errors, rtol=1e-10)
    assert model.feature_names == ("x0", "x1", "x2", "x3", "x4", "(intercept)")


def test_ill_conditioned_columns(tmp_path):
    x, y, _ = table(condition=1e9)
    x -= 1.0
    model = run(tmp_path, write(tmp_path / "t.parquet", columns(x, y)))
    beta, _, errors = least_squares(x, y)
    assert np.abs((model.coefficients.numpy() - beta) / errors).max() < 1e-9


def test_without_intercept_and_float32(tmp_path):
    x, y, _ = table()
    x = x.astype(np.float32)
    data = write(tmp_path / "t.parquet", columns(x, y))
    model = run(tmp_path, data, intercept=False, dtype="float32")
    np.testing.assert_allclose(
        model.coefficients.numpy(), np.linalg.lstsq(x.astype(float), y, rcond=None)[0], rtol=1e-11
    )
    assert report_of(tmp_path)["fit"][0]["r_squared_about"] == "zero"


@pytest.mark.parametrize("ridge", [1e-3, 50.0])
@pytest.mark.parametrize("standardise", [False, True])
def test_ridge(tmp_path, ridge, standardise):
    x, y, w = table(condition=30)
    data = write(tmp_path / "t.parquet", columns(x, y, w))
    model = run(tmp_path, data, ridge=ridge, standardise=standardise, weight="w")
    mean = w @ x / w.sum()
    scale = np.sqrt(w @ (x - mean) ** 2 / w.sum()) if standardise else np.ones(5)
    oracle = Ridge(alpha=ridge, solver="cholesky").fit(x / scale, y[:, 0], w)
    np.testing.assert_allclose(model.coefficients[:-1, 0].numpy(), oracle.coef_ / scale, rtol=1e-9)
    assert float(model.coefficients[-1, 0]) == pytest.approx(float(oracle.intercept_), rel=1e-9)


def test_cross_validation(tmp_path):
    x, y, _ = table(n=100, d=40)
    data = write(tmp_path / "t.parquet", columns(x, y))
    model = run(tmp_path, data, ridge="cv", chunk_rows=17)
    assert model.ridge > 0
    oracle = Ridge(alpha=model.ridge, solver="cholesky").fit(x, y[:, 0])
    np.testing.assert_allclose(model.coefficients[:-1, 0].numpy(), oracle.coef_, rtol=1e-8, atol=1e-10)
    report = report_of(tmp_path)
    assert report["cross_validation"]["chosen"] == report["model"]["ridge"] == model.ridge
    assert len(report["passes"]) == 3
    more = run(tmp_path, data, "more", ridge="cv", chunk_rows=100, one_standard_error=True)
    assert more.ridge > model.ridge


def test_the_certificate_bounds_the_distance_from_the_best(tmp_path):
    x, y, _ = table(condition=1e6)
    data = write(tmp_path / "t.parquet", columns(x, y))
    model = run(tmp_path, data)
    a = np.column_stack((x, np.ones(len(x))))
    best = torch.linalg.lstsq(torch.from_numpy(a), torch.from_numpy(y), driver="gelsd").solution.numpy()
    certificate = json.loads((tmp_path / "run" / "certificate.json").read_text())
    assert np.linalg.norm(a @ (model.coefficients.numpy() - best)) < 2 * certificate["excess_bound"][0]
    assert certificate["relative_bound"] < 1e-7
    assert certificate["checked"] is True
    assert (certificate["rank"], certificate["passes"], certificate["rows"]) == (6, 3, 2000)
    assert certificate["versions"]["torch"]


@pytest.mark.parametrize("ridge", [0.0, 20.0])
def test_without_diagnostics_there_are_two_passes_and_a_wider_bound(tmp_path, ridge):
    x, y, _ = table()
    data = write(tmp_path / "t.parquet", columns(x, y))
    with_them = run(tmp_path, data, "with", ridge=ridge)
    without = run(tmp_path, data, "without", ridge=ridge, diagnostics=False)
    assert torch.equal(with_them.coefficients, without.coefficients)
    torch.testing.assert_close(with_them.residual_scale, without.residual_scale, rtol=1e-9, atol=0)
    certificate = report_of(tmp_path, "without")["certificate"]
    assert certificate["passes"] == 2
    assert certificate["checked"] is False
    assert certificate["relative_bound"] < 1e-9
    assert report_of(tmp_path, "with")["certificate"]["relative_bound"] < 1e-12


def pieces(tmp_path: Path) -> dict[str, list[str]]:
    """Write one table in many ways."""
    x, y, _ = table(n=1000)
    held = columns(x, y)
    rng = np.random.default_rng(1)
    ways = {
        "one file": [write(tmp_path / "one.parquet", held)],
        "many row groups": [write(tmp_path / "groups.parquet", held, row_group_size=90)],
        "many files": [
            write(
                tmp_path / f"part-{k}.parquet", {name: v[k * 300 : k * 300 + 300] for name, v in held.items()}
            )
            for k in range(4)
        ],
    }
    order = np.concatenate([np.arange(k * 100, k * 100 + 100) for k in rng.permutation(10)])
    ways["shuffled rows"] = [
        write(tmp_path / "rows.parquet", {n: v[order] for n, v in held.items()}, row_group_size=100)
    ]
    np.save(tmp_path / "t.npy", np.column_stack((x, y)))
    ways["npy"] = [str(tmp_path / "t.npy")]
    return ways


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_how_rows_are_stored_does_not_matter(tmp_path, ridge):
    found = {}
    for way, data in pieces(tmp_path).items():
        for chunk_rows in (64, 100000):
            model = run(
                tmp_path,
                data,
                f"{way} {chunk_rows}",
                chunk_rows=chunk_rows,
                ridge=ridge,
                target="c5" if way == "npy" else "y",
            )
            found[way, chunk_rows] = model
    first = found["one file", 64]
    for model in found.values():
        np.testing.assert_allclose(
            model.coefficients.numpy(), first.coefficients.numpy(), rtol=1e-10, atol=1e-11
        )
        np.testing.assert_allclose(
            model.standard_errors.numpy(), first.standard_errors.numpy(), rtol=1e-10, atol=1e-11
        )


def test_workers_do_not_change_a_byte(tmp_path):
    x, y, _ = table()
    data = write(tmp_path / "t.parquet", columns(x, y))
    for workers in (1, 4):
        run(tmp_path, data, f"run{workers}", workers=workers, chunk_rows=64, ridge="cv")
    one, four = ((tmp_path / f"run{n}" / "model.pt").read_bytes() for n in (1, 4))
    assert one == four


def test_a_cluster_does_not_change_a_byte(tmp_path):
    import distributed

    x, y, _ = table()
    data = write(tmp_path / "t.parquet", columns(x, y))
    run(tmp_path, data, "here", chunk_rows=64)
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    ) as cluster:
        address = cluster.scheduler_address
        run(tmp_path, data, "there", chunk_rows=64, scheduler=address, workers=None)
    assert (tmp_path / "here" / "model.pt").read_bytes() == (tmp_path / "there" / "model.pt").read_bytes()


class Stop(Exception):
    """Ends a run from inside."""


@pytest.mark.parametrize("after", [2, 33, 64, 90])
def test_stopped_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, after):
    x, y, _ = table()
    data = write(tmp_path / "t.parquet", columns(x, y))
    run(tmp_path, data, "whole", chunk_rows=64, ridge="cv")
    left = after

    def advance(self, rows):
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Silent, "advance", advance)
        patch.setattr("lemmata.apps.regression_at_scale.run_folder.Checkpoint", eager)
        with pytest.raises(Stop):
            run(tmp_path, data, "resumed", chunk_rows=64, ridge="cv")
    assert not (tmp_path / "resumed").exists()
    with pytest.raises(FileExistsError, match="--resume continues it, --force starts anew"):
        run(tmp_path, data, "resumed", chunk_rows=64, ridge="cv")
    with pytest.raises(ValueError, match=r"`ridge` was 'cv' and is 1\.0"):
        run(tmp_path, data, "resumed", chunk_rows=64, ridge=1.0, resume=True)
    run(tmp_path, data, "resumed", chunk_rows=64, ridge="cv", resume=True, workers=3)
    whole, resumed = ((tmp_path / n / "model.pt").read_bytes() for n in ("whole", "resumed"))
    assert whole == resumed
    assert not list(tmp_path.glob("*.partial"))


def eager(folder, request, *, resume=False):
    """Return a checkpoint that writes every time."""
    from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint

    checkpoint = Checkpoint(folder, request, resume=resume, every=0.0)
    checkpoint._pause = 0.0
    return checkpoint


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    x, y, _ = table(n=200_000, d=20)
    data = write(tmp_path / "t.parquet", columns(x, y))
    run(tmp_path, data, "whole", chunk_rows=500)
    program = (
        "import time\n"
        "import lemmata.apps.regression_at_scale.run_folder as folders\n"
        "from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint\n"
        "from lemmata.apps.regression_at_scale.engine.progress import Silent\n"
        "from lemmata.apps.regression_at_scale.verbs.fit import fit\n"
        "folders.Checkpoint = lambda *a, **k: Checkpoint(*a, **k, every=0.01)\n"
        "Silent.advance = lambda self, rows: time.sleep(0.02)\n"
        f"fit([{data!r}], target='y', out={str(tmp_path / 'killed')!r}, chunk_rows=500, quiet=True)\n"
    )
    for attempt in range(3):
        resumed = program.replace("quiet=True", "quiet=True, resume=True")
        process = subprocess.Popen(
            [sys.executable, "-c", resumed], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        running = tmp_path / "killed.partial" / "checkpoint" / "running.pt"
        waited = time.monotonic()
        while not running.exists() and process.poll() is None:
            assert time.monotonic() - waited < 60
            time.sleep(0.01)
        time.sleep(0.3 * (attempt + 1))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    run(tmp_path, data, "killed", chunk_rows=500, resume=True)
    whole, killed = ((tmp_path / n / "model.pt").read_bytes() for n in ("whole", "killed"))
    assert whole == killed


def test_a_complete_run_is_not_lost_by_accident(tmp_path, capsys):
    x, y, _ = table(n=100)
    data = write(tmp_path / "t.parquet", columns(x, y))
    run(tmp_path, data)
    first = (tmp_path / "run" / "model.pt").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="pass --force to replace it"):
        run(tmp_path, data)
    run(tmp_path, data, resume=True)
    run(tmp_path, data, resume=True, quiet=False)
    assert "complete already" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.pt").stat().st_mtime_ns == first
    with pytest.raises(ValueError, match=r"`ridge` was 0\.0 and is 2\.0"):
        run(tmp_path, data, ridge=2.0, resume=True)
    run(tmp_path, data, ridge=2.0, force=True)
    assert RegressionModel.load(tmp_path / "run").ridge == 2.0
    with pytest.raises(ValueError, match="give one of them"):
        run(tmp_path, data, force=True, resume=True)


def test_what_is_no_run_is_never_replaced(tmp_path):
    x, y, _ = table(n=100)
    data = write(tmp_path / "t.parquet", columns(x, y))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="is not a run"):
            run(tmp_path, data, "thesis", force=force)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    run(tmp_path, data, "empty")


def test_nothing_is_written_when_a_row_is_bad(tmp_path):
    x, y, _ = table(n=500)
    x[321, 2] = np.nan
    data = write(tmp_path / "t.parquet", columns(x, y))
    with pytest.raises(ValueError, match=r"t\.parquet: row group 0, row 321 .*column 'x2'"):
        run(tmp_path, data)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_imputation_by_the_mean(tmp_path):
    x, y, _ = table(n=500)
    x[::7, 2] = np.nan
    filled = np.where(np.isnan(x), np.nanmean(x, 0), x)
    model = run(tmp_path, write(tmp_path / "t.parquet", columns(x, y)), impute="mean")
    oracle = LinearRegression().fit(filled, y[:, 0])
    np.testing.assert_allclose(model.coefficients[:-1, 0].numpy(), oracle.coef_, rtol=1e-9)
    assert [record["name"] for record in report_of(tmp_path)["passes"]] == [
        "moments",
        "sketch",
        "gram",
        "residuals",
    ]


def cities(n=600):
    rng = np.random.default_rng(0)
    city = np.array(["Bonn", "Köln", "Ulm"])[rng.integers(0, 3, n)]
    x = rng.normal(size=n)
    y = 2 * x + np.where(city == "Köln", 5.0, 0.0) - (city == "Ulm") + 0.1 * rng.normal(size=n)
    return {"größe": x, "city": city, "y": y}


def test_categories_are_found_or_declared(tmp_path):
    held = cities()
    data = write(tmp_path / "t.parquet", held)
    model = run(tmp_path, data)
    assert model.feature_names == ("größe", "city=Köln", "city=Ulm", "(intercept)")
    a = np.column_stack((held["größe"], held["city"] == "Köln", held["city"] == "Ulm", np.ones(600))).astype(
        float
    )
    oracle = np.linalg.lstsq(a, held["y"], rcond=None)[0]
    np.testing.assert_allclose(model.coefficients[:, 0].numpy(), oracle, rtol=1e-10)
    declared = run(tmp_path, data, "declared", levels={"city": ["Ulm", "Bonn", "Köln", "Trier"]})
    assert declared.feature_names == ("größe", "city=Bonn", "city=Köln", "city=Trier", "(intercept)")
    assert len(report_of(tmp_path, "declared")["passes"]) == 3
    assert float(declared.coefficients[3, 0]) == 0
    assert any("city=Trier" in note for note in report_of(tmp_path, "declared")["notes"])
    with pytest.raises(ValueError, match="unknown level 'Köln'"):
        run(tmp_path, data, "short", levels={"city": ["Ulm", "Bonn"]})


def test_collinear_and_zero_columns_have_a_stated_meaning(tmp_path):
    x, y, _ = table(n=300)
    x = np.column_stack((x, x[:, 0], np.zeros(300)))
    data = write(tmp_path / "t.parquet", columns(x, y))
    model = run(tmp_path, data)
    a = np.column_stack((x, np.ones(300)))
    oracle = np.linalg.lstsq(a, y, rcond=None)[0]  # of least norm
    np.testing.assert_allclose(model.coefficients.numpy(), oracle, rtol=1e-8, atol=1e-10)
    notes = report_of(tmp_path)["notes"]
    assert any("zero in every row: x6" in note for note in notes)
    assert any("rank 6" in note for note in notes)
    assert report_of(tmp_path)["certificate"]["rank"] == 6


def test_as_many_rows_as_coefficients(tmp_path):
    x, y, _ = table(n=6)
    model = run(tmp_path, write(tmp_path / "t.parquet", columns(x, y)))
    np.testing.assert_allclose(model.predict(torch.from_numpy(np.column_stack((x, np.ones(6))))), y)
    assert model.standard_errors is None
    assert any("no standard errors" in note for note in report_of(tmp_path)["notes"])


def test_more_features_than_rows_with_ridge(tmp_path):
    x, y, _ = table(n=10, d=20)
    data = write(tmp_path / "t.parquet", columns(x, y))
    with pytest.raises(
        ValueError, match=r"10 rows cannot determine 21 coefficients; give a positive `ridge`"
    ):
        run(tmp_path, data)
    model = run(tmp_path, data, ridge=0.5)
    oracle = Ridge(alpha=0.5, solver="svd").fit(x, y[:, 0])
    np.testing.assert_allclose(model.coefficients[:-1, 0].numpy(), oracle.coef_, rtol=1e-8)


def test_rows_of_weight_zero_do_not_count(tmp_path):
    x, y, w = table(n=400)
    w[200:] = 0
    y[200:] = 1e9
    model = run(tmp_path, write(tmp_path / "t.parquet", columns(x, y, w)), weight="w")
    beta, _, errors = least_squares(x[:200], y[:200], w[:200])
    np.testing.assert_allclose(model.coefficients.numpy(), beta, rtol=1e-9)
    np.testing.assert_allclose(model.standard_errors.numpy(), errors, rtol=1e-8)
    assert report_of(tmp_path)["fit"][0]["rows"] == 200
    w[5:] = 0
    data = write(tmp_path / "few.parquet", columns(x, y, w))
    with pytest.raises(ValueError, match="5 rows of positive weight cannot determine 6"):
        run(tmp_path, data, "few", weight="w")


BAD = {
    "unknown target": ({"target": "z"}, "`target` names 'z'"),
    "near target": ({"target": "yy"}, "did you mean 'y'"),
    "near feature": ({"features": ["x00"]}, "did you mean"),
    "target among features": ({"features": ["x0", "y"]}, "'y' is named by `target` and by `features`"),
    "feature twice": ({"features": ["x0", "x0"]}, "`features` names 'x0' twice"),
    "negative ridge": ({"ridge": -1.0}, "`ridge` "),
    "infinite ridge": ({"ridge": float("inf")}, "`ridge` "),
    "strange ridge": ({"ridge": "auto"}, "`ridge` "),
    "ridge of another loss": ({"ridge": 1.0, "loss": "l1"}, "`ridge` "),
    "loss": ({"loss": "l3"}, "`loss` "),
    "delta": ({"huber_delta": 1.0}, "`huber_delta` "),
    "negative delta": ({"huber_delta": -1.0, "loss": "huber"}, "`huber_delta` "),
    "dtype": ({"dtype": "float16"}, "`dtype` "),
    "chunk": ({"chunk_rows": 0}, "`chunk_rows` "),
    "workers": ({"workers": 0}, "`workers` "),
    "sketch": ({"sketch_rows": 3}, "`sketch_rows` .*at least the number of features"),
    "folds": ({"folds": 1, "ridge": "cv"}, "`folds` "),
    "many folds": ({"folds": 90, "ridge": "cv"}, "`folds` "),
    "rtol": ({"rtol": 0.0}, "`rtol` "),
    "impute": ({"impute": "median"}, "`impute` "),
    "levels": ({"levels": {"x0": ["a"]}}, "`levels` names 'x0'"),
    "scheduler": ({"scheduler": "localhost"}, "`scheduler` "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(tmp_path, case):
    x, y, _ = table(n=100)
    data = write(tmp_path / "t.parquet", columns(x, y))
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data, **options)
    assert not (tmp_path / "run").exists()


def test_a_constant_target_is_refused(tmp_path):
    x, y, _ = table(n=100)
    data = write(tmp_path / "t.parquet", columns(x, np.full_like(y, 7.5)))
    with pytest.raises(ValueError, match=r"target 'y' is constant \(=7\.5\)"):
        run(tmp_path, data)


def test_one_row(tmp_path):
    data = write(tmp_path / "t.parquet", {"x": [1.0], "y": [2.0]})
    with pytest.raises(ValueError, match="1 rows cannot determine 2 coefficients"):
        run(tmp_path, data)
    with pytest.raises(ValueError, match="constant"):
        run(tmp_path, data, "ridge", ridge=1.0)


def test_an_exact_fit(tmp_path):
    x, _, _ = table(n=500)
    y = x @ np.arange(1.0, 6.0)[:, None] + 2
    model = run(tmp_path, write(tmp_path / "t.parquet", columns(x, y)))
    np.testing.assert_allclose(model.coefficients[:, 0].numpy(), [1, 2, 3, 4, 5, 2], rtol=1e-12)
    assert report_of(tmp_path)["fit"][0]["r_squared"] == pytest.approx(1)


def test_a_missed_tolerance_ends_with_code_1_and_results(tmp_path, capsys):
    x, y, _ = table(n=500)
    data = write(tmp_path / "t.parquet", columns(x, y))
    run(tmp_path, data, "met", rtol=1e-8)
    assert report_of(tmp_path, "met")["certificate"]["met"] is True
    with pytest.raises(SystemExit) as end:
        run(tmp_path, data, "missed", rtol=1e-300)
    assert end.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert report_of(tmp_path, "missed")["certificate"]["met"] is False
    assert RegressionModel.load(tmp_path / "missed").loss == "l2"


def test_a_dry_run_reads_and_writes_nothing(tmp_path, capsys, monkeypatch):
    data = write(tmp_path / "t.parquet", cities())
    monkeypatch.setattr(Engine, "run", None)
    fit([data], target="y", out=tmp_path / "run", dry_run=True)
    told = capsys.readouterr().out
    assert "600 rows of 3 columns" in told
    assert "moments, sketch, gram, residuals" in told
    assert "MB of memory" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet"]


def test_json_events(tmp_path, capsys):
    x, y, _ = table(n=500)
    fit([write(tmp_path / "t.parquet", columns(x, y))], target="y", out=tmp_path / "run", json=True)
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [e["event"] for e in events if e["event"] != "progress"] == [
        "pass_started",
        "pass_finished",
    ] * 3 + ["result"]
    assert events[-1]["out"] == str(tmp_path / "run")
    assert 0 < events[-1]["r_squared"][0] < 1
    assert captured.err == ""


@pytest.mark.parametrize("loss", ["l1", "lp:1.5", "huber:0.5", "huber"])
def test_other_losses(tmp_path, loss):
    from scipy.optimize import minimize

    x, y, _ = table(n=3000, d=3)
    y[::50] += 30
    data = write(tmp_path / "t.parquet", columns(x, y))
    model = run(tmp_path, data, loss=loss, coreset_size=1500)
    a = np.column_stack((x, np.ones(3000)))
    kind, _, value = model.loss.partition(":")

    def cost(beta):
        r = np.abs(y[:, 0] - a @ beta)
        if kind == "huber":
            delta = float(value)
            return np.where(r < delta, r**2 / 2, delta * (r - delta / 2)).sum()
        return (r ** {"l1": 1.0, "lp": float(value or 1)}[kind]).sum()

    ours = model.coefficients[:, 0].numpy()
    best = minimize(cost, ours, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000})
    gap = report_of(tmp_path)["certificate"]["relative_bound"]
    assert cost(ours) <= best.fun * (1 + gap) * (1 + 1e-9)
    assert gap < 0.2  # of one round on a small coreset
    assert model.standard_errors is None
    assert report_of(tmp_path)["fit"][0]["r_squared"] < 1
