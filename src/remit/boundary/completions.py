"""How requests ended, and what Envoy refused by itself: lines of its access log, handed on as fields of records.

A decision is recorded before a byte moves; what became of the request is known only to Envoy, afterwards. Its log is
best effort (what it had not flushed is lost on kill -9), so nothing here is needed for a decision to be right.
Names and paths in a line are the agent's: they are cut and made printable, and queries are not in it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from remit.boundary import replies
from remit.boundary.spool import Spool

log = logging.getLogger(__name__)

POLL_S = 0.05
REOPEN_S = 1.0
"""How often Envoy is told to open its log anew, until it has."""
SLICE = 16
"""Lines dealt with at once: Envoy writes them in bursts, and decisions must not wait for a whole one."""
HOST_MAX = 300
PATH_MAX = 1024
TEXT_MAX = 300
RECORD_MAX = 64
NO_LEAF = "no certificate is made for this name (not in canonical form, or too many new names at once)"

UNSORTED = f"the connection did not say within {replies.SORTING_S} s what it speaks: half a greeting, or silence"
SORTING_MS = replies.SORTING_S * 1000 - 250
"""Envoy's clock and its timer differ by a few milliseconds."""

Handler = Callable[[str | None, Mapping[str, Any]], Awaitable[None]]
"""`control.observing.Observer.ended`: the decision's record id (None: Envoy refused by itself), and the fields."""

Reopen = Callable[[], Awaitable[None]]
"""Tells Envoy to open its log file anew (`envoy.reopen_logs`)."""


async def follow(spool_path: Path, mark_path: Path, handler: Handler, reopen: Reopen) -> None:
    """Hand every line of the spool to `handler` until cancelled. `mark_path` keeps where reading stands."""
    spool = Spool(spool_path, mark_path)
    loop, again = asyncio.get_running_loop(), 0.0
    try:
        while True:
            lines = spool.read()
            if not lines:
                if spool.rotate() and loop.time() >= again:
                    await _told(reopen)
                    again = loop.time() + REOPEN_S
                await asyncio.sleep(POLL_S)
                continue
            for start in range(0, len(lines), SLICE):
                await _handed_on(lines[start : start + SLICE], handler)
            await asyncio.to_thread(spool.save)
    finally:
        spool.close()


async def _handed_on(lines: list[bytes], handler: Handler) -> None:
    found = [entry for entry in map(parse, lines) if entry is not None]
    for outcome in await asyncio.gather(*(handler(*entry) for entry in found), return_exceptions=True):
        if isinstance(outcome, BaseException):
            log.error("a completion was not recorded: %r", outcome)


async def _told(reopen: Reopen) -> None:
    try:
        await reopen()
    except (OSError, TimeoutError) as error:
        log.warning("Envoy could not be told to open its log anew: %s", error)


def parse(line: bytes) -> tuple[str | None, dict[str, Any]] | None:
    """(record id, fields) of one line; None for what is no line of ours.

    With a record the fields say only how it ended, so that they never overwrite what the decision said.
    """
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    if "handshake" in said:
        return _handshake(said)
    ended: dict[str, Any] = {
        "status": _number(said.get("status")),
        "bytes_out": _number(said.get("bytes_out")),
        "bytes_in": _number(said.get("bytes_in")),
        "duration_ms": _number(said.get("duration_ms")),
        "protocol": _text(said.get("protocol")),
        "flags": _text(said.get("flags")),
    }
    record = said.get("record")
    if said.get("type") == "DownstreamPeriodic":
        if not isinstance(record, str) or not record.startswith("r-") or len(record) > RECORD_MAX:
            return None
        return record, {**ended, "interim": True, "flow": _text(said.get("flow")) or ""}
    if isinstance(record, str) and record.startswith("r-") and len(record) <= RECORD_MAX:
        ended["ending"] = _text(said.get("details"))
        ended["upstream"] = _text(said.get("upstream"))
        if said.get("repeated") == "yes":
            ended["repeated"] = True
        failure = _text(said.get("upstream_failure"))
        return record, {**ended, "upstream_failure": failure} if failure else ended
    return None, {
        **_connection(said),
        "method": _text(said.get("method"), replies.METHOD_MAX),
        "scheme": _text(said.get("scheme"), 16),
        "host": _text(said.get("authority"), HOST_MAX),
        "path": _text(said.get("path"), PATH_MAX),
        "detail": _text(said.get("details")) or "Envoy gave no reason",
        **ended,
    }


def _handshake(said: Mapping[str, Any]) -> tuple[None, dict[str, Any]] | None:
    """A connection that ended before its first request because TLS failed; None for one that failed later."""
    if _number(said.get("bytes_out")):
        return None
    why = _text(said.get("handshake")) or ""
    if "chain" in said and _text(said.get("chain")) is None:
        return _unsorted(said)
    refused = "CONNECTION_REJECTED" in why
    return None, {
        **_connection(said),
        "method": None,
        "scheme": "https",
        "host": _text(said.get("sni"), HOST_MAX),
        "path": None,
        "detail": f"the TLS handshake failed: {NO_LEAF if refused else why}",
        "status": None,
        "flags": _text(said.get("flags")),
        "duration_ms": _number(said.get("duration_ms")),
    }


def _unsorted(said: Mapping[str, Any]) -> tuple[None, dict[str, Any]] | None:
    """A connection that was closed because it did not say what it speaks; None for one that its client closed before.

    Clients that race addresses open connections and drop them unused all the time; those sent nothing anywhere.
    """
    if (_number(said.get("duration_ms")) or 0) < SORTING_MS:
        return None
    return None, {
        **_connection(said),
        "method": None,
        "scheme": None,
        "host": _text(said.get("sni"), HOST_MAX),
        "path": None,
        "detail": UNSORTED,
        "status": None,
        "flags": _text(said.get("flags")),
        "duration_ms": _number(said.get("duration_ms")),
    }


def _connection(said: Mapping[str, Any]) -> dict[str, Any]:
    destination = _text(said.get("destination")) or ""
    port = destination.rpartition(":")[2]
    return {
        "flow": _text(said.get("flow")) or "",
        "destination": destination,
        "sni": _text(said.get("sni"), HOST_MAX),
        "port": int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else None,
    }


def _text(value: object, limit: int = TEXT_MAX) -> str | None:
    """Printable ASCII of at most `limit` characters; None for what Envoy writes where there is nothing."""
    if not isinstance(value, str) or value in ("", "-"):
        return None
    return ascii(value[:limit])[1:-1][:limit]


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (
            int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else None
        )
    return int(value) if 0 <= value < 1 << 63 else None
