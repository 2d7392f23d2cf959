"""What hidden states tell of a text: token recovery by an attack at every split point, and what hiding it costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.engine.thinness import Thinness
from common.evaluation.inversion import Inversion
from common.evaluation.metrics import Bootstrap, Interval, interval
from common.evaluation.recovery import Recovery, Texts
from common.evaluation.thinning import Behind, bring, travelled
from common.evaluation.tracing import Progress, Text
from common.inputs.text import TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding
from common.model.thin_links import ThinLink, open_thin_links
from common.routing.evidence import Floats
from common.wire.activations import CODEC_NAMES

_LOSSLESS, _USUAL = Thinness(codec="float32"), Thinness(codec="int8")
_OF_LINKS = "graded"  # the codec made for them
_CHUNK = 2048  # tokens embedded at a time


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """One way to send hidden states over one split point: what it tells, and what it costs."""

    split_point: int
    codec: str
    budget: int  # dimensions per token; 0 is all of them
    noise: float  # standard deviation, in root mean squares of a token's values
    recovery: Recovery
    accuracy: float  # of the last exit on the secret texts, everything travelling so
    drop_points: float  # against float32 without noise
    drop_interval: Interval


class LeakReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the attack found."""

    known_texts: int
    secret_texts: int
    secret_tokens: int  # without the special ones
    content_share: float  # of the secret tokens: all but the commonest ones, which make up half of the known texts
    unmet_share: float  # of the secret tokens: in no known text
    base: Recovery  # by always naming the commonest tokens
    leaks: tuple[Leak, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to send, with Gaussian noise on the hidden states before the thin link and the codec."""

    thinness: Thinness
    noise: float = 0.0  # standard deviation, in root mean squares of a token's values


def measure_leaks(
    bundle: Bundle,
    texts: Sequence[Text],
    labels: Sequence[int],
    *,
    noises: Sequence[float],
    seed: int = 0,
    progress: Progress | None = None,
) -> LeakReport:
    """Attack every split point, 0 (the embedding output) among them, sent in every way.

    Raises:
        ConfigError: There are too few different texts.
    """
    attack = _Attack(bundle, texts, labels, seed)
    links = open_thin_links(bundle)
    standing = bring(bundle, texts, has_entry=True)
    plan = [(point, way) for point in standing for way in ways(links.get(point), noises)]
    leaks = []
    for done, (point, way) in enumerate(plan, start=1):
        leaks.append(attack.leak(standing[point].states, point, way, links.get(point)))
        if progress is not None:
            progress(done, len(plan))
    divided = attack.texts
    return LeakReport(
        known_texts=len(divided.known.rows),
        secret_texts=len(divided.secret.rows),
        secret_tokens=len(divided.secret.ids),
        content_share=divided.content_share,
        unmet_share=divided.unmet_share,
        base=divided.base(),
        leaks=tuple(leaks),
    )


def ways(link: ThinLink | None, noises: Sequence[float]) -> Iterator[Way]:
    """Name the codecs, the budgets of a split point's thin link, and the noises."""
    yield from (Way(thinness=Thinness(codec=name)) for name in CODEC_NAMES)
    budgets = () if link is None else link.budgets[::-1]
    yield from (Way(thinness=Thinness(codec=_OF_LINKS, budget=budget)) for budget in budgets)
    yield from (Way(thinness=_USUAL, noise=noise) for noise in noises)


class _Attack:
    """Learns from the known texts as they would be sent, and guesses the secret ones."""

    def __init__(self, bundle: Bundle, texts: Sequence[Text], labels: Sequence[int], seed: int) -> None:
        manifest = bundle.manifest
        encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens, is_pair=manifest.is_pair)
        sequences = [tuple(encoder.encode(text, pair).input_ids[0].tolist()) for text, pair in texts]
        self.texts = Texts(sequences, encoder.special_ids(), encoder.vocabulary_size, seed)
        self._bundle, self._seed = bundle, seed
        self._labels = np.array([labels[row] for row in self.texts.secret.rows])
        self._embeddings = _embed_vocabulary(bundle, encoder.vocabulary_size)
        self._right_lossless: dict[int, NDArray[np.bool_]] = {}  # by split point

    def leak(self, states: Sequence[Floats], split_point: int, way: Way, link: ThinLink | None) -> Leak:
        """Try the states [S, H] of all texts."""
        random = np.random.default_rng([self._seed, split_point])
        known, secret = self.texts.known, self.texts.secret
        clean = [states[row] for row in known.rows]
        inversion = Inversion(
            known.gather([travelled(each, way.thinness, link) for each in clean]),
            known.gather([travelled(_noisy(each, way.noise, random), way.thinness, link) for each in clean]),
            ids=known.ids,
            embeddings=self._embeddings,
        )
        hidden = [_noisy(states[row], way.noise, random) for row in secret.rows]
        overheard = secret.gather([travelled(each, way.thinness, link) for each in hidden])
        behind = Behind(self._bundle, split_point, link)
        if split_point not in self._right_lossless:
            self._right_lossless[split_point] = self._right(behind, [states[row] for row in secret.rows], _LOSSLESS)
        right, reference = self._right(behind, hidden, way.thinness), self._right_lossless[split_point]
        lost = 100 * (reference.astype(np.float64) - right)  # [N]
        return Leak(
            split_point=split_point,
            codec=way.thinness.codec,
            budget=way.thinness.budget,
            noise=way.noise,
            recovery=self.texts.recovery(inversion.ranks(overheard, secret.ids)),
            accuracy=float(right.mean()),
            drop_points=float(lost.mean()),
            drop_interval=interval(Bootstrap(len(lost)).means(lost[:, None])),
        )

    def _right(self, behind: Behind, states: Sequence[Floats], thinness: Thinness) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = behind.logits(states, thinness)[-1].argmax(axis=1) == self._labels
        return right


def _noisy(hidden_states: Floats, noise: float, random: np.random.Generator) -> Floats:
    if not noise:
        return hidden_states
    scale = noise * np.sqrt(np.mean(hidden_states**2, axis=1, keepdims=True))  # [S, 1]
    noisy: Floats = hidden_states + scale * random.standard_normal(hidden_states.shape, np.float32)
    return noisy


def _embed_vocabulary(bundle: Bundle, size: int) -> Floats:
    """Run every token alone through the embedding: [V, H]."""
    embedding = open_embedding(bundle)
    chunks = np.array_split(np.arange(size, dtype=np.int64)[:, None], -(-size // _CHUNK))  # each [B, 1]
    return np.concatenate([embedding.run(ids, np.ones_like(ids))[:, 0] for ids in chunks])
