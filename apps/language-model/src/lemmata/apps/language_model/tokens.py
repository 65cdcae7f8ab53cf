"""Token files: a tokenised text on disk, mapped into memory, and the windows that training reads.

A file is numpy's format with unsigned 16-bit numbers, so that a text of a billion tokens takes 2 GB of disk
and the memory of the pages that are read. It is written beside its final place and renamed: a killed run
leaves a complete file or none.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from lemmata.apps.kit.files import write_atomically

__all__ = ["Windows", "read_tokens", "split_text", "write_tokens"]

Tokens = npt.NDArray[np.uint16]


def write_tokens(path: Path | str, tokens: Tokens) -> Path:
    """Write a token file, atomically.

    Args:
        path: The file, which ends in `.npy`.
        tokens: Token numbers, `(tokens,)`.

    Returns:
        The path.
    """
    with write_atomically(path) as draft, draft.open("wb") as file:
        np.save(file, tokens, allow_pickle=False)
    return Path(path)


def read_tokens(path: Path | str) -> Tokens:
    """Map a token file into memory, without reading it.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is not a token file, or not complete.
    """
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a complete token file: {error}") from error
    if tokens.dtype != np.uint16 or tokens.ndim != 1:
        raise ValueError(f"{path} is not a token file: it holds {tokens.ndim}-d {tokens.dtype}")
    mapped: Tokens = tokens
    return mapped


def split_text(text: str, fraction: float) -> tuple[str, str]:
    """Split a text into its beginning, for training, and its end, for validation.

    Args:
        text: The text.
        fraction: Fraction of the characters that the end has.

    Returns:
        The beginning and the end.

    Examples:
        >>> split_text("0123456789", 0.2)
        ('01234567', '89')
    """
    cut = len(text) - round(fraction * len(text))
    return text[:cut], text[cut:]


class Windows(Dataset[Tensor]):
    """Windows of `context + 1` tokens: the first `context` are inputs, the last `context` targets.

    Args:
        tokens: Token numbers, `(tokens,)`; usually a mapped file.
        context: Tokens that the model reads at once.
        stride: Tokens from the start of a window to the next one's; `context` by default, so that every token
            but the first is a target once.
        most: Keep at most this many windows, evenly spread over the text; all where None.
        name: What the text is called in errors.

    Raises:
        ValueError: Where `context`, `stride` or `most` is not positive, or the text is shorter than a window.

    Examples:
        >>> windows = Windows(np.arange(10, dtype=np.uint16), 4)
        >>> len(windows), windows[1].tolist()
        (2, [4, 5, 6, 7, 8])
    """

    def __init__(
        self,
        tokens: Tokens,
        context: int,
        *,
        stride: int | None = None,
        most: int | None = None,
        name: str = "the text",
    ) -> None:
        for option, value in (("context", context), ("stride", stride), ("windows", most)):
            if value is not None and value < 1:
                raise ValueError(f"`{option}` (={value}) must be a positive integer")
        if len(tokens) < context + 1:
            raise ValueError(
                f"{name} has {len(tokens)} tokens, fewer than `data.context` (={context}) + 1; use a longer "
                "text or a smaller context"
            )
        self.tokens = tokens
        self.context = context
        stride = context if stride is None else stride
        count = (len(tokens) - context - 1) // stride + 1
        kept = count if most is None else min(count, most)
        # Evenly spread, the first window always among them.
        self.starts = np.arange(kept, dtype=np.int64) * count // kept * stride

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Int64[Tensor, " window"]:
        """Return a window."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return windows, read together."""
        rows = self.starts[np.asarray(indices)][:, None] + np.arange(self.context + 1)
        return list(torch.from_numpy(self.tokens[rows].astype(np.int64)))
