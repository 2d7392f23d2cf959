"""The calibration split: labelled inputs that training never sees, alike to what will be asked.

Texts that are contained in other texts of the same file (SST-2's phrases) are never kept back, and a training
row that gives away a kept-back text is dropped.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from common.errors import ConfigError

PAIR_BOUNDARY = "\x00"  # a word that no text has, between the words of a pair

_PREFIX_WORDS = 3

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows of one file, by their use; the three are disjoint and cover the file."""

    kept_back: tuple[int, ...]
    training: tuple[int, ...]
    dropped: tuple[int, ...]
    whole_texts: int


def keep_back(texts: Sequence[str], pairs: Sequence[str] | None, count: int, seed: int) -> Split:
    """Draw ``count`` whole texts by seed, and drop the training rows that leak them.

    A text is *whole* if no other row of the file contains it as a contiguous sequence of words. In SST-2 the whole
    texts are the sentences: their lengths follow those of its dev file. A training row *leaks* if it is contained in
    a kept-back text (or equals it) and in no whole text that stays in training.

    Raises:
        ConfigError: Fewer than two whole texts per one kept back.
    """
    rows = [_words(text, None if pairs is None else pairs[row]) for row, text in enumerate(texts)]
    distinct = dict.fromkeys(rows)
    inner = contained(distinct, distinct, proper=True)
    whole = [words for words in distinct if words not in inner]
    if 2 * count > len(whole):
        raise ConfigError(
            f"keep_back: {count} of {len(whole)} whole texts would leave less than half of them to train on; "
            f"give more data, or --keep-back {len(whole) // 4}"
        )
    random.Random(seed).shuffle(whole)  # noqa: S311 - a reproducible draw, no secret
    kept, stays = set(whole[:count]), set(whole[count:])
    leaked = (contained(kept, distinct) - contained(stays, distinct)) | kept
    first = {words: row for row, words in reversed(list(enumerate(rows)))}
    kept_back = sorted(first[words] for words in kept)
    return Split(
        kept_back=tuple(kept_back),
        training=_rows_of(rows, lambda words: words not in leaked),
        dropped=tuple(sorted(set(_rows_of(rows, leaked.__contains__)) - set(kept_back))),
        whole_texts=len(whole),
    )


def _rows_of(rows: Sequence[Words], is_wanted: Callable[[Words], bool]) -> tuple[int, ...]:
    return tuple(row for row, words in enumerate(rows) if is_wanted(words))


def contained(hosts: Iterable[Words], sequences: Iterable[Words], *, proper: bool = False) -> set[Words]:
    """Those of ``sequences`` that some host contains as a contiguous run of words.

    Args:
        hosts: Sequences to search in.
        sequences: Sequences to search for.
        proper: Do not count a host as containing itself.
    """
    by_prefix: dict[Words, list[Words]] = defaultdict(list)
    for words in set(sequences):
        by_prefix[words[:_PREFIX_WORDS]].append(words)
    found: set[Words] = set()
    for host in hosts:
        for start in range(len(host)):
            for width in range(1, _PREFIX_WORDS + 1):
                candidates = by_prefix.get(host[start : start + width], ())
                found.update(
                    words
                    for words in candidates
                    if host[start : start + len(words)] == words and not (proper and words == host)
                )
    return found


def _words(text: str, pair: str | None) -> Words:
    words = tuple(text.casefold().split())
    return words if pair is None else (*words, PAIR_BOUNDARY, *pair.casefold().split())
