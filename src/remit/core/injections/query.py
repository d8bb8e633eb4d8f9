"""A parameter of the query."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote_plus

from remit.core.credential import Injected, Secrets, Seen
from remit.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryInjection:
    """Set query parameter `parameter`, replacing every one that some server would read under that name."""

    parameter: str

    @property
    def headers(self) -> frozenset[str]:
        return frozenset()

    def unfit(self, value: bytes) -> str | None:
        return None if value else "the secret is empty"

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        return ((value, stand_in),)

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected:
        path, _, query = request.target.partition("?")
        kept = [item for item in query.split("&") if item and self.parameter.casefold() not in _keys(item)]
        kept.append(f"{quote(self.parameter, safe='')}={quote(value, safe='')}")
        return Injected(target=f"{path}?{'&'.join(kept)}".encode(), secrets=self.secrets(value, seen.stand_in))


def _keys(item: str) -> set[str]:
    """What servers may take for names in one item of a query: some split at `;` too, some ignore case and spaces."""
    return {unquote_plus(part.partition("=")[0]).strip().casefold() for part in item.split(";")}
