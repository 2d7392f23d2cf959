"""A lost training run comes back out of its bundle: the weights that are served, and the texts that were kept back."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'dimee[train]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'dimee[train]'")

from cloud_worker.training.backbones import build_backbone  # noqa: E402 - behind the check for torch
from cloud_worker.training.network import MultiExitNetwork  # noqa: E402
from cloud_worker.training.recover import position_rows, recover_weights  # noqa: E402
from cloud_worker.training.rundir import RunDirectory  # noqa: E402
from common.cli.root import app  # noqa: E402
from common.errors import ArtifactError, ConfigError  # noqa: E402
from common.evaluation.thinning import bring  # noqa: E402
from common.inputs.text import TextEncoder  # noqa: E402
from common.model.bundle import open_bundle  # noqa: E402
from common.model.manifest import TOKENIZER_FILE  # noqa: E402

pytestmark = pytest.mark.train
TEXT = "a charming and often affecting journey ."


def recover(bundle: object, backbone: Path, train: Path, out: Path) -> None:
    words = ["recover", "--bundle", bundle, "--backbone", backbone, "--train", train, "--out", out]
    app(["model", *map(str, words)], standalone_mode=False)


def test_a_float32_bundle_gives_back_its_run(tiny_bundle: Path, tmp_path: Path) -> None:
    trained, home = RunDirectory(tiny_bundle.parent / "run"), tiny_bundle.parent

    recover(tiny_bundle, home / "backbone", home / "train.tsv", tmp_path / "run")

    found = RunDirectory(tmp_path / "run")
    weights, expected = (run.load_network().state_dict() for run in (found, trained))
    names = [name for name in expected if "position_embeddings" not in name]
    assert names
    for name in names:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)
    assert found.read_kept_back().texts == trained.read_kept_back().texts
    assert found.read_record()["data"] == trained.read_record()["data"]


def shipped_network(directory: Path, **changed: int) -> MultiExitNetwork:
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    positions = {"max_position_embeddings": position_rows(open_bundle())}
    transformers.BertConfig(vocab_size=30522, **(sizes | positions | changed)).save_pretrained(directory)
    return MultiExitNetwork(build_backbone(directory / "config.json"), 2)


def test_an_int8_bundle_gives_back_what_it_serves(tmp_path: Path) -> None:
    bundle, network = open_bundle(), shipped_network(tmp_path)
    recover_weights(bundle, network)
    encoded = TextEncoder(bundle.path(TOKENIZER_FILE), 128, is_pair=False).encode(TEXT, None)
    served = bring(bundle, [(TEXT, None)])

    with torch.no_grad():
        ids, mask = torch.from_numpy(encoded.input_ids), torch.from_numpy(encoded.attention_mask)
        hidden = network.eval().backbone.embed(ids)
        found = {point: network.backbone.advance(hidden, mask, 0, point)[0].numpy() for point in served}

    for point, stood in served.items():
        noise = np.square(found[point] - stood.states[0]).mean() / stood.states[0].var()
        assert noise < 0.03  # of rounding the activations, which the network does not


def test_a_config_of_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json is of another network"):
        recover_weights(open_bundle(), shipped_network(tmp_path, intermediate_size=64))


def test_another_file_than_it_was_trained_on_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("sentence\tlabel\na fine film\t1\na dull film\t0\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="was trained on another file"):
        recover(tiny_bundle, tiny_bundle.parent / "backbone", other, tmp_path / "run")
