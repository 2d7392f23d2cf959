"""The way in: text to the first hidden states, and the tier where the policy lets them enter."""

import msgspec
import numpy as np

from common.engine.pipeline import State
from common.inputs.text import TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.providers import PROCESSOR, Providers
from common.model.segments import open_embedding
from common.routing.evidence import EntryEvidence
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
        encoded = self._encoder.encode(text, pair)
        hidden = self._embedding.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)  # [1, S, H]
        evidence = EntryEvidence(features=hidden.mean(axis=1), num_tokens=np.array([hidden.shape[1]]))  # no padding
        entries = self._policy.enter(evidence)
        clustered = entries if entries.pools is not None else self._clusterer.enter(evidence)
        return Entered(
            state=State(
                hidden_states=hidden[0],
                layers_run=0,
                tokens=Tokens(ids=encoded.input_ids[0], types=encoded.token_type_ids[0]),
            ),
            tier=entries.tier(0),
            pool=clustered.pool(0),
            distances=() if clustered.distances is None else tuple(clustered.distances[0].tolist()),
            is_truncated=encoded.is_truncated,
        )
