"""What stands before the API: a limit on bodies, and on TCP the checks that keep browsers and strangers out.

A web page can make a browser call 127.0.0.1 (CSRF), and a name that it controls can be made to point there (DNS
rebinding). So on TCP the Host must be this very address and a bearer token is wanted; everywhere, what a browser adds
for a page (Origin, Sec-Fetch-*) is refused whatever it says, and a body must be JSON. Nothing is ever read from a
cookie. On the Unix socket the file's mode and the peer's uid are the guard. Bodies over 1 MiB are refused before they
are read, and a body without a length as soon as it grows beyond that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remit.api import problems

MAX_BODY_BYTES = 1 << 20
LINGER_S = 1.0
"""How long a last answer waits for the rest of its request: bytes that come to a closed connection reset it, and the
answer is lost (RFC 9112 §9.6)."""


class BodyLimit:
    """ASGI middleware. Answers 413 itself where a body is announced, or grows, over `MAX_BODY_BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > MAX_BODY_BYTES:
            await _too_large(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                await _too_large(scope, receive, send)
                return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


class NoBrowser:
    """ASGI middleware for every listener: what only a browser sends for a page is refused, whatever it says.

    Forms and scripts of other pages can send bodies without asking first only as text or as a form (Fetch standard,
    "CORS-safelisted request-header"), so a body must be JSON. Preflights get no permission.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            names = {name for name, _ in scope["headers"]}
            if not names.isdisjoint(_PAGES):
                await problems.response("forbidden", 403, "calls from web pages are refused")(scope, receive, send)
                return
            if b"content-type" in names and not _json(scope):
                await problems.response("invalid", 415, "a body must be application/json")(scope, receive, send)
                return
        await self._app(scope, receive, send)


_PAGES = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"})


def _json(scope: Scope) -> bool:
    said = [value for name, value in scope["headers"] if name == b"content-type"]
    return len(said) == 1 and said[0].partition(b";")[0].strip().lower() == b"application/json"


class LoopbackGuard:
    """ASGI middleware for the TCP listener at 127.0.0.1:`port`: the Host must name it, a bearer token must be shown.

    `token` is the API's own; whether another one is an operator's is for `api.access` to say.
    """

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self._app = app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope) if scope["type"] == "http" else ("forbidden", 403, "only HTTP is served")
        if refusal is None:
            shown = next(value for name, value in scope["headers"] if name == b"authorization")
            bootstrap = hmac.compare_digest(shown, self._expected)
            await self._app({**scope, "remit.bootstrap": bootstrap}, *_last(receive, send))
            return
        kind, status, detail = refusal
        answer = problems.response(kind, status, detail, hint="the token is in the control plane's state directory")
        if status == 401:
            answer.headers["www-authenticate"] = "Bearer"
        await answer(scope, *_last(receive, send))

    def _refusal(self, scope: Scope) -> tuple[str, int, str] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "forbidden", 403, "the Host header does not name this address"
        tokens = [value for name, value in headers if name == b"authorization"]
        if len(tokens) != 1 or not tokens[0].startswith(b"Bearer "):
            return "unauthorized", 401, "the bearer token is missing"
        return None


def _last(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """`receive` and `send`, which end the connection of whoever is not let in: they would keep it."""
    more = True

    async def received() -> Message:
        nonlocal more
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (401, 403):
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while more:
                        await received()
        await send(message)

    return received, sent


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    answer: Any = problems.response("too-large", 413, f"the body is over {MAX_BODY_BYTES} bytes")
    await answer(scope, receive, send)
