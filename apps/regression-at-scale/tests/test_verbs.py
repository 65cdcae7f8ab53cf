"""What is done with a fitted model: predict, score, compare; and before: coresets and a look."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from lemmata.apps.regression_at_scale.model import RegressionModel
from lemmata.apps.regression_at_scale.verbs.compare import OURS, compare
from lemmata.apps.regression_at_scale.verbs.coreset import WEIGHT, coreset
from lemmata.apps.regression_at_scale.verbs.doctor import doctor
from lemmata.apps.regression_at_scale.verbs.fit import fit
from lemmata.apps.regression_at_scale.verbs.predict import predict
from lemmata.apps.regression_at_scale.verbs.score import score

ROWS = 1200


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of numbers and text with a known target."""
    random = np.random.default_rng(5)
    a, b = random.standard_normal((2, ROWS))
    city = random.choice(["Bonn", "Köln", "Łódź"], ROWS)
    y = (
        2 * a
        - b
        + np.select([city == "Köln", city == "Łódź"], [1.0, -1.0])
        + 3
        + 0.1 * random.standard_normal(ROWS)
    )
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    pq.write_table(pa.table({"a": a, "b": b, "city": city, "y": y}), path, row_group_size=500)
    return path


@pytest.fixture(scope="module")
def run(table):
    """A fit of it."""
    return fit([str(table)], target="y", out=table.parent / "run", quiet=True)


def test_predictions_are_the_models(table, run, tmp_path):
    out = predict(
        run, [str(table)], out=tmp_path / "p.parquet", errors=True, keep=["city"], chunk_rows=300, quiet=True
    )
    written, held = pq.read_table(out), pq.read_table(table)
    assert written.column_names == ["city", "y", "y error of mean", "y error"]
    assert written["city"].to_pylist() == held["city"].to_pylist()
    residual = held["y"].to_numpy() - written["y"].to_numpy()
    assert residual.std() == pytest.approx(0.1, rel=0.1)
    inside = np.abs(residual) < 1.96 * written["y error"].to_numpy()
    assert inside.mean() == pytest.approx(0.95, abs=0.03)
    text = predict(run, [str(table)], out=tmp_path / "p.csv", quiet=True)
    np.testing.assert_allclose(pa.csv.read_csv(text)["y"].to_numpy(), written["y"].to_numpy(), rtol=1e-12)


def test_a_failed_prediction_leaves_nothing_and_the_old_file(table, run, tmp_path):
    strange = tmp_path / "strange.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [0.0, 0.0], "city": ["Bonn", "Rom"]}), strange)
    out = tmp_path / "p.csv"
    with pytest.raises(ValueError, match=r"strange\.parquet.*row 1.*'city': unknown level 'Rom'"):
        predict(run, [str(strange)], out=out, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["strange.parquet"]
    predict(run, [str(strange)], out=out, unknown="zero", quiet=True)
    old = out.read_bytes()
    with pytest.raises(ValueError, match="unknown level"):
        predict(run, [str(strange)], out=out, force=True, quiet=True)
    assert out.read_bytes() == old


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "p.txt"}, r"must end in \.parquet or \.csv"),
        ({"out": "p.csv", "keep": ["town"]}, "'town', which is no column"),
        ({"out": "p.csv", "keep": ["y"]}, "what the predictions are called"),
    ],
)
def test_predictions_that_cannot_be_are_refused(table, run, tmp_path, options, message):
    options = {**options, "out": tmp_path / options["out"]}
    with pytest.raises(ValueError, match=message):
        predict(run, [str(table)], quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_scores_are_those_of_all_rows(table, run, tmp_path):
    found = score(run, [str(table)], out=tmp_path / "scores.json", chunk_rows=100, quiet=True)
    predictions = pq.read_table(predict(run, [str(table)], out=tmp_path / "p.parquet", quiet=True))[
        "y"
    ].to_numpy()
    y = pq.read_table(table)["y"].to_numpy()
    expected = 1 - ((y - predictions) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert found.column("R2")[0] == pytest.approx(expected, rel=1e-12)
    assert found.column("mean absolute error")[0] == pytest.approx(np.abs(y - predictions).mean(), rel=1e-12)
    assert json.loads((tmp_path / "scores.json").read_text())[0]["rows"] == ROWS


@pytest.mark.parametrize("loss", ["l2", "l1", "lp:1.5", "huber:0.1"])
def test_comparisons_find_the_same_optimum(table, tmp_path, loss):
    run = fit([str(table)], target="y", loss=loss, out=tmp_path / "run", quiet=True)
    found = compare(run, [str(table)], rows=600, out=tmp_path / "table", quiet=True)
    rows = dict(zip(found.column("method"), found.column("cost / least"), strict=True))
    assert rows[OURS] == pytest.approx(1, abs=1e-9)
    exact = [name for name in rows if "SGD" not in name and rows[name] is not None]
    assert len(exact) >= 2
    assert all(rows[name] < 1 + 1e-5 for name in exact)
    assert (tmp_path / "table.csv").exists()


def test_penalties_are_compared_too(table, tmp_path):
    run = fit([str(table)], target="y", ridge=50.0, out=tmp_path / "run", quiet=True)
    found = compare(run, [str(table)], rows=600, quiet=True)
    rows = dict(zip(found.column("method"), found.column("cost / least"), strict=True))
    assert rows["scikit-learn Ridge"] == pytest.approx(1, abs=1e-9)


def test_a_sample_too_small_is_refused(table, run):
    with pytest.raises(ValueError, match="at least 20"):
        compare(run, [str(table)], rows=10, quiet=True)


def test_a_coreset_stands_for_the_table(table, run, tmp_path):
    small = coreset(
        [str(table)], target=["y"], out=tmp_path / "small.parquet", size=400, loss="l2", quiet=True
    )
    written = pq.read_table(small)
    assert written.column_names == ["a", "b", "city", "y", WEIGHT]
    assert written.num_rows == 400
    again = fit([str(small)], target="y", weight=WEIGHT, out=tmp_path / "run", quiet=True)
    whole, of_coreset = RegressionModel.load(run), RegressionModel.load(again)
    assert float((whole.coefficients - of_coreset.coefficients).abs().max()) < 0.05
    told = json.loads((tmp_path / "small.parquet.json").read_text())
    assert told["kept"] == 400
    with pytest.raises(FileExistsError):
        coreset([str(table)], target=["y"], out=small, quiet=True)
    with pytest.raises(ValueError, match="already"):
        coreset([str(small)], target=["y"], out=tmp_path / "other.csv", quiet=True)


def test_the_doctor_sees_what_is_wrong(tmp_path):
    random = np.random.default_rng(2)
    x = random.standard_normal((3000, 4))
    x[1234, 3] = 1e4
    columns = {"a": x[:, 0], "b": x[:, 1], "a plus b": x[:, 0] + x[:, 1], "near b": x[:, 1] + 0.01 * x[:, 2]}
    pq.write_table(pa.table({**columns, "c": x[:, 3], "flat": np.full(3000, 4.0)}), tmp_path / "t.parquet")
    found = doctor([str(tmp_path)], out=tmp_path / "found.json", quiet=True, chunk_rows=700)
    assert found["rank"] == 5
    assert found["constant_columns"] == ["flat"]
    assert any({"a", "b", "a plus b"} <= set(group) for group in found["columns_that_say_the_same"])
    assert found["rows_of_high_leverage"][0]["row"] == 1234
    assert found["rows_of_high_leverage"][0]["leverage"] == pytest.approx(1, abs=0.3)
    assert json.loads((tmp_path / "found.json").read_text())["rank"] == 5
    sound = doctor([str(tmp_path)], exclude=["a plus b", "flat"], quiet=True)
    # b and b + 0.01 c: each says all but one in ten thousand of the other.
    assert sound["variance_inflation"]["b"] == pytest.approx(1e4, rel=1.0)
    assert sound["variance_inflation"]["a"] < 3
