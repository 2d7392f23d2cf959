"""What fits no thin link, no codec and no vocabulary is refused with its reason, and the tier goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline, State
from common.model.bundle import open_bundle
from common.routing.policies import ConfidenceCascade
from common.service.served import Identity
from common.service.worker import TierWorker
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.types import Tier
from common.wire import codec
from common.wire.activations import CODEC_NAMES
from common.wire.messages import Failure, Outcome, Tensor
from common.wire.tensors import pack
from tests.engine.test_thin_links import BUDGETS, WIDTH, with_link
from tests.service.test_worker import TOPICS, Bench


class ThinBench(Bench):
    """An edge worker whose bundle has a thin link at split point 1, and which takes tokens or does not."""

    takes_tokens = True

    def make_worker(self, *, is_sure: bool = True, max_remembered: int = 100, signer: Any = None) -> TierWorker:
        policy = ConfidenceCascade(thresholds={2: 0.0} if is_sure else {})
        return TierWorker(
            Identity(tier=Tier.EDGE, node="edge-1", topics=TOPICS, manifest=self.bundle.manifest),
            Pipeline(self.bundle, policy, depth=2, takes_tokens=self.takes_tokens),
            self._transport,
            escalation=Escalation(self.bundle.manifest, "int8"),
            max_remembered=max_remembered,
            signer=signer,
        )

    def states(
        self, shape: tuple[int, int], codec_name: str = "int8", *, split_point: int = 1, **changes: Any
    ) -> bytes:
        """Give a request of ones."""
        state = State(hidden_states=np.ones(shape, np.float32), layers_run=split_point)
        message = Escalation(self.bundle.manifest, codec_name).pack("bad", "pi-1", state, budget_ms=1e6, hops=())
        return codec.encode(msgspec.structs.replace(message, **changes))

    def tokens(self, *tensors: Tensor, split_point: int = 0) -> bytes:
        return self.states((4, WIDTH), split_point=split_point, codec="tokens", tensors=tensors)

    def check_refused(self, payload: bytes, reason: str) -> None:
        """One clear failure to the sender, no outcome, and the next request is answered as before."""
        before, refusal, after = (self.say(one) for one in (self.good("r1"), payload, self.good("r2")))

        (failure,) = refusal
        assert isinstance(failure, Failure)
        assert (failure.request_id, failure.code) == ("bad", "bad_message")
        assert reason in failure.detail
        (first,), (second,) = before, after
        assert isinstance(first, Outcome)
        assert isinstance(second, Outcome)
        assert first.logits == second.logits
        assert self.worker.counters["refused"] == 1

    def good(self, name: str) -> bytes:
        return codec.encode(msgspec.structs.replace(self.request(), request_id=name))


@pytest.fixture
def transport() -> Iterator[LoopbackTransport]:
    with LoopbackTransport(LoopbackBroker(), client_id="edge-1") as transport:
        yield transport


@pytest.fixture
def bench(tiny_bundle: Path, tmp_path: Path, transport: LoopbackTransport) -> ThinBench:
    return ThinBench(with_link(open_bundle(tiny_bundle), tmp_path).directory, transport)


@pytest.mark.parametrize("codec_name", CODEC_NAMES)
@pytest.mark.parametrize("width", BUDGETS)
def test_every_budget_is_answered_in_every_codec(bench: ThinBench, codec_name: str, width: int) -> None:
    (outcome,) = bench.say(bench.states((4, width), codec_name))

    assert isinstance(outcome, Outcome)
    (hop,) = outcome.hops
    assert (hop.codec, hop.received_tokens, hop.received_width) == (codec_name, 4, width)


@pytest.mark.parametrize("codec_name", CODEC_NAMES)
@pytest.mark.parametrize("width", [1, 3, 5, WIDTH + 1, 4096])
def test_a_width_that_matches_no_budget_is_refused(bench: ThinBench, codec_name: str, width: int) -> None:
    bench.check_refused(
        bench.states((4, width), codec_name), f"hidden states of width {width} fit no budget of the thin link"
    )


def test_a_budget_at_a_split_point_without_a_link_is_refused(bench: ThinBench) -> None:
    bench.check_refused(
        bench.states((4, BUDGETS[0]), split_point=0), "hidden states [4, 4] do not fit [at most 32, 16]"
    )


def test_a_thin_message_to_a_bundle_without_links_is_refused(tiny_bundle: Path, transport: LoopbackTransport) -> None:
    bench = ThinBench(tiny_bundle, transport)

    bench.check_refused(bench.states((4, BUDGETS[0])), "hidden states [4, 4] do not fit [at most 32, 16]")


@pytest.mark.parametrize("width", [*BUDGETS, WIDTH])
def test_more_tokens_than_the_model_takes_are_refused(bench: ThinBench, width: int) -> None:
    bench.check_refused(bench.states((33, width)), f"hidden states [33, {width}] do not fit [at most 32, 16]")


@pytest.mark.parametrize(("columns", "kept"), [([15], 1), ([16], 1), ([65535], 1), ([3, 3], 2), ([0, 15], 2)], ids=str)
def test_outliers_of_int4_that_are_no_dimensions_are_refused(bench: ThinBench, columns: list[int], kept: int) -> None:
    pairs = 7 if kept == 1 else 6  # in all 15 dimensions, or 14
    tensors = (
        pack(np.ones((4, kept), np.int8)),
        pack(np.full((4, pairs), 0x99, np.uint8)),
        pack(np.array(columns, np.uint16)),
        pack(np.ones((4, 2), np.float16)),
    )

    bench.check_refused(
        bench.states((4, 15), "int4", tensors=tensors),
        f"int4 outlier dimensions must be {kept} different ones below {kept + 2 * pairs}",
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((), "graded rows of 8 bytes came with peaks that need 4"),
        (([0, 0, 0],), "graded rows of 8 bytes came with peaks that need 3"),
        (([127] * 4,), "graded rows of 8 bytes came with peaks that need 16"),
        (([],), "are not one per dimension or bits [0] per token"),
    ],
)
def test_peaks_and_bits_of_graded_that_do_not_fit_its_rows_are_refused(
    bench: ThinBench, more: tuple[list[int], ...], reason: str
) -> None:
    tensors = (pack(np.ones((4, 2), np.uint8)), pack(np.full(4, 128, np.uint8)))
    tokens = tuple(pack(np.array(bits, np.int8)) for bits in more)

    bench.check_refused(bench.states((4, 4), "graded", tensors=(*tensors, *tokens)), reason)


def ids(values: list[int], dtype: type[np.unsignedinteger[Any]] = np.uint16) -> Tensor:
    return pack(np.array(values, dtype))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((ids([2, 24, 3]),), "token 24 of type 0 is beyond a vocabulary of 24"),
        ((ids([2, 2**32 - 1], np.uint32),), "token 4294967295 of type 0 is beyond a vocabulary of 24"),
        ((ids([2, 4, 3]), ids([0, 1, 0], np.uint8)), "of type 1 is beyond a vocabulary of 24 and types up to 0"),
        ((ids([2, 4, 3]), ids([0, 0], np.uint8)), "got [3] with types [2]"),
        ((ids([2, *[4] * 31, 3]),), "33 tokens do not fit at most 32"),
        ((ids([]),), "tokens must be [sequence] and not empty"),
        ((ids([2, 4, 3], np.uint8),), "tokens travel as '<u2' or '<u4'"),
    ],
)
def test_tokens_beyond_the_model_are_refused(bench: ThinBench, tensors: tuple[Tensor, ...], reason: str) -> None:
    bench.check_refused(bench.tokens(*tensors), reason)


def test_tokens_behind_a_layer_are_refused(bench: ThinBench) -> None:
    bench.check_refused(bench.tokens(ids([2, 4, 3]), split_point=1), "tokens tell the state before layer 0")


def test_tokens_to_a_tier_that_takes_none_are_refused(
    tiny_bundle: Path, transport: LoopbackTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThinBench, "takes_tokens", False)
    bench = ThinBench(tiny_bundle, transport)

    bench.check_refused(bench.tokens(ids([2, 4, 3])), "this tier takes no tokens: set worker.takes_tokens")


def test_numbers_that_overflow_behind_the_link_are_refused(
    tiny_bundle: Path, tmp_path: Path, transport: LoopbackTransport
) -> None:
    decoder = 2 * np.eye(15, WIDTH, dtype=np.float32)
    bench = ThinBench(with_link(open_bundle(tiny_bundle), tmp_path, decoder=decoder).directory, transport)
    huge = pack(np.full((4, 15), 3e38, np.float32))

    bench.check_refused(bench.states((4, 15), "float32", tensors=(huge,)), "overflow behind the thin link")


def test_numbers_that_overflow_in_a_layer_are_neither_answered_nor_handed_on(bench: ThinBench) -> None:
    huge = np.full((4, WIDTH), 3e38, np.float32)
    huge[:, 0] = -3e38

    said = bench.say(bench.states((4, WIDTH), "float32", tensors=(pack(huge),)), bench.good("r1"))

    (failure,) = (message for message in said if isinstance(message, Failure))
    assert (failure.request_id, failure.code) == ("bad", "internal")
    assert failure.detail == "layers up to 2 gave logits that are no finite numbers"
    assert [message.request_id for message in said if isinstance(message, Outcome)] == ["r1"]
