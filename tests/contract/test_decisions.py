"""What every place for uploaded decisions keeps to: the files and the one in memory."""

from pathlib import Path

import pytest

from remit.control.ports_decisions import Decisions
from remit.store.decisions import DecisionFiles
from remit.testing import MemoryDecisions


@pytest.fixture(params=["files", "memory"])
def decisions(request: pytest.FixtureRequest, tmp_path: Path) -> Decisions:
    return MemoryDecisions() if request.param == "memory" else DecisionFiles(tmp_path / "decisions")


def test_what_was_added_last_comes_last(decisions: Decisions) -> None:
    assert list(decisions.latest(5)) == []
    decisions.add([{"decision_id": "a"}, {"decision_id": "b"}])
    decisions.add([{"decision_id": "c\n", "input": {"x": [1, None]}}])
    assert list(decisions.latest(2)) == [{"decision_id": "b"}, {"decision_id": "c\n", "input": {"x": [1, None]}}]
    assert len(decisions.latest(9)) == 3
