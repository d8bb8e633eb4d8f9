"""A cookie (RFC 6265 §4.2) beside the agent's own ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from remit.core.credential import Injected, Secrets, Seen
from remit.core.request import Request

_VALUE = re.compile(rb'[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+|"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+"')
"""RFC 6265 §4.1.1: no space, comma, semicolon, backslash or control character; whole in quotes or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieInjection:
    """Set cookie `name`, replacing every one that some server would read under that name."""

    name: str

    @property
    def headers(self) -> frozenset[str]:
        return frozenset({"cookie"})

    def unfit(self, value: bytes) -> str | None:
        if not value:
            return "the secret is empty"
        return None if _VALUE.fullmatch(value) else "the secret has characters that a cookie cannot carry (RFC 6265)"

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        return ((value, stand_in),)

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected:
        sent = request.headers.get("cookie", "").encode("latin-1")
        # Some servers split at commas too, and read names without regard to case, quotes or spaces.
        kept = [one.strip() for one in re.split(rb"[;,]", sent) if one.strip() and not self._ours(one)]
        cookies = b"; ".join((*kept, self.name.encode() + b"=" + value))
        return Injected(headers=((b"cookie", cookies),), secrets=self.secrets(value, seen.stand_in))

    def _ours(self, one: bytes) -> bool:
        name = one.partition(b"=")[0].strip(b' \t"').decode("latin-1")
        return name.casefold() == self.name.casefold()
