"""Generation from a checkpoint: deterministic, and honest about what the model does not know."""

from pathlib import Path

import pytest
import torch

from lemmata.apps.language_model import generate
from lemmata.apps.language_model.trained import TrainedModel, find_checkpoint


def test_the_same_seed_gives_the_same_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = generate(trained, prompt="The sea", new_tokens=40, seed=3)
    assert capsys.readouterr().out == one + "\n"
    assert one.startswith("The sea")
    assert len(one) == 47
    assert generate(trained, prompt="The sea", new_tokens=40, seed=3) == one
    assert generate(trained, prompt="The sea", new_tokens=40, seed=4) != one


def test_no_temperature_takes_the_likeliest_token(trained: Path) -> None:
    model = TrainedModel.load(trained)
    tokens = torch.as_tensor(model.tokenizer.encode("The sea").astype("int64"))[None]
    expected = int(model.decoder(tokens)[0, -1].argmax())
    text = generate(trained, prompt="The sea", new_tokens=1, temperature=0.0)
    assert text == "The sea" + model.tokenizer.decode([expected])
    assert generate(trained, prompt="The sea", new_tokens=9, top_k=1, seed=1) == generate(
        trained, prompt="The sea", new_tokens=9, temperature=0.0
    )


def test_a_run_gives_its_best_checkpoint_and_a_path_itself(trained: Path) -> None:
    assert find_checkpoint(trained).name.startswith("best-")
    last = trained / "checkpoints" / "last.ckpt"
    assert find_checkpoint(last) == last
    assert generate(last, new_tokens=3).startswith("\n")


def test_errors_name_what_is_wrong(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`prompt` has characters that the model's text does not: '!é'"):
        generate(trained, prompt="calm é!")
    with pytest.raises(ValueError, match=r"`prompt` \(=''\)"):
        generate(trained, prompt="")
    with pytest.raises(ValueError, match=r"`temperature` \(=-1\)"):
        generate(trained, temperature=-1.0)
    with pytest.raises(ValueError, match=r"`seed` \(=-1\)"):
        generate(trained, seed=-1)
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt: no such checkpoint"):
        generate(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"bad\.ckpt is not a checkpoint, or not complete"):
        generate(tmp_path / "bad.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a checkpoint of this app"):
        generate(tmp_path / "other.ckpt")
