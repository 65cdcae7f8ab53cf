"""Exported models: they load without command line and Lightning, and give the same logits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from lemmata.apps.language_model import export, generate, load_model, predict, train
from lemmata.apps.language_model.trained import TrainedModel


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained, out=tmp_path_factory.mktemp("export") / "model")


def test_the_same_logits_come_back(trained: Path, exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    one, other = TrainedModel.load(trained), load_model(exported)
    tokens = torch.as_tensor(one.tokenizer.encode("The sea is calm").astype("int64"))[None]
    assert torch.equal(one.decoder(tokens), other.decoder(tokens))
    library = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    assert library.encode("The sea is calm").ids == tokens[0].tolist()
    weights = load_file(exported / "model.safetensors")
    assert set(weights) <= set(one.decoder.state_dict())


def test_other_verbs_take_the_folder(trained: Path, exported: Path, text_file: Path) -> None:
    assert generate(exported, new_tokens=9) == generate(trained, new_tokens=9)
    assert predict(exported, text_file) == predict(trained, text_file)


def test_neither_lightning_nor_the_command_line_is_imported(exported: Path) -> None:
    program = (
        "import sys\n"
        "from lemmata.apps.language_model import load_model\n"
        f"model = load_model({str(exported)!r})\n"
        "print(model.tokenizer.vocabulary)\n"
        "sys.exit(len({'lightning', 'jsonargparse', 'torchmetrics'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def test_tied_weights_are_stored_once(tmp_path: Path, text_file: Path, settings: dict[str, Any]) -> None:
    model = {**settings["model"], "tie_embeddings": True}
    run = train(text_file, out=tmp_path / "run", optimizer="adamw", **{**settings, "model": model})
    loaded = load_model(export(run, out=tmp_path / "model"))
    assert loaded.decoder.lm_head.weight is loaded.decoder.embedding.weight
    assert torch.equal(loaded.decoder.lm_head.weight, TrainedModel.load(run).decoder.lm_head.weight)


def test_what_is_missing_or_broken_is_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file; expected a folder"):
        load_model(tmp_path)
    folder = export(trained, out=tmp_path / "model")
    with pytest.raises(FileExistsError, match="pass --force"):
        export(trained, out=folder)
    export(trained, out=folder, force=True)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: the weights cannot be read, or do not fit"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({"width": 3}))
    with pytest.raises(ValueError, match=r"config\.json is not one that `export` wrote"):
        load_model(folder)
