import time
from pathlib import Path

import pytest
import torch

from lemmata.apps.regression_at_scale.engine.checkpoint import Checkpoint, load_plain, save_plain

REQUEST = {"data": "abc", "ridge": 0.5, "target": ["y"]}


def state(value: float = 1.0) -> dict:
    return {"sum": torch.full((3,), value, dtype=torch.float64), "rows": 7, "levels": {"a": 2}, "held": None}


def test_states_come_back_as_they_were(tmp_path: Path):
    one = Checkpoint(tmp_path / "run", REQUEST)
    one.finish(0, "sketch", state(0.2))
    one.save(2, "gram", 5, state(0.1), now=True)
    two = Checkpoint(tmp_path / "run", REQUEST, resume=True)
    groups, found = two.running(2, "gram")
    assert groups == 5
    assert torch.equal(found["sum"], state(0.1)["sum"])
    assert {name: held for name, held in found.items() if name != "sum"} == {
        "rows": 7,
        "levels": {"a": 2},
        "held": None,
    }
    assert torch.equal(two.finished(0, "sketch")["sum"], state(0.2)["sum"])


def test_another_pass_finds_nothing(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, REQUEST)
    checkpoint.save(1, "gram", 5, state(), now=True)
    checkpoint.finish(0, "sketch", state())
    assert checkpoint.running(1, "gram") is None  # a pass that ends takes what was running with it
    checkpoint.save(1, "gram", 5, state(), now=True)
    assert checkpoint.running(2, "gram") is None
    assert checkpoint.running(1, "sketch") is None
    assert checkpoint.finished(1, "sketch") is None


def test_another_request_is_refused_and_told(tmp_path: Path):
    Checkpoint(tmp_path, REQUEST)
    with pytest.raises(ValueError, match=r"`ridge` was 0\.5 and is 1\.0") as caught:
        Checkpoint(tmp_path, {**REQUEST, "ridge": 1.0}, resume=True)
    assert "`data`" not in str(caught.value)
    with pytest.raises(ValueError, match="`seed` was None and is 3"):
        Checkpoint(tmp_path, {**REQUEST, "seed": 3}, resume=True)


def test_what_is_there_is_not_lost_by_accident(tmp_path: Path):
    Checkpoint(tmp_path, {**REQUEST, "ridge": 2.0})  # it came to nothing: nothing can be lost
    Checkpoint(tmp_path, REQUEST).finish(0, "sketch", state())
    with pytest.raises(FileExistsError, match="--resume continues it, --force starts anew"):
        Checkpoint(tmp_path, REQUEST)


def test_writes_are_spaced(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, REQUEST, every=0.2)
    checkpoint.save(0, "sketch", 1, state())
    assert checkpoint.running(0, "sketch") is None
    time.sleep(0.25)
    checkpoint.save(0, "sketch", 2, state())
    checkpoint.save(0, "sketch", 3, state())
    assert checkpoint.running(0, "sketch")[0] == 2


def test_no_draft_is_left_and_none_is_needed(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path, REQUEST)
    checkpoint.save(0, "sketch", 1, state(), now=True)
    (tmp_path / ".running-abc.pt").write_bytes(b"half of a file that a kill left")
    assert checkpoint.running(0, "sketch")[0] == 1
    checkpoint.finish(0, "sketch", state())
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["pass-0000-sketch.pt", "request.json"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not an archive", b"hello"])
def test_damaged_files_are_named(tmp_path: Path, damage: bytes):
    checkpoint = Checkpoint(tmp_path, REQUEST)
    checkpoint.finish(0, "sketch", state())
    (tmp_path / "pass-0000-sketch.pt").write_bytes(damage)
    with pytest.raises(ValueError, match=r"pass-0000-sketch\.pt cannot be read"):
        checkpoint.finished(0, "sketch")


def test_truncated_files_are_named(tmp_path: Path):
    save_plain(tmp_path / "a.pt", state())
    whole = (tmp_path / "a.pt").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "a.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.pt cannot be read"):
            load_plain(tmp_path / "a.pt")


def test_code_in_a_file_is_not_run(tmp_path: Path):
    torch.save({"x": Path("harmless")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read"):
        load_plain(tmp_path / "a.pt")


def test_the_same_values_give_the_same_bytes(tmp_path: Path):
    for name in ("first", "a longer name"):
        save_plain(tmp_path / f"{name}.pt", state(0.3))
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "a longer name.pt").read_bytes()


def test_a_missing_file_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        load_plain(tmp_path / "nothing.pt")
