"""Mistakes that show only between documents, and in Rego: what whoever applies manifests is told before they apply.

A role that names what does not exist would refuse everything, a credential pinned elsewhere would never be sent, two
credentials in one variable would hide each other: each is refused here, where a person can still mend it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from remit.core import names
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
    for field, kind, listed in (
        ("capabilities", "Capability", role.capabilities),
        ("policies", "Policy", role.policies),
        ("delegates", "Role", role.delegates),
    ):
        for n, name in enumerate(listed):
            yield from _named(document, ("spec", field, n), kind, name, known)
            if name in listed[:n]:
                yield document.problem(("spec", field, n), "expected each name once", found=f'"{name}"')
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


def _placeholder(capability: str, known: Known) -> Iterator[tuple[str, str]]:
    """(variable, credential) that a capability brings into a cell."""
    document = known["Capability"].get(capability)
    spec = document.spec if document is not None else None
    if not isinstance(spec, specs.CapabilitySpec) or spec.credential is None:
        return
    found = known["Credential"].get(spec.credential)
    credential = found.spec if found is not None else None
    if isinstance(credential, specs.CredentialSpec) and credential.placeholder is not None:
        yield credential.placeholder.env, spec.credential


def _capability(document: Document, capability: specs.CapabilitySpec, known: Known) -> Iterator[Problem]:
    if capability.credential is None:
        return
    yield from _named(document, ("spec", "credential"), "Credential", capability.credential, known)
    if capability.protocol == "http":
        yield document.problem(("spec", "protocol"), "expected https: a credential never travels in the clear")
    found = known["Credential"].get(capability.credential)
    credential = found.spec if found is not None else None
    if not isinstance(credential, specs.CredentialSpec):
        return
    for n, host in enumerate(capability.hosts):
        if not any(names.within(host, pattern) for pattern in credential.hosts):
            pinned = ", ".join(credential.hosts[:8])
            message = f"expected a host that credential {capability.credential} is pinned to ({pinned})"
            yield document.problem(("spec", "hosts", n), message, found=host)


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
