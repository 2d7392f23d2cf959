"""A traceparent is read as W3C Trace Context says, and what is none counts as none."""

import pytest

from common.wire.trace_context import TraceContext, parse_traceparent, unpack_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_a_valid_traceparent_names_trace_span_and_whether_it_is_sampled(flags: str, is_sampled: bool) -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(TRACE, SPAN, is_sampled)


def test_of_a_later_version_the_known_fields_count() -> None:
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a fine film",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        "x" * 1_000_000,
    ],
)
def test_an_invalid_traceparent_is_none(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_child_is_another_span_of_the_same_trace_and_travels_as_a_traceparent() -> None:
    parent = TraceContext(TRACE, SPAN, is_sampled=False)

    child = parent.child()

    assert (child.trace_id, child.is_sampled) == (TRACE, False)
    assert child.span_id != SPAN
    assert parse_traceparent(str(child)) == unpack_traceparent(child.packed()) == child
    assert str(parent) == f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize("packed", [b"", b"\1" * 24, b"\1" * 26, bytes(16) + b"\1" * 9, b"\1" * 16 + bytes(8) + b"\1"])
def test_bytes_that_name_no_span_are_none(packed: bytes) -> None:
    assert unpack_traceparent(packed) is None
