"""What an Open Policy Agent uploads of its decisions (openpolicyagent.org, "Decision Logs"): read, bounded, compared.

An upload is a JSON array of events, gzipped. Whoever sends it may be broken or lying: it is unpacked up to a bound, cut
to the fields that are kept, and never believed. Comparing decides each event's input again with the engine of the
product, where the event was made from the very policies in force.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from remit.core.decision import Opinion
from remit.core.errors import Invalid
from remit.core.snapshot import Policy
from remit.policy import bundle, verdict

MAX_UNPACKED = 8 << 20
MAX_EVENTS = 5000
MAX_VALUES = 1 << 20
"""What may begin a value or part two of them. Lists of nothing take thirty times their text in memory."""
MAX_EVENT = 64 << 10
"""Characters of an event that are kept whole; of a larger one, input and result are left out."""
MAX_TEXT = 256
KEPT = ("decision_id", "path", "timestamp", "labels", "bundles", "input", "result", "error")
CUT = "cut"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Asks = Callable[[tuple[str, ...], str, int], Opinion]


class Word(StrEnum):
    AGREES = "agrees"
    DIFFERS = "differs"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    word: Word
    detail: str


def read(body: bytes, encoding: str) -> list[dict[str, Any]]:
    """The events of an upload. `Invalid`: it is none, or too large. `encoding`: its Content-Encoding."""
    if encoding == "gzip":
        body = _unpacked(body)
    elif encoding not in ("", "identity"):
        raise Invalid("an upload of decisions is gzipped or plain")
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise Invalid(f"an upload of decisions has at most {MAX_VALUES} values")
    try:
        events = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid("an upload of decisions is a JSON array") from error
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise Invalid(f"an upload of decisions is a JSON array of at most {MAX_EVENTS} events")
    return [_kept(event) for event in events]


def compared(event: Mapping[str, Any], policies: Mapping[str, Policy], asks: Asks) -> Compared:
    """Whether our engine comes to what OPA came to."""
    name = next((p.name for p in policies.values() if p.package.replace(".", "/") == event.get("path")), None)
    if name is None:
        return Compared(word=Word.LEFT_OUT, detail="no policy in force has this path")
    if bundle.revision(policies) not in _revisions(event):
        return Compared(word=Word.LEFT_OUT, detail="made from other policies than those in force")
    result, at = event.get("result"), _nanoseconds(event.get("timestamp"))
    if not isinstance(result, dict) or not isinstance(event.get("input"), dict) or at is None:
        return Compared(word=Word.LEFT_OUT, detail="without input, result or time")
    theirs = verdict.Verdict()
    failure = theirs.hear(name, result)
    said = Opinion(failure=failure) if failure is not None else theirs.opinion()
    mine = asks((name,), json.dumps(event["input"]), at)
    if _essence(mine) == _essence(said):
        return Compared(word=Word.AGREES, detail="")
    return Compared(word=Word.DIFFERS, detail=f"here: {_told(mine)}; OPA: {_told(said)}")


def _unpacked(body: bytes) -> bytes:
    inflating = zlib.decompressobj(wbits=31)
    try:
        found = inflating.decompress(body, MAX_UNPACKED + 1)
    except zlib.error as error:
        raise Invalid("an upload of decisions is not gzip") from error
    if len(found) > MAX_UNPACKED:
        raise Invalid(f"an upload of decisions unpacks to over {MAX_UNPACKED} bytes")
    if not inflating.eof or inflating.unused_data:
        raise Invalid("an upload of decisions is one whole gzip member")
    return found


def _kept(event: object) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise Invalid("an event of a decision log is an object")
    kept = {name: event[name] for name in KEPT if name in event}
    for name in ("decision_id", "path", "timestamp"):
        if not isinstance(kept.get(name, ""), str) or len(kept.get(name, "")) > MAX_TEXT:
            raise Invalid(f"{name} of a decision is a text of at most {MAX_TEXT} characters")
    if not kept.get("decision_id"):
        raise Invalid("a decision has an id")
    if len(json.dumps(kept)) > MAX_EVENT:
        kept = {name: kept[name] for name in ("decision_id", "path", "timestamp") if name in kept} | {CUT: True}
    return kept


def _revisions(event: Mapping[str, Any]) -> set[str]:
    bundles = event.get("bundles")
    if not isinstance(bundles, dict):
        return set()
    return {str(one.get("revision")) for one in bundles.values() if isinstance(one, dict)}


def _nanoseconds(stamp: object) -> int | None:
    """RFC 3339, of which OPA writes nine digits of a second."""
    text = str(stamp)
    whole, dot, rest = text.partition(".")
    if dot:
        digits = rest.rstrip("Zz")[:9]
        text = f"{whole}.{digits[:6]}Z" if digits.isdigit() and rest[-1:] in "Zz" else text
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found - _EPOCH) // timedelta(microseconds=1) * 1000 if found.tzinfo is not None else None


def _essence(opinion: Opinion) -> tuple[Any, ...]:
    return (
        sorted(opinion.denials), sorted(opinion.holds), dict(opinion.notes), dict(opinion.headers),
        opinion.failure is not None,
    )  # fmt: skip


def _told(opinion: Opinion) -> str:
    if opinion.failure is not None:
        return f"failed ({opinion.failure})"
    parts: list[tuple[str, Sequence[tuple[str, str]]]] = [("denies", opinion.denials), ("holds", opinion.holds)]
    said = [f"{verb} ({'; '.join(sorted(text for _, text in of))})" for verb, of in parts if of]
    duties = {**opinion.notes, **opinion.headers}
    return ", ".join([*said, *([f"obliges {json.dumps(duties, sort_keys=True)}"] if duties else [])]) or "no objection"
