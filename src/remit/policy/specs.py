"""The four kinds of manifest, as pydantic models. The JSON Schemas (`remit schema`) are made from them.

The same documents will be Kubernetes custom resources, so they keep `metadata`, `spec` and `status` apart, and field
names are camelCase. Cross references and anything that needs another document is checked in `policy.compile`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from remit.core import names, paths
from remit.core.addresses import NEVER
from remit.policy import quantity

API_VERSION = "remit.dev/v1alpha1"

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
_RESERVED_PREFIXES = ("x-remit-", "x-envoy-", "x-forwarded-", ":")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_RESERVED_VARIABLES = frozenset({"PATH", "HOME", "USER", "SHELL", "TMPDIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"})
_PLACEHOLDER = re.compile(r"[\x21-\x7e]{1,512}")


def _host(text: str) -> str:
    bare = text.removeprefix("*.")
    if bare in ("*", ""):
        raise ValueError("expected a host name; a pattern that covers every host is not allowed")
    if names.canonical(bare) != bare:
        raise ValueError("expected a lower-case DNS name, *.name, or an address literal")
    if text.startswith("*.") and ("." not in bare or names.address_literal(bare)):
        raise ValueError("expected at least two labels after *.")
    return text


def _method(text: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z-]{0,31}", text) or text in ("CONNECT", "TRACE", "TRACK"):
        raise ValueError("expected an HTTP method in upper case (GET, POST, …)")
    return text


def _path(text: str) -> str:
    try:
        paths.compiled(text)
    except ValueError as error:
        raise ValueError(f"expected a path pattern such as /repos/**: {error}") from error
    if paths.ambiguities(text) - paths.OPTIONAL:
        raise ValueError("expected a path without dot segments or backslashes")
    return text


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"expected an address range such as 10.0.0.0/8: {error}") from error
    if any(network.version == never.version and network.subnet_of(never) for never in NEVER):  # type: ignore[arg-type]
        raise ValueError("expected a range that can be dialled: this one never is (metadata, link-local, multicast)")
    return text


def _header(text: str) -> str:
    lower = text.lower()
    if not _HEADER.fullmatch(text) or lower in _RESERVED_HEADERS or lower.startswith(_RESERVED_PREFIXES) or "_" in text:
        raise ValueError("expected a header name that a credential may set, such as Authorization")
    return text


def _format(text: str) -> str:
    if text.count("{secret}") != 1 or any(not " " <= c <= "~" for c in text):
        raise ValueError("expected printable text that contains {secret} once")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text) or text in _RESERVED_VARIABLES or text.startswith("LD_"):
        raise ValueError("expected the name of an environment variable that a manifest may set")
    return text


def _printable(text: str) -> str:
    if not _PLACEHOLDER.fullmatch(text):
        raise ValueError("expected 1 to 512 printable characters without spaces")
    return text


Host = Annotated[str, AfterValidator(_host)]
Method = Annotated[str, AfterValidator(_method)]
PathPattern = Annotated[str, AfterValidator(_path)]
Network = Annotated[str, AfterValidator(_network)]
HeaderName = Annotated[str, AfterValidator(_header)]
Variable = Annotated[str, AfterValidator(_variable)]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Bytes = Annotated[str, AfterValidator(lambda text: (quantity.size_bytes(text), text)[1])]
Duration = Annotated[str, AfterValidator(lambda text: (quantity.duration_s(text), text)[1])]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True)


class Metadata(Model):
    name: Name
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class CapabilitySpec(Model):
    """What may be reached, and how."""

    description: str = ""
    protocol: Literal["https", "http"] = "https"
    hosts: list[Host] = Field(min_length=1, max_length=256)
    ports: list[Port] = Field(default_factory=list, description="Default: the protocol's own (443, 80)")
    methods: list[Method] = Field(default_factory=list, description="Default: any method")
    paths: list[PathPattern] = Field(default_factory=lambda: ["/**"])
    credential: Name | None = None
    addresses: list[Network] = Field(default_factory=list, description="Special-use ranges that hosts may resolve to")
    allow_ambiguous: list[Literal["encodedSlash", "emptySegment", "parameters", "encodedPercent"]] = Field(
        default_factory=list, description="Forms of paths that servers may read differently"
    )
    websocket: bool = False
    approval: Literal["never"] = "never"

    @model_validator(mode="after")
    def _scrubbable(self) -> CapabilitySpec:
        if self.websocket and self.credential:
            raise ValueError("expected no credential together with websocket: true (a WebSocket cannot be scrubbed)")
        return self


class SealedSource(Model):
    name: Name


class Source(Model):
    sealed: SealedSource


class HeaderInjection(Model):
    name: HeaderName
    format: Annotated[str, AfterValidator(_format)] = "{secret}"


class BasicInjection(Model):
    username: Annotated[str, Field(pattern=r"^[\x21-\x39\x3b-\x7e]{1,128}$")]


class QueryInjection(Model):
    parameter: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]


class Inject(Model):
    """Exactly one of the three."""

    header: HeaderInjection | None = None
    basic: BasicInjection | None = None
    query: QueryInjection | None = None

    @model_validator(mode="after")
    def _one(self) -> Inject:
        if sum(item is not None for item in (self.header, self.basic, self.query)) != 1:
            raise ValueError("expected exactly one of header, basic, query")
        return self


class Placeholder(Model):
    env: Variable
    value: Annotated[str, AfterValidator(_printable)]


class CredentialSpec(Model):
    """Which secret, how it is presented, where it may go."""

    description: str = ""
    source: Source | None = Field(default=None, description="Default: the sealed secret of the credential's own name")
    hosts: list[Host] = Field(min_length=1, max_length=256)
    inject: Inject
    placeholder: Placeholder | None = None


class PolicySpec(Model):
    """A Rego module that can deny, hold or oblige what a capability would permit."""

    description: str = ""
    rego: Annotated[str, Field(min_length=1, max_length=262144)]
    everywhere: bool = Field(default=False, description="Applies to every role")


class LimitsSpec(Model):
    memory: Bytes | None = None
    processes: Annotated[int, Field(ge=1, le=65536)] | None = None
    cpu: Annotated[float, Field(gt=0, le=1024, strict=False)] | None = None
    time: Duration | None = None
    disk: Bytes | None = None


class RoleSpec(Model):
    """A named set of capabilities, policies and limits."""

    description: str = ""
    capabilities: list[Name] = Field(default_factory=list)
    policies: list[Name] = Field(default_factory=list)
    env: dict[Variable, str] = Field(default_factory=dict)
    limits: LimitsSpec = LimitsSpec()


Spec = CapabilitySpec | CredentialSpec | PolicySpec | RoleSpec
KINDS: dict[str, type[CapabilitySpec] | type[CredentialSpec] | type[PolicySpec] | type[RoleSpec]] = {
    "Role": RoleSpec,
    "Capability": CapabilitySpec,
    "Credential": CredentialSpec,
    "Policy": PolicySpec,
}
