"""Encoding against scikit-learn and by hand; the way back to the user's units; what cannot be encoded."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lemmata.apps.regression_at_scale.encoding.dataset import Dataset, RawDataset
from lemmata.apps.regression_at_scale.encoding.encoder import Encoder
from lemmata.apps.regression_at_scale.encoding.moments import Moments
from lemmata.apps.regression_at_scale.sources import open_table
from lemmata.apps.regression_at_scale.sources.schema import Column, Selection, select


def fitted(table, *, impute="error", target="y", categorical=(), weight=None, exclude=(), **options):
    selection = select(table.columns, target=target, categorical=categorical, weight=weight, exclude=exclude)
    moments, raw = Moments(selection, impute), RawDataset(table, selection)
    state = None
    for block in raw.stream(raw.chunks):
        part = moments.partial(block)
        state = part if state is None else moments.add(state, part)
    return Encoder.from_moments(moments, state, **options)


def everything(table, encoder, **options):
    dataset = Dataset(table, encoder, **options)
    rows = list(dataset.stream(dataset.chunks))
    return torch.cat([each.x for each in rows]), torch.cat([each.y for each in rows])


@pytest.fixture
def columns():
    rng = np.random.default_rng(3)
    return {
        "a": rng.standard_normal(500).astype("f4"),
        "k": rng.choice(["ü", "a", "c"], 500),
        "n": rng.integers(0, 50, 500),
        "yes": rng.random(500) > 0.5,
        "y": rng.standard_normal(500),
    }


@pytest.fixture
def put(tmp_path):
    def write(columns, name="table", chunk_rows=77):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet", row_group_size=200)
        return open_table(tmp_path / f"{name}.parquet", chunk_rows=chunk_rows)

    return write


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_equals_scikit_learn(columns, put, intercept, standardise):
    encoder = fitted(table := put(columns), intercept=intercept, standardise=standardise)
    x, y = everything(table, encoder)
    numbers = np.column_stack([columns[name] for name in ("a", "n", "yes")]).astype(float)
    if standardise:
        numbers = StandardScaler(with_mean=intercept).fit_transform(numbers)
    levels = OneHotEncoder(drop="first" if intercept else None, sparse_output=False)
    marks = levels.fit_transform(columns["k"][:, None])
    ones = np.ones((500, int(intercept)))
    expected = np.column_stack((numbers[:, :1], marks, numbers[:, 1:], ones))
    np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(y[:, 0], columns["y"])
    shown = ["k=a", "k=c", "k=ü"][intercept:]
    assert encoder.feature_names == ("a", *shown, "n", "yes", *["(intercept)"] * intercept)


def test_any_chunks_give_the_same_rows(columns, put):
    encoder = fitted(put(columns), standardise=True)
    first, _ = everything(put(columns), encoder)
    for chunk_rows in (1, 199, 5000):
        again, _ = everything(put(columns, chunk_rows=chunk_rows), encoder)
        assert torch.equal(again, first)


def test_float32(columns, put):
    encoder = fitted(table := put(columns), standardise=True)
    wide, _ = everything(table, encoder)
    narrow, y = everything(table, encoder, dtype=torch.float32)
    assert (narrow.dtype, y.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(narrow, wide.float())
    with pytest.raises(ValueError, match=r"`dtype` \(=torch.int64\)"):
        Dataset(table, encoder, torch.int64)


@pytest.mark.parametrize("intercept", [False, True])
def test_coefficients_in_the_users_units(columns, put, intercept):
    table = put(columns)
    scaled, plain = (fitted(table, intercept=intercept, standardise=each) for each in (True, False))
    z, _ = everything(table, scaled)
    x, _ = everything(table, plain)
    beta = torch.randn(z.shape[1], 2, dtype=torch.float64)
    torch.testing.assert_close(x @ scaled.in_user_units(beta), z @ beta, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain.in_user_units(beta), beta)
    torch.testing.assert_close(scaled.unit_map() @ beta, scaled.in_user_units(beta))


def test_imputation_by_means_and_shares(put):
    table = put({
        "a": pa.array([1.0, None, np.nan, 3.0]),
        "k": ["x", None, "y", "x"],
        "y": [0.0, 1, 2, 3],
    })  # fmt: skip
    x, _ = everything(table, fitted(table, impute="mean"))
    np.testing.assert_allclose(x, [[1, 0, 1], [2, 1 / 3, 1], [2, 1, 1], [3, 0, 1]])
    x, _ = everything(table, fitted(table, impute="mean", standardise=True, intercept=False))
    np.testing.assert_allclose(x, [[1, 1, 0], [2, 2 / 3, 1 / 3], [2, 0, 1], [3, 1, 0]])


def test_constant_and_single_level_columns(put):
    table = put({"a": [0.1] * 30, "k": ["x"] * 30, "y": np.arange(30.0)}, chunk_rows=7)
    encoder = fitted(table, standardise=True)
    assert encoder.scales == (1.0,)
    assert encoder.feature_names == ("a", "(intercept)")
    x, _ = everything(table, encoder)
    np.testing.assert_allclose(x[:, 0], 0, atol=1e-15)


def test_weights_and_several_targets(columns, put):
    columns["w"] = np.arange(500.0)
    columns["y2"] = columns["y"] * 2
    table = put(columns)
    dataset = Dataset(table, encoder := fitted(table, target=["y2", "y"], weight="w"))
    rows = dataset.read(dataset.chunks[1])
    assert rows.weights is not None
    assert rows.weights.tolist() == list(range(rows.offset, rows.offset + len(rows.x)))
    torch.testing.assert_close(rows.y[:, 0], 2 * rows.y[:, 1])
    assert "w" not in encoder.feature_names
    columns["w"][450] = -1
    bad = Dataset(put(columns, "bad"), encoder)
    with pytest.raises(ValueError, match=r"row group 2, row 450 .*, column 'w': negative weight"):
        list(bad.stream(bad.chunks))


def test_predicting_needs_no_target(columns, put):
    encoder = fitted(put(columns))
    del columns["y"]
    table = put(columns, "new")
    with pytest.raises(ValueError, match=r"new.parquet: lacks column 'y'"):
        Dataset(table, encoder)
    dataset = Dataset(table, encoder, targets=False)
    rows = dataset.read(dataset.chunks[0])
    assert (rows.y.shape, rows.weights, dataset.target_names) == ((77, 0), None, ())


def test_unknown_levels(columns, put):
    encoder = fitted(put(columns))
    columns["k"] = np.where(np.arange(500) == 300, "new", columns["k"])
    table = put(columns, "other")
    with pytest.raises(ValueError, match=r"other.parquet: row group 1, row 300 .*'k': unknown level 'new'"):
        everything(table, encoder)
    x, _ = everything(table, fitted(put(columns | {"k": ["a", "c"] * 250}), unknown="zero"))
    place = 1
    assert x[300, place] == 0


def test_a_column_of_another_kind(columns, put):
    encoder = fitted(put(columns))
    columns["a"] = columns["a"].astype(str)
    with pytest.raises(ValueError, match=r"other.parquet: column 'a' is .*string, but must be numeric"):
        Dataset(put(columns, "other"), encoder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a", np.nan, "missing"),
        ("a", np.inf, "infinite"),
        ("y", np.nan, "missing"),
        ("y", -np.inf, "infinite"),
    ],
)
def test_bad_numbers_are_located(put, name, value, message):
    columns = {"a": np.zeros(5000), "b": np.zeros(5000), "y": np.zeros(5000)}
    columns[name][4321] = value
    table = put(columns, chunk_rows=200)
    encoder = Encoder(select(table.columns, target="y"))
    where = rf"row group 21, row 4321 \(counted from 0\), column '{name}': the value is {message}"
    with pytest.raises(ValueError, match=where):
        everything(table, encoder)


def test_too_large_for_float32(put):
    table = put({"a": [1.0, 1e300], "y": [0.0, 1.0]})
    encoder = Encoder(select(table.columns, target="y"))
    with pytest.raises(ValueError, match=r"column 'a': the value is infinite"):
        everything(table, encoder, dtype=torch.float32)


def test_numbers_that_sum_to_infinity_are_fine(put):
    table = put({"a": [1.5e308, 1.5e308], "y": [1.5e308, 1.5e308]})
    x, y = everything(table, Encoder(select(table.columns, target="y")))
    assert x[1, 0] == y[1, 0] == 1.5e308


def test_state_round_trip(columns, put):
    encoder = fitted(put(columns), impute="mean", standardise=True, categorical=["n"], unknown="zero")
    held = io.BytesIO()
    torch.save(encoder.state_dict(), held)
    held.seek(0)
    assert Encoder.from_state_dict(torch.load(held, weights_only=True)) == encoder


@pytest.mark.slow
def test_columns_are_the_same_in_every_process(columns, put):
    table = put(columns)
    program = (
        "from lemmata.apps.regression_at_scale.encoding.moments import Moments\n"
        "from lemmata.apps.regression_at_scale.encoding.encoder import Encoder\n"
        "from lemmata.apps.regression_at_scale.sources.schema import select\n"
        "from lemmata.apps.regression_at_scale.sources import open_table\n"
        f"table = open_table({table.parts[0].path!r}, chunk_rows=1000)\n"
        "moments = Moments(select(table.columns, target='y', categorical=['n']))\n"
        "state = None\n"
        "for block in table.stream(table.chunks):\n"
        "    part = moments.partial(block)\n"
        "    state = part if state is None else moments.add(state, part)\n"
        "print(ascii(Encoder.from_moments(moments, state).feature_names))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "1"},
    )
    assert run.stdout == ascii(fitted(table, categorical=["n"]).feature_names) + "\n"


def test_a_column_without_values(put):
    table = put({"a": pa.array([None, None], pa.float64()), "y": [0.0, 1.0]})
    with pytest.raises(ValueError, match=r"column 'a' has no value in any row"):
        fitted(table, impute="mean")


def test_what_an_encoder_lacks():
    selection = Selection((Column("a", "numeric", "double"), Column("k", "categorical", "string")), ("y",))
    for options, message in (
        ({}, "`levels` lacks those of 'k'"),
        ({"levels": {"k": ("x",)}, "impute": "mean"}, "`shares` lacks those of 'k'"),
        ({"levels": {"k": ("x",)}, "standardise": True}, r"`means` has 0 values; expected one for each of 1"),
        ({"levels": {"k": ("x",)}, "impute": "median"}, r"`impute` \(='median'\) must be one of error, mean"),
        ({"levels": {"k": ("x",)}, "unknown": "new"}, r"`unknown` \(='new'\) must be one of error, zero"),
        (
            {"levels": {"k": ("x",)}, "standardise": True, "means": (0.0,), "scales": (0.0,)},
            r"`scales` must be positive",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Encoder(selection, **options)


def test_whether_pass_0_is_needed():
    number, text = Column("a", "numeric", "double"), Column("k", "categorical", "string")
    assert not Encoder.needs_moments(Selection((number,), ("y",)))
    assert Encoder.needs_moments(Selection((number, text), ("y",)))
    assert Encoder.needs_moments(Selection((number,), ("y",)), impute="mean")
    assert Encoder.needs_moments(Selection((number,), ("y",)), standardise=True)


COLUMNS = (
    Column("a", "numeric", "double"),
    Column("k", "categorical", "string"),
    Column("day", "other", "date32[day]"),
    Column("y", "numeric", "double"),
)


def test_selection():
    chosen = select(COLUMNS, target="y", exclude=["day"])
    assert (chosen.numeric, chosen.categorical, chosen.columns) == (("a",), ("k",), ("a", "k", "y"))
    chosen = select(COLUMNS, target=["y"], features=["k", "a"], categorical=["a"])
    assert (chosen.numeric, chosen.categorical) == ((), ("k", "a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "z"}, r"`target` names 'z', which is no column; the table has a, k, day, y"),
        ({"target": "k"}, "column 'k' is string; a target or weight must be numeric"),
        ({"target": ()}, "`target` .* at least one"),
        ({"target": ["y", "y"]}, "`target` names 'y' twice"),
        ({"target": "y"}, "column 'day' is date32.day.: neither numeric nor text; name it in `exclude`"),
        ({"target": "y", "features": ["day"]}, "column 'day' is date32"),
        ({"target": "y", "features": ["y"]}, "column 'y' is named by `target` and by `features`"),
        ({"target": "y", "weight": "y"}, "column 'y' is named by `target` and by `weight`"),
        ({"target": "y", "features": ["a"], "exclude": ["a"]}, "named by `features` and by `exclude`"),
        ({"target": "y", "exclude": ["a", "k", "day"]}, "no features"),
        ({"target": "y", "exclude": ["day", "k"], "categorical": ["k"]}, "'k', which is not a feature"),
        ({"target": "y", "weight": "w"}, "`weight` names 'w', which is no column"),
    ],
)
def test_selections_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        select(COLUMNS, **options)
