"""The four ways in which Remit says no to a caller, mapped once at each edge.

A denied request is not among them: a denial is a value (`remit.core.reason.Refusal`).
`detail` is one sentence on what happened, `hint` one thing to do next (a command where there is one).
"""

from __future__ import annotations


class RemitError(Exception):
    """Base of the four. Edges map it: the API to an RFC 9457 problem, the CLI to an exit code and `hint:`."""

    kind = "error"

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


class Invalid(RemitError):
    """The caller sent something that can never work as it is. HTTP 422, exit code 2."""

    kind = "invalid"


class NotFound(RemitError):
    """The thing named does not exist. HTTP 404, exit code 4."""

    kind = "not-found"


class Conflict(RemitError):
    """The thing is not in a state that allows this. HTTP 409, exit code 5."""

    kind = "conflict"


class Unavailable(RemitError):
    """A part that is needed does not answer; on the path of a request this is a denial. HTTP 503, exit code 6."""

    kind = "unavailable"
