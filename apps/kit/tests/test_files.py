"""Files are complete or not there; output is not overwritten by accident."""

import hashlib
import stat

import pytest

from lemmata.apps.kit.files import new_output, read_json, sha256, write_atomically, write_json


def test_new_output_refuses_what_is_there_and_names_force(tmp_path):
    (tmp_path / "run").mkdir()
    assert new_output(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "x").write_text("x")
    with pytest.raises(FileExistsError, match="--force"):
        new_output(tmp_path / "run")
    assert not new_output(tmp_path / "run", force=True).exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file exists already"):
        new_output(tmp_path / "file")
    assert not new_output(tmp_path / "file", force=True).exists()


def test_new_output_removes_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    new_output(tmp_path / "link", force=True)
    assert not (tmp_path / "link").exists()
    assert (tmp_path / "kept" / "x").read_text() == "x"


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with write_atomically(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_written_file_has_the_usual_mode(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("x")
    with write_atomically(tmp_path / "folder" / "a.txt") as draft:
        draft.write_text("x")
    assert stat.S_IMODE((tmp_path / "folder" / "a.txt").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_sha256_equals_hashlib(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_json_round_trip_and_refusals(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "ä"}
    assert read_json(write_json(tmp_path / "a.json", value)) == value
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", float("nan"))
    (tmp_path / "c.json").write_text('{"a": \n')
    with pytest.raises(ValueError, match=r"c\.json is not JSON: line 2"):
        read_json(tmp_path / "c.json")
