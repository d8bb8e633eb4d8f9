"""Delegation: a task that another one started has a part of that one's authority, and none once it ends.

What a child may do is decided twice. Before it starts, `beyond` compares what was written: every capability of its role
must lie within one of its parent's. For every request, `lineage` and `covering` look again at everything above it as it
is now, so that a parent which was narrowed, revoked or has ended narrows its children with the next request: a request
passes only where each task above could have made it too, with the same credential and at least as many questions.
What a task is charged, all above it are charged (`core.bounds`). Where containment cannot be shown, it is denied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remit.core import names, paths
from remit.core.addresses import Network
from remit.core.capability import UNREAD, Approval, Capability
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Role, Snapshot
from remit.core.task import ALIVE, Task

MAX_DEPTH = 8
"""Tasks above one, whatever roles allow."""
_STRICTNESS = (Approval.NEVER, Approval.ASK, Approval.ALWAYS_ASK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """A task above another one, with its role now; `capability` is what lets it make the request itself."""

    task: Task
    role: Role
    capability: Capability | None = None


def lineage(snapshot: Snapshot, task: Task, role: Role) -> tuple[Above, ...] | Refusal:
    """What stands above `task`, its parent first; a refusal where one of them has no authority or may not delegate."""
    found: list[Above] = []
    below, parent = role, task.parent
    while parent is not None:
        if len(found) >= MAX_DEPTH:
            return Refusal(Reason.NOT_DELEGATED, f"more than {MAX_DEPTH} tasks stand above task {task.id}")
        one = snapshot.tasks.get(parent)
        if one is None or one.state not in ALIVE:
            state = "has ended" if one is None else f"is {one.state}"
            return Refusal(Reason.PARENT_ENDED, f"task {parent}, which stands above task {task.id}, {state}")
        above = snapshot.rules.roles.get(one.role)
        if above is None or above.invalid is not None or above.name in snapshot.revoked.roles:
            return Refusal(
                Reason.PARENT_ENDED, f"role {one.role} of task {parent}, above task {task.id}, is not in force"
            )
        found.append(Above(task=one, role=above))
        why = not_entrusted(above, below, len(found))
        if why is not None:
            return Refusal(Reason.NOT_DELEGATED, why)
        below, parent = above, one.parent
    return tuple(found)


def not_entrusted(parent: Role, child: Role, depth: int) -> str | None:
    """Why a task under `parent` may not have one under `child` below it, `depth` levels down; None where it may.

    `child` is the role directly below. Policies of the parent bind the child as well.
    """
    if child.name not in parent.delegates:
        return f"role {parent.name} does not delegate to role {child.name}"
    if depth > parent.max_depth:
        return f"role {parent.name} delegates {parent.max_depth} levels deep, this is level {depth}"
    missing = [name for name in parent.policies if name not in child.policies]
    if missing:
        return f"role {child.name} lacks policy {missing[0]}, which binds role {parent.name}"
    if parent.four_eyes and not child.four_eyes:
        return f"role {child.name} lacks four eyes, which role {parent.name} has"
    return None


def covering(
    snapshot: Snapshot, lineage: tuple[Above, ...], capability: Capability, request: Request
) -> tuple[Above, ...] | Refusal:
    """`lineage` with what lets each of them make `request` itself; a refusal where one could not."""
    found: list[Above] = []
    for one in lineage:
        wide = one.role.match(request, only=one.task.capabilities).capability
        why = "does not cover the request" if wide is None else _bound(wide, capability)
        if wide is not None and wide.name in snapshot.revoked.capabilities:
            why = f"has it by capability {wide.name}, which was revoked"
        if why is not None:
            return Refusal(Reason.NOT_DELEGATED, f"role {one.role.name} of task {one.task.id}, above this one, {why}")
        found.append(Above(task=one.task, role=one.role, capability=wide))
    return tuple(found)


def beyond(
    parent: Role, child: Role, *, held: frozenset[str] | None = None, given: frozenset[str] | None = None
) -> Refusal | None:
    """Why role `child` could do what role `parent` could not, as they are written; None where it could nothing.

    Of the parent's capabilities those count that it has itself (`held`), of the child's those that it is `given`; None:
    all. Capabilities that only share what they cover between several of the parent's count as wider.
    """
    why = not_entrusted(parent, child, 1)
    if why is not None:
        return Refusal(Reason.NOT_DELEGATED, why)
    asks = parent.ask_uncovered and held is None
    if child.ask_uncovered and given is None and not asks:
        return Refusal(Reason.NOT_DELEGATED, f"role {child.name} may ask for more, role {parent.name} may not")
    for capability in among(child.capabilities, given):
        refusals = [narrower(wide, capability) for wide in among(parent.capabilities, held)]
        if None not in refusals:
            near = "; ".join(refusal.detail for refusal in refusals[:4] if refusal is not None)
            detail = f"capability {capability.name} is not within role {parent.name}" + (f": {near}" if near else "")
            return Refusal(Reason.NOT_DELEGATED, detail)
    return None


def usable(role: Role, given: frozenset[str] | None) -> frozenset[str] | None:
    """The capabilities by which a task of `role` may make requests itself, of those it was `given`; None: all."""
    if role.own is None:
        return given
    return role.own if given is None else role.own & given


def among(capabilities: tuple[Capability, ...], names: frozenset[str] | None) -> tuple[Capability, ...]:
    """Those that `names` has; None: all."""
    return capabilities if names is None else tuple(one for one in capabilities if one.name in names)


def narrower(parent: Capability, child: Capability) -> Refusal | None:
    """Why `child` is not a part of `parent`, or None: then whatever `child` permits, `parent` permits."""
    why = _shape(parent, child) or _bound(parent, child)
    return Refusal(Reason.NOT_DELEGATED, f"{child.name} within {parent.name}: {why}") if why is not None else None


def chain(lineage: tuple[Above, ...]) -> Mapping[str, Any]:
    """For records: who stands above, the first of them first."""
    if not lineage:
        return {}
    return {"parent": lineage[0].task.id, "chain": [one.task.id for one in reversed(lineage)]}


def _shape(parent: Capability, child: Capability) -> str | None:
    """The dimensions that a request shows."""
    if parent.invalid is not None or child.invalid is not None:
        return "one of them is invalid"
    if parent.protocol is not child.protocol:
        return f"protocol {child.protocol}"
    for host in child.hosts:
        if not any(names.within(host, pattern) for pattern in parent.hosts):
            return f"host {host}"
    if not child.ports <= parent.ports:
        return f"port {min(child.ports - parent.ports)}"
    if child.protocol in UNREAD:
        return None
    if parent.methods and not (child.methods and child.methods <= parent.methods):
        return f"method {min(child.methods - parent.methods, default='any')}"
    for path in child.paths:
        if not any(paths.within(path, pattern) for pattern in parent.paths):
            return f"path {path}"
    if child.websocket and not parent.websocket:
        return "websocket"
    if not child.ambiguous <= parent.ambiguous:
        return f"ambiguity {min(child.ambiguous - parent.ambiguous)}"
    return None


def _bound(parent: Capability, child: Capability) -> str | None:
    """The dimensions that a request does not show: with what, after which question and where it goes.

    Another credential is wider in either direction: without one, a child could send its own.
    """
    if child.credentials != parent.credentials:
        return f"has it with {_named(parent.credentials)}, not with {_named(child.credentials)}"
    if _STRICTNESS.index(child.approval) < _STRICTNESS.index(parent.approval):
        return f"has it with approval {parent.approval}, not {child.approval}"
    for network in child.addresses:
        if not any(_inside(network, wide) for wide in parent.addresses):
            return f"does not reach addresses {network}"
    return None


def _named(credentials: tuple[str, ...]) -> str:
    return f"credential {' or '.join(credentials)}" if credentials else "no credential"


def _inside(network: Network, wide: Network) -> bool:
    return network.version == wide.version and network.network_address in wide and network.broadcast_address in wide
