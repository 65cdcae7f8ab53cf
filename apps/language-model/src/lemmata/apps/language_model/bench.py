"""Measure what the parts cost, as ratios: optimisers' steps and state, latent attention's cache, experts."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lemmata.apps.kit.tables import Table
    from lemmata.apps.language_model.model import Decoder, DecoderConfig
    from lemmata.apps.language_model.scoring import Cost
else:
    # Annotations are resolved when a function is first called, so that this module imports nothing heavy.
    Table = "lemmata.apps.kit.tables.Table"
    Decoder = "lemmata.apps.language_model.model.Decoder"
    DecoderConfig = "lemmata.apps.language_model.model.DecoderConfig"
    Cost = "lemmata.apps.language_model.scoring.Cost"

__all__ = ["attention_costs", "bench", "optimizer_costs"]

RESULTS = "bench.json"


def bench(
    *,
    out: Path = Path("runs/bench"),
    optimizers: list[str] | str | None = None,
    baseline: str = "adamw",
    model: dict[str, Any] | None = None,
    batch_size: int = 16,
    repeats: int = 10,
    prompt: int = 16,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Measure optimisers' step times and states, caches, decoding speed, and parameters of experts.

    Both sides of a ratio are measured in turns, in one process, on the same tensors; the ratio is that of the
    medians. Text plays no part: tokens are random.

    Args:
        out: Folder to write.
        optimizers: Optimisers by name, those of `compare` where not given; the baseline is added.
        baseline: The optimiser whose step is 1.
        model: Fields of `DecoderConfig` that take the place of its defaults.
        batch_size: Windows in a training step, and sequences decoded at a time.
        repeats: How often each side is measured.
        prompt: Tokens in the prompt of decoding.
        seed: Seed of weights and tokens.
        force: Replace existing results.

    Returns:
        The folder: bench.json and tables as CSV and Markdown.

    Raises:
        FileExistsError: Where the results exist and `force` is not given.
        ValueError: Where an argument is out of range.
    """
    from lemmata.apps.kit.files import new_output, write_json
    from lemmata.apps.language_model.compare import names_of
    from lemmata.apps.language_model.model import DecoderConfig as Config

    for name, value in (("batch_size", batch_size), ("repeats", repeats), ("prompt", prompt)):
        if value < 1:
            raise ValueError(f"`{name}` (={value}) must be a positive integer")
    config = Config.from_dict({"vocabulary": 96, "context": 256, **(model or {})})
    if prompt >= config.context:
        raise ValueError(f"`prompt` (={prompt}) must be smaller than the context (={config.context})")
    names = names_of(optimizers, baseline)
    if out.exists() and any(out.iterdir()) and not force:
        raise FileExistsError(f"{out} exists already; pass --force to replace it")
    results = {
        "model": config.to_dict(),
        "settings": {"batch_size": batch_size, "repeats": repeats, "prompt": prompt, "seed": seed},
        "baseline": baseline,
        "machine": machine(),
        "optimizers": _optimizer_rows(config, names, batch_size, repeats, seed),
        "attention": attention_costs(
            config, batch_size=batch_size, repeats=max(1, repeats // 2), prompt=prompt, seed=seed
        ),
        "experts": _expert_rows(config, batch_size, repeats, seed),
    }
    tables = _tables(results)
    new_output(out, force=force).mkdir(exist_ok=True)
    for name, table in tables.items():
        table.save(out / name)
        table.print()
    write_json(out / RESULTS, results)
    return out


def optimizer_costs(
    config: "DecoderConfig",
    names: Sequence[str],
    *,
    batch_size: int = 16,
    repeats: int = 10,
    seed: int = 0,
) -> "dict[str, Cost]":
    """Measure optimisers' steps beside the first one's, in turns, in this process.

    Args:
        config: The decoder that is trained.
        names: Optimisers by name; the first is the baseline.
        batch_size: Windows in a step.
        repeats: How often each is measured, after one step that is not.
        seed: Seed of weights and tokens.

    Returns:
        By name: step and update times over the baseline's, as ratios of medians, and bytes of state.
    """
    from lemmata.apps.language_model.scoring import Cost as Costs

    rows = _optimizer_rows(config, names, batch_size, repeats, seed)
    return {row["optimizer"]: Costs(row["step_time"], row["update_time"], row["state_bytes"]) for row in rows}


def attention_costs(
    config: "DecoderConfig", *, batch_size: int = 16, repeats: int = 5, prompt: int = 16, seed: int = 0
) -> list[dict[str, Any]]:
    """Measure what latent attention caches, and how fast it decodes, beside multi-head attention.

    Args:
        config: The decoder; its attention is replaced by either kind, all else is the same.
        batch_size: Sequences decoded at a time, each up to the context.
        repeats: How often each is measured, in turns, after one time that is not.
        prompt: Tokens of each sequence that are there before.
        seed: Seed of weights and tokens.

    Returns:
        One row a kind, multi-head first: `attention`, `cache` and `speed` over multi-head's, and the bare
        `cache_bytes` of a token and `tokens_per_second`.
    """
    decoders = {kind: _decoder(_kind(config, kind), seed) for kind in ("multihead", "latent")}
    tokens = _tokens(config, batch_size, seed)
    seconds = _in_turns(
        {kind: partial(_decode, decoder, tokens, prompt) for kind, decoder in decoders.items()},
        repeats,
    )
    numbers = {kind: decoder.cache_numbers_per_token() for kind, decoder in decoders.items()}
    size = next(decoders["latent"].parameters()).element_size()
    decoded = batch_size * (config.context - prompt)
    return [
        {
            "attention": kind,
            "cache": numbers[kind] / numbers["multihead"],
            "speed": seconds["multihead"] / seconds[kind],
            "cache_bytes": numbers[kind] * size,
            "tokens_per_second": decoded / seconds[kind],
        }
        for kind in decoders
    ]


def machine() -> dict[str, Any]:
    """Return what timings were taken on."""
    import os
    import platform

    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _optimizer_rows(
    config: "DecoderConfig", names: Sequence[str], batch_size: int, repeats: int, seed: int
) -> list[dict[str, Any]]:
    """Return one row an optimiser, the baseline first."""
    from lemmata.apps.language_model.optimizers import build

    steps: dict[str, _Step] = {}
    for name in names:
        model = _decoder(config, seed)
        options = {"fused": True} if name == "adamw" else {}  # as `fit` has it
        steps[name] = _Step(model, build(name, model, **options), _tokens(config, batch_size, seed))
    whole = _in_turns({name: step.run for name, step in steps.items()}, repeats)
    base = names[0]
    return [
        {
            "optimizer": name,
            "step_time": whole[name] / whole[base],
            "update_time": step.update_seconds() / steps[base].update_seconds(),
            "state_bytes": step.state_bytes(),
            "step_seconds": whole[name],
        }
        for name, step in steps.items()
    ]


class _Step:
    """A training step on one batch, which keeps the time that its optimiser took."""

    def __init__(self, model: "Decoder", optimizer: "torch.optim.Optimizer", tokens: "torch.Tensor") -> None:
        self.model, self.optimizer, self.tokens = model, optimizer, tokens
        self.updates: list[float] = []

    def run(self) -> None:
        """Take a step."""
        from torch.nn.functional import cross_entropy

        self.optimizer.zero_grad()
        logits = self.model(self.tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten()) + self.model.auxiliary_loss()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        started = time.perf_counter()
        self.optimizer.step()
        self.updates.append(time.perf_counter() - started)
        self.model.update_balance()

    def update_seconds(self) -> float:
        """Return the median time of the optimiser, its first step, which makes its state, left out."""
        return statistics.median(self.updates[1:])

    def state_bytes(self) -> float:
        """Return the bytes of optimiser state a parameter."""
        import torch

        state = sum(
            value.numel() * value.element_size()
            for values in self.optimizer.state.values()
            for value in values.values()
            if isinstance(value, torch.Tensor)
        )
        return state / sum(parameter.numel() for parameter in self.model.parameters())


def _expert_rows(config: "DecoderConfig", batch_size: int, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Return one row a kind of feed-forward layer, dense first: parameters, time of both passes."""
    tokens = _tokens(config, batch_size, seed)
    decoders = {kind: _decoder(_kind(config, kind), seed) for kind in ("dense", "experts")}
    seconds = _in_turns(
        {kind: partial(_pass, decoder, tokens) for kind, decoder in decoders.items()}, repeats
    )
    rows = []
    for kind, decoder in decoders.items():
        total, active = decoder.parameter_counts()
        dense = decoders["dense"].parameter_counts()
        rows.append(
            {
                "feedforward": kind,
                "total": total / dense[0],
                "active": active / dense[1],
                "time": seconds[kind] / seconds["dense"],
                "total_parameters": total,
                "active_parameters": active,
            }
        )
    return rows


def _kind(config: "DecoderConfig", kind: str) -> "DecoderConfig":
    """Return the same decoder with another attention, or feed-forward layer of as many active parameters."""
    options = config.to_dict()
    if kind in {"latent", "multihead"}:
        options["attention"] = kind
    elif kind != config.feedforward:
        passed = config.active_experts + config.shared_experts
        options["feedforward"] = kind
        if config.hidden is not None:
            options["hidden"] = config.hidden * passed if kind == "dense" else max(1, config.hidden // passed)
    return config.from_dict(options)


def _decoder(config: "DecoderConfig", seed: int) -> "Decoder":
    """Return a decoder with the weights of a seed; torch's own random numbers go on as before."""
    import torch

    from lemmata.apps.language_model.model import Decoder as Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(config)


def _tokens(config: "DecoderConfig", batch_size: int, seed: int) -> "torch.Tensor":
    """Return random windows of tokens, one longer than the context."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocabulary, (batch_size, config.context + 1), generator=generator)


def _pass(model: "Decoder", tokens: "torch.Tensor") -> None:
    """Run forward and backward."""
    model.zero_grad()
    model(tokens[:, :-1]).logsumexp(-1).mean().backward()


def _decode(model: "Decoder", tokens: "torch.Tensor", prompt: int) -> None:
    """Decode token by token up to the context, after a prompt."""
    import torch

    model.eval()
    with torch.inference_mode():
        cache = model.new_cache(len(tokens))
        model.forward_cached(tokens[:, :prompt], cache)
        for place in range(prompt, model.config.context):
            model.forward_cached(tokens[:, place : place + 1], cache)


def _in_turns(calls: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, all of them timed in turns after one call that is not."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _tables(results: Mapping[str, Any]) -> "dict[str, Table]":
    """Return the tables of results by file name: ratios first, bare figures last."""
    from lemmata.apps.kit.tables import Table as Rows

    baseline = results["baseline"]
    optimizers = [
        {
            "optimiser": row["optimizer"],
            "step time": f"{row['step_time']:.2f} x",
            "update time": f"{row['update_time']:.2f} x",
            "state bytes a parameter": round(row["state_bytes"], 2),
            "ms a step": 1e3 * row["step_seconds"],
        }
        for row in results["optimizers"]
    ]
    attention = [
        {
            "attention": row["attention"],
            "cache": f"{row['cache']:.3f} x",
            "tokens/s": f"{row['speed']:.2f} x",
            "cache bytes a token": row["cache_bytes"],
            "bare tokens/s": row["tokens_per_second"],
        }
        for row in results["attention"]
    ]
    experts = [
        {
            "feed-forward": row["feedforward"],
            "parameters": f"{row['total']:.2f} x",
            "active": f"{row['active']:.3f} x",
            "time": f"{row['time']:.2f} x",
            "bare parameters": row["total_parameters"],
            "bare active": row["active_parameters"],
        }
        for row in results["experts"]
    ]
    return {
        "optimizers": Rows.from_records(optimizers, title=f"Training steps, over {baseline}'s"),
        "attention": Rows.from_records(attention, title="Decoding from a cache, over multi-head attention's"),
        "experts": Rows.from_records(experts, title="Forward and backward, over the dense layer's"),
    }
