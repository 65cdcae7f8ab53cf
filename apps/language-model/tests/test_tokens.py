"""Token files and windows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.language_model.tokens import Windows, read_tokens, split_text, write_tokens


def test_a_token_file_is_mapped_and_written_whole(tmp_path: Path) -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    path = write_tokens(tmp_path / "data" / "train.npy", tokens)
    mapped = read_tokens(path)
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == np.uint16
    assert np.array_equal(mapped, tokens)
    write_tokens(path, tokens[:10])
    assert [file.name for file in path.parent.iterdir()] == ["train.npy"]
    assert len(read_tokens(path)) == 10


def test_what_is_no_token_file_is_told(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "t.npy", np.arange(1000, dtype=np.uint16))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"t\.npy is not a complete token file"):
        read_tokens(path)
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match=r"t\.npy is not a token file: it holds 1-d float64"):
        read_tokens(path)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 300), st.integers(1, 40), st.none() | st.integers(1, 50), st.none() | st.integers(1, 9))
def test_windows_tile_the_text(length: int, context: int, stride: int | None, most: int | None) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    if length < context + 1:
        with pytest.raises(
            ValueError, match=rf"has {length} tokens, fewer than `data.context` \(={context}\)"
        ):
            Windows(tokens, context)
        return
    windows = Windows(tokens, context, stride=stride, most=most)
    starts = [int(windows[index][0]) for index in range(len(windows))]
    step = context if stride is None else stride
    every = list(range(0, length - context, step))
    assert set(starts) <= set(every)
    assert starts == sorted(set(starts))
    assert len(starts) == (len(every) if most is None else min(most, len(every)))
    assert torch.equal(windows[0], torch.arange(context + 1))
    if stride is None and most is None:
        # Each token but the first is a target at most once, and all up to the last whole window are.
        targets = torch.cat([windows[index][1:] for index in range(len(windows))])
        assert torch.equal(targets, torch.arange(1, len(every) * context + 1))


def test_the_split_is_contiguous() -> None:
    beginning, end = split_text("x" * 9 + "y", 0.1)
    assert (beginning, end) == ("x" * 9, "y")
