"""Each port has a contract, which its adapters and its fake both pass."""

import inspect
import re
from pathlib import Path
from typing import Protocol

import pytest

from remit.control import (
    ports,
    ports_approvals,
    ports_audit,
    ports_control,
    ports_decisions,
    ports_delegates,
    ports_operators,
)

CONTRACTS = "\n".join(path.read_text() for path in (Path(__file__).parents[1] / "contract").glob("test_*.py"))
MODULES = (ports, ports_approvals, ports_audit, ports_control, ports_decisions, ports_delegates, ports_operators)
PORTS = {
    name: one
    for module in MODULES
    for name, one in inspect.getmembers(module, inspect.isclass)
    if Protocol in one.__bases__ and one.__module__ == module.__name__
}
REPOSITORIES = {
    str(inspect.signature(one.fget).return_annotation): attribute
    for attribute, one in inspect.getmembers(ports_control.Unit)
    if isinstance(one, property) and one.fget is not None
}
"""Ports that are had of a unit of the store, by what they are called there."""
HANDED_OUT = {"Unit": "Store", "Child": "Children"}
"""Ports that are had of another one, and tried with it."""


def tried(name: str) -> bool:
    """Whether a contract names it as the type of what it tries, or that of a narrower port."""
    narrower = [one.__name__ for one in PORTS.values() if PORTS[name] in one.__bases__]
    named = re.search(rf"(?:: |-> |Iterator\[|\.){name}\b", CONTRACTS)
    return named is not None or any(tried(one) for one in narrower)


@pytest.mark.parametrize("name", sorted(PORTS))
def test_a_port_has_a_contract(name: str) -> None:
    if name in REPOSITORIES:
        assert f"unit.{REPOSITORIES[name]}." in CONTRACTS
    else:
        assert tried(HANDED_OUT.get(name, name))
