"""Compression kernels against the plain PyTorch that one would write, and hooks against PyTorch's own.

Kernels run on one vector of a million entries, 4 MB of gradient. The hooks run a whole backward pass in a
group of one process over gloo, so that what is measured is compression rather than a network.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from lemmata.optim.communication import ErrorControlState, LowRank, SignNorm, TopK, error_control_hook
from lemmata.optim.communication.feedback import Block, Rule

D = 1_000_000
SIDES = ["lemmata", "plain torch"]

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.benchmark(group="top 1 % of a million entries, compressed and added to a sum")
@pytest.mark.parametrize("side", SIDES)
def bench_top_k(benchmark: Any, side: str) -> None:
    """Exact selection; torch.topk is what the plain side calls."""
    x, total, top = torch.randn(D), torch.zeros(D), TopK(0.01)

    def ours() -> Tensor:
        return top.add_to(total, top.compress(x))

    def plain() -> Tensor:
        chosen = x.abs().topk(D // 100).indices
        return total.index_add_(0, chosen, x[chosen])

    measure(benchmark, {"lemmata": ours, "plain torch": plain}[side], bar=0.6)


@pytest.mark.benchmark(group="signs of a million entries, packed to bits and back")
@pytest.mark.parametrize("side", SIDES)
def bench_sign(benchmark: Any, side: str) -> None:
    """The plain side sends a byte a sign, eight times the traffic, which saves it the packing."""
    x, sign = torch.randn(D), SignNorm()

    def ours() -> Tensor:
        return sign.decompress(sign.compress(x))

    def plain() -> Tensor:
        scale, signs = x.abs().mean(), x.sign().to(torch.int8)
        return signs * scale

    measure(benchmark, {"lemmata": ours, "plain torch": plain}[side], bar=3.0)


@pytest.mark.benchmark(group="one worker's round of error control, top 1 % of a million entries")
@pytest.mark.parametrize("side", SIDES)
def bench_round(benchmark: Any, side: str) -> None:
    """The plain side makes the message dense, as the formula is written."""
    g = torch.randn(D)
    rule, blocks = Rule(TopK(0.01)), [Block(0, D)]
    memory = rule.allocate(g)
    state = {"e": torch.zeros(D), "h": torch.zeros(D)}

    def ours() -> Any:
        return rule.encode(memory, g, blocks)

    def plain() -> Tensor:
        y = 0.005 * state["e"] + g - state["h"]
        chosen = y.abs().topk(D // 100).indices
        message = torch.zeros_like(y).scatter(0, chosen, y[chosen])
        state["e"] = state["e"] + g - state["h"] - message
        state["h"] = state["h"] + message
        return message

    measure(benchmark, {"lemmata": ours, "plain torch": plain}[side], bar=0.6)


@pytest.mark.benchmark(
    group="backward of 4 M parameters with a compressing hook, rank 4 here and in PowerSGD"
)
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("side", ["lemmata", "torch powerSGD_hook"])
def bench_low_rank_hook(benchmark: Any, side: str) -> None:
    """Both keep what they drop; ours keeps a control variate besides."""
    if side == "lemmata":
        step = backward(ErrorControlState(LowRank(4), granularity="tensor"), error_control_hook)
    else:
        options = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=4, start_powerSGD_iter=2)
        step = backward(options, powerSGD_hook.powerSGD_hook)
    measure(benchmark, step, bar=1.5)


@pytest.mark.benchmark(
    group="backward of 4 M parameters with a hook: top 1 % here, all entries in half precision"
)
@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("side", ["lemmata", "torch fp16_compress_hook"])
def bench_top_k_hook(benchmark: Any, side: str) -> None:
    """A cast halves the traffic; the hundredth of the entries takes more time to find."""
    if side == "lemmata":
        step = backward(ErrorControlState(TopK(0.01)), error_control_hook)
    else:
        step = backward(None, default_hooks.fp16_compress_hook)
    measure(benchmark, step, bar=3.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Be alone in a process group."""
    meet = tmp_path_factory.mktemp("world") / "meet"
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def backward(state: Any, hook: Any) -> Callable[[], None]:
    """Return a step of a wrapped network, past the rounds in which nothing is compressed yet."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4)))
    model = DistributedDataParallel(net)
    model.register_comm_hook(state, hook)
    x = torch.randn(8, 1024)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    for _ in range(5):
        step()
    return step


def measure(benchmark: Any, call: Callable[[], Any], bar: float) -> None:
    """Measure a call after three that warm up."""
    benchmark.extra_info.update(bar=bar)
    benchmark.pedantic(call, rounds=25, warmup_rounds=3)
