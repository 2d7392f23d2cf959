"""Messages survive the wire; anything else is refused and harms nothing."""

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.errors import WireError
from common.types import Answer, Hop, Reason, Record, Tier
from common.wire import codec
from common.wire.activations import CODEC_NAMES, decode_activation
from common.wire.activations import codec as activation_codec
from common.wire.messages import Failure, HiddenStates, LogRecord, LogRecords, Message, Outcome, Receipt, Tensor
from common.wire.tensors import MAX_TENSOR_BYTES, pack, unpack
from common.wire.trace_context import TraceContext

HIDDEN = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 24)),
    elements=st.floats(-50, 50, width=32),
)
single_floats = st.floats(0, 1e6, width=32)
names = st.text(st.characters(exclude_characters="+#/\0", codec="utf-8"), min_size=1, max_size=64)
hops = st.builds(
    Hop,
    tier=st.sampled_from(Tier),
    node=names,
    start=st.just(0),
    end=st.integers(0, 24),
    queue_ms=single_floats,
    compute_ms=single_floats,
    received_bytes=st.integers(0, 2**32),
    confidence=st.floats(0, 1, width=32),
    predictions=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)


def hidden_states(hidden: np.ndarray, codec_name: str = "int8") -> HiddenStates:
    return HiddenStates(
        request_id="r1",
        device_id="pi-1",
        model_revision="0" * 16,
        split_point=2,
        budget_ms=100.0,
        codec=codec_name,
        tensors=activation_codec(codec_name).encode(hidden),
    )


@given(HIDDEN, st.sampled_from(CODEC_NAMES))
def test_hidden_states_come_back_as_they_left(hidden: np.ndarray, codec_name: str) -> None:
    message = hidden_states(hidden, codec_name)

    assert codec.decode(codec.encode(message)) == message


def _record(device_id: str, request_id: str = "r1") -> LogRecord:
    answer = Answer(
        request_id=request_id,
        device_id=device_id,
        model_revision="0" * 16,
        reason=Reason.CONFIDENT,
        label="good",
        confidence=0.5,
        exit_layer=1,
        exit_tier=Tier.DEVICE,
        entry_tier=Tier.DEVICE,
        total_ms=1.0,
    )
    return LogRecord(record=Record(answer=answer, created_at=1.0))


def test_headings_say_what_decoding_would() -> None:
    records = [_record("pi-1"), _record("pi-2", "r2")]
    batch = LogRecords(messages=tuple(codec.encode(record) for record in records))
    failure = Failure(request_id="r1", code="internal", detail="no", node="edge-1")

    assert codec.headings(codec.encode(hidden_states(np.ones((2, 3), np.float32)))) == (("H", "r1", "pi-1"),)
    assert codec.headings(codec.encode(failure)) == (("F", "r1", ""),)
    assert codec.headings(codec.encode(Receipt(request_ids=("r1",)))) == (("R", "", ""),)
    assert codec.headings(codec.encode(records[0])) == (("L", "r1", "pi-1"),)
    assert codec.headings(codec.encode(batch)) == (("L", "r1", "pi-1"), ("L", "r2", "pi-2"))


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"H",
        ["X", "r1"],
        ["H", 1, "pi-1"],
        ["H", "r1"],
        ["B", [["L"]]],
        ["B", [msgpack.packb(["B", []])]],
        {"H": 1},
    ],
    ids=repr,
)
def test_what_does_not_begin_like_a_message_has_no_headings(begin: object) -> None:
    with pytest.raises(WireError):
        codec.headings(begin if isinstance(begin, bytes) else msgpack.packb(begin))


@pytest.mark.parametrize("num_fields", [9, 10, 12])
def test_a_peer_of_another_minor_version_is_peeked_at_all_the_same(num_fields: int) -> None:
    message = msgspec.structs.replace(hidden_states(np.ones((2, 3), np.float32)), attempt=2)
    fields = [*msgpack.unpackb(codec.encode(message)), "of a later version"]

    seen = codec.peek(msgpack.packb(fields[:num_fields]))

    assert (seen.request_id, seen.device_id) == (message.request_id, message.device_id)
    assert seen.is_retry is (num_fields > 9)


@given(st.lists(hops, min_size=1, max_size=3), st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=5))
def test_outcome_comes_back_as_it_left(taken: list[Hop], logits: list[float]) -> None:
    outcome = Outcome(
        request_id="r1",
        model_revision="0" * 16,
        reason=Reason.CONFIDENT,
        logits=tuple(logits),
        confidence=0.5,
        exit_layer=2,
        threshold=None,
        hops=tuple(taken),
    )

    assert codec.decode(codec.encode(outcome)) == outcome


@pytest.mark.parametrize(
    "message", [Receipt(request_ids=("a", "b")), Failure(request_id="a", code="expired", detail="late", node="edge-1")]
)
def test_small_messages_come_back_as_they_left(message: Message) -> None:
    assert codec.decode(codec.encode(message)) == message


def test_a_newer_peer_may_add_fields_at_the_end() -> None:
    fields = msgpack.unpackb(codec.encode(Receipt(request_ids=("a",))))

    assert codec.decode(msgpack.packb([*fields, "added later"])) == Receipt(request_ids=("a",))


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode(payload)


@given(st.data())
def test_a_flipped_byte_is_refused_or_still_a_valid_message(data: st.DataObject) -> None:
    payload = bytearray(codec.encode(hidden_states(np.ones((3, 4), np.float32))))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))

    try:
        message = codec.decode(bytes(payload))
        if isinstance(message, HiddenStates):
            decode_activation(message.codec, message.tensors)
    except WireError:
        pass


def test_a_refusal_never_repeats_the_peer_s_bytes() -> None:
    payload = codec.encode(hidden_states(np.ones((9, 64), np.float32))) + b"x"

    with pytest.raises(WireError) as refusal:
        codec.decode(payload)

    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("device_id", "split_point", "budget_ms"),
    [("a/b", 2, 1.0), ("#", 2, 1.0), ("", 2, 1.0), ("a", -1, 1.0), ("a", 2, -1.0)],
)
def test_impossible_fields_are_refused(device_id: str, split_point: int, budget_ms: float) -> None:
    fields = list(msgpack.unpackb(codec.encode(hidden_states(np.ones((1, 2), np.float32)))))
    fields[2], fields[4], fields[5] = device_id, split_point, budget_ms

    with pytest.raises(WireError):
        codec.decode(msgpack.packb(fields))


@given(HIDDEN)
def test_int8_is_off_by_at_most_half_a_step(hidden: np.ndarray) -> None:
    received = decode_activation("int8", activation_codec("int8").encode(hidden))

    step = np.maximum(np.abs(hidden).max(axis=1, keepdims=True) / 127, 6.2e-5)
    assert (np.abs(received - hidden) <= 0.5 * step + 0.001 * 127 * step).all()  # the scale itself is half precision


@given(HIDDEN)
def test_int4_is_off_by_at_most_half_a_step_of_its_kind(hidden: np.ndarray) -> None:
    tensors = activation_codec("int4").encode(hidden)
    received = decode_activation("int4", tensors)

    columns = unpack(tensors[2])
    rest = np.delete(hidden, columns, axis=1)
    steps = np.empty_like(hidden)
    steps[:] = np.abs(rest).max(axis=1, keepdims=True) / 7 if rest.size else 0
    steps[:, columns] = np.abs(hidden[:, columns]).max(axis=1, keepdims=True) / 127
    steps = np.maximum(steps, 6.2e-5)
    assert (np.abs(received - hidden) <= 0.5 * steps + 0.001 * 127 * steps).all()  # the scales are half precision


def test_int4_keeps_outlier_dimensions_apart() -> None:
    hidden = np.tile(np.linspace(-1, 1, 32, dtype=np.float32), (3, 1))
    hidden[:, [5, 20]] = (300, -200)

    received = decode_activation("int4", activation_codec("int4").encode(hidden))

    assert np.abs(received - hidden)[:, [5, 20]].max() <= 1.5
    assert np.abs(np.delete(received - hidden, [5, 20], axis=1)).max() <= 0.08


@pytest.mark.parametrize("columns", [(1, 1), (0, 99), (0,)])
def test_outlier_dimensions_that_repeat_or_lie_outside_are_refused(columns: tuple[int, ...]) -> None:
    tensors = list(activation_codec("int4").encode(np.ones((2, 32), np.float32)))
    tensors[2] = pack(np.array(columns, np.uint16))

    with pytest.raises(WireError, match="must be 2 different ones below 32"):
        decode_activation("int4", tuple(tensors))


@given(HIDDEN)
def test_graded_is_off_by_at_most_half_of_a_dimension_s_peak(hidden: np.ndarray) -> None:
    received = decode_activation("graded", activation_codec("graded").encode(hidden))

    peaks = np.maximum(np.abs(hidden).max(axis=0), 2.0**-16)  # [W]; rounded up by at most an eighth of an octave
    is_seen = peaks <= 2.0**15  # beyond, the scale of peaks ends
    assert (np.abs(received - hidden) <= 0.5 * 2**0.13 * peaks)[:, is_seen].all()


def test_graded_gives_large_dimensions_more_bits() -> None:
    draw = np.random.default_rng(0)
    spread = np.repeat([32.0, 8.0, 2.0], 32).astype(np.float32)
    hidden = draw.standard_normal((40, 96)).astype(np.float32) * spread

    tensors = activation_codec("graded").encode(hidden)
    received = decode_activation("graded", tensors)

    errors = np.sqrt(((received - hidden) ** 2).mean(axis=0)).reshape(3, 32).mean(axis=1)
    assert errors.max() / errors.min() < 1.6  # alike, though the largest is sixteen times the smallest
    assert sum(len(tensor.data) for tensor in tensors) < 40 * 96 * 4 / 8


def test_graded_gives_tokens_of_more_attention_more_bits() -> None:
    hidden = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    hidden *= np.repeat([32.0, 8.0, 2.0], 32).astype(np.float32)
    attention = np.repeat([2.0, 0.5, 0.0], [10, 10, 20]).astype(np.float32)

    tensors = activation_codec("graded").encode(hidden, attention)
    received = decode_activation("graded", tensors)

    looked_at, less, ignored = np.split(np.sqrt(((received - hidden) ** 2).mean(axis=1)), [10, 20])
    assert 2.5 < less.mean() / looked_at.mean() < 6  # two bits apart
    assert looked_at.max() < less.min() < ignored.min()
    assert unpack(tensors[2]).tolist() == [1] * 10 + [-1] * 10 + [-3] * 20
    assert not received[20:, 64:].any()  # no bit is left for the smallest dimensions


def test_graded_without_attention_stays_the_two_tensors_that_older_tiers_read() -> None:
    hidden = np.arange(-3, 3, 0.25, np.float32).reshape(3, 8) * np.array([1, 1, 1, 1, 4, 4, 9, 9], np.float32)
    written = (
        Tensor("|u1", (3, 3), b"\x00\x9a\x00\nM\x00\xff\xff\x80"),
        Tensor("|u1", (8,), b"\x8d\x8c\x8b\x8a\x98\x9a\xa4\xa6"),
    )

    assert activation_codec("graded").encode(hidden) == written
    np.testing.assert_allclose(decode_activation("graded", written)[:, 4], (-6, 2, 6))


@pytest.mark.parametrize(
    ("rows", "peaks", "more", "refusal"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros(16, np.uint8), None, "6 bytes came with peaks that need 4"),
        (np.zeros((2, 2), np.uint8), np.zeros((4, 4), np.uint8), None, "one per dimension"),
        (np.zeros((2, 2), np.uint8), np.zeros(0, np.uint8), None, "one per dimension"),
        (np.zeros((1, 4), np.uint8), np.zeros(16, np.uint8), np.zeros(3, np.int8), "4 bytes came with .* need 6"),
        (np.zeros((1, 4), np.uint8), np.zeros(16, np.uint8), np.array([0, 1], np.int8), "4 bytes came with .* need 6"),
        (np.zeros((1, 4), np.uint8), np.zeros(16, np.uint8), np.zeros((1, 2), np.int8), "bits .* per token"),
        (np.zeros((1, 1), np.uint8), np.zeros(16, np.uint8), np.zeros(0, np.int8), "bits .* per token"),
        (np.zeros((1, 1), np.uint8), np.zeros(16, np.uint8), np.full(1 << 20, -1, np.int8), "bits .* per token"),
    ],
)
def test_graded_rows_that_do_not_fit_what_tells_their_bits_are_refused(
    rows: np.ndarray, peaks: np.ndarray, more: np.ndarray | None, refusal: str
) -> None:
    told = [pack(rows), pack(peaks)] if more is None else [pack(rows), pack(peaks), pack(more)]

    with pytest.raises(WireError, match=refusal):
        decode_activation("graded", tuple(told))


def test_graded_has_at_most_three_tensors() -> None:
    (rows, peaks) = activation_codec("graded").encode(np.ones((2, 16), np.float32))

    with pytest.raises(WireError, match="expected tensors"):
        decode_activation("graded", (rows, peaks, pack(np.zeros(2, np.int8)), peaks))


@given(HIDDEN)
def test_float16_keeps_three_digits(hidden: np.ndarray) -> None:
    np.testing.assert_allclose(
        decode_activation("float16", activation_codec("float16").encode(hidden)), hidden, rtol=1e-3, atol=1e-7
    )


@given(HIDDEN)
def test_float32_keeps_everything(hidden: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_activation("float32", activation_codec("float32").encode(hidden)), hidden)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec_name", [name for name in CODEC_NAMES if name != "graded"])  # it holds whole numbers
def test_values_that_are_not_finite_are_refused(codec_name: str, poison: float) -> None:
    tensors = list(activation_codec(codec_name).encode(np.ones((2, 4), np.float32)))
    last = unpack(tensors[-1]).copy()
    last.flat[0] = poison
    tensors[-1] = pack(last)

    with pytest.raises(WireError, match="NaN or infinite"):
        decode_activation(codec_name, tuple(tensors))


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("<f8", (1, 1), b"\0" * 8),
        Tensor("O", (1, 1), b"\0" * 8),
        Tensor("<f4", (2, 2), b"\0" * 8),
        Tensor("<f4", (1 << 20, 1 << 20), b""),
        Tensor("|i1", (MAX_TENSOR_BYTES + 1,), b"\0" * (MAX_TENSOR_BYTES + 1)),
    ],
)
def test_tensors_that_lie_are_refused(tensor: Tensor) -> None:
    with pytest.raises(WireError):
        unpack(tensor)


def test_an_escalation_costs_at_most_250_bytes_beside_its_numbers() -> None:
    tokens, width = 32, 384
    hop = Hop(
        tier=Tier.DEVICE, node="kitchen-board-1", start=0, end=3, queue_ms=0.1, compute_ms=1.0, predictions=(1, 0)
    )
    message = HiddenStates(
        request_id="0" * 24,
        device_id="kitchen-board-1",
        model_revision="0" * 16,
        split_point=3,
        budget_ms=2000.0,
        codec="int8",
        tensors=activation_codec("int8").encode(np.ones((tokens, width), np.float32)),
        hops=(hop, hop),
    )

    traced = msgspec.structs.replace(message, traceparent=TraceContext.fresh().packed())
    assert len(codec.encode(message)) <= tokens * width + 2 * tokens + 250
    assert len(codec.encode(traced)) <= tokens * width + 2 * tokens + 250


def test_a_traceparent_takes_no_byte_where_there_is_none_and_is_read_by_peers_that_know_it() -> None:
    message = hidden_states(np.ones((1, 2), np.float32))
    traced = msgspec.structs.replace(message, traceparent=TraceContext.fresh().packed())

    fields = msgpack.unpackb(codec.encode(message))  # as releases without the field write it

    assert len(fields) == len(HiddenStates.__struct_fields__)  # the tag in place of the last one
    assert codec.decode(codec.encode(traced)) == traced
    assert codec.peek(codec.encode(traced)) == codec.peek(codec.encode(message)) != codec.Peek()


def test_fields_of_a_later_release_are_passed_over() -> None:
    message = hidden_states(np.ones((1, 2), np.float32))
    later = msgpack.packb([*msgpack.unpackb(codec.encode(message)), b"", "from the future"])

    assert codec.decode(later) == message
    assert codec.peek(later) == codec.peek(codec.encode(message))
