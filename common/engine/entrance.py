"""The way in: text to the first hidden states, and the tier where the policy lets them enter."""

from collections.abc import Sequence

import msgspec
import numpy as np

from common.engine.pipeline import State
from common.errors import InputError
from common.inputs.text import Encoded, TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.providers import PROCESSOR, Providers
from common.model.segments import open_embedding, unmasked
from common.routing.evidence import EntryEvidence, Floats
from common.routing.policies import Policy
from common.types import Pool, Tier
from common.wire.tokens import Tokens


class Entered(msgspec.Struct, frozen=True, kw_only=True):
    """An input with its embedding, before any layer has run."""

    state: State
    tier: Tier
    pool: Pool | None
    distances: tuple[float, ...]  # to the centroids of easy, moderate, hard
    is_truncated: bool


class Entrance:
    """Tokenises, embeds, finds the pool and asks the policy where to start."""

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        *,
        clusterer: Policy | None = None,
        threads: int = 1,
        providers: Providers = (PROCESSOR,),
    ) -> None:
        """Load what the way in needs.

        Args:
            bundle: The model.
            policy: Names the entry tier.
            clusterer: Names the pool where ``policy`` has none of its own; None leaves it unnamed.
            threads: onnxruntime threads of the embedding.
            providers: onnxruntime's, for the embedding.
        """
        manifest = bundle.manifest
        self._encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens, is_pair=manifest.is_pair)
        self._embedding = open_embedding(bundle, threads, providers)
        self._policy = policy
        self._clusterer = clusterer or policy

    def enter(self, text: str, pair: str | None = None) -> Entered:
        """Bring one input to layer 0.

        Raises:
            InputError: The text is empty, or does not fit the model's task.
        """
        (entered,) = self.enter_all([(text, pair)])
        if isinstance(entered, InputError):
            raise entered
        return entered

    def enter_all(self, inputs: Sequence[tuple[str, str | None]]) -> list[Entered | InputError]:
        """Bring inputs to layer 0, each a text and its pair; what cannot be classified comes back as its error."""
        encoded = [self._encode(text, pair) for text, pair in inputs]
        readable = [one for one in encoded if isinstance(one, Encoded)]
        entered = iter(self._embed(readable) if readable else ())
        return [one if isinstance(one, InputError) else next(entered) for one in encoded]

    def _encode(self, text: str, pair: str | None) -> Encoded | InputError:
        try:
            return self._encoder.encode(text, pair)
        except InputError as exc:
            return exc

    def _embed(self, inputs: Sequence[Encoded]) -> list[Entered]:
        hidden_states = [
            self._embedding.run(one.input_ids, unmasked(one.input_ids.shape[1]), one.token_type_ids)[0]  # [S, H]
            for one in inputs
        ]
        lengths = [len(hidden) for hidden in hidden_states]
        totals: Floats = np.array([np.add.reduce(hidden, axis=0) for hidden in hidden_states])  # [B, H]
        counts: Floats = np.array(lengths, np.float32)[:, None]  # [B, 1]
        evidence = EntryEvidence(features=totals / counts, num_tokens=np.array(lengths))
        entries = self._policy.enter(evidence)
        clustered = entries if entries.pools is not None else self._clusterer.enter(evidence)
        distances = [()] * len(inputs) if clustered.distances is None else clustered.distances.tolist()
        return [
            Entered(
                state=State(
                    hidden_states=hidden,
                    layers_run=0,
                    tokens=Tokens(ids=one.input_ids[0], types=one.token_type_ids[0]),
                ),
                tier=entries.tier(place),
                pool=clustered.pool(place),
                distances=tuple(distances[place]),
                is_truncated=one.is_truncated,
            )
            for place, (one, hidden) in enumerate(zip(inputs, hidden_states, strict=True))
        ]
