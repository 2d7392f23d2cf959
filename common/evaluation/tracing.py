"""Runs a bundle's segments once over labelled texts, batched by length, and keeps what every exit says."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.evaluation.trace import Trace
from common.inputs.text import Encoded, TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import EmbeddingSegment, LayerSegment, open_embedding, open_layers
from common.routing.evidence import Floats, masked_mean
from common.wire.activations import ActivationCodec, codec

_BATCH_TOKENS = 2048

Progress = Callable[[int, int], None]  # samples done, samples in all
Text = tuple[str, str | None]  # a text, and its pair where the task has pairs


def trace_texts(
    bundle: Bundle,
    texts: Sequence[Text],
    labels: Sequence[int],
    *,
    codec_name: str = "int8",
    threads: int = 1,
    progress: Progress | None = None,
) -> Trace:
    """Run all exits of a bundle on labelled texts.

    Hidden states go through the activation codec where the tiers hand over, so that a deeper exit sees what it would
    see at run time.

    Dynamic int8 quantisation takes one scale per tensor, so a sample's company in a batch would change its logits:
    int8 bundles run one sample at a time, as the tiers do.

    Raises:
        ConfigError: There is no sample.
        InputError: A text is empty, or does not fit the model's task.
    """
    if not texts:
        raise ConfigError("there is no sample to run; give a file with at least one labelled row")
    manifest = bundle.manifest
    encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens, is_pair=manifest.is_pair)
    encoded = [encoder.encode(text, pair) for text, pair in texts]
    runner = _Runner(
        open_embedding(bundle, threads),
        open_layers(bundle, manifest.num_layers, threads),
        links={manifest.depths.device, manifest.depths.edge},
        codec=codec(codec_name),
    )
    lengths = np.array([item.input_ids.shape[1] for item in encoded], np.intp)
    kept = _Kept(len(texts))
    done = 0
    for rows in _batches(lengths, is_alone=manifest.precision == "int8"):
        kept.put(rows, *runner.run([encoded[row] for row in rows]))
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    return Trace(
        exits=tuple(exit_.layer for exit_ in manifest.exits),
        temperatures=tuple(exit_.temperature for exit_ in manifest.exits),
        logits=kept.logits,
        pooled=kept.pooled,
        features=kept.features,
        tokens=lengths,
        labels=np.asarray(labels, np.int64),
    )


class _Runner:
    """Embeds a batch and carries it through every segment."""

    def __init__(
        self,
        embedding: EmbeddingSegment,
        segments: tuple[LayerSegment, ...],
        *,
        links: set[int],
        codec: ActivationCodec,
    ) -> None:
        self._embedding = embedding
        self._segments = segments
        self._links = links  # layers after which hidden states travel
        self._codec = codec

    def run(self, items: Sequence[Encoded]) -> tuple[Floats, Floats, Floats]:
        """Give features [B, H], logits [E, B, C] and pooled states [E, B, P]."""
        ids, mask, types = _stack(items)
        hidden = self._embedding.run(ids, mask, types)  # [B, S, H]
        features = masked_mean(hidden, mask)
        outputs = []
        for segment in self._segments:
            outputs.append(segment.run(hidden, mask))
            hidden = outputs[-1].hidden_states
            if segment.span.end in self._links:
                hidden = self._travel(hidden)
        return features, np.stack([said.logits for said in outputs]), np.stack([said.pooled for said in outputs])

    def _travel(self, hidden_states: Floats) -> Floats:
        tokens = hidden_states.reshape(-1, hidden_states.shape[2])  # [B * S, H]; codecs work token by token
        return self._codec.decode(self._codec.encode(tokens)).reshape(hidden_states.shape)


class _Kept:
    """Results in the samples' order; arrays are made when the first batch tells their widths."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self.features = self.logits = self.pooled = np.zeros((0, 0, 0), np.float32)

    def put(self, rows: NDArray[np.intp], features: Floats, logits: Floats, pooled: Floats) -> None:
        """Keep one batch."""
        if not self.logits.size:
            self.features = np.zeros((self._samples, features.shape[1]), np.float32)
            self.logits = np.zeros((len(logits), self._samples, logits.shape[2]), np.float32)
            self.pooled = np.zeros((len(pooled), self._samples, pooled.shape[2]), np.float32)
        self.features[rows], self.logits[:, rows], self.pooled[:, rows] = features, logits, pooled


def _batches(lengths: NDArray[np.intp], *, is_alone: bool) -> Iterator[NDArray[np.intp]]:
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        size = 1
        while not is_alone and start + size < len(order) and (size + 1) * lengths[order[start + size]] <= _BATCH_TOKENS:
            size += 1
        yield order[start : start + size]
        start += size


def _stack(items: Sequence[Encoded]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    longest = max(item.input_ids.shape[1] for item in items)
    ids, mask, types = (np.zeros((len(items), longest), np.int64) for _ in range(3))  # [B, S]
    for row, item in enumerate(items):
        length = item.input_ids.shape[1]
        ids[row, :length], mask[row, :length], types[row, :length] = item.input_ids, 1, item.token_type_ids
    return ids, mask, types
