import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cloud_worker.training.backbones import load_backbone
from cloud_worker.training.segments import EmbeddingModule, SpanModule
from common.errors import ConfigError

pytestmark = pytest.mark.train
LAYERS = 4
EVERY_EXIT = tuple(range(1, LAYERS + 1))


@pytest.mark.parametrize("split_point", range(1, LAYERS))
def test_chained_segments_give_the_unsplit_logits(any_backbone: Any, reviews: Any, split_point: int) -> None:
    network = any_backbone.network()
    batch = any_backbone.encode(reviews.draw(6)).batch(range(6))
    with torch.inference_mode():
        whole = network(batch, (split_point, LAYERS))  # [2, B, C]

        embedded = EmbeddingModule(network)(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        hidden_states, near, _ = SpanModule(network, 0, split_point)(embedded, batch.attention_mask)
        _, far, _ = SpanModule(network, split_point, LAYERS)(hidden_states, batch.attention_mask)

    torch.testing.assert_close(near, whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(far, whole[1], rtol=0, atol=1e-5)


def test_the_adapter_gives_the_hidden_states_of_the_library(any_backbone: Any, reviews: Any) -> None:
    reference = transformers.AutoModel.from_pretrained(any_backbone.directory).eval()
    backbone = load_backbone(str(any_backbone.directory)).eval()
    batch = any_backbone.encode(reviews.draw(6)).batch(range(6))
    with torch.inference_mode():
        expected = reference(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        found = backbone.advance(backbone.embed(batch.input_ids), batch.attention_mask, 0, LAYERS)

    seen = batch.attention_mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-5)


def test_padding_changes_no_exit(any_backbone: Any, reviews: Any) -> None:
    network = any_backbone.network()
    texts = any_backbone.encode(reviews.draw(12))
    shortest = int(texts.lengths.argmin())
    with torch.inference_mode():
        padded = network(texts.batch(range(12)), EVERY_EXIT)[:, shortest]
        alone = network(texts.batch([shortest]), EVERY_EXIT)[:, 0]

    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_an_unsupported_backbone_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))

    with pytest.raises(ConfigError, match=r"'gpt2' is not supported; supported are \['bert', 'distilbert', 'roberta'"):
        load_backbone(str(tmp_path))


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_backbone(str(tmp_path))
