"""Server-sent events (WHATWG HTML, 9.2): a JSON text in each `data:` line, and a comment now and then.

The comment tells a client that somebody is there still: one that hears nothing for several of them may go.
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


def stream(following: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    """What `following` gives, until the client goes; an error ends it, and the client asks again."""
    return StreamingResponse(_events(following), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(following: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    yield b": from now on\n\n"
    upcoming: asyncio.Future[Any] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(following))
            done, _ = await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_S)
            if not done:
                yield b": still here\n\n"
                continue
            found, upcoming = upcoming.result(), None
            yield f"data: {json.dumps(found)}\n\n".encode()
    except RemitError as error:
        log.warning("a stream ends: %s", error.detail)
    finally:
        if upcoming is not None:
            upcoming.cancel()
