"""The embedding on a tier that takes token ids in the place of the embedding output."""

import numpy as np

from common.errors import ArtifactError, WireError
from common.inputs.tokenizer import open_tokenizer
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding, unmasked
from common.routing.evidence import Floats
from common.wire.tokens import Tokens


class TokenEmbedding:
    """Embeds ids that a peer sent, once they are known to be of this model's vocabulary and length."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Load the segment, and run it on the longest input of the last token.

        Raises:
            ArtifactError: The segment does not hold what the tokenizer can say.
        """
        manifest = bundle.manifest
        tokenizer = open_tokenizer(bundle.path(TOKENIZER_FILE), manifest.max_tokens)
        self._vocabulary_size = int(tokenizer.get_vocab_size())
        self._max_tokens = manifest.max_tokens
        self._last_type = int(manifest.is_pair)
        self._segment = open_embedding(bundle, threads)
        extreme = np.full(manifest.max_tokens, self._vocabulary_size - 1)
        try:
            self.embed(Tokens(ids=extreme, types=np.full_like(extreme, self._last_type)))
        except Exception as exc:  # onnxruntime raises bare classes of its own
            raise ArtifactError(f"{bundle.directory}: the embedding does not fit the tokenizer: {exc}") from exc

    def embed(self, tokens: Tokens) -> Floats:
        """Give the embedding output [S, H], the very one that the sender has.

        Raises:
            WireError: Too many tokens, or an id or a type that the model does not know.
        """
        if len(tokens.ids) > self._max_tokens:
            raise WireError(f"{len(tokens.ids)} tokens do not fit at most {self._max_tokens}")
        if int(tokens.ids.max()) >= self._vocabulary_size or int(tokens.types.max()) > self._last_type:
            raise WireError(
                f"token {int(tokens.ids.max())} of type {int(tokens.types.max())} is beyond a vocabulary of "
                f"{self._vocabulary_size} and types up to {self._last_type}"
            )
        hidden: Floats = self._segment.run(tokens.ids[None], unmasked(len(tokens.ids)), tokens.types[None])[0]  # [S, H]
        return hidden
