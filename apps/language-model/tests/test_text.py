"""Where text comes from: deterministic, and with one-line errors that name the option."""

from pathlib import Path
from typing import Any

import pytest

from lemmata.apps.language_model.text import check_source, read_text


def test_documentation_is_there_without_a_network_and_always_the_same() -> None:
    text = read_text("docstrings")
    assert len(text) > 500_000
    assert "The standard type hierarchy" in text  # of the language reference
    assert "Return a shallow copy" in text or "shallow copy" in text  # of the module copy
    assert read_text("docstrings") == text


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name, content in (("b.txt", "second"), ("a.txt", "first"), ("c/d.txt", "third"), ("e.md", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read_text(tmp_path) == "first\n\nsecond\n\nthird"


def test_line_ends_and_byte_order_marks_are_plain(tmp_path: Path) -> None:
    (tmp_path / "windows.txt").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    assert read_text(tmp_path / "windows.txt") == "one\ntwo\nthree\n"


def test_the_published_text_is_found_in_the_data_cache(real_data: Any, monkeypatch: Any) -> None:
    path = real_data("tinyshakespeare/input.txt")
    monkeypatch.setenv("LEMMATA_DATA", str(path.parent.parent))
    text = read_text("tinyshakespeare")
    assert text.startswith("First Citizen:\nBefore we proceed any further")
    assert len(text) == 1_115_394


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine until here \xff\xfe", r"`data.val` .* is not UTF-8 text: byte 16 is 0xff"),
        (b"", "`data.val` .* is empty"),
        (b"a\0b", "`data.val` .* is not text: character 1 is a zero byte"),
    ],
)
def test_what_is_no_text_is_told_by_option_and_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(tmp_path / "file.txt", "data.val")


def test_what_is_not_there_is_told_with_what_may_be(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"expected a UTF-8 text file, .* docstrings, tinyshakespeare"
    ):
        check_source(tmp_path / "absent.txt")
    with pytest.raises(FileNotFoundError, match=r"without \.txt files"):
        read_text(tmp_path)
