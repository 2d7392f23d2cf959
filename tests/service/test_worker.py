"""A tier answers, escalates or refuses; no message stops it."""

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline, State
from common.engine.variants import Variants
from common.model.bundle import open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.routing.policies import ConfidenceCascade
from common.service.served import Identity, ServedModel
from common.service.worker import TierWorker
from common.transport.contract import Delivery, Inbox
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.types import Tier
from common.wire import codec
from common.wire.messages import Failure, HiddenStates, Message, Outcome, Receipt, SignedOutcome, Tensor
from common.wire.topics import Topics

TOPICS = Topics("home")


class Bench:
    """An edge worker, and ears for all it says."""

    def __init__(self, bundle: Path, transport: LoopbackTransport, *, max_remembered: int = 100) -> None:
        self.bundle = open_bundle(bundle)
        self.inbox = Inbox(1000)
        self._transport = transport
        transport.subscribe("dimee/#", self.inbox)
        self.worker = self.make_worker(max_remembered=max_remembered)

    def make_worker(self, *, is_sure: bool = True, max_remembered: int = 100, signer: Any = None) -> TierWorker:
        manifest = self.bundle.manifest
        return TierWorker(
            Identity(tier=Tier.EDGE, node="edge-1", topics=TOPICS, manifest=manifest),
            Pipeline(self.bundle, ConfidenceCascade(thresholds={2: 0.0} if is_sure else {}), depth=2),
            self._transport,
            escalation=Escalation(manifest, "int8"),
            max_remembered=max_remembered,
            signer=signer,
        )

    def request(self, number: int = 1, **changes: Any) -> HiddenStates:
        state = State(hidden_states=np.ones((4, 16), np.float32), layers_run=1, predictions=(), confidences=())
        message = Escalation(self.bundle.manifest, "int8").pack(f"r{number}", "pi-1", state, budget_ms=1e6, hops=())
        return msgspec.structs.replace(message, **changes)

    def say(self, *payloads: bytes, waited_s: float = 0.0) -> list[Message]:
        at = time.monotonic() - waited_s
        self.worker.handle([Delivery(TOPICS.request(Tier.EDGE), payload, at) for payload in payloads])
        return [codec.decode(delivery.payload) for delivery in self.inbox.get_batch(1000, 0) or ()]


class Vouching:
    """Signs everything, with nothing that holds."""

    def sign(self, device_id: str, outcome: bytes) -> SignedOutcome:
        return SignedOutcome(outcome=outcome, certificate=device_id.encode(), signature=b"")


@pytest.fixture
def bench(tiny_bundle: Path) -> Any:
    with LoopbackTransport(LoopbackBroker(), client_id="edge-1") as transport:
        yield Bench(tiny_bundle, transport)


def test_what_was_worked_through_together_leaves_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over: list[int] = []
    publish_all = bench.worker._transport.publish_all
    monkeypatch.setattr(
        bench.worker._transport, "publish_all", lambda those: (handed_over.append(len(those)), publish_all(those))[1]
    )

    outcomes = bench.say(*(codec.encode(bench.request(number)) for number in range(4)))

    assert handed_over == [4]
    assert [outcome.request_id for outcome in outcomes if isinstance(outcome, Outcome)] == ["r0", "r1", "r2", "r3"]


def test_a_request_is_answered_with_its_hop(bench: Bench) -> None:
    (outcome,) = bench.say(codec.encode(bench.request()))

    assert isinstance(outcome, Outcome)
    (hop,) = outcome.hops
    assert (hop.tier, hop.node, hop.start, hop.end) == (Tier.EDGE, "edge-1", 1, 2)
    assert hop.received_bytes == len(codec.encode(bench.request()))


def test_requests_that_wait_together_are_answered_each(bench: Bench) -> None:
    outcomes = bench.say(*(codec.encode(bench.request(number)) for number in range(5)))

    assert sorted(outcome.request_id for outcome in outcomes if isinstance(outcome, Outcome)) == [
        f"r{n}" for n in range(5)
    ]


def test_a_repeated_request_is_answered_again_and_not_computed_again(bench: Bench) -> None:
    payload = codec.encode(bench.request())

    first, second = bench.say(payload)[0], bench.say(payload)[0]

    assert first == second
    assert (bench.worker.counters["answered"], bench.worker.counters["repeated"]) == (1, 1)


def test_memory_of_answers_is_bounded(tiny_bundle: Path) -> None:
    with LoopbackTransport(LoopbackBroker(), client_id="edge-1") as transport:
        bench = Bench(tiny_bundle, transport, max_remembered=2)
        for number in range(5):
            bench.say(codec.encode(bench.request(number)))

        assert len(bench.worker._remembered) == 2


def test_a_request_whose_budget_ran_out_in_the_queue_is_dropped(bench: Bench) -> None:
    assert bench.say(codec.encode(bench.request(budget_ms=100.0)), waited_s=1.0) == []
    assert bench.worker.counters["expired"] == 1


OUTLIER_BEYOND = (
    Tensor("|i1", (1, 2), b"\1\1"),
    Tensor("|u1", (1, 7), b"\0" * 7),
    Tensor("<u2", (2,), b"\0\0\x63\0"),  # dimensions 0 and 99 of 16
    Tensor("<f2", (1, 2), b"\0\x3c\0\x3c"),
)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_revision": "f" * 16}, "model_mismatch"),
        ({"split_point": 2}, "bad_message"),
        ({"split_point": 9}, "bad_message"),
        ({"codec": "gzip"}, "bad_message"),
        ({"tensors": (Tensor("<f4", (2, 2), b""),)}, "bad_message"),
        ({"codec": "float32", "tensors": (Tensor("<f4", (1, 5), b"\0" * 20),)}, "bad_message"),
        ({"codec": "tokens", "tensors": (Tensor("<u2", (1,), b"\1\0"),)}, "bad_message"),
        ({"tensors": (Tensor("|i1", (1, 16), b"\0" * 16), Tensor("<f2", (1,), b"\xff\xff"))}, "bad_message"),
        ({"codec": "float32", "tensors": (Tensor("<f4", (2, 5), b"\0" * 40),)}, "bad_message"),
        ({"codec": "int4", "tensors": OUTLIER_BEYOND}, "bad_message"),
        (
            {"codec": "graded", "tensors": (Tensor("|u1", (1, 1), b"\0"), Tensor("|u1", (16,), b"\0" * 16))},
            "bad_message",
        ),
    ],
)
def test_a_wrong_request_is_refused_with_its_code(bench: Bench, changes: dict[str, Any], code: str) -> None:
    (failure,) = bench.say(codec.encode(bench.request(**changes)))

    assert isinstance(failure, Failure)
    assert (failure.code, failure.node) == (code, "edge-1")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x91\xa1H", codec.encode(Receipt(request_ids=("a",)))])
def test_bytes_that_are_no_request_are_counted_and_stop_nothing(bench: Bench, payload: bytes) -> None:
    assert bench.say(payload) == []
    assert bench.worker.counters["refused"] == 1
    assert len(bench.say(codec.encode(bench.request()))) == 1


def test_one_input_that_breaks_the_model_does_not_take_its_batch_along(bench: Bench, monkeypatch: Any) -> None:
    (model,) = bench.worker.models.values()
    (pipeline,) = model.variants.pipelines
    advance = pipeline.advance

    def fragile(states: list[State], **options: Any) -> Any:
        if any(state.hidden_states[0, 0] < 0 for state in states):
            raise RuntimeError("broken input")
        return advance(states, **options)

    monkeypatch.setattr(pipeline, "advance", fragile)
    broken = State(hidden_states=-np.ones((4, 16), np.float32), layers_run=1)
    poison = Escalation(bench.bundle.manifest, "int8").pack("bad", "pi-1", broken, budget_ms=1e6, hops=())

    said = bench.say(codec.encode(bench.request()), codec.encode(poison))

    assert {type(message) for message in said} == {Outcome, Failure}
    assert {message.request_id for message in said if isinstance(message, Failure)} == {"bad"}


def test_a_request_that_breaks_the_model_twice_is_refused_at_once_from_then_on(bench: Bench, monkeypatch: Any) -> None:
    runs: list[int] = []

    def broken(states: list[State], **_: Any) -> Any:
        runs.append(len(states))
        raise RuntimeError("broken input")

    (model,) = bench.worker.models.values()
    monkeypatch.setattr(model.variants.pipelines[0], "advance", broken)
    said = [bench.say(codec.encode(bench.request(attempt=attempt)))[0] for attempt in range(1, 5)]
    monkeypatch.undo()
    after = bench.say(codec.encode(bench.request()), codec.encode(bench.request(2)))

    assert len(runs) == 2
    details = [message.detail for message in said if isinstance(message, Failure)]
    assert details[:2] == ["broken input"] * 2
    assert all("in quarantine" in detail for detail in details[2:])
    assert {message.request_id: type(message) for message in after if isinstance(message, Failure | Outcome)} == {
        "r1": Failure,
        "r2": Outcome,
    }
    assert bench.worker._quarantine.counters == {"quarantined": 1, "quarantined_again": 3}


def test_what_broke_the_model_once_is_computed_alone_from_then_on(bench: Bench, monkeypatch: Any) -> None:
    runs: list[int] = []
    (model,) = bench.worker.models.values()
    (pipeline,) = model.variants.pipelines
    advance = pipeline.advance

    def fragile(states: list[State], **options: Any) -> Any:
        runs.append(len(states))
        if len(runs) == 1:
            raise RuntimeError("broken once")
        return advance(states, **options)

    monkeypatch.setattr(pipeline, "advance", fragile)
    bench.say(codec.encode(bench.request(1)))
    bench.say(*(codec.encode(bench.request(number)) for number in range(1, 5)))

    assert sorted(runs[1:]) == [1, 3]


@pytest.mark.parametrize("payload", [b"\xc1", codec.encode(Receipt(request_ids=("a",)))])
def test_bytes_that_cannot_be_read_are_kept(bench: Bench, payload: bytes) -> None:
    bench.say(payload, payload)

    ((body, times),) = bench.worker._quarantine._database.execute("SELECT body, times FROM poison")
    assert (body, times) == (payload, 2)


def test_requests_of_two_revisions_are_answered_side_by_side(bench: Bench, tmp_path: Path) -> None:
    table = bench.bundle.read(ROUTING_FILE)
    other = derive(bench.bundle, tmp_path / "other", {ROUTING_FILE: table + b" "})
    pipeline = Pipeline(other, ConfidenceCascade(thresholds={2: 0.0}), depth=2)
    of_other = msgspec.structs.replace(bench.request(), request_id="r2", model_revision=other.revision)

    before = bench.say(codec.encode(of_other))
    bench.worker.serve(ServedModel(variants=Variants((pipeline,)), escalation=None))
    both = bench.say(codec.encode(bench.request()), codec.encode(of_other))
    bench.worker.drop(other.revision)
    after = bench.say(codec.encode(msgspec.structs.replace(of_other, request_id="r3")))

    assert [type(message) for message in (*before, *after)] == [Failure, Failure]
    assert {message.model_revision for message in both if not isinstance(message, Failure)} == {
        bench.bundle.revision,
        other.revision,
    }


def test_a_device_is_told_at_once_that_there_is_no_place(bench: Bench) -> None:
    bench.worker.turn_away(codec.peek(codec.encode(bench.request())))
    bench.worker.turn_away(codec.Peek(device_id="no/name", request_id="r1"))

    (failure,) = [codec.decode(delivery.payload) for delivery in bench.inbox.get_batch(10, 0) or ()]
    assert isinstance(failure, Failure)
    assert (failure.request_id, failure.code) == ("r1", "overloaded")


def test_a_tier_that_cannot_sign_refuses_at_once_what_needs_a_signature(bench: Bench) -> None:
    (said,) = bench.say(codec.encode(bench.request(needs_signature=True)))

    assert isinstance(said, Failure)
    assert (said.request_id, said.code) == ("r1", "unsigned")


def test_what_needs_a_signature_still_does_after_an_escalation(bench: Bench) -> None:
    bench.worker = bench.make_worker(is_sure=False, signer=Vouching())

    carried, plain = bench.say(codec.encode(bench.request(1, needs_signature=True)), codec.encode(bench.request(2)))

    assert isinstance(carried, HiddenStates)
    assert isinstance(plain, HiddenStates)
    assert (carried.needs_signature, plain.needs_signature) == (True, False)


def test_a_repeated_request_gets_the_same_signed_outcome(bench: Bench) -> None:
    bench.worker = bench.make_worker(signer=Vouching())
    request = codec.encode(bench.request(needs_signature=True))

    (first,), (second,) = bench.say(request), bench.say(request)

    assert isinstance(first, SignedOutcome)
    assert first == second
