"""The communication hook in two processes: this file, run as a script, is one of them.

Every scenario runs in the same pair of processes, and what each rank found is compared here.
"""

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lemmata.optim.communication import (
    Compressor,
    ErrorControlState,
    LowRank,
    Quantize,
    RandK,
    SignNorm,
    TopK,
    error_control_hook,
    simulate,
)

WORLD = 2
STEPS = 12
LR = 0.05


# --- What the processes run -------------------------------------------------------------------------------


class Net(nn.Module):
    """Layers of several sizes, one of which the first rank may leave out; a parameter without entries."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 20)
        self.middle = nn.Linear(20, 20)
        self.last = nn.Linear(20, 3)
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.double()

    def forward(self, x: Tensor, *, skip_middle: bool = False) -> Tensor:
        hidden = self.first(x).tanh()
        if not skip_middle:
            hidden = self.middle(hidden).tanh()
        return self.last(hidden) + self.empty.sum()


def wrapped(**options: Any) -> DistributedDataParallel:
    torch.manual_seed(0)
    dtype = options.pop("dtype", torch.float64)
    return DistributedDataParallel(Net().to(dtype), bucket_cap_mb=0.002, **options)


def batch(rank: int, step: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Data that differ between ranks."""
    generator = torch.Generator().manual_seed(1000 * rank + step % 3)
    x = torch.randn(16, 6, generator=generator, dtype=torch.float64) + rank
    return x.to(dtype), (x[:, :3] * (2 * rank - 1)).to(dtype)


def train(
    model: DistributedDataParallel,
    rank: int,
    steps: range = range(STEPS),
    *,
    after: Callable[[int], None] = lambda step: None,
    loss: Callable[..., Tensor] | None = None,
    poison: Callable[[int], bool] = lambda step: False,
) -> list[Tensor]:
    """Train by plain gradient descent; return the gradients of each step, flat."""
    params = [param for param in model.parameters() if param.numel()]
    seen = []
    for step in steps:
        model.zero_grad()
        x, y = batch(rank, step, params[0].dtype)
        value = (model(x) - y).square().mean() if loss is None else loss(model, x, y, step)
        (value * torch.nan if poison(step) else value).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        seen.append(torch.cat([grad.flatten() for grad in grads]).clone())
        with torch.no_grad():
            for param, grad in zip(params, grads, strict=True):
                param.sub_(grad, alpha=LR)
        after(step)
    return seen


def hooked(
    compressor: Compressor, *, ddp: dict[str, Any] | None = None, **options: Any
) -> tuple[DistributedDataParallel, ErrorControlState]:
    model = wrapped(**(ddp or {}))
    state = ErrorControlState(compressor, model=model, **options)
    model.register_comm_hook(state, error_control_hook)
    return model, state


def random_k(seed: int = 7) -> RandK:
    return RandK(0.1, torch.Generator().manual_seed(seed), shared=True)


COMPRESSORS: dict[str, Callable[[int], Compressor]] = {
    "top": lambda rank: TopK(0.1),
    "random, own": lambda rank: RandK(0.1, torch.Generator().manual_seed(rank)),
    "random, shared": lambda rank: random_k(),
    "sign": lambda rank: SignNorm(),
    "rank 1": lambda rank: LowRank(1, generator=torch.Generator().manual_seed(rank)),
    "rank 1, warm": lambda rank: LowRank(1, warm_start=True, generator=torch.Generator().manual_seed(rank)),
    "4 bits": lambda rank: Quantize(4, block=64),
}


def all_compressors(rank: int) -> dict[str, Any]:
    found = {}
    for name, make in COMPRESSORS.items():
        for granularity in ("bucket", "tensor"):
            model, state = hooked(make(rank), granularity=granularity)
            found[name, granularity] = {
                "gradients": train(model, rank),
                "memory": state.state_dict()["memory"],
                "bytes": (state.step_bytes, state.total_bytes, state.uncompressed_bytes, state.step),
            }
    return found


def methods(rank: int) -> dict[str, Any]:
    found = {}
    for method in ("econtrol", "ef21", "ec", "none"):
        for init in ("exact", "compressed"):
            model, state = hooked(
                TopK(0.1),
                method=method,
                init=init,
                start_step=1 if init == "exact" and method in {"econtrol", "ef21"} else 0,
                momentum=0.5 if method == "ef21" else 0.0,
                ddp={"static_graph": True},
            )
            state.granularity = "tensor"  # what the simulation's one block is compared with
            found[method, init] = train(model, rank)
    return found


def identity(rank: int) -> dict[str, Any]:
    plain = wrapped()
    found = {"plain": train(plain, rank)}
    for method in ("econtrol", "ef21", "ec", "none"):
        model, _ = hooked(TopK(1.0), method=method)
        found[method] = train(model, rank)
    return found


def graphs(rank: int) -> dict[str, Any]:
    """DDP's options that change when and how buckets are made."""
    found = {}
    for name, ddp in {
        "rebuilt": {},
        "static": {"static_graph": True},
        "views": {"gradient_as_bucket_view": True},
        "unused": {"find_unused_parameters": True},
    }.items():
        model, state = hooked(TopK(0.1), ddp=ddp, start_step=0, init="compressed", granularity="tensor")
        orders: list[list[str]] = []

        def note(step: int, state: ErrorControlState = state, orders: list[list[str]] = orders) -> None:
            orders.append([state._name(p) for slab in state._slabs() for p in slab.params])

        found[name] = {"gradients": train(model, rank, after=note), "orders": orders}
    model, state = hooked(TopK(0.1), ddp={"find_unused_parameters": True})

    def loss(model: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        return (model(x, skip_middle=step % 2 == 0) - y).square().mean()

    found["sometimes unused"] = {"gradients": train(model, rank, loss=loss)}
    return found


def accumulation(rank: int) -> dict[str, Any]:
    model, state = hooked(TopK(0.1))

    def loss(model: DistributedDataParallel, x: Tensor, y: Tensor, step: int) -> Tensor:
        with model.no_sync():
            for piece in range(3):
                ((model(x[piece::4]) - y[piece::4]).square().mean() / 4).backward()
        return (model(x[3::4]) - y[3::4]).square().mean() / 4

    found = {"pieces": train(model, rank, loss=loss), "rounds": state.step}
    model, state = hooked(TopK(0.1))
    found["whole"] = train(model, rank)
    return found


def resumption(rank: int) -> dict[str, Any]:
    found = {}
    for name in ("top", "random, shared", "rank 1, warm"):
        # Without static buckets a random compressor draws in another order in the first resumed round.
        ddp = {} if name == "top" else {"find_unused_parameters": True}
        model, state = hooked(COMPRESSORS[name](rank), granularity="tensor", momentum=0.3, ddp=ddp)
        saved: dict[str, Any] = {}

        def save(
            step: int,
            model: nn.Module = model,
            state: ErrorControlState = state,
            saved: dict[str, Any] = saved,
        ) -> None:
            if step == 6:
                # As from a file: what training does later must not reach it.
                saved["model"] = pickle.loads(pickle.dumps(model.state_dict()))
                saved["state"] = pickle.loads(pickle.dumps(state.state_dict()))

        whole = train(model, rank, after=save)
        again, other = hooked(COMPRESSORS[name](rank + 5), granularity="tensor", momentum=0.3, ddp=ddp)
        again.load_state_dict(saved["model"])
        other.load_state_dict(saved["state"])
        before_use = other.state_dict()
        rest = train(again, rank, range(7, STEPS))
        found[name] = {
            "whole": whole[7:],
            "rest": rest,
            "saved": saved["state"],
            "before use": before_use,
            "totals": (state.total_bytes, other.total_bytes, state.step, other.step),
        }
    return found


def nonfinite(rank: int) -> dict[str, Any]:
    found = {}
    for policy in ("skip", "propagate"):
        for bad_step in (0, 1, 5):
            model, state = hooked(TopK(0.1), nonfinite=policy)
            params = [param for param in model.parameters() if param.numel()]
            before = [param.detach().clone() for param in params]
            steps = range(STEPS) if policy == "skip" else range(bad_step + 1)
            gradients = train(model, rank, steps, poison=lambda step, bad=bad_step: step == bad and rank == 1)
            found[policy, bad_step] = {
                "gradients": gradients,
                "memory": state.state_dict()["memory"],
                "skipped": state.skipped,
                "before": before,
            }
    return found


def half(rank: int) -> dict[str, Any]:
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model, state = hooked(TopK(0.2), ddp={"dtype": dtype})
        gradients = train(model, rank)
        memory = state.state_dict()["memory"]
        found[str(dtype)] = {
            "gradients": gradients,
            "dtypes": {part.dtype for parts in memory.values() for part in parts.values()},
        }
    return found


def errors(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def message(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except (RuntimeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"

    model, state = hooked(TopK(0.1))
    train(model, rank, range(3))
    saved = state.state_dict()
    state.process_group = dist.new_group([0, 1])
    message("two groups", lambda: train(model, rank, range(1)))

    message("other world", lambda: state.load_state_dict(saved | {"world_size": 4}))
    message("other rank", lambda: state.load_state_dict(saved | {"rank": 1 - rank}))
    message("other method", lambda: state.load_state_dict(saved | {"method": "ec"}))
    extra = saved["memory"] | {"ghost": {}}
    message("other model", lambda: state.load_state_dict(saved | {"memory": extra}))
    message("no names", lambda: ErrorControlState(TopK(0.1)).state_dict())

    _, shared = hooked(TopK(0.1))
    second = wrapped()
    second.register_comm_hook(shared, error_control_hook)
    message("two models", lambda: train(second, rank, range(1)))

    model, _ = hooked(RandK(0.1, unbiased=True))
    message("no contraction", lambda: train(model, rank, range(1)))

    nameless = wrapped()
    nameless.register_comm_hook(ErrorControlState(TopK(0.1)), error_control_hook)
    named, _ = hooked(TopK(0.1))
    found["nameless"] = train(nameless, rank), train(named, rank)

    model, state = hooked(TopK(0.1))
    once = train(model, rank)
    state.reset()
    with torch.no_grad():
        for param, start in zip(model.parameters(), wrapped().parameters(), strict=True):
            param.copy_(start)
    found["reset"] = once, train(model, rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = hooked(TopK(0.1), eta=0.5)
        train(model, rank, range(3))
    found["warning"] = [str(warning.message) for warning in caught if "eta" in str(warning.message)]
    return found


SCENARIOS = {
    "all_compressors": all_compressors,
    "methods": methods,
    "identity": identity,
    "graphs": graphs,
    "accumulation": accumulation,
    "resumption": resumption,
    "nonfinite": nonfinite,
    "half": half,
    "errors": errors,
}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=WORLD)
    found = {name: scenario(rank) for name, scenario in SCENARIOS.items()}
    (folder / f"found_{rank}").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


# --- What is expected of them -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text
    return [pickle.loads((folder / f"found_{rank}").read_bytes()) for rank in range(WORLD)]


def everywhere(found: list[dict[str, Any]], scenario: str) -> list[Any]:
    return [of_rank[scenario] for of_rank in found]


@pytest.mark.parametrize("granularity", ["bucket", "tensor"])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_all_workers_get_the_same_gradients_to_the_bit(found, name, granularity) -> None:
    mine, yours = (of_rank[name, granularity] for of_rank in everywhere(found, "all_compressors"))
    for a, b in zip(mine["gradients"], yours["gradients"], strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
        assert a.abs().max() > 0


@pytest.mark.parametrize("granularity", ["bucket", "tensor"])
@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_workers_use_is_the_mean_of_their_control_variates(found, name, granularity) -> None:
    mine, yours = (of_rank[name, granularity]["memory"] for of_rank in everywhere(found, "all_compressors"))
    assert set(mine) == {name for name, _ in Net().named_parameters()}
    for key in mine:
        assert torch.equal(mine[key]["mean"], yours[key]["mean"])
        mean = (mine[key]["control"] + yours[key]["control"]) / 2
        torch.testing.assert_close(mine[key]["mean"], mean, rtol=0, atol=1e-12)


def test_bytes_are_those_of_messages_and_a_mark_a_bucket(found) -> None:
    sizes = [param.numel() for param in Net().parameters() if param.numel()]
    total = sum(sizes)
    for granularity in ("bucket", "tensor"):
        for name, make in COMPRESSORS.items():
            step, all_steps, uncompressed, rounds = found[0]["all_compressors"][name, granularity]["bytes"]
            assert rounds == STEPS
            assert uncompressed == STEPS * total * 8
            exact = all_steps - (STEPS - 2) * step
            assert total * 8 * 2 < exact <= total * 8 * 2 + 2 * 8 * len(sizes)
            if granularity == "tensor":
                compressor = make(0)
                shapes = [param.shape for param in Net().parameters() if param.numel()]
                least = sum(
                    compressor.bytes(
                        compressor.compress_tensor(torch.randn(s.numel()).double(), shape=tuple(s))
                    )
                    for s in shapes
                )
                assert least < step <= least + 8 * len(sizes)


@pytest.mark.parametrize("init", ["exact", "compressed"])
@pytest.mark.parametrize("method", ["econtrol", "ef21", "ec", "none"])
def test_two_ranks_match_the_simulation(found, method, init) -> None:
    """Parameter by parameter, from the gradients that the ranks had along the way."""
    gradients = torch.stack(found[0]["methods"][method, init])
    sizes = [param.numel() for param in Net().parameters() if param.numel()]
    position = 0
    locals_ = [local_gradients(gradients, rank) for rank in range(WORLD)]
    for size in sizes:
        span = slice(position, position + size)
        position += size

        def rows(x: Tensor, span: slice = span) -> Tensor:
            nonlocal step
            step += 1
            return torch.stack([locals_[rank][min(step, STEPS - 1)][span] for rank in range(WORLD)])

        simulated = []  # iterates, which move by the estimate where the step size is one
        x0 = torch.zeros(size, dtype=torch.float64)
        for steps in (STEPS - 1, STEPS):
            step = -1
            simulated.append(
                simulate(
                    rows,
                    x0,
                    compressor=TopK(0.1),
                    method=method,
                    lr=1.0,
                    steps=steps,
                    init=init if method in {"econtrol", "ef21"} else "exact",
                    momentum=0.5 if method == "ef21" else 0.0,
                ).x
            )
        estimate = simulated[0] - simulated[1]
        torch.testing.assert_close(gradients[-1][span], estimate, rtol=0, atol=1e-6)


def local_gradients(used: Tensor, rank: int) -> list[Tensor]:
    """Return the gradients that a rank had before communication, by repeating its steps."""
    torch.manual_seed(0)
    net = Net()
    params = [param for param in net.parameters() if param.numel()]
    found = []
    for step, flat in enumerate(used):
        net.zero_grad()
        x, y = batch(rank, step)
        (net(x) - y).square().mean().backward()
        found.append(torch.cat([param.grad.flatten() for param in params]))
        with torch.no_grad():
            for param, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
                param.sub_(part.view(param.shape), alpha=LR)
    return found


@pytest.mark.parametrize("method", ["econtrol", "ef21", "ec", "none"])
def test_without_compression_it_is_ddp(found, method) -> None:
    for plain, ours in zip(found[0]["identity"]["plain"], found[0]["identity"][method], strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-13)


def test_buckets_are_rebuilt_without_a_trace(found) -> None:
    """Compressed from the first round, tensor by tensor: the order of buckets cannot matter."""
    for of_rank in everywhere(found, "graphs"):
        orders = of_rank["rebuilt"]["orders"]
        assert orders[0] != orders[-1], "DDP did not rebuild its buckets: the test tests nothing"
        assert all(len(order) == len(set(order)) for order in orders)
        for name in ("static", "views", "unused"):
            for a, b in zip(of_rank["rebuilt"]["gradients"], of_rank[name]["gradients"], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_parameters_that_are_sometimes_unused(found) -> None:
    mine, yours = (of_rank["sometimes unused"]["gradients"] for of_rank in everywhere(found, "graphs"))
    for a, b in zip(mine, yours, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


def test_accumulated_gradients_are_compressed_once(found) -> None:
    for of_rank in everywhere(found, "accumulation"):
        assert of_rank["rounds"] == STEPS
        for pieces, whole in zip(of_rank["pieces"], of_rank["whole"], strict=True):
            torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["top", "random, shared", "rank 1, warm"])
def test_resumed_training_is_uninterrupted_training_to_the_bit(found, name) -> None:
    for of_rank in everywhere(found, "resumption"):
        for a, b in zip(of_rank[name]["whole"], of_rank[name]["rest"], strict=True):
            assert torch.equal(a, b)
        whole_bytes, rest_bytes, whole_steps, rest_steps = of_rank[name]["totals"]
        assert whole_steps == rest_steps
        assert abs(whole_bytes - rest_bytes) <= 8 * len(list(Net().parameters()))  # fillings of buckets
        saved, again = of_rank[name]["saved"], of_rank[name]["before use"]
        assert saved["memory"].keys() == again["memory"].keys()
        for key, parts in saved["memory"].items():
            assert all(torch.equal(part, again["memory"][key][which]) for which, part in parts.items())


@pytest.mark.parametrize("bad_step", [0, 1, 5])
def test_a_gradient_that_is_not_finite_poisons_nothing(found, bad_step) -> None:
    mine, yours = (of_rank["skip", bad_step] for of_rank in everywhere(found, "nonfinite"))
    assert mine["skipped"] == yours["skipped"] > 0
    for a, b in zip(mine["gradients"], yours["gradients"], strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
    for of_rank in (mine, yours):
        assert all(part.isfinite().all() for parts in of_rank["memory"].values() for part in parts.values())


@pytest.mark.parametrize("bad_step", [0, 1, 5])
def test_a_gradient_that_is_not_finite_is_shown_on_request(found, bad_step) -> None:
    for of_rank in everywhere(found, "nonfinite"):
        last = of_rank["propagate", bad_step]
        assert last["gradients"][-1].isnan().all()
        assert all(gradient.isfinite().all() for gradient in last["gradients"][:-1])
        assert all(part.isfinite().all() for parts in last["memory"].values() for part in parts.values())


def test_memory_is_in_float32_for_half_precision(found) -> None:
    for of_rank in everywhere(found, "half"):
        exact = of_rank["torch.float32"]["gradients"]
        for dtype, tolerance in (("torch.bfloat16", 0.05), ("torch.float16", 0.01)):
            assert of_rank[dtype]["dtypes"] == {torch.float32}
            assert all(gradient.isfinite().all() for gradient in of_rank[dtype]["gradients"])
            for a, b in zip(of_rank[dtype]["gradients"][:2], exact[:2], strict=True):
                assert (a.float() - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two groups", "used with two process groups"),
        ("other world", "saved with world_size=4, here it is 2.*one worker among so many.*reset"),
        ("other rank", "saved with rank="),
        ("other method", "saved with method='ec', here it is 'econtrol'"),
        ("other model", "parameters that `model` lacks: ghost"),
        ("no names", "pass `model`"),
        ("two models", "not one of `model`'s; make one ErrorControlState a model"),
        ("no contraction", "does not contract"),
    ],
)
def test_errors(found, name, expected) -> None:
    import re

    for of_rank in everywhere(found, "errors"):
        assert re.search(expected, of_rank[name]), of_rank[name]


def test_a_state_without_names_trains_all_the_same(found) -> None:
    for nameless, named in (of_rank["nameless"] for of_rank in everywhere(found, "errors")):
        assert all(torch.equal(a, b) for a, b in zip(nameless, named, strict=True))


def test_reset_starts_afresh(found) -> None:
    for once, again in (of_rank["reset"] for of_rank in everywhere(found, "errors")):
        # The buckets of the first iteration are not made again: from there on it is the same training.
        for a, b in zip(once, again, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_a_large_eta_is_warned_about(found) -> None:
    for of_rank in everywhere(found, "errors"):
        assert any("`eta` (=0.5) is more than twice delta (=0.1" in text for text in of_rank["warning"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": -1.0}, r"`eta` \(=-1\) must lie in \[0, 1\]"),
        ({"eta": 1.5}, r"`eta` \(=1.5\) must lie in \[0, 1\]"),
        ({"momentum": 1.0}, r"`momentum` \(=1\) must lie in \[0, 1\)"),
        ({"start_step": -1}, r"`start_step` \(=-1\) must be at least 0"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ErrorControlState(TopK(0.1), **options)


@pytest.mark.parametrize("option", ["method", "init", "granularity", "nonfinite"])
def test_unknown_choices(unchecked, option) -> None:
    with pytest.raises(ValueError, match=rf"`{option}` \(='other'\) must be one of"):
        ErrorControlState(TopK(0.1), **{option: "other"})


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
