"""Envoy's side stream, message by message: what is sent back, and what must never be answered."""

from __future__ import annotations

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as wire

from remit.boundary.scrub import PIECE_BYTES, Exchange, Faulty
from remit.control.hidden import Hidden

SECRET, SEEN = b"real-secret", b"ph_0"


def exchange() -> tuple[Exchange, str]:
    hidden = Hidden(answer_max_s=60, monotonic=lambda: 0.0)
    return Exchange(hidden.answer), hidden.reference(((SECRET, SEEN),))


def head(reference: str, *lines: tuple[str, bytes], end: bool = False) -> bytes:
    said = wire.ProcessingRequest()
    said.attributes["envoy.filters.http.ext_proc"].fields["any"].string_value = f"r-1 {reference}"
    for name, value in ((":status", b"200"), *lines):
        line = said.response_headers.headers.headers.add()
        line.key, line.raw_value = name, value
    said.response_headers.end_of_stream = end
    return bytes(said.SerializeToString())


def body(data: bytes, *, end: bool = False) -> bytes:
    said = wire.ProcessingRequest(response_body=wire.HttpBody(body=data, end_of_stream=end))
    return bytes(said.SerializeToString())


def read(messages: list[bytes]) -> list[wire.ProcessingResponse]:
    return [wire.ProcessingResponse.FromString(message) for message in messages]


def test_a_long_body_comes_back_in_pieces_of_which_the_last_ends_it() -> None:
    made, reference = exchange()
    made.receive(head(reference))
    pieces = [one.response_body.response.body_mutation.streamed_response
              for one in read(made.receive(body(b"x" * (2 * PIECE_BYTES + 1), end=True)))]  # fmt: skip
    assert [len(piece.body) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, 1]
    assert [piece.end_of_stream for piece in pieces] == [False, False, True]
    assert made.done


def test_a_head_without_the_secret_is_answered_with_nothing_to_do() -> None:
    made, reference = exchange()
    ((answer),) = read(made.receive(head(reference, ("x", b"1"))))
    assert answer.WhichOneof("response") == "response_headers"
    assert not answer.response_headers.response.HasField("header_mutation")
    assert not answer.HasField("dynamic_metadata")
    assert not made.done


def test_that_it_was_found_is_told_once() -> None:
    made, reference = exchange()
    made.receive(head(reference))
    told = [one.HasField("dynamic_metadata") for n in range(3) for one in read(made.receive(body(SECRET + b"\n")))]
    assert told == [True, False, False]


def test_an_unknown_reference_is_an_answer_of_ours() -> None:
    made, _ = exchange()
    (answer,) = read(made.receive(head("0" * 32)))
    assert answer.immediate_response.status.code == 502
    assert answer.immediate_response.details == "remit_answer_unreadable"
    assert b'"record": "r-1"' in answer.immediate_response.body
    assert made.done
    assert made.receive(body(SECRET)) == []


def test_nothing_of_a_refused_answer_is_sent_after_the_refusal() -> None:
    made, reference = exchange()
    (answer,) = read(made.receive(head(reference, ("content-encoding", b"gzip"))))
    assert answer.immediate_response.details == "remit_answer_encoded"
    assert made.receive(body(b"packed", end=True)) == []


def test_what_cannot_be_is_a_fault() -> None:
    made, reference = exchange()
    with pytest.raises(Faulty):
        made.receive(b"\xff\xff\xff")
    with pytest.raises(Faulty):
        made.receive(body(b"before the head"))
    with pytest.raises(Faulty):
        made.receive(wire.ProcessingRequest(request_headers=wire.HttpHeaders()).SerializeToString())
    made.receive(head(reference))
    with pytest.raises(Faulty):
        made.receive(head(reference))


def test_nothing_is_given_for_a_pause_where_nothing_is_held() -> None:
    made, reference = exchange()
    assert (made.waits, made.idle()) == (False, [])
    made.receive(head(reference))
    made.receive(body(b"!\n"))
    assert (made.waits, made.idle()) == (False, [])
    made.receive(body(SECRET[:1]))
    assert made.waits
    (answer,) = read(made.idle())
    assert answer.response_body.response.body_mutation.streamed_response.body == SECRET[:1]
