"""A state to the message that carries it, and back: the same steps for an offload and an escalation."""

from common.engine.pipeline import State
from common.errors import ModelMismatchError, WireError
from common.model.manifest import Manifest
from common.types import Hop
from common.wire.activations import codec, decode_activation
from common.wire.messages import HiddenStates


class Escalation:
    """Packs states for the next tier with one activation codec."""

    def __init__(self, manifest: Manifest, codec_name: str) -> None:
        self._revision = manifest.revision
        self._codec = codec(codec_name)

    def pack(
        self, request_id: str, device_id: str, state: State, *, budget_ms: float, hops: tuple[Hop, ...]
    ) -> HiddenStates:
        """Make the message that carries a state on."""
        return HiddenStates(
            request_id=request_id,
            device_id=device_id,
            model_revision=self._revision,
            split_point=state.layers_run,
            budget_ms=budget_ms,
            codec=self._codec.name,
            tensors=self._codec.encode(state.hidden_states),
            hops=hops,
        )


def unpack_state(message: HiddenStates, manifest: Manifest) -> State:
    """Read the state that a message carries.

    Raises:
        ModelMismatchError: It was computed by another model revision.
        WireError: Its tensors are wrong, or its width or length is not this model's.
    """
    if message.model_revision != manifest.revision:
        raise ModelMismatchError(
            f"request is of model revision {message.model_revision[:32]!r}, this tier serves {manifest.revision!r}"
        )
    hidden = decode_activation(message.codec, message.tensors)  # [S, H]
    tokens, width = hidden.shape
    if width != manifest.hidden_size or tokens > manifest.max_tokens:
        raise WireError(
            f"hidden states {[tokens, width]} do not fit [at most {manifest.max_tokens}, {manifest.hidden_size}]"
        )
    predictions = tuple(prediction for hop in message.hops for prediction in hop.predictions)
    if any(prediction >= len(manifest.labels) for prediction in predictions):
        raise WireError(f"predictions {predictions} name classes beyond {len(manifest.labels)} labels")
    confidences = tuple(confidence for hop in message.hops for confidence in hop.confidences)
    if len(confidences) != len(predictions):
        raise WireError(f"{len(predictions)} predictions came with {len(confidences)} confidences")
    return State(hidden_states=hidden, layers_run=message.split_point, predictions=predictions, confidences=confidences)
