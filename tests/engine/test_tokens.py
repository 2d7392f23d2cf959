"""Tokens in the place of the embedding output: the same numbers on the other side, and refused where they mean none."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import sentences

from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Pipeline, State
from common.engine.token_embedding import TokenEmbedding
from common.errors import ArtifactError, ConfigError, WireError
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.manifest import TOKENIZER_FILE
from common.wire import activations, codec
from common.wire.messages import HiddenStates, Tensor
from common.wire.tensors import pack

TEXTS = [text for text, _ in sentences(20, seed=8)]


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_variant", "shipped"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """A bundle in float32, the same in int8, and the shipped one."""
    return open_bundle() if request.param == "shipped" else open_bundle(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def embedding(bundle: Bundle) -> TokenEmbedding:
    return TokenEmbedding(bundle)


def entered(bundle: Bundle, text: str) -> State:
    return Entrance(bundle, choose_policy(bundle)).enter(text).state


def sent(bundle: Bundle, state: State) -> HiddenStates:
    message = Escalation(bundle.manifest, "int8", sends_tokens=True).pack("r", "d", state, budget_ms=1.0, hops=())
    received = codec.decode(codec.encode(message))
    assert isinstance(received, HiddenStates)
    return received


def test_the_receiver_embeds_to_the_very_numbers_of_the_device(bundle: Bundle, embedding: TokenEmbedding) -> None:
    for text in TEXTS:
        state = entered(bundle, text)
        message = sent(bundle, state)

        received = unpack_state(message, bundle.manifest, embedding=embedding)

        np.testing.assert_array_equal(received.hidden_states, state.hidden_states)
        assert message.codec == "tokens"
        assert [len(tensor.data) for tensor in message.tensors] == [2 * len(state.hidden_states)]
        assert received.form == (len(state.hidden_states), 1)


def test_what_has_passed_a_layer_leaves_by_the_usual_codec(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (verdict,) = Pipeline(bundle, choose_policy(bundle, "cloud-only"), depth=1).advance([entered(bundle, TEXTS[0])])

    message = sent(bundle, verdict.state)  # type: ignore[union-attr]

    assert (message.codec, message.split_point) == ("int8", 1)


def changed(ids: Any, types: Any = None) -> tuple[Tensor, ...]:
    return (pack(np.array(ids, np.uint32)), *(() if types is None else (pack(np.array(types, np.uint8)),)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split_point": 1}, "tokens tell the state before layer 0, not that at split point 1"),
        ({"tensors": changed([1, 24])}, "token 24 of type 0 is beyond a vocabulary of 24"),
        ({"tensors": changed([2**32 - 1])}, "token 4294967295 of type 0 is beyond"),
        ({"tensors": changed([1, 2], [0, 1])}, "token 2 of type 1 is beyond"),
        ({"tensors": changed([1] * 33)}, "33 tokens do not fit at most 32"),
        ({"tensors": changed([[1, 2]])}, r"must be \[sequence\] and not empty, got \[1, 2\]"),
        ({"tensors": changed([])}, "not empty"),
        ({"tensors": changed([1, 2], [0])}, "with types"),
        ({"tensors": (pack(np.ones(3, np.float32)),)}, "tokens travel as"),
        ({"tensors": changed([1], [0]) * 2}, "tokens travel as"),
    ],
)
def test_tokens_that_name_no_input_of_the_model_are_refused(
    tiny_bundle: Path, changes: dict[str, Any], reason: str
) -> None:
    bundle = open_bundle(tiny_bundle)
    message = msgspec.structs.replace(sent(bundle, entered(bundle, TEXTS[0])), **changes)

    with pytest.raises(WireError, match=reason):
        unpack_state(message, bundle.manifest, embedding=TokenEmbedding(bundle))


def test_a_tier_without_the_embedding_takes_no_tokens(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)

    with pytest.raises(WireError, match=r"takes no tokens: set worker\.takes_tokens"):
        unpack_state(sent(bundle, entered(bundle, TEXTS[0])), bundle.manifest)


def test_an_embedding_of_fewer_words_than_the_tokenizer_is_refused_at_the_start(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(tiny_bundle)
    tokenizer = json.loads(bundle.read(TOKENIZER_FILE))
    tokenizer["model"]["vocab"]["sequel"] = 24
    larger = derive(bundle, tmp_path / "larger", {TOKENIZER_FILE: json.dumps(tokenizer).encode()})

    with pytest.raises(ArtifactError, match="the embedding does not fit the tokenizer"):
        TokenEmbedding(larger)


def test_tokens_are_no_codec_of_hidden_states() -> None:
    with pytest.raises(ConfigError, match=r'device\.offload = "tokens"'):
        activations.codec("tokens")
