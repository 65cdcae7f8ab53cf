"""The comparison of products: counts, tables, fits; times themselves are for the claims and benchmarks."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from lemmata.equivariant.o3 import Irreps, from_dense, wigner_3j
from lemmata.equivariant.tensor_product import comparison
from lemmata.equivariant.tensor_product.comparison import (
    PRODUCTS,
    Record,
    benchmark_tensor_products,
    comparison_table,
    growth_exponents,
    plot_comparison,
)


def record(product, lmax, seconds, *, channels=32, expressivity=5, backward=False):
    return Record(product, lmax, channels, 64, backward, expressivity, 5, seconds)


@pytest.mark.parametrize("backward", [False, True])
def test_records_of_all_products(backward):
    pytest.importorskip("e3nn")
    records = benchmark_tensor_products([1, 2], [2, 4], 3, backward, rounds=1)
    assert [(r.product, r.lmax, r.channels) for r in records] == [
        (name, lmax, channels) for lmax in (1, 2) for channels in (2, 4) for name in PRODUCTS
    ]
    assert all(r.seconds > 0 and r.batch == 3 and r.backward == backward for r in records)
    figures = {r.product: (r.expressivity, r.interactable) for r in records if r.lmax == 2}
    assert figures == {
        "dense": (15, 15),
        "sparse": (15, 15),
        "gaunt, fourier": (7, 11),
        "gaunt, grid": (7, 11),
        "bracket": (4, 4),
        "complete": (11, 15),
        "matrix": (7, 15),
        "e3nn": (15, 15),
    }


@pytest.mark.parametrize("name", ["dense", "e3nn"])
def test_products_with_all_paths_multiply_channel_by_channel(name):
    """Each path with its weight, natural entries first, against 3j symbols."""
    pytest.importorskip("e3nn")
    product = PRODUCTS[name](2, 3).double()
    natural = Irreps([(3, (l, (-1) ** l)) for l in range(3)])
    x, y = torch.randn(2, 4, 3, 9, dtype=torch.float64)
    out = product(from_dense(natural, x), from_dense(natural, y))
    assert out.shape == (4, 3 * (9 + 8))
    crossed = torch.einsum("abm,zca,zcb->zcm", wigner_3j(1, 1, 1), x[..., 1:4], y[..., 1:4])
    others = torch.einsum("abm,zca,zcb->zcm", wigner_3j(2, 2, 1), x[..., 4:], y[..., 4:])
    found = out[:, 27 : 27 + 9].reshape(4, 3, 3)
    for channel in range(3):
        design = torch.stack([crossed[:, channel].flatten(), others[:, channel].flatten()], dim=-1)
        target = found[:, channel].flatten()
        solution = torch.linalg.lstsq(design, target[:, None]).solution
        torch.testing.assert_close((design @ solution)[:, 0], target, rtol=1e-5, atol=1e-6)


def test_e3nn_is_left_out_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(comparison, "PRODUCTS", {k: PRODUCTS[k] for k in ("gaunt, grid", "e3nn")})
    found = benchmark_tensor_products([1], 2, 2, rounds=1)
    assert [r.product for r in found] == ["gaunt, grid"]


@pytest.mark.slow
def test_importing_the_comparison_does_not_import_e3nn_or_matplotlib():
    module = "lemmata.equivariant.tensor_product.comparison"
    code = f"import sys, {module}; print({{'e3nn', 'matplotlib'}} & {{*sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_table_orders_by_the_price_of_a_coupling():
    records = [record("dear", 2, 4e-3), record("cheap", 2, 1e-3), record("first", 1, 9e-3, expressivity=3)]
    rows = comparison_table(records).splitlines()
    assert [row.split(" | ")[2] for row in rows[2:]] == ["first", "cheap", "dear"]
    assert rows[3] == "| 2 | 32 | cheap | 5 | 5 | 1.000 | 200.0 |"


def test_exponents():
    records = [record("a", l, 3e-4 * (l + 1) ** 2.5) for l in (1, 2, 4)]
    records += [record("a", l, 1e-3, channels=8) for l in (1, 2)]
    found = growth_exponents(records)
    assert found["a", 32] == pytest.approx(2.5)
    assert found["a", 8] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="at least two degrees"):
        growth_exponents(records[:1])


def test_plot():
    pytest.importorskip("matplotlib")
    records = [record(name, l, 1e-3 * l, channels=c) for name in "ab" for l in (1, 2) for c in (8, 32)]
    figure = plot_comparison(records)
    assert len(figure.axes) == 4
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    assert figure.axes[2].lines[0].get_ydata() == pytest.approx([1.0, 2.0])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`products` \(=\['fast'\]\) must be among"):
        benchmark_tensor_products([1], products=["fast"])
    with pytest.raises(ValueError, match=r"`rounds` \(=0\) must be at least 1"):
        benchmark_tensor_products([1], products=["complete"], rounds=0)
