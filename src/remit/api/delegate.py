"""What answers `http://delegate.remit.alt/v1/tasks` (`core.doorway`): a child is started, and its output streams back.

Only Envoy may connect (the kernel says who does), and in every request it puts what the decision service said: which
task asks, under which record. A request without that was permitted by nobody. The answer is lines of JSON (`started`,
`stdout` and `stderr` in Base64, `alive`, `exit`), or a problem (RFC 9457) where no child was started. When the
connection ends, the child does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive, Scope, Send

from remit.api import problems
from remit.control.delegates import MAX_AT_ONCE, Asker, Delegates, Refused
from remit.control.ports_delegates import Child, Ended, Wanted
from remit.core import claims, doorway
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.task import TASK_ID

MAX_BODY_BYTES = 1 << 20
MAX_UNREAD_BYTES = 8 << 20
"""Of a body that is too large, read and thrown away: Envoy hears no answer while it is still sending."""
MAX_STDIN_BYTES = 512 << 10
MAX_OUTPUT_BYTES = 16 << 20
"""What comes after it is left out, and the answer says so."""
MAX_S = 3000.0
"""Less than an hour: then Envoy ends the connection (setting connection_max_s)."""
BODY_TIMEOUT_S = 10.0
ALIVE_S = 15.0
"""Between two signs of life, so that no proxy on the way takes a silent child for a dead connection."""
MAX_WAITING = 2 * MAX_AT_ONCE
"""Requests of one task that are under way here."""

_SAID = re.compile(rf"v=(?P<task>{TASK_ID.pattern}) (?P<record>[A-Za-z0-9-]{{1,64}})")
Short = Annotated[str, Field(max_length=80)]


class Delegation(BaseModel):
    """What a task asks for. Nothing of it says who asks, and nothing becomes a variable of the child."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: str = Field(pattern=f"^{claims.ROLE_NAME.pattern}$", description="One of those its own role delegates to.")
    command: list[str] = Field(min_length=1, max_length=4096, description="The command and its arguments.")
    capabilities: list[Short] = Field(
        default=[], max_length=256, description="Of the role's, those it gets; none: all."
    )
    budgets: list[Short] = Field(default=[], max_length=8, description="Such as `requests=3`.")
    stdin: str = Field(default="", max_length=2 * MAX_STDIN_BYTES, description="Base64; at most 512 KiB.")


class Door:
    """The ASGI application. `user`: Envoy's uid."""

    def __init__(self, delegates: Delegates, user: int) -> None:
        self._delegates, self._user = delegates, user
        self._waiting: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        asker = _asker(scope)
        if scope.get("remit.uid") != self._user or asker is None:
            await problems.response("forbidden", 403, "this request was permitted by nobody")(scope, receive, send)
            return
        self._waiting[asker.task] += 1
        try:
            await self._answer(asker, scope, receive, send)
        finally:
            self._waiting[asker.task] -= 1
            if not self._waiting[asker.task]:
                del self._waiting[asker.task]

    async def _answer(self, asker: Asker, scope: Scope, receive: Receive, send: Send) -> None:
        if self._waiting[asker.task] > MAX_WAITING:
            detail = f"task {asker.task} has {MAX_WAITING} of these requests under way, which is the most"
            asked: Wanted | Refusal | None = Refusal(Reason.DELEGATIONS_EXCEEDED, detail)
        else:
            asked = await _asked(scope, receive)
        if asked is None:
            return
        if isinstance(asked, Refusal):
            await _problem(await self._delegates.refused(asker, "", asked), send)
            return
        async with self._delegates.child(asker, asked) as child:
            if isinstance(child, Refused):
                await _problem(child, send)
                return
            jobs = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(_Answer(send).tell(child))]
            try:
                await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for job in jobs:
                    job.cancel()
                await asyncio.gather(*jobs, return_exceptions=True)


class _Answer:
    """One streaming response."""

    def __init__(self, send: Send) -> None:
        self._send, self._one = send, asyncio.Lock()

    async def tell(self, child: Child) -> None:
        """All that the child says, and its end. Waits while the client does not read, and the child waits with it."""
        head = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})
        await self._line(event="started", task=child.task)
        alive = asyncio.ensure_future(self._alive())
        try:
            async with asyncio.timeout(MAX_S):
                end = await self._output(child)
        except TimeoutError:
            end = {"code": None, "detail": f"the task ran for {MAX_S:g} s, which is the most"}
        except Unavailable as error:
            end = {"code": None, "detail": error.detail}
        finally:
            alive.cancel()
        await self._line(event="exit", **end)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _output(self, child: Child) -> Mapping[str, Any]:
        left, cut = MAX_OUTPUT_BYTES, False
        async for said in child.said():
            if isinstance(said, Ended):
                return {"code": said.code, "detail": said.detail, "truncated": cut}
            kept = said.data[:left]
            left, cut = left - len(kept), cut or len(kept) < len(said.data)
            if kept:
                await self._line(event=said.stream, data=base64.b64encode(kept).decode())
        return {"code": None, "detail": "the task was lost"}

    async def _alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            await self._line(event="alive")

    async def _line(self, **said: Any) -> None:
        async with self._one:
            body = json.dumps(said).encode() + b"\n"
            await self._send({"type": "http.response.body", "body": body, "more_body": True})


def _asker(scope: Scope) -> Asker | None:
    """Whom the decision service named, in exactly the form that Envoy gives it."""
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-remit-task"]
    said = _SAID.fullmatch(told[0]) if len(told) == 1 else None
    return Asker(task=said["task"], record=said["record"]) if said is not None else None


async def _asked(scope: Scope, receive: Receive) -> Wanted | Refusal | None:
    """What the body says; None where its sender went away."""
    if (scope["method"], scope["path"]) != ("POST", doorway.PATH):
        return Refusal(Reason.MALFORMED, f"only POST {doorway.PATH} is answered here")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                data, more = message.get("body", b""), message.get("more_body", False)
                size += len(data)
                if size <= MAX_BODY_BYTES:
                    body += data
                elif size > MAX_UNREAD_BYTES:
                    break
    except TimeoutError:
        return Refusal(Reason.MALFORMED, f"the body did not come within {BODY_TIMEOUT_S:g} s")
    if size > MAX_BODY_BYTES:
        return Refusal(Reason.MALFORMED, f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        asked = Delegation.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"]) or "the body"
        return Refusal(Reason.MALFORMED, ascii(f"{where}: {first['type'].replace('_', ' ')}")[1:-1])
    try:
        stdin = base64.b64decode(asked.stdin, validate=True)
    except ValueError:
        return Refusal(Reason.MALFORMED, "stdin is not Base64")
    if len(stdin) > MAX_STDIN_BYTES:
        return Refusal(Reason.MALFORMED, f"stdin is over {MAX_STDIN_BYTES} bytes")
    return Wanted(
        role=asked.role,
        command=tuple(asked.command),
        capabilities=tuple(asked.capabilities),
        budgets=tuple(asked.budgets),
        stdin=stdin,
    )


async def _problem(refused: Refused, send: Send) -> None:
    """As the boundary says no."""
    body = refused.refusal.problem(refused.record)
    # What is left of the request is not wanted: without this, its rest would be read as the next one.
    head = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    head.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refused.refusal.meaning.status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
