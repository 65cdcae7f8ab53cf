"""Tokenizers: round trips, the oracle of the tokenizers library, and limits."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmata.apps.language_model import tokenizers as own
from lemmata.apps.language_model.tokenizers import (
    UNKNOWN,
    BytePairTokenizer,
    CharacterTokenizer,
    tokenizer_from_json,
    train_tokenizer,
)

TEXT = (
    "A ship with white sails goes over the dark water.\n\nThe sea is calm, the sea is wide;\n  over it.\n" * 9
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
BPE = BytePairTokenizer.train(TEXT, 300)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_characters_come_back(text: str) -> None:
    tokenizer = CharacterTokenizer.train(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocabulary == len(set(text) - {UNKNOWN}) + 1
    assert tokenizer.unknown(text).strip(UNKNOWN) == ""


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_byte_pairs_give_every_text_back(text: str) -> None:
    assert BPE.decode(BPE.encode(text)) == text


@settings(deadline=None, max_examples=40)
@given(TEXTS)
def test_the_library_reads_the_same_numbers_from_our_json(text: str) -> None:
    for tokenizer in (CharacterTokenizer.train(TEXT + "äß𝄞"), BPE):
        library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
        encoded = library.encode(text)
        assert encoded.ids == tokenizer.encode(text).tolist()
        assert [start for start, _ in encoded.offsets] == tokenizer.starts(text).tolist()
        assert library.decode(encoded.ids, skip_special_tokens=False) == tokenizer.decode(encoded.ids)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_cutting_a_long_text_changes_nothing(text: str) -> None:
    text = TEXT + text + "\n" + text
    whole, places = BPE.encode(text), BPE.starts(text)
    before = own._PIECE
    try:
        own._PIECE = 7
        assert len(own._pieces(text)) > 5
        assert BPE.encode(text).tolist() == whole.tolist()
        assert BPE.starts(text).tolist() == places.tolist()
    finally:
        own._PIECE = before


def test_unknown_characters_share_one_number() -> None:
    tokenizer = CharacterTokenizer.train("hello")
    assert tokenizer.encode("hex!").tolist() == [2, 1, 0, 0]
    assert tokenizer.unknown("hex!") == "!x"
    assert tokenizer.decode([2, 0]) == "h" + UNKNOWN
    assert CharacterTokenizer("").encode("ab").tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_json_gives_the_same_tokenizer_back(kind: str) -> None:
    tokenizer = train_tokenizer(kind, TEXT, vocabulary=280)
    again = tokenizer_from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer)
    assert again.vocabulary == tokenizer.vocabulary
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert tokenizer.encode(TEXT).dtype == np.uint16


def test_byte_pairs_are_learned_from_the_text_alone_and_the_same_each_time() -> None:
    again = BytePairTokenizer.train(TEXT, 300)
    assert again.to_json() == BPE.to_json()
    assert len(BPE.encode(TEXT)) < len(TEXT) / 1.5
    assert 256 < BPE.vocabulary <= 300


def test_limits_are_told() -> None:
    for vocabulary in (255, 65536):
        with pytest.raises(
            ValueError, match=rf"`data.vocabulary` \(={vocabulary}\) must lie in \[256, 65535\]"
        ):
            train_tokenizer("bpe", TEXT, vocabulary=vocabulary)
    with pytest.raises(ValueError, match="expected one of character, bpe"):
        train_tokenizer("words", TEXT)
    every = "".join(chr(point) for point in range(0x10000, 0x20000))
    with pytest.raises(ValueError, match="the character vocabulary has 65537 tokens, more than the 65535"):
        CharacterTokenizer.train(every)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": {"type": "BPE"}}', '{"model": 3}'])
def test_other_json_is_no_tokenizer(text: str) -> None:
    with pytest.raises(ValueError, match="not a tokenizer of this app"):
        tokenizer_from_json(text)
