"""The decision service's process: what Envoy and the forwarder ask, and the audit log."""

from __future__ import annotations

import asyncio
import gc
import time
from functools import partial
from typing import TYPE_CHECKING

from remit.app import policies as engines
from remit.app.clock import SystemClock
from remit.audit import head, replay, retire
from remit.audit.journal import Journal
from remit.boundary import (
    ca,
    ca_renewal,
    check_server,
    completions,
    drill_ca,
    envoy,
    hold_server,
    leaf_ration,
    refuse,
    scrub_server,
    sds,
    sds_server,
    tunnel_check,
)
from remit.broker import signing
from remit.broker.dialler import Dialler
from remit.broker.exchanger import Exchanger
from remit.broker.rekeying import Rekeying
from remit.broker.rotations import Rotations
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.control.budgets import Budgets
from remit.control.decide import Decider
from remit.control.hearing import Answers
from remit.control.hidden import Hidden
from remit.control.holding import Holding
from remit.control.knowledge import Knowledge
from remit.control.observing import Observer
from remit.control.openings import Openings
from remit.control.rationing import Rationed
from remit.core import doorway, ledger_log
from remit.core.snapshot import Snapshot
from remit.core.task import ALIVE
from remit.identity.verifier import Verifier
from remit.node import destinations, dns, dns_server, link, privilege
from remit.node import resolver as resolving
from remit.node.asking import Asking
from remit.node.dns_ledger import Refused
from remit.node.notify import Notifier
from remit.settings import Settings

if TYPE_CHECKING:
    from remit.broker.openbao.source import OpenBao

GC_THRESHOLD = 50_000
"""A request makes a hundred containers and no cycles: at Python's default of 700 the collector runs all the time."""


async def serve(settings: Settings, notifier: Notifier) -> None:
    privilege.without_core()
    privilege.closed_to_equals()
    clock = SystemClock()
    knowledge = Knowledge(lease_s=settings.node_lease_s, monotonic=time.monotonic)
    signer = head.Signer(settings.decide_dir / "head.key")
    journal = Journal(
        settings.audit_dir,
        segment_bytes=settings.audit_segment_bytes,
        signer=signer,
        now=clock.now,
        checkpoint=lambda: budgets.checkpoint(),
    )
    openings = Openings(longest_s=settings.connection_max_s, monotonic=time.monotonic)
    knowledge.on_change(openings.update)
    upward = link.Link(
        socket=settings.node_socket,
        cache=settings.decide_dir / "snapshot.json",
        knowledge=knowledge,
        journal=journal,
        head=journal.head,
        using=openings.using,
    )
    budgets = Budgets(clock=clock, journal=journal, cut=upward.cut)
    budgets.fold(replay.since_checkpoint(settings.audit_dir, ledger_log.MARKS))
    upward.keeps(budgets)
    upward.retires(partial(retire.plan, settings.audit_dir, signer, clock.now))
    asking = Asking()
    upward.asks(asking)
    knowledge.on_change(budgets.update)
    verifier = Verifier(trust_domain=settings.trust_domain, clock=clock, connection_max_s=settings.connection_max_s)
    policies = engines.engine(settings)
    opener = Opener(settings.sealing_key)
    broker = Broker(opener, _boottime)
    upward.probes(broker.probe)
    store = _store(settings, opener, broker)
    source = resolving.Server(settings.resolver) if settings.resolver else resolving.System()
    reserved = {drill_ca.HOST: drill_ca.ADDRESS, **settings.static_hosts, doorway.HOST: doorway.ADDRESS}
    resolver = resolving.Resolver(source, reserved, time.monotonic)
    upward.dials(resolver.fixed, resolver.own)
    rotations = Rotations(settings.decide_dir / "rotated", opener)
    own = (rotations,) if store is None else (rotations, store)
    upward.rekeys(Rekeying(opener, lambda: knowledge.snapshot.sealed, own))
    broker.exchange_with(
        Exchanger(
            dial=Dialler(resolver, settings.node_trust_file),
            sign=store.sign if store is not None else signing.local,
            rotations=rotations,
            monotonic=_boottime,
            now=clock.now,
        )
    )
    quota = dns.Quota()
    leaves = sds.Desk(ca.load(settings.ca_dir), leaf_ration.Ration(quota.askers))
    knowledge.on_change(
        lambda snapshot: leaves.govern(host for one in snapshot.rules.capabilities.values() for host in one.hosts)
    )
    knowledge.on_change(lambda snapshot: verifier.replace_keys(snapshot.keys))
    knowledge.on_change(policies.update)
    knowledge.on_change(broker.update)
    meant = destinations.Destinations(knowledge, quota)
    knowledge.on_change(meant.update)
    knowledge.on_change(lambda snapshot: _forget_ended(quota, knowledge.snapshot, snapshot))
    known = link.cached(settings.decide_dir / "snapshot.json")
    if known is not None:
        knowledge.replace(known)
    rationed = Rationed(journal, time.monotonic)
    hidden = Hidden(answer_max_s=settings.connection_max_s, monotonic=time.monotonic)
    decider = Decider(
        knowledge=knowledge,
        verifier=verifier,
        policies=policies,
        resolver=resolver,
        secrets=broker,
        journal=rationed,
        openings=openings,
        budgets=budgets,
        answers=Answers(clock),
        hidden=hidden,
    )
    holding = Holding(
        decider=decider,
        knowledge=knowledge,
        desk=asking,
        journal=journal,
        clock=clock,
        hold_s=settings.hold_s,
    )
    asking.on_news(holding.ring)
    observer = Observer(knowledge=knowledge, journal=rationed, openings=openings, budgets=budgets, secrets=broker)

    async def name_refused(refused: Refused) -> None:
        await observer.name_refused(
            cell=refused.cell, name=refused.name, kind=refused.kind, reason=refused.reason, count=refused.count
        )

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ca_renewal.follow(settings.ca_dir, leaves.use))
            group.create_task(sds_server.serve_sds(settings.sds_socket, leaves, clock.now))
            group.create_task(
                check_server.serve_check(
                    settings.check_socket,
                    decider.check,
                    decider.refuse,
                    settings.check_pending_max,
                    met=openings.carried_by,
                )
            )
            group.create_task(
                hold_server.serve_hold(settings.hold_socket, holding.check, decider.refuse, met=openings.carried_by)
            )
            group.create_task(
                tunnel_check.serve_tunnel(
                    settings.tunnel_socket,
                    decider.check,
                    decider.refuse,
                    meant.names,
                    settings.check_pending_max,
                    openings.carried_by,
                )
            )
            group.create_task(refuse.serve_refuse(settings.refuse_socket))
            group.create_task(scrub_server.serve_scrub(settings.scrub_socket, hidden.answer))
            group.create_task(
                dns_server.serve_dns(
                    settings.dns_socket,
                    observer.knows,
                    name_refused,
                    quota=quota,
                    door=meant.door,
                    search=settings.search_domains,
                )
            )
            group.create_task(
                completions.follow(
                    settings.spool,
                    settings.decide_dir / "spool.mark",
                    observer.ended,
                    partial(envoy.reopen_logs, settings.envoy_admin),
                )
            )
            if store is not None:
                group.create_task(store.run())
            group.create_task(upward.run())
            group.create_task(budgets.watch())
            await knowledge.informed()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            group.create_task(notifier.run())
    finally:
        if isinstance(source, resolving.System):
            source.close()
        if store is not None:
            await store.close()
        await broker.close()
        await policies.close()
        journal.close()


def _boottime() -> float:
    """Seconds that go on while the machine sleeps: a lease does too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _store(settings: Settings, opener: Opener, broker: Broker) -> OpenBao | None:
    if not settings.store_file.exists():
        return None
    from remit.broker.openbao.source import OpenBao

    store = OpenBao(
        file=settings.store_file,
        ledger=settings.decide_dir / "leases.jsonl",
        opener=opener,
        monotonic=_boottime,
        renewed=broker.renewed,
    )
    broker.attach(store, own=settings.secrets == "openbao")
    return store


def _forget_ended(quota: dns.Quota, before: Snapshot, now: Snapshot) -> None:
    """A cell's number may be given to another task: that one begins with a quota of its own."""
    alive = {task.cell for task in now.tasks.values() if task.state in ALIVE}
    for task in before.tasks.values():
        if task.cell not in alive:
            quota.forget(task.cell)
