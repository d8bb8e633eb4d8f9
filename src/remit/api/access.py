"""Who sends a request, and whether their role allows it: asked before any route runs, so no route can forget.

Authority comes from a proof in this very request (the kernel's word on the peer of a Unix socket, or a bearer token)
and never from something that a browser adds by itself: there are no cookies and no sessions. A token that is shown
must be good: a wrong one is refused, it does not fall back to the socket's user.
"""

from __future__ import annotations

import logging
import os
import pwd
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from remit.api import problems
from remit.control.operators import Operating
from remit.core.errors import Unavailable
from remit.core.principal import OperatorRole, Principal, Right

log = logging.getLogger(__name__)

READING = frozenset({"/v1/explain", "/v1/audit/verify", "/logs"})
"""Posts that change nothing, and what an OPA says of itself, for which room is set aside."""


def right(method: str, path: str) -> Right:
    """What a request takes. What is not listed takes the most."""
    if method in ("GET", "HEAD") or (method == "POST" and (path in READING or path.startswith("/logs/"))):
        return Right.READ
    answering = path.startswith("/v1/approvals/") and method == "POST"
    if answering or (path.startswith("/v1/grants/") and method == "DELETE"):  # who gave may take back
        return Right.APPROVE
    return Right.CHANGE


class Access:
    """ASGI middleware: puts the `Principal` into the scope (`remit.principal`), or answers 401 or 403 itself.

    `remit.uid` in the scope is the peer on the Unix socket; `remit.bootstrap` says that the API's own token was shown.
    """

    def __init__(self, app: ASGIApp, operating: Operating) -> None:
        self._app = app
        self._operating = operating

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            principal = self._principal(scope)
        except Unavailable as error:
            await problems.response("unavailable", 503, error.detail, hint=error.hint)(scope, receive, send)
            return
        if principal is None:
            answer = problems.response(
                "unauthorized", 401, "nobody is known by this token or user", hint="remit operator token NAME"
            )
            answer.headers["www-authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        wanted = right(scope["method"], scope["path"])
        if not principal.may(wanted):
            what = f"{scope['method']} {ascii(scope['path'][:200])[1:-1]}"
            try:
                await self._operating.refused(principal, what)
            except Unavailable as error:
                log.error("not recorded: %s", error.detail)
            detail = f"{principal.name} is {principal.role}: this takes the right to {wanted}"
            await problems.response("forbidden", 403, detail, hint="remit operator list")(scope, receive, send)
            return
        await self._app({**scope, "remit.principal": principal}, receive, send)

    def _principal(self, scope: Scope) -> Principal | None:
        if scope.get("remit.bootstrap"):
            return Principal(name="token", role=OperatorRole.ADMIN, proof="api-token")
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if shown:
            kind, _, text = shown[0].decode("latin-1").partition(" ")
            return self._operating.by_token(text) if len(shown) == 1 and kind == "Bearer" else None
        uid: Any = scope.get("remit.uid")
        if not isinstance(uid, int):
            return None
        # First, whatever the store says: under the same name `cells` starts tasks for them, which four eyes compare.
        if built_in(uid):
            return Principal(name=user_name(uid), role=OperatorRole.ADMIN, proof=f"uid:{uid}")
        return self._operating.by_uid(uid)


def built_in(uid: int) -> bool:
    """Whether this user of the machine is an administrator without being an operator of the store."""
    return uid in (0, os.geteuid())


def user_name(uid: int) -> str:
    """As `cell.daemon.user_name` does."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
