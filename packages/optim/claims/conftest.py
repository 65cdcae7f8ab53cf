"""A character decoder trained on real text, for the claims of several optimisers.

The model is plain PyTorch. A run is set by its seed: the same seed gives the same initial weights and the
same order of windows to every optimiser.
"""

import math
import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

CONTEXT = 64
BATCH = 16
STEPS = 300
WARMUP = 20
VALIDATION_WINDOWS = 512
PROCESSES = 2

Observe = Callable[[int, nn.Module, Optimizer], Any]


class Block(nn.Module):
    """Causal attention and a two-layer perceptron, each after a norm and added to what it read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, length, width)` to the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class CharacterDecoder(nn.Module):
    """A decoder of 0.35 million parameters, from PyTorch's default weights but for a head of zeros."""

    def __init__(self, vocabulary: int, width: int = 96, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        nn.init.zeros_(self.lm_head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map characters `(batch, length)` to logits `(batch, length, vocabulary)`."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits: Tensor = self.lm_head(self.norm(self.blocks(x)))
        return logits


@dataclass
class Run:
    """What one training run found.

    Attributes:
        steps: The checkpoints: how many steps had been taken.
        validation_losses: Mean cross-entropy in nats a character at each, on the same held-out windows;
            infinity from where the loss of a batch was not finite, which ends the run.
        training_losses: Loss of each step's batch.
        gradient_norms: Norm of each step's gradient before clipping.
        observed: What `observe` returned at each checkpoint.
        seconds: Time spent in training steps, validation aside, on one thread.
        optimizer_seconds: That part of it spent in the optimiser's step.
        state_bytes: Size of the optimiser's tensors after the last step.
        model: The trained decoder.
    """

    steps: list[int]
    validation_losses: list[float] = field(default_factory=list)
    training_losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    observed: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    optimizer_seconds: float = 0.0
    state_bytes: int = 0
    model: nn.Module | None = None

    def loss_at(self, step: int) -> float:
        """Return the validation loss at a checkpoint."""
        return self.validation_losses[self.steps.index(step)]

    def steps_to(self, loss: float) -> float:
        """Return the first checkpoint with at most this validation loss, infinity where none has."""
        reached = (
            step for step, found in zip(self.steps, self.validation_losses, strict=True) if found <= loss
        )
        return next(reached, math.inf)


class Text:
    """A text as characters: the first 90 % to train on, windows of the rest to validate on."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        index = {character: number for number, character in enumerate(sorted(set(text)))}
        characters = torch.tensor([index[character] for character in text])
        split = int(0.9 * len(characters))
        self.vocabulary = len(index)
        self.training, held_out = characters[:split], characters[split:]
        starts = torch.linspace(0, len(held_out) - CONTEXT - 1, VALIDATION_WINDOWS).long()
        self.validation = windows(held_out, starts)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, both `(BATCH, CONTEXT)`."""
        starts = torch.randint(len(self.training) - CONTEXT, (BATCH,), generator=generator)
        return windows(self.training, starts)


def windows(characters: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the characters after each start, and those one further."""
    places = starts[:, None] + torch.arange(CONTEXT)
    return characters[places], characters[places + 1]


class DecoderRuns:
    """Trains the decoder; within a session a run is made once for each key.

    Calling it makes one run, `run_many` several in two processes of one thread each.
    """

    def __init__(self, text: Text, made: dict[Hashable, Run]) -> None:
        self.text = text
        self.made = made

    def __call__(self, make_optimizer: Callable[[nn.Module], Optimizer], **options: Any) -> Run:
        """Train once; see `train` for the options, `run_many` for `key`."""
        [run] = self.run_many([{"make_optimizer": make_optimizer, **options}])
        return run

    def run_many(self, specs: Iterable[Mapping[str, Any]]) -> list[Run]:
        """Train once for each of several sets of options, two at a time.

        Args:
            specs: For each run the options of `train`, and optionally `key`: what tells `make_optimizer`
                apart from others, such as `("muon", 0.02)`. A run with a key is made once in a session.

        Returns:
            The runs in the same order.
        """
        specs = [dict(spec) for spec in specs]
        names = [memo_key(spec) for spec in specs]
        missing: dict[Hashable, Callable[[], Run]] = {}
        for name, spec in zip(names, specs, strict=True):
            if name not in self.made:
                missing.setdefault(name, partial(train, self.text, **spec))
        self.made |= dict(zip(missing, in_processes(list(missing.values())), strict=True))
        found = [self.made[name] for name in names]
        for name in names:
            if isinstance(name, Anonymous):
                del self.made[name]
        return found

    def tune(
        self,
        name: str,
        make_optimizer: Callable[[float], Callable[[nn.Module], Optimizer]],
        rates: Sequence[float],
        *,
        seeds: Sequence[int],
        extensions: int = 2,
        **options: Any,
    ) -> tuple[float, dict[float, list[Run]]]:
        """Choose a learning rate by the mean of the last validation loss over seeds.

        Where the best is the smallest or the largest of the grid, the grid goes on there by a factor of 2.

        Args:
            name: Tells the optimiser apart from others: the runs' keys are `(name, rate)`.
            make_optimizer: Returns what makes the optimiser at a learning rate.
            rates: The grid, rising.
            seeds: Seeds of the runs.
            extensions: How many rates may be added.
            options: For `train`.

        Returns:
            The best rate, and for each rate of the grid its runs, one a seed.
        """
        found: dict[float, list[Run]] = {}
        waiting = list(rates)
        while waiting:
            specs = [
                {"make_optimizer": make_optimizer(rate), "key": (name, rate), "seed": seed, **options}
                for rate in waiting
                for seed in seeds
            ]
            runs = iter(self.run_many(specs))
            found |= {rate: [next(runs) for _ in seeds] for rate in waiting}
            best = min(found, key=lambda rate: sum(run.validation_losses[-1] for run in found[rate]))
            waiting = []
            if len(found) < len(rates) + extensions:
                waiting = {min(found): [best / 2], max(found): [best * 2]}.get(best, [])
        return best, dict(sorted(found.items()))


class Anonymous:
    """Stands for a run without a key, which nothing else is equal to."""


def memo_key(spec: dict[str, Any]) -> Hashable:
    """Take the key out of a run's options, and return it with the options that set the run apart."""
    key = spec.pop("key", None)
    if key is None:
        return Anonymous()
    options = {name: value for name, value in spec.items() if name != "make_optimizer"}
    return key, tuple(
        (name, tuple(value) if isinstance(value, Sequence) else value)
        for name, value in sorted(options.items())
    )


def train(
    text: Text,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = STEPS,
    seed: int = 0,
    checkpoints: Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
    observe: Observe | None = None,
) -> Run:
    """Train the decoder, the gradient clipped to norm 1.

    Args:
        text: The characters.
        make_optimizer: Returns the optimiser of a model, with learning rates at their largest.
        steps: How many steps to take.
        seed: Sets the initial weights and the order of the windows.
        checkpoints: After which steps to validate; every 50 by default.
        multipliers: Of the learning rates, one a step; by default they rise over 20 steps, then fall to
            zero linearly.
        observe: Called at each checkpoint with the step, the model and the optimiser; what it returns is
            kept. It must not change them.

    Returns:
        The run.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = CharacterDecoder(text.vocabulary)
    optimizer = make_optimizer(model)
    factors = list(multipliers if multipliers is not None else warmup_and_linear_decay(steps))
    if len(factors) != steps:
        raise ValueError(f"`multipliers` has {len(factors)} values for {steps} steps")
    scheduler = LambdaLR(optimizer, [*factors, 0.0].__getitem__)
    run = Run(steps=list(checkpoints if checkpoints is not None else range(50, steps + 1, 50)))
    for step in range(1, steps + 1):
        started = time.perf_counter()
        inputs, targets = text.batch(generator)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        if not loss.isfinite():
            run.validation_losses += [math.inf] * (len(run.steps) - len(run.validation_losses))
            break
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = time.perf_counter()
        optimizer.step()
        run.optimizer_seconds += time.perf_counter() - before
        scheduler.step()
        run.training_losses.append(loss.item())
        run.gradient_norms.append(norm.item())
        run.seconds += time.perf_counter() - started
        if step in run.steps:
            run.validation_losses.append(validate(model, text))
            if observe is not None:
                run.observed.append(observe(step, model, optimizer))
    run.state_bytes = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )
    run.model = model
    return run


def warmup_and_linear_decay(steps: int) -> list[float]:
    """Return the multipliers of a linear rise over `WARMUP` steps and a linear fall that ends at zero."""
    return [min((step + 1) / WARMUP, (steps - step) / (steps - WARMUP)) for step in range(steps)]


@torch.no_grad()
def validate(model: nn.Module, text: Text) -> float:
    """Return the mean loss on the held-out windows."""
    inputs, targets = text.validation
    losses = [
        F.cross_entropy(model(part).flatten(0, 1), target.flatten())
        for part, target in zip(inputs.split(64), targets.split(64), strict=True)
    ]
    return torch.stack(losses).mean().item()


def in_processes(works: Sequence[Callable[[], Run]]) -> list[Run]:
    """Do independent work in forked processes of one thread each, two at a time.

    A fork needs no pickling of what makes an optimiser. Where an accelerator is present, which a fork may
    not share, the work is done here.
    """
    if len(works) < 2 or torch.accelerator.is_available():
        return [on_one_thread(work) for work in works]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.pt") for number in range(len(works))]
        waiting = list(zip(works, paths, strict=True))
        active: list[BaseProcess] = []
        while waiting or active:
            while waiting and len(active) < PROCESSES:
                active.append(start(*waiting.pop(0)))
            multiprocessing.connection.wait([process.sentinel for process in active])
            active = [process for process in active if process.is_alive()]
        return [result(path) for path in paths]


def start(work: Callable[[], Run], path: Path) -> BaseProcess:
    """Start work in a forked process that leaves its result, or what went wrong, in a file."""
    process = multiprocessing.get_context("fork").Process(target=leave_result, args=(work, path))
    with warnings.catch_warnings():
        # Python warns of forks beside threads from 3.12 on; the child uses none of the parent's.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def leave_result(work: Callable[[], Run], path: Path) -> None:
    """Do the work and save what it returns, or the traceback."""
    try:
        found: dict[str, Any] = {"run": on_one_thread(work)}
    except BaseException:  # noqa: BLE001 - whatever it is, the parent raises it
        found = {"error": traceback.format_exc()}
    torch.save(found, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def result(path: Path) -> Run:
    """Read a process's result; raise where it failed."""
    if not path.exists():
        raise RuntimeError("a training process ended without a result")
    found = torch.load(path, weights_only=False)
    if "error" in found:
        raise RuntimeError(f"a training process failed:\n{found['error']}")
    run: Run = found["run"]
    return run


def on_one_thread(work: Callable[[], Run]) -> Run:
    """Do the work on one thread: on models this small a second one costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _runs_made() -> dict[Hashable, Run]:
    """Keep the runs of a session."""
    return {}


@pytest.fixture
def decoder_runs(real_data: Any, _runs_made: dict[Hashable, Run]) -> DecoderRuns:
    """Return what trains a character decoder on tinyshakespeare, on 90 % of it."""
    return DecoderRuns(Text(real_data("tinyshakespeare/input.txt")), _runs_made)
