"""The demo at its smallest, from nothing to tables and plots."""

import json
from pathlib import Path

import pytest

from lemmata.apps.pde_surrogate import Surrogate, demo
from lemmata.apps.pde_surrogate.store import read_store


@pytest.mark.slow
def test_the_small_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = demo(out=tmp_path / "demo", preset="small")
    printed = capsys.readouterr().out
    for words in ("Errors on 8 test fields", "Speed-up at equal accuracy", "Everything lies in"):
        assert words in printed
    data = read_store(out / "train.zarr", verify=True)
    assert data.attributes["label_error"]["mean"] < 0.05
    results = json.loads((out / "evaluation" / "results.json").read_text())
    assert [row["resolution"] for row in results["errors"]] == [[8, 8], [16, 16], [32, 32]]
    assert all(row["l2"] < 0.5 for row in results["errors"])
    assert (out / "plots" / "accuracy_per_second.png").is_file()
    assert Surrogate.load(out / "run")(data.inputs[:2]).shape == (2, 1, 16, 16)
    with pytest.raises(FileExistsError, match=r"demo exists already; pass --force"):
        demo(out=out, preset="small")


def test_presets_are_named(tmp_path: Path, unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"`preset` .* expected one of full, small"):
        demo(out=tmp_path / "demo", preset="huge")  # type: ignore[arg-type]  # that is the test
    assert not (tmp_path / "demo").exists()
