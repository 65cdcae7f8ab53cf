"""The training module: a decoder, its loss, one optimiser for the whole of it, and its schedule.

The module learns its vocabulary and context from the data module it is trained with. Both, the decoder's
other options and the tokenizer go into the checkpoint, under `CHECKPOINT_KEY`, as JSON types beside the
hyperparameters, so that a checkpoint is enough to generate, to predict and to evaluate.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import cross_entropy

from lemmata.apps.language_model.compression import check_compression, make_state, register
from lemmata.apps.language_model.model.config import (
    Attention,
    Balance,
    DecoderConfig,
    Feedforward,
    Router,
)
from lemmata.apps.language_model.model.decoder import Decoder
from lemmata.apps.language_model.optimizers import build, check_optimizer
from lemmata.apps.language_model.schedules import check_schedule, make_schedule
from lemmata.apps.language_model.tokenizers import Tokenizer, tokenizer_from_json
from lemmata.apps.language_model.trained import CHECKPOINT_KEY

__all__ = ["DivergedError", "LanguageModel", "TrainingText"]


class DivergedError(FloatingPointError, ValueError):
    """Loss or gradients are not finite."""


@runtime_checkable
class TrainingText(Protocol):
    """What the module asks of its data module."""

    tokenizer: Tokenizer | None
    context: int
    facts: dict[str, Any]

    def train_dataloader(self) -> Any:
        """Return training batches, whose number is known."""
        ...

    def tokens_per_character(self, role: str) -> float:
        """Return how many tokens a character of a text takes."""
        ...

    def use(self, tokenizer: Tokenizer, context: int) -> None:
        """Evaluate with another tokenizer and context."""
        ...


class LanguageModel(LightningModule):
    """A decoder that predicts the next token of a text.

    Args:
        optimizer: The optimiser: adamw, sgd, muon, lion, nuclear-lion, auon or hybrid-auon.
        lr: Largest learning rate; the one the optimiser comes with where null.
        weight_decay: Decoupled weight decay; the one the optimiser comes with where null.
        optimizer_options: Further arguments of the optimiser, say `{"momentum": 0.9}`.
        schedule: `linear` decay to nothing, `constant`, or a CSV file with a column `multiplier`, as `refine`
            writes it.
        warmup: Steps in which the learning rate rises, with `linear` and `constant`.
        width: Width of the residual stream.
        depth: Number of blocks.
        heads: Attention heads; divides `width`.
        attention: `latent` caches one latent a token, `multihead` every head's key and value.
        latent_rank: Width of that latent; chosen for a cache of 0.35 times the multi-head one's where null.
        query_rank: Width of a latent between input and queries; none where null.
        rope_width: Even width of the part of queries and keys that carries the position.
        feedforward: `experts` for a mixture of experts, `dense` for one SwiGLU.
        hidden: Hidden width of the dense SwiGLU, or of each expert.
        experts: Number of routed experts.
        active_experts: Routed experts that a token passes.
        shared_experts: Experts that every token passes.
        router: What turns the router's logits into scores.
        balance: What keeps the experts' loads even: a `bias` on the router, or an auxiliary `loss`.
        balance_rate: The bias' step, or the auxiliary loss' weight. The default evens loads out in some
            tens of steps; lower it for runs of many thousands.
        qk_norm: Normalise queries and keys.
        dropout: Probability with which entries are dropped in training.
        tie_embeddings: Use the embedding as output head.
        rope_base: Base of the geometric sequence of rotation frequencies.
        compression: Compressor of the gradients that processes exchange: topk, randk, sign, lowrank or
            quantize; none where null.
        compression_ratio: Fraction of the gradient's entries that topk and randk send.
        sample_every: Steps between two samples of text; 0 for none.
        singular_values_every: Steps between two histograms of the updates' singular values; 0 for none.

    Raises:
        ValueError: Where a name is unknown or a number out of range.
    """

    decoder: Decoder

    def __init__(
        self,
        optimizer: str = "muon",
        lr: float | None = None,
        weight_decay: float | None = None,
        optimizer_options: dict[str, Any] | None = None,
        schedule: str = "linear",
        warmup: int = 20,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        attention: Attention = "latent",
        latent_rank: int | None = None,
        query_rank: int | None = None,
        rope_width: int | None = None,
        feedforward: Feedforward = "experts",
        hidden: int | None = None,
        experts: int = 8,
        active_experts: int = 2,
        shared_experts: int = 1,
        router: Router = "sigmoid",
        balance: Balance = "bias",
        balance_rate: float = 0.03,
        qk_norm: bool = False,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
        rope_base: float = 10_000.0,
        compression: str | None = None,
        compression_ratio: float = 0.01,
        sample_every: int = 0,
        singular_values_every: int = 0,
    ) -> None:
        super().__init__()
        check_optimizer(optimizer, lr, weight_decay)
        check_schedule(schedule)
        check_compression(compression, compression_ratio)
        for option, value in (
            ("warmup", warmup),
            ("sample_every", sample_every),
            ("singular_values_every", singular_values_every),
        ):
            if value < 0:
                raise ValueError(f"`{option}` (={value}) must be an integer of at least 0")
        self.save_hyperparameters()
        self.optimizer_options = dict(optimizer_options or {})
        # Tells what does not fit before any text is read; the text gives vocabulary and context.
        self.options = DecoderConfig(
            vocabulary=2,
            context=1,
            width=width,
            depth=depth,
            heads=heads,
            attention=attention,
            latent_rank=latent_rank,
            query_rank=query_rank,
            rope_width=rope_width,
            feedforward=feedforward,
            hidden=hidden,
            experts=experts,
            active_experts=active_experts,
            shared_experts=shared_experts,
            router=router,
            balance=balance,
            balance_rate=balance_rate,
            qk_norm=qk_norm,
            dropout=dropout,
            tie_embeddings=tie_embeddings,
            rope_base=rope_base,
        )
        self.config: DecoderConfig | None = None
        self.tokenizer: Tokenizer | None = None
        self.fingerprint: str | None = None
        self._compression_state: Any = None
        self._compression_states: list[Any] = []

    def configure_callbacks(self) -> list[Callback]:
        """Return what records the run: norms, throughput, loads, and on request samples and spectra."""
        from lemmata.apps.language_model.callbacks import recorders

        return recorders(
            sample_every=self.hparams["sample_every"],
            singular_values_every=self.hparams["singular_values_every"],
        )

    def configure_model(self) -> None:
        """Build the decoder for the data module's text, once; without training, a checkpoint does.

        Under Lightning's `ModelParallelStrategy` the decoder is sharded with `fully_shard`, block by block.
        """
        if self.config is None and self.trainer.training:
            text = self._text()
            if text.tokenizer is None:
                raise RuntimeError("the data module is not set up")
            config = replace(self.options, vocabulary=text.tokenizer.vocabulary, context=text.context)
            self.build(config, text.tokenizer)
            self.fingerprint = text.facts["fingerprint"]
            if self.device_mesh is not None:
                _shard(self.decoder, self.device_mesh)

    def build(self, config: DecoderConfig, tokenizer: Tokenizer) -> None:
        """Build the decoder.

        Args:
            config: Its options.
            tokenizer: The tokenizer of its text.
        """
        self.config, self.tokenizer = config, tokenizer
        self.decoder = Decoder(config)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Return the logits of the next token at every position.

        Args:
            tokens: Token numbers.

        Returns:
            Logits.
        """
        logits: Tensor = self.decoder(tokens)
        return logits

    def training_step(self, batch: Int[Tensor, "batch window"]) -> Tensor:
        """Return the loss of a batch, in nats a token, with the auxiliary loss of the experts."""
        loss = self._loss(batch)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.global_step}; try a smaller `lr` "
                f"(={self.hparams['lr']}) or `gradient_clip_val`"
            )
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss + self.decoder.auxiliary_loss()

    def validation_step(self, batch: Int[Tensor, "batch window"]) -> None:
        """Log the validation loss of a batch."""
        self._log_loss("val", batch)

    def test_step(self, batch: Int[Tensor, "batch window"]) -> None:
        """Log the test loss of a batch."""
        self._log_loss("test", batch)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return one optimiser for all parameters, and its schedule, moved once a step."""
        options = dict(self.optimizer_options)
        if self.hparams["optimizer"] == "adamw" and "mixed" not in str(self.trainer.precision):
            # Lightning does not clip gradients of a fused optimiser in mixed precision.
            options.setdefault("fused", True)
        optimizer = build(
            self.hparams["optimizer"],
            self.decoder,
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
            **options,
        )
        scheduler = make_schedule(
            self.hparams["schedule"], optimizer, planned_steps(self.trainer), warmup=self.hparams["warmup"]
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step, then even out the experts' loads."""
        try:
            super().optimizer_step(*arguments, **options)
        except FloatingPointError as error:
            raise DivergedError(f"at step {self.global_step}: {error}") from error
        self.decoder.update_balance()

    def on_train_start(self) -> None:
        """Put the compressor between the processes."""
        name = self.hparams["compression"]
        if name is None:
            return
        state = make_state(name, self.hparams["compression_ratio"], model=self)
        states, self._compression_states = self._compression_states, []
        if states:
            state.load_state_dict(states[self.global_rank])
        register(self.trainer.strategy.model, state)
        self._compression_state = state

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a sharded run with an optimiser that has not stepped.

        Where there is no state yet, torch gathers a sharded optimiser's for a checkpoint by a step with zero
        gradients, which AdamW would go on to count.
        """
        if self.device_mesh is not None and self.global_step == 0:
            self.trainer.optimizers[0].state.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the decoder is, its tokenizer and its text's fingerprint."""
        config, tokenizer = self.known()
        checkpoint[CHECKPOINT_KEY] = {
            "decoder": config.to_dict(),
            "tokenizer": tokenizer.to_json(),
            "fingerprint": self.fingerprint,
            "compression": _of_all_processes(self._compression_state),
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Build the decoder that was trained, or raise where a run would change it."""
        if CHECKPOINT_KEY not in checkpoint:
            raise ValueError(f"the checkpoint holds no entry {CHECKPOINT_KEY!r}; it is not one of this app's")
        stored = checkpoint[CHECKPOINT_KEY]
        config = DecoderConfig.from_dict(stored["decoder"])
        trainer = self._trainer
        if trainer is not None and trainer.training:
            self._check_same_run(checkpoint, config)
            self._compression_states = stored["compression"]
            return
        self.build(config, tokenizer_from_json(stored["tokenizer"]))
        self.fingerprint = stored["fingerprint"]
        if trainer is not None and self.tokenizer is not None:
            self._text().use(self.tokenizer, config.context)

    def known(self) -> tuple[DecoderConfig, Tokenizer]:
        """Return the decoder's options and the tokenizer, once they are known.

        Raises:
            RuntimeError: Where the module is neither trained nor loaded.
        """
        if self.config is None or self.tokenizer is None:
            raise RuntimeError("the module is not built; train it, or load a checkpoint")
        return self.config, self.tokenizer

    def _check_same_run(self, checkpoint: Mapping[str, Any], config: DecoderConfig) -> None:
        """Raise where a resumed run has other text, options or optimiser than before."""
        if checkpoint[CHECKPOINT_KEY]["fingerprint"] != self.fingerprint:
            raise ValueError(
                "the checkpoint was trained on other text, or with another tokenizer; resume with the same "
                "`data.source`, `data.tokenizer` and `data.val`"
            )
        if config != self.config:
            now = self.known()[0].to_dict()
            changed = [name for name, value in config.to_dict().items() if value != now[name]]
            raise ValueError(
                f"the checkpoint's model has other options ({', '.join(changed)}) than the run; resume with "
                "the same"
            )
        before = checkpoint["hyper_parameters"]["optimizer"]
        if before != self.hparams["optimizer"]:
            raise ValueError(
                f"`optimizer` (={self.hparams['optimizer']!r}) is not the checkpoint's, {before!r}; resume "
                "with the same"
            )
        processes = len(checkpoint[CHECKPOINT_KEY]["compression"])
        if self.hparams["compression"] is not None and processes != self.trainer.world_size:
            raise ValueError(
                f"the checkpoint holds the compressors of {processes} processes, this run has "
                f"{self.trainer.world_size}; resume with as many"
            )

    def _loss(self, batch: Tensor) -> Tensor:
        """Return the mean cross entropy of a batch in nats a token, in at least single precision."""
        logits = self(batch[:, :-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def _log_loss(self, stage: str, batch: Tensor) -> None:
        """Log the loss of a batch, in nats a token and in bits a character."""
        loss = self._loss(batch)
        bits = loss / math.log(2) * self._text().tokens_per_character(stage)
        losses = {f"{stage}_loss": loss, f"{stage}_bits_per_character": bits}
        self.log_dict(losses, prog_bar=stage == "val", batch_size=len(batch), sync_dist=True)

    def _text(self) -> TrainingText:
        """Return the data module."""
        text = getattr(self.trainer, "datamodule", None)
        if not isinstance(text, TrainingText):
            raise TypeError(f"expected a data module with a tokenizer, got {type(text).__name__}")
        return text


def planned_steps(trainer: Trainer) -> int:
    """Return the optimiser's steps of the whole run.

    Equals `trainer.estimated_stepping_batches`, which would set up the trainer's loaders before a
    checkpoint's loops are restored: a run resumed within an epoch would start that epoch's batches anew.

    Args:
        trainer: The trainer, with its data module.

    Raises:
        ValueError: Where the run has no end.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by the trainer's data connector
    batches, limit = len(data.train_dataloader()), trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs, most = trainer.max_epochs, trainer.max_steps
    steps = -(-batches // trainer.accumulate_grad_batches) * (math.inf if epochs in {-1, None} else epochs)
    planned = steps if most == -1 else min(steps, most)
    if not math.isfinite(planned):
        raise ValueError("training needs `max_steps` or `max_epochs`: the schedule spans the whole run")
    return int(planned)


def _shard(decoder: Decoder, mesh: Any) -> None:
    """Shard the parameters over the processes, a block at a time."""
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        # Lightning's default, under which each process would train on its share of the text alone.
        processes = mesh.size()
        raise ValueError(
            f"`trainer.strategy` divides matrices over processes, this model is sharded; pass "
            f"--trainer.strategy.data_parallel_size {processes} --trainer.strategy.tensor_parallel_size 1"
        )
    for block in decoder.blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(decoder, mesh=mesh["data_parallel"])


def _of_all_processes(state: Any) -> list[Any]:
    """Return the compressor's state of every process, in the order of their ranks; all must call this."""
    if state is None:
        return []
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state.state_dict())
    return states
