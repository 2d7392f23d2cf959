"""Thin links: a budget is a slice, its width says which, and what fits none is refused."""

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, thin, unpack_state
from common.engine.pipeline import Exited, Pipeline, State
from common.engine.thinness import Always, Thinness
from common.errors import ArtifactError, ConfigError, WireError
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.thin_links import LINKS_FILE, LinkEntry, LinkTable, Rung, open_thin_links
from common.routing.policies import ConfidenceCascade, Policy
from common.wire import codec
from common.wire.messages import HiddenStates
from common.wire.tensors import unpack

WIDTH, BUDGETS, SPLIT = 16, (4, 15), 1
ARRAYS = {
    "encoder": np.eye(WIDTH, 15, dtype=np.float32),
    "decoder": np.eye(15, WIDTH, dtype=np.float32),
    "mean": np.full(WIDTH, 0.5, np.float32),
    "bias": np.full(WIDTH, 0.5, np.float32),
    "score": np.eye(WIDTH, 2, dtype=np.float32),
    "score_bias": np.zeros(2, np.float32),
}


def with_link(
    bundle: Bundle,
    directory: Path,
    *,
    split_point: int = SPLIT,
    thresholds: dict[int, float] | None = None,
    **changed: np.ndarray,
) -> Bundle:
    """Derive a bundle whose link drops the last dimensions as they are."""
    archive = io.BytesIO()
    np.savez(archive, **(ARRAYS | changed))
    behind = {exit_.layer: 2.0 for exit_ in bundle.manifest.exits if exit_.layer > split_point}
    rungs = tuple(
        Rung(budget=budget, temperatures=behind, accuracy=0.9, token_bytes=1.0, thresholds=thresholds or {})
        for budget in BUDGETS
    )
    entry = LinkEntry(split_point=split_point, file="link.npz", rungs=rungs)
    table = msgspec.json.encode(LinkTable(links=(entry,), training={}))
    return derive(bundle, directory / "compressed", {LINKS_FILE: table, "link.npz": archive.getvalue()})


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return with_link(open_bundle(tiny_bundle), tmp_path)


@pytest.fixture
def state(bundle: Bundle) -> State:
    """A sentence at the split point."""
    entered = Entrance(bundle, choose_policy(bundle)).enter("a fine film with the warm music and a bright end")
    hidden = Pipeline(bundle, choose_policy(bundle, "cloud-only"), depth=SPLIT).advance([entered.state])
    return hidden[0].state  # type: ignore[union-attr]


def packed(bundle: Bundle, state: State, thinness: Thinness) -> HiddenStates:
    links = open_thin_links(bundle)
    escalation = Escalation(bundle.manifest, "int8", links=links, chooser=Always(thinness, links))
    message = codec.decode(codec.encode(escalation.pack("r", "d", state, budget_ms=1.0, hops=())))
    assert isinstance(message, HiddenStates)
    return message


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_is_a_slice_that_comes_back_at_the_model_s_width(bundle: Bundle, state: State, budget: int) -> None:
    message = packed(bundle, state, Thinness(codec="float32", budget=budget))

    received = unpack_state(message, bundle.manifest, open_thin_links(bundle))

    assert message.tensors[0].shape == (len(state.hidden_states), budget)
    np.testing.assert_allclose(received.hidden_states[:, :budget], state.hidden_states[:, :budget], atol=1e-6)
    np.testing.assert_allclose(received.hidden_states[:, budget:], 0.5)


def test_exits_behind_a_link_have_temperatures_of_their_own(bundle: Bundle, state: State) -> None:
    message = packed(bundle, state, Thinness(codec="float32", budget=15))
    pipeline = Pipeline(bundle, choose_policy(bundle, "cloud-only"), depth=bundle.manifest.num_layers)
    received = unpack_state(message, bundle.manifest, pipeline.links)
    usual = State(hidden_states=received.hidden_states, layers_run=SPLIT)

    answers = pipeline.advance([received, usual])

    for answer, temperature in zip(answers, (2.0, bundle.manifest.exits[-1].temperature), strict=True):
        assert isinstance(answer, Exited)
        scaled = np.exp(np.array(answer.logits) / temperature)
        assert answer.confidence == pytest.approx(scaled.max() / scaled.sum(), abs=1e-5)


def test_the_first_token_and_the_most_attended_ones_stay_in_their_order(bundle: Bundle) -> None:
    link = open_thin_links(bundle)[SPLIT]
    hidden = np.zeros((6, WIDTH), np.float32)
    hidden[:, 0] = (-9, 1, 5, 0, 4, 2)

    kept, attention = thin(hidden, Thinness(codec="int8", tokens=0.5), link)

    np.testing.assert_array_equal(kept[:, 0], (-9, 5, 4))
    assert attention is not None
    np.testing.assert_allclose(attention, link.attention(hidden)[[0, 2, 4]])


def test_a_token_s_attention_is_its_share_of_what_the_exit_head_looks_at(bundle: Bundle) -> None:
    hidden = np.zeros((4, WIDTH), np.float32)
    hidden[:, 0] = np.log((1, 1, 2, 4))  # one query; the other looks at all alike

    attention = open_thin_links(bundle)[SPLIT].attention(hidden)

    np.testing.assert_allclose(attention, (0.75, 0.75, 1.0, 1.5), rtol=1e-6)


def test_a_budget_sent_as_graded_tells_the_bits_of_every_token(bundle: Bundle, state: State) -> None:
    message = packed(bundle, state, Thinness(codec="graded", budget=15))

    attention = open_thin_links(bundle)[SPLIT].attention(state.hidden_states)
    more = unpack(message.tensors[2])
    assert len(more) == len(attention)
    assert (more[attention > 1.3] >= 0).all()
    received = unpack_state(message, bundle.manifest, open_thin_links(bundle)).hidden_states
    assert received.shape == state.hidden_states.shape


@pytest.mark.parametrize(("asked", "exit_layer"), [(0.0, 2), (1.0, 3)])
def test_a_budget_s_own_threshold_takes_the_place_of_the_default_s_alone(
    tiny_bundle: Path, tmp_path: Path, state: State, asked: float, exit_layer: int
) -> None:
    bundle = with_link(open_bundle(tiny_bundle), tmp_path / "recalibrated", thresholds={2: asked})
    default = choose_policy(bundle)
    others = ConfidenceCascade(thresholds={} if asked == 0.0 else {2: 0.0})  # an operating point, say
    message = packed(bundle, state, Thinness(codec="float32", budget=15))

    def answer(policy: Policy, is_thin: bool) -> Exited:
        pipeline = Pipeline(bundle, policy, depth=3)
        received = unpack_state(message, bundle.manifest, pipeline.links)
        (verdict,) = pipeline.advance([received if is_thin else msgspec.structs.replace(received, rung=None)])
        assert isinstance(verdict, Exited)
        return verdict

    assert answer(default, is_thin=True).layer == exit_layer
    assert answer(default, is_thin=True).threshold == (None if exit_layer == 3 else asked)
    assert answer(others, is_thin=True).layer == answer(others, is_thin=False).layer == 5 - exit_layer


@pytest.mark.parametrize(("width", "split_point"), [(5, SPLIT), (17, SPLIT), (4, 2)])
def test_a_width_that_fits_no_budget_is_refused(bundle: Bundle, width: int, split_point: int) -> None:
    wrong = State(hidden_states=np.ones((3, width), np.float32), layers_run=split_point)
    message = Escalation(bundle.manifest, "float32").pack("r", "d", wrong, budget_ms=1.0, hops=())

    with pytest.raises(WireError, match=f"{width}.* fit"):
        unpack_state(message, bundle.manifest, open_thin_links(bundle))


def test_a_budget_that_was_not_trained_is_refused_at_the_start(bundle: Bundle, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"7 is none of the bundle's budgets at split point 1: \[4, 15\]"):
        Always(Thinness(codec="int8", budget=7), open_thin_links(bundle))
    with pytest.raises(ConfigError, match="make them with 'dimee model compress'"):
        Always(Thinness(codec="int8", tokens=0.5), open_thin_links(open_bundle(tiny_bundle)))


@pytest.mark.parametrize(
    "changed", [{"encoder": np.eye(WIDTH)}, {"mean": np.zeros(3)}, {"split_point": 3}, {"thresholds": {3: 0.5}}]
)
def test_a_link_that_does_not_fit_its_bundle_is_refused(tiny_bundle: Path, tmp_path: Path, changed: dict) -> None:
    broken = with_link(open_bundle(tiny_bundle), tmp_path, **changed)

    with pytest.raises(ArtifactError, match=r"link\.npz"):
        open_thin_links(broken)
