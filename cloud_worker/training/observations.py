"""What every exit says about every text: the raw material of calibration, pools and routers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.network import MultiExitNetwork
from common.evaluation.metrics import score

_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """One pass of labelled texts through every exit; exit i stands at place i - 1."""

    logits: NDArray[np.float32]  # [L, N, C]
    pooled: NDArray[np.float32]  # [L, N, P]
    mean_embedding: NDArray[np.float32]  # [N, H], masked mean of the embedding output
    labels: NDArray[np.int64]  # [N]
    lengths: NDArray[np.int64]  # [N], tokens

    def accuracy(self) -> NDArray[np.float64]:
        """Share of right answers of every exit, [L], 0..1."""
        share: NDArray[np.float64] = (self.logits.argmax(axis=2) == self.labels).mean(axis=1)
        return share

    def matthews(self) -> NDArray[np.float64]:
        """Matthews correlation of every exit, [L], -1..1, for any number of labels (R_K of Gorodkin 2004)."""
        return np.array([score("matthews", exit_logits.argmax(axis=1), self.labels) for exit_logits in self.logits])

    def save(self, file: Path, extra: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Write arrays by their names, and further ones beside them."""
        arrays: dict[str, NDArray[np.generic]] = {
            "logits": self.logits,
            "pooled": self.pooled,
            "mean_embedding": self.mean_embedding,
            "labels": self.labels,
            "lengths": self.lengths,
        }
        np.savez_compressed(file, allow_pickle=False, **{**arrays, **(extra or {})})


def observe(network: MultiExitNetwork, texts: EncodedTexts) -> Observations:
    """Run all exits on every text in float32; results are in the texts' order."""
    network.eval()
    layers, count = network.num_layers, len(texts)
    logits = np.zeros((layers, count, network.num_labels), dtype=np.float32)
    pooled = np.zeros((layers, count, network.pooled_size), dtype=np.float32)
    means = np.zeros((count, network.backbone.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for batch in texts.in_order_of_length(_BATCH):
            rows = batch.rows.numpy()
            means[rows] = network.mean_embedding(batch).numpy()
            said = network.speak(batch)
            logits[:, rows], pooled[:, rows] = said.logits.numpy(), said.pooled.numpy()
    return Observations(
        logits=logits, pooled=pooled, mean_embedding=means, labels=texts.labels.numpy(), lengths=texts.lengths
    )
