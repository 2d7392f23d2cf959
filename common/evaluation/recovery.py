"""Texts divided into known and secret ones, and how many of the secret tokens a guesser names."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.evaluation.metrics import Bootstrap, Interval, interval
from common.routing.evidence import Floats, Indices

_FEW = 5
_GRAMMAR_SHARE = 0.5  # of all tokens: the commonest ones, which are grammar rather than content
_LEAST_TEXTS = 10

TokenIds = tuple[int, ...]  # of a text, special ones included


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share of tokens, with its interval over resampled texts."""

    value: float
    interval: Interval


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a guesser names."""

    first: Share  # by the first guess
    among_five: Share  # by one of the first five
    content: Share  # of the content tokens, by the first guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """Texts without their special tokens."""

    rows: tuple[int, ...]  # of the texts
    places: tuple[Indices, ...]  # of each text's tokens in its sequence
    ids: Indices  # [N], text after text

    def gather(self, states: Sequence[Floats]) -> Floats:
        """Put the states [S, W] of this half's texts one after another: [N, W]."""
        return np.concatenate([hidden[places] for hidden, places in zip(states, self.places, strict=True)])


class Texts:
    """Known texts, from which an attack learns, and secret ones, on which it is tried; no text is in both."""

    def __init__(self, sequences: Sequence[TokenIds], special_ids: frozenset[int], vocabulary: int, seed: int) -> None:
        """Divide texts at random: a fifth is secret.

        Args:
            sequences: Token ids of every text; texts of the same tokens count as one.
            special_ids: Tokens that every text has.
            vocabulary: Number of token ids.
            seed: Of the division.

        Raises:
            ConfigError: There are too few different texts.
        """
        known, secret = divide(sequences, seed)
        self.known = _half(sequences, known, special_ids)
        self.secret = _half(sequences, secret, special_ids)
        counts = np.bincount(self.known.ids, minlength=vocabulary)
        by_count = np.argsort(-counts, kind="stable")
        self._places = np.argsort(by_count)  # [V], 0 for the commonest
        grammar = np.searchsorted(np.cumsum(counts[by_count]), _GRAMMAR_SHARE * counts.sum())
        self._is_content = self._places[self.secret.ids] > grammar  # [N]
        self._text_of = np.repeat(np.arange(len(secret)), [len(places) for places in self.secret.places])  # [N]

    @property
    def content_share(self) -> float:
        """Share of content tokens among the secret ones."""
        return float(self._is_content.mean())

    @property
    def unmet_share(self) -> float:
        """Share of the secret tokens that no known text has."""
        return float(np.isin(self.secret.ids, self.known.ids, invert=True).mean())

    def base(self) -> Recovery:
        """Recover by naming the commonest tokens, whatever the states are."""
        return self.recovery(self._places[self.secret.ids])

    def recovery(self, ranks: NDArray[np.intp]) -> Recovery:
        """Sum up the ranks [N] that a guesser gave the true tokens, 0 being its first guess."""
        return Recovery(
            first=self._share(ranks == 0, np.ones(len(ranks), bool)),
            among_five=self._share(ranks < _FEW, np.ones(len(ranks), bool)),
            content=self._share(ranks == 0, self._is_content),
        )

    def _share(self, is_named: NDArray[np.bool_], counts: NDArray[np.bool_]) -> Share:
        """Share of the tokens that count; texts are resampled, for the tokens of one text hang together."""
        texts = len(self.secret.rows)
        sums = [np.bincount(self._text_of, weights=which, minlength=texts) for which in (is_named & counts, counts)]
        by_text = np.stack(sums, axis=1).astype(np.float64)  # [texts, 2]
        resampled = Bootstrap(texts).means(by_text)  # [R, 2]
        named, all_ = by_text.sum(axis=0)
        return Share(value=float(named / all_), interval=interval(resampled[:, 0] / resampled[:, 1]))


def divide(sequences: Sequence[TokenIds], seed: int, secret_share: float = 0.2) -> tuple[list[int], list[int]]:
    """Draw rows of different texts: the known ones, and the secret ones.

    Raises:
        ConfigError: There are too few different texts.
    """
    rows = {tokens: row for row, tokens in enumerate(sequences)}
    if len(rows) < _LEAST_TEXTS:
        raise ConfigError(f"{len(rows)} different texts are too few for an attack; give at least {_LEAST_TEXTS}")
    drawn = np.random.default_rng(seed).permutation(list(rows.values())).tolist()
    cut = round(secret_share * len(drawn))
    return drawn[cut:], drawn[:cut]


def _half(sequences: Sequence[TokenIds], rows: Sequence[int], special_ids: frozenset[int]) -> Half:
    special = np.array(sorted(special_ids))
    ids = [np.array(sequences[row], np.intp) for row in rows]
    places = tuple(np.flatnonzero(~np.isin(each, special)) for each in ids)
    return Half(
        rows=tuple(rows),
        places=places,
        ids=np.concatenate([each[kept] for each, kept in zip(ids, places, strict=True)]),
    )
