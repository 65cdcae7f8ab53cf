"""Scores of a text: against a plain loop, by line, and in units that do not depend on the tokenizer."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lemmata.apps.language_model import predict, train
from lemmata.apps.language_model.predict import token_losses
from lemmata.apps.language_model.trained import TrainedModel


def test_every_token_is_scored_once_from_enough_before_it(trained: Path) -> None:
    model = TrainedModel.load(trained)
    text = "The sea is calm and white.\n" * 3
    tokens = torch.as_tensor(model.tokenizer.encode(text).astype("int64"))
    context = model.decoder.config.context
    losses = token_losses(model, text)
    assert losses.shape == (len(tokens) - 1,)
    best = np.full(losses.shape, math.inf)
    with torch.no_grad():
        for place in range(1, len(tokens)):
            # Any number of tokens before it from half a context (or all there are) to a whole one.
            candidates = []
            for before in range(min(place, context // 2), min(place, context) + 1):
                logits = model.decoder(tokens[None, place - before : place]).double()[0, -1]
                candidates.append(-float(logits.log_softmax(-1)[tokens[place]]))
            best[place - 1] = min(abs(losses[place - 1] - candidate) for candidate in candidates)
    assert best.max() < 1e-5


@pytest.mark.parametrize("length", [2, 3, 16, 17, 18, 24, 25, 26, 100])
def test_texts_of_every_length(trained: Path, length: int) -> None:
    model = TrainedModel.load(trained)
    losses = token_losses(model, ("The sea is calm. " * 9)[:length])
    assert losses.shape == (length - 1,)
    assert np.isfinite(losses).all()


def test_figures_agree_with_one_another_and_with_the_lines(
    trained: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = predict(trained, text_file, lines=tmp_path / "lines.csv")
    text = text_file.read_text()
    assert score.tokens == score.characters == len(text) - 1
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.bits_per_character == pytest.approx(score.loss / math.log(2))
    assert score.loss < math.log(20)
    assert "bits/character" in capsys.readouterr().out
    with (tmp_path / "lines.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == text.splitlines()
    assert sum(int(row["tokens"]) for row in rows) == score.tokens
    nats = sum(int(row["tokens"]) * float(row["loss"]) for row in rows)
    assert nats == pytest.approx(score.nats, rel=1e-9)
    with pytest.raises(FileExistsError, match="pass --force"):
        predict(trained, text_file, lines=tmp_path / "lines.csv")


def test_byte_pairs_count_characters(tmp_path: Path, text_file: Path, settings: dict[str, Any]) -> None:
    run = train(text_file, out=tmp_path / "run", tokenizer="bpe", vocabulary=300, **settings)
    (tmp_path / "own.txt").write_text("Über dem Meer 𝄞 is calm\nand dark")
    score = predict(run, tmp_path / "own.txt", lines=tmp_path / "lines.csv")
    # The first token is the first byte of the first character, or the whole of it.
    assert score.characters in {len("Über dem Meer 𝄞 is calm\nand dark") - 1, 32}
    assert score.bits_per_character == pytest.approx(score.nats / math.log(2) / score.characters)


def test_unknown_characters_are_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "own.txt").write_text("The sea? é")
    predict(trained, tmp_path / "own.txt")
    assert "?é" in capsys.readouterr().out
    (tmp_path / "short.txt").write_text("T")
    with pytest.raises(ValueError, match="the text has 1 tokens; expected at least 2"):
        predict(trained, tmp_path / "short.txt")
    with pytest.raises(FileNotFoundError, match=r"`file` .* does not exist"):
        predict(trained, tmp_path / "absent.txt")
