import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cloud_worker.training import parity
from cloud_worker.training.checkpoints import load_weights
from cloud_worker.training.cli import app
from cloud_worker.training.export import ExportPlan, export_bundle
from cloud_worker.training.rundir import RunDirectory
from common.engine.choice import choose_policy
from common.errors import ArtifactError, ConfigError
from common.evaluation.trace import read_calibration
from common.evaluation.tracing import trace_texts
from common.model.bundle import open_bundle

pytestmark = [pytest.mark.train, pytest.mark.timeout(300)]  # the exporter is slow to load
LAYERS = 4


@pytest.fixture(scope="session")
def run(backbone: Any, reviews: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the train command."""
    place = tmp_path_factory.mktemp("trained")
    train, valid = reviews.write(400, place / "train.tsv"), reviews.write(40, place / "valid.tsv", seed=1)
    options = {
        "--backbone": backbone.directory,
        "--train": train,
        "--valid": valid,
        "--out": place / "run",
        "--keep-back": 60,
        "--epochs": 3,
        "--reference-epochs": 1,
        "--batch-size": 16,
        "--learning-rate": 1e-3,
        "--head-learning-rate": 1e-2,
        "--max-tokens": 24,
    }
    words = [str(word) for option in options.items() for word in option]
    result = CliRunner().invoke(app, ["train", *words, "--no-bfloat16"], catch_exceptions=False)
    assert result.exit_code == 0
    return place / "run"


@pytest.fixture(scope="session")
def bundle(run: Path) -> Path:
    """Its bundle in float32."""
    out = run.parent / "float32"
    export_bundle(RunDirectory(run), ExportPlan(split=(1, 3), exits=(2,), precision="float32", licence="mit"), out)
    return out


def test_the_record_tells_where_the_weights_come_from(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())

    assert record["data"]["train"]["rows"] == 400
    assert len(record["data"]["train"]["sha256"]) == 64
    assert record["split"]["kept_back"] == 60
    assert record["split"]["kept_back"] + record["split"]["training"] + record["split"]["dropped"] == 400
    assert [entry["exit_layer"] for entry in record["metrics"]["valid"]] == [1, 2, 3, 4]
    assert not list(run.glob("checkpoint*"))


def test_the_run_follows_the_kept_back_texts_over_the_epochs(run: Path) -> None:
    with np.load(run / "kept_back.npz", allow_pickle=False) as observed:
        assert observed["true_probability"].shape == (3, LAYERS, 60)
        assert observed["logits"].shape == (LAYERS, 60, 2)


def test_joint_training_leaves_the_word_table_of_the_reference(run: Path) -> None:
    network = RunDirectory(run).load_network()
    trained = network.backbone.embeddings.word_embeddings.weight.clone()
    load_weights(network, RunDirectory(run).reference_weights(0))

    assert torch.equal(trained, network.backbone.embeddings.word_embeddings.weight)


def test_the_bundle_says_what_the_network_says(run: Path, bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.verify()
    kept_back = RunDirectory(run).read_kept_back()
    texts = [(text, None) for text in kept_back.texts]
    found = trace_texts(opened, texts, kept_back.label_indices(opened.manifest.labels), codec_name="float32")

    with np.load(run / "kept_back.npz", allow_pickle=False) as observed:
        np.testing.assert_allclose(found.logits, observed["logits"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.pooled, observed["pooled"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.features, observed["mean_embedding"], rtol=0, atol=1e-4)


def test_the_bundle_holds_its_calibration_and_policies(bundle: Path) -> None:
    opened = open_bundle(bundle)

    trace = read_calibration(opened)

    assert trace.exits == (1, 2, 3, 4)
    assert trace.temperatures == tuple(entry.temperature for entry in opened.manifest.exits)
    assert trace.probabilities_by_epoch is not None
    assert trace.probabilities_by_epoch.shape == (3, 4, 60)
    assert choose_policy(opened).threshold_at(1) is not None


def test_the_card_tells_recipe_hashes_and_accuracy(run: Path, bundle: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    card = open_bundle(bundle).read("MODEL_CARD.md").decode()

    assert record["data"]["train"]["sha256"] in card
    assert f"| {record['metrics']['valid'][3]['accuracy']:.2%} |" in card
    assert record["command"] in card
    assert "(licence: mit)" in card


def test_an_int8_bundle_agrees_with_float32(run: Path, bundle: Path, tmp_path: Path) -> None:
    plan = ExportPlan(split=(1, 3), exits=(2,), precision="int8")

    manifest = export_bundle(RunDirectory(run), plan, tmp_path / "int8")

    assert min(manifest.training["export"]["int8_agreement"]) >= parity.MIN_AGREEMENT
    embedding = tmp_path / "int8" / "embedding.onnx"
    assert embedding.stat().st_size < (bundle / "embedding.onnx").stat().st_size
    for entry, reference in zip(manifest.exits, open_bundle(bundle).manifest.exits, strict=True):
        assert entry.accuracy == pytest.approx(reference.accuracy, abs=0.05)


def test_onnxruntime_recognises_the_activation_of_every_layer(bundle: Path, tmp_path: Path) -> None:
    entry = open_bundle(bundle).manifest.segments[-1]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    onnxruntime.InferenceSession(bundle / entry.file, options, providers=["CPUExecutionProvider"])

    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert sum("Gelu" in operator for operator in operators) == entry.span.num_layers + 1  # and the exit head's
    assert "Erf" not in operators


def test_segments_that_say_something_else_are_refused(run: Path, bundle: Path, backbone: Any, reviews: Any) -> None:
    network = RunDirectory(run).load_network()
    spans = [(entry.span, bundle / entry.file) for entry in open_bundle(bundle).manifest.segments]
    chain = parity.Chain(bundle / "embedding.onnx", spans)
    batches = [backbone.encode(reviews.draw(6)).batch(range(6))]

    assert parity.check_float32(chain, network, batches) <= parity.LOGITS_TOLERANCE

    with torch.no_grad():
        network.heads[1].classify.bias += 1e-3
    with pytest.raises(ArtifactError, match=r"logits of the segments differ by 1\.0"):
        parity.check_float32(chain, network, batches)


def test_int8_that_answers_otherwise_is_refused() -> None:
    logits = np.zeros((1, 100, 2), np.float32)
    logits[:, :, 0] = 1
    other = logits.copy()
    other[0, :10] = (0, 1)

    with pytest.raises(ArtifactError, match=r"90\.0% of the kept-back texts after layer 2"):
        parity.check_agreement(other, logits, (2,))


@pytest.mark.parametrize("split", ["3,1", "2", "1,4", "a,b"])
def test_a_split_that_does_not_fit_is_refused(run: Path, tmp_path: Path, split: str) -> None:
    arguments = ["export", "--run", str(run), "--split", split, "--out", str(tmp_path / "bundle")]

    result = CliRunner().invoke(app, arguments)

    assert isinstance(result.exception, ConfigError)
    assert f"--split {split}" in str(result.exception)


def test_references_of_several_seeds_teach_together(run: Path, backbone: Any, tmp_path: Path) -> None:
    arguments = ["train", "--backbone", str(backbone.directory), "--train", str(run.parent / "train.tsv")]
    arguments += ["--keep-back", "60", "--epochs", "1", "--reference-epochs", "1", "--max-tokens", "24"]

    result = CliRunner().invoke(
        app, [*arguments, "--references", "2", "--metric", "matthews", "--out", str(tmp_path / "two"), "--json"]
    )

    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert len(record["references"]) == 2
    assert record["reference"] == record["references"][0]
    assert record["metric"] == "matthews"
    network = RunDirectory(tmp_path / "two").load_network()
    first, second = (
        load_file(RunDirectory(tmp_path / "two").reference_weights(place))["heads.3.classify.bias"] for place in (0, 1)
    )
    assert network.num_layers == LAYERS
    assert not torch.equal(first, second)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run\.json: no record of a finished training run"):
        export_bundle(RunDirectory(tmp_path), ExportPlan(split=(1, 2)), tmp_path / "bundle")


def test_a_directory_in_use_is_not_trained_into(tmp_path: Path, reviews: Any, backbone: Any) -> None:
    train = reviews.write(10, tmp_path / "train.tsv")
    arguments = ["train", "--backbone", str(backbone.directory), "--train", str(train), "--out", str(tmp_path)]

    result = CliRunner().invoke(app, arguments)

    assert isinstance(result.exception, ConfigError)
    assert "--resume" in str(result.exception)
