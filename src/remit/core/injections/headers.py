"""Several headers at once, such as a key and the application that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from remit.core.credential import Injected, Secrets, Seen
from remit.core.injections import fields
from remit.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Header `name` (lower case): `template` with field `key` of the secret in place of `{secret}`; None: all of it."""

    name: str
    template: str = "{secret}"
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadersInjection:
    """`lines`: one a name. Where a line has a key, the secret is a JSON object of texts."""

    lines: tuple[Line, ...]

    @property
    def headers(self) -> frozenset[str]:
        return frozenset(line.name for line in self.lines)

    def unfit(self, value: bytes) -> str | None:
        why = fields.missing(value, *dict.fromkeys(line.key for line in self.lines if line.key is not None))
        if why is not None:
            return why
        return next((why for part in self._parts(value) if (why := fields.unfit_for_header(part)) is not None), None)

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        return tuple((part, stand_in) for part in dict.fromkeys(self._parts(value)))

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected:
        lines = zip(self.lines, self._parts(value), strict=True)
        return Injected(
            headers=tuple((line.name.encode(), fields.filled(line.template, part)) for line, part in lines),
            secrets=self.secrets(value, seen.stand_in),
        )

    def _parts(self, value: bytes) -> list[bytes]:
        """What stands in each line."""
        found = fields.parts(value) if any(line.key is not None for line in self.lines) else {}
        return [value if line.key is None else found[line.key].encode() for line in self.lines]
