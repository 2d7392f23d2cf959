"""Rival (e): an early-exit loop in PyTorch as research code runs it; batch 1, an exit head after every layer.

It has the bundle's shape and ends each text after the layer where dimee does; its weights are random, since time does
not depend on them. Started by ``dimee bench`` with the same pipes as every contestant.
"""

import logging
import os
import sys
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from torch import Tensor, nn

from common.bench.contestants import Alone, Routes
from common.bench.driver import answer_turns
from common.bench.parts import Drive, Told
from common.inputs.text import TextEncoder
from common.model.bundle import open_bundle
from common.model.manifest import TOKENIZER_FILE, Manifest
from common.types import Tier

_HEAD_WIDTH = 32  # of an attention head, where the width allows it: as in MiniLM


class EarlyExitLoop(Alone):
    """Layers one by one, each followed by its exit head and a question."""

    def __init__(self, part: Drive) -> None:
        bundle = open_bundle(part.bundle)
        manifest = bundle.manifest
        self._encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens)
        self._depths = Routes(bundle, part.policy, part.texts).depths
        self._model = transformers.BertModel(_config(manifest)).eval()
        self._heads = nn.ModuleList(
            nn.Linear(manifest.hidden_size, len(manifest.labels)) for _ in range(manifest.num_layers)
        ).eval()

    def answer(self, text: str) -> Told:
        """Stop after the layer where dimee stops."""
        encoded = self._encoder.encode(text)
        with torch.inference_mode():
            label = self._loop(torch.from_numpy(encoded.input_ids), self._depths.get(text, len(self._heads)))
        return Told(tier=Tier.DEVICE, layer=label)

    def _loop(self, input_ids: Tensor, depth: int) -> int:
        hidden = self._model.embeddings(input_ids)  # [1, S, H]
        for layer, head in zip(self._model.encoder.layer, self._heads, strict=True):
            hidden = _first(layer(hidden))
            logits = head(hidden[:, 0])  # [1, C]
            confidence = logits.softmax(dim=-1).max().item()
            depth -= 1
            if depth == 0 and confidence >= 0:
                break
        return int(np.argmax(logits.numpy()))


def _config(manifest: Manifest) -> Any:
    width = manifest.hidden_size
    heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
    return transformers.BertConfig(
        hidden_size=width,
        num_hidden_layers=manifest.num_layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )


def _first(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    torch.set_num_threads(1)
    wanted = msgspec.json.decode(sys.argv[1], type=Drive)
    answer_turns(EarlyExitLoop(wanted), wanted)
