"""Rival (g): what one writes in an afternoon: three processes over MQTT at QoS 1, the same segments and thresholds.

No log, no outbox, no retry, no budget, no validation: inference runs in paho's callback and hidden states travel as
float32. Started by ``dimee bench`` with the same pipes as every contestant, once per tier and device.
"""

import os
import socket
import sys
import threading
from concurrent.futures import Future
from typing import Any

import msgpack
import msgspec
import numpy as np
import paho.mqtt.client as paho
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion

from common.bench.driver import answer_turns, say_ready
from common.bench.load import Contestant
from common.bench.parts import Drive, Told
from common.engine.choice import choose_policy
from common.errors import TransportError
from common.inputs.text import TextEncoder
from common.model.bundle import open_bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding, open_layers
from common.types import TIERS, Tier

_QOS = 1
_CONNECT_LIMIT_S = 10.0


class Layers:
    """A tier's segments, each with the question whether its exit is sure enough."""

    def __init__(self, part: Drive) -> None:
        bundle = open_bundle(part.bundle)
        depths = bundle.manifest.depths
        start = max((depths.of(tier) for tier in TIERS[: TIERS.index(part.tier)]), default=0)
        self._segments = [each for each in open_layers(bundle, depths.of(part.tier)) if each.span.start >= start]
        self._temperatures = {each.layer: each.temperature for each in bundle.manifest.exits}
        self._policy = choose_policy(bundle, part.policy)
        self._last = bundle.manifest.num_layers

    def run(self, hidden: NDArray[np.float32]) -> tuple[NDArray[np.float32], int, bool]:
        """Carry [1, S, H] on; give the states, the layers run, and whether that is the answer."""
        mask, layer = np.ones(hidden.shape[:2], np.int64), 0
        for segment in self._segments:
            output, layer = segment.run(hidden, mask), segment.span.end
            hidden = output.hidden_states
            scores = np.exp(output.logits[0] / self._temperatures[layer])
            if layer == self._last or scores.max() / scores.sum() >= (self._policy.threshold_at(layer) or 2):
                return hidden, layer, True
        return hidden, layer, False


class Server:
    """The edge or the cloud."""

    def __init__(self, part: Drive) -> None:
        self._layers = Layers(part)
        self._client = _connect(part, f"naive/{part.tier}", self._on_message)

    def _on_message(self, client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        request, device, shape, data = msgpack.unpackb(message.payload)
        hidden, layer, is_answer = self._layers.run(np.frombuffer(data, np.float32).reshape(shape))
        if is_answer:
            client.publish(f"naive/answer/{device}", msgpack.packb([request, layer]), _QOS)
        else:
            client.publish("naive/cloud", msgpack.packb([request, device, hidden.shape, hidden.tobytes()]), _QOS)


class Device(Contestant):
    """The first layers, and futures for what is asked elsewhere."""

    def __init__(self, part: Drive) -> None:
        bundle = open_bundle(part.bundle)
        self._encoder = TextEncoder(bundle.path(TOKENIZER_FILE), bundle.manifest.max_tokens)
        self._embedding = open_embedding(bundle)
        self._layers = Layers(part)
        self._name = str(os.getpid())
        self._waiting: dict[int, Future[Any]] = {}
        self._client = _connect(part, f"naive/answer/{self._name}", self._on_message)

    def submit(self, text: str) -> Future[Any]:
        """Answer here, or send the states on."""
        encoded = self._encoder.encode(text)
        embedded = self._embedding.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)
        hidden, layer, is_answer = self._layers.run(embedded)
        future: Future[Any] = Future()
        if is_answer:
            future.set_result(layer)
            return future
        request = id(future)
        self._waiting[request] = future
        payload = msgpack.packb([request, self._name, hidden.shape, hidden.tobytes()])
        self._client.publish("naive/edge", payload, _QOS)
        return future

    def tell(self, answer: int) -> Told:
        """Say after how many layers it was answered."""
        return Told(layer=answer)

    def finish(self) -> None:
        """Nothing follows the last answer."""

    def _on_message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        request, layer = msgpack.unpackb(message.payload)
        self._waiting.pop(request).set_result(layer)


def _connect(part: Drive, topic: str, on_message: Any) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_socket_open = lambda _client, _user, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.on_message = on_message
    is_ready = threading.Event()
    client.on_connect = lambda client, *_: client.subscribe(topic, _QOS)
    client.on_subscribe = lambda *_: is_ready.set()
    client.connect("127.0.0.1", part.broker_port)
    client.loop_start()
    if not is_ready.wait(_CONNECT_LIMIT_S):
        raise TransportError(f"no subscription to {topic} at port {part.broker_port}")
    return client


if __name__ == "__main__":
    wanted = msgspec.json.decode(sys.argv[1], type=Drive)
    if wanted.tier is Tier.DEVICE:
        answer_turns(Device(wanted), wanted)
    else:
        server = Server(wanted)
        say_ready()
        sys.stdin.read()
