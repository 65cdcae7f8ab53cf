"""The data module: a run's token files, an order that is a function of the seed, and shares of processes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from lemmata.apps.kit.loading import ResumableLoader
from lemmata.apps.language_model.datamodule import TextDataModule
from lemmata.apps.language_model.tokenizers import tokenizer_from_json


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(0)
    words = ["sea", "ship", "sail", "wave", "wind", "calm", "dark", "white"]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(600)) + "\n0123456789" * 20)
    return path


def ready(text: Path, **options: Any) -> TextDataModule:
    data = TextDataModule(str(text), folder=str(text.parent / "data"), **{"context": 16, **options})
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("tokenizer", ["character", "bpe"])
def test_the_tokenizer_knows_the_training_text_alone(text: Path, tokenizer: str) -> None:
    data = ready(text, tokenizer=tokenizer, vocabulary=270, val=0.06)
    training = text.read_text()[: round(0.94 * text.stat().st_size)]
    assert data.tokenizer is not None
    assert data.tokenizer.decode(data._tokens["train"]) == training
    assert data.tokens_per_character("train") == len(data._tokens["train"]) / len(training)
    stored = (text.parent / "data" / "tokenizer.json").read_text()
    assert tokenizer_from_json(stored).encode(training).tolist() == data._tokens["train"].tolist()


def test_files_of_the_same_text_are_kept_and_others_replaced(text: Path) -> None:
    ready(text)
    file = text.parent / "data" / "train.npy"
    written = file.stat().st_mtime_ns
    first = json.loads((text.parent / "data" / "text.json").read_text())
    ready(text)
    assert file.stat().st_mtime_ns == written
    text.write_text("another text " * 200)
    ready(text)
    assert json.loads((text.parent / "data" / "text.json").read_text())["fingerprint"] != first["fingerprint"]


def test_the_order_is_a_function_of_seed_and_epoch(text: Path) -> None:
    def epoch(seed: int, number: int) -> list[Any]:
        loader = ready(text, seed=seed, batch_size=4).train_dataloader()
        loader.set_epoch(number)
        return [batch.tolist() for batch in loader]

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
    assert {len(batch) for batch in epoch(0, 0)} == {4}


def test_two_processes_see_what_one_with_twice_the_batch_sees(text: Path) -> None:
    data = ready(text)
    windows = data._windows("train", data._tokens["train"])

    def batches(size: int, replicas: int, rank: int) -> list[torch.Tensor]:
        options: dict[str, Any] = {"shuffle": True, "drop_last": True, "seed": 3}
        return list(ResumableLoader(windows, size, num_replicas=replicas, rank=rank, **options))

    for one, left, right in zip(batches(8, 1, 0), batches(4, 2, 0), batches(4, 2, 1), strict=False):
        assert sorted(one.tolist()) == sorted([*left.tolist(), *right.tolist()])


def test_validation_is_the_texts_end_in_order(text: Path) -> None:
    data = ready(text, val=0.1, val_windows=None)
    batches = torch.cat(list(data.val_dataloader()))
    tokens = torch.as_tensor(data._tokens["val"].astype("int64"))
    assert torch.equal(batches[:, 1:].flatten(), tokens[1 : 1 + batches[:, 1:].numel()])
    assert len(torch.cat(list(ready(text, val_windows=3).val_dataloader()))) == 3


def test_other_texts_validate_and_test(text: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("a calm sea, " * 30)
    data = TextDataModule(str(text), val=str(tmp_path / "other.txt"), test=str(tmp_path / "other.txt"))
    data.folder = str(tmp_path / "data")
    data.prepare_data()
    data.setup("fit")
    assert data.facts["unknown"] == ","
    assert data.facts["characters"]["val"] == 360
    data.setup("test")
    assert data.tokenizer is not None
    data.use(data.tokenizer, 8)
    assert torch.cat(list(data.test_dataloader())).shape[1] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "word"}, "`data.tokenizer` .* expected one of character, bpe"),
        ({"context": 0}, r"`data.context` \(=0\)"),
        ({"batch_size": 0}, r"`data.batch_size` \(=0\)"),
        ({"stride": 0}, r"`data.stride` \(=0\)"),
        ({"val_windows": 0}, r"`data.val_windows` \(=0\)"),
        ({"seed": -1}, r"`data.seed` \(=-1\)"),
        ({"val": 1.5}, r"`data.val` \(=1.5\)"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextDataModule(**options)


def test_too_short_texts_are_told_before_anything_is_written(text: Path) -> None:
    text.write_text("too short")
    with pytest.raises(
        ValueError, match=r"the training text of '.*text.txt' has 8 tokens, fewer than `data.co"
    ):
        ready(text)
    assert not (text.parent / "data").exists()
    text.write_text("long enough to train " * 10)
    with pytest.raises(ValueError, match=r"the validation text of .* has 21 tokens, fewer"):
        ready(text, context=30)
    with pytest.raises(ValueError, match=r"`data.batch_size` \(=500\) is more than"):
        ready(text, batch_size=500).train_dataloader()


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data.val` .*absent.txt.* does not exist"):
        TextDataModule(val=str(tmp_path / "absent.txt"))
    with pytest.raises(ValueError, match=r"`data\.test` is missing"):
        TextDataModule().setup("test")
    with pytest.raises(ValueError, match=r"`data\.folder` is missing"):
        TextDataModule().prepare_data()
