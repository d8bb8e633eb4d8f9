"""One answer on Envoy's side stream (`envoy.service.ext_proc.v3`): messages in, messages out. Without I/O.

Envoy sends the head, then the body in pieces, then trailers if there are any, and passes on only what comes back. Which
secrets to look for it says once, with the first message, by the reference that the check gave with the permit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as wire
from envoy.type.v3 import http_status_pb2

from remit.boundary import header_names, scrub_filter
from remit.core import answers
from remit.core.answers import Answer, Changes, Lines
from remit.core.reason import Reason, Refusal

PIECE_BYTES = 64 << 10
"""What Envoy recommends as the most in one message."""

Answers = Callable[[str], Answer | None]
"""`control.hidden.Hidden.answer`"""


class Faulty(Exception):
    """Envoy says what cannot be; the side stream must fail, and with it the answer."""


class Exchange:
    """One side stream. `receive` a message, send what it gives. Raises `Faulty`."""

    def __init__(self, known: Answers) -> None:
        self._known = known
        self._answer: Answer | None = None
        self.done = False
        """Whether all has been said."""
        self._told = False

    @property
    def waits(self) -> bool:
        """Whether a pause would let something pass (`idle`)."""
        return self._answer is not None and self._answer.holds

    def receive(self, message: bytes) -> list[bytes]:
        if self.done:  # refused: what Envoy had sent before it knew
            return []
        said = self._received(message)
        if not self._told and self._answer is not None and self._answer.found:
            self._told = True
            said[-1] += _FOUND
        return said

    def _received(self, message: bytes) -> list[bytes]:
        try:
            said = wire.ProcessingRequest.FromString(message)
        except Exception as error:
            raise Faulty("a message cannot be read") from error
        kind = said.WhichOneof("request")
        if kind == "response_headers":
            self.done = said.response_headers.end_of_stream
            return [self._head(said)]
        if self._answer is None:
            raise Faulty(f"{kind} before the head")
        if kind == "response_body":
            self.done = end = said.response_body.end_of_stream
            return _pieces(self._answer.body(said.response_body.body, end=end), end=end)
        if kind == "response_trailers":
            self.done = True
            rest, changes = self._answer.trailers(_lines(said.response_trailers.trailers))
            response = wire.ProcessingResponse()
            response.response_trailers.SetInParent()
            _change(response.response_trailers.header_mutation, changes)
            return [*(_pieces(rest, end=False) if rest else ()), response.SerializeToString()]
        raise Faulty(f"{kind} was not asked for")

    def idle(self) -> list[bytes]:
        """Nothing has come for a while: what may pass nevertheless."""
        rest = self._answer.idle() if self._answer is not None else b""
        return _pieces(rest, end=False) if rest else []

    def _head(self, said: wire.ProcessingRequest) -> bytes:
        if self._answer is not None:
            raise Faulty("a second head")
        record, _, reference = _permit(said).partition(" ")
        self._answer = self._known(reference)
        if self._answer is None:
            self.done = True
            why = "the node no longer knows which credential the request carried"
            return _refused(record, Refusal(Reason.ANSWER_UNREADABLE, why))
        head = said.response_headers
        changes = self._answer.head(_lines(head.headers), end=head.end_of_stream)
        if isinstance(changes, Refusal):
            self.done = True
            return _refused(record, changes)
        if changes == _NOTHING:
            return _UNCHANGED
        response = wire.ProcessingResponse()
        _change(response.response_headers.response.header_mutation, changes)
        return bytes(response.SerializeToString())


def _permit(said: wire.ProcessingRequest) -> str:
    for attributes in said.attributes.values():
        for value in attributes.fields.values():
            return str(value.string_value)
    return ""


def _lines(headers: base_pb2.HeaderMap) -> Lines:
    return [(line.key.encode("latin-1", "replace"), line.raw_value) for line in headers.headers]


def _change(mutation: wire.HeaderMutation, changes: Changes) -> None:
    for name, values in changes.values:
        for number, value in enumerate(values):
            _set(mutation, name.decode("latin-1"), value, append=number > 0)
    if changes.length is not None:
        _set(mutation, header_names.LENGTH, changes.length)
    mutation.remove_headers.extend(name.decode("latin-1") for name in changes.removed)


def _set(mutation: wire.HeaderMutation, name: str, value: bytes, *, append: bool = False) -> None:
    """`append_action` would be the field to use; Envoy reads `append`, and takes the other's default for replacing."""
    line = mutation.set_headers.add()
    line.append.value = append
    line.header.key, line.header.raw_value = name, value


def _pieces(data: bytes, *, end: bool) -> list[bytes]:
    starts: Iterable[int] = range(0, len(data), PIECE_BYTES) if data else (0,)
    made = []
    for start in starts:
        response = wire.ProcessingResponse()
        piece = response.response_body.response.body_mutation.streamed_response
        piece.body = data[start : start + PIECE_BYTES]
        piece.end_of_stream = end and start + PIECE_BYTES >= len(data)
        made.append(response.SerializeToString())
    return made


def _refused(record: str, refusal: Refusal) -> bytes:
    """Envoy gives the agent this instead of the answer. `details` keeps Envoy from writing its own words over it."""
    response = wire.ProcessingResponse()
    said = response.immediate_response
    said.status.CopyFrom(http_status_pb2.HttpStatus(code=refusal.meaning.status))
    _set(said.headers, "content-type", b"application/problem+json")
    said.body = refusal.problem(record)
    said.details = answers.REFUSED + refusal.reason.value
    return bytes(response.SerializeToString())


_NOTHING = Changes()
_PASSED = wire.HeadersResponse(response=wire.CommonResponse())
_UNCHANGED: bytes = wire.ProcessingResponse(response_headers=_PASSED).SerializeToString()


def _found() -> bytes:
    response = wire.ProcessingResponse()
    key, value = scrub_filter.FOUND
    response.dynamic_metadata.update({scrub_filter.METADATA: {key: value}})
    return bytes(response.SerializeToString())


_FOUND = _found()
"""Messages that are joined are one message with the fields of both (protobuf, encoding, "Last One Wins")."""
