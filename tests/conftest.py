"""Its being here puts this directory on the path, for the helpers that tests share.

Modules that share a fixture of processes run on one worker each: a whole Remit, an Envoy, a rig of cells started by every
worker anew costs more than it spares. What needs none is given out test by test, and last.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The suite decides what is accepted: it fails for the code, neither for a busy machine nor by the luck of a draw.
# To look for new counterexamples: pytest --hypothesis-profile=default tests/property
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Tests start processes beside gRPC servers of theirs: what gRPC would do in a child before it runs is of no use there.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

WITH_PROCESSES = frozenset({"attacks", "e2e", "faults", "integration"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest-xdist writes the groups into the names of tests."""
    here = Path(__file__).parent
    for item in items:
        directory = item.path.relative_to(here).parts[0]
        if directory in WITH_PROCESSES and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{directory}-{item.path.stem}"))
