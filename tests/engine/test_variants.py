"""A tier runs the most accurate of its bundles and depths that fits the time a request has left."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.config.settings import CloudSettings, Model, Node, Worker
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline, State
from common.engine.variants import Variants, check_family
from common.errors import ConfigError
from common.model.bundle import Bundle, open_bundle
from common.routing.exits import ConfidenceCascade
from common.routing.selection import Profile
from common.service.loading import open_pipeline, open_variants
from common.service.served import Identity
from common.service.worker import TierWorker
from common.transport.contract import Delivery, Inbox
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.types import Reason, Tier
from common.wire import codec
from common.wire.messages import Outcome
from common.wire.topics import Topics

NEVER = ConfidenceCascade(thresholds={})
TOPICS = Topics("home")


class Timed(Pipeline):
    """A pipeline whose segments are said to take a fixed time each."""

    def __init__(self, bundle: Bundle, segment_ms: float, accuracy: float) -> None:
        super().__init__(bundle, NEVER, depth=bundle.manifest.num_layers)
        self._segment_ms = segment_ms
        exits = tuple(msgspec.structs.replace(exit_, accuracy=accuracy) for exit_ in bundle.manifest.exits)
        self.manifest = msgspec.structs.replace(bundle.manifest, exits=exits)

    def profile(self, start: int) -> Profile:  # noqa: ARG002 - the same for all
        return Profile(mean_ms=self._segment_ms, variance=100.0, measurements=100)


@pytest.fixture
def own(tiny_bundle: Path) -> Timed:
    """Float32: a second a segment."""
    return Timed(open_bundle(tiny_bundle), 1000.0, 0.95)


@pytest.fixture
def other(tiny_variant: Path) -> Timed:
    """Int8: 200 ms a segment, and a little less accurate."""
    return Timed(open_bundle(tiny_variant), 200.0, 0.9)


@pytest.fixture
def worker(own: Timed, other: Timed) -> Iterator[tuple[TierWorker, Inbox]]:
    with LoopbackTransport(LoopbackBroker(), client_id="cloud-1") as transport:
        inbox = Inbox(100)
        transport.subscribe(TOPICS.outcome("pi-1"), inbox)
        identity = Identity(tier=Tier.CLOUD, node="cloud-1", topics=TOPICS, manifest=own.manifest)
        yield TierWorker(identity, own, transport, escalation=None, max_remembered=10, variants=[other]), inbox


def ask(worker: tuple[TierWorker, Inbox], pipeline: Pipeline, *, budget_ms: float) -> Outcome:
    state = State(hidden_states=np.ones((4, 16), np.float32), layers_run=0)
    name = f"r{budget_ms}-{pipeline.manifest.revision}"
    request = Escalation(pipeline.manifest, "int8").pack(name, "pi-1", state, budget_ms=budget_ms, hops=())
    worker[0].handle([Delivery(TOPICS.request(Tier.CLOUD), codec.encode(request), time.monotonic())])
    reply = worker[1].get(60)
    assert reply is not None
    message = codec.decode(reply.payload)
    assert isinstance(message, Outcome)
    return message


@pytest.mark.parametrize(
    ("left_ms", "place", "upto"),
    [
        (1e6, 0, 3),  # all the time: float32 to the end
        (3018.0, 0, 3),  # three segments and a deviation of 17.3 ms
        (3017.0, 0, 2),  # a shallower exit of the more accurate weights
        (2000.0, 1, 3),  # int8
        (500.0, 1, 2),  # int8, cut short
        (10.0, 1, 2),  # nothing fits: the quickest
    ],
)
def test_the_most_accurate_that_fits_is_chosen(own: Timed, other: Timed, left_ms: float, place: int, upto: int) -> None:
    chosen = Variants([own, other]).choose(0, left_ms)

    assert chosen.pipeline is (own, other)[place]
    assert chosen.upto == upto


def test_of_exits_that_are_equally_accurate_the_deepest_is_run(own: Timed) -> None:
    assert Variants([own]).choose(0, 1e6).upto == own.depth


def test_what_is_no_deeper_than_the_device_is_no_choice(own: Timed) -> None:
    assert Variants([own]).choose(0, 0.0).upto == own.manifest.depths.edge


def test_a_hop_tells_which_variant_ran_and_how_deep(worker: tuple[TierWorker, Inbox], own: Timed, other: Timed) -> None:
    ample, scarce = ask(worker, own, budget_ms=1e6), ask(worker, own, budget_ms=1900.0)
    hurried = ask(worker, own, budget_ms=550.0)

    assert (ample.hops[-1].variant, ample.exit_layer) == ("", 3)
    assert (scarce.hops[-1].variant, scarce.exit_layer) == (other.manifest.revision, 3)
    assert (hurried.hops[-1].variant, hurried.exit_layer, hurried.reason) == (other.manifest.revision, 2, Reason.FINAL)
    assert worker[0].counters["cut_short"] == 1


def test_a_request_of_a_variants_revision_is_served(worker: tuple[TierWorker, Inbox], own: Timed, other: Timed) -> None:
    outcome = ask(worker, other, budget_ms=1e6)

    assert outcome.model_revision == other.manifest.revision
    assert outcome.hops[-1].variant == own.manifest.revision


def test_two_precisions_of_one_run_say_the_same(tiny_bundle: Path, tiny_variant: Path) -> None:
    state = State(hidden_states=np.random.default_rng(1).normal(size=(6, 16)).astype(np.float32), layers_run=0)
    verdicts = [
        Pipeline(open_bundle(path), NEVER, depth=3).advance([state])[0].logits for path in (tiny_bundle, tiny_variant)
    ]

    np.testing.assert_allclose(verdicts[0], verdicts[1], atol=0.6)


def test_a_profile_is_measured_and_forgotten_after_a_while(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(open_bundle(tiny_bundle), NEVER, depth=3)
    pipeline.warm_up()

    assert all(pipeline.profile(span.start).mean_ms > 0 for span in pipeline.spans)
    monkeypatch.setattr("common.engine.pipeline._BELIEVED_S", 0.0)
    assert pipeline.profile(0).measurements == 0


def settings_of(bundle: Path, *variants: Path) -> CloudSettings:
    return CloudSettings(
        node=Node(id="cloud-1"),
        model=Model(bundle=str(bundle)),
        worker=Worker(variants=tuple(str(path) for path in variants)),
    )


def test_variants_are_named_in_the_settings(tiny_bundle: Path, tiny_variant: Path) -> None:
    settings = settings_of(tiny_bundle, tiny_variant)
    bundle, _ = open_pipeline(settings, Tier.CLOUD)

    (variant,) = open_variants(settings, Tier.CLOUD, bundle)

    assert variant.manifest.precision == "int8"
    assert variant.profile(0).measurements == 3


def test_other_weights_and_other_cuts_are_refused(tiny_bundle: Path, tiny_variant: Path) -> None:
    settings = settings_of(tiny_bundle, Path("shipped"))
    own, variant = open_bundle(tiny_bundle), open_bundle(tiny_variant).manifest

    with pytest.raises(ConfigError, match=r"worker\.variants: 'shipped' .* is not of the weights of model\.bundle"):
        open_variants(settings, Tier.CLOUD, own)
    with pytest.raises(ConfigError, match=r"differs from model\.bundle in its labels"):
        check_family(own.manifest, msgspec.structs.replace(variant, labels=("a", "b")), "other")
