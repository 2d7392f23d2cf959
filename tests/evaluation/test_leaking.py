"""What an attack recovers from hidden states, on a tiny bundle and on states made for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import sentences, write_tsv
from typer.testing import CliRunner

from common.cli.root import app
from common.errors import ConfigError
from common.evaluation.inversion import Inversion
from common.evaluation.leaking import Leak, measure_leaks
from common.evaluation.recovery import Texts, divide
from common.model.bundle import open_bundle
from tests.engine.test_thin_links import BUDGETS, SPLIT, with_link

LOUD = 8.0


@pytest.fixture(scope="module")
def leaks(tiny_bundle: Path) -> dict[tuple[int, str, float], Leak]:
    """The attack's results on a tiny bundle by split point, codec and noise."""
    texts, labels = zip(*sentences(200, seed=7), strict=True)
    report = measure_leaks(
        open_bundle(tiny_bundle), [(text, None) for text in texts], [int(label) for label in labels], noises=[LOUD]
    )
    assert report.known_texts == 4 * report.secret_texts
    return {(leak.split_point, leak.codec, leak.noise): leak for leak in report.leaks}


def test_the_embedding_output_gives_every_token_away(leaks: dict[tuple[int, str, float], Leak]) -> None:
    assert leaks[0, "float32", 0.0].recovery.first.value > 0.99


@pytest.mark.parametrize("split_point", [0, 1, 2])
def test_noise_lowers_the_recovery(leaks: dict[tuple[int, str, float], Leak], split_point: int) -> None:
    plain, loud = leaks[split_point, "int8", 0.0].recovery, leaks[split_point, "int8", LOUD].recovery

    assert loud.first.interval.high < plain.first.interval.low
    assert loud.content.interval.high < plain.content.interval.low


def test_fewer_dimensions_of_a_thin_link_give_less_away(tiny_bundle: Path, tmp_path: Path) -> None:
    texts, labels = zip(*sentences(200, seed=7), strict=True)
    bundle = with_link(open_bundle(tiny_bundle), tmp_path)

    report = measure_leaks(bundle, [(text, None) for text in texts], [int(label) for label in labels], noises=[])

    named = {leak.budget: leak.recovery.first.value for leak in report.leaks if leak.split_point == SPLIT}
    assert list(named) == [0, *sorted(BUDGETS, reverse=True)]
    assert named[BUDGETS[0]] < named[0]


def test_the_price_of_a_codec_is_told_against_float32(leaks: dict[tuple[int, str, float], Leak]) -> None:
    reference, loud = leaks[1, "float32", 0.0], leaks[1, "int8", LOUD]

    assert reference.drop_points == 0
    assert loud.drop_points == pytest.approx(100 * (reference.accuracy - loud.accuracy))


def test_no_secret_text_is_among_the_known_ones() -> None:
    random = np.random.default_rng(0)
    sequences = [tuple(random.integers(0, 4, 3).tolist()) for _ in range(500)]  # 64 different ones, most of them often

    known, secret = divide(sequences, seed=3)

    assert len(known) + len(secret) == len(set(sequences))
    assert not {sequences[row] for row in known} & {sequences[row] for row in secret}


def test_too_few_different_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 different texts are too few"):
        divide([(1, 2)] * 100, seed=0)


def test_special_tokens_are_not_counted_and_the_commonest_are_no_content() -> None:
    begin, end, the = 0, 1, 2
    sequences = [(begin, the, the, word, end) for word in range(3, 43)]

    texts = Texts(sequences, frozenset({begin, end}), vocabulary=43, seed=0)

    assert len(texts.secret.ids) == 3 * len(texts.secret.rows)
    assert texts.content_share == pytest.approx(1 / 3)
    assert texts.unmet_share == pytest.approx(1 / 3)
    assert texts.base().first.value == pytest.approx(2 / 3)
    assert texts.base().content.value == 0


def test_a_word_never_met_is_recovered_by_its_embedding() -> None:
    random = np.random.default_rng(1)
    embeddings = random.standard_normal((60, 12)).astype(np.float32)
    mixing = random.standard_normal((12, 12)).astype(np.float32)
    ids = random.integers(0, 40, 2000)
    clean = embeddings[ids] @ mixing
    sent = clean + 0.05 * random.standard_normal(clean.shape).astype(np.float32)

    attack = Inversion(clean, sent, ids=ids, embeddings=embeddings)

    unmet = np.arange(40, 60)
    assert np.mean(attack.ranks(embeddings[unmet] @ mixing, unmet) == 0) > 0.9


def test_the_command_reports_as_a_table_and_as_json(tiny_bundle: Path, tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "texts.tsv", 120, seed=9)
    words = ["audit", "leak", "--bundle", str(tiny_bundle), "--data", str(data), "--noise", "1", "--texts", "100"]

    table, document = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--json"]))

    assert "int8, noise 1" in table.stdout
    assert "after layer 2" in table.stdout
    report = json.loads(document.stdout)["report"]
    assert report["known_texts"] + report["secret_texts"] <= 100
    assert {leak["split_point"] for leak in report["leaks"]} == {0, 1, 2}


def test_no_noise_is_no_noise_to_try(tiny_bundle: Path) -> None:
    result = CliRunner().invoke(app, ["audit", "leak", "--bundle", str(tiny_bundle), "--noise", "0"])

    assert isinstance(result.exception, ConfigError)
    assert "--noise 0: must be above 0" in str(result.exception)
