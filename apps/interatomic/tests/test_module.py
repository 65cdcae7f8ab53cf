"""The training module: what it builds for data, and optimisers and schedules by name."""

import pytest
import torch
from torch import nn

from lemmata.apps.interatomic.callbacks import RunningAverage, StageTwo, average
from lemmata.apps.interatomic.losses import LossWeights
from lemmata.apps.interatomic.module import InteratomicModule
from lemmata.apps.interatomic.optimization import SCHEDULES, make_optimizer, make_schedule
from lemmata.apps.interatomic.reference import Reference


def reference() -> Reference:
    return Reference(e0={1: -13.0, 8: -2000.0}, scale=1.7, average_neighbours=9.5, cutoff=4.5)


def test_the_potential_is_built_from_what_is_known_of_the_data() -> None:
    module = InteratomicModule(model="frame", model_options={"channels": 8}, zbl=True)
    module.build(module.config_for(reference()))
    potential = module.potential
    assert potential.elements == (1, 8)
    assert potential.reference_energies.tolist() == [-13.0, -2000.0]
    assert (potential.scale, potential.cutoff, potential.average_neighbours) == (1.7, 4.5, 9.5)
    assert potential.config["channels"] == 8
    assert potential.repulsion is not None
    assert not any(weight.requires_grad for weight in module.averaged.parameters())


def test_without_an_average_there_is_one_potential() -> None:
    module = InteratomicModule(model="frame", ema=0.0)
    module.build(module.config_for(reference()))
    assert not hasattr(module, "averaged")
    assert [type(callback) for callback in module.configure_callbacks()] == [StageTwo]


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of this app's"):
        InteratomicModule().on_load_checkpoint({})


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_span_the_run(name: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    schedule = make_schedule(name, optimizer, 20, warmup=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(1.0) if name == "plateau" else schedule.step()
    if name == "plateau":
        assert rates[0] == 1.0
        assert rates[-1] == pytest.approx(0.8)
        return
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    if name == "constant":
        assert rates[4:] == [1.0] * 16
    else:
        assert rates[4:] == sorted(rates[4:], reverse=True)
        assert 0 < rates[-1] < 0.1


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_optimisers_hold_every_weight_once(name: str) -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4))
    optimizer = make_optimizer(name, model, lr=0.01, weight_decay=0.1)
    held = [param for group in optimizer.param_groups for param in group["params"]]
    assert len(held) == len(set(held)) == 3
    assert {id(param) for param in held} == {id(param) for param in model.parameters()}


def test_names_that_are_unknown() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"`optimizer` .* expected one of adam, adamw, muon"):
        make_optimizer("sgd", model, lr=0.1)
    with pytest.raises(ValueError, match=r"`schedule` .* expected one of cosine"):
        make_schedule("step", torch.optim.SGD(model.parameters()), 10)


def test_an_average_moves_by_its_decay() -> None:
    before, now = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.9 * before.weight + 0.1 * now.weight
    average(before, now, 0.9)
    torch.testing.assert_close(before.weight, expected)


def test_callbacks_check_their_arguments() -> None:
    with pytest.raises(ValueError, match=r"`ema` \(=1.0\)"):
        RunningAverage(1.0)
    with pytest.raises(ValueError, match=r"`stage_two_at` \(=-0.1\)"):
        StageTwo(-0.1, LossWeights())
