"""Losses and errors: values by hand, masks, weights, units."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from lemmata.apps.interatomic.losses import ErrorSums, LossWeights, errors, weighted_loss
from lemmata.apps.interatomic.models import Prediction


def batch(*sizes: int, **weights: list[float]) -> Batch:
    """Return configurations of some atoms with labels of zero."""
    frames = []
    for place, size in enumerate(sizes):
        given = {
            name: torch.tensor([weights.get(name, [1.0] * len(sizes))[place]])
            for name in ("energy_weight", "forces_weight", "stress_weight", "weight")
        }
        frames.append(
            Data(
                z=torch.ones(size, dtype=torch.long),
                pos=torch.zeros(size, 3),
                energy=torch.zeros(1, dtype=torch.float64),
                forces=torch.zeros(size, 3),
                stress=torch.zeros(1, 3, 3),
                **given,
            )
        )
    return Batch.from_data_list(frames)


def prediction(energy: list[float], forces: Tensor, stress: Tensor | None = None) -> Prediction:
    return Prediction(torch.tensor(energy, dtype=torch.float64), forces, stress, torch.zeros(len(forces)))


def test_the_loss_is_what_the_formula_says() -> None:
    data, forces = batch(2, 3), torch.arange(15.0).reshape(5, 3) / 10
    found = weighted_loss(prediction([4.0, 6.0], forces), data, LossWeights(1.0, 100.0))
    expected = (2.0**2 + 2.0**2) / 2 + 100 * (forces**2).mean()
    torch.testing.assert_close(found, expected)
    stress = torch.full((2, 3, 3), 0.1)
    found = weighted_loss(prediction([0.0, 0.0], 0 * forces, stress), data, LossWeights(1.0, 1.0, 10.0))
    torch.testing.assert_close(found, torch.tensor(0.1))


def test_what_has_no_label_neither_counts_nor_dilutes() -> None:
    data = batch(2, 3, forces_weight=[1.0, 0.0], energy_weight=[0.0, 1.0])
    forces = torch.ones(5, 3)
    forces[2:] = float("inf")
    forces[2:] = 1e6
    found = weighted_loss(prediction([1e6, 3.0], forces), data, LossWeights(1.0, 100.0))
    torch.testing.assert_close(found, torch.tensor(1.0 + 100.0))


def test_weights_of_configurations_multiply() -> None:
    forces = torch.ones(5, 3)
    data = batch(2, 3, weight=[3.0, 0.5])
    found = weighted_loss(prediction([2.0, 3.0], forces), data, LossWeights(1.0, 1.0))
    torch.testing.assert_close(found, torch.tensor((3.0 + 0.5) / 2 + (3.0 * 6 + 0.5 * 9) / 15))


def test_hubers_loss_agrees_with_squares_on_small_errors_and_is_linear_beyond() -> None:
    data, weights = batch(1), LossWeights(0.0, 1.0)
    small = prediction([0.0], torch.full((1, 3), 1e-3))
    torch.testing.assert_close(
        weighted_loss(small, data, weights, kind="huber"), weighted_loss(small, data, weights)
    )
    large = [
        float(weighted_loss(prediction([0.0], torch.full((1, 3), size)), data, weights, kind="huber"))
        for size in (1.0, 2.0, 3.0)
    ]
    assert large[2] - large[1] == pytest.approx(large[1] - large[0], rel=1e-5)


def test_total_energies_are_subtracted_in_double_precision() -> None:
    data = batch(10)
    data.energy = torch.tensor([-94_000.0001], dtype=torch.float64)
    found = errors(prediction([-94_000.0], torch.zeros(10, 3)), data)["energy"][0]
    assert found.item() == pytest.approx(1e-5, rel=1e-4)
    assert found.dtype == torch.float32


def test_an_empty_batch_of_labels_gives_no_loss_and_no_nan() -> None:
    data = batch(2, forces_weight=[0.0], energy_weight=[0.0])
    forces = torch.ones(2, 3, requires_grad=True)
    loss = weighted_loss(prediction([1.0], forces), data, LossWeights())
    loss.backward()
    assert loss.item() == 0
    assert forces.grad is not None
    assert not forces.grad.any()


def test_errors_over_batches_are_those_of_all_components() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(7, 3, generator=generator)
    sums = ErrorSums()
    for part, energy in ((whole[:2], 0.01), (whole[2:], 0.05)):
        sums.update(prediction([energy * len(part)], part), batch(len(part)))
    found = sums.compute()
    assert found["forces_mae"] == pytest.approx(1000 * whole.abs().mean().item())
    assert found["forces_rmse"] == pytest.approx(1000 * whole.square().mean().sqrt().item())
    assert found["energy_mae"] == pytest.approx(30.0)
    assert "stress_mae" not in found


def test_errors_leave_unlabelled_components_out() -> None:
    sums = ErrorSums()
    sums.update(prediction([1.0, 2.0], torch.ones(2, 3)), batch(1, 1, energy_weight=[0.0, 0.0]))
    assert set(sums.compute()) == {"forces_mae", "forces_rmse"}


def test_one_configuration_without_a_batch() -> None:
    data = batch(3).get_example(0)
    assert data.batch is None
    found: Any = weighted_loss(prediction([3.0], torch.zeros(3, 3)), data, LossWeights(2.0, 1.0))
    assert found.item() == pytest.approx(2.0)


@pytest.mark.parametrize("weights", [(-1.0, 1.0, 0.0), (1.0, float("inf"), 0.0), (0.0, 0.0, 0.0)])
def test_weights_out_of_range_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="_weight"):
        LossWeights(*weights)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`loss` .* expected one of mse, huber"):
        weighted_loss(prediction([0.0], torch.zeros(1, 3)), batch(1), LossWeights(), kind="l1")
