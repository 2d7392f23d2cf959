"""Split inference is unsplit inference, alone or in a batch, through every codec."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny import LAYERS, sentences

from common.engine.choice import find_clusterer
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Exited, Pipeline, State, Unsure
from common.errors import ModelMismatchError, WireError
from common.model.bundle import Bundle, open_bundle
from common.model.segments import open_layers
from common.routing.entry import Dimee, Fixed
from common.routing.evidence import Entries, EntryEvidence, ExitEvidence
from common.routing.exits import ConfidenceCascade
from common.types import Hop, Reason, Tier
from common.wire import codec
from common.wire.messages import HiddenStates

NEVER = ConfidenceCascade(thresholds={})
ALWAYS = ConfidenceCascade(thresholds={1: 0.0, 2: 0.0})
TEXTS = [text for text, _ in sentences(12, seed=5)]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def states(bundle: Bundle) -> list[State]:
    entrance = Entrance(bundle, NEVER)
    return [entrance.enter(text).state for text in TEXTS]


def unsplit_logits(bundle: Bundle, state: State) -> np.ndarray:
    hidden, mask = state.hidden_states[None], np.ones((1, len(state.hidden_states)), np.int64)
    for segment in open_layers(bundle, LAYERS):
        output = segment.run(hidden, mask)
        hidden = output.hidden_states
    return output.logits[0]


def through_the_wire(bundle: Bundle, state: State, codec_name: str) -> State:
    hop = Hop(
        tier=Tier.DEVICE,
        node="d",
        start=0,
        end=state.layers_run,
        queue_ms=0,
        compute_ms=1,
        predictions=state.predictions,
        confidences=state.confidences,
    )
    message = Escalation(bundle.manifest, codec_name).pack("r", "d", state, budget_ms=1.0, hops=(hop,))
    received = codec.decode(codec.encode(message))
    assert isinstance(received, HiddenStates)
    return unpack_state(received, bundle.manifest)


@pytest.mark.parametrize("split_point", range(LAYERS))
@pytest.mark.parametrize(("codec_name", "tolerance"), [("float32", 1e-5), ("float16", 0.05), ("int8", 0.6)])
def test_split_backbone_gives_the_unsplit_logits(
    bundle: Bundle, states: list[State], split_point: int, codec_name: str, tolerance: float
) -> None:
    for state in states:
        head = state
        if split_point:
            (verdict,) = Pipeline(bundle, NEVER, depth=split_point).advance([state])
            assert isinstance(verdict, Unsure)
            head = verdict.state

        (answer,) = Pipeline(bundle, NEVER, depth=LAYERS).advance([through_the_wire(bundle, head, codec_name)])

        assert isinstance(answer, Exited)
        np.testing.assert_allclose(answer.logits, unsplit_logits(bundle, state), rtol=0, atol=tolerance)


def test_a_batch_answers_as_each_input_alone(bundle: Bundle, states: list[State]) -> None:
    alone_at_a_time = Pipeline(bundle, ConfidenceCascade(thresholds={1: 0.9, 2: 0.9}), depth=LAYERS)
    padded = Pipeline(bundle, ConfidenceCascade(thresholds={1: 0.9, 2: 0.9}), depth=LAYERS)
    padded.max_batch = len(states) - 1

    together = padded.advance(states)

    for state, verdict in zip(states, together, strict=True):
        (alone,) = alone_at_a_time.advance([state])
        assert isinstance(alone, Exited)
        assert isinstance(verdict, Exited)
        assert (verdict.layer, verdict.predictions) == (alone.layer, alone.predictions)
        np.testing.assert_allclose(verdict.logits, alone.logits, rtol=0, atol=1e-5)


def test_states_taken_together_and_run_one_by_one_answer_to_the_last_bit_as_alone(
    bundle: Bundle, states: list[State]
) -> None:
    pipeline = Pipeline(bundle, ConfidenceCascade(thresholds={1: 0.9, 2: 0.9}), depth=LAYERS)

    together = pipeline.advance(states)

    for state, verdict in zip(states, together, strict=True):
        (alone,) = pipeline.advance([state])
        assert verdict.best.compute_ms > 0
        assert msgspec.structs.replace(verdict.best, compute_ms=0.0) == msgspec.structs.replace(
            alone.best, compute_ms=0.0
        )


def test_an_exit_below_its_threshold_carries_on_and_the_last_one_has_the_last_word(
    bundle: Bundle, states: list[State]
) -> None:
    (confident,) = Pipeline(bundle, ALWAYS, depth=1).advance(states[:1])
    (final,) = Pipeline(bundle, NEVER, depth=LAYERS).advance(states[:1])

    assert isinstance(confident, Exited)
    assert (confident.layer, confident.reason, confident.threshold) == (1, Reason.CONFIDENT, 0.0)
    assert isinstance(final, Exited)
    assert (final.layer, final.reason, final.threshold) == (LAYERS, Reason.FINAL, None)
    assert len(final.predictions) == LAYERS


def test_a_fixed_policy_answers_at_its_tier_s_depth(bundle: Bundle, states: list[State]) -> None:
    (answer,) = Pipeline(bundle, Fixed(tier=Tier.EDGE, layer=2), depth=2).advance(states[:1])

    assert isinstance(answer, Exited)
    assert (answer.layer, answer.reason) == (2, Reason.FINAL)


def test_another_revision_is_refused(bundle: Bundle, states: list[State]) -> None:
    message = Escalation(bundle.manifest, "int8").pack("r", "d", states[0], budget_ms=1.0, hops=())
    foreign = HiddenStates(
        **{**{n: getattr(message, n) for n in message.__struct_fields__}, "model_revision": "f" * 16}
    )

    with pytest.raises(ModelMismatchError, match="f" * 16):
        unpack_state(foreign, bundle.manifest)


@pytest.mark.parametrize("shape", [(3, 15), (3, 17), (33, 16)])
def test_hidden_states_of_another_size_are_refused(bundle: Bundle, shape: tuple[int, int]) -> None:
    state = State(hidden_states=np.zeros(shape, np.float32), layers_run=1)
    message = Escalation(bundle.manifest, "int8").pack("r", "d", state, budget_ms=1.0, hops=())

    with pytest.raises(WireError, match="do not fit"):
        unpack_state(message, bundle.manifest)


def test_pure_dimee_passes_the_exits_inside_its_tier(bundle: Bundle, states: list[State]) -> None:
    pure = Dimee(centroids=((0.0,),) * 3, thresholds={}, has_fallback=False)

    (answer,) = Pipeline(bundle, pure, depth=2).advance(states[:1])

    assert isinstance(answer, Exited)
    assert answer.layer == 2


def test_the_pool_is_named_whichever_policy_routes(bundle: Bundle) -> None:
    entered = Entrance(bundle, NEVER, clusterer=find_clusterer(bundle)).enter(TEXTS[0])

    assert entered.tier is Tier.DEVICE
    assert entered.pool is not None
    assert len(entered.distances) == 3


class Recording:
    """A policy that keeps what it is shown and answers after layer 2."""

    is_selective = True

    def __init__(self) -> None:
        self.seen: list[ExitEvidence] = []

    def enter(self, evidence: EntryEvidence) -> Entries:
        return NEVER.enter(evidence)

    def should_exit(self, evidence: ExitEvidence) -> np.ndarray:
        self.seen.append(evidence)
        return np.array([evidence.layer == 2])

    def threshold_at(self, _layer: int) -> None:
        return None


@pytest.mark.parametrize("entered_at", [0, 1])
def test_a_policy_sees_every_exit_passed_wherever_it_was(bundle: Bundle, states: list[State], entered_at: int) -> None:
    policy, state = Recording(), states[0]
    if entered_at:
        (handed,) = Pipeline(bundle, NEVER, depth=1).advance([state])
        assert isinstance(handed, Unsure)
        state = through_the_wire(bundle, handed.state, "float32")

    (answer,) = Pipeline(bundle, policy, depth=2).advance([state])

    assert isinstance(answer, Exited)
    assert answer.reason is Reason.CONFIDENT
    assert policy.seen[-1].earlier.tolist() == [[answer.predictions[0]]]
    assert policy.seen[-1].earlier_confidences == pytest.approx(np.array([[answer.confidences[0]]]), abs=1e-6)
