"""How the kinds of injection are written whose secret is exchanged for a short-lived one first (`core.exchanges`)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from remit.core import exchange
from remit.core.credential import Injection
from remit.core.exchange import Endpoint, Exchange
from remit.core.exchanges import oauth2
from remit.core.exchanges.oauth2 import Authentication
from remit.core.injections.basic import BasicInjection
from remit.core.injections.header import HeaderInjection
from remit.policy import fields
from remit.policy.fields import Format, HeaderName, Model, fault


def _url(text: str) -> str:
    if exchange.endpoint(text) is None:
        raise fault("expected an https URL such as https://auth.example.com/oauth/token")
    return text


Url = Annotated[str, AfterValidator(_url), Field(max_length=1024)]
Network = Annotated[str, AfterValidator(fields.network)]
Visible = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,512}$")]


class Presented(Model):
    """How the token is presented: as a header, or with a user name as the password of Basic (git)."""

    header: HeaderName = "Authorization"
    format: Format = "Bearer {secret}"
    username: Annotated[str, Field(pattern=r"^[\x21-\x39\x3b-\x7e]{1,128}$")] | None = Field(
        default=None, description="Present the token as the password of this user instead (Basic)"
    )
    addresses: list[Network] = Field(
        default_factory=list, max_length=64, description="Special-use address ranges that the endpoint may resolve to"
    )

    def compiled(self) -> Injection:
        if self.username is not None:
            return BasicInjection(username=self.username)
        return HeaderInjection(header=self.header.lower(), template=self.format)

    def endpoint(self, url: str) -> Endpoint:
        found = exchange.endpoint(url, tuple(ipaddress.ip_network(text) for text in self.addresses))
        assert found is not None
        return found


class OAuth2(Presented):
    """The node asks a token endpoint, and presents what it gives until shortly before its end."""

    grant: Literal["clientCredentials", "refreshToken"]
    token_url: Url = Field(alias="tokenUrl")
    client_id: Visible = Field(alias="clientId")
    client_authentication: Literal["basic", "post", "none"] = Field(
        default="basic", alias="clientAuthentication", description="How the client says who it is (RFC 6749 §2.3.1)"
    )
    scopes: list[Visible] = Field(default_factory=list, max_length=64)
    parameters: dict[Visible, Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict, max_length=16, description="What the service wants besides, such as audience or resource"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.grant == "clientCredentials" and self.client_authentication == "none":
            raise fault("expected clientAuthentication: basic or post, since the client's secret is what is exchanged")
        return self

    def exchange(self) -> Exchange:
        client = oauth2.Client(
            endpoint=self.endpoint(self.token_url),
            client_id=self.client_id,
            authentication=Authentication(self.client_authentication),
            scopes=tuple(self.scopes),
            more=_pairs(self.parameters),
        )
        if self.grant == "clientCredentials":
            return oauth2.ClientCredentials(client=client)
        return oauth2.RefreshToken(client=client)


def _pairs(parameters: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(parameters.items()))
