"""Rival (a): all layers behind HTTP, text in and label out: the model that the server runs, and the client."""

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

import numpy as np

from common.bench.load import Contestant
from common.bench.parts import Told
from common.inputs.text import Encoded, TextEncoder
from common.model.bundle import open_bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding, open_layers
from common.types import Tier

_LIMIT_S = 30.0


class FullModel:
    """Texts through all layers, as one padded batch."""

    def __init__(self, location: str, threads: int = 1) -> None:
        bundle = open_bundle(location)
        manifest = bundle.manifest
        self.labels = manifest.labels
        self._encoder = TextEncoder(bundle.path(TOKENIZER_FILE), manifest.max_tokens)
        self._embedding = open_embedding(bundle, threads)
        self._segments = open_layers(bundle, manifest.num_layers, threads)

    def classify(self, texts: Sequence[str]) -> list[str]:
        """Name a label for each text."""
        ids, mask = _padded([self._encoder.encode(text) for text in texts])
        hidden = self._embedding.run(ids, mask)
        for segment in self._segments:
            output = segment.run(hidden, mask)
            hidden = output.hidden_states
        return [self.labels[index] for index in output.logits.argmax(axis=1)]


class HttpClient(Contestant):
    """Texts to the server, one kept-alive connection per request in flight."""

    def __init__(self, host: str, port: int, in_flight: int) -> None:
        self._address = (host, port)
        self._connections = local()
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="http")

    def ask(self, text: str) -> str:
        """Wait for the label of one text."""
        connection: http.client.HTTPConnection | None = getattr(self._connections, "one", None)
        if connection is None:
            connection = self._connections.one = http.client.HTTPConnection(*self._address, timeout=_LIMIT_S)
        body = json.dumps({"text": text})
        try:
            return _post(connection, body)
        except (ConnectionError, http.client.HTTPException):  # the server hangs up on idle connections
            connection.close()
            return _post(connection, body)

    def submit(self, text: str) -> Future[Any]:
        """Ask on one of the connections."""
        return self._pool.submit(self.ask, text)

    def tell(self, answer: Any) -> Told:  # noqa: ARG002 - the contract
        """Know only that the cloud answered."""
        return Told(tier=Tier.CLOUD)

    def finish(self) -> None:
        """Nothing follows the last answer."""


def _post(connection: http.client.HTTPConnection, body: str) -> str:
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    label: str = json.loads(connection.getresponse().read())["label"]
    return label


def _padded(items: Sequence[Encoded]) -> tuple[np.ndarray, np.ndarray]:
    longest = max(item.input_ids.shape[1] for item in items)
    ids, mask = (np.zeros((len(items), longest), np.int64) for _ in range(2))  # [B, S]
    for row, item in enumerate(items):
        length = item.input_ids.shape[1]
        ids[row, :length], mask[row, :length] = item.input_ids, 1
    return ids, mask
