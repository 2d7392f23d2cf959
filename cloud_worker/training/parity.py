"""Whether exported segments say what the network says; run inside every export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from cloud_worker.training.batches import Batch
from cloud_worker.training.network import MultiExitNetwork
from common.errors import ArtifactError
from common.types import Span

LOGITS_TOLERANCE = 1e-4  # absolute, float32
MIN_AGREEMENT = 0.97  # share of equal top labels, int8 against float32


class Chain:
    """Segments of one bundle in memory, run one after another as the tiers do."""

    def __init__(self, embedding: Path, spans: Sequence[tuple[Span, Path]], threads: int = 2) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._embedding = ort.InferenceSession(embedding, options, providers=["CPUExecutionProvider"])
        self._spans = [
            (span, ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])) for span, file in spans
        ]

    @property
    def exits(self) -> tuple[int, ...]:
        """Exit layers, ascending."""
        return tuple(span.end for span, _ in self._spans)

    def run(self, batch: Batch) -> "ChainOutput":
        """Pass a batch through every segment."""
        mask = batch.attention_mask.numpy()
        feeds = {"input_ids": batch.input_ids.numpy(), "attention_mask": mask}
        if len(self._embedding.get_inputs()) > 2:
            feeds["token_type_ids"] = batch.token_type_ids.numpy()
        (embedded,) = self._embedding.run(["hidden_states"], feeds)
        hidden_states = embedded  # [B, S, H]
        logits, pooled = [], []
        for _, session in self._spans:
            hidden_states, said, state = session.run(
                ["next_hidden_states", "logits", "pooled"], {"hidden_states": hidden_states, "attention_mask": mask}
            )
            logits.append(said)
            pooled.append(state)
        return ChainOutput(embedded=embedded, logits=np.stack(logits), pooled=np.stack(pooled))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOutput:
    """What the segments said of a batch."""

    embedded: NDArray[np.float32]  # [B, S, H]
    logits: NDArray[np.float32]  # [exits, B, C]
    pooled: NDArray[np.float32]  # [exits, B, P]


def check_float32(chain: Chain, network: MultiExitNetwork, batches: Sequence[Batch]) -> float:
    """Compare every exit's logits with the unsplit network; returns the largest difference.

    Raises:
        ArtifactError: It is above :data:`LOGITS_TOLERANCE`.
    """
    worst = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = network(batch, chain.exits).numpy()  # [exits, B, C]
        found = chain.run(batch).logits
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= LOGITS_TOLERANCE:
        raise ArtifactError(f"export: logits of the segments differ by {worst:.2e}; the limit is {LOGITS_TOLERANCE}")
    return worst


def check_agreement(found: NDArray[np.float32], expected: NDArray[np.float32], exits: Sequence[int]) -> list[float]:
    """Share of texts with the same top label, per exit, of int8 logits against float32 ones, [exits, N, C] both.

    Raises:
        ArtifactError: One of them is below :data:`MIN_AGREEMENT`.
    """
    shares = (found.argmax(axis=2) == expected.argmax(axis=2)).mean(axis=1)
    for exit_layer, share in zip(exits, shares, strict=True):
        if share < MIN_AGREEMENT:
            raise ArtifactError(
                f"export: int8 agrees with float32 on {share:.1%} of the kept-back texts after layer {exit_layer}; "
                f"the limit is {MIN_AGREEMENT:.0%}: export with --precision float32"
            )
    return [round(float(share), 5) for share in shares]
