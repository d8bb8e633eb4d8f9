"""A header with a format, such as `Authorization: Bearer {secret}`."""

from __future__ import annotations

from dataclasses import dataclass

from remit.core.credential import Injected, Secrets, Seen
from remit.core.injections import fields
from remit.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderInjection:
    """Set `header` (lower case) to `template` with `{secret}` replaced."""

    header: str
    template: str = "{secret}"

    @property
    def headers(self) -> frozenset[str]:
        return frozenset({self.header})

    def unfit(self, value: bytes) -> str | None:
        return fields.unfit_for_header(value)

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        return ((value, stand_in),)

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected:
        line = self.header.encode(), fields.filled(self.template, value)
        return Injected(headers=(line,), secrets=self.secrets(value, seen.stand_in))
