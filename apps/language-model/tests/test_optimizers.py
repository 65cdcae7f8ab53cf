"""Optimisers and schedules by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.language_model.model import Decoder, DecoderConfig
from lemmata.apps.language_model.optimizers import OPTIMIZERS, build
from lemmata.apps.language_model.schedules import make_schedule, read_schedule, write_schedule


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(DecoderConfig(vocabulary=11, context=8, width=16, depth=1, heads=2, experts=4))


def loss(decoder: Decoder) -> torch.Tensor:
    tokens = torch.arange(18).reshape(2, 9) % 11
    logits = decoder(tokens[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_moved_and_the_loss_falls(decoder: Decoder, name: str) -> None:
    optimizer = build(name, decoder)
    counted = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(counted) == sorted(id(param) for param in decoder.parameters())
    before = float(loss(decoder).detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss(decoder).backward()
        optimizer.step()
    assert float(loss(decoder).detach()) < before - 0.02
    assert OPTIMIZERS[name].lr in OPTIMIZERS[name].sweep
    assert list(OPTIMIZERS[name].sweep) == sorted(OPTIMIZERS[name].sweep)


@pytest.mark.parametrize("name", ["muon", "auon", "hybrid-auon"])
def test_embeddings_head_and_router_are_adamws(decoder: Decoder, name: str) -> None:
    optimizer = build(name, decoder, lr=0.5, adamw_lr=0.25)
    names = {id(param): name for name, param in decoder.named_parameters()}
    for group in optimizer.param_groups:
        adamw = group["algorithm"] == "adamw"
        assert group["lr"] == (0.25 if adamw else 0.5)
        for param in group["params"]:
            left = any(part in names[id(param)] for part in ("embedding", "lm_head", "router"))
            assert adamw == (left or param.ndim < 2), names[id(param)]


def test_vectors_are_not_decayed(decoder: Decoder) -> None:
    for name in ("adamw", "sgd", "lion"):
        for group in build(name, decoder, weight_decay=0.5).param_groups:
            matrices = {param.ndim >= 2 for param in group["params"]}
            assert matrices == {group["weight_decay"] == 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "adamm"},
            "`optimizer` .* is not known; expected one of adamw, sgd, muon, lion, nuclear-lion",
        ),
        ({"name": "adamw", "lr": -1.0}, r"`lr` \(=-1.0\) must be finite and not negative"),
        ({"name": "muon", "weight_decay": float("nan")}, "`weight_decay`"),
        ({"name": "muon", "speed": 3}, r"`optimizer_options` \(=\{'speed': 3\}\) do not fit muon"),
        ({"name": "muon", "momentum": 3.0}, r"`momentum` \(=3\)"),
    ],
)
def test_errors_name_the_option(decoder: Decoder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arguments.pop("name"), decoder, **arguments)


def multipliers(schedule: str, steps: int, warmup: int = 0) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_schedule(schedule, optimizer, steps, warmup=warmup)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules_by_name() -> None:
    assert multipliers("linear", 5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert multipliers("constant", 5, warmup=1) == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0])
    assert max(multipliers("linear", 6, warmup=20)) == 1.0  # a short run warms up in at most its first half


def test_a_file_of_multipliers_is_followed_and_spread(tmp_path: Path) -> None:
    path = write_schedule(tmp_path / "schedule.csv", torch.tensor([0.0, 1.0, 0.5]))
    assert read_schedule(path) == [0.0, 1.0, 0.5]
    assert multipliers(str(path), 3) == [0.0, 1.0, 0.5]
    assert multipliers(str(path), 5) == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,rate\n0,1.0\n", "no column 'multiplier'"),
        ("multiplier\n", "no column 'multiplier' with numbers"),
        ("multiplier\n1.0\n-2\n", "line 3 has '-2', expected a number in"),
        ("multiplier\nmany\n", "line 2 has 'many'"),
        ("\xff", "no column"),
    ],
)
def test_a_file_that_is_no_schedule_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "schedule.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_schedule(tmp_path / "schedule.csv")


def test_a_schedule_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError, match="expected linear, constant, or a CSV file"):
        read_schedule("cosine")
