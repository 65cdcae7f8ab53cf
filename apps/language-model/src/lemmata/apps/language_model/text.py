"""Where text comes from: a file, a folder, a published set, or what this machine already has.

Whatever the source, the same machine gives the same text: folders are read in the order of their paths, and
documentation in the order of its names.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["NAMED_SOURCES", "check_source", "read_text"]

NAMED_SOURCES = ("docstrings", "tinyshakespeare")


def read_text(source: Path | str, option: str = "data.source") -> str:
    r"""Return the text of a source.

    Args:
        source: `docstrings` for the documentation that comes with Python (its language reference, and the
            documentation strings of the standard library), `tinyshakespeare` for the published set of that
            name, or the path of a UTF-8 file, or of a folder whose `.txt` files are read in the order of
            their paths.
        option: What the source is called in errors.

    Returns:
        The text, with line ends as `\n`.

    Raises:
        FileNotFoundError: Where there is no such file, or a folder without `.txt` files.
        ValueError: Where a file is empty or not UTF-8.

    Examples:
        >>> read_text("docstrings").splitlines()[0]
        'The "assert" statement'
    """
    if str(source) == "docstrings":
        return "\n\n".join([*_language_reference(), *_documentation_strings()])
    if str(source) == "tinyshakespeare":
        from lemmata.apps.kit.datasets import fetch

        return _read(fetch("tinyshakespeare/input.txt"), option)
    check_source(source, option)
    path = Path(source)
    if not path.is_dir():
        return _read(path, option)
    files = sorted(found for found in path.rglob("*.txt") if found.is_file())
    if not files:
        raise FileNotFoundError(f"`{option}` (={str(source)!r}) is a folder without .txt files")
    return "\n\n".join(_read(file, option) for file in files)


def check_source(source: Path | str, option: str = "data.source") -> None:
    """Raise where a source does not exist, without reading it.

    Args:
        source: What `read_text` takes.
        option: What it is called in errors.

    Raises:
        FileNotFoundError: Naming the option and what it may be.
    """
    if str(source) not in NAMED_SOURCES and not Path(source).exists():
        raise FileNotFoundError(
            f"`{option}` (={str(source)!r}) does not exist; expected a UTF-8 text file, a folder of .txt "
            f"files, or one of {', '.join(NAMED_SOURCES)}"
        )


def _read(path: Path, option: str) -> str:
    """Return the text of a file."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{option}` (={str(path)!r}) is not UTF-8 text: byte {error.start} is "
            f"0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"`{option}` (={str(path)!r}) is not text: character {text.index(chr(0))} is a zero byte; "
            "expected UTF-8 text"
        )
    if not text:
        raise ValueError(f"`{option}` (={str(path)!r}) is empty; expected UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _language_reference() -> Iterator[str]:
    """Yield the topics of Python's language reference, by name."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name].strip()


def _documentation_strings() -> Iterator[str]:
    """Yield the documentation strings of the standard library's modules that are a file each, by name."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                text := ast.get_docstring(node)
            ):
                yield text
