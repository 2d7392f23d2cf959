"""What is fuzzed: every place where a stranger's bytes come in. A target raises only what its contract names."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from common.config.load import load
from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings, Section
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import State
from common.engine.thinness import Always, Thinness
from common.engine.token_embedding import TokenEmbedding
from common.errors import ConfigError, InputError, WireError
from common.model.bundle import Bundle
from common.model.thin_links import open_thin_links
from common.store.rows import hop_rows, request_row
from common.transport.routes import check_name, matches
from common.types import Answer, Hop, NodeStatus, Reason, Record, Tier
from common.wire import codec
from common.wire.activations import CODEC_NAMES
from common.wire.documents import answer_document, decode_input, decode_status, encode_document
from common.wire.messages import Failure, HiddenStates, LogRecord, Outcome, Receipt, SignedOutcome
from common.wire.tokens import TOKENS, Tokens, pack_tokens
from common.wire.topics import checked
from device_agent.answers import storable
from device_agent.signatures import AnySignature

Target = Callable[[bytes], None]
_HOP = Hop(
    tier=Tier.EDGE, node="edge-1", start=1, end=2, queue_ms=0.5, compute_ms=1.0, predictions=(1,), confidences=(0.9,)
)


class Targets:
    """All targets over one model, with a message of each kind to start from."""

    def __init__(self, bundle: Bundle, scratch: Path) -> None:
        self._manifest = bundle.manifest
        self._links = open_thin_links(bundle)
        self._embedding = TokenEmbedding(bundle)
        self._scratch = scratch
        self.all: tuple[Target, ...] = (self.message, self.document, self.topic, self.configuration)

    def seeds(self) -> list[tuple[int, bytes]]:
        """Give valid inputs with the number of the target that they are for."""
        state = State(hidden_states=np.ones((3, self._manifest.hidden_size), np.float32), layers_run=1)
        packed = [
            Escalation(self._manifest, name).pack("r1", "pi-1", state, budget_ms=100.0, hops=(_HOP,))
            for name in CODEC_NAMES
        ]
        for split_point, link in self._links.items():
            at, links = msgspec.structs.replace(state, layers_run=split_point), {split_point: link}
            for name in CODEC_NAMES:
                narrow = Always(Thinness(codec=name, budget=link.budgets[0]), links)
                escalation = Escalation(self._manifest, name, links=links, chooser=narrow)
                packed.append(escalation.pack("r1", "pi-1", at, budget_ms=100.0, hops=(_HOP,)))
        tokens = Tokens(ids=np.array([2, 4, 3]), types=np.array([0, 1, 1]) * self._manifest.is_pair)
        as_tokens = {"codec": TOKENS, "tensors": pack_tokens(tokens), "split_point": 0, "hops": ()}
        packed.append(msgspec.structs.replace(packed[0], **as_tokens))
        outcome = self._outcome()
        messages = [
            *packed,
            outcome,
            SignedOutcome(outcome=codec.encode(outcome), certificate=b"0" * 400, signature=b"0" * 64),
            Failure(request_id="r1", code="internal", detail="broken", node="edge-1"),
            Receipt(request_ids=("r1", "r2")),
            LogRecord(record=Record(answer=self._answer(), created_at=time.time(), text="a film", true_label="1")),
        ]
        documents = [
            b'{"text": "a fine film", "pair": "b", "id": "1", "label": "positive"}',
            encode_document(NodeStatus(state="online", tier=Tier.EDGE, node="edge-1", counters={"a": 1})),
        ]
        toml = b'[node]\nid = "pi"\n[mqtt]\nport = 1883\nhost = "h"\n[device]\nbudget_ms = 20.5\n[log]\ndrain_s = 1\n'
        return [
            *((0, codec.encode(message)) for message in messages),
            *((1, document) for document in documents),
            *((2, name) for name in (b"dimee/v1/home/edge/request", b"+/#", b"home")),
            (3, toml),
        ]

    def message(self, payload: bytes) -> None:
        """Do what edge, cloud, device and recorder do with a message of unknown origin."""
        try:
            message = codec.decode(payload)
            match message:
                case HiddenStates():
                    state = unpack_state(message, self._manifest, self._links, self._embedding)
                    if not np.isfinite(state.hidden_states).all():
                        raise AssertionError("activations that are not finite came through")
                case Outcome():
                    hops = tuple(msgspec.structs.replace(hop) for hop in message.hops)
                    self._finish(self._answer(), hops)
                case SignedOutcome():
                    self._finish(self._answer(), AnySignature().read(message).outcome.hops)
                case LogRecord(record=record):
                    request_row(record, 1.0)
                    hop_rows(record.answer)
                case Failure():
                    self._finish(
                        msgspec.structs.replace(self._answer(), detail=storable(message.detail[:400]) or ""), ()
                    )
            codec.encode(message)
        except WireError:
            return

    def document(self, payload: bytes) -> None:
        """Do what a device does with an input, and a watcher with a status."""
        try:
            item = decode_input(payload)
            encode_document(answer_document(self._answer(), input_id=item.id))
        except InputError:
            pass
        try:
            encode_document(decode_status(payload))
        except WireError:
            return

    def topic(self, payload: bytes) -> None:
        """Match and check names."""
        name = payload.decode(errors="replace")
        matches("dimee/v1/+/status/#", name)
        try:
            checked("node.id", name)
            check_name(name)
        except (ConfigError, ValueError):
            return

    def configuration(self, payload: bytes) -> None:
        """Read a file that claims to be settings."""
        self._scratch.write_bytes(payload)
        kinds: tuple[type[Section], ...] = (DeviceSettings, EdgeSettings, CloudSettings)
        for kind in kinds:
            try:
                load(kind, self._scratch, {})
            except ConfigError:
                continue

    def _finish(self, answer: Answer, hops: tuple[Hop, ...]) -> None:
        finished = msgspec.structs.replace(answer, hops=hops)
        record = Record(answer=finished, created_at=1.0)
        codec.encode(LogRecord(record=record))
        request_row(record, 1.0)
        hop_rows(finished)

    def _outcome(self) -> Outcome:
        return Outcome(
            request_id="r1",
            model_revision=self._manifest.revision,
            reason=Reason.CONFIDENT,
            logits=(0.1, 0.9),
            confidence=0.7,
            exit_layer=2,
            threshold=0.5,
            hops=(_HOP,),
        )

    def _answer(self) -> Answer:
        return Answer(
            request_id="r1",
            device_id="pi-1",
            model_revision=self._manifest.revision,
            reason=Reason.CONFIDENT,
            label="positive",
            confidence=0.7,
            exit_layer=2,
            exit_tier=Tier.EDGE,
            entry_tier=Tier.DEVICE,
            total_ms=3.0,
            hops=(_HOP,),
        )
