"""What a run records besides its losses, in files of its own, so that a resumed run goes on with them.

Gradient norms, throughput and the experts' loads are cheap and always recorded; samples of text and the
singular values of updates on request. `metrics.csv` holds nothing that differs between an uninterrupted and a
resumed run; times, which do, are in `throughput.csv`.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from lemmata.apps.kit.files import write_atomically
from lemmata.apps.kit.logs import CsvLogger
from lemmata.apps.language_model.model.experts import MixtureOfExperts

__all__ = [
    "ExpertLoads",
    "GradientNorms",
    "OutsideBox",
    "Samples",
    "SingularValues",
    "StepTable",
    "Throughput",
    "recorders",
]

# Singular values are counted in this many bins between nothing and the largest of their matrix.
BINS = 20


def recorders(*, sample_every: int = 0, singular_values_every: int = 0) -> list[Callback]:
    """Return the callbacks of a run.

    Args:
        sample_every: Steps between two samples of text; 0 for none.
        singular_values_every: Steps between two histograms of the updates' singular values; 0 for none.

    Returns:
        The callbacks.
    """
    callbacks: list[Callback] = [GradientNorms(), Throughput(), ExpertLoads(), OutsideBox()]
    if sample_every:
        callbacks.append(Samples(sample_every))
    if singular_values_every:
        callbacks.append(SingularValues(singular_values_every))
    return callbacks


class StepTable(CsvLogger):
    """A table of a run by step, beside `metrics.csv`, that a resumed run goes on with.

    Args:
        path: The file.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(Path(path).parent)
        self.path = Path(path)


class _Recorder(Callback):
    """Keeps a table in the run's folder: what a resumed run will record again is cut off when it starts."""

    file: str

    def __init__(self) -> None:
        self.table: StepTable | None = None

    def on_train_start(self, trainer: Trainer, _module: LightningModule) -> None:
        """Open the table, up to the step that is done."""
        self.table = StepTable(Path(trainer.default_root_dir) / self.file)
        self.table.rewind(trainer.global_step + 1 if trainer.global_step else 0)

    def on_save_checkpoint(self, *_: Any) -> None:
        """Write the rows held back, so that the table is as complete as the checkpoint."""
        if self.table is not None:
            self.table.save()

    def on_train_end(self, *_: Any) -> None:
        """Write the rows held back."""
        if self.table is not None:
            self.table.save()

    def _add(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Add a row for the step that is done."""
        if self.table is not None:
            self.table.log_metrics(row, trainer.global_step)


class GradientNorms(Callback):
    """Writes `gradient_norms.csv`: the gradient's l1 and l2 norm at every step, before it is clipped.

    `lemmata.optim.refine_schedule` makes a schedule of them. The norms so far are part of every checkpoint.
    """

    def __init__(self) -> None:
        self.recorders: dict[str, Any] = {}
        self._restored: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Attach to the optimiser, after the norms of the run so far."""
        from lemmata.optim.schedules import GradientNormRecorder

        optimizer = _optimizer(trainer)
        self.recorders = {
            "l1": GradientNormRecorder(optimizer, 1, hook=False),
            "l2": GradientNormRecorder(optimizer, 2, hook=False),
        }
        for name, state in self._restored.items():
            self.recorders[name].load_state_dict(state)
        self._restored = {}

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Record the norms."""
        for recorder in self.recorders.values():
            recorder.record()

    def state_dict(self) -> dict[str, Any]:
        """Return the norms so far."""
        return {name: recorder.state_dict() for name, recorder in self.recorders.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the norms so far until the training goes on."""
        self._restored = dict(state_dict)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        """Write the table."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Write the table."""
        self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: Trainer) -> None:
        """Write the table, atomically."""
        if not all(recorder.steps for recorder in self.recorders.values()):
            return
        with warnings.catch_warnings():
            # A run that diverges ends with an error that says so; steps of a loss scaler may be skipped.
            warnings.filterwarnings("ignore", message=r".* gradient norms are missing or not finite")
            try:
                columns = [recorder.norms().tolist() for recorder in self.recorders.values()]
            except RuntimeError:  # none is finite
                return
        rows = "".join(
            f"{step},{','.join(map(repr, row))}\n" for step, row in enumerate(zip(*columns, strict=True))
        )
        with write_atomically(Path(trainer.default_root_dir) / "gradient_norms.csv") as draft:
            draft.write_text(f"step,{','.join(self.recorders)}\n{rows}", encoding="utf-8")


class Throughput(_Recorder):
    """Writes `throughput.csv`: tokens that all processes have trained on, and the seconds that took.

    Validation does not count; the interruption of a resumed run does not either.
    """

    file = "throughput.csv"

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0
        self.seconds = 0.0
        self._since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._since = time.perf_counter()

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._stop()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Start it again."""
        if trainer.training or trainer.validating:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, _outputs: Any, batch: Tensor, _index: int
    ) -> None:
        """Count a batch; add a row where metrics are logged."""
        self.tokens += batch[:, 1:].numel() * trainer.world_size
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]  # set by the logger connector
            self._stop()
            self._since = time.perf_counter()
            rate = self.tokens / max(self.seconds, 1e-9)
            self._add(trainer, {"tokens": self.tokens, "seconds": self.seconds, "tokens_per_second": rate})
            pl_module.log("tokens_per_second", rate, prog_bar=True, logger=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from counts."""
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]

    def _stop(self) -> None:
        """Add the time since the clock was started."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None


class ExpertLoads(_Recorder):
    """Writes `expert_loads.csv`: the fraction of tokens that each expert got since the validation before."""

    file = "expert_loads.csv"

    def __init__(self) -> None:
        super().__init__()
        self._mixtures: dict[str, MixtureOfExperts] = {}
        self._restored: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the mixtures of experts, and give them the counts of the run so far."""
        super().on_train_start(trainer, pl_module)
        modules = pl_module.get_submodule("decoder").named_modules()
        self._mixtures = {name: module for name, module in modules if isinstance(module, MixtureOfExperts)}
        for name, loads in self._restored.items():
            self._mixtures[name].loads = loads
        self._restored = {}

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Add a row, and count anew."""
        if not self._mixtures or trainer.sanity_checking:
            return
        row: dict[str, float] = {}
        for name, mixture in self._mixtures.items():
            fractions = mixture.loads / mixture.loads.sum().clamp(min=1)
            row |= {f"{name}.{expert}": fraction for expert, fraction in enumerate(fractions.tolist())}
            mixture.loads = torch.zeros_like(mixture.loads)
        self._add(trainer, row)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts since the last row."""
        return {name: mixture.loads.cpu() for name, mixture in self._mixtures.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the counts until the training goes on."""
        self._restored = dict(state_dict)


class OutsideBox(Callback):
    """Logs `outside_box`: the fraction of decayed weights beyond 1 / weight decay, which Lion keeps in."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the fraction beside the validation loss."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        if pl_module.hparams.get("optimizer") != "lion":
            return
        outside, every = 0, 0
        for group in _optimizer(trainer).param_groups:
            decay = float(group["weight_decay"])
            if decay > 0:
                outside += sum(int((param.detach().abs() > 1 / decay).sum()) for param in group["params"])
                every += sum(param.numel() for param in group["params"])
        if every:
            pl_module.log("outside_box", outside / every)


class Samples(Callback):
    """Writes a sample of text every n steps, `samples/000100.txt` after step 100, on a generator of its own.

    Args:
        every: Steps between two samples.
        tokens: Length of a sample.

    Raises:
        ValueError: Where a number is not positive.
    """

    def __init__(self, every: int, tokens: int = 256) -> None:
        for option, value in (("every", every), ("tokens", tokens)):
            if value < 1:
                raise ValueError(f"`{option}` (={value}) must be a positive integer")
        self.every = every
        self.tokens = tokens

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Sample where a step has ended that is a multiple of n."""
        from lemmata.apps.language_model.model.generation import generate

        step = trainer.global_step
        if step % self.every or not step:
            return
        tokenizer: Any = pl_module.tokenizer
        decoder: Any = pl_module.get_submodule("decoder")
        generator = torch.Generator(pl_module.device).manual_seed(step)
        prompt = torch.as_tensor(tokenizer.encode("\n").astype("int64"), device=pl_module.device)[None, :]
        text = generate(decoder, prompt, self.tokens, generator=generator)[0, prompt.shape[1] :]
        with write_atomically(Path(trainer.default_root_dir) / "samples" / f"{step:06d}.txt") as draft:
            draft.write_text(tokenizer.decode(text.cpu().numpy()) + "\n", encoding="utf-8")


class SingularValues(_Recorder):
    """Writes `singular_values.csv`: a histogram of the singular values of each matrix's update every n steps.

    A row counts the singular values of all matrices of one parameter by their ratio to the largest of their
    matrix, in bins of equal width from 0 to 1. A method that makes updates orthogonal fills the last bins.

    Args:
        every: Steps between two histograms.

    Raises:
        ValueError: Where `every` is not positive.
    """

    file = "singular_values.csv"

    def __init__(self, every: int) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` (={every}) must be a positive integer")
        self.every = every
        self._before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Keep the weights before a step that will be looked at."""
        if (trainer.global_step + 1) % self.every == 0 and not self._before:
            self._before = {name: p.detach().clone() for name, p in _matrices(pl_module)}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Count the singular values of what the step added."""
        if trainer.global_step % self.every or not self._before:
            return
        counts: dict[str, Any] = {}
        for name, param in _matrices(pl_module):
            histogram = update_spectrum(self._before[name], param.detach())
            counts |= {f"{name}.{place:02d}": int(count) for place, count in enumerate(histogram)}
        self._before = {}
        self._add(trainer, counts)


def update_spectrum(before: Tensor, after: Tensor) -> Float[Tensor, " bins"]:
    """Count the singular values of an update by their ratio to the largest of their matrix.

    Args:
        before: Weights before the step, `(..., rows, columns)`.
        after: Weights after it.

    Returns:
        Counts in `BINS` bins of equal width from 0 to 1; matrices that did not move are left out.

    Examples:
        >>> update_spectrum(torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 0.5, 0.0]))).nonzero().flatten()
        tensor([ 0, 10, 19])
    """
    values = torch.linalg.svdvals((after - before).float().cpu())
    largest = values.amax(-1, keepdim=True)
    ratios = (values / largest.clamp(min=torch.finfo(values.dtype).tiny))[largest.squeeze(-1) > 0]
    return torch.histc(ratios, BINS, 0.0, 1.0)


def _matrices(module: LightningModule) -> list[tuple[str, nn.Parameter]]:
    """Return the decoder's parameters that are matrices or stacks of them, by name."""
    every = module.get_submodule("decoder").named_parameters()
    return [(name, param) for name, param in every if param.ndim >= 2]


def _optimizer(trainer: Trainer) -> torch.optim.Optimizer:
    """Return the run's one optimiser."""
    return trainer.optimizers[0]
