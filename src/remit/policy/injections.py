"""How the kinds of injection are written, and the table from a kind's name to what it does (`core.injections`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from remit.core.credential import Injection
from remit.core.exchange import Exchange
from remit.core.injections import headers
from remit.core.injections.basic import BasicInjection
from remit.core.injections.cookie import CookieInjection
from remit.core.injections.header import HeaderInjection
from remit.core.injections.query import QueryInjection
from remit.core.injections.sigv4 import SigV4Injection
from remit.policy.exchanges import GitHubApp, JwtBearer, OAuth2, Registry
from remit.policy.fields import Format, HeaderName, Model, fault

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]

UNUSABLE: Injection = HeaderInjection(header="authorization")
"""Of a credential that cannot be read, and is never injected."""


class Kind(Model, ABC):
    @abstractmethod
    def compiled(self) -> Injection: ...

    def exchange(self) -> Exchange | None:
        """None: what is stored is what is presented."""
        return None


class Header(Kind):
    name: HeaderName
    format: Format = "{secret}"

    def compiled(self) -> Injection:
        return HeaderInjection(header=self.name.lower(), template=self.format)


class Basic(Kind):
    username: Annotated[str, Field(pattern=r"^[\x21-\x39\x3b-\x7e]{1,128}$")] | None = Field(
        default=None, description="Without it the secret has both, as fields username and password"
    )

    def compiled(self) -> Injection:
        return BasicInjection(username=self.username)


class Query(Kind):
    parameter: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]

    def compiled(self) -> Injection:
        return QueryInjection(parameter=self.parameter)


class Line(Header):
    key: Key | None = Field(default=None, description="Field of the secret; without it the whole secret")


class Headers(RootModel[Annotated[list[Line], Field(min_length=1, max_length=8)]]):
    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [line.name.lower() for line in self.root]
        if len(set(names)) != len(names):
            raise fault("expected each header once")
        return self

    def compiled(self) -> Injection:
        lines = (headers.Line(name=one.name.lower(), template=one.format, key=one.key) for one in self.root)
        return headers.HeadersInjection(lines=tuple(lines))

    def exchange(self) -> None:
        return None


class Cookie(Kind):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]

    def compiled(self) -> Injection:
        return CookieInjection(name=self.name)


Service = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]


class SigV4(Kind):
    """AWS: what the SDK signed with placeholder keys is signed anew with the real ones."""

    services: list[Service] = Field(min_length=1, max_length=32, description="Such as s3, dynamodb, sts")
    regions: list[Service] = Field(min_length=1, max_length=64, description="Such as eu-central-1")

    def compiled(self) -> Injection:
        return SigV4Injection(services=frozenset(self.services), regions=frozenset(self.regions))


class Inject(Model):
    """Exactly one of them."""

    header: Header | None = None
    basic: Basic | None = None
    query: Query | None = None
    headers: Headers | None = None
    cookie: Cookie | None = None
    oauth2: OAuth2 | None = None
    jwt_bearer: JwtBearer | None = Field(default=None, alias="jwtBearer")
    github_app: GitHubApp | None = Field(default=None, alias="githubApp")
    registry: Registry | None = None
    sigv4: SigV4 | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self._written()) != 1:
            kinds = (found.alias or name for name, found in type(self).model_fields.items())
            raise fault(f"expected exactly one of {', '.join(kinds)}")
        return self

    def compiled(self) -> Injection:
        (kind,) = self._written()
        return kind.compiled()

    def exchange(self) -> Exchange | None:
        (kind,) = self._written()
        return kind.exchange()

    def _written(self) -> list[Kind | Headers]:
        return [kind for name in type(self).model_fields if (kind := getattr(self, name)) is not None]
