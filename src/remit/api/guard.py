"""What stands before the API: a limit on bodies, and on TCP the checks that keep browsers and strangers out.

A web page can make a browser call 127.0.0.1 (CSRF), and a name that it controls can be made to point there (DNS
rebinding). So on TCP the Host must be this very address, an Origin is refused whatever it says, and a bearer token is
wanted. On the Unix socket the file's mode is the guard. Bodies over 1 MiB are refused before they are read, and a body
without a length as soon as it grows beyond that.
"""

from __future__ import annotations

import hmac
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remit.api import problems

MAX_BODY_BYTES = 1 << 20


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


class LoopbackGuard:
    """ASGI middleware for the TCP listener at 127.0.0.1:`port`; `token` is what a caller must bear."""

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
            await self._app(scope, receive, send)
            return
        kind, status, detail = refusal
        answer = problems.response(kind, status, detail, hint="the token is in the control plane's state directory")
        if status == 401:
            answer.headers["www-authenticate"] = "Bearer"
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, int, str] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "forbidden", 403, "the Host header does not name this address"
        if any(name == b"origin" for name, _ in headers):
            return "forbidden", 403, "calls from web pages are refused"
        tokens = [value for name, value in headers if name == b"authorization"]
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0], self._expected):
            return "unauthorized", 401, "the bearer token is missing or wrong"
        return None


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    answer: Any = problems.response("too-large", 413, f"the body is over {MAX_BODY_BYTES} bytes")
    await answer(scope, receive, send)
