"""Errors as RFC 9457 problems: one shape for everything that goes wrong, whoever notices it.

A validation error of a framework quotes its input, and the input may be a secret; an unhandled exception's text may
hold anything. Neither leaves this process: fields are named, values are not.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from remit.core.errors import RemitError
from remit.policy.manifests import ManifestError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_NAME = 64
STATUS: Mapping[str, int] = {"invalid": 422, "not-found": 404, "conflict": 409, "unavailable": 503}
_KIND = {400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "invalid", 413: "too-large"}


class Problem(BaseModel):
    """An RFC 9457 problem."""

    type: str = Field(description="URI of the kind of problem.", examples=["https://remit.dev/problems/not-found"])
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, in one sentence.")
    hint: str = Field(default="", description="One thing to do next; a command where there is one.")
    errors: list[dict[str, Any]] = Field(default=[], description="Each mistake, where there are several.")


RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "The request can never work as it is."},
    503: {"model": Problem, "description": "A part that is needed does not answer."},
}


class _Told(JSONResponse):
    """Ends its line, so that a shell's prompt does not stand behind it."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        return super().render(content) + b"\n"


def response(
    kind: str, status: int, detail: str, *, hint: str = "", errors: list[dict[str, Any]] | None = None
) -> Response:
    body: dict[str, Any] = {
        "type": f"https://remit.dev/problems/{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "hint": hint,
    }
    if errors:
        body["errors"] = errors
    return _Told(body, status_code=status)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    @app.exception_handler(RemitError)
    async def known(_: Request, error: RemitError) -> Response:
        mistakes = [dataclasses.asdict(p) for p in error.problems] if isinstance(error, ManifestError) else []
        return response(error.kind, STATUS.get(error.kind, 500), error.detail, hint=error.hint, errors=mistakes)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        mistakes = [{"field": _field(e["loc"]), "message": _said(e["type"])} for e in error.errors()[:20]]
        first = mistakes[0] if mistakes else {"field": "request", "message": "is not valid"}
        return response("invalid", 422, f"{first['field']} {first['message']}", errors=mistakes)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        kind = _KIND.get(error.status_code, "error")
        answer = response(kind, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return response(
            "internal", 500, "something unexpected went wrong", hint="the control plane's log has the trace"
        )


def _field(place: Sequence[object]) -> str:
    """Where it is; a name that the request gave is cut, for it may be anything."""
    return ".".join(str(part)[:MAX_NAME] for part in place)


def _said(kind: str) -> str:
    """pydantic's own messages may quote the value, so only their kind is used."""
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not a field of this request"
    return f"is not valid ({kind.replace('_', ' ')})"
