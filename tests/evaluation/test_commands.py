"""``dimee evaluate``, ``plan`` and ``model calibrate`` as people run them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import write_tsv
from typer.testing import CliRunner

from common.cli.root import app
from common.errors import ConfigError, DimeeError
from common.evaluation.comparison import NAMES

PROFILE = """
[device]
layer_ms = 8.0
[edge]
layer_ms = 2.0
[cloud]
layer_ms = 1.0
[device_edge]
latency_ms = 2.0
mbit_s = 20.0
[device_cloud]
latency_ms = 22.0
mbit_s = 20.0
[edge_cloud]
latency_ms = 20.0
mbit_s = 20.0
"""


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tsv(tmp_path_factory.mktemp("labelled") / "dev.tsv", 150, seed=9)


def dimee(*arguments: object) -> Any:
    """Run a command; its JSON, or the error that a person would be told."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def test_evaluate_scores_every_policy_with_its_constants(tiny_bundle: Path, labelled: Path) -> None:
    found = dimee("evaluate", "--bundle", tiny_bundle, "--data", labelled, "--json")

    assert found["samples"] == 150
    assert found["default"] in found["policies"]
    assert set(found["policies"]) >= set(NAMES)
    assert found["cost"]["model"] == "paper"
    assert found["cost"]["constants"]["device_cloud"] == 5
    for scored in found["policies"].values():
        assert set(scored["shares"]) == {"device", "edge", "cloud"}
        assert scored["interval"]["reduction"]["low"] <= scored["reduction"] <= scored["interval"]["reduction"]["high"]
        assert {"accuracy", "drop_points", "cost", "payload_bytes_per_request"} <= set(scored)


def test_evaluate_adds_studies_when_asked(tiny_bundle: Path, labelled: Path) -> None:
    found = dimee("evaluate", "--bundle", tiny_bundle, "--data", labelled, "--policy", "oracle", "--studies", "--json")

    assert list(found["policies"]) == ["oracle"]
    assert found["studies"]["samples"] == 350  # kept back and reported on
    assert {score["asked"] for score in found["studies"]["coverage"]} == {0.9, 0.8, 0.7}
    assert all(kept["resplits"] == 20 for kept in found["studies"]["promises"])


def test_data_that_the_bundle_learned_from_is_refused_or_told(tiny_bundle: Path) -> None:
    seen = tiny_bundle.parent / "train.tsv"

    with pytest.raises(ConfigError, match="learned from this file"):
        dimee("evaluate", "--bundle", tiny_bundle, "--data", seen, "--json")

    assert dimee("evaluate", "--bundle", tiny_bundle, "--data", seen, "--allow-seen", "--json")["data"]["is_seen"]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("", (), "the file is empty"),
        ("sentence\tlabel\na film\tmaybe\na plot\t1\n", (), "'maybe' is none of this model's"),
        ("sentence\tlabel\na film\t1\na plot\t1\n", (), "two labels at least"),
        ("sentence\tlabel\na film\t1\na plot\t0\n", ("--policy", "guess"), "'guess' is not one of"),
        ("sentence\tlabel\na film\t1\na plot\t0\n", ("--metric", "f1"), "--metric 'f1'"),
        ("sentence\tlabel\na film\t1\na plot\t0\n", ("--cost", "none.toml"), "--cost 'none.toml'"),
    ],
)
def test_wrong_input_gets_one_clear_error(
    tiny_bundle: Path, tmp_path: Path, content: str, options: tuple[str, ...], told: str
) -> None:
    data = tmp_path / "data.tsv"
    data.write_text(content)

    with pytest.raises(DimeeError, match=told):
        dimee("evaluate", "--bundle", tiny_bundle, "--data", data, *options)


def test_calibrate_promises_and_writes_a_bundle(tiny_bundle: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "promised"

    promise = dimee("model", "calibrate", tiny_bundle, "--max-drop", 5, "--out", out, "--json")

    assert promise["promised_drop_points"] == 5
    assert promise["samples"] == 200
    assert dimee("evaluate", "--bundle", out, "--data", labelled, "--json")["default"] == "promised"


def test_a_drop_that_cannot_be_promised_is_refused_with_the_nearest(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"nearest that can is --max-drop|no drop up to"):
        dimee("model", "calibrate", tiny_bundle, "--max-drop", 0.01)


def test_plan_chooses_from_an_undominated_front(tiny_bundle: Path, tmp_path: Path) -> None:
    profile = tmp_path / "tiers.toml"
    profile.write_text(PROFILE)

    plan = dimee("plan", "--bundle", tiny_bundle, "--profile", profile, "--json")

    assert plan["chosen"] in plan["front"]
    assert len(plan["front"]) >= 2
