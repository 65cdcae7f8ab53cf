"""The training module: what a checkpoint holds, what a resumed run may not change, and loss that diverges."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.language_model import train
from lemmata.apps.language_model.model import DecoderConfig
from lemmata.apps.language_model.module import DivergedError, LanguageModel
from lemmata.apps.language_model.tokenizers import tokenizer_from_json
from lemmata.apps.language_model.trained import CHECKPOINT_KEY

Settings = dict[str, Any]


def test_a_checkpoint_is_plain_and_self_contained(trained: Path, text_file: Path) -> None:
    for path in (trained / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        stored = checkpoint[CHECKPOINT_KEY]
        assert json.loads(json.dumps(stored)) == stored
        assert json.loads(json.dumps(dict(checkpoint["hyper_parameters"])))["optimizer"] == "adamw"
        config = DecoderConfig.from_dict(stored["decoder"])
        tokenizer = tokenizer_from_json(stored["tokenizer"])
        assert (config.context, config.width, config.vocabulary) == (16, 16, tokenizer.vocabulary)
        assert tokenizer.unknown(text_file.read_text()) == ""


def test_the_loss_is_the_cross_entropy_of_the_next_token() -> None:
    module = LanguageModel(width=16, depth=1, heads=2, feedforward="dense")
    module.build(
        DecoderConfig(vocabulary=7, context=4, width=16, depth=1, heads=2, feedforward="dense"),
        tokenizer_from_json('{"model": {"type": "WordLevel", "vocab": {"\ufffd": 0}}}'),
    )
    torch.nn.init.normal_(module.decoder.lm_head.weight)
    batch = torch.tensor([[1, 2, 3, 4, 5]])
    chances = module(batch[:, :-1]).double().softmax(-1)
    expected = -torch.stack([chances[0, place, batch[0, place + 1]].log() for place in range(4)]).mean()
    assert float(module._loss(batch).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("balance", ["bias", "loss"])
@pytest.mark.parametrize("optimizer", ["muon", "lion"])
def test_options_reach_the_decoder_and_it_learns(
    tmp_path: Path, text_file: Path, settings: Settings, balance: str, optimizer: str
) -> None:
    model = {**settings["model"], "balance": balance, "attention": "multihead", "qk_norm": True}
    run = train(text_file, out=tmp_path / "run", optimizer=optimizer, **{**settings, "model": model})
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    config = DecoderConfig.from_dict(checkpoint[CHECKPOINT_KEY]["decoder"])
    assert (config.balance, config.attention, config.qk_norm) == (balance, "multihead", True)
    rows = (run / "metrics.csv").read_text().splitlines()
    columns = rows[0].split(",")
    losses = [float(row.split(",")[columns.index("train_loss")] or "nan") for row in rows[1:]]
    losses = [loss for loss in losses if math.isfinite(loss)]
    assert losses[0] == pytest.approx(math.log(config.vocabulary), rel=1e-3)  # the head starts at zero
    assert losses[-1] < losses[0] - 0.005
    assert ("outside_box" in columns) == (optimizer == "lion")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, text_file: Path, settings: Settings) -> None:
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step \d+; try a smaller `lr`"
    ) as error:
        train(text_file, out=tmp_path / "run", optimizer="sgd", lr=1e38, **settings)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, FloatingPointError)


def test_gradients_that_are_not_finite_end_the_run(
    tmp_path: Path, text_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(module: LanguageModel, *_: Any) -> None:
        assert module.decoder.lm_head.weight.grad is not None
        module.decoder.lm_head.weight.grad.fill_(math.nan)

    monkeypatch.setattr(LanguageModel, "on_before_optimizer_step", spoil)
    with pytest.raises(DivergedError, match=r"at step 0: .*not finite; nothing was changed"):
        train(text_file, out=tmp_path / "run", optimizer="muon", **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, "trained on other text, or with another tokenizer"),
        ({"tokenizer": "bpe", "vocabulary": 300}, "trained on other text, or with another tokenizer"),
        ({"model": {"width": 32, "depth": 2, "heads": 2}}, r"other options \(width"),
        ({"optimizer": "lion"}, r"`optimizer` \(='lion'\) is not the checkpoint's, 'adamw'"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    tmp_path: Path, text_file: Path, settings: Settings, changes: dict[str, Any], message: str
) -> None:
    run = train(text_file, out=tmp_path / "run", optimizer="adamw", **{**settings, "steps": 2})
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    options = {"data": text_file, "optimizer": "adamw", **settings, "steps": 4, **changes}
    options["data"] = other if options["data"] == "other" else text_file
    with pytest.raises(ValueError, match=message):
        train(out=run, resume="last", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamm"}, "`optimizer` .* is not known"),
        ({"lr": -1.0}, "`lr`"),
        ({"weight_decay": math.inf}, "`weight_decay`"),
        ({"heads": 5}, r"`heads` \(=5\) must divide `width` \(=96\)"),
        ({"active_experts": 9}, r"`active_experts` \(=9\) must be at most `experts` \(=8\)"),
        ({"warmup": -1}, r"`warmup` \(=-1\)"),
        ({"sample_every": -1}, r"`sample_every` \(=-1\)"),
        ({"compression": "zip"}, "`compression` .* expected one of topk, randk, sign, lowrank, quantize"),
        ({"compression_ratio": 0.0}, r"`compression_ratio` \(=0.0\) must lie in \(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModel(**options)


def test_a_module_that_is_not_built_tells_so() -> None:
    with pytest.raises(RuntimeError, match="not built; train it, or load a checkpoint"):
        LanguageModel().known()
    with pytest.raises(ValueError, match="not one of this app's"):
        LanguageModel().on_load_checkpoint({})
