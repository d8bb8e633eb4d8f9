"""Server-sent events (WHATWG HTML, 9.2): a JSON text in each `data:` line, and a comment now and then.

The comment tells a client that somebody is there still: one that hears nothing for several of them may go. Where events
have ids, a client that lost its connection says the last one (`Last-Event-ID`) and goes on behind it; an id without
data tells where the stream begins.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse

from remit.core.errors import RemitError

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0


Event = tuple[int | None, Mapping[str, Any] | None]
"""Its id, its data; either may be missing."""


def stream(following: AsyncIterator[Event]) -> StreamingResponse:
    """What `following` gives, until the client goes; an error ends it, and the client asks again."""
    return StreamingResponse(_events(following), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(following: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield b": from now on\n\n"
    upcoming: asyncio.Future[Any] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(following))
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_S)
            if not done:
                yield b": still here\n\n"
                continue
            (number, data), upcoming = upcoming.result(), None
            lines = [f"id: {number}"] if number is not None else []
            lines += [f"data: {json.dumps(data)}"] if data is not None else []
            yield "\n".join([*lines, "", ""]).encode()
    except RemitError as error:
        log.warning("a stream ends: %s", error.detail)
    finally:
        if upcoming is not None:
            upcoming.cancel()
