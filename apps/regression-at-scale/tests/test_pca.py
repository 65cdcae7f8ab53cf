"""Principal components: scikit-learn's, resumed, written whole."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.decomposition import PCA

from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.verbs.pca import Components, pca


@pytest.fixture
def folder(write_parts):
    """A table in two parts, its columns' variances far apart."""
    random = np.random.default_rng(1)
    x = (
        random.standard_normal((900, 6))
        * [5.0, 3.0, 2.0, 0.5, 0.2, 0.1]
        @ np.linalg.qr(random.standard_normal((6, 6)))[0]
        + 7
    )
    return write_parts(x, "parquet", cuts=(400,)), x


def test_the_components_are_scikit_learns(folder, tmp_path):
    data, x = folder
    run = pca([str(data)], out=tmp_path / "run", components=3, chunk_rows=170, quiet=True)
    found, oracle = Components.load(run), PCA(3, svd_solver="full").fit(x)
    np.testing.assert_allclose(found.explained_variance, oracle.explained_variance_, rtol=1e-10)
    signs = np.sign((found.components.numpy() * oracle.components_).sum(1))
    np.testing.assert_allclose(found.components.numpy(), signs[:, None] * oracle.components_, atol=1e-8)
    report = json.loads((run / "report.json").read_text())
    assert report["certificate"]["captured"] == pytest.approx(
        oracle.explained_variance_ratio_.sum(), rel=1e-9
    )
    assert {path.name for path in run.iterdir()} >= {"components.csv", "variances.csv", "variances.svg"}


def test_scores_are_written_chunk_by_chunk(folder, tmp_path):
    data, x = folder
    scores = tmp_path / "scores.parquet"
    run = pca([str(data)], out=tmp_path / "run", components=2, standardise=True, scores=scores, quiet=True)
    written = np.column_stack([column.to_numpy() for column in pq.read_table(scores).columns])
    standardised = (x - x.mean(0)) / x.std(0, ddof=1)
    expected = standardised @ Components.load(run).components.numpy().T
    np.testing.assert_allclose(written, expected, atol=1e-8)
    with pytest.raises(FileExistsError, match=r"scores\.parquet"):
        pca([str(data)], out=tmp_path / "other", scores=scores, quiet=True)


def test_an_interrupted_run_ends_with_the_same_bytes(folder, tmp_path, monkeypatch):
    data, _ = folder
    whole = pca([str(data)], out=tmp_path / "whole", components=2, quiet=True)
    run, calls = Engine.run, []

    def killed(self, task, dataset=None):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, task, dataset)

    monkeypatch.setattr(Engine, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        pca([str(data)], out=tmp_path / "run", components=2, quiet=True)
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="components"):
        pca([str(data)], out=tmp_path / "run", components=3, resume=True, quiet=True)
    resumed = pca([str(data)], out=tmp_path / "run", components=2, resume=True, quiet=True)
    assert (resumed / "components.pt").read_bytes() == (whole / "components.pt").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"components": 0}, "components"), ({"components": 7}, "must not exceed 6"), ({"passes": 0}, "passes")],
)
def test_what_cannot_be_is_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        pca([str(folder[0])], out=tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save({"format": "other"}, tmp_path / "components.pt")
    with pytest.raises(ValueError, match=r"components\.pt does not hold principal components"):
        Components.load(tmp_path)
