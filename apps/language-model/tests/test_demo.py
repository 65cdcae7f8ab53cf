"""The demo at a small size, from nothing to tables, a sample and plots."""

import json
from pathlib import Path

import pytest

from lemmata.apps.language_model import demo


@pytest.mark.slow
def test_the_small_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = demo(out=tmp_path / "demo", steps=6, width=16, depth=1, workers=1)
    printed = capsys.readouterr().out
    for words in ("steps to adamw's best final loss", "Decoding from a cache", "Everything lies in"):
        assert words in printed
    results = json.loads((out / "compare" / "compare.json").read_text())
    assert [row["optimizer"] for row in results["standings"]] == ["adamw", "muon"]
    assert {path.stem for path in (out / "compare" / "plots").iterdir()} == {
        "losses",
        "learning_rates",
        "expert_load",
        "update_singular_values",
        "weights",
    }
    assert (out / "sample.txt").read_text().startswith("The ")
    assert (out / "bench" / "bench.json").is_file()
    with pytest.raises(FileExistsError, match=r"demo exists already; pass --force"):
        demo(out=out, steps=6)


def test_steps_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`steps` \(=1\)"):
        demo(out=tmp_path / "demo", steps=1)
    assert not (tmp_path / "demo").exists()
