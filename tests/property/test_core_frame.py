"""However a stream is cut, the messages are the same; what is malformed or too large ends it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core import frame
from remit.core.errors import Invalid

MESSAGE = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=4
)


@given(st.lists(MESSAGE, max_size=5), st.lists(st.integers(0, 200), max_size=10))
def test_messages_arrive_whole_however_the_stream_is_cut(messages: list[dict[str, Any]], cuts: list[int]) -> None:
    stream = b"".join(map(frame.encode, messages))
    decoder = frame.Decoder()
    found: list[dict[str, Any]] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == messages


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"null", b"{", b"\xff", b"{}x", b"[" * 100_000])
def test_a_frame_that_is_no_json_object_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        frame.Decoder().feed(len(body).to_bytes(4, "big") + body)


def test_a_frame_over_the_limit_is_invalid_before_it_is_read() -> None:
    with pytest.raises(Invalid, match="over the limit of 10"):
        frame.Decoder(limit=10).feed((11).to_bytes(4, "big"))
    with pytest.raises(Invalid, match="does not fit"):
        frame.encode({"a": "x" * frame.MAX_FRAME_BYTES})
    body = json.dumps({"a": "b"}).encode()
    assert frame.Decoder(limit=len(body)).feed(len(body).to_bytes(4, "big") + body) == [{"a": "b"}]
