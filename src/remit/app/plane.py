"""The control plane's use cases, put together over whatever stands for the world outside: which one needs which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from remit.api.services import Services
from remit.control.approvals import Approvals, Ring
from remit.control.audit_keys import AuditKeys
from remit.control.catalog import Catalog
from remit.control.cutting import Cutting
from remit.control.delegates import Delegates
from remit.control.ends import Ends
from remit.control.expiring import Expiring
from remit.control.explaining import Explaining
from remit.control.manifests import Manifests
from remit.control.operators import Operating
from remit.control.pending import Pending
from remit.control.ports import Clock
from remit.control.ports_approvals import Ending
from remit.control.ports_audit import Audit
from remit.control.ports_control import Cells, CurrentPolicies, Issuer, Node, Reserve, Sealer, Store
from remit.control.ports_decisions import Decisions
from remit.control.ports_delegates import Children
from remit.control.publish import Publisher
from remit.control.questions import Questions, Tell
from remit.control.reaching import Reaching
from remit.control.recording import Recorder
from remit.control.retiring import Bounds, Retiring
from remit.control.revocation import Revoking
from remit.control.secrets import Secrets
from remit.control.spending import Spending
from remit.control.status import Status
from remit.control.tasks import Lifecycle
from remit.control.watching import Watching


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """`ring` wakes held requests, `tell` and `warn` reach humans elsewhere."""

    clock: Clock
    store: Store
    node: Node
    cells: Cells
    children: Children
    issuer: Issuer
    sealer: Sealer
    policies: CurrentPolicies
    audit: Audit
    decisions: Decisions
    reserve: Reserve
    ring: Ring
    tell: Tell
    warn: Callable[[Ending], Awaitable[None]]
    trust_domain: str
    audit_bounds: Bounds
    token_ttl_s: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """`services` for the API, `publisher` and `questions` for the node."""

    services: Services
    publisher: Publisher
    questions: Questions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What nearly every use case stands on."""

    recorder: Recorder
    catalog: Catalog
    pending: Pending
    publisher: Publisher
    ends: Ends
    watching: Watching


def over(outside: Outside) -> Plane:
    ground = _ground(outside)
    return Plane(
        services=_services(outside, ground),
        publisher=ground.publisher,
        questions=Questions(
            store=outside.store,
            recorder=ground.recorder,
            clock=outside.clock,
            ends=ground.ends,
            tell=ground.watching.tell,
        ),
    )


def _ground(outside: Outside) -> _Ground:
    clock, store, node, catalog = outside.clock, outside.store, outside.node, Catalog()
    pending = Pending(outside.reserve, clock.now())
    reaching = Reaching(store=store, cells=outside.cells, catalog=catalog, pending=pending)
    return _Ground(
        recorder=Recorder(node),
        catalog=catalog,
        pending=pending,
        publisher=Publisher(
            store=store, node=node, issuer=outside.issuer, clock=clock, pending=pending, reaching=reaching
        ),
        ends=Ends(clock),
        watching=Watching(ring=outside.ring, tell=outside.tell),
    )


def _services(outside: Outside, ground: _Ground) -> Services:
    clock, store, node = outside.clock, outside.store, outside.node
    recorder, catalog, publisher = ground.recorder, ground.catalog, ground.publisher
    tasks = _tasks(outside, ground)
    return Services(
        approvals=_approvals(outside, ground),
        watching=ground.watching,
        manifests=Manifests(store=store, publisher=publisher, recorder=recorder, clock=clock),
        secrets=_secrets(outside, ground),
        expiring=Expiring(store=store, recorder=recorder, catalog=catalog, clock=clock, warn=outside.warn),
        tasks=tasks,
        delegates=Delegates(tasks=tasks, children=outside.children, recorder=recorder, clock=clock),
        revoking=_revoking(outside, ground),
        explaining=Explaining(
            publisher=publisher, audit=outside.audit, policies=outside.policies, node=node, clock=clock
        ),
        spending=Spending(node=node, recorder=recorder),
        status=Status(
            store=store, node=node, issuer=outside.issuer, catalog=catalog, clock=clock, pending=ground.pending
        ),
        operating=Operating(store=store, recorder=recorder, clock=clock),
        audit=outside.audit,
        decisions=outside.decisions,
        retiring=Retiring(
            audit=outside.audit, recorder=recorder, store=store, clock=clock, bounds=outside.audit_bounds
        ),
        audit_keys=AuditKeys(store=store, recorder=recorder, clock=clock),
        store=store,
        version=outside.version,
    )


def _tasks(outside: Outside, ground: _Ground) -> Lifecycle:
    return Lifecycle(
        store=outside.store,
        publisher=ground.publisher,
        recorder=ground.recorder,
        issuer=outside.issuer,
        catalog=ground.catalog,
        clock=outside.clock,
        pending=ground.pending,
        trust_domain=outside.trust_domain,
        token_ttl_s=outside.token_ttl_s,
    )


def _approvals(outside: Outside, ground: _Ground) -> Approvals:
    return Approvals(
        store=outside.store,
        publisher=ground.publisher,
        recorder=ground.recorder,
        catalog=ground.catalog,
        clock=outside.clock,
        ends=ground.ends,
        ring=ground.watching.ring,
        cutting=Cutting(node=outside.node, cells=outside.cells),
    )


def _secrets(outside: Outside, ground: _Ground) -> Secrets:
    return Secrets(
        store=outside.store,
        publisher=ground.publisher,
        recorder=ground.recorder,
        sealer=outside.sealer,
        catalog=ground.catalog,
        clock=outside.clock,
        node=outside.node,
    )


def _revoking(outside: Outside, ground: _Ground) -> Revoking:
    return Revoking(
        store=outside.store,
        node=outside.node,
        publisher=ground.publisher,
        recorder=ground.recorder,
        cells=outside.cells,
        catalog=ground.catalog,
        clock=outside.clock,
        pending=ground.pending,
    )
