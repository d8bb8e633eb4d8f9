"""What each field of a manifest may hold. A validator returns the value, or raises what was expected instead.

Everything here ends up on the path of requests (hosts and paths that are matched, headers that are set, addresses
that are dialled), so a value with two readings is refused when it is written, not when it is used.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from remit.core import addresses, budget, credential, doorway, names, paths
from remit.policy import quantity, reserved

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_NEVER_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
_PATTERN = re.compile(r"/[!$-;=@-\[\]_`a-z|~]*")
_PLACEHOLDER = re.compile(r"[\x21-\x7e]{1,512}")
SEGMENTS = r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.@+-]*)*$"
"""Paths of a secret store: no empty or dot segments, nothing that would have to be escaped."""
MAX_TEXT = 4096
MAX_PATTERN = 1024


class Model(BaseModel):
    """A part of a manifest: nothing unknown in it, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def fault(expected: str, nearest: str = "") -> PydanticCustomError:
    """The error of a validator. `expected` begins with "expected"; `nearest` is a value that would do."""
    return PydanticCustomError("remit", "{expected}", {"expected": expected, "nearest": nearest})


def name(text: str) -> str:
    if _NAME.fullmatch(text):
        return text
    guess = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63]
    raise fault("expected a name of 1 to 63 lower-case letters, digits and hyphens (RFC 1123)", guess)


def host(text: str) -> str:
    bare = text.removeprefix("*.")
    if bare in ("*", ""):
        raise fault("expected a host name; a pattern that covers every host is not allowed")
    found = names.canonical(bare)
    if found != bare:
        prefix = "*." if bare != text else ""
        raise fault("expected a lower-case DNS name, *.name, or an address", f"{prefix}{found}" if found else "")
    literal = names.address_literal(bare)
    if bare != text and ("." not in bare or literal is not None):
        raise fault("expected at least two labels after *.")
    if doorway.reserved(bare):
        raise fault("expected a name of the DNS; .alt is outside of it (RFC 9476) and names what is inside a cell")
    if literal is not None:
        why = _never(literal)
        if why:
            raise fault(f"expected an address that can be dialled: {why}")
    return text


def method(text: str) -> str:
    if text.upper() in _NEVER_METHODS:
        raise fault("expected a method that is forwarded (CONNECT, TRACE and TRACK never are)")
    if not _METHOD.fullmatch(text):
        upper = text.upper()
        raise fault("expected an HTTP method in upper case", upper if _METHOD.fullmatch(upper) else "")
    return text


def path(text: str) -> str:
    if len(text) > MAX_PATTERN or not _PATTERN.fullmatch(text):
        raise fault("expected a path pattern such as /repos/**, without query, spaces or backslashes")
    try:
        paths.compiled(text)
    except ValueError as error:
        raise fault(f"expected a path pattern such as /repos/**: {error}") from error
    fatal = paths.ambiguities(text) - paths.OPTIONAL
    if fatal:
        raise fault(f"expected a path that servers agree on; this one has {', '.join(sorted(fatal))}")
    if paths.normal(text) != text:
        raise fault("expected escapes in their normal form (RFC 3986 §6.2.2)", paths.normal(text))
    return text


def unreachable(pattern: str, opted_in: Iterable[str]) -> str:
    """The ambiguities that a path pattern needs and that its capability does not opt in to, comma separated."""
    return ", ".join(sorted(paths.ambiguities(pattern) - set(opted_in)))


def network(text: str) -> str:
    try:
        parsed = ipaddress.ip_network(text)
    except ValueError as error:
        raise fault("expected an address range such as 10.0.0.0/8", _masked(text)) from error
    for never in addresses.NEVER:
        if parsed.version == never.version and parsed.overlaps(never):
            raise fault(f"expected a range without {never}, which is never dialled")
    if str(parsed) != text:
        raise fault("expected an address range in its normal form", str(parsed))
    return text


def header(text: str) -> str:
    if not reserved.credential_header(text):
        raise fault("expected a header that a credential may set, such as Authorization")
    return text


def competing(text: str) -> str:
    if text.lower() not in credential.COMPETING:
        raise fault(f"expected one of the headers that are taken off: {', '.join(credential.COMPETING)}")
    return text


def template(text: str) -> str:
    if len(text) > MAX_TEXT or text.count("{secret}") != 1 or any(not " " <= c <= "~" for c in text):
        raise fault("expected printable text that contains {secret} once", "Bearer {secret}")
    if text != text.strip(" "):
        raise fault("expected no space at either end: servers strip it", text.strip(" "))
    return text


def role_variable(text: str) -> str:
    if not reserved.role_variable(text):
        raise fault("expected a variable that a role may set (not the loader's, the shell's or a trust store's)")
    return text


def placeholder_variable(text: str) -> str:
    if not reserved.placeholder_variable(text):
        raise fault("expected a variable for a credential (not PATH, the loader's, a runtime's or a trust store's)")
    return text


def placeholder_value(text: str) -> str:
    if not _PLACEHOLDER.fullmatch(text):
        raise fault("expected 1 to 512 printable characters without spaces")
    return text


def environment_value(text: str) -> str:
    if len(text) > MAX_TEXT or "\0" in text:
        raise fault(f"expected at most {MAX_TEXT} characters without NUL")
    return text


def size(text: str) -> str:
    return _quantity(quantity.size_bytes, text)


def duration(text: str) -> str:
    return _quantity(quantity.duration_s, text)


def window(per: str, *, calendar: bool) -> None:
    """The window of a budget: `per` is a duration."""
    length_s = int(quantity.duration_s(per))
    if length_s > budget.MAX_PER_S:
        raise fault("expected a per of at most 366 days")
    if calendar and budget.DAY_S % length_s:
        raise fault("expected a per that divides a day (such as 1m, 15m, 1h, 6h or 1d) with window: calendar")


def _quantity(parse: Callable[[str], float], text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise fault(str(error)) from error
    return text


def _never(address: names.Address) -> str | None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    return addresses.refusal(address, everything)


def _masked(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""


HeaderName = Annotated[str, AfterValidator(header)]
Format = Annotated[str, AfterValidator(template), Field(json_schema_extra={"pattern": "\\{secret\\}"})]
