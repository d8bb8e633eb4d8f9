"""AWS Signature Version 4: what an SDK signed with placeholder keys is signed anew with the real ones.

Source: "AWS Signature Version 4 for API requests" (IAM User Guide) and, for S3, "Authenticating Requests" of its API
reference. From the agent's signature only the scope (date, region, service) is taken and held against what the
credential allows; the rest is signed as it will arrive: the decided path, the query, the host, every `x-amz-` header.
The time is the node's. The body is covered by what the SDK declared (`x-amz-content-sha256`); where it declared nothing
and there is a body, its digest has to be seen first. A presigned query is turned into a signed header.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote_to_bytes

from remit.core.credential import LATER, Injected, Later, Secrets, Seen
from remit.core.injections import fields
from remit.core.reason import Reason, Refusal
from remit.core.request import Request

SKEW = timedelta(minutes=15)
"""What S3 allows between a signature's time and its own."""
LONGEST_S = 604_800
"""Of a presigned URL."""
ONCE = frozenset({"s3", "s3express", "s3-object-lambda", "s3-outposts"})
"""Services that escape the path once; all others twice."""
EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
CHUNKED = (
    "the body is signed in chunks, which cannot be signed anew; set in boto3 Config(request_checksum_calculation="
    '"when_required", s3={"payload_signing_enabled": False}), in Java chunkedEncodingEnabled(false)'
)
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_SCOPE = (
    r"(?P<key>[A-Za-z0-9]{16,128})/(?P<day>\d{8})/(?P<region>[a-z0-9-]{1,64})/(?P<service>[a-z0-9-]{1,64})/aws4_request"
)
_HEADER = re.compile(
    rf"AWS4-HMAC-SHA256 +Credential={_SCOPE}, *SignedHeaders=(?P<signed>[a-z0-9;_-]{{1,4096}}), *"
    r"Signature=[0-9a-f]{64}"
)
_CREDENTIAL = re.compile(_SCOPE)
_DECLARED = re.compile(r"[0-9a-f]{64}|UNSIGNED-PAYLOAD|STREAMING-UNSIGNED-PAYLOAD-TRAILER")
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_KEYS = {
    "access": ("accesskeyid", "accesskey", "awsaccesskeyid"),
    "secret": ("secretaccesskey", "secretkey", "awssecretaccesskey"),
    "session": ("sessiontoken", "securitytoken", "awssessiontoken"),
}
"""How files, the CLI, STS and OpenBao call them, without case and underscores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigV4Injection:
    """The secret is a JSON object with the access key's id, the secret key and, if temporary, the session token."""

    services: frozenset[str]
    regions: frozenset[str]

    @property
    def headers(self) -> frozenset[str]:
        return frozenset({"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"})

    def unfit(self, value: bytes) -> str | None:
        keys = _keys(value)
        if not keys["access"] or not keys["secret"]:
            return "the secret is no JSON object with accessKeyId and secretAccessKey"
        if any(not re.fullmatch(r"[\x21-\x7e]*", text) for text in keys.values()):
            return "the secret has characters that keys do not have"
        return None

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        return _hidden(_keys(value), stand_in)

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected | Later | Refusal:
        asked = _asked(request)
        if isinstance(asked, str):
            return _refused(asked)
        why = self._forbidden(asked, seen.now)
        if why is not None:
            return _refused(why)
        payload = _payload(asked, request, seen.body)
        if payload is None:
            return LATER
        if not _DECLARED.fullmatch(payload):
            declares = payload.startswith("STREAMING-AWS4-")
            return _refused(CHUNKED if declares else "x-amz-content-sha256 is no digest of a body")
        return _signed(_keys(value), asked, request, payload, seen)

    def _forbidden(self, asked: _Asked, now: datetime) -> str | None:
        if asked.service not in self.services:
            return f"it is signed for service {asked.service}; the credential is for {', '.join(sorted(self.services))}"
        if asked.region not in self.regions:
            return f"it is signed for region {asked.region}; the credential is for {', '.join(sorted(self.regions))}"
        if f"{asked.time:%Y%m%d}" != asked.day:
            return "its scope and its time are of different days"
        if not asked.time - SKEW <= now <= asked.time + max(SKEW, timedelta(seconds=asked.lasts_s)):
            return f"it is of {asked.time:%Y-%m-%d %H:%M:%S} UTC, which is too far from now"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the agent's own signature says. `presigned`: it stood in the query, which is without it now."""

    day: str
    region: str
    service: str
    time: datetime
    lasts_s: int
    presigned: bool
    query: tuple[tuple[str, str], ...]


def _asked(request: Request) -> _Asked | str:
    """The signature of `request`, or what is wrong with it."""
    query = _query(request.query)
    if query is None:
        return "its query has a plus sign, which is a space to some; write %20 or %2B"
    given = {name: text for name, text in query if name.lower().startswith("x-amz-") and name in _PRESIGNED}
    header = request.headers.get("authorization", "")
    if given and header:
        return "it is signed twice, in its header and in its query"
    if given:
        return _presigned(query, given)
    if not header:
        return "it is not signed; give the SDK the placeholder keys of its environment"
    if header.startswith("AWS4-ECDSA"):
        return "it is signed for several regions (SigV4A), which is not made anew; name one region"
    match = _HEADER.fullmatch(header)
    if match is None:
        return "its Authorization is no AWS4-HMAC-SHA256 signature"
    names = match["signed"].split(";")
    if names != sorted(set(names)):
        return "its signed headers are not in order"
    if "host" not in names:
        return "its host is not signed"
    unsigned = sorted(name for name in request.headers if name.startswith("x-amz-") and name not in names)
    if unsigned:
        return f"header {unsigned[0]} is not signed"
    absent = [name for name in names if name not in request.headers and name != "host"]
    if absent:
        return f"it signs header {absent[0]}, which is not there"
    time = _time(request.headers.get("x-amz-date", ""))
    if time is None:
        return "it has no x-amz-date"
    return _Asked(
        day=match["day"], region=match["region"], service=match["service"], time=time, lasts_s=0, presigned=False,
        query=query,
    )  # fmt: skip


_PRESIGNED = frozenset(
    f"X-Amz-{name}"
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature", "Security-Token")
)


def _presigned(query: tuple[tuple[str, str], ...], given: dict[str, str]) -> _Asked | str:
    if sum(name in _PRESIGNED for name, _ in query) != len(given):
        return "a parameter of its signature is there twice"
    if given.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return "its query is no AWS4-HMAC-SHA256 signature"
    match = _CREDENTIAL.fullmatch(given.get("X-Amz-Credential", ""))
    time, lasts = _time(given.get("X-Amz-Date", "")), given.get("X-Amz-Expires", "")
    if match is None or time is None or not lasts.isascii() or not lasts.isdigit() or len(lasts) > 6:
        return "its query is no AWS4-HMAC-SHA256 signature"
    if "host" not in given.get("X-Amz-SignedHeaders", "").split(";"):
        return "its host is not signed"
    return _Asked(
        day=match["day"],
        region=match["region"],
        service=match["service"],
        time=time,
        lasts_s=min(int(lasts), LONGEST_S),
        presigned=True,
        query=tuple((name, text) for name, text in query if name not in _PRESIGNED),
    )


def _query(query: str) -> tuple[tuple[str, str], ...] | None:
    """Names and values, decoded (as latin-1, so that every byte comes back)."""
    if "+" in query:
        return None
    items = (item.partition("=") for item in query.split("&") if item)
    return tuple((_decoded(name), _decoded(text)) for name, _, text in items)


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1")


def _escaped(text: str) -> str:
    return quote(text.encode("latin-1"), safe="-_.~")


def _time(text: str) -> datetime | None:
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _payload(asked: _Asked, request: Request, body: str | None) -> str | None:
    """What is signed in place of the body; None where that has to be seen first."""
    declared = request.headers.get("x-amz-content-sha256")
    if declared is not None:
        return declared
    if asked.service in ONCE:
        return UNSIGNED
    if body is not None:
        return body or EMPTY
    none = request.method in _BODILESS and request.headers.get("content-length", "0") == "0"
    return EMPTY if none else None


def _signed(keys: dict[str, str], asked: _Asked, request: Request, payload: str, seen: Seen) -> Injected | Refusal:
    time = f"{seen.now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    lines = {
        name: " ".join(text.split())
        for name, text in request.headers.items()
        if name.startswith("x-amz-") or name in ("content-type", "content-md5")
    }
    lines.pop("x-amz-security-token", None)
    lines |= {"host": request.authority, "x-amz-date": time}
    if keys["session"]:
        lines["x-amz-security-token"] = keys["session"]
    if asked.service in ONCE:
        lines["x-amz-content-sha256"] = payload
    path = quote(unquote_to_bytes(request.path.encode("latin-1")), safe="/-_.~")
    if asked.service not in ONCE:
        if "//" in path:
            return _refused("its path has empty segments, which this service takes out")
        path = quote(path, safe="/-_.~")
    pairs = sorted((_escaped(name), _escaped(text)) for name, text in asked.query)
    query = "&".join(f"{name}={text}" for name, text in pairs)
    names = ";".join(sorted(lines))
    stated = "".join(f"{name}:{lines[name]}\n" for name in sorted(lines))
    canonical = f"{request.method}\n{path}\n{query}\n{stated}\n{names}\n{payload}"
    scope = f"{time[:8]}/{asked.region}/{asked.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode('latin-1')).hexdigest()}"
    key = f"AWS4{keys['secret']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    said = f"AWS4-HMAC-SHA256 Credential={keys['access']}/{scope}, SignedHeaders={names}, Signature={signature}"
    set_here = [("authorization", said), *((n, lines[n]) for n in _SET if n in lines and n != "authorization")]
    temporary = "x-amz-security-token" in lines or "x-amz-security-token" not in request.headers
    return Injected(
        headers=tuple((name.encode(), text.encode("latin-1")) for name, text in set_here),
        target=f"{request.target.partition('?')[0]}{'?' if query else ''}{query}".encode() if asked.presigned else None,
        removed=() if temporary else (b"x-amz-security-token",),
        secrets=_hidden(keys, seen.stand_in),
    )


_SET = ("x-amz-date", "x-amz-security-token", "x-amz-content-sha256")


def _hidden(keys: dict[str, str], stand_in: bytes) -> Secrets:
    return tuple((text.encode(), stand_in) for text in keys.values() if text)


def _keys(value: bytes) -> dict[str, str]:
    found = {name.lower().replace("_", ""): text for name, text in fields.parts(value).items()}
    return {key: next((found[name] for name in names if name in found), "") for key, names in _KEYS.items()}


def _refused(why: str) -> Refusal:
    return Refusal(Reason.SIGNATURE_REFUSED, f"the request cannot be signed anew: {why}")
