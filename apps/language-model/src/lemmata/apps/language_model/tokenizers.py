"""From text to token numbers and back: single characters, or byte pairs.

Both are learned from the training text alone, hold no state besides their vocabulary, and are stored as JSON
in the format of the `tokenizers` library, which reads it without this app.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LARGEST_VOCABULARY",
    "UNKNOWN",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "Tokenizer",
    "tokenizer_from_json",
    "train_tokenizer",
]

Tokens = npt.NDArray[np.uint16]

# Token files hold unsigned 16-bit numbers.
LARGEST_VOCABULARY = 65535

# What stands for a character that the training text does not have.
UNKNOWN = "\N{REPLACEMENT CHARACTER}"

# Pieces of text that are encoded at once; each costs some hundred bytes a token on the way.
_PIECE = 2**20


class Tokenizer(ABC):
    """A map between text and token numbers."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of tokens."""

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Return the token numbers of a text, `(tokens,)`."""

    @abstractmethod
    def starts(self, text: str) -> npt.NDArray[np.int64]:
        """Return the place in the text of the first character of each of its tokens, `(tokens,)`."""

    @abstractmethod
    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of token numbers."""

    @abstractmethod
    def to_json(self) -> str:
        """Return the tokenizer as JSON, which `tokenizers.Tokenizer.from_str` and this app read."""

    @abstractmethod
    def unknown(self, text: str) -> str:
        """Return the characters of a text that the tokenizer cannot give back, each once, sorted."""


class CharacterTokenizer(Tokenizer):
    """One token a character; number 0 stands for every character that is not known.

    Args:
        characters: The known characters, in the order of their numbers from 1 on.

    Raises:
        ValueError: Where a character comes twice, or there are too many for 16-bit numbers.

    Examples:
        >>> tokenizer = CharacterTokenizer("abc")
        >>> tokenizer.encode("cab!").tolist()
        [3, 1, 2, 0]
        >>> tokenizer.decode([3, 1, 2])
        'cab'
    """

    def __init__(self, characters: str) -> None:
        if len(set(characters)) < len(characters) or UNKNOWN in characters:
            raise ValueError(f"`characters` must each come once, and not include {UNKNOWN!r}")
        _check_vocabulary(len(characters) + 1, "character")
        self.characters = characters
        self._by_number = np.frombuffer((UNKNOWN + characters).encode("utf-32-le"), dtype=np.uint32)
        self._order = np.argsort(self._by_number[1:], kind="stable")
        self._sorted = self._by_number[1:][self._order]

    @classmethod
    def train(cls, text: str) -> "CharacterTokenizer":
        """Learn the characters of a text, sorted."""
        return cls("".join(sorted(set(text) - {UNKNOWN})))

    @property
    def vocabulary(self) -> int:
        """The number of characters, and one for the unknown."""
        return len(self.characters) + 1

    def encode(self, text: str) -> Tokens:
        """Return one number a character, 0 for unknown ones."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        if not self.characters:
            return np.zeros(len(points), dtype=np.uint16)
        place = np.minimum(np.searchsorted(self._sorted, points), len(self._sorted) - 1)
        known = self._sorted[place] == points
        return np.where(known, self._order[place] + 1, 0).astype(np.uint16)

    def starts(self, text: str) -> npt.NDArray[np.int64]:
        """Return the places of all characters."""
        return np.arange(len(text), dtype=np.int64)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the characters of token numbers."""
        return self._by_number[np.asarray(tokens, dtype=np.int64)].tobytes().decode("utf-32-le")

    def unknown(self, text: str) -> str:
        """Return the characters of a text that are not known."""
        return "".join(sorted(set(text) - set(self.characters)))

    def to_json(self) -> str:
        """Return a `tokenizers` word-level model that splits text at every character."""
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Library

        vocabulary = {character: number for number, character in enumerate(UNKNOWN + self.characters)}
        library = Library(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        library.decoder = decoders.Fuse()
        return str(library.to_str())


class BytePairTokenizer(Tokenizer):
    """Byte pairs merged by how often they meet; every text can be encoded and given back.

    Args:
        library: A byte-level BPE tokenizer of the `tokenizers` library.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        _check_vocabulary(self.vocabulary, "BPE")

    @classmethod
    def train(cls, text: str, vocabulary: int) -> "BytePairTokenizer":
        """Learn a vocabulary from a text, the 256 bytes first.

        Raises:
            ValueError: Where `vocabulary` is below 256 or above 65535.
        """
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if not 256 <= vocabulary <= LARGEST_VOCABULARY:
            raise ValueError(f"`data.vocabulary` (={vocabulary}) must lie in [256, {LARGEST_VOCABULARY}]")
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        library.train_from_iterator(_pieces(text), trainer)
        return cls(library)

    @property
    def vocabulary(self) -> int:
        """The number of tokens; fewer than asked for where the text has no more pairs to merge."""
        return int(self.library.get_vocab_size())

    def encode(self, text: str) -> Tokens:
        """Return the token numbers of a text."""
        numbers = [np.asarray(self.library.encode(piece).ids, dtype=np.uint16) for piece in _pieces(text)]
        return np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.uint16)

    def starts(self, text: str) -> npt.NDArray[np.int64]:
        """Return the places of the tokens; those within one character share its place."""
        places = [np.zeros(0, dtype=np.int64)]
        offset = 0
        for piece in _pieces(text):
            offsets = self.library.encode(piece).offsets
            places.append(offset + np.asarray([start for start, _ in offsets], dtype=np.int64))
            offset += len(piece)
        return np.concatenate(places)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> str:
        """Return the text of token numbers; bytes that are no character become U+FFFD."""
        numbers = np.asarray(tokens, dtype=np.int64).tolist()
        return str(self.library.decode(numbers, skip_special_tokens=False))

    def unknown(self, text: str) -> str:  # noqa: ARG002  # bytes make up every character
        """Return nothing: bytes make up every character."""
        return ""

    def to_json(self) -> str:
        """Return the library's JSON."""
        return str(self.library.to_str())


def train_tokenizer(kind: str, text: str, *, vocabulary: int = 1024) -> Tokenizer:
    """Learn a tokenizer from the training text.

    Args:
        kind: `character` or `bpe`.
        text: The training text.
        vocabulary: The number of tokens of `bpe`; `character` has as many as the text has characters.

    Returns:
        The tokenizer.

    Raises:
        ValueError: Where the kind is unknown or the vocabulary does not fit 16-bit numbers.
    """
    if kind == "character":
        return CharacterTokenizer.train(text)
    if kind == "bpe":
        return BytePairTokenizer.train(text, vocabulary)
    raise ValueError(f"`data.tokenizer` (={kind!r}) is not known; expected one of character, bpe")


def tokenizer_from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote.

    Raises:
        ValueError: Where the text is not such a tokenizer.

    Examples:
        >>> tokenizer_from_json(CharacterTokenizer("xyz").to_json()).encode("zzx").tolist()
        [3, 3, 1]
    """
    from tokenizers import Tokenizer as Library

    try:
        model = json.loads(text)["model"]
        if model["type"] == "WordLevel":
            by_number = sorted(model["vocab"], key=model["vocab"].__getitem__)
            return CharacterTokenizer("".join(by_number[1:]))
        return BytePairTokenizer(Library.from_str(text))
    except ValueError as error:
        raise ValueError(f"not a tokenizer of this app: {error}") from error
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"not a tokenizer of this app: {type(error).__name__}: {error}") from error


def _check_vocabulary(size: int, kind: str) -> None:
    """Raise where token numbers do not fit 16 bits."""
    if size > LARGEST_VOCABULARY:
        raise ValueError(
            f"the {kind} vocabulary has {size} tokens, more than the {LARGEST_VOCABULARY} that 16-bit token "
            "files hold; choose `data.tokenizer` bpe with a smaller `data.vocabulary`"
        )


# Between a line end and a character that is no space, byte pairs never meet: cutting there changes nothing.
_CUT = re.compile(r"\n(?=\S)")


def _pieces(text: str) -> list[str]:
    """Cut a text into pieces that are encoded as the whole would be."""
    pieces = []
    start = 0
    while start < len(text):
        cut = _CUT.search(text, start + _PIECE) if start + _PIECE < len(text) else None
        end = len(text) if cut is None else cut.end()
        pieces.append(text[start:end])
        start = end
    return pieces
