"""The contestants, each as its own process sees it (benchmarks/METHODOLOGY.md, letters as there)."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from common.bench.http_cloud import FullModel, HttpClient
from common.bench.load import Contestant
from common.bench.parts import Told
from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.pipeline import Exited, Pipeline
from common.errors import DimeeError
from common.inputs.text import Encoded, TextEncoder
from common.model.bundle import Bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding, open_layers, unmasked
from common.types import Answer, Tier
from common.wire.documents import Input
from device_agent.agent import Agent

_RECEIPTS_LIMIT_S = 30.0


class Dimee(Contestant):
    """The product, and (b) when its policy is cloud-only: a device agent whose fleet runs elsewhere."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def submit(self, text: str) -> Future[Any]:
        """Hand the text to the agent."""
        return self._agent.submit(text)

    def submit_all(self, texts: Sequence[str]) -> Sequence[Future[Any]]:
        """Hand the texts to the agent.

        Raises:
            DimeeError: One of them is refused.
        """
        accepted = []
        for one in self._agent.submit_all([Input(text) for text in texts]):
            if isinstance(one, DimeeError):
                raise one
            accepted.append(one)
        return accepted

    def tell(self, answer: Answer) -> Told:
        """Say what the log will hold."""
        return Told(
            tier=answer.exit_tier,
            layer=answer.exit_layer,
            compute_ms=answer.compute_ms,
            sent_bytes=answer.payload_bytes,
        )

    def finish(self) -> None:
        """Wait for the recorder's receipts.

        Raises:
            TimeoutError: Some never came.
        """
        if missing := self._agent.wait_recorded(_RECEIPTS_LIMIT_S):
            raise TimeoutError(f"{missing} records have no receipt after {_RECEIPTS_LIMIT_S:.0f} s")


class Alone(Contestant):
    """A contestant without a network: it computes in ``submit``."""

    def submit(self, text: str) -> Future[Any]:
        """Answer at once."""
        future: Future[Any] = Future()
        future.set_result(self.answer(text))
        return future

    def answer(self, text: str) -> Any:
        """Compute."""
        raise NotImplementedError

    def tell(self, answer: Any) -> Told:
        """Pass on what ``answer`` said."""
        return answer if isinstance(answer, Told) else Told(tier=Tier.DEVICE)

    def finish(self) -> None:
        """Nothing follows the last answer."""


class InProcess(Alone):
    """(c): all layers here."""

    def __init__(self, bundle: Bundle) -> None:
        self._model = FullModel(str(bundle.directory))

    def answer(self, text: str) -> str:
        """Run all layers."""
        return self._model.classify([text])[0]


class Routes:
    """After how many layers dimee answers each text, found by running it."""

    def __init__(self, bundle: Bundle, policy: str, texts: tuple[str, ...]) -> None:
        chosen = choose_policy(bundle, policy)
        entrance = Entrance(bundle, chosen)
        pipeline = Pipeline(bundle, chosen, depth=bundle.manifest.num_layers)
        self.depths: dict[str, int] = {}
        for text in dict.fromkeys(texts):
            (verdict,) = pipeline.advance([entrance.enter(text).state])
            self.depths[text] = verdict.layer if isinstance(verdict, Exited) else bundle.manifest.num_layers


class Ideal(Alone):
    """(f): the segments that dimee would run, on inputs that are ready."""

    def __init__(self, bundle: Bundle, policy: str, texts: tuple[str, ...]) -> None:
        encoder = TextEncoder(bundle.path(TOKENIZER_FILE), bundle.manifest.max_tokens)
        depths = Routes(bundle, policy, texts).depths
        self._embedding = open_embedding(bundle)
        self._segments = open_layers(bundle, bundle.manifest.num_layers)
        self._ready: dict[str, tuple[Encoded, int]] = {text: (encoder.encode(text), depths[text]) for text in depths}

    def answer(self, text: str) -> None:
        """Run the segments and throw away what they say."""
        encoded, depth = self._ready[text]
        mask = unmasked(encoded.input_ids.shape[1])
        hidden = self._embedding.run(encoded.input_ids, mask, encoded.token_type_ids)
        for segment in self._segments:
            if segment.span.end <= depth:
                hidden = segment.run(hidden, mask).hidden_states


class JointRest(Contestant):
    """(d): the device's span with its own exit; when that is unsure, the raw text to the full model over HTTP."""

    def __init__(self, bundle: Bundle, policy: str, cloud: HttpClient) -> None:
        chosen = choose_policy(bundle, policy)
        self._entrance = Entrance(bundle, chosen)
        self._pipeline = Pipeline(bundle, chosen, depth=bundle.manifest.depths.device)
        self._cloud = cloud

    def submit(self, text: str) -> Future[Any]:
        """Run the small model here, and ask the cloud when it is unsure."""
        (verdict,) = self._pipeline.advance([self._entrance.enter(text).state])
        if not isinstance(verdict, Exited):
            return self._cloud.submit(text)
        future: Future[Any] = Future()
        future.set_result(verdict)
        return future

    def tell(self, answer: Any) -> Told:
        """Say where it was answered."""
        return Told(tier=Tier.DEVICE if isinstance(answer, Exited) else Tier.CLOUD)

    def finish(self) -> None:
        """Nothing follows the last answer."""
