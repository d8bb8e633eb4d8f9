"""Shared parts of tests against real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attacked import Attacker, Whole
from boundary_harness import Boundary


@pytest.fixture(scope="module")
def running_boundary() -> Iterator[Boundary]:
    with Boundary() as running:
        yield running


@pytest.fixture
def boundary(running_boundary: Boundary) -> Boundary:
    """A real Envoy with its servers; what other tests of the module did is forgotten, the spool is not."""
    return running_boundary.fresh()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One whole Remit for all attacks by real cells; they share the upstreams and two cells."""
    made = Whole(tmp_path_factory.mktemp("whole"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def cell(whole: Whole) -> Iterator[Attacker]:
    with whole.attacker("attacker") as made:
        yield made


@pytest.fixture(scope="session")
def neighbour(whole: Whole) -> Iterator[Attacker]:
    with whole.attacker("neighbour") as made:
        yield made
