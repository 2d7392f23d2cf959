"""A memory of words: what texts say again and again is tokenised once.

The ids are the tokenizer's own, to the last one: a text that could be read in any other way is left to it.
"""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tokenizers import Token, Tokenizer, models, normalizers, pre_tokenizers

MAX_WORDS = 16_384  # some 2 MB of English
MAX_WORD_CHARACTERS = 32  # longer is rarely a word and seldom comes twice

_PLAIN = re.compile(r"[\t\n\r -~]*")  # what BertNormalizer changes in nothing but case
_WORDS = re.compile(r"[a-z0-9]+|[^ \t\n\r]")  # BertPreTokenizer of a plain text: each sign of punctuation is a word


class Words:
    """The ids of plain ASCII texts for one BERT tokenizer; may be called by several threads at once."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Take a tokenizer that `words_of` finds fit."""
        first, last = np.array(tokenizer.encode("").ids, np.int64)
        self._first, self._last = first.tobytes(), last.tobytes()
        self._max_words = max_tokens - 1  # one more than there is room for: each is an id at least
        self._max_bytes = (max_tokens - 2) * first.itemsize
        self._ids = _Memory(tokenizer.model.tokenize)
        added = (token.content for token in tokenizer.get_added_tokens_decoder().values())
        self._added = re.compile("|".join(map(re.escape, added)) or "(?!)")

    def encode(self, text: str) -> tuple[NDArray[np.int64], bool] | None:
        """Give the ids [1, sequence] and whether they were cut; None leaves the text to the tokenizer."""
        if not _PLAIN.fullmatch(text) or self._added.search(text):
            return None
        words = _WORDS.findall(text.lower())[: self._max_words]
        ids = b"".join(map(self._ids.__getitem__, words))
        whole = bytearray().join((self._first, ids[: self._max_bytes], self._last))
        return np.frombuffer(whole, np.int64)[np.newaxis], len(ids) > self._max_bytes


def words_of(tokenizer: Tokenizer, max_tokens: int) -> Words | None:
    """Give a memory of the tokenizer's words; None where it does not read plain texts word by word, as BERT's does.

    Args:
        tokenizer: Its truncation is set to ``max_tokens``.
        max_tokens: The limit, with the token before a text and the one behind it.
    """
    normalizer = tokenizer.normalizer
    is_bert = (
        isinstance(normalizer, normalizers.BertNormalizer)
        and normalizer.lowercase
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.model, models.WordPiece)
        # One that is sought in the normalised text could be found where the text does not show it.
        and not any(token.normalized for token in tokenizer.get_added_tokens_decoder().values())
    )
    return Words(tokenizer, max_tokens) if is_bert and _is_framed(tokenizer) else None


def _is_framed(tokenizer: Tokenizer) -> bool:
    """Say whether one token comes before a text and one behind it."""
    frame = tokenizer.encode("").ids
    word = [token.id for token in tokenizer.model.tokenize("a")]
    return len(frame) == 2 and tokenizer.encode("a").ids == [frame[0], *word, frame[1]]


class _Memory(dict[str, bytes]):
    """The ids of lower-case words, looked up in the model when first asked for.

    Forgets all of them when full: the frequent ones are back within a few texts, where a memory that only stopped
    to learn would keep the names and numbers of its first day forever, and one that kept count would pay at each hit.
    """

    def __init__(self, tokenize: Callable[[str], list[Token]]) -> None:
        super().__init__()
        self._tokenize = tokenize

    def __missing__(self, word: str) -> bytes:
        ids = np.array([token.id for token in self._tokenize(word)], np.int64).tobytes()
        if len(word) <= MAX_WORD_CHARACTERS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids
