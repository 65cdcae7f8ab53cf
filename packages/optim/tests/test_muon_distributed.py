"""Muon in two processes on a CPU: the same training as in one."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lemmata.optim.optimizers.muon import Muon
from lemmata.optim.optimizers.partition import split_parameters

WORLD = 2
BATCH = 8
STEPS = 5
SECONDS = 100

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this build of torch has no gloo")


class Network(nn.Module):
    """Matrices of several kinds, rows that two processes cannot divide evenly, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 15)
        self.qkv = nn.Linear(15, 12, bias=False)
        self.experts = nn.Parameter(torch.randn(3, 12, 12) / 4)
        self.norm = nn.LayerNorm(12)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.qkv(torch.tanh(self.first(x)))
        return self.last(self.norm(torch.einsum("bi,eij->bj", x, self.experts)))


def network() -> Network:
    torch.manual_seed(0)
    return Network().double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(BATCH, 5, generator=generator, dtype=torch.float64)


def muon(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> Muon:
    groups = split_parameters(model, heads={"qkv": 3})
    return Muon(groups, lr=0.05, adamw_lr=0.01, weight_decay=0.1, process_group=process_group)


def train(model: nn.Module, optimizer: Muon, rank: int | None = None, steps: range = range(STEPS)) -> None:
    for step in steps:
        inputs, targets = batch(step)
        if rank is not None:
            size = BATCH // WORLD
            inputs, targets = (part[rank * size : (rank + 1) * size] for part in (inputs, targets))
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()


def assert_as_alone(found: dict[str, Tensor], tolerance: float) -> None:
    alone = network()
    train(alone, muon(alone))
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=tolerance)


# --- What each process does ------------------------------------------------------------------------------


def under_ddp(rank: int) -> None:
    for process_group in (None, dist.group.WORLD):
        model = network()
        parallel = DistributedDataParallel(model)
        train(parallel, muon(model, process_group), rank)
        assert_as_alone(model.state_dict(), 1e-6)


def in_shares(rank: int) -> None:
    """Each process computes its share, and all end up with the same bits."""
    model = network()
    optimizer = muon(model, dist.group.WORLD)
    computed: list[int] = []
    directions = optimizer._directions

    def counted(group: dict[str, Any], u: Tensor) -> Tensor:
        computed.append(len(u))
        return directions(group, u)

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(optimizer, "_directions", counted)
    train(model, optimizer)
    assert_as_alone(model.state_dict(), 1e-12)
    total = torch.tensor([sum(computed)])
    dist.all_reduce(total)
    matrices = 1 + 3 + 3 + 1
    assert 0 < sum(computed) < STEPS * matrices
    assert int(total) == STEPS * matrices
    for param in model.parameters():
        other = [torch.empty_like(param) for _ in range(WORLD)]
        dist.all_gather(other, param.detach())
        assert torch.equal(*other)


def in_shares_with_idle_process(rank: int) -> None:
    """There are fewer matrices than processes, and two data types."""
    for dtypes in ([torch.float64], [torch.float32, torch.float64, torch.bfloat16]):
        params = [nn.Parameter(torch.eye(4, 6, dtype=dtype)) for dtype in dtypes]
        alone = [nn.Parameter(param.detach().clone()) for param in params]
        shared, single = Muon(params, process_group=dist.group.WORLD), Muon(alone)
        for _ in range(2):
            for param in [*params, *alone]:
                param.grad = torch.full_like(param, 0.5).tril()
            shared.step()
            single.step()
        for one, two in zip(params, alone, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6 if one.dtype != torch.bfloat16 else 1e-2)


def under_fsdp2(rank: int) -> None:
    mesh = init_device_mesh("cpu", (WORLD,))
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = muon(model)
    train(model, optimizer, rank, range(3))
    assert all(isinstance(param, DTensor) for param in model.parameters())
    for param in model.parameters():
        state = optimizer.state[param]
        assert all(isinstance(value, DTensor) for key, value in state.items() if key != "step")
        assert all(value.placements == param.placements for key, value in state.items() if key != "step")
    # A resumed run goes on as this one.
    saved = get_optimizer_state_dict(model, optimizer)
    resumed = muon(model)
    set_optimizer_state_dict(model, resumed, saved)
    train(model, resumed, rank, range(3, STEPS))
    assert_as_alone({name: value.full_tensor() for name, value in model.state_dict().items()}, 1e-5)


def under_fsdp2_and_shares(rank: int) -> None:
    """Sharded parameters beside ordinary ones, of which the processes share the work."""
    mesh = init_device_mesh("cpu", (WORLD,))
    model = network()
    fully_shard(model, mesh=mesh, ignored_params={model.first.weight, model.first.bias, model.last.weight})
    optimizer = muon(model, dist.group.WORLD)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs, targets = batch(step)
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    found = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in model.state_dict().items()
    }
    assert_as_alone(found, 1e-5)


def nonfinite_under_fsdp2(rank: int) -> None:
    """A gradient that is not finite on one process ends the step on both, with nothing changed."""
    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    optimizer = muon(model)
    train(model, optimizer, rank, range(1))
    before = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if rank == 0:
        model.first.weight.grad.to_local()[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="group" if rank == 0 else "another process"):
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value.full_tensor(), before[name])


def under_fsdp1(rank: int) -> None:
    for original in (False, True):
        model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(TypeError, match="shard the model with fully_shard instead"):
            Muon(model.parameters())


# --- Running them ----------------------------------------------------------------------------------------

WORK: dict[str, Callable[[int], None]] = {
    work.__name__: work
    for work in (
        under_ddp,
        in_shares,
        in_shares_with_idle_process,
        under_fsdp2,
        under_fsdp2_and_shares,
        nonfinite_under_fsdp2,
        under_fsdp1,
    )
}


def main(rank: int, folder: Path) -> None:
    """Do all work as one of the processes; leave what came of each in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=SECONDS),
    )
    for name, work in WORK.items():
        try:
            work(rank)
            outcome = "done"
        except Exception:  # noqa: BLE001 - the test shows it
            outcome = traceback.format_exc()
        (folder / f"{name}.{rank}").write_text(outcome)
        if outcome != "done":
            break  # The other process may wait for this one from here on.
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run both processes once for all tests, since starting them takes longest."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(WORLD)
    ]
    try:
        for process in processes:
            process.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        (folder / "late").write_text(f"not done in {SECONDS} s")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return folder


@pytest.mark.parametrize("name", WORK)
def test_two_processes(name: str, outcomes: Path) -> None:
    for rank in range(WORLD):
        outcome = outcomes / f"{name}.{rank}"
        assert outcome.exists(), "the process did not come to this"
        assert outcome.read_text() == "done", f"process {rank}: {outcome.read_text()}"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
