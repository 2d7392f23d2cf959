"""``dimee evaluate``, ``plan`` and ``model calibrate`` as people run them."""

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import write_tsv
from typer.testing import CliRunner

from common.cli.root import app
from common.errors import ConfigError, DimeeError
from common.evaluation.comparison import NAMES
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.thin_links import LINKS_FILE, LinkEntry, LinkTable, Rung

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


@pytest.fixture
def thin_bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with a link at its first split point that drops the last dimensions and loses nothing."""
    bundle = open_bundle(tiny_bundle)
    width, point = bundle.manifest.hidden_size, bundle.manifest.depths.device
    archive = io.BytesIO()
    square, flat = np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
    np.savez(
        archive,
        encoder=square[:, :-1],
        decoder=square[:-1],
        mean=flat,
        bias=flat,
        score=square[:, :1],
        score_bias=flat[:1],
    )
    behind = {exit_.layer: 1.0 for exit_ in bundle.manifest.exits if exit_.layer > point}
    accuracy = bundle.manifest.exits[-1].accuracy
    rungs = tuple(
        Rung(budget=budget, temperatures=behind, accuracy=accuracy, token_bytes=1.0) for budget in (4, width - 1)
    )
    table = LinkTable(links=(LinkEntry(split_point=point, file="link.npz", rungs=rungs),), training={})
    return derive(bundle, tmp_path / "thin", {LINKS_FILE: msgspec.json.encode(table), "link.npz": archive.getvalue()})


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


def test_plan_names_the_settings_of_the_thin_link_it_chose(thin_bundle: Bundle, tmp_path: Path) -> None:
    profile = tmp_path / "tiers.toml"
    profile.write_text(PROFILE.replace("mbit_s = 20.0", "mbit_s = 0.01", 1))

    plan = dimee("plan", "--bundle", thin_bundle.directory, "--profile", profile, "--json")

    sent = {(point["device_sends"]["codec"], point["device_sends"]["budget"]) for point in plan["front"]}
    assert ("graded", 4) in sent
    chosen = plan["chosen"]["device_sends"]
    assert plan["settings"]["device"] == {
        "device.codec": chosen["codec"],
        "link.budget": chosen["budget"],
        "link.tokens": chosen["tokens"],
    }
    assert set(plan["settings"]["edge"]) == {"worker.codec", "link.budget", "link.tokens"}


def test_plan_takes_what_was_measured_of_this_bundle_and_of_no_other(thin_bundle: Bundle, tmp_path: Path) -> None:
    profile, codecs = tmp_path / "tiers.toml", tmp_path / "codecs.json"
    profile.write_text(PROFILE.replace("mbit_s = 20.0", "mbit_s = 0.01", 1))
    scores = {"int8": {"1": {"drop_points": 0.0}}, "int4-t0.5": {"1": {"drop_points": 0.0}}}
    codecs.write_text(json.dumps({"codecs": scores, "bundle": {"revision": thin_bundle.revision}}))
    options = ("plan", "--bundle", thin_bundle.directory, "--profile", profile, "--codecs", codecs, "--json")

    plan = dimee(*options)
    codecs.write_text(json.dumps({"codecs": {}, "bundle": {"revision": "another"}}))

    assert {"codec": "int4", "budget": 0, "tokens": 0.5} in [point["device_sends"] for point in plan["front"]]
    with pytest.raises(ConfigError, match="is of revision another"):
        dimee(*options)
