"""A state to the message that carries it, and back: the same steps for an offload and an escalation."""

from collections.abc import Mapping

from common.engine.pipeline import State
from common.engine.thinness import Always, Chooser, Thinness
from common.engine.token_embedding import TokenEmbedding
from common.errors import ModelMismatchError, WireError
from common.model.manifest import Manifest
from common.model.thin_links import ThinLink, ThinLinks, attended
from common.routing.evidence import Floats
from common.types import Hop
from common.wire.activations import codec, decode_activation
from common.wire.messages import HiddenStates, Tensor
from common.wire.tokens import TOKENS, pack_tokens, unpack_tokens

_NO_LINKS: Mapping[int, ThinLink] = {}


class Escalation:
    """Packs states for the next tier, each as thin as its chooser says."""

    def __init__(
        self,
        manifest: Manifest,
        codec_name: str,
        *,
        links: ThinLinks | None = None,
        chooser: Chooser | None = None,
        sends_tokens: bool = False,
    ) -> None:
        """Prepare.

        Args:
            manifest: The model.
            codec_name: Activation codec where there is no chooser.
            links: The bundle's thin links.
            chooser: Decides per message; without one, all dimensions and tokens leave.
            sends_tokens: Before any layer has run, send the ids and not what they were embedded to.
        """
        self._revision = manifest.revision
        self._links = links or {}
        self._chooser = chooser or Always(Thinness(codec=codec_name), self._links)
        self._sends_tokens = sends_tokens

    def pack(
        self,
        request_id: str,
        device_id: str,
        state: State,
        *,
        budget_ms: float,
        hops: tuple[Hop, ...],
        revision: str | None = None,
        needs_signature: bool = False,
        traceparent: bytes = b"",
    ) -> HiddenStates:
        """Make the message that carries a state on, under the request's own revision where that is another.

        A thin link belongs to one revision, so states of another leave whole.
        """
        is_own = revision is None or revision == self._revision
        codec_name, tensors = self._packed(state, budget_ms, self._links.get(state.layers_run) if is_own else None)
        return HiddenStates(
            request_id=request_id,
            device_id=device_id,
            model_revision=self._revision if revision is None else revision,
            split_point=state.layers_run,
            budget_ms=budget_ms,
            codec=codec_name,
            tensors=tensors,
            hops=hops,
            needs_signature=needs_signature,
            traceparent=traceparent,
        )

    def _packed(self, state: State, budget_ms: float, link: ThinLink | None) -> tuple[str, tuple[Tensor, ...]]:
        if self._sends_tokens and state.tokens is not None:
            return TOKENS, pack_tokens(state.tokens)
        thinness = self._chooser.choose(state.layers_run, len(state.hidden_states), budget_ms)
        return thinness.codec, codec(thinness.codec).encode(*thin(state.hidden_states, thinness, link))


def thin(hidden_states: Floats, thinness: Thinness, link: ThinLink | None) -> tuple[Floats, Floats | None]:
    """Drop tokens and dimensions [S, H] as far as there is a link that can; also give the attention [S] to the rest."""
    if link is None or (thinness.tokens == 1 and not thinness.budget):
        return hidden_states, None
    attention = link.attention(hidden_states)
    places = attended(attention, thinness.tokens)
    kept = hidden_states[places]
    return link.shrink(kept, thinness.budget) if thinness.budget else kept, attention[places]


def unpack_state(
    message: HiddenStates,
    manifest: Manifest,
    links: Mapping[int, ThinLink] = _NO_LINKS,
    embedding: TokenEmbedding | None = None,
) -> State:
    """Read the state that a message carries; without an ``embedding`` it may carry no tokens.

    Raises:
        ModelMismatchError: It was computed by another model revision.
        WireError: Its tensors are wrong, or its width or length is not this model's.
    """
    if message.model_revision != manifest.revision:
        raise ModelMismatchError(
            f"request is of model revision {message.model_revision[:32]!r}, this tier serves {manifest.revision!r}"
        )
    received = _received(message, embedding)  # [S, W]
    tokens, width = received.shape
    link = links.get(message.split_point) if width != manifest.hidden_size else None
    if (link is None and width != manifest.hidden_size) or tokens > manifest.max_tokens:
        raise WireError(
            f"hidden states {[tokens, width]} do not fit [at most {manifest.max_tokens}, {manifest.hidden_size}]"
        )
    predictions = tuple(prediction for hop in message.hops for prediction in hop.predictions)
    if any(prediction >= len(manifest.labels) for prediction in predictions):
        raise WireError(f"predictions {predictions} name classes beyond {len(manifest.labels)} labels")
    confidences = tuple(confidence for hop in message.hops for confidence in hop.confidences)
    if len(confidences) != len(predictions):
        raise WireError(f"{len(predictions)} predictions came with {len(confidences)} confidences")
    return State(
        hidden_states=received if link is None else link.restore(received),
        layers_run=message.split_point,
        predictions=predictions,
        confidences=confidences,
        rung=None if link is None else link.rung(width),
        form=(tokens, 1 if message.codec == TOKENS else width),
    )


def _received(message: HiddenStates, embedding: TokenEmbedding | None) -> Floats:
    if message.codec != TOKENS:
        return decode_activation(message.codec, message.tensors)
    if message.split_point:
        raise WireError(f"tokens tell the state before layer 0, not that at split point {message.split_point}")
    if embedding is None:
        raise WireError("this tier takes no tokens: set worker.takes_tokens here, or device.offload on the device")
    return embedding.embed(unpack_tokens(message.tensors))
