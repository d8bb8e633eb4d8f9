"""Mistakes that show only between documents, and in Rego: what whoever applies manifests is told before they apply.

A role that names what does not exist would refuse everything, a credential pinned elsewhere would never be sent, two
credentials in one variable would hide each other: each is refused here, where a person can still mend it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from remit.core import choice, names, paths
from remit.policy import budgets, rego, specs
from remit.policy.manifests import Document, Problem, near
from remit.policy.text import Path

Known = Mapping[str, Mapping[str, Document]]
"""Kind → name → document."""


def check(documents: Sequence[Document]) -> list[Problem]:
    """Every such mistake in a whole set of documents (those to apply together with those that stay)."""
    known: dict[str, dict[str, Document]] = {kind: {} for kind in specs.KINDS}
    for document in documents:
        known[document.kind][document.name] = document
    problems: list[Problem] = []
    for document in documents:
        match document.spec:
            case specs.RoleSpec() as role:
                problems += _role(document, role, known)
                problems += _budgets(document, role.budgets)
            case specs.CapabilitySpec() as capability:
                problems += _capability(document, capability, known)
                problems += _budgets(document, capability.budgets)
            case specs.PolicySpec() as policy:
                problems += _policy(document, policy)
            case None:
                problems.append(document.problem((), document.broken or "cannot be read"))
            case _:
                pass
    return [*problems, *_packages(known["Policy"])]


def named(document: Document) -> frozenset[tuple[str, str]]:
    """(kind, name) of every document that this one needs; nothing of one that is broken."""
    match document.spec:
        case specs.RoleSpec() as role:
            listed = [(kind, name) for _, kind, names in _lists(role) for name in names]
        case specs.CapabilitySpec() as capability:
            listed = [("Credential", name) for name in capability.named]
        case _:
            listed = []
    return frozenset(listed)


def _lists(role: specs.RoleSpec) -> tuple[tuple[str, str, Sequence[str]], ...]:
    """(field, kind, names)"""
    return (
        ("capabilities", "Capability", role.capabilities),
        ("policies", "Policy", role.policies),
        ("delegates", "Role", role.delegates),
        ("delegable", "Capability", role.delegable),
    )


def _named(document: Document, path: Path, kind: str, name: str, known: Known) -> Iterator[Problem]:
    if name not in known[kind]:
        found = f'"{name}"'
        yield document.problem(
            path, f"expected the name of a {kind} that exists", found=found, nearest=near(name, known[kind])
        )


def _budgets(document: Document, listed: Sequence[specs.BudgetSpec]) -> Iterator[Problem]:
    """Two that are kept in one account: nobody could say which of them is full."""
    taken: set[str] = set()
    for n, spec in enumerate(listed):
        for budget in budgets.compiled(spec):
            account = budget.account("owner", "task")
            if account in taken:
                field = ("spec", "budgets", n, budget.quantity.value)
                yield document.problem(field, "expected one budget of this quantity, per and window")
            taken.add(account)


def _role(document: Document, role: specs.RoleSpec, known: Known) -> Iterator[Problem]:
    for field, kind, listed in _lists(role):
        for n, name in enumerate(listed):
            yield from _named(document, ("spec", field, n), kind, name, known)
            if name in listed[:n]:
                yield document.problem(("spec", field, n), "expected each name once", found=f'"{name}"')
    for n, name in enumerate(role.delegable):
        if name in role.capabilities:
            message = "expected it here or in capabilities: here its tasks may only hand it on"
            yield document.problem(("spec", "delegable", n), message, found=f'"{name}"')
    yield from _shadowed(document, role, known)
    taken: dict[str, str] = {}
    for n, name in enumerate(role.capabilities):
        for variable, credential in _placeholder(name, known):
            first = taken.setdefault(variable, credential)
            at: Path = ("spec", "capabilities", n)
            if first != credential:
                message = f"expected one placeholder for {variable}; credentials {first} and {credential} both set it"
                yield document.problem(at, message)
            elif variable in role.env:
                message = f"expected {variable} from one place; credential {credential} sets it as its placeholder"
                yield document.problem(("spec", "env", variable), message)


def _shadowed(document: Document, role: specs.RoleSpec, known: Known) -> Iterator[Problem]:
    """Capabilities with another credential that never get a request: of those that name a host alike, the first in the
    role's list that covers a request has it."""
    earlier: list[tuple[str, specs.CapabilitySpec]] = []
    for n, name in enumerate(role.capabilities):
        found = known["Capability"].get(name)
        spec = found.spec if found is not None else None
        if not isinstance(spec, specs.CapabilitySpec):
            continue
        for before, wide in earlier:
            if wide.named != spec.named and _hides(wide, spec):
                first = f"credential {' or '.join(wide.named)}" if wide.named else "no credential"
                message = f"expected {name} before {before}, which covers all of it and has {first}"
                if _hides(spec, wide):
                    message = f"expected one of {before} and {name}: both cover the same with other credentials"
                yield document.problem(("spec", "capabilities", n), message)
        earlier.append((name, spec))


def _hides(wide: specs.CapabilitySpec, narrow: specs.CapabilitySpec) -> bool:
    """Whether `wide` covers every request that `narrow` does, where its hosts are written alike."""
    return (
        (wide.protocol, wide.tls) == (narrow.protocol, narrow.tls)
        and set(narrow.hosts) <= set(wide.hosts)
        and narrow.opens <= wide.opens
        and (not wide.methods or (bool(narrow.methods) and set(narrow.methods) <= set(wide.methods)))
        and all(any(paths.within(path, pattern) for pattern in wide.paths) for path in narrow.paths)
        and set(narrow.allow_ambiguous) <= set(wide.allow_ambiguous)
        and (wide.websocket or not narrow.websocket)
    )


def _placeholder(capability: str, known: Known) -> Iterator[tuple[str, str]]:
    """(variable, credential) that a capability brings into a cell."""
    document = known["Capability"].get(capability)
    spec = document.spec if document is not None else None
    for name in spec.named if isinstance(spec, specs.CapabilitySpec) else ():
        found = known["Credential"].get(name)
        credential = found.spec if found is not None else None
        for placeholder in credential.shown if isinstance(credential, specs.CredentialSpec) else ():
            yield placeholder.env, name


def _capability(document: Document, capability: specs.CapabilitySpec, known: Known) -> Iterator[Problem]:
    if capability.named and capability.protocol == "http":
        yield document.problem(("spec", "protocol"), "expected https: a credential never travels in the clear")
    seen: dict[str, str] = {}
    for n, name in enumerate(capability.named):
        at: Path = ("spec", "credential") if capability.credential else ("spec", "credentials", n)
        yield from _named(document, at, "Credential", name, known)
        found = known["Credential"].get(name)
        credential = found.spec if found is not None else None
        if not isinstance(credential, specs.CredentialSpec):
            continue
        for m, host in enumerate(capability.hosts):
            if not any(names.within(host, pattern) for pattern in credential.hosts):
                pinned = ", ".join(credential.hosts[:8])
                message = f"expected a host that credential {name} is pinned to ({pinned})"
                yield document.problem(("spec", "hosts", m), message, found=host)
        if len(capability.named) > 1:
            yield from _choosable(document, at, name, credential, seen)


def _choosable(
    document: Document, at: Path, name: str, credential: specs.CredentialSpec, seen: dict[str, str]
) -> Iterator[Problem]:
    """Whether what an agent presents names this credential and none of those `seen` before (placeholder → name)."""
    if not credential.shown:
        yield document.problem(at, f"expected a placeholder of credential {name}, which requests would choose it by")
        return
    value = specs.placeholder(name, credential.shown[0])
    if len(value) < choice.SHORTEST:
        yield document.problem(at, f"expected a placeholder of at least {choice.SHORTEST} characters, to choose by")
    for other, whose in seen.items():
        if value in other or other in value:
            yield document.problem(at, f"expected placeholders apart; those of credentials {whose} and {name} are not")
    seen[value] = name


def _policy(document: Document, policy: specs.PolicySpec) -> Iterator[Problem]:
    for flaw in rego.lint(policy.rego):
        path: Path = ("spec", "rego")
        inside = flaw.row and path not in document.blocks
        expected = f"line {flaw.row}: {flaw.expected}" if inside else flaw.expected
        yield document.problem(path, expected, nearest=flaw.nearest, row=flaw.row)


def _packages(policies: Mapping[str, Document]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, document in sorted(policies.items()):
        package = rego.package(document.spec.rego) if isinstance(document.spec, specs.PolicySpec) else None
        if package is not None and taken.setdefault(package, name) != name:
            message = f"expected a package of its own; {package} is policy {taken[package]}'s"
            yield document.problem(("spec", "rego"), message)
