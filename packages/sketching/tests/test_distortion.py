"""Distortion of a subspace: against the definition, at the sizes the theory names, on deficient data."""

import math

import pytest
import torch

from lemmata.sketching.operators import (
    CountSketch,
    GaussianSketch,
    RowSampling,
    SparseSign,
    subspace_distortion,
)


def data(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_definition_on_an_orthonormal_basis():
    Q = torch.linalg.qr(data(200, 5)).Q
    S = SparseSign(40, 200, seed=1)
    expected = (torch.linalg.svdvals(S.to_dense() @ Q) - 1).abs().max()
    assert subspace_distortion(S, Q) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("family", [GaussianSketch, SparseSign])
def test_is_about_the_root_of_d_over_m(family):
    A = data(4000, 40) * torch.logspace(0, -10, 40, dtype=torch.float64)
    for m in (160, 640):
        found = [subspace_distortion(family(m, 4000, seed=s), A) for s in range(3)]
        assert 0.7 * math.sqrt(40 / m) < min(found) <= max(found) < 1.25 * math.sqrt(40 / m) + 0.05


def test_depends_on_the_range_alone():
    A, S = data(300, 6), SparseSign(60, 300)
    T = torch.triu(data(6, 6, seed=2)) + 6 * torch.eye(6, dtype=torch.float64)
    whole = subspace_distortion(S, A)
    assert subspace_distortion(S, A @ T) == pytest.approx(whole, rel=1e-9)
    deficient = torch.cat((A, A[:, :2] + A[:, 2:4], torch.zeros(300, 1, dtype=torch.float64)), 1)
    assert subspace_distortion(S, deficient) == pytest.approx(whole, rel=1e-9)
    assert subspace_distortion(S, A.float()) == pytest.approx(whole, rel=1e-4)


def test_edges():
    S = CountSketch(30, 50)
    assert subspace_distortion(S, torch.zeros(50, 3)) == 0
    assert subspace_distortion(S, torch.zeros(50, 0)) == 0
    assert subspace_distortion(S, data(50, 80)) >= 1  # more directions than rows of the sketch
    assert subspace_distortion(S, data(50, 1)) < 1
    everything = RowSampling(torch.arange(50), torch.ones(50), 50)
    assert subspace_distortion(everything, data(50, 4)) < 1e-12
    assert subspace_distortion(RowSampling(torch.tensor([0]), torch.ones(1), 1), torch.ones(1, 1)) < 1e-15


def test_bad_input():
    with pytest.raises(ValueError, match="must be finite"):
        subspace_distortion(CountSketch(3, 5), torch.full((5, 2), math.nan))
    with pytest.raises(ValueError, match="must have 5 rows"):
        subspace_distortion(CountSketch(3, 5), data(6, 2))
