"""The server of rivals (a) and (d): LitServe, which is in the extra ``bench``."""

from typing import Any

import litserve

from common.bench.http_cloud import FullModel
from common.bench.parts import Serve

_BATCH_WAIT_S = 0.002


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """All layers of a bundle; a worker process gets it pickled, so it stands at the module's top."""

    def __init__(self, location: str, max_batch: int) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=_BATCH_WAIT_S if max_batch > 1 else 0.0)
        self._location = location

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Load the model in the worker."""
        self.model = FullModel(self._location)

    def decode_request(self, request: dict[str, str]) -> str:
        """Take the text out."""
        return request["text"]

    def predict(self, texts: Any) -> Any:
        """Label a batch, or one text where batching is off."""
        return self.model.classify(texts) if isinstance(texts, list) else self.model.classify([texts])[0]

    def encode_response(self, output: str) -> dict[str, str]:
        """Give the label."""
        return {"label": output}


def serve(part: Serve) -> None:
    """Serve until killed."""
    server = litserve.LitServer(
        Classifier(part.bundle, part.max_batch), accelerator="cpu", workers_per_device=part.workers
    )
    server.run(host="127.0.0.1", port=part.port, num_api_servers=1, generate_client_file=False, log_level="warning")
