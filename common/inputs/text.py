"""Text to token ids, cut at the model's limit."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.inputs.tokenizer import open_tokenizer
from common.inputs.words import words_of

MAX_CHARACTERS = 100_000


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """One input as the embedding segment takes it; no padding."""

    input_ids: NDArray[np.int64]  # [1, sequence]
    token_type_ids: NDArray[np.int64]  # [1, sequence]
    is_truncated: bool

    @property
    def attention_mask(self) -> NDArray[np.int64]:
        """All 1: [1, sequence]."""
        return np.ones_like(self.input_ids)


class TextEncoder:
    """The bundle's tokenizer with its length limit."""

    def __init__(self, path: Path, max_tokens: int, *, is_pair: bool = False) -> None:
        self._tokenizer = open_tokenizer(path, max_tokens)
        self._is_pair = is_pair
        self._words = None if is_pair else words_of(self._tokenizer, max_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return int(self._tokenizer.get_vocab_size())

    def special_ids(self) -> frozenset[int]:
        """Give the ids that stand around every text, whatever it says."""
        return frozenset(self._tokenizer.encode("", "" if self._is_pair else None).ids)

    def encode(self, text: str, pair: str | None = None) -> Encoded:
        """Tokenise one text, or a pair.

        Raises:
            InputError: The text is empty, or a pair was given or missed against the model's task.
        """
        if not text.strip():
            raise InputError("the text is empty; send at least one word")
        if (pair is not None) != self._is_pair:
            raise InputError(f"this model takes {'a pair of texts' if self._is_pair else 'one text'} per input")
        is_cut = len(text) > MAX_CHARACTERS or len(pair or "") > MAX_CHARACTERS
        text = text[:MAX_CHARACTERS]
        known = self._words.encode(text) if self._words else None
        if known is not None:
            input_ids, is_overlong = known
            types = np.zeros(input_ids.shape, np.int64)
            return Encoded(input_ids=input_ids, token_type_ids=types, is_truncated=is_cut or is_overlong)
        encoding = self._tokenizer.encode(text, pair[:MAX_CHARACTERS] if pair else pair)
        input_ids = np.array([encoding.ids], np.int64)
        return Encoded(
            input_ids=input_ids,
            token_type_ids=np.array([encoding.type_ids], np.int64) if self._is_pair else np.zeros_like(input_ids),
            is_truncated=is_cut or bool(encoding.overflowing),
        )
