"""Published files come from the cache where it holds them, and never unverified."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from lemmata.apps.kit import datasets as module
from lemmata.apps.kit.datasets import Dataset, cache_folder, datasets, fetch

SHARED = Path(os.environ.get("LEMMATA_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def entry(monkeypatch):
    content = b"published"
    entry = Dataset(
        "made/file.bin",
        hashlib.sha256(content).hexdigest(),
        "https://example.invalid/file.bin",
        "MIT",
        "made up",
    )
    monkeypatch.setattr(module, "_registry", lambda: {entry.name: entry})
    return entry


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_registry_is_complete():
    entries = datasets()
    assert "neuralop/darcy_test_16.pt" in entries
    for name, entry in entries.items():
        assert name == entry.name
        assert len(entry.sha256) == 64
        assert entry.address.startswith("https://raw.githubusercontent.com/")
        assert entry.licence
        assert entry.source
    with pytest.raises(ValueError, match="'nope'"):
        datasets("nope")


def test_a_file_in_the_cache_is_used_without_writing_there(entry, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    path = tmp_path / entry.name
    path.parent.mkdir()
    path.write_bytes(b"published")
    path.parent.chmod(0o555)
    assert fetch(entry.name) == path
    assert sorted(tmp_path.rglob("*")) == [path.parent, path]
    path.parent.chmod(0o755)


def test_a_wrong_file_is_refused_naming_both_hashes(entry, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    path = tmp_path / entry.name
    path.parent.mkdir()
    path.write_bytes(b"tampered")
    with pytest.raises(ValueError, match=entry.sha256) as error:
        fetch(entry.name)
    assert str(path) in str(error.value)
    assert hashlib.sha256(b"tampered").hexdigest() in str(error.value)


def test_without_network_one_line_says_where_to_put_the_file(entry, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    with pytest.raises(ConnectionError) as error:
        fetch(entry.name)
    assert entry.address in str(error.value)
    assert str(tmp_path / entry.name) in str(error.value)
    assert not (tmp_path / entry.name).exists()


def test_a_download_takes_its_place_once_verified(entry, monkeypatch, tmp_path):
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    content = b"published"

    class Stub:
        def __call__(self, url, output_file, pooch):
            Path(output_file).write_bytes(content)

    monkeypatch.setattr("pooch.core.choose_downloader", lambda *args, **kwargs: Stub())
    assert fetch(entry.name).read_bytes() == content
    fetch(entry.name).unlink()
    content = b"something else"
    with pytest.raises(ValueError, match="does not give the published file"):
        fetch(entry.name)
    assert not (tmp_path / entry.name).exists()


def test_unknown_names_and_the_cache_folder(entry, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"'x' is not registered; expected one of made/file\.bin"):
        fetch("x")
    monkeypatch.setenv("LEMMATA_DATA", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LEMMATA_DATA")
    assert cache_folder().name == "lemmata"


@pytest.mark.parametrize("name", ["neuralop/darcy_train_16.pt", "neuralop/darcy_test_16.pt", "ett/ETTh1.csv"])
def test_real_files_are_what_the_registry_says(name, no_network, monkeypatch):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in the data cache that LEMMATA_DATA names")
    monkeypatch.setenv("LEMMATA_DATA", str(SHARED))
    assert fetch(name) == SHARED / name
