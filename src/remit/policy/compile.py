"""Documents become rules. What is broken becomes a value that refuses, with its reason.

`rules` is for nodes: it never raises and evaluates nothing, because a node that stops at a broken manifest is a node
that decides from an older one. What people are told when they apply manifests is `policy.crosscheck`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from remit.core import doorway, names, paths
from remit.core.budget import Budget
from remit.core.capability import DEFAULT_PORT, UNREAD, Approval, Capability, Index, Protocol
from remit.core.credential import Credential, Placeholder
from remit.core.snapshot import Limits, Policy, Role, Rules
from remit.core.source import Kv, Lease, Source
from remit.policy import budgets, crosscheck, injections, quantity, rego, specs
from remit.policy.manifests import Document

check = crosscheck.check
MAX_REFRESH_S = 3600.0


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) of the content of a set of documents, whatever their order."""
    return raw_digest(document.raw for document in documents)


def raw_digest(items: Iterable[Mapping[str, Any]]) -> str:
    """The same of documents as JSON values; `status` is no part of their content."""
    parts = sorted(
        json.dumps({k: v for k, v in item.items() if k != "status"}, sort_keys=True, separators=(",", ":"))
        for item in items
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def rules(documents: Sequence[Document]) -> Rules:
    """The rules that `documents` state; broken ones (`manifests.lenient`) refuse. Never raises."""
    credentials = {d.name: _credential(d) for d in documents if d.kind == "Credential"}
    policies = {d.name: _policy(d) for d in documents if d.kind == "Policy"}
    capabilities = {d.name: _capability(d, credentials) for d in documents if d.kind == "Capability"}
    everywhere = tuple(sorted(policy.name for policy in policies.values() if policy.everywhere))
    roles = {d.name: _role(d, capabilities, policies, everywhere) for d in documents if d.kind == "Role"}
    return Rules(
        digest=digest(documents), roles=roles, capabilities=capabilities, credentials=credentials, policies=policies
    )


def _capability(document: Document, credentials: Mapping[str, Credential]) -> Capability:
    spec = document.spec
    if not isinstance(spec, specs.CapabilitySpec):
        return Capability(name=document.name, hosts=_hosts(document.raw), invalid=document.broken or "cannot be read")
    protocol = Protocol.TLS if spec.tls == "passthrough" else Protocol(spec.protocol)
    invalid = None
    for name in spec.named:
        credential = credentials.get(name)
        if credential is None:
            invalid = f"credential {name} does not exist"
        elif credential.invalid is not None:
            invalid = f"credential {credential.name} is invalid: {credential.invalid}"
        elif len(spec.named) > 1 and credential.placeholder is None:
            invalid = f"credential {name} has no placeholder to be chosen by"
    if spec.named and protocol in UNREAD:
        invalid = "a credential cannot be put into what is carried unread"
    elif spec.named and protocol is Protocol.HTTP:
        invalid = "a credential never travels in the clear"
    return Capability(
        name=document.name,
        protocol=protocol,
        hosts=tuple(spec.hosts),
        ports=frozenset(spec.ports or [DEFAULT_PORT[protocol]]),
        methods=frozenset(spec.methods),
        paths=tuple(spec.paths),
        credentials=spec.named,
        addresses=tuple(ipaddress.ip_network(text) for text in spec.addresses),
        ambiguous=frozenset(paths.Ambiguity(text) for text in spec.allow_ambiguous),
        websocket=spec.websocket,
        approval=Approval(spec.approval),
        budgets=_budgets(spec.budgets),
        invalid=invalid,
        matchers=tuple(paths.compiled(pattern) for pattern in spec.paths),
    )


def _hosts(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The hosts of a broken capability that can be read, so that a refusal for them can say what is wrong."""
    spec = raw.get("spec")
    hosts = spec.get("hosts") if isinstance(spec, dict) else None
    texts = [host for host in hosts[: specs.MAX_LISTED] if isinstance(host, str)] if isinstance(hosts, list) else []
    kept = (host for host in texts if names.canonical(host.removeprefix("*.")) == host.removeprefix("*."))
    return tuple(host for host in kept if not doorway.reserved(host))


def _credential(document: Document) -> Credential:
    spec = document.spec
    if not isinstance(spec, specs.CredentialSpec):
        why = document.broken or "cannot be read"
        return Credential(name=document.name, secret="", injection=injections.UNUSABLE, hosts=(), invalid=why)
    return Credential(
        name=document.name,
        secret=_sealed(document.name, spec.source),
        source=_source(spec.source),
        injection=spec.inject.compiled(),
        exchange=spec.inject.exchange(),
        hosts=tuple(spec.hosts),
        keeps=frozenset(name.lower() for name in spec.keep),
        placeholders=tuple(
            Placeholder(variable=one.env, value=specs.placeholder(document.name, one)) for one in spec.shown
        ),
        scrub=spec.scrub,
    )


def _sealed(name: str, source: specs.Source | None) -> str:
    if source is None:
        return name
    return source.sealed.name if source.sealed is not None else ""


def _source(source: specs.Source | None) -> Source | None:
    if source is not None and source.openbao is not None:
        kv = source.openbao
        return Kv(
            mount=kv.mount,
            path=kv.path,
            key=kv.key,
            version=kv.version,
            namespace=kv.namespace or "",
            refresh_s=min(quantity.duration_s(kv.refresh), MAX_REFRESH_S),
        )
    if source is not None and source.lease is not None:
        lease = source.lease
        return Lease(
            mount=lease.mount or lease.engine,
            role=lease.role,
            field=lease.key,
            issue=lease.engine == "pki",
            parameters=tuple(sorted(lease.parameters.items())),
            namespace=lease.namespace or "",
        )
    return None


def _policy(document: Document) -> Policy:
    spec = document.spec
    if not isinstance(spec, specs.PolicySpec):
        raw = document.raw.get("spec")
        everywhere = raw.get("everywhere", False) if isinstance(raw, dict) else True
        return Policy(
            name=document.name,
            module="",
            package="",
            everywhere=everywhere is not False,  # unreadable: it may have been meant for everyone
            invalid=document.broken or "cannot be read",
        )
    package = rego.package(spec.rego)
    return Policy(
        name=document.name,
        module=spec.rego,
        package=package or "",
        everywhere=spec.everywhere,
        invalid=None if package else 'its package is not below "remit"',
    )


def _role(
    document: Document,
    capabilities: Mapping[str, Capability],
    policies: Mapping[str, Policy],
    everywhere: tuple[str, ...],
) -> Role:
    spec = document.spec
    if not isinstance(spec, specs.RoleSpec):
        return Role(name=document.name, policies=everywhere, invalid=f"is invalid: {document.broken}")
    named = tuple(dict.fromkeys((*spec.capabilities, *spec.delegable)))
    missing = [f"capability {n}" for n in named if n not in capabilities]
    missing += [f"policy {n}" for n in spec.policies if n not in policies]
    usable = tuple(capabilities[n] for n in named if n in capabilities)
    own = frozenset({*spec.capabilities, doorway.CAPABILITY.name}) if spec.delegable else None
    return Role(
        name=document.name,
        capabilities=usable,
        policies=tuple(dict.fromkeys((*everywhere, *spec.policies))),
        environment=dict(spec.env),
        limits=_limits(spec.limits),
        observe=spec.mode == "observe",
        ask_uncovered=spec.approvals.uncovered == "ask",
        four_eyes=spec.approvals.four_eyes,
        budgets=_budgets(spec.budgets),
        delegates=frozenset(spec.delegates),
        own=own,
        max_depth=spec.max_depth,
        invalid=f"names what does not exist: {', '.join(missing[:8])}" if missing else None,
        index=Index((*usable, doorway.CAPABILITY) if spec.delegates else usable),
    )


def _budgets(listed: Sequence[specs.BudgetSpec]) -> tuple[Budget, ...]:
    return tuple(found for spec in listed for found in budgets.compiled(spec))


def _limits(spec: specs.LimitsSpec) -> Limits:
    default = Limits()
    return Limits(
        memory_bytes=quantity.size_bytes(spec.memory) if spec.memory else default.memory_bytes,
        processes=spec.processes or default.processes,
        cpu_cores=spec.cpu,
        time_s=quantity.duration_s(spec.time) if spec.time else None,
        disk_bytes=quantity.size_bytes(spec.disk) if spec.disk else default.disk_bytes,
    )
