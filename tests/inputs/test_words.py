"""The memory of words: to the last id what the tokenizer alone gives, and bounded."""

import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Token, Tokenizer, models, normalizers, pre_tokenizers, processors

from common.inputs import text as texts
from common.inputs import words
from common.inputs.text import Encoded, TextEncoder
from common.inputs.words import MAX_WORD_CHARACTERS, MAX_WORDS, words_of
from common.model.bundle import open_bundle
from common.model.manifest import TOKENIZER_FILE

MAX_TOKENS = 16
ADDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "movie",
    "Unbelievableness",
    "x" * 40,
    "y" * 99,
    "z" * 101,
    "don't",
    "3.14",
    *ADDED,
    "[mask]",
    "[MAS",
    "K]",
    "naïve",
)
MIXED = st.lists(
    st.sampled_from(WORDS)
    | st.text(string.printable, max_size=8)
    | st.text(st.characters(max_codepoint=0x7F), max_size=8)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
    | st.sampled_from((" ", "\t", "\n", "\r", "\x0b", "\x0c", "\x1f", "\x7f", "\x00")),
    max_size=24,
)


@cache
def shipped() -> Path:
    return open_bundle().path(TOKENIZER_FILE)


@cache
def encoder(max_tokens: int = MAX_TOKENS) -> TextEncoder:
    return TextEncoder(shipped(), max_tokens)


@cache
def plain(max_tokens: int = MAX_TOKENS) -> Tokenizer:
    """The shipped tokenizer with nothing around it."""
    tokenizer = Tokenizer.from_file(str(shipped()))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def assert_same(encoded: Encoded, text: str, max_tokens: int = MAX_TOKENS) -> None:
    expected = plain(max_tokens).encode(text)
    assert encoded.input_ids.tolist() == [expected.ids]
    assert encoded.token_type_ids.tolist() == [expected.type_ids]
    assert encoded.is_truncated == bool(expected.overflowing)
    assert encoded.input_ids.dtype == encoded.token_type_ids.dtype == np.dtype(np.int64)
    assert encoded.input_ids.flags.writeable


@given(MIXED.map("".join) | MIXED.map(" ".join))
def test_the_ids_are_the_tokenizers_own(text: str) -> None:
    for _ in range(2):  # learnt, then remembered
        if text.strip():
            assert_same(encoder().encode(text), text)


@given(st.text(string.printable, min_size=1, max_size=60))
def test_the_ids_of_printable_texts_are_the_tokenizers_own(text: str) -> None:
    if text.strip():
        assert_same(encoder().encode(text), text)


@pytest.mark.parametrize("max_tokens", [3, 4, 7, 8, 9, 128])
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "one two three four five",
        "one two three four five six",
        "unbelievableness " * 3,
        "UPPER lower MiXeD, punctuation... and_underscores!",
        string.punctuation,
        " leading\tand\r\ntrailing \n",
        f"{'x' * 100} {'x' * 101} fine",
        "the [MASK] of [CLS] and [mask]",
        "array[0] [ ] [SEP",
        "cut\x00here and\x7fthere and\x0bthere",
        "naïve café — 映画",
        "\x00",
        "word " * 200,
    ],
)
def test_tricky_texts_are_cut_where_the_tokenizer_cuts_them(text: str, max_tokens: int) -> None:
    for _ in range(2):
        assert_same(encoder(max_tokens).encode(text), text, max_tokens)


@pytest.mark.parametrize("character", [chr(code) for code in range(128)])
def test_each_ascii_character_parts_words_as_the_tokenizer_says(character: str) -> None:
    text = f"he{character}llo {character} {character * 2}."

    assert_same(encoder().encode(text), text)


def test_a_text_beyond_the_limit_of_characters_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_CHARACTERS", 9)

    encoded = encoder().encode("one two three")

    assert encoded.is_truncated
    assert encoded.input_ids.tolist() == [plain().encode("one two t").ids]


def test_a_word_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = words_of(plain(), MAX_TOKENS)
    assert memory is not None
    asked: list[str] = []
    tokenize: Callable[[str], list[Token]] = plain().model.tokenize

    def ask(word: str) -> list[Token]:
        asked.append(word)
        return tokenize(word)

    monkeypatch.setattr(memory._ids, "_tokenize", ask)

    memory.encode("The movie, the MOVIE")
    memory.encode("the movie")

    assert asked == ["the", "movie", ","]


def test_the_memory_is_bounded_in_words_and_in_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 10)
    memory = TextEncoder(shipped(), MAX_TOKENS)
    assert memory._words is not None

    for number in range(50):
        text = f"number {number} " + "x" * (MAX_WORD_CHARACTERS - 5 + number)
        assert_same(memory.encode(text), text)

        assert len(memory._words._ids) <= 10
        assert max(map(len, memory._words._ids)) <= MAX_WORD_CHARACTERS


def test_a_long_text_fills_the_memory_with_no_more_than_it_has_room_for() -> None:
    memory = words_of(plain(), MAX_TOKENS)
    assert memory is not None

    memory.encode(" ".join(map(str, range(MAX_WORDS))))

    assert len(memory._ids) < MAX_TOKENS


def test_threads_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 20)
    shared = TextEncoder(shipped(), MAX_TOKENS)
    spoken = [f"word {number % 37} of {number % 11}, again" for number in range(2000)]

    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(shared.encode, spoken))

    for text, one in zip(spoken, encoded, strict=True):
        assert_same(one, text)


def test_pairs_are_the_tokenizers() -> None:
    encoder = TextEncoder(shipped(), MAX_TOKENS, is_pair=True)

    encoded = encoder.encode("the movie", "was good")

    expected = plain().encode("the movie", "was good")
    assert encoder._words is None
    assert encoded.input_ids.tolist() == [expected.ids]
    assert encoded.token_type_ids.tolist() == [expected.type_ids]


def bert_like() -> Tokenizer:
    vocabulary = {word: place for place, word in enumerate(("[UNK]", "[CLS]", "[SEP]", "a", "movie", "##s"))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = framed("[CLS] $A [SEP]")
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def framed(single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])


def test_a_tokenizer_without_added_tokens_has_a_memory() -> None:
    memory = words_of(bert_like(), MAX_TOKENS)
    assert memory is not None

    encoded = memory.encode("A movies [CLS]")

    assert encoded is not None
    assert encoded[0].tolist() == [bert_like().encode("A movies [CLS]").ids]


@pytest.mark.parametrize(
    "alter",
    [
        lambda it: setattr(it, "normalizer", normalizers.BertNormalizer(lowercase=False)),
        lambda it: setattr(it, "normalizer", normalizers.Lowercase()),
        lambda it: setattr(it, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda it: setattr(it, "model", models.WordLevel({"[UNK]": 0, "a": 3}, unk_token="[UNK]")),
        lambda it: setattr(it, "post_processor", framed("$A [SEP]")),
        lambda it: setattr(it, "post_processor", framed("[CLS] [SEP] $A")),
        lambda it: setattr(it, "post_processor", framed("[CLS] $A [SEP] [SEP]")),
        lambda it: it.enable_truncation(2),
        lambda it: it.add_tokens([AddedToken("movie star", normalized=True)]),
    ],
)
def test_a_tokenizer_of_another_kind_has_none(alter: Callable[[Tokenizer], None]) -> None:
    tokenizer = bert_like()

    alter(tokenizer)

    assert words_of(tokenizer, MAX_TOKENS) is None
