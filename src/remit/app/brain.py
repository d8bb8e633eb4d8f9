"""The decision service, put together: what it knows, what it decides with, what it tells the control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from remit.app import policies as engines
from remit.app.clock import SystemClock
from remit.audit import head, replay, retire
from remit.audit.journal import Journal
from remit.boundary import ca, leaf_ration, sds
from remit.broker import signing
from remit.broker.dialler import Dialler
from remit.broker.exchanger import Exchanger
from remit.broker.rekeying import Rekeying
from remit.broker.rotations import Rotations
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.control import deciding
from remit.control.deciding import Deciding
from remit.control.holding import Holding
from remit.control.knowledge import Knowledge
from remit.control.observing import Observer
from remit.control.openings import Openings
from remit.core import doorway, drill, ledger_log
from remit.core.snapshot import Snapshot
from remit.core.task import ALIVE
from remit.identity.verifier import Verifier
from remit.node import destinations, dns, link
from remit.node import resolver as resolving
from remit.node.asking import Asking
from remit.node.policy_worker import Worker
from remit.settings import Settings

if TYPE_CHECKING:
    from remit.broker.openbao.source import OpenBao
    from remit.node.opa import Opa


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """`lookups` is None where a resolver is configured, `store` where secrets are in no OpenBao."""

    clock: SystemClock
    knowledge: Knowledge
    journal: Journal
    openings: Openings
    upward: link.Link
    deciding: Deciding
    holding: Holding
    observer: Observer
    leaves: sds.Desk
    quota: dns.Quota
    meant: destinations.Destinations
    policies: Worker | Opa
    broker: Broker
    store: OpenBao | None
    lookups: resolving.System | None

    async def close(self) -> None:
        if self.lookups is not None:
            self.lookups.close()
        if self.store is not None:
            await self.store.close()
        await self.broker.close()
        await self.policies.close()
        self.journal.close()


def build(settings: Settings) -> Brain:
    """Everything but the sockets. It knows what the node knew last, and decides nothing until it has heard."""
    clock, knowledge = SystemClock(), Knowledge(lease_s=settings.node_lease_s, monotonic=monotonic)
    signer, journal = _log(settings, clock, lambda: made.budgets.checkpoint())
    openings = Openings(longest_s=settings.connection_max_s, monotonic=monotonic)
    upward = _upward(settings, knowledge, journal, openings)
    verifier = Verifier(trust_domain=settings.trust_domain, clock=clock, connection_max_s=settings.connection_max_s)
    policies = engines.engine(settings)
    lookups = None if settings.resolver else resolving.System()
    resolver = resolving.Resolver(lookups or resolving.Server(settings.resolver), _reserved(settings), monotonic)
    broker, store = _credentials(settings, clock, resolver, knowledge, upward)
    made = deciding.over(
        knowledge=knowledge,
        clock=clock,
        monotonic=monotonic,
        journal=journal,
        openings=openings,
        cut=upward.cut,
        verifier=verifier,
        policies=policies,
        resolver=resolver,
        secrets=broker,
        answer_max_s=settings.connection_max_s,
    )
    made.budgets.fold(replay.since_checkpoint(settings.audit_dir, ledger_log.MARKS))
    upward.keeps(made.budgets)
    upward.retires(partial(retire.plan, settings.audit_dir, signer, clock.now))
    upward.dials(resolver.fixed, resolver.own)
    knowledge.on_change(lambda snapshot: verifier.replace_keys(snapshot.keys))
    knowledge.on_change(broker.update)
    quota, leaves, meant = _names(settings, knowledge)
    known = link.cached(settings.decide_dir / "snapshot.json")
    if known is not None:
        knowledge.replace(known)
    return Brain(
        clock=clock,
        knowledge=knowledge,
        journal=journal,
        openings=openings,
        upward=upward,
        deciding=made,
        holding=_holding(settings, made, knowledge, journal, clock, upward),
        observer=Observer(
            knowledge=knowledge, journal=made.journal, openings=openings, budgets=made.budgets, secrets=broker
        ),
        leaves=leaves,
        quota=quota,
        meant=meant,
        policies=policies,
        broker=broker,
        store=store,
        lookups=lookups,
    )


def _log(
    settings: Settings, clock: SystemClock, checkpoint: Callable[[], Sequence[Mapping[str, Any]]]
) -> tuple[head.Signer, Journal]:
    signer = head.Signer(settings.decide_dir / "head.key")
    journal = Journal(
        settings.audit_dir,
        segment_bytes=settings.audit_segment_bytes,
        signer=signer,
        now=clock.now,
        checkpoint=checkpoint,
    )
    return signer, journal


def _upward(settings: Settings, knowledge: Knowledge, journal: Journal, openings: Openings) -> link.Link:
    return link.Link(
        socket=settings.node_socket,
        cache=settings.decide_dir / "snapshot.json",
        knowledge=knowledge,
        journal=journal,
        head=journal.head,
        using=openings.using,
    )


def _holding(
    settings: Settings, made: Deciding, knowledge: Knowledge, journal: Journal, clock: SystemClock, upward: link.Link
) -> Holding:
    """Requests that wait for humans, who are asked over the link."""
    asking = Asking()
    upward.asks(asking)
    holding = Holding(
        decider=made.decider, knowledge=knowledge, desk=asking, journal=journal, clock=clock, hold_s=settings.hold_s
    )
    asking.on_news(holding.ring)
    return holding


def _reserved(settings: Settings) -> Mapping[str, str]:
    """Names whose address the node knows, whatever DNS says."""
    return {drill.HOST: drill.ADDRESS, **settings.static_hosts, doorway.HOST: doorway.ADDRESS}


def _credentials(
    settings: Settings, clock: SystemClock, resolver: resolving.Resolver, knowledge: Knowledge, upward: link.Link
) -> tuple[Broker, OpenBao | None]:
    """Where secrets come from, those that are exchanged for others included; what the control plane may ask of them."""
    opener = Opener(settings.sealing_key)
    broker = Broker(opener, clock.elapsed)
    store = _store(settings, opener, broker, clock)
    rotations = Rotations(settings.decide_dir / "rotated", opener)
    own = (rotations,) if store is None else (rotations, store)
    broker.exchange_with(
        Exchanger(
            dial=Dialler(resolver, settings.node_trust_file),
            sign=store.sign if store is not None else signing.local,
            rotations=rotations,
            monotonic=clock.elapsed,
            now=clock.now,
        )
    )
    upward.probes(broker.probe)
    upward.rekeys(Rekeying(opener, lambda: knowledge.snapshot.sealed, own))
    return broker, store


def _store(settings: Settings, opener: Opener, broker: Broker, clock: SystemClock) -> OpenBao | None:
    if not settings.store_file.exists():
        return None
    from remit.broker.openbao.source import OpenBao

    store = OpenBao(
        file=settings.store_file,
        ledger=settings.decide_dir / "leases.jsonl",
        opener=opener,
        monotonic=clock.elapsed,
        renewed=broker.renewed,
    )
    broker.attach(store, own=settings.secrets == "openbao")
    return store


def _names(settings: Settings, knowledge: Knowledge) -> tuple[dns.Quota, sds.Desk, destinations.Destinations]:
    """Who asked for which names, the certificates for them, and what a virtual address may mean."""
    quota = dns.Quota()
    leaves = sds.Desk(ca.load(settings.ca_dir), leaf_ration.Ration(quota.askers))
    meant = destinations.Destinations(knowledge, quota)
    knowledge.on_change(
        lambda snapshot: leaves.govern(host for one in snapshot.rules.capabilities.values() for host in one.hosts)
    )
    knowledge.on_change(meant.update)
    knowledge.on_change(lambda snapshot: _forget_ended(quota, knowledge.snapshot, snapshot))
    return quota, leaves, meant


def _forget_ended(quota: dns.Quota, before: Snapshot, now: Snapshot) -> None:
    """A cell's number may be given to another task: that one begins with a quota of its own."""
    alive = {task.cell for task in now.tasks.values() if task.state in ALIVE}
    for task in before.tasks.values():
        if task.cell not in alive:
            quota.forget(task.cell)
