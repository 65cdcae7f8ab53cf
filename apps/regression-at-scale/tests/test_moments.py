"""Pass 0 against NumPy: any chunks, any grouping, means large beside the deviation."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemmata.apps.regression_at_scale.encoding.dataset import RawDataset
from lemmata.apps.regression_at_scale.encoding.moments import Moments
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.schema import select


def run(moments, dataset):
    state = None
    for block in dataset.stream(dataset.chunks):
        part = moments.partial(block)
        state = part if state is None else moments.add(state, part)
    return state


def prepare(path, columns, *, chunk_rows=64, impute="error", max_levels=1000, **options):
    pq.write_table(pa.table(columns), path / "table.parquet")
    table = open_table(path, chunk_rows=chunk_rows)
    selection = select(table.columns, target="y", **options)
    return Moments(selection, impute, max_levels), RawDataset(table, selection)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 120), chunk_rows=st.integers(1, 130), shift=st.sampled_from([0.0, 1e6, -1e9]))
def test_moments_for_any_chunks(tmp_path, rows, chunk_rows, shift):
    rng = np.random.default_rng(rows)
    a = rng.standard_normal(rows) + shift
    a[rng.random(rows) < 0.2] = np.nan
    a[0] = shift
    k = rng.choice(["x", "ü", "z"], rows)
    moments, dataset = prepare(
        tmp_path, {"a": a, "k": k, "y": np.arange(rows)}, chunk_rows=chunk_rows, impute="mean"
    )
    state = run(moments, dataset)
    assert state["rows"] == rows
    np.testing.assert_allclose(state["mean"][0], np.nanmean(a), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(moments.deviation(state)[0], np.nanstd(a), rtol=1e-6, atol=1e-9)
    assert state["count"].tolist() == [(~np.isnan(a)).sum(), rows]
    assert state["missing"].tolist() == [np.isnan(a).sum(), 0]
    assert (state["low"][0], state["high"][0]) == (np.nanmin(a), np.nanmax(a))
    levels, counts = np.unique(k, return_counts=True)
    assert state["levels"]["k"] == dict(zip(levels.tolist(), counts.tolist(), strict=True))


def test_a_state_is_saved_as_plain_values(tmp_path):
    moments, dataset = prepare(tmp_path, {"a": [1.0, 2.0], "k": ["x", "y"], "y": [0.0, 1.0]})
    state = run(moments, dataset)
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    back = torch.load(held, weights_only=True)
    assert back["levels"] == state["levels"]
    assert torch.equal(back["mean"], state["mean"])


def test_missing_text_is_counted_or_refused(tmp_path):
    columns = {"k": ["x", None, "y", "x"], "y": [0.0, 1, 2, 3]}
    state = run(*prepare(tmp_path, columns, impute="mean"))
    assert (state["levels"]["k"], state["absent"]["k"]) == ({"x": 2, "y": 1}, 1)
    with pytest.raises(ValueError, match=r"row 1 \(counted from 0\), column 'k': the value is missing"):
        run(*prepare(tmp_path, columns))


@pytest.mark.parametrize(
    ("name", "value", "impute", "message"),
    [
        ("a", np.nan, "error", "missing"),
        ("a", None, "error", "missing"),
        ("a", np.inf, "mean", "infinite"),
        ("a", -np.inf, "error", "infinite"),
        ("y", np.nan, "mean", "missing"),
        ("w", np.nan, "mean", "missing"),
    ],
)
def test_bad_numbers_are_located(tmp_path, name, value, impute, message):
    columns = {each: [float(k) for k in range(500)] for each in ("a", "y", "w")}
    columns[name][321] = value
    moments, dataset = prepare(tmp_path, columns, impute=impute, weight="w")
    where = (
        rf"table.parquet: row group 0, row 321 \(counted from 0\), column '{name}': the value is {message}"
    )
    with pytest.raises(ValueError, match=where):
        run(moments, dataset)


def test_too_many_levels(tmp_path):
    columns = {"id": [f"{k}" for k in range(100)], "y": np.arange(100.0)}
    for chunk_rows in (100, 8):
        with pytest.raises(ValueError, match=r"column 'id' has more than 10 levels; name it in `exclude`"):
            run(*prepare(tmp_path, columns, max_levels=10, chunk_rows=chunk_rows))


def test_sums_that_overflow(tmp_path):
    moments, dataset = prepare(tmp_path, {"a": [1.5e308, 1.5e308, 1.5e308], "y": [0.0, 1, 2]})
    with np.errstate(over="ignore"):
        state = run(moments, dataset)
    np.testing.assert_allclose(state["mean"][0], 1.5e308)
