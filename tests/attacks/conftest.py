"""Shared parts of tests against real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from boundary_harness import Boundary


@pytest.fixture(scope="module")
def running_boundary() -> Iterator[Boundary]:
    with Boundary() as running:
        yield running


@pytest.fixture
def boundary(running_boundary: Boundary) -> Boundary:
    """A real Envoy with its servers; what other tests of the module did is forgotten, the spool is not."""
    return running_boundary.fresh()
