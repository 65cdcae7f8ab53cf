import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lemmata.apps.regression_at_scale.encoding.dataset import Rows
from lemmata.apps.regression_at_scale.methods.diagnostics import DiagnosticsPass, quantiles
from lemmata.apps.regression_at_scale.methods.plan import Plan
from lemmata.apps.regression_at_scale.verbs.fit import fit
from lemmata.sketching.least_squares import Preconditioner


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 4))
    x[1234] *= 60  # a row of high leverage
    y = x @ [1.0, -2.0, 0.0, 3.0] + 5 + rng.standard_t(3, size=5000)
    y[4321] += 500
    return x, y


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    x, y = data
    place = tmp_path_factory.mktemp("report")
    names = ["größe", "<b>", "a & b", "c$d$"]
    pq.write_table(
        pa.table({**dict(zip(names, x.T, strict=True)), "y": y}), place / "t.parquet", row_group_size=700
    )
    return fit(
        [str(place / "t.parquet")], target="y", out=place / "run", ridge="cv", quiet=True, chunk_rows=300
    )


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def residuals(data, folder):
    from lemmata.apps.regression_at_scale.model import RegressionModel

    x, y = data
    a = np.column_stack((x, np.ones(len(x))))
    beta = RegressionModel.load(folder).coefficients[:, 0].numpy()
    return a, y - a @ beta


def test_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "certificate.json",
        "model.pt",
        "report.html",
        "report.json",
    ]


def test_the_fit_is_described(report, data, residuals):
    _, y = data
    _, r = residuals
    fitted = report["fit"][0]
    assert fitted["r_squared"] == pytest.approx(1 - (r @ r) / ((y - y.mean()) @ (y - y.mean())), rel=1e-10)
    assert fitted["rms_residual"] == pytest.approx(np.sqrt((r @ r) / 5000), rel=1e-10)
    assert fitted["mean_absolute_residual"] == pytest.approx(np.abs(r).mean(), rel=1e-10)
    assert fitted["rows"] == 5000
    degrees = report["model"]["degrees_of_freedom"]
    assert fitted["residual_scale"] == pytest.approx(np.sqrt((r @ r) / (5000 - degrees)), rel=1e-10)


def test_quantiles_are_within_their_bins(report, residuals):
    _, r = residuals
    for level, found in report["fit"][0]["residual_quantiles"].items():
        exact = np.quantile(r, float(level), method="inverted_cdf")
        assert found == pytest.approx(
            exact, abs=0.01 * max(1.0, abs(exact)) if 0 < float(level) < 1 else 1e-9
        )


def test_the_histogram_holds_nearly_all_rows(report, residuals):
    bars = report["fit"][0]["histogram"]
    assert len(bars["edges"]) == len(bars["counts"]) + 1
    assert 0.996 * 5000 < sum(bars["counts"]) < 0.9995 * 5000
    exact = np.histogram(residuals[1], bars["edges"])[0]
    assert np.abs(exact - bars["counts"]).max() < 0.02 * 5000


def test_rows_that_stand_out_are_listed_where_they_lie(report, residuals):
    a, r = residuals
    leverage = (a @ np.linalg.inv(a.T @ a) * a).sum(1)
    listed = report["rows_of_highest_leverage"]
    assert [record["row"] for record in listed] == np.argsort(-leverage)[:20].tolist()
    for record in listed:
        assert record["leverage"] == pytest.approx(leverage[record["row"]], rel=1e-9)
        assert record["residual"]["y"] == pytest.approx(r[record["row"]], rel=1e-8, abs=1e-10)
    assert re.search(r"t\.parquet: row group 1, row 1234", listed[0]["where"])
    assert report["rows_of_largest_residual"][0]["row"] == 4321
    assert any("row 1234 has leverage" in note for note in report["notes"])


def test_columns_and_coefficients(report, data):
    x, y = data
    assert [record["column"] for record in report["columns"]] == ["größe", "<b>", "a & b", "c$d$", "y"]
    np.testing.assert_allclose([record["mean"] for record in report["columns"]][:4], x.mean(0), atol=1e-12)
    np.testing.assert_allclose(
        [record["deviation"] for record in report["columns"]][:4], x.std(0), rtol=1e-12
    )
    first = report["coefficients"][0]
    assert first["standardised"] == pytest.approx(first["coefficient"] * x[:, 0].std() / y.std())
    assert first["t"] == pytest.approx(first["coefficient"] / first["standard_error"])
    assert report["coefficients"][-1]["feature"] == "(intercept)"


def test_the_page_needs_nothing_but_itself(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "a &amp; b" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ET.fromstring(drawing)
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(http|/)', outside)
    assert "<script" not in page
    assert "Cross-validation" in page


def test_the_same_run_gives_the_same_drawings(data, folder, tmp_path):
    again = fit(
        [str(folder.parent / "t.parquet")],
        target="y",
        out=tmp_path / "run",
        ridge="cv",
        quiet=True,
        chunk_rows=300,
    )
    one, two = (
        re.findall(r"<svg.*?</svg>", (path / "report.html").read_text(), re.DOTALL)
        for path in (folder, again)
    )
    assert one == two


@pytest.mark.parametrize("cut", [1, 7, 60, 1000])
def test_diagnostics_are_the_same_for_every_chunking(cut):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64, generator=g)
    y = torch.randn(200, 2, dtype=torch.float64, generator=g)
    w = torch.randint(0, 3, (200,), generator=g).double()
    basis = Preconditioner.from_sketch(x, n=200)
    task = DiagnosticsPass(
        basis, torch.eye(3).double(), torch.ones(3, 2).double(), torch.ones(2).double(), top=5, sample=30
    )
    whole = task.partial(Rows(0, x, y, w))
    state = None
    for i in range(0, 200, cut):
        part = task.partial(Rows(i, x[i : i + cut], y[i : i + cut], w[i : i + cut]))
        state = part if state is None else task.add(state, part)
    for name in ("squares", "absolute", "projected", "leverage", "leveraged", "low", "high"):
        torch.testing.assert_close(state[name], whole[name], rtol=1e-12, atol=1e-12)
    for name in ("bins", "count"):
        assert torch.equal(state[name], whole[name])
    for name in ("by_leverage", "by_residual"):
        assert torch.equal(state[name]["row"], whole[name]["row"])
        assert len(state[name]["row"]) == 5
    assert torch.equal(state["sample"]["indices"], whole["sample"]["indices"])
    assert int(state["bins"].sum()) == 2 * int((w > 0).sum())
    assert task.sampled(state).shape == (30, 5)


def test_quantiles_of_nothing_and_of_one():
    edges = torch.linspace(0, 4, 5)
    none = quantiles(torch.zeros(4, dtype=torch.int64), edges, [0.5], low=0.0, high=4.0)
    assert np.isnan(none[0])
    assert quantiles(torch.tensor([0, 0, 1, 0]), edges, [0.0, 0.5, 1.0], low=2.3, high=2.3) == [2.3] * 3


def test_residuals_far_beyond_the_bins_are_counted():
    x = torch.ones(3, 1, dtype=torch.float64)
    y = torch.tensor([[0.0], [1e30], [-1e30]], dtype=torch.float64)
    task = DiagnosticsPass(
        Preconditioner.from_sketch(x, n=3),
        torch.eye(1).double(),
        torch.zeros(1, 1).double(),
        torch.ones(1).double(),
    )
    state = task.partial(Rows(0, x, y))
    assert state["bins"][0].nonzero()[:, 0].tolist() == [0, task.bins // 2, task.bins - 1]
    edges = task.edges()[0]
    assert quantiles(state["bins"][0], edges, [0.0, 1.0], low=-1e30, high=1e30)[1] <= 1e30


def test_a_plan_grows_with_workers_and_chunks_but_not_with_rows():
    def plan(**changes):
        values = {
            "rows": 10**7,
            "columns": 61,
            "features": 61,
            "targets": 1,
            "chunk_rows": 65536,
            "chunks": 153,
            "bytes": 10**9,
            "sketch_rows": 244,
            "folds": 1,
            "workers": 2,
            "passes": ("sketch", "gram", "residuals"),
        }
        return Plan(**{**values, **changes})

    assert plan(rows=10**9).memory == plan().memory
    assert plan(workers=4).memory > plan().memory
    assert plan(chunk_rows=8192).memory < plan().memory
    assert "10,000,000 rows" in plan().text()
