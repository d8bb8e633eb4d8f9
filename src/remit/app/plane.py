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


def over(outside: Outside) -> Plane:
    clock, store, node, cells, issuer = outside.clock, outside.store, outside.node, outside.cells, outside.issuer
    recorder, catalog, ends = Recorder(node), Catalog(), Ends(clock)
    pending = Pending(outside.reserve, clock.now())
    reaching = Reaching(store=store, cells=cells, catalog=catalog, pending=pending)
    publisher = Publisher(store=store, node=node, issuer=issuer, clock=clock, pending=pending, reaching=reaching)
    watching = Watching(ring=outside.ring, tell=outside.tell)
    questions = Questions(store=store, recorder=recorder, clock=clock, ends=ends, tell=watching.tell)
    tasks = Lifecycle(
        store=store,
        publisher=publisher,
        recorder=recorder,
        issuer=issuer,
        catalog=catalog,
        clock=clock,
        pending=pending,
        trust_domain=outside.trust_domain,
        token_ttl_s=outside.token_ttl_s,
    )
    services = Services(
        approvals=Approvals(
            store=store,
            publisher=publisher,
            recorder=recorder,
            catalog=catalog,
            clock=clock,
            ends=ends,
            ring=watching.ring,
            cutting=Cutting(node=node, cells=cells),
        ),
        watching=watching,
        manifests=Manifests(store=store, publisher=publisher, recorder=recorder, clock=clock),
        secrets=Secrets(
            store=store,
            publisher=publisher,
            recorder=recorder,
            sealer=outside.sealer,
            catalog=catalog,
            clock=clock,
            node=node,
        ),
        expiring=Expiring(store=store, recorder=recorder, catalog=catalog, clock=clock, warn=outside.warn),
        tasks=tasks,
        delegates=Delegates(tasks=tasks, children=outside.children, recorder=recorder, clock=clock),
        revoking=Revoking(
            store=store,
            node=node,
            publisher=publisher,
            recorder=recorder,
            cells=cells,
            catalog=catalog,
            clock=clock,
            pending=pending,
        ),
        explaining=Explaining(
            publisher=publisher, audit=outside.audit, policies=outside.policies, node=node, clock=clock
        ),
        spending=Spending(node=node, recorder=recorder),
        status=Status(store=store, node=node, issuer=issuer, catalog=catalog, clock=clock, pending=pending),
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
    return Plane(services=services, publisher=publisher, questions=questions)
