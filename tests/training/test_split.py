import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.training.split import contained, keep_back
from common.errors import ConfigError

pytestmark = pytest.mark.train

WORDS = st.sampled_from(["a", "fine", "dull", "film", "plot"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=9).map(" ".join), min_size=8, max_size=40)


def runs_within(text: str, host: str) -> bool:
    """Whether ``text`` stands in ``host``, word by word; the slow, plain way."""
    return f" {text} " in f" {host} "


@settings(max_examples=60)
@given(texts=TEXTS, seed=st.integers(0, 5))
def test_nothing_kept_back_is_given_away_by_training(texts: list[str], seed: int) -> None:
    whole = [text for text in set(texts) if not any(runs_within(text, host) for host in set(texts) - {text})]
    if len(whole) < 2:
        return
    split = keep_back(texts, None, len(whole) // 2, seed)

    kept = {texts[row] for row in split.kept_back}
    training = {texts[row] for row in split.training}
    stays = set(whole) - kept

    assert kept <= set(whole)
    assert not kept & training
    for text in training:
        assert not any(runs_within(text, host) for host in kept) or any(runs_within(text, host) for host in stays)


@settings(max_examples=60)
@given(texts=TEXTS, seed=st.integers(0, 5))
def test_every_row_has_exactly_one_use(texts: list[str], seed: int) -> None:
    try:
        split = keep_back(texts, None, 1, seed)
    except ConfigError:
        return

    assert sorted((*split.kept_back, *split.training, *split.dropped)) == list(range(len(texts)))


@settings(max_examples=60)
@given(hosts=TEXTS, sequences=TEXTS)
def test_contained_finds_what_a_plain_search_finds(hosts: list[str], sequences: list[str]) -> None:
    found = contained([tuple(host.split()) for host in hosts], [tuple(text.split()) for text in sequences])

    assert {" ".join(words) for words in found} == {
        text for text in sequences if any(runs_within(text, host) for host in hosts)
    }


def test_the_draw_is_decided_by_the_seed() -> None:
    texts = [f"sentence {number} ends here" for number in range(50)]

    assert keep_back(texts, None, 10, 1) == keep_back(texts, None, 10, 1)
    assert keep_back(texts, None, 10, 1) != keep_back(texts, None, 10, 2)


def test_a_text_of_a_pair_is_no_part_of_the_other() -> None:
    split = keep_back(["a b", "b c", "a", "x"], ["c", "d", "b c", "y"], 2, 0)

    assert split.whole_texts == 4


def test_keeping_back_more_than_half_is_refused_with_a_number() -> None:
    with pytest.raises(ConfigError, match="--keep-back 2"):
        keep_back([f"text {number}" for number in range(10)], None, 6, 0)
