"""Losses other than the square: coresets, certificates on all rows, the same bits everywhere."""

import numpy as np
import pytest
import scipy.optimize
import torch

from lemmata.apps.regression_at_scale.encoding.encoder import Rows
from lemmata.apps.regression_at_scale.encoding.opening import encode, open_rows
from lemmata.apps.regression_at_scale.engine.engine import Engine
from lemmata.apps.regression_at_scale.methods.robust import draw_coreset, fit_robust
from lemmata.apps.regression_at_scale.methods.sampling import RowScores, SamplePass, parts
from lemmata.apps.regression_at_scale.model import Loss


@pytest.fixture
def table(tmp_path):
    """Rows with a known line, normal errors and a few gross ones."""
    random = np.random.default_rng(3)
    x = random.standard_normal((4000, 3)) * [1.0, 10.0, 0.1]
    y = x @ [1.0, -0.2, 5.0] + 2 + 0.1 * random.standard_normal(4000)
    y[::97] += 50 * random.standard_normal(len(y[::97]))
    np.save(tmp_path / "table.npy", np.column_stack((x, y, random.uniform(0.5, 2, 4000))))
    return tmp_path / "table.npy"


def engine_on(table, *, chunk_rows=500, workers=2, **options):
    raw = open_rows([str(table)], target="c3", chunk_rows=chunk_rows, **options)
    engine = Engine(raw, workers=workers)
    engine.dataset = encode(engine, raw, intercept=True)
    return engine


def least_cost(table, cost, weights=False):
    """Return the least cost that SciPy finds, from many starts of its own."""
    held = np.load(table)
    x, y = np.column_stack((held[:, :3], np.ones(len(held)))), held[:, 3]
    w = held[:, 4] if weights else np.ones(len(held))
    start = np.linalg.lstsq(x, y)[0]

    def total(z):
        return float((w * cost(y - x @ z)).sum())

    found = scipy.optimize.minimize(total, start, method="Powell", options={"xtol": 1e-10, "ftol": 1e-14})
    return scipy.optimize.minimize(
        total, found.x, method="Nelder-Mead", options={"xatol": 1e-12, "fatol": 1e-12, "maxiter": 20000}
    ).fun


COSTS = {
    "l1": np.abs,
    "lp:1.5": lambda r: np.abs(r) ** 1.5,
    "lp:3": lambda r: np.abs(r) ** 3,
    "huber:0.2": lambda r: np.where(np.abs(r) < 0.2, r**2 / 2, 0.2 * np.abs(r) - 0.02),
}


@pytest.mark.parametrize("loss", COSTS)
def test_the_cost_is_the_least_and_the_bound_below_it(table, loss):
    engine = engine_on(table, exclude=["c4"])
    found = fit_robust(engine, Loss.parse(loss), coreset_size=400, rtol=1e-7)
    least = least_cost(table, COSTS[loss])
    certificate = found.certificate
    assert certificate["relative_gap"] <= 1e-7
    assert certificate["cost"] == pytest.approx(least, rel=1e-6)
    assert certificate["lower_bound"] <= least * (1 + 1e-12)
    assert certificate["passes"] == engine.passes_run


def test_one_round_certifies_a_coreset_honestly(table):
    found = fit_robust(engine_on(table, exclude=["c4"]), Loss.parse("l1"), coreset_size=200)
    least = least_cost(table, np.abs)
    certificate = found.certificate
    assert certificate["rounds"] == 1
    assert certificate["passes"] == 5
    assert certificate["lower_bound"] <= least <= certificate["cost"] * (1 + 1e-12)
    assert certificate["cost"] <= certificate["coreset_cost"]
    assert certificate["relative_gap"] >= (certificate["cost"] - least) / certificate["cost"]


def test_weights_count_losses(table):
    found = fit_robust(engine_on(table, weight="c4"), Loss.parse("l1"), coreset_size=500, rtol=1e-7)
    assert found.certificate["cost"] == pytest.approx(least_cost(table, np.abs, weights=True), rel=1e-6)


def test_hubers_threshold_is_found_from_the_residuals(table):
    found = fit_robust(engine_on(table, exclude=["c4"]), Loss.parse("huber"))
    assert found.loss.delta == pytest.approx(1.345 * 0.1, rel=0.1)


def test_any_number_of_workers_gives_the_same_bits(table):
    fits = [
        fit_robust(engine_on(table, exclude=["c4"], workers=workers), Loss.parse("l1"), coreset_size=300)
        for workers in (1, 4)
    ]
    assert torch.equal(fits[0].coefficients, fits[1].coefficients)
    assert fits[0].certificate == fits[1].certificate


def test_chunks_change_rounding_alone(table):
    fits = [
        fit_robust(engine_on(table, exclude=["c4"], chunk_rows=rows), Loss.parse("l1"), coreset_size=300)
        for rows in (4000, 333)
    ]
    torch.testing.assert_close(fits[0].coefficients, fits[1].coefficients, rtol=1e-8, atol=1e-10)


def test_what_cannot_be_fitted_is_refused(table):
    raw = open_rows([str(table)], target=["c2", "c3"])
    engine = Engine(raw, workers=1)
    engine.dataset = encode(engine, raw, intercept=True)
    with pytest.raises(ValueError, match=r"2 columns.*one at a time"):
        fit_robust(engine, Loss.parse("l1"))
    with pytest.raises(ValueError, match=r"`size` \(=3\).*at least 5"):
        fit_robust(engine_on(table, exclude=["c4"]), Loss.parse("l1"), coreset_size=3)


def test_exact_fits_have_no_scale(tmp_path):
    x = np.random.default_rng(0).standard_normal((200, 2))
    np.save(tmp_path / "exact.npy", np.column_stack((x, x @ [1.0, 2.0])))
    raw = open_rows([str(tmp_path / "exact.npy")], target="c2")
    engine = Engine(raw, workers=1)
    engine.dataset = encode(engine, raw, intercept=True)
    found = fit_robust(engine, Loss.parse("l1"))
    assert found.certificate["cost"] < 1e-10
    torch.testing.assert_close(
        found.coefficients[:, 0], torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


def test_a_coreset_weighs_as_much_as_the_table(table):
    engine = engine_on(table, exclude=["c4"])
    sums = []
    for seed in range(60):
        coreset, _ = draw_coreset(engine, Loss.parse("l1"), size=300, seed=seed)
        _, y, weights = parts(coreset, 4)
        sums.append(float(weights @ y[:, 0].abs()))
    total = np.abs(np.load(table)[:, 3]).sum()
    error = np.std(sums, ddof=1) / len(sums) ** 0.5
    assert abs(np.mean(sums) - total) < 5 * error


def test_rows_without_weight_are_never_drawn():
    rows = Rows(
        0,
        torch.ones(6, 2),
        torch.ones(6, 1, dtype=torch.float64),
        torch.tensor([0.0, 1, 0, 1, 1, 0]).double(),
    )
    task = SamplePass(RowScores((), constant=1.0), 6, seed=0)
    coreset = task.coreset(task.partial(rows))
    assert coreset.indices.tolist() == [1, 3, 4]
