"""The four kinds of manifest, as pydantic models. The JSON Schemas (`remit schema`) are made from them.

The same documents will be Kubernetes custom resources, so they keep `metadata`, `spec` and `status` apart, and field
names are camelCase. Cross references and anything that needs another document is checked in `policy.compile`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from remit.core import placeholders
from remit.core.budget import MAX_AMOUNT
from remit.policy import fields, quantity
from remit.policy.fields import Model, fault
from remit.policy.injections import Inject

API_VERSION = "remit.dev/v1alpha1"
MAX_LISTED = 256
MAX_MODULE = 64 << 10
"""Characters of one Rego module."""

Host = Annotated[str, AfterValidator(fields.host), Field(description="A lower-case DNS name, *.name, or an address")]
Method = Annotated[str, AfterValidator(fields.method), Field(json_schema_extra={"pattern": "^[A-Z][A-Z-]{0,31}$"})]
PathPattern = Annotated[str, AfterValidator(fields.path), Field(json_schema_extra={"pattern": "^/"})]
Network = Annotated[str, AfterValidator(fields.network)]
RoleVariable = Annotated[str, AfterValidator(fields.role_variable)]
PlaceholderVariable = Annotated[str, AfterValidator(fields.placeholder_variable)]
PlaceholderValue = Annotated[str, AfterValidator(fields.placeholder_value)]
Value = Annotated[str, AfterValidator(fields.environment_value)]
Port = Annotated[int, Field(ge=1, le=65535)]
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[str, AfterValidator(fields.name), Field(json_schema_extra={"pattern": NAME_PATTERN, "maxLength": 63})]
Size = Annotated[str, AfterValidator(fields.size), Field(description="Such as 512Mi or 2Gi")]
Duration = Annotated[str, AfterValidator(fields.duration), Field(description="Such as 90s, 30m or 1h30m")]
Description = Annotated[str, Field(max_length=1000)]


class Metadata(Model):
    name: Name
    labels: dict[str, str] = Field(default_factory=dict, max_length=64)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=64)


class BudgetSpec(Model):
    """Limits that hold together, each for itself. At least one."""

    requests: Annotated[int, Field(ge=0, le=10**12)] | None = Field(
        default=None, description="Requests that may be permitted"
    )
    bytes_out: Size | None = Field(default=None, alias="bytesOut", description="Of request bodies, out of the cell")
    bytes_in: Size | None = Field(default=None, alias="bytesIn", description="Of response bodies, into the cell")
    time: Duration | None = Field(default=None, description="Since the task was created; every task has its own")
    per: Duration | None = Field(default=None, description="In which time; default: once and for all")
    window: Literal["sliding", "calendar"] = Field(
        default="sliding", description="Whether per means the last hour, or this hour (UTC)"
    )
    each: Literal["task"] | None = Field(
        default=None, description="task: every task has its own; default: all that use the role or capability share it"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.requests is None and self.bytes_out is None and self.bytes_in is None and self.time is None:
            raise fault("expected at least one of requests, bytesOut, bytesIn, time")
        for size in (self.bytes_out, self.bytes_in):
            if size is not None and quantity.size_bytes(size) >= MAX_AMOUNT:
                raise fault("expected fewer bytes")
        if self.per is not None:
            fields.window(self.per, calendar=self.window == "calendar")
            if self.time is not None:
                raise fault("expected time without per: it passes once")
        elif self.window == "calendar":
            raise fault("expected per together with window: calendar")
        return self


Budgets = Annotated[list[BudgetSpec], Field(max_length=8)]


class CapabilitySpec(Model):
    """What may be reached, and how."""

    description: Description = ""
    protocol: Literal["https", "http", "tcp"] = Field(
        default="https", description="tcp: any bytes, by host and port alone (databases, queues, SSH)"
    )
    tls: Literal["intercept", "passthrough"] = Field(
        default="intercept", description="passthrough: for clients that pin certificates, by the handshake's name alone"
    )
    hosts: list[Host] = Field(min_length=1, max_length=MAX_LISTED)
    ports: list[Port] = Field(
        default_factory=list, max_length=64, description="Default: the protocol's own (443, 80); tcp needs them"
    )
    methods: list[Method] = Field(default_factory=list, max_length=64, description="Default: any method")
    paths: list[PathPattern] = Field(default_factory=lambda: ["/**"], min_length=1, max_length=MAX_LISTED)
    credential: Name | None = None
    credentials: list[Name] = Field(
        default_factory=list,
        max_length=8,
        description="Several: each request gets the one whose placeholder it presents",
    )
    addresses: list[Network] = Field(
        default_factory=list, max_length=64, description="Special-use address ranges that the hosts may resolve to"
    )
    allow_ambiguous: list[Literal["encodedSlash", "emptySegment", "parameters", "encodedPercent"]] = Field(
        default_factory=list,
        alias="allowAmbiguous",
        max_length=4,
        description="Forms of paths that servers may read differently",
    )
    websocket: bool = False
    budgets: Budgets = Field(default_factory=list, description="How much may be used")
    approval: Literal["never", "ask", "always-ask"] = Field(
        default="never", description="Whether a human is asked first; always-ask: for each request anew"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.tls == "passthrough" and self.protocol != "https":
            raise fault("expected protocol: https together with tls: passthrough")
        if self.protocol == "tcp" or self.tls == "passthrough":
            self._unread()
        if self.credential and self.credentials:
            raise fault("expected credential or credentials, not both")
        if len(set(self.credentials)) != len(self.credentials):
            raise fault("expected each credential once")
        if self.websocket and self.named:
            raise fault("expected no credential together with websocket: true (a WebSocket cannot be scrubbed)")
        for pattern in self.paths:
            missing = fields.unreachable(pattern, self.allow_ambiguous)
            if missing:
                raise fault(f"expected allowAmbiguous: [{missing}], without which {pattern} never matches")
        return self

    @property
    def opens(self) -> frozenset[int]:
        return frozenset(self.ports or [80 if self.protocol == "http" else 443])

    @property
    def named(self) -> tuple[str, ...]:
        return (self.credential,) if self.credential is not None else tuple(self.credentials)

    def _unread(self) -> None:
        """What is not read can neither be matched more closely nor be given a credential."""
        what = "protocol: tcp" if self.protocol == "tcp" else "tls: passthrough"
        if self.protocol == "tcp" and not self.ports:
            raise fault("expected ports together with protocol: tcp")
        given = {
            "credential": self.named,
            "methods": self.methods,
            "allowAmbiguous": self.allow_ambiguous,
            "websocket": self.websocket,
            "paths": self.paths != ["/**"],
            "approval": self.approval != "never",
        }
        for name, value in given.items():
            if value:
                raise fault(f"expected no {name} together with {what}: what is carried is not read")


class SealedSource(Model):
    name: Name


Mount = Annotated[str, Field(pattern=fields.SEGMENTS, max_length=200)]


class OpenBaoSource(Model):
    """A KV v2 secret of the node's OpenBao or Vault."""

    path: Mount
    key: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Field of the secret; without it all fields, as a JSON object"
    )
    mount: Mount = "secret"
    version: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Default: the latest")
    namespace: Mount | None = Field(default=None, description="Below the node's own namespace")
    refresh: Duration = Field(default="10s", description="How long a value that was read may be used; at most 1h")


class LeaseSource(Model):
    """A secret that OpenBao or Vault makes for each task, and takes back when the task ends."""

    engine: Literal["database", "pki", "aws", "kubernetes", "ldap", "rabbitmq"]
    role: Mount
    mount: Mount | None = Field(default=None, description="Default: the engine's name")
    key: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Field of the answer; without it all fields, as a JSON object"
    )
    parameters: dict[str, Value] = Field(default_factory=dict, max_length=32, description="PKI: commonName and so on")
    namespace: Mount | None = Field(default=None, description="Below the node's own namespace")


class Source(Model):
    """Exactly one of the three."""

    sealed: SealedSource | None = None
    openbao: OpenBaoSource | None = None
    lease: LeaseSource | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(item is not None for item in (self.sealed, self.openbao, self.lease)) != 1:
            raise fault("expected exactly one of sealed, openbao, lease")
        return self


class Placeholder(Model):
    """What a cell finds in a variable. Without `value` one of the usual shape is made."""

    env: PlaceholderVariable
    value: PlaceholderValue | None = None
    shape: Literal[*placeholders.SHAPES] | None = Field(  # type: ignore[valid-type]
        default=None, description="Default: what is usual in the variable, else generic"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.value is not None and self.shape is not None:
            raise fault("expected value or shape, not both")
        return self


def placeholder(credential: str, written: Placeholder) -> str:
    """The placeholder of `credential` in one variable."""
    if written.value is not None:
        return written.value
    shape = written.shape or placeholders.USUAL.get(written.env, "generic")
    return placeholders.shaped(shape, f"{credential} {written.env}")


class CredentialSpec(Model):
    """Which secret, how it is presented, where it may go."""

    description: Description = ""
    source: Source | None = Field(default=None, description="Default: the sealed secret of the credential's own name")
    hosts: list[Host] = Field(min_length=1, max_length=MAX_LISTED)
    inject: Inject
    placeholder: Placeholder | None = None
    placeholders: list[Placeholder] = Field(
        default_factory=list,
        max_length=8,
        description="Where clients want several variables (AWS); the first one stands for the secret in answers",
    )
    keep: list[Annotated[str, AfterValidator(fields.competing)]] = Field(
        default_factory=list,
        max_length=16,
        description="Headers of the agent that stay beside what is injected; by default those that could say who is "
        "asking (Authorization, X-Api-Key and the like) are taken off",
    )
    scrub: bool = Field(
        default=True, description="false: answers may repeat the secret to the agent; recorded with each request"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.placeholder is not None and self.placeholders:
            raise fault("expected placeholder or placeholders, not both")
        if len({one.env for one in self.shown}) != len(self.shown):
            raise fault("expected each variable once")
        return self

    @property
    def shown(self) -> tuple[Placeholder, ...]:
        return (self.placeholder,) if self.placeholder is not None else tuple(self.placeholders)


class PolicySpec(Model):
    """A Rego module that can deny, hold or oblige what a capability would permit."""

    description: Description = ""
    rego: Annotated[str, Field(min_length=1, max_length=MAX_MODULE)]
    everywhere: bool = Field(default=False, description="Applies to every role")


class LimitsSpec(Model):
    memory: Size | None = None
    processes: Annotated[int, Field(ge=1, le=65536)] | None = None
    cpu: Annotated[float, Field(gt=0, le=1024)] | None = None
    time: Duration | None = None
    disk: Size | None = None


class ApprovalsSpec(Model):
    uncovered: Literal["deny", "ask"] = Field(
        default="deny", description="What becomes of a request that no capability covers"
    )
    four_eyes: bool = Field(
        default=False, alias="fourEyes", description="Whoever started a task may not answer its approvals"
    )


class RoleSpec(Model):
    """A named set of capabilities, policies and limits."""

    description: Description = ""
    mode: Literal["enforce", "observe"] = Field(
        default="enforce",
        description="observe: what capabilities, policies and approvals refuse passes, bare, recorded as would_deny",
    )
    capabilities: list[Name] = Field(default_factory=list, max_length=MAX_LISTED)
    policies: list[Name] = Field(default_factory=list, max_length=64)
    env: dict[RoleVariable, Value] = Field(default_factory=dict, max_length=MAX_LISTED)
    approvals: ApprovalsSpec = ApprovalsSpec()
    limits: LimitsSpec = LimitsSpec()
    budgets: Budgets = Field(default_factory=list, description="How much may be used")
    delegates: list[Name] = Field(
        default_factory=list, max_length=64, description="Roles that its tasks may start narrower tasks under"
    )
    delegable: list[Name] = Field(
        default_factory=list, max_length=MAX_LISTED, description="Capabilities that its tasks have only to hand them on"
    )
    max_depth: int = Field(
        default=1, ge=1, le=8, alias="maxDepth", description="How many levels of tasks there may be below one"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.delegable and not self.delegates:
            raise fault("expected delegates together with delegable: somebody to hand it on to")
        return self


Spec = CapabilitySpec | CredentialSpec | PolicySpec | RoleSpec
KINDS: dict[str, type[CapabilitySpec] | type[CredentialSpec] | type[PolicySpec] | type[RoleSpec]] = {
    "Role": RoleSpec,
    "Capability": CapabilitySpec,
    "Credential": CredentialSpec,
    "Policy": PolicySpec,
}
