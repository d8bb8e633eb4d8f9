"""Documents become rules. What is broken becomes a value that refuses, with its reason.

`check` is for people who apply manifests: it finds every mistake that needs more than one document to see. `rules` is
for nodes: it never raises, because a node that stops at a broken manifest is a node that decides from an older one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence

from remit.core import names, paths
from remit.core.capability import DEFAULT_PORT, Capability, Index, Protocol
from remit.core.credential import (
    BasicInjection,
    Credential,
    HeaderInjection,
    Injection,
    Placeholder,
    QueryInjection,
)
from remit.core.snapshot import Limits, Policy, Role, Rules
from remit.policy import quantity, rego, specs
from remit.policy.manifests import Document, Problem, nearest


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) of the content of a set of documents, whatever their order."""
    parts = sorted(json.dumps(document.raw, sort_keys=True, separators=(",", ":")) for document in documents)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def rules(documents: Sequence[Document]) -> Rules:
    """The rules that `documents` state. Never raises; see the module's text."""
    credentials = {d.name: _credential(d.name, d.spec) for d in documents if isinstance(d.spec, specs.CredentialSpec)}
    policies = {d.name: _policy(d.name, d.spec) for d in documents if isinstance(d.spec, specs.PolicySpec)}
    capabilities = {
        d.name: _capability(d.name, d.spec, credentials) for d in documents if isinstance(d.spec, specs.CapabilitySpec)
    }
    everywhere = tuple(sorted(policy.name for policy in policies.values() if policy.everywhere))
    roles = {
        d.name: _role(d.name, d.spec, capabilities, policies, everywhere)
        for d in documents
        if isinstance(d.spec, specs.RoleSpec)
    }
    return Rules(
        digest=digest(documents), roles=roles, capabilities=capabilities, credentials=credentials, policies=policies
    )


def check(documents: Sequence[Document]) -> list[Problem]:
    """Every mistake that can be seen only across documents, and in Rego modules."""
    of: dict[str, dict[str, Document]] = {kind: {} for kind in specs.KINDS}
    for document in documents:
        of[document.kind][document.name] = document
    problems: list[Problem] = []

    def refer(document: Document, path: tuple[str | int, ...], kind: str, name: str) -> bool:
        if name in of[kind]:
            return True
        problems.append(document.problem(path, f"there is no {kind} {name!r}{nearest(name, of[kind])}"))
        return False

    for document in documents:
        match document.spec:
            case specs.RoleSpec() as role:
                for n, name in enumerate(role.capabilities):
                    refer(document, ("spec", "capabilities", n), "Capability", name)
                for n, name in enumerate(role.policies):
                    refer(document, ("spec", "policies", n), "Policy", name)
            case specs.CapabilitySpec() as capability if capability.credential is not None:
                if refer(document, ("spec", "credential"), "Credential", capability.credential):
                    credential = of["Credential"][capability.credential].spec
                    assert isinstance(credential, specs.CredentialSpec)
                    problems += _pinning(document, capability, credential)
            case specs.PolicySpec() as policy:
                problems += [
                    document.problem(("spec", "rego"), message) for message in rego.lint(document.name, policy.rego)
                ]
            case _:
                pass
    packages: dict[str, str] = {}
    for name, document in of["Policy"].items():
        assert isinstance(document.spec, specs.PolicySpec)
        package = rego.package(document.spec.rego)
        if package is not None and packages.setdefault(package, name) != name:
            problems.append(
                document.problem(("spec", "rego"), f"package {package} is already used by {packages[package]}")
            )
    return problems


def _pinning(
    document: Document, capability: specs.CapabilitySpec, credential: specs.CredentialSpec
) -> Iterable[Problem]:
    if capability.protocol == "http":
        yield document.problem(("spec", "protocol"), "expected https: a credential never travels in the clear")
    for n, host in enumerate(capability.hosts):
        if not any(pattern == host or names.covers(pattern, host.removeprefix("*.")) for pattern in credential.hosts):
            pinned = ", ".join(credential.hosts)
            message = f"expected a host that credential {capability.credential} is pinned to ({pinned}), found {host}"
            yield document.problem(("spec", "hosts", n), message)


def _capability(name: str, spec: specs.CapabilitySpec, credentials: Mapping[str, Credential]) -> Capability:
    protocol = Protocol(spec.protocol)
    invalid = None
    if spec.credential is not None and spec.credential not in credentials:
        invalid = f"credential {spec.credential} does not exist"
    elif spec.credential is not None and protocol is Protocol.HTTP:
        invalid = "a credential never travels in the clear"
    return Capability(
        name=name,
        protocol=protocol,
        hosts=tuple(spec.hosts),
        ports=frozenset(spec.ports or [DEFAULT_PORT[protocol]]),
        methods=frozenset(spec.methods),
        paths=tuple(spec.paths),
        credential=spec.credential,
        addresses=tuple(ipaddress.ip_network(text) for text in spec.addresses),
        ambiguous=frozenset(paths.Ambiguity(text) for text in spec.allow_ambiguous),
        websocket=spec.websocket,
        invalid=invalid,
        matchers=tuple(paths.compiled(pattern) for pattern in spec.paths),
    )


def _credential(name: str, spec: specs.CredentialSpec) -> Credential:
    return Credential(
        name=name,
        secret=spec.source.sealed.name if spec.source else name,
        injection=_injection(spec.inject),
        hosts=tuple(spec.hosts),
        placeholder=Placeholder(variable=spec.placeholder.env, value=spec.placeholder.value)
        if spec.placeholder
        else None,
    )


def _injection(inject: specs.Inject) -> Injection:
    if inject.header is not None:
        return HeaderInjection(header=inject.header.name.lower(), template=inject.header.format)
    if inject.basic is not None:
        return BasicInjection(username=inject.basic.username)
    assert inject.query is not None
    return QueryInjection(parameter=inject.query.parameter)


def _policy(name: str, spec: specs.PolicySpec) -> Policy:
    problems = rego.lint(name, spec.rego)
    return Policy(
        name=name,
        module=spec.rego,
        package=rego.package(spec.rego) or "",
        everywhere=spec.everywhere,
        invalid="; ".join(problems) or None,
    )


def _role(
    name: str,
    spec: specs.RoleSpec,
    capabilities: Mapping[str, Capability],
    policies: Mapping[str, Policy],
    everywhere: tuple[str, ...],
) -> Role:
    missing = [f"capability {n}" for n in spec.capabilities if n not in capabilities]
    missing += [f"policy {n}" for n in spec.policies if n not in policies]
    applying = tuple(dict.fromkeys((*everywhere, *spec.policies)))
    usable = tuple(capabilities[n] for n in spec.capabilities if n in capabilities)
    return Role(
        name=name,
        capabilities=usable,
        policies=applying,
        environment=dict(spec.env),
        limits=_limits(spec.limits),
        invalid=f"names what does not exist: {', '.join(missing)}" if missing else None,
        index=Index(usable),
    )


def _limits(spec: specs.LimitsSpec) -> Limits:
    default = Limits()
    return Limits(
        memory_bytes=quantity.size_bytes(spec.memory) if spec.memory else default.memory_bytes,
        processes=spec.processes or default.processes,
        cpu_cores=spec.cpu,
        time_s=quantity.duration_s(spec.time) if spec.time else None,
        disk_bytes=quantity.size_bytes(spec.disk) if spec.disk else default.disk_bytes,
    )
