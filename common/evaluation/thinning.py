"""Rate and distortion: what accuracy is left when everything travels over one split point, thinner and thinner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.engine.escalation import Escalation, thin, unpack_state
from common.engine.pipeline import State
from common.engine.thinness import Always, Thinness
from common.engine.token_embedding import TokenEmbedding
from common.evaluation.metrics import Bootstrap, Interval, Metric, interval, score
from common.evaluation.tracing import Progress, Text
from common.inputs.text import TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import LayerSegment, open_embedding, open_layers, unmasked
from common.model.thin_links import ThinLink, ThinLinks, open_thin_links
from common.routing.evidence import Floats
from common.types import Hop, Tier
from common.wire.activations import CODEC_NAMES, codec
from common.wire.codec import encode
from common.wire.messages import HiddenStates
from common.wire.tokens import TOKENS, Tokens

_SOME_NODE = "device-1"
_SOME_ID = "0" * 24
_SHARES = (1.0, 0.75, 0.5)  # of the tokens
_LOSSLESS = Thinness(codec="float32")


class ThinScore(msgspec.Struct, frozen=True, kw_only=True):
    """One way to send hidden states over one split point, everything travelling."""

    accuracy: float  # of the last exit; under another metric than accuracy the metric's value
    drop_points: float  # against float32, in hundredths
    interval: Interval  # of the drop, 95 %, paired bootstrap
    bytes_per_request: float  # of the whole message


ThinScores = dict[str, dict[int, ThinScore]]  # by name and split point


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Texts brought to a split point, one by one as a device does."""

    split_point: int
    states: tuple[Floats, ...]  # [S, H] of each text
    tokens: tuple[Tokens, ...] = ()  # of each text, before any layer


class Behind:
    """The layers behind a split point, run on what came over the link."""

    def __init__(self, bundle: Bundle, split_point: int, link: ThinLink | None, threads: int = 1) -> None:
        self._bundle = bundle
        self._link = link
        self._links = {} if link is None else {split_point: link}
        self._split_point = split_point
        self._segments = [
            segment
            for segment in open_layers(bundle, bundle.manifest.num_layers, threads)
            if segment.span.start >= split_point
        ]

    def logits(self, states: Sequence[Floats], thinness: Thinness) -> Floats:
        """Logits [exits behind, N, C] of hidden states sent so."""
        said = [_carry(self._segments, self._received(state, thinness)) for state in states]
        return np.stack(said, axis=1)

    def message_bytes(self, states: Sequence[Floats], thinness: Thinness) -> float:
        """Mean size of the messages."""
        return float(np.mean([len(encode(message)) for message in self._messages(states, thinness)]))

    def tensor_bytes(self, states: Sequence[Floats], thinness: Thinness) -> float:
        """Mean size of what the messages carry of the hidden states."""
        messages = self._messages(states, thinness)
        return float(np.mean([sum(len(tensor.data) for tensor in message.tensors) for message in messages]))

    def _messages(self, states: Sequence[Floats], thinness: Thinness) -> Iterator[HiddenStates]:
        chooser = Always(thinness, self._links)
        escalation = Escalation(self._bundle.manifest, thinness.codec, links=self._links, chooser=chooser)
        for state in states:
            yield self._message(escalation, State(hidden_states=state, layers_run=self._split_point))

    def sent_as_tokens(self, stood: Standing) -> tuple[Floats, float]:
        """Logits [exits, N, C] of the inputs of split point 0 sent as tokens, and the mean size of the messages."""
        manifest = self._bundle.manifest
        embedding = TokenEmbedding(self._bundle)
        escalation = Escalation(manifest, _LOSSLESS.codec, sends_tokens=True)
        states = [
            State(hidden_states=state, layers_run=0, tokens=tokens)
            for state, tokens in zip(stood.states, stood.tokens, strict=True)
        ]
        messages = [self._message(escalation, state) for state in states]
        received = [unpack_state(message, manifest, embedding=embedding).hidden_states for message in messages]
        return self.logits(received, _LOSSLESS), float(np.mean([len(encode(message)) for message in messages]))

    def _message(self, escalation: Escalation, state: State) -> HiddenStates:
        hop = Hop(tier=Tier.DEVICE, node=_SOME_NODE, start=0, end=self._split_point, queue_ms=0.1, compute_ms=1.1)
        hops = (hop,) if self._split_point else ()
        return escalation.pack(_SOME_ID, _SOME_NODE, state, budget_ms=1999.5, hops=hops)

    def _received(self, hidden_states: Floats, thinness: Thinness) -> Floats:
        sent = travelled(hidden_states, thinness, self._link)
        return sent if self._link is None or not thinness.budget else self._link.restore(sent)


def travelled(hidden_states: Floats, thinness: Thinness, link: ThinLink | None) -> Floats:
    """Read hidden states [S, H] as they come off the wire, [at most S, H or budget]."""
    through = codec(thinness.codec)
    return through.decode(through.encode(*thin(hidden_states, thinness, link)))


def bring(
    bundle: Bundle, texts: Sequence[Text], progress: Progress | None = None, *, has_entry: bool = False
) -> dict[int, Standing]:
    """Run texts to the split points where tiers hand over, in the precision of the bundle.

    Args:
        bundle: Whose segments run.
        texts: One by one.
        progress: Told after each text.
        has_entry: Keep the embedding output too, as split point 0: what an offload sends.
    """
    manifest = bundle.manifest
    encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens, is_pair=manifest.is_pair)
    embedding, segments = open_embedding(bundle), open_layers(bundle, manifest.depths.edge)
    points = ([0] if has_entry else []) + [manifest.depths.device, manifest.depths.edge]
    found: dict[int, list[Floats]] = {point: [] for point in points}
    tokens: list[Tokens] = []
    for done, (text, pair) in enumerate(texts, start=1):
        encoded = encoder.encode(text, pair)
        hidden = embedding.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)  # [1, S, H]
        if has_entry:
            found[0].append(hidden[0])
            tokens.append(Tokens(ids=encoded.input_ids[0], types=encoded.token_type_ids[0]))
        for segment in segments:
            hidden = segment.run(hidden, encoded.attention_mask).hidden_states
            if segment.span.end in found:
                found[segment.span.end].append(hidden[0])
        if progress is not None:
            progress(done, len(texts))
    return {
        point: Standing(split_point=point, states=tuple(states), tokens=() if point else tuple(tokens))
        for point, states in found.items()
    }


def ways(links: ThinLinks) -> dict[str, Thinness]:
    """Name every codec alone, and with a link the budgets and shares of tokens that make sense for it."""
    found = [Thinness(codec=name) for name in CODEC_NAMES]
    budgets = sorted({budget for link in links.values() for budget in link.budgets}, reverse=True)
    if links:
        found += [Thinness(codec="int4", tokens=share) for share in _SHARES[1:]]
        found += [Thinness(codec="graded", budget=budget, tokens=share) for budget in budgets for share in _SHARES]
    return {way_name(thinness): thinness for thinness in found}


def way_name(thinness: Thinness) -> str:
    """Name a thinness as evaluations do: codec, budget (``b``), share of the tokens (``t``)."""
    parts = [thinness.codec]
    parts += [f"b{thinness.budget}"] if thinness.budget else []
    parts += [f"t{thinness.tokens:g}"] if thinness.tokens < 1 else []
    return "-".join(parts)


def rate_distortion(
    bundle: Bundle,
    texts: Sequence[Text],
    labels: NDArray[np.int64],
    *,
    metric: Metric,
    progress: Progress | None = None,
) -> ThinScores:
    """Score every way to send hidden states, by name and split point."""
    links = open_thin_links(bundle)
    standing = bring(bundle, texts, progress, has_entry=True)
    offered = ways(links)
    scores: ThinScores = {name: {} for name in offered}
    for point, stood in standing.items():
        link = links.get(point)
        behind = Behind(bundle, point, link)
        reference = behind.logits(stood.states, _LOSSLESS)[-1].argmax(axis=1)  # [N]
        for place, (name, thinness) in enumerate(offered.items(), start=1):
            if link is None and thinness not in ways({}).values():
                continue
            predicted = behind.logits(stood.states, thinness)[-1].argmax(axis=1)
            size = behind.message_bytes(stood.states, thinness)
            scores[name][point] = _score(metric, np.stack([predicted, reference]), labels, size)
            if progress is not None:
                progress(place, len(offered))
        if stood.tokens:
            logits, size = behind.sent_as_tokens(stood)
            compared = np.stack([logits[-1].argmax(axis=1), reference])
            scores[TOKENS] = {point: _score(metric, compared, labels, size)}
    return scores


def split_points(scores: ThinScores) -> list[int]:
    """Give the split points that were scored."""
    return sorted({point for ways in scores.values() for point in ways})


def ways_over(scores: ThinScores, point: int) -> dict[str, ThinScore]:
    """Give what was scored at one split point, the largest messages first."""
    here = {name: ways[point] for name, ways in scores.items() if point in ways}
    return dict(sorted(here.items(), key=lambda way: -way[1].bytes_per_request))


def _score(metric: Metric, predictions: NDArray[np.intp], labels: NDArray[np.int64], size: float) -> ThinScore:
    resampled = Bootstrap(len(labels)).scores(metric, predictions, labels)  # [R, 2]
    value, reference = (score(metric, each, labels) for each in predictions)
    return ThinScore(
        accuracy=value,
        drop_points=100 * (reference - value),
        interval=interval(100 * (resampled[:, 1] - resampled[:, 0])),
        bytes_per_request=size,
    )


def _carry(segments: Sequence[LayerSegment], hidden_states: Floats) -> Floats:
    """Logits [exits, C] of one text's hidden states [S, H]."""
    hidden, mask, said = hidden_states[None], unmasked(len(hidden_states)), []
    for segment in segments:
        output = segment.run(hidden, mask)
        hidden = output.hidden_states
        said.append(output.logits[0])
    return np.stack(said)
