"""Constants keep their accuracy through every change of dtype, and stay out of the state."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lemmata.equivariant.constants import ConstantModule

F64 = torch.float64
THIRD = torch.tensor([1 / 3], dtype=F64)


class Thirds(ConstantModule):
    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.register_constant("third", THIRD, dtype=dtype)
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self.child = nn.Linear(1, 1, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.third


@pytest.mark.parametrize("way", [torch.float32, torch.float16, torch.bfloat16])
def test_detours_lose_nothing(way: torch.dtype) -> None:
    module = Thirds(F64)
    module.to(way)
    assert module.third.dtype == module.weight.dtype == way
    assert torch.equal(module.third, THIRD.to(way))
    module.double()
    assert torch.equal(module.third, THIRD)


def test_within_other_modules_and_after_copies() -> None:
    model = nn.Sequential(Thirds(), Thirds())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.float().double()[1].third, THIRD)


def test_state_holds_parameters_alone() -> None:
    assert set(Thirds().state_dict()) == {"weight", "child.weight", "child.bias"}
    assert [name for name, _ in Thirds().named_buffers()] == ["third"]


def test_dtype_defaults_to_torchs() -> None:
    assert Thirds().third.dtype == torch.get_default_dtype()
    assert Thirds(torch.float16).third.dtype == torch.float16


def test_masters_are_copies_without_history() -> None:
    value = torch.ones(2, dtype=F64, requires_grad=True)
    module = ConstantModule()
    module.register_constant("c", value, dtype=F64)
    assert not module.c.requires_grad
    module.c.add_(1)
    assert module.float().double().c.tolist() == [1.0, 1.0]
    assert value.tolist() == [1.0, 1.0]


def test_device() -> None:
    module = Thirds().to("meta")
    assert module.third.device.type == "meta"
    # Memory that nobody wrote to must not take a constant's place.
    assert torch.equal(Thirds(F64).to_empty(device="cpu").third, THIRD)
    assert torch.equal(Thirds(F64).to("meta").to_empty(device="cpu").third, THIRD)


def test_only_double_precision_is_taken() -> None:
    with pytest.raises(TypeError, match=r"'c' must be float64, got torch.float32"):
        ConstantModule().register_constant("c", torch.ones(1))
