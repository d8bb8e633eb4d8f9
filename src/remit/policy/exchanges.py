"""How the kinds of injection are written whose secret is exchanged for a short-lived one first (`core.exchanges`)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from remit.core import exchange
from remit.core.credential import Injection
from remit.core.exchange import Endpoint, Exchange
from remit.core.exchanges import github_app, jwt_bearer, oauth2, registry
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


class JwtBearer(Presented):
    """A statement signed with a private key buys a token (RFC 7523): service accounts."""

    token_url: Url = Field(alias="tokenUrl")
    issuer: Annotated[str, Field(max_length=512)] = Field(
        default="", description="Default: client_email of the secret, where that is a service account's JSON file"
    )
    subject: Annotated[str, Field(max_length=512)] = Field(default="", description="On whose behalf, if anybody's")
    audience: Annotated[str, Field(max_length=1024)] = Field(default="", description="Default: tokenUrl")
    scopes: list[Visible] = Field(default_factory=list, max_length=64)

    def exchange(self) -> Exchange:
        return jwt_bearer.JwtBearer(
            endpoint=self.endpoint(self.token_url),
            issuer=self.issuer,
            subject=self.subject,
            audience=self.audience,
            scopes=tuple(self.scopes),
        )


class GitHubApp(Presented):
    """A token of one installation of a GitHub App. With `username: x-access-token` for git."""

    app: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its client id or app id")]
    installation: Annotated[int, Field(ge=1)]
    api_url: Url = Field(default="https://api.github.com", alias="apiUrl", description="GitHub Enterprise: …/api/v3")
    repositories: list[Visible] = Field(default_factory=list, max_length=100)
    permissions: dict[Visible, Literal["read", "write", "admin"]] = Field(default_factory=dict, max_length=64)

    def exchange(self) -> Exchange:
        url = f"{self.api_url.rstrip('/')}/app/installations/{self.installation}/access_tokens"
        return github_app.GitHubApp(
            endpoint=self.endpoint(url),
            app=self.app,
            repositories=tuple(self.repositories),
            permissions=_pairs(dict(self.permissions)),
        )


class Registry(Presented):
    """A container registry's token, asked for where its 401 would send a client."""

    realm: Url = Field(description="Such as https://auth.docker.io/token")
    service: Annotated[str, Field(max_length=256)] = Field(description="Such as registry.docker.io")
    scopes: list[Visible] = Field(min_length=1, max_length=64, description="Such as repository:library/alpine:pull")
    user: Annotated[str, Field(max_length=128)] = Field(
        default="", description="Without it the secret has both, as fields username and password"
    )

    def exchange(self) -> Exchange:
        return registry.RegistryToken(
            endpoint=self.endpoint(self.realm),
            service=self.service,
            scopes=tuple(self.scopes),
            username=self.user,
        )


def _pairs(parameters: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(parameters.items()))
