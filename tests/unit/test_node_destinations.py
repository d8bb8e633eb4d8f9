"""Addresses back to names, and the door for each: what an agent asks for can neither take nor poison another's name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from remit.control.knowledge import Knowledge
from remit.core import flow
from remit.core.snapshot import Snapshot
from remit.core.task import State, Task
from remit.node.destinations import Destinations
from remit.node.dns import Quota
from remit.policy import compile as compiler
from remit.policy import manifests

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: r}
spec: {capabilities: [db, dbs, pinned, web, both, literal]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: db}
spec: {protocol: tcp, hosts: [db.example.com], ports: [5432]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: dbs}
spec: {protocol: tcp, hosts: ["*.dbs.example.com"], ports: [5432]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: pinned}
spec: {tls: passthrough, hosts: [pinned.example.com]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: web}
spec: {hosts: [web.example.com, both.example.com]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: both}
spec: {protocol: tcp, hosts: [both.example.com], ports: [443, 9000]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: literal}
spec: {protocol: tcp, hosts: ["203.0.113.9"], ports: [22]}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: other}
spec: {}
"""
RULES = compiler.rules(manifests.parse(MANIFESTS, "m"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def quota() -> Quota:
    return Quota()


@pytest.fixture
def found(quota: Quota) -> Destinations:
    knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
    made = Destinations(knowledge, quota)
    knowledge.on_change(made.update)
    tasks = {
        task.id: task
        for task in (
            Task(id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=1, created=NOW),
            Task(id="t-bbbbbbbbbb", role="other", state=State.RUNNING, cell=2, created=NOW),
        )
    }
    knowledge.replace(Snapshot(version="1", rules=RULES, tasks=tasks))
    return made


def at(name: str, family: int = 0) -> str:
    return flow.virtual(name)[family]


@pytest.mark.parametrize(
    ("name", "port", "door"),
    [
        ("db.example.com", 5432, b"tcp"),
        ("db.example.com", 443, b""),
        ("a.dbs.example.com", 5432, b"tcp"),
        ("pinned.example.com", 443, b"tls"),
        ("web.example.com", 443, b""),
        ("both.example.com", 443, b""),
        ("both.example.com", 9000, b"tcp"),
        ("unknown.example.com", 5432, b""),
    ],
)
def test_the_door_is_that_of_the_capabilities_that_cover_it(
    found: Destinations, quota: Quota, name: str, port: int, door: bytes
) -> None:
    for family in (0, 1):
        quota.admit(1, name)
        assert found.door(1, at(name, family), port) == door
        assert found.door(2, at(name, family), port) == b"", "another role"
        assert found.door(3, at(name, family), port) == b"", "no task"


def test_a_literal_address_has_a_door_of_its_own(found: Destinations) -> None:
    assert found.door(1, "203.0.113.9", 22) == b"tcp"
    assert found.door(1, "203.0.113.9", 23) == b""
    assert found.names(1, "203.0.113.9", 22) == ()


def test_a_stated_name_is_known_unasked_and_a_wildcards_only_when_asked(found: Destinations, quota: Quota) -> None:
    assert found.names(1, at("db.example.com"), 5432) == ("db.example.com",)
    assert found.names(1, at("a.dbs.example.com"), 5432) == ()
    quota.admit(2, "a.dbs.example.com")
    assert found.names(1, at("a.dbs.example.com"), 5432) == (), "another cell asked"
    quota.admit(1, "a.dbs.example.com")
    assert found.names(1, at("a.dbs.example.com"), 5432) == ("a.dbs.example.com",)
    quota.forget(1)
    assert found.names(1, at("a.dbs.example.com"), 5432) == ()


def colliding(name: str, suffix: str) -> str:
    """Another name with the same virtual IPv4 address, as an agent would look for it."""
    wanted = at(name)
    return next(other for n in range(10_000_000) if at(other := f"x{n}.{suffix}") == wanted)


def test_a_name_that_shares_the_address_of_a_governed_one_does_not_take_its_place(
    found: Destinations, quota: Quota
) -> None:
    quota.admit(1, colliding("db.example.com", "evil.example"))
    assert found.names(1, at("db.example.com"), 5432) == ("db.example.com",)
    assert found.door(1, at("db.example.com"), 5432) == b"tcp"


def test_two_allowed_names_with_one_address_are_told_apart_by_nobody(found: Destinations, quota: Quota) -> None:
    other = colliding("db.example.com", "dbs.example.com")
    quota.admit(1, other)
    assert found.names(1, at("db.example.com"), 5432) == ("db.example.com", other)
    assert found.names(1, at("db.example.com", 1), 5432) == ("db.example.com",), "IPv6 has room enough"


def test_what_nothing_covers_is_known_by_the_name_that_was_asked_for(found: Destinations, quota: Quota) -> None:
    quota.admit(1, "unknown.example.com")
    assert found.names(1, at("unknown.example.com"), 5432) == ("unknown.example.com",)
